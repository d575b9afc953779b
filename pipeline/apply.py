"""`python -m pipeline.apply`: use a trained model on new data."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import cli
from variants import InputError

ABOUT = """Use a trained model on new data, and write the results to a file.

The data are read and prepared exactly as the training data were, and the results have their units. Large tables are
read and written in parts, so that memory does not grow with the number of rows."""

EPILOG = """what to do:
  encode         codes, one row for each example
  reconstruct    the mean of p(x|z) at the code of each example
  score          a lower bound of log p(x) of each example, in nats; with --by-value, log p(x|z) of each value
  anomaly        how unusual each example, or each step of sequences, is; higher is more unusual. With --share 0.01,
                 scores that only 1% of the training data exceed are marked
  impute         the data with their missing values replaced by expected ones, or by --draws random ones
  forecast       the next --steps steps of each sequence: means and quantiles
  sample         --n new examples, of one class with --label; takes no --data

examples:
  python -m pipeline.apply encode --model models:/vae-mine@champion-elbo --data new.csv --out codes.csv
  python -m pipeline.apply anomaly --model my-model --data new.parquet --out scores.parquet
  python -m pipeline.apply anomaly --model my-model --data series.csv --out scores.csv --share 0.01 --picture marks.png
  python -m pipeline.apply impute --model my-model --data holes.csv --draws 20 --out completed.csv
  python -m pipeline.apply sample --model my-model --n 64 --out samples           a folder of images
  python -m pipeline.apply forecast --model my-model --data series.csv --steps 24 --out forecast.csv
"""

METHODS = ("encode", "reconstruct", "score", "anomaly", "impute", "forecast", "sample")
PART = 16 * 1024  # rows that are read at a time; a multiple of `new_rows.BATCH`


def main(words: list[str]) -> int:
    parser = cli.parser("apply", ABOUT, epilog=EPILOG)
    parser.add_argument("method", choices=METHODS, metavar="WHAT", help=", ".join(METHODS))
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a folder with a saved model, or models:/NAME@ALIAS of MLflow"
    )
    parser.add_argument("--data", metavar="NAME|PATH", help="new data, of the kind that the model was trained on")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="a file (.csv, .parquet or .npz), or a folder for images",
    )
    parser.add_argument("--by-value", action="store_true", help="score: log p(x|z) of each value instead of the bound")
    parser.add_argument(
        "--draws",
        type=cli.positive,
        metavar="K",
        help="impute: K completed rows for each example, which follow each other, with a column `draw` from 1 to K",
    )
    parser.add_argument(
        "--share",
        type=_share,
        metavar="S",
        help="anomaly: mark scores that only a share S of the training data exceeds",
    )
    parser.add_argument("--by-series", action="store_true", help="anomaly: one score for each sequence")
    parser.add_argument(
        "--truth",
        metavar="COLUMN",
        help="anomaly: a column of the data, 1 or true for true anomalies; print how well the scores find them",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw the most unusual sequences (anomaly), or the first ones (forecast)",
    )
    parser.add_argument("--steps", type=cli.positive, metavar="N", help="forecast: number of steps")
    parser.add_argument("--n", type=cli.positive, metavar="N", help="sample: number of examples")
    parser.add_argument("--label", metavar="CLASS", help="sample: the class of the examples")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (0)")
    parser.add_argument("--threads", **cli.OPTIONS["--threads"])
    arguments = parser.parse_args(words)

    from pipeline import machine
    from pipeline.findings import Findings, forecast_picture
    from pipeline.fitting import FIXED_OPTIONS, about_options
    from pipeline.model import Model
    from pipeline.output import Output
    from pipeline.progress import Display

    _check(arguments)
    machine.prepare(arguments.threads)
    model = Model.load(arguments.model).set_params(seed=arguments.seed)
    display, begin = Display(), time.perf_counter()
    output = Output(arguments.out, arguments.method, model.new_rows.columns, has_draws=arguments.draws is not None)
    findings = (
        Findings(model, arguments.share, by_series=arguments.by_series) if arguments.method == "anomaly" else None
    )
    last: Any = None
    with about_options(FIXED_OPTIONS), output as out:
        for results, raw in _results(model, arguments, findings, display):
            out.write(results, raw)
            last = results, raw
        text = findings.judged(arguments.data, arguments.truth).text() if findings and arguments.truth else ""
        picture = None
        if arguments.picture is not None:
            picture = findings.picture() if findings else forecast_picture(last[0][0], last[1], model)
    if picture is not None:
        from PIL import Image

        Image.fromarray(picture).save(arguments.picture)
    rows = "step" if findings and findings.has_steps else "example"
    rows += "" if out.count == 1 else "s"
    display.say(f"wrote {out.count} {rows} to {arguments.out.absolute()} in {time.perf_counter() - begin:.0f} s")
    if text:
        display.say(text)
    return 0


def _share(text: str) -> float:
    """Parse a share between 0 and 1, as the `type` of an `argparse` option."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number between 0 and 1")
    return value


