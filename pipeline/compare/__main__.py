"""`python -m pipeline.compare`: which variant, with which settings, for my data, and how sure."""

import shlex
from dataclasses import replace
from pathlib import Path

from pipeline import cli

ABOUT = """Compare all variants on one data set, and write the answer.

Each variant's configuration is chosen on validation data from its study, trained again on fresh seeds, and scored once
on the test split. --run searches first what has no study yet, each variant with the same budget. Finals that exist are
used again: stop it whenever you like, and give the same command to go on. The answer is a report of one HTML file with
its tables (CSV, LaTeX) and figures; everything is in MLflow too."""

EPILOG = """examples:
  python -m pipeline.compare --run                                  the embedded digits, all variants
  python -m pipeline.compare --run --trials 6 --epochs 30 --seeds 3      a quick look
  python -m pipeline.compare --dataset mnist                        of the studies that exist
  python -m pipeline.compare --dataset mine.npz --variant vae --variant hvae --run
  python -m pipeline.compare --dataset digits --dataset sprites --run          ranks over both as well
"""


def main(words: list[str]) -> int:
    common = ("--trials", "--epochs", "--timeout", "--seed", "--storage", *cli.COMPUTE)
    parser = cli.parser("compare", ABOUT, *common, epilog=EPILOG)
    parser.add_argument(
        "--dataset", action="append", metavar="NAME|PATH", help="what to compare on (digits); several: ranks over them"
    )
    parser.add_argument("--variant", action="append", metavar="NAME", help="a variant; repeatable (all)")
    parser.add_argument("--run", action="store_true", help="search what has no study, or too few trials")
    parser.add_argument("--seeds", type=cli.positive, metavar="N", help="fresh seeds of each final (5)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where reports go, a folder each (reports)")
    arguments = parser.parse_args(words)

    from pipeline.compare import across, protocol, report
    from pipeline.progress import Display
    from pipeline.tracker import Tracker, views

    options = ("trials", "epochs", "timeout", "seeds", "seed", "storage")
    request = protocol.CompareRequest(
        **{name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None},
        variants=tuple(arguments.variant or ()),
        train=arguments.run,
        compute=cli.compute(arguments),
    )
    sources = list(dict.fromkeys(arguments.dataset or ["digits"]))
    protocol.check(request, sources)
    display = Display()
    folder = arguments.out or Path("reports")
    command = " ".join(["python -m pipeline.compare", *map(shlex.quote, words)])
    compared, pages = [], {}
    for source in sources:
        found = protocol.run(replace(request, dataset=source), display)
        tracker = Tracker(found.dataset)
        written = report.write(found, tracker, folder / found.dataset, command)
        champions = report.log(found, written, tracker)
        for line in report.answers(found):
            display.say(line)
        for line in found.warnings:
            display.say(f"mind: {line}")
        for variant, reason in found.left_out.items():
            display.say(f"left out: {variant}: {reason}")
        for uri in champions:
            display.say(f'its model: variants.load("{uri}")')
        link = views.link(tracker.uri, tracker.experiment, "Variants")
        display.say(
            f"in MLflow: python -m pipeline.ui --dataset {found.dataset} --view Variants --open, which shows {link}"
        )
        display.say(f"the report: {written.page.absolute()}")
        compared.append(found)
        pages[found.dataset] = str(written.page)
    if len(compared) > 1:
        page, said = across.write(compared, folder / "across", command, pages)
        for line in said:
            display.say(f"on the whole: {line}")
        display.say(f"the ranks: {page.absolute()}")
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command goes on where this one stopped")
