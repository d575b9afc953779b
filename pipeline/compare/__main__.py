"""`python -m pipeline.compare`: compare variants on a data set, and write a report."""

import argparse
import math
import shlex
from dataclasses import replace

from pipeline import cli

ABOUT = """Compare all variants on one data set, and write a report.

The configuration of each variant is chosen on validation data among the trials of its study, trained again on fresh
seeds, and scored once on the test split. This compares the chosen configurations on one split of the data. To compare
the variants themselves, add --repeats 5: the split, the searches and the finals are repeated from the start, and the
differences between repetitions give intervals and probabilities. --run first searches each variant, until its trials
have spent the budget. It is the same for each variant: 1000 epochs, or what --budget says. With --trials alone, each
variant has as many trials, and the report says what they spent. After the default settings, a new search tries the
best settings of the other variants whose searches have ended. Trainings that exist are used again, so a comparison
that was interrupted, or that gets more repetitions, continues with the same command. The report is one HTML file, with
its tables (CSV, LaTeX) and figures beside it; MLflow holds everything, too."""

EPILOG = """examples:
  python -m pipeline.compare --run                                       all variants on the built-in digits
  python -m pipeline.compare --run --budget 90epochs --epochs 30 --seeds 3     a quick look
  python -m pipeline.compare --run --repeats 5                           verdicts on variants, five times as long
  python -m pipeline.compare --dataset mnist                             only variants that have a study
  python -m pipeline.compare --dataset mine.npz --variant vae --variant hvae --run
  python -m pipeline.compare --dataset photos --run --fix network=resnet  all variants with residual networks
  python -m pipeline.compare --dataset digits --dataset sprites --run    also ranks over both data sets
"""


def _matters(text: str) -> tuple[str, float]:
    """Read an option such as `elbo=0.2`."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a criterion and a number, such as elbo=0.2")
    return name, number


def main(arguments: list[str]) -> int:
    names = ("--budget", "--trials", "--epochs", "--timeout", "--seed", "--fix", "--storage", "--out")
    parser = cli.parser("compare", ABOUT, *names, *cli.COMPUTE, *cli.DATA, epilog=EPILOG)
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="NAME|PATH",
        help="a data set (digits); several also give ranks over them, and the options of data apply to each",
    )
    parser.add_argument("--variant", action="append", metavar="NAME", help="a variant; may be repeated (all)")
    parser.add_argument("--run", action="store_true", help="search variants that have not spent the budget yet")
    parser.add_argument(
        "--repeats",
        type=cli.positive,
        metavar="K",
        help="repeat split, searches and finals K times; needed for statements about variants, e.g. 5 (1)",
    )
    parser.add_argument(
        "--seeds", type=cli.positive, metavar="N", help="number of fresh seeds of each final (5; 1 with --repeats)"
    )
    parser.add_argument(
        "--matters", type=_matters, action="append", metavar="CRITERION=X",
        help="what difference matters: elbo (0.05) and reconstruction (0.15) in nats, probe (0.005) as a share",
    )  # fmt: skip
    options = parser.parse_args(arguments)

    from pipeline.compare import across, protocol, report, sentences
    from pipeline.compare.request import CompareRequest, check
    from pipeline.progress import Display
    from pipeline.tracker import Tracker, views

    fields = ("budget", "trials", "epochs", "timeout", "repeats", "seeds", "seed", "storage")
    request = CompareRequest(
        **{name: getattr(options, name) for name in fields if getattr(options, name) is not None},
        variants=tuple(options.variant or ()),
        train=options.run,
        fix=tuple(options.fix),
        matters=dict(options.matters or ()),
        compute=cli.compute(options),
    )
    places = dict.fromkeys(options.dataset or [CompareRequest.dataset])
    sources = [cli.source(options, str(place)) for place in places]
    check(request, sources)
    display = Display()
    command = shlex.join(["python", "-m", "pipeline.compare", *arguments])
    comparisons, pages = [], {}
    for source in sources:
        comparison = protocol.run(replace(request, dataset=source), display)
        dataset, tracker = comparison.dataset, Tracker(comparison.dataset)
        written = report.write(comparison, tracker, options.out / dataset, command)
        champions = report.log(comparison, written, tracker)
        for answer in sentences.answers(comparison):
            display.say(answer)
        if comparison.equal_budget:
            display.say(comparison.equal_budget)
        for warning in comparison.warnings:
            display.say(f"warning: {warning}")
        for variant, reason in comparison.left_out.items():
            display.say(f"{variant} was left out: {reason}")
        for uri in champions:
            display.say(f'to use this champion: from pipeline.model import Model; model = Model.load("{uri}")')
        view = f"Variants by {comparison.boards[0].criterion.name}"
        link = views.link(tracker.uri, tracker.experiment, view)
        display.say(
            f'in MLflow: python -m pipeline.ui --dataset {dataset} --view "{view}" --open; while it runs, {link}'
        )
        display.say(f"the report: {written.page.absolute()}")
        comparisons.append(comparison)
        pages[dataset] = str(written.page)
    if len(comparisons) > 1:
        page, answers = across.write(comparisons, options.out / "across", command, pages)
        for answer in answers:
            display.say(f"over all data sets: {answer}")
        display.say(f"the ranks: {page.absolute()}")
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command continues where this one stopped")
