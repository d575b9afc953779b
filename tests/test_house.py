"""The design, enforced: which folder may import which, and what stands at the top."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = ("variants", "studies", "pipeline")


def imports(path: Path) -> set[str]:
    """Modules that a file imports, dotted; names imported from a package of ours count as its modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_a_variant_imports_torch_and_the_machinery_alone() -> None:
    allowed = {"torch", "variants", "math", "dataclasses", "collections", "abc", "typing"}
    for path in files("variants"):
        if path.stem == "__init__":
            continue
        assert tops(path) <= allowed | {"__future__", "itertools"}, path
        others = {n for n in imports(path) if n.startswith("variants.") and not n.startswith("variants.base")}
        assert not others, f"{path} imports another variant: {others}"


def test_imports_point_down() -> None:
    for path in files("variants"):
        registry = {"mlflow"} if path.name == "__init__.py" else set()  # which loads models from MLflow's as well
        assert not tops(path) & {"studies", "pipeline", "mlflow", "optuna"} - registry, path
    for path in files("studies"):
        assert not tops(path) & {"pipeline", "mlflow", "optuna", "torch"}, path


def test_the_pipeline_knows_no_variant_by_name() -> None:
    names = {f"variants.{p.stem}" for p in files("variants") if not p.stem.startswith("_")}
    for path in files("pipeline"):
        if path.name != "speed.py":  # it times one fixed network
            assert not imports(path) & names, path


def test_optuna_and_mlflow_each_have_one_door() -> None:
    for path in files("pipeline"):
        inside = path.relative_to(ROOT / "pipeline").parts[0]
        assert inside == "study" or "optuna" not in tops(path), path
        assert inside in ("tracker", "ui.py") or "mlflow" not in tops(path), path


def test_nothing_at_the_top_but_the_house() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {name.split("/")[0] for name in listed if name}
    folders = {t for t in top if (ROOT / t).is_dir() and not t.startswith(".")}
    assert folders <= {*HOUSE, "tests", "mlruns"}
    assert not {t for t in top if t.endswith(".lock")}
