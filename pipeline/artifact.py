"""A trained model as files of safetensors and JSON, without pickle and without code:

model.safetensors, config.json                      the variant (see `variants.save`)
preprocessing.safetensors, preprocessing.json       what was done to the training data (see `pipeline.data`)
training_scores.json                                scores of training examples (see `pipeline.evaluate.step_anomaly`)
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

SCORES = "training_scores.json"
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


def save(
    variant: Variant, preprocessing: Preprocessing, folder: Path, training_scores: Mapping[str, Any] | None
) -> None:
    """Write a trained variant and its preprocessing into a folder, which is created if necessary.

    `training_scores` are written as JSON, unless they are None because they are not known.
    """
    variants.save(variant, folder)
    preprocessing.save(folder)
    if training_scores is not None:
        (folder / SCORES).write_text(json.dumps(training_scores) + "\n", encoding="utf-8")
    (folder / "MLmodel").write_text(_MLMODEL, encoding="utf-8")


def load(folder: Path) -> tuple[Variant, Preprocessing | None, Mapping[str, Any] | None]:
    """Read what `save` wrote.

    The preprocessing or the training scores are None if an older version of this program wrote the folder without them.

    Raises:
        InputError: If a file is missing or cannot be read.
    """
    variant, preprocessing = variants.load(folder), Preprocessing.load(folder)
    if not (folder / SCORES).exists():
        return variant, preprocessing, None
    try:
        return variant, preprocessing, json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / SCORES} cannot be read ({type(error).__name__}: {error})") from error


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
