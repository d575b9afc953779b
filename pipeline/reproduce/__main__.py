"""`python -m pipeline.reproduce`: published figures, and ours beside them."""

import difflib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import cli
from pipeline.executor import Compute
from studies.anchors import ANCHORS, Anchor, Budget
from variants import InputError

ABOUT = """Train a variant in its paper's setting, and print the published figure, ours, the gap, and what differs.

Without a NAME it lists the anchors. Everything is logged to MLflow under the anchor's data set. A run that is cut off
goes on when the same command is given again. Nothing is chosen on test data, which are scored once, at the end."""

EPILOG = """examples:
  python -m pipeline.reproduce                         the list
  python -m pipeline.reproduce vae-mnist               some ten minutes on two cores
  python -m pipeline.reproduce hvae-plain --seeds 3 --workers 3     three seeds at a time
  python -m pipeline.reproduce vae-mnist --budget paper
"""


def main(words: list[str]) -> int:
    parser = cli.parser("reproduce", ABOUT, "--seed", "--seeds", *cli.COMPUTE, epilog=EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="an anchor")
    parser.add_argument("--budget", choices=("cpu", "gpu", "paper"), default="cpu", help="how long to train (cpu)")
    arguments = parser.parse_args(words)
    if arguments.name is None:
        _list()
        return 0
    anchor = ANCHORS.get(arguments.name)
    if anchor is None:
        near = difflib.get_close_matches(arguments.name, ANCHORS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"unknown anchor {arguments.name!r}: {hint}expected one of {', '.join(ANCHORS)}")
    if arguments.budget not in anchor.budgets:
        raise InputError(f"{arguments.name} has no budget {arguments.budget}: expected {', '.join(anchor.budgets)}")
    seeds = range(arguments.seed, arguments.seed + (arguments.seeds or 1))
    return _run(arguments.name, anchor, arguments.budget, seeds, cli.compute(arguments))


def _list() -> None:
    for name, anchor in ANCHORS.items():
        trainings = [t for budget in anchor.budgets.values() for t in budget.trainings.values()]
        used = " and ".join(sorted({t.variant for t in trainings}))
        costs = {"cpu": f"cpu ({anchor.cost} on two cores)"}
        forms = ", ".join(costs.get(form, f"{form} (cost not measured)") for form in anchor.budgets)
        published = ", ".join(f"{metric} {value:g}" for metric, value in anchor.published.items())
        print(f"{name}: {used} on {Path(trainings[0].dataset).stem}; budgets {forms}")
        print(f"    {anchor.about}\n    published: {published}\n    source: {anchor.source}\n")


def _run(name: str, anchor: Anchor, form: str, seeds: Sequence[int], compute: Compute) -> int:
    from pipeline import executor as executors
    from pipeline import machine
    from pipeline.executor import Ended
    from pipeline.reproduce import training
    from pipeline.reproduce.task import FOLDER, AnchorTask
    from pipeline.tracker import Tracker

    used = machine.prepare(compute.threads, compute.workers)
    device = machine.device(compute.device)
    budget = anchor.budgets[form]
    spec = training.check(budget.trainings.values())
    machine.writable(FOLDER)
    tracker = Tracker(spec.name)
    tracker.catch_up()
    tags = {**machine.environment(device, used), "dataset": spec.name, "anchor": name, "budget": form}
    console = Console()
    tasks = [
        AnchorTask(name=name, form=form, seed=seed, dataset=tracker.dataset, address=tracker.address, tags=tags)
        for seed in seeds
    ]
    left = list(tasks)
    results: dict[int, Mapping[str, float]] = {}
    with training.Bars(budget.trainings, seeds, console) as bars:

        def ended(end: Ended) -> None:
            if end.died:
                raise InputError(
                    f"seed {end.key} was given up after {executors.MAX_DEATHS} processes died at it: {end.died}"
                )
            results[int(str(end.key))] = end.result

        with executors.open_executor(compute) as executor:
            executors.run_all(executor, lambda: ((t := left.pop(0)).seed, t) if left else None, bars.show, ended)
    for problem in tracker.catch_up(patience=5):
        console.print(f"not yet in MLflow: {problem}; python -m pipeline.sync sends it", highlight=False)
    reached = _report(name, anchor, budget, seeds, [results[seed] for seed in seeds], console)
    for task in tasks:
        shutil.rmtree(task.folder)
    return 0 if reached else 1


