"""Mutation testing by sampling: how many small changes of the code does no test notice?

    uv run --with mutmut --with cosmic-ray python tests/mutation.py > mutants.jsonl       20 mutants of each group
    uv run --with mutmut --with cosmic-ray python tests/mutation.py trainer data --n 50   50 mutants of two groups
    uv run --with mutmut --with cosmic-ray python tests/mutation.py --again mutants.jsonl only those that survived

A mutant is a module in which one operator of mutmut (which changes expressions) or cosmic-ray (which changes numbers,
comparisons and loops) was applied once, or from which one statement was removed. For each group of modules, lines are
drawn with a fixed seed, and one mutant of each line, so that a long line counts as much as a short one. The tests of
the group then run until one fails, from the fastest to the slowest. Tests that take more than `LIMIT` seconds, or that
fail without a mutation, are left out.

The working tree is not changed: mutants are written into a copy. All tests run in forks of one process that has already
imported torch, MLflow and Optuna, so a mutant costs seconds. Each line of the output is a JSON object with the
keys group, module, line, operator, original, mutated, outcome (caught, survived or timeout), test and seconds.
"""

import argparse
import ast
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 5.0  # seconds
GROUPS = {  # modules of the pipeline, and the files of the tests that are to catch their mutants
    "trainer": ("trainer", "trainer"),
    "training_run": ("training_run", "training_run tracking survival study"),
    "checkpoint": ("checkpoint", "training_run tracking reproduce"),
    "final": ("final", "final compare"),
    "study": (
        "study/driver study/trial study/halving study/space study/store study/results",
        "halving study survival compare",
    ),
    "tracker": ("tracker/journal tracker/sender tracker/run tracker/__init__", "tracking survival"),
    "data": ("data/__init__ data/_raw data/_files data/_sequences", "data sequences"),
    "compare": ("compare/statistics compare/analysis compare/protocol", "statistics compare"),
}
COSMIC_RAY = (
    "NumberReplacer", "ReplaceComparison", "ZeroIteration", "ReplaceBreak", "ReplaceContinue", "AddNot", "ReplaceTrue",
    "ReplaceFalse", "ReplaceAnd", "ReplaceOr", "ReplaceUnary", "Delete", "ExceptionReplacer",
)  # fmt: skip
SLOW_IMPORTS = (
    "sklearn.linear_model", "sklearn.neighbors", "scipy.stats", "matplotlib.pyplot", "optuna.importance", "PIL.Image",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.multimedia", "alembic.command", "optuna.storages",
    "pyarrow.parquet", "safetensors.torch",
)  # fmt: skip

Mutant = dict[str, Any]


# ---- mutants


def mutants(module: str, code: str) -> list[Mutant]:
    """Return all mutants of a module that compile without a warning and differ from it."""
    texts: dict[str, Mutant] = {}
    for line, operator, text in (*_by_mutmut(code), *_by_cosmic_ray(code), *_by_removal(code)):
        if text not in texts and _compiles(text) and ast.dump(ast.parse(text)) != ast.dump(ast.parse(code)):
            original, mutated = _difference(code, text)
            if not original.startswith(("import ", "from ", "__all__", "@")):
                about = {"module": module, "line": line, "operator": operator}
                texts[text] = {**about, "original": original, "mutated": mutated, "text": text}
    return list(texts.values())


