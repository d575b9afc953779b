"""A trained model as files of safetensors and JSON, without pickle and without code:

model.safetensors, config.json                      the variant (see `variants.save`)
preprocessing.safetensors, preprocessing.json       what was done to the training data (see `pipeline.data`)
MLmodel                                             what MLflow needs to load and serve it with `pipeline.model`
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import variants
from pipeline.data import Preprocessing
from variants import InputError, Variant

METHODS = ("encode", "reconstruct", "score", "anomaly", "impute")  # of a model that MLflow serves
_PARAMS = [{"name": "method", "type": "string", "default": METHODS[0], "shape": None}]
_MLMODEL = f"""flavors:
  python_function:
    loader_module: pipeline.model
    python_version: {platform.python_version()}
signature:
  inputs: null
  outputs: null
  params: '{json.dumps(_PARAMS)}'
"""


def save(variant: Variant, preprocessing: Preprocessing, folder: Path) -> None:
    """Write a trained variant and its preprocessing into a folder, which is created if necessary."""
    variants.save(variant, folder)
    preprocessing.save(folder)
    (folder / "MLmodel").write_text(_MLMODEL, encoding="utf-8")


def load(folder: Path) -> tuple[Variant, Preprocessing | None]:
    """Read what `save` wrote. The preprocessing is None if an older version of this program wrote the folder.

    Raises:
        InputError: If a file is missing or cannot be read.
    """
    return variants.load(folder), Preprocessing.load(folder)


class ServedModel:
    """A saved model as MLflow calls it: `predict(rows, params={"method": "encode"})`."""

    def __init__(self, model: Any) -> None:
        self.model = model  # a `pipeline.model.Model`

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return the codes of rows, or what another of `METHODS` computes."""
        method = (params or {}).get("method", METHODS[0])
        if method not in METHODS:
            raise InputError(f"method={method!r}: expected one of {', '.join(METHODS)}")
        return getattr(self.model, {"encode": "transform", "score": "score_samples"}.get(method, method))(model_input)
