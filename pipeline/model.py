"""Load a trained model from a folder or from MLflow's model registry.

from pipeline import model
variant = model.load("models:/vae-digits@champion-elbo")
"""

import os

import variants
from variants import Variant


def load(source: str | os.PathLike[str]) -> Variant:
    """Return a trained variant in evaluation mode on the CPU. Nothing is unpickled.

    Args:
        source: A folder that `variants.save` wrote, or the `models:/` URI of a registered or logged model of MLflow.
            The store is `MLFLOW_TRACKING_URI`, or `mlflow.db` in the working directory if that is not set.

    Raises:
        InputError: If there is no such model, or it cannot be read.
    """
    if str(source).startswith("models:/"):
        from pipeline.tracker import model_files  # MLflow takes seconds to import

        source = model_files(str(source))
    return variants.load(source)
