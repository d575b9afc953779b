"""Mutation testing by sampling: how many small changes of the code does no test notice?

    uv run --with mutmut --with cosmic-ray python tests/mutation.py > mutants.jsonl      20 mutants of each group
    uv run --with mutmut --with cosmic-ray python tests/mutation.py trainer data --n 50  50 mutants of two groups

A mutant is a module in which one operator of mutmut or cosmic-ray was applied once, or one statement was removed. For
each group of modules, lines are drawn with a fixed seed, and a mutant of each line. The tests of the group then run
until one fails, from the fastest to the slowest, but without those that take more than `LIMIT` seconds, or fail without
a mutation. They run in a copy of the tree, and in forks of a process that has imported torch, MLflow and Optuna, so a
mutant costs seconds. Each line of the output is a JSON object: the mutant, its outcome (caught, survived or timeout),
the test that caught it, and the seconds that this took.
"""

import argparse
import ast
import difflib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from faults import copy_tree

LIMIT = 5.0  # seconds
GROUPS = {  # modules of the pipeline, and the files of the tests that are to catch their mutants
    "trainer": ("trainer steps", "trainer"),
    "training_run": ("training_run", "training_run"),
    "checkpoint": ("checkpoint", "training_run"),
    "final": ("final", "final compare"),
    "study": (
        "study/driver study/trial study/pruning study/sampler study/prior study/space study/store study/results",
        "pruning sampler study study_command study_record survival",
    ),
    "tracker": ("tracker/journal tracker/sender tracker/run tracker/__init__", "tracking survival"),
    "data": ("data/_load data/_raw data/_files data/_sequences data/_sequence_files", "data sequences series"),
    "compare": (
        "compare/statistics compare/analysis compare/criteria compare/request compare/searches compare/protocol "
        "compare/remarks compare/sentences compare/tables",
        "statistics verdicts report compare",
    ),
}
COSMIC_RAY = (
    "NumberReplacer", "ReplaceComparison", "ZeroIteration", "ReplaceBreak", "ReplaceContinue", "AddNot", "ReplaceTrue",
    "ReplaceFalse", "ReplaceAnd", "ReplaceOr", "ReplaceUnary", "Delete", "ExceptionReplacer",
)  # fmt: skip
SLOW_IMPORTS = (  # of functions, when they are called
    "sklearn.linear_model", "sklearn.neighbors", "matplotlib.pyplot", "optuna.importance", "optuna.storages",
    "mlflow.tracking.multimedia", "pyarrow.parquet", "safetensors.torch",
)  # fmt: skip
FORK = multiprocessing.get_context("fork")
NOT_MUTATED = ("import ", "from ", "__all__", "@")  # beginnings of lines

Mutant = dict[str, Any]
Candidate = tuple[str, Callable[[], str]]  # the name of an operator, and a function that returns the mutated module


def candidates(code: str) -> dict[int, list[Candidate]]:
    """Return for each line the operators that can be applied to it."""
    lines: dict[int, list[Candidate]] = {}
    for line, *candidate in (*_by_mutmut(code), *_by_cosmic_ray(code), *_by_removal(code)):
        lines.setdefault(line, []).append(tuple(candidate))
    return lines


def mutant(module: str, code: str, line: int, candidate: Candidate) -> Mutant | None:
    """Apply an operator. Return None if the result does not compile, warns, or is the same program."""
    operator, make = candidate
    with suppress(Exception), warnings.catch_warnings():  # some operators do not know newer syntax
        warnings.simplefilter("error")
        text = make()
        compile(text, "?", "exec")
        lines = list(difflib.unified_diff(code.splitlines(), text.splitlines(), n=0, lineterm=""))[3:]
        original, mutated = (" / ".join(s[1:].strip() for s in lines if s[0] == sign) for sign in "-+")
        if ast.dump(ast.parse(text)) != ast.dump(ast.parse(code)) and not original.startswith(NOT_MUTATED):
            return dict(module=module, line=line, operator=operator, original=original, mutated=mutated, text=text)
    return None


def sample(modules: list[str], n: int) -> list[Mutant]:
    """Draw `n` lines, and a mutant of each."""
    rng = random.Random(2026)
    codes = {module: Path(module).read_text(encoding="utf-8") for module in modules}
    operators = {(m, line): choices for m, code in codes.items() for line, choices in candidates(code).items()}
    mutants: list[Mutant] = []
    for module, line in rng.sample(sorted(operators), len(operators)):
        if len(mutants) == n:
            break
        choices = operators[module, line]
        valid = (m for c in rng.sample(choices, len(choices)) if (m := mutant(module, codes[module], line, c)))
        mutants.extend(islice(valid, 1))
    return mutants


def _by_mutmut(code: str) -> Iterator[tuple[int, str, Callable[[], str]]]:
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
                    limit = 1 if operator is operator_string else None  # its others change upper and lower case
                    changes.extend((node, operator.__name__, new) for new in islice(operator(node), limit))
            return True

    wrapper.module.visit(Visitor())
    for node, name, new in changes:
        if node in positions:
            replaced = partial(wrapper.module.deep_replace, node, new)
            yield positions[node].start.line, f"mutmut {name}", lambda replaced=replaced: replaced().code


