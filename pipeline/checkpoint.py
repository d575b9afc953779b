"""Saves the state of a training in a file: tensors and a JSON object, without pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import machine
from variants import InputError


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replace a checkpoint. If the process dies meanwhile, the file is either the old one or the new one, and whole.

    Raises `InputError` if the folder cannot be written to, and `OSError` if the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    machine.writable(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        save_file(dict(tensors), part, metadata={"about": json.dumps(about)})
    except SafetensorError as error:
        part.unlink(missing_ok=True)
        raise OSError(f"the checkpoint {path} cannot be written ({error})") from error
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what was saved, or None if there is no such file. Raises `InputError` if the file is damaged."""
    from safetensors import safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["about"])  # noqa: SIM118
    except Exception as error:  # safetensors raises errors of several unrelated classes
        raise InputError(f"the checkpoint {path} is damaged ({error}); delete it to start afresh") from error