def _check(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for options that do not belong together, and for a result that would replace a file."""
    method, is_sample = arguments.method, arguments.method == "sample"
    needs = {"--data": not is_sample, "--n": is_sample, "--steps": method == "forecast"}
    values = {"--data": arguments.data, "--n": arguments.n, "--steps": arguments.steps}
    for option, needed in needs.items():
        if needed != (values[option] is not None):
            raise InputError(f"{method} {'needs' if needed else 'takes no'} {option}")
    if arguments.label is not None and not is_sample:
        raise InputError(f"{method} takes no --label; leave it out")
    if arguments.by_value and method != "score":
        raise InputError(f"{method} takes no --by-value; leave it out, or use score")
    if arguments.draws is not None and method != "impute":
        raise InputError(f"{method} takes no --draws; leave it out, or use impute")
    for option in ("share", "truth", "by_series"):
        if getattr(arguments, option) and method != "anomaly":
            raise InputError(f"{method} takes no --{option.replace('_', '-')}; leave it out, or use anomaly")
    if arguments.picture is not None and method not in ("anomaly", "forecast"):
        raise InputError(f"{method} takes no --picture; leave it out, or use anomaly or forecast")
    if method == "anomaly" and arguments.share is None and (arguments.truth or arguments.picture):
        raise InputError("--truth and --picture need --share, the share of training scores above the threshold")
    if arguments.by_series and (arguments.truth or arguments.picture):
        raise InputError("--truth and --picture are about single steps; leave --by-series out")
    for option, path in (("out", arguments.out), ("picture", arguments.picture)):
        if path is not None and path.exists():
            raise InputError(f"--{option} {path} exists already; delete it, or give another path")
    if arguments.picture is not None and arguments.picture.suffix != ".png":
        raise InputError(f"--picture {arguments.picture}: expected a file that ends in .png")
    from pipeline.output import ARRAYS, TABLES

    if arguments.out.suffix not in (*TABLES, ARRAYS, ""):
        expected = f"{', '.join(TABLES)}, {ARRAYS}, or a folder for images"
        raise InputError(
            f"--out {arguments.out}: files that end in {arguments.out.suffix} are not written; expected {expected}"
        )


def _results(
    model: Any, arguments: argparse.Namespace, findings: Any, display: Any
) -> Iterator[tuple[list[Any], Any]]:  # fmt: skip
    """Yield the results of one part of the data after another, with what was read, and show the progress.

    The results of a part are a list: one entry for each draw, or a single entry if nothing is drawn.
    """
    if arguments.method == "sample":
        yield [model.sample(arguments.n, arguments.label)], None
        return
    count, parts = model.read_parts(arguments.data, PART)
    with display.progress(arguments.method, count) as progress:
        for number, raw in enumerate(parts):
            for kind, clauses in (("note", raw.notes), ("warning", raw.warnings)) if number == 0 else ():
                for clause in clauses:
                    display.say(f"{kind}: {clause}")
            yield [findings.add(raw, progress.each)] if findings else _compute(model, arguments, raw), raw
            progress.advance()


def _compute(model: Any, arguments: argparse.Namespace, raw: Any) -> list[Any]:
    if arguments.draws is not None:
        draws: list[Any] = model.impute(raw, arguments.draws)
        return draws
    if arguments.method == "score":
        return [model.score_samples(raw, by_value=arguments.by_value)]
    if arguments.method == "forecast":
        return [model.forecast(raw, arguments.steps)]
    return [getattr(model, "transform" if arguments.method == "encode" else arguments.method)(raw)]


if __name__ == "__main__":
    cli.run(main, "run the same command again")