def _by_cosmic_ray(code: str) -> Iterator[tuple[int, str, Callable[[], str]]]:
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    tree = get_ast(code)
    for name in plugins.operator_names():
        if name.split("/")[-1].startswith(COSMIC_RAY):
            operator = plugins.get_operator(name)()
            positions = [p for node in ast_nodes(tree) for p in operator.mutation_positions(node)]
            for i, ((line, _), _) in enumerate(positions):
                yield line, f"cosmic-ray {name}", partial(mutate_code, code, operator, i)


def _by_removal(code: str) -> Iterator[tuple[int, str, Callable[[], str]]]:
    """Replace calls, assignments to attributes and elements, and jumps by `pass`, which neither of the two does."""
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        if call or stored or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue):
            before, after = lines[: node.lineno - 1], lines[node.end_lineno :]
            yield node.lineno, "removal", partial("".join, [*before, " " * node.col_offset + "pass\n", *after])


class Recorder:
    """A plugin of pytest that orders and omits tests, and records the seconds and the failures."""

    def __init__(self, store: Path, seconds: dict[str, float], omitted: list[str]) -> None:
        self.store, self.known_seconds, self.omitted = store, seconds, omitted
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if i.nodeid not in self.omitted]
        items.sort(key=lambda i: self.known_seconds.get(i.nodeid, 0.0))

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        """Reuse an empty MLflow store, since it takes seconds to create one."""
        if fixturedef.argname != "_template":
            return None
        fixturedef.cached_result = (self.store, fixturedef.cache_key(request), None)
        return self.store

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def run_tests(tests: list[str], recorder: Recorder, timeout: float, folder: Path, *options: str) -> dict[str, Any]:
    """Run pytest in a fork of this process. Returns the outcome, and what was recorded."""
    receiver, sender = FORK.Pipe(duplex=False)
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={folder / 'temporary'}", *options, *tests]
    child = FORK.Process(target=_run_pytest, args=(words, recorder, folder / "log", sender))
    begin = time.monotonic()
    child.start()
    sender.close()
    result = receiver.recv() if receiver.poll(timeout) else {"outcome": "timeout", "seconds": {}, "failed": []}
    with suppress(ProcessLookupError):
        os.killpg(child.pid or 0, signal.SIGKILL)  # with all processes that its tests started
    child.join()
    return {**result, "wall": round(time.monotonic() - begin, 1)}


def _run_pytest(words: list[str], recorder: Recorder, log: Path, sender: Any) -> None:
    import pytest

    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = pytest.main([*words, "-W", "ignore::pytest.PytestAssertRewriteWarning"], plugins=[recorder])
    outcome = "caught" if code else "survived"
    sender.send({"outcome": outcome, "seconds": recorder.seconds, "failed": recorder.failed})


def warm_up(tree: Path, store: Path) -> None:
    """Create a store, import everything that the pipeline imports, and forget the modules of the tree themselves."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{store}").search_experiments()
    modules = [p.relative_to(tree).with_suffix("") for p in sorted(tree.glob("pipeline/**/*.py"))]
    for name in (*(".".join(m.parts) for m in modules if m.stem != "__main__"), *SLOW_IMPORTS):
        with suppress(ImportError):  # of optional packages
            importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tree)):
            del sys.modules[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), metavar="GROUP", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--n", type=int, default=20, help="number of mutants of each group")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if "VARIANTS_DATA" in os.environ:
        os.environ["VARIANTS_DATA"] = str(Path(os.environ["VARIANTS_DATA"]).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder, tree = Path(name), Path(name, "tree")
        copy_tree(tree)
        os.chdir(tree)
        sys.path[:1] = [str(tree), str(tree / "tests")]
        sys.dont_write_bytecode = True
        paths = {group: [f"pipeline/{m}.py" for m in GROUPS[group][0].split()] for group in arguments.groups}
        samples = {group: sample(modules, arguments.n) for group, modules in paths.items()}
        warm_up(tree, folder / "mlflow.db")
        for group, mutants in samples.items():
            test_group(group, mutants, folder)


def test_group(group: str, mutants: list[Mutant], folder: Path) -> None:
    """Run the tests of a group once without a mutation, and then for each mutant."""
    tests = [f"tests/test_{name}.py" for name in GROUPS[group][1].split()]
    store = folder / "mlflow.db"
    base = run_tests(tests, Recorder(store, {}, []), 1800, folder)
    seconds = base["seconds"]
    omitted = [t for t, s in seconds.items() if s > LIMIT or t in base["failed"]]
    timeout = max(30.0, 4 * sum(s for t, s in seconds.items() if t not in omitted))
    print(f"{group}: {len(seconds)} tests, of which are left out: {omitted}", file=sys.stderr, flush=True)
    for each in mutants:
        path = Path(each["module"])
        original = path.read_text(encoding="utf-8")
        path.write_text(each.pop("text"), encoding="utf-8")
        result = run_tests(tests, Recorder(store, seconds, omitted), timeout, folder, "-x")
        path.write_text(original, encoding="utf-8")
        about = {"outcome": result["outcome"], "test": "".join(result["failed"][:1]), "seconds": result["wall"]}
        print(json.dumps({"group": group, **each, **about}), flush=True)


if __name__ == "__main__":
    main()
