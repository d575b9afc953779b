"""Loads a trained model, from a folder or from MLflow's registry.

from pipeline import model
variant = model.load("models:/vae-digits@champion-elbo")
"""

import os

import variants
from variants import Variant


def load(source: str | os.PathLike[str]) -> Variant:
    """Load a trained variant in evaluation mode, on the CPU. No pickle is read.

    Args:
        source: A folder that `variants.save` wrote, or the URI of a registered or logged model of MLflow. The store is
            that of `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory.

    Raises:
        InputError: If there is no such model, or it cannot be read.
    """
    if str(source).startswith("models:/"):
        from pipeline.tracker import model_files  # MLflow takes seconds to import

        source = model_files(str(source))
    return variants.load(source)
