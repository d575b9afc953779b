"""The structure of the project: which module may import which, and other rules that can be read from the source."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = ("variants", "studies", "pipeline")

# Modules and packages of `pipeline`, from the lowest layer to the highest. A module imports only from its own layer and
# from lower ones.
LAYERS = (
    ("machine", "metrics", "notify", "pages", "progress", "checkpoint"),
    ("data",),
    ("steps", "artifact"),
    ("trainer",),
    ("evaluate",),
    ("tracker", "executor"),
    ("cli",),
    ("training_run", "rehearsal"),
    ("final", "fitting", "new_rows", "model"),
    ("study", "reproduce"),
    ("compare", "benchmark"),
    ("schedule",),
    ("__main__", "apply", "findings", "output", "speed", "sync", "ui"),  # the commands
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def nodes(parent: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a syntax tree, except those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(parent):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from nodes(node)


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports; a name that is imported from a module counts as `module.name`."""
    names: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(path)}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in (p for folder in HOUSE for p in files(folder)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield path, node


def unit(name: str) -> str:
    """The entry of `LAYERS` that a dotted name such as `pipeline.evaluate.probe` belongs to; "" for `pipeline`."""
    parts = name.split(".")
    return "__main__" if "__main__" in parts else (parts[1] if len(parts) > 1 else "")


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_a_variant_imports_only_torch_the_standard_library_and_the_base() -> None:
    for path in (p for p in files("variants") if p.parent.name == "base" or p.name != "__init__.py"):
        assert packages(path) <= sys.stdlib_module_names | {"torch", "variants"}, path
        allowed = ("variants.base", "variants._values")
        others = {n for n in imports(path) if n.startswith("variants") and not n.startswith(allowed)}
        if path.parent.name == "check":  # the conformance suite also reads the registry
            others = {n for n in others if n != "variants" and not n.startswith("variants.check")}
        assert not others, f"{path} imports {others}"


def test_imports_between_the_packages_point_down() -> None:
    for path in files("variants"):
        assert not packages(path) & {"studies", "pipeline", "mlflow", "optuna"}, path
    for path in files("studies"):
        assert not packages(path) & {"pipeline", "mlflow", "optuna", "torch"}, path


def test_imports_within_the_pipeline_point_down() -> None:
    for path in files("pipeline"):
        layer = unit(dotted(path))
        if not layer:
            continue
        assert layer in LAYER, f"{path}: add {layer!r} to LAYERS"
        for name in imports(path):
            if name.startswith("pipeline.") and (target := unit(name)) in LAYER:
                assert LAYER[target] <= LAYER[layer], f"{path} imports {name} from a higher layer"


def test_the_reports_of_benchmarks_train_nothing() -> None:
    modules = {dotted(p): p for p in files("pipeline")}
    reached, waiting = set(), ["pipeline.benchmark.report"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        for name in imports(modules[module]):
            waiting += {m for m in (name, name.rpartition(".")[0]) if m in modules} - reached
    assert not reached & {"pipeline.trainer", "pipeline.training_run", "pipeline.executor"}


def test_the_pipeline_imports_no_variant_by_name() -> None:
    names = {f"variants.{p.stem}" for p in (ROOT / "variants").glob("*.py") if not p.stem.startswith("_")}
    for path in files("pipeline"):
        assert not {n for n in imports(path) if ".".join(n.split(".")[:2]) in names}, path


def test_only_the_study_imports_optuna_and_only_the_tracker_imports_mlflow() -> None:
    for path in files("pipeline"):
        part = path.relative_to(ROOT / "pipeline").parts[0]
        assert part == "study" or "optuna" not in packages(path), path
        assert part in ("tracker", "ui.py") or "mlflow" not in packages(path), path


def test_every_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path, node in classes():
        places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_dataclasses_with_more_than_four_fields_are_keyword_only() -> None:
    for path, node in classes():
        decorators = [d for d in map(ast.unparse, node.decorator_list) if d.startswith("dataclass")]
        types = [ast.unparse(f.annotation) for f in node.body if isinstance(f, ast.AnnAssign)]
        positional = [t for t in takewhile(lambda t: t != "KW_ONLY", types) if "ClassVar" not in t]
        if decorators and len(positional) > 4:
            assert "kw_only=True" in decorators[0], f"{path}: {node.name} has {len(positional)} fields"


def test_packages_are_typed() -> None:
    assert all((ROOT / folder / "py.typed").exists() for folder in HOUSE)


def test_the_top_level_has_only_the_folders_of_the_design() -> None:
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    top = {name.split("/")[0] for name in listed if name}
    folders = {t for t in top if (ROOT / t).is_dir() and not t.startswith(".")}
    assert folders <= {*HOUSE, "tests", "mlruns"}
    assert not {t for t in top if t.endswith(".lock")}
