"""`python -m pipeline.reproduce`: trains variants as their papers do, and prints the published results beside ours."""

import difflib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from pipeline import cli
from pipeline.executor import Compute
from studies.anchors import ANCHORS, Anchor, Budget
from variants import InputError

if TYPE_CHECKING:
    from pipeline.progress import Display

Scores = Mapping[str, Sequence[float]]  # the scores of all seeds, by metric

ABOUT = """Train a variant in the setting of its paper, and print the published result, ours, the gap, and what differs.

Without a NAME, all anchors are listed. Everything is logged to MLflow under the data set of the anchor. If the command
is interrupted, the same command continues. Nothing is chosen on test data, which are scored once, at the end. With
--seeds, an anchor that compares several models also writes a picture of their scores with 95% intervals over seeds."""

EPILOG = """examples:
  python -m pipeline.reproduce                         lists the anchors
  python -m pipeline.reproduce vae-mnist               takes about ten minutes on two cores
  python -m pipeline.reproduce hvae-plain --seeds 3 --workers 3     trains three seeds at the same time
  python -m pipeline.reproduce sprites --seeds 5       writes reports/sprites.png with error bars over five seeds
  python -m pipeline.reproduce vae-mnist --budget paper
"""


def main(words: list[str]) -> int:
    parser = cli.parser("reproduce", ABOUT, "--seed", "--seeds", "--out", *cli.COMPUTE, epilog=EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="an anchor")
    parser.add_argument("--budget", choices=("cpu", "gpu", "paper"), default="cpu", help="how long to train (cpu)")
    arguments = parser.parse_args(words)
    if arguments.name is None:
        _print_list()
        return 0
    anchor = ANCHORS.get(arguments.name)
    if anchor is None:
        near = difflib.get_close_matches(arguments.name, ANCHORS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"unknown anchor {arguments.name!r}: {hint}expected one of {', '.join(ANCHORS)}")
    if arguments.budget not in anchor.budgets:
        raise InputError(f"{arguments.name} has no budget {arguments.budget}: expected {', '.join(anchor.budgets)}")
    seeds = range(arguments.seed, arguments.seed + (arguments.seeds or 1))
    return _run(arguments.name, anchor, arguments.budget, seeds, cli.compute(arguments), arguments.out)


def _print_list() -> None:
    for name, anchor in ANCHORS.items():
        trainings = [t for budget in anchor.budgets.values() for t in budget.trainings.values()]
        variants = " and ".join(sorted({t.variant for t in trainings}))
        costs = {"cpu": f"cpu ({anchor.cost} on two cores)"}
        budgets = ", ".join(costs.get(budget, f"{budget} (cost not measured)") for budget in anchor.budgets)
        published = ", ".join(f"{metric} {value:g}" for metric, value in anchor.published.items())
        print(f"{name}: {variants} on {Path(trainings[0].dataset).stem}; budgets {budgets}")
        print(f"    {anchor.about}\n    published: {published}\n    source: {anchor.source}\n")


def _run(
    name: str, anchor: Anchor, budget_name: str, seeds: Sequence[int], compute: Compute, out: Path
) -> int:  # fmt: skip
    from PIL import Image

    from pipeline import executor as executors
    from pipeline import machine
    from pipeline.progress import Display
    from pipeline.reproduce import picture
    from pipeline.reproduce.task import FOLDER, AnchorTask, check
    from pipeline.tracker import Tracker

    threads = machine.prepare(compute.threads, compute.workers)
    device = machine.device(compute.device)
    budget = anchor.budgets[budget_name]
    spec = check(budget.trainings.values())
    machine.writable(FOLDER)
    tracker = Tracker(spec.name)
    tracker.catch_up()
    tags = {**machine.environment(device, threads), "dataset": spec.name, "anchor": name, "budget": budget_name}
    tasks = {
        f"seed {seed}": AnchorTask(
            name=name, budget=budget_name, seed=seed, dataset=tracker.dataset, address=tracker.address, tags=tags
        )
        for seed in seeds
    }
    display = Display()
    with display.progress(name, len(tasks)) as progress, executors.open_executor(compute) as executor:
        ended = executors.run_with_progress(executor, tasks, progress)
    results = [ended[key].result_of(task.title) for key, task in tasks.items()]
    for problem in tracker.catch_up(patience=5):
        display.say(f"not yet in MLflow: {problem}; python -m pipeline.sync sends it")
    metrics = dict.fromkeys(metric for result in results for metric in result)
    scores = {metric: [result[metric] for result in results if metric in result] for metric in metrics}
    reached = _report(display, name, anchor, budget, seeds, scores)
    if anchor.pictured and len(seeds) > 1:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}.png"
        Image.fromarray(picture.compared(scores, list(budget.trainings), anchor.pictured)).save(path)
        display.say(f"the picture: {path.absolute()}")
    for task in tasks.values():
        shutil.rmtree(task.folder)
    return 0 if reached else 1


