"""The registry of variants: the files of this folder, and the variants that other packages register.

    variants.names()                 the names of all variants
    variants.get("beta")             the class of a variant; its `config_type` has the hyperparameters
    variants.build("beta", config, spec)    a new model of this variant for such data
    variants.save(model, folder)     write the weights as safetensors and the rest as JSON
    variants.load(folder)            read the model again, without pickle

A file `variants/NAME.py` without a leading underscore is a variant: it defines exactly one concrete subclass of
`Variant`. Another package adds a variant with an entry point in the group `vae.variants` that points at such a class.
`variants/README.md` shows how to write a variant.

Importing this package does not import torch, which takes a second. The classes of the contract are imported when one of
them is first used.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variants._values import KIND_OF, InputError, Likelihood

__all__ = [
    "KIND_OF", "Batch", "Config", "DataSpec", "InputError", "Likelihood", "Terms", "Variant", "build", "get", "load",
    "name_of", "names", "paper", "restore", "save",
]  # fmt: skip

if TYPE_CHECKING:
    from variants.base.contract import Batch, Config, DataSpec, Terms, Variant
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("variants.base.contract"), name)


_FOLDER = Path(__file__).parent
_GROUP = "vae.variants"


def _files() -> dict[str, Path]:
    return {p.stem: p for p in sorted(_FOLDER.glob("*.py")) if not p.stem.startswith("_")}


def _plugins() -> dict[str, EntryPoint]:
    plugins: dict[str, EntryPoint] = {}
    for point in entry_points(group=_GROUP):
        other = str(_files().get(point.name) or (plugins[point.name].value if point.name in plugins else ""))
        if other and other != point.value:
            raise InputError(f"variant {point.name!r} is defined twice: by {other} and by {point.value} ({_GROUP})")
        plugins[point.name] = point
    return plugins


def names() -> list[str]:
    """Return the names of all variants, sorted, without importing them."""
    return sorted({*_files(), *_plugins()})


def paper(name: str) -> str:
    """Return the citation of a variant. A file of this folder is read for it, and not imported.

    Raises:
        InputError: As `get` does.
    """
    with suppress(KeyError, SyntaxError, UnicodeError):  # no such file, or one of which `get` says what is wrong
        for node in ast.walk(ast.parse(_files()[name].read_text(encoding="utf-8"))):
            match node:
                case ast.Assign(targets=[ast.Name(id="paper")], value=ast.Constant(value=str(citation))):
                    return citation
    return get(name).paper


def get(name: str) -> type[Variant]:
    """Return the class of a variant.

    Raises:
        InputError: If the name is unknown, or its file cannot be imported or does not define exactly one concrete
            subclass of `Variant`.
    """
    files, plugins = _files(), _plugins()
    if name in files:
        where = str(files[name])
    elif name in plugins:
        where = plugins[name].value
    else:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"unknown variant {name!r}: {hint}the variants are {', '.join(names())}")
    try:
        classes = _defined_in(importlib.import_module(f"variants.{name}")) if name in files else [plugins[name].load()]
    except Exception as error:
        raise InputError(f"variant {name!r} cannot be loaded from {where}: {type(error).__name__}: {error}") from error
    if len(classes) != 1:
        raise InputError(f"{where} defines {len(classes)} variants; expected exactly one concrete subclass of Variant")
    return checked(classes[0], where)


def build(name: str, config: Config, spec: DataSpec) -> Variant:
    """Return a new, untrained variant. Raises `InputError` if it cannot be trained on such data."""
    variant = get(name)
    missing = variant.required_fields - spec.fields
    if missing:
        descriptions = {"y": "class labels", "mask": "sequences"}
        needed = " and ".join(descriptions[field] for field in sorted(missing))
        raise InputError(f"{name} needs {needed}; data set {spec.name} has none")
    return variant(config, spec)


def restore(name: str, settings: Mapping[str, Any]) -> tuple[str, Config]:
    """Return the name and the configuration of a variant from what was stored of them, also by an older version.

    `vae` had a setting `samples` before the importance-weighted bound became the variant `iwae`. `aae` accepted
    `warmup` and `free_bits`, which have no effect on it.
    """
    if name == "aae":
        settings = {**settings, "warmup": 0, "free_bits": 0.0}
    if name == "vae" and "samples" in settings:
        if settings["samples"] > 1:
            name = "iwae"
        else:
            settings = {key: value for key, value in settings.items() if key != "samples"}
    return name, get(name).config_type(**settings)


def _defined_in(module: Any) -> list[type[Variant]]:
    from variants.base.contract import Variant

    classes = (c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__)
    return [c for c in classes if issubclass(c, Variant)]


def checked(cls: Any, where: str) -> type[Variant]:
    """Return a class that is a complete variant. Raises `InputError` if it is none, which names `where` it is from."""
    from variants.base.contract import Variant

    if not (inspect.isclass(cls) and issubclass(cls, Variant)):
        raise InputError(f"{where} is {cls!r}; expected a subclass of variants.Variant")
    missing = sorted(cls.__abstractmethods__) + [n for n in ["paper"] if not hasattr(cls, n)]
    if missing:
        raise InputError(f"{where}: {cls.__name__} is incomplete: it does not define {', '.join(missing)}")
    return cls


def name_of(variant: Variant) -> str:
    """Return the name under which the class of a model is registered; "module:Class" if it is not."""
    cls = type(variant)
    if cls.__module__.startswith("variants."):
        return cls.__module__.removeprefix("variants.")
    return next((name for name in _plugins() if get(name) is cls), f"{cls.__module__}:{cls.__name__}")


def save(variant: Variant, folder: str | os.PathLike[str]) -> Path:
    """Write `model.safetensors` (weights) and `config.json` (variant, config and data spec). Return the folder.

    Raises `OSError` if the folder cannot be written to, or the disk is full.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in variant.state_dict().items()}
    (folder / "model.safetensors").write_bytes(to_bytes(weights))
    description = {
        "variant": name_of(variant),
        "config": dataclasses.asdict(variant.config),
        "spec": dataclasses.asdict(variant.spec),
    }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def load(folder: str | os.PathLike[str], cls: type[Variant] | None = None) -> Variant:
    """Return the model that `save` wrote, in evaluation mode on the CPU. A class that is not registered is given.

    Raises:
        InputError: If a file is missing or unreadable, or belongs to another variant.
    """
    from safetensors.torch import load_file

    from variants.base.contract import DataSpec

    folder = Path(folder)
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        spec = DataSpec.from_json(description["spec"])
        if cls is not None:
            variant = cls(cls.config_type(**description["config"]), spec)
        else:
            name, config = restore(description["variant"], description["config"])
            variant = get(name)(config, spec)
        variant.load_state_dict(load_file(folder / "model.safetensors"))
    except InputError:
        raise
    except Exception as error:  # JSON, safetensors and torch raise different kinds
        raise InputError(
            f"{folder} holds no model that can be loaded ({type(error).__name__}: {error}); "
            "expected the files config.json and model.safetensors that variants.save writes"
        ) from error
    return variant.eval()