def _compiles(text: str) -> bool:
    """Return whether a text compiles without a warning, which the tests would treat as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile(text, "?", "exec")
        except (SyntaxError, SyntaxWarning, ValueError):
            return False
    return True


def _difference(a: str, b: str) -> tuple[str, str]:
    """Return the lines in which two texts differ."""
    x, y = a.splitlines(), b.splitlines()
    shorter = min(len(x), len(y))
    first = next((i for i in range(shorter) if x[i] != y[i]), shorter)
    last = next((i for i in range(shorter - first) if x[-1 - i] != y[-1 - i]), shorter - first)
    p, q = (" / ".join(s.strip() for s in lines[first : len(lines) - last]) for lines in (x, y))
    return p, q


def _by_mutmut(code: str) -> Iterator[tuple[int, str, str]]:
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators, operator_string

    wrapper = MetadataWrapper(cst.parse_module(code))
    positions = wrapper.resolve(PositionProvider)
    changes: list[tuple[Any, str, Any]] = []

    class Visitor(cst.CSTVisitor):
        def on_visit(self, node: Any) -> bool:
            if isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Decorator):
                return False
            for kind, operator in mutation_operators:
                if isinstance(node, kind):
                    changed = list(operator(node))
                    if operator is operator_string:
                        changed = changed[:1]  # the others change upper and lower case
                    changes.extend((node, operator.__name__.removeprefix("operator_"), new) for new in changed)
            return True

    wrapper.module.visit(Visitor())
    for node, name, new in changes:
        if node in positions:
            yield positions[node].start.line, f"mutmut {name}", wrapper.module.deep_replace(node, new).code


def _by_cosmic_ray(code: str) -> Iterator[tuple[int, str, str]]:
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    tree = get_ast(code)
    for name in plugins.operator_names():
        short = name.split("/")[-1]
        if not short.startswith(COSMIC_RAY):
            continue
        operator = plugins.get_operator(name)()
        positions = [p for node in ast_nodes(tree) for p in operator.mutation_positions(node)]
        for i, ((line, _), _) in enumerate(positions):
            with suppress(Exception):  # some operators do not know newer syntax
                if text := mutate_code(code, operator, i):
                    yield line, f"cosmic-ray {short}", text


def _by_removal(code: str) -> Iterator[tuple[int, str, str]]:
    """Replace calls, assignments to attributes and elements, and jumps by `pass`, which neither of the two does."""
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        if call or stored or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            if not lines[first][: node.col_offset].strip():
                filler = [" " * node.col_offset + "pass\n", *["\n"] * (last - first - 1)]
                yield node.lineno, "removal", "".join([*lines[:first], *filler, *lines[last:]])


def sample(pool: list[Mutant], n: int, seed: int) -> list[Mutant]:
    """Draw `n` lines, and a mutant of each."""
    rng = random.Random(seed)
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in pool:
        lines.setdefault((mutant["module"], mutant["line"]), []).append(mutant)
    keys = sorted(lines)
    rng.shuffle(keys)
    return [rng.choice(lines[k]) for k in keys[:n]]


# ---- runs of the tests


class Recorder:
    """A plugin of pytest that orders and omits tests, and records the seconds and the failures."""

    def __init__(self, seconds: dict[str, float], omitted: list[str], store: Path) -> None:
        self.known_seconds, self.omitted, self.store, self.template = seconds, omitted, store, None
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if i.nodeid not in self.omitted]
        items.sort(key=lambda i: self.known_seconds.get(i.nodeid, 0.0))

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        """Reuse the empty MLflow store of the first run, since it takes seconds to create one."""
        if fixturedef.argname == "_template":
            if self.store.exists():
                fixturedef.cached_result = (self.store, fixturedef.cache_key(request), None)
                return self.store
            self.template = fixturedef
        return None

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if self.template and self.template.cached_result and not self.store.exists():
            shutil.copy(self.template.cached_result[0], self.store)
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid} (import)")


def run_tests(tests: list[str], recorder: Recorder, timeout: float, scratch: Path, *options: str) -> dict[str, Any]:
    """Run pytest in a fork of this process. Returns its exit code (None after `timeout` seconds) and the records."""
    import pytest

    shutil.rmtree(scratch, ignore_errors=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(scratch.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        quiet = ["-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        try:
            code = int(pytest.main([*quiet, f"--basetemp={scratch}", *options, *tests], plugins=[recorder]))
            result = {"code": code, "seconds": recorder.seconds, "failed": recorder.failed}
        except BaseException as error:
            result = {"code": 1, "seconds": {}, "failed": [repr(error)]}
        os.write(write, json.dumps(result).encode())
        os._exit(0)
    os.close(write)
    begin, received = time.monotonic(), b""
    while select.select([read], [], [], max(0.0, begin + timeout - time.monotonic()))[0]:
        if not (part := os.read(read, 1 << 16)):
            break
        received += part
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with all processes that its tests started
    os.waitpid(child, 0)
    os.close(read)
    result = json.loads(received) if received else {"code": None, "seconds": {}, "failed": []}
    return {**result, "wall": round(time.monotonic() - begin, 1)}


def import_slow_packages(tree: Path) -> None:
    """Import everything that the pipeline imports, and then forget the modules of the tree, which are mutated."""
    for path in sorted(tree.glob("pipeline/**/*.py")):
        if path.name != "__main__.py":
            with suppress(ImportError):
                importlib.import_module(".".join(path.relative_to(tree).with_suffix("").parts))
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tree)):
            del sys.modules[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--n", type=int, default=20, help="number of mutants of each group")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--again", type=Path, help="run only the mutants that survived in this earlier output")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.again.open()] if arguments.again else []
    survivors = {(r["module"], r["line"], r["mutated"]) for r in rows if r["outcome"] == "survived"}
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if "VARIANTS_DATA" in os.environ:
        os.environ["VARIANTS_DATA"] = str(Path(os.environ["VARIANTS_DATA"]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        scratch, tree = Path(folder, "scratch"), Path(folder, "tree")
        for part in ("variants", "studies", "pipeline", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        os.chdir(tree)
        sys.path[:1] = [str(tree), str(tree / "tests")]
        sys.dont_write_bytecode = True
        chosen = {}
        for group in arguments.groups:
            paths = [f"pipeline/{module}.py" for module in GROUPS[group][0].split()]
            pool = [m for path in paths for m in mutants(path, Path(path).read_text(encoding="utf-8"))]
            again = [m for m in pool if (m["module"], m["line"], m["mutated"]) in survivors]
            chosen[group] = again if arguments.again else sample(pool, arguments.n, arguments.seed)
        import_slow_packages(tree)
        for group, samples in chosen.items():
            test_group(group, samples, scratch)


def test_group(group: str, samples: list[Mutant], scratch: Path) -> None:
    """Run the tests of a group once without a mutation, and then for each mutant."""
    tests = [f"tests/test_{name}.py" for name in GROUPS[group][1].split()]
    store = scratch.with_name("mlflow.db")
    base = run_tests(tests, Recorder({}, [], store), 1800, scratch)
    seconds = base["seconds"]
    omitted = [t for t, s in seconds.items() if s > LIMIT or t in base["failed"]]
    timeout = max(30.0, 4 * sum(s for t, s in seconds.items() if t not in omitted))
    print(f"{group}: {len(samples)} mutants, {len(seconds)} tests, without {', '.join(omitted) or 'any'}; "
          f"failing: {base['failed']}", file=sys.stderr, flush=True)  # fmt: skip
    stamp = int(time.time()) - 10_000_000
    for mutant in samples:
        path = Path(mutant["module"])
        original = path.read_text(encoding="utf-8")
        path.write_text(mutant.pop("text"), encoding="utf-8")
        stamp += 10  # each text has its own time, so that no file of bytecode fits another text
        os.utime(path, (stamp, stamp))
        result = run_tests(tests, Recorder(seconds, omitted, store), timeout, scratch, "-x")
        path.write_text(original, encoding="utf-8")
        outcome = {None: "timeout", 0: "survived"}.get(result["code"], "caught")
        test = next(iter(result["failed"]), "")
        row = {"group": group, **mutant, "outcome": outcome, "test": test, "seconds": result["wall"]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