def _report(
    display: "Display", name: str, anchor: Anchor, budget: Budget, seeds: Sequence[int], scores: Scores
) -> bool:  # fmt: skip
    """Print the table. Returns whether every expectation is reached by the mean over seeds."""
    heading = f"mean and range of seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    models = {metric.split("/", 1)[0] for metric in scores if "/" in metric}
    by_model = len(budget.trainings) > 1 and models >= set(budget.trainings)
    display.say(f"{name}: {anchor.about}")
    display.show((_table_of_models if by_model else _table_of_metrics)(anchor, budget, scores, heading))
    display.say(f"published: {anchor.source}\ndiffers: {anchor.differs}")
    for metric in anchor.published.keys() - scores.keys() - {metric.split("/", 1)[-1] for metric in scores}:
        display.say(f"published, but not measured here: {metric} {anchor.published[metric]:g}")
    return all(_reached(budget, metric, scores[metric]) for metric in scores if metric in budget.expected)


def _reached(budget: Budget, metric: str, values: Sequence[float]) -> bool:
    sign, bound = budget.expected[metric]
    mean = statistics.fmean(values)
    return mean <= bound if sign == "<=" else mean >= bound


def _cell(values: Sequence[float]) -> str:
    spread = f" [{min(values):.4g}, {max(values):.4g}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


def _expectation(budget: Budget, metric: str, values: Sequence[float]) -> str:
    if metric not in budget.expected:
        return ""
    sign, bound = budget.expected[metric]
    return f"{sign} {bound:g} {'reached' if _reached(budget, metric, values) else 'SHORT'}"


def _table(headings: Sequence[str], title: str = "") -> Table:
    table = Table("", title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _table_of_metrics(anchor: Anchor, budget: Budget, scores: Scores, heading: str) -> Table:
    """Return a table with a row for each metric, and what is published and expected beside it."""
    table = _table(["published", "expected", f"ours ({heading})", "gap"])
    for metric, values in scores.items():
        published = anchor.published.get(metric, anchor.published.get(metric.split("/", 1)[-1]))
        gap = "" if published is None else f"{statistics.fmean(values) - published:+.3g}"
        cell = "" if published is None else f"{published:g}"
        table.add_row(metric, cell, _expectation(budget, metric, values), _cell(values), gap)
    return table


def _table_of_models(anchor: Anchor, budget: Budget, scores: Scores, heading: str) -> Table:
    """Return a table with a row for each metric and a column for each model; "—" where a metric is undefined."""
    models = list(budget.trainings)
    table = _table(["published", *models], heading)

    def cell(metric: str) -> str:
        if metric not in scores:
            return "—"
        return f"{_cell(scores[metric])} {_expectation(budget, metric, scores[metric])}".rstrip()

    for metric in dict.fromkeys(m.split("/", 1)[1] for m in scores if m.split("/", 1)[0] in models):
        of_models = {model: anchor.published.get(f"{model}/{metric}") for model in models}
        published = [f"{model} {value:g}" for model, value in of_models.items() if value is not None]
        if metric in anchor.published:
            published.append(f"{anchor.published[metric]:g}")
        table.add_row(metric, ", ".join(published), *(cell(f"{model}/{metric}") for model in models))
    table.add_section()
    for metric in (m for m in scores if m.split("/", 1)[0] not in models):
        table.add_row(metric, f"{anchor.published[metric]:g}" if metric in anchor.published else "", cell(metric))
    return table


if __name__ == "__main__":
    cli.run(main, "the same command continues where this one stopped")