def _report(
    name: str,
    anchor: Anchor,
    budget: Budget,
    seeds: Sequence[int],
    results: Sequence[Mapping[str, float]],
    console: Console,
) -> bool:
    """Print the table. True where every expectation was reached (by the mean over seeds)."""
    spread = f"mean and range of seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    console.print(f"[bold]{name}[/]: {anchor.about}", highlight=False)
    found = {
        metric: [r[metric] for r in results if metric in r] for metric in dict.fromkeys(m for r in results for m in r)
    }
    reached = {m: _reached(budget, m, values) for m, values in found.items() if m in budget.expected}
    if len(budget.trainings) > 1 and all(any(m.startswith(f"{key}/") for m in found) for key in budget.trainings):
        console.print(_columns(anchor, budget, found, reached, spread))
    else:
        console.print(_rows(anchor, budget, found, reached, spread))
    console.print(f"published: {anchor.source}\ndiffers: {anchor.differs}", highlight=False)
    for metric in anchor.published.keys() - {k for m in found for k in (m, m.split("/", 1)[-1])}:
        console.print(f"for orientation, published: {metric} {anchor.published[metric]:g}")
    return all(reached.values())


Values = Mapping[str, Sequence[float]]  # of a metric, by seed


def _reached(budget: Budget, metric: str, values: Sequence[float]) -> bool:
    sign, bound = budget.expected[metric]
    ours = statistics.fmean(values)
    return ours <= bound if sign == "<=" else ours >= bound


def _cell(values: Sequence[float]) -> str:
    wide = f" [{min(values):.4g}, {max(values):.4g}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{wide}"


def _expected(budget: Budget, metric: str, reached: Mapping[str, bool]) -> str:
    if metric not in budget.expected:
        return ""
    sign, bound = budget.expected[metric]
    return f"{sign} {bound:g} {'reached' if reached[metric] else 'SHORT'}"


def _rows(anchor: Anchor, budget: Budget, found: Values, reached: Mapping[str, bool], spread: str) -> Table:
    """A metric a row, beside what is published and expected."""
    table = Table()
    for heading in ("", "published", "expected", f"ours ({spread})", "gap"):
        table.add_column(heading, justify="left" if not heading else "right")
    for metric, values in found.items():
        published = anchor.published.get(metric, anchor.published.get(metric.split("/", 1)[-1]))
        gap = "" if published is None else f"{statistics.fmean(values) - published:+.3g}"
        known = "" if published is None else f"{published:g}"
        table.add_row(metric, known, _expected(budget, metric, reached), _cell(values), gap)
    return table


def _columns(anchor: Anchor, budget: Budget, found: Values, reached: Mapping[str, bool], spread: str) -> Table:
    """A metric a row, a training a column, and "—" where a metric is undefined."""
    models = list(budget.trainings)
    table = Table("", "published", *models, title=spread)
    for column in table.columns[1:]:
        column.justify = "right"
    shared = dict.fromkeys(m.split("/", 1)[1] for m in found if m.split("/", 1)[0] in models)
    for metric in shared:
        published = anchor.published.get(metric)
        cells = []
        for model in models:
            name = f"{model}/{metric}"
            cell = _cell(found[name]) if name in found else "—"
            cells.append(" ".join(filter(None, (cell, _expected(budget, name, reached)))))
        table.add_row(metric, "" if published is None else f"{published:g}", *cells)
    table.add_section()
    for metric in (m for m in found if m.split("/", 1)[0] not in models):
        words = " ".join(filter(None, (_cell(found[metric]), _expected(budget, metric, reached))))
        table.add_row(metric, "", words)
    return table


if __name__ == "__main__":
    cli.run(main, "the same command goes on where this one stopped")
