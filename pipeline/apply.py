"""`python -m pipeline.apply`: use a trained model on new data."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import cli

ABOUT = """Use a trained model on new data, and write the results to a file.

The data are read and prepared exactly as the training data were, and results come back in their units. Large tables
are read and written in parts, so that memory does not grow with the number of rows."""

EPILOG = """what to do:
  encode         codes, one row for each example
  reconstruct    what the model makes of each example
  score          a lower bound of log p(x) of each example, in nats; with --by-value of each value
  anomaly        how unusual each example is; higher is more unusual
  impute         the data with missing values filled in
  forecast       the next --steps steps of each sequence
  sample         --n new examples (no --data), with --label of one class

examples:
  python -m pipeline.apply encode --model models:/vae-mine@champion-elbo --data new.csv --out codes.csv
  python -m pipeline.apply anomaly --model my-model --data new.parquet --out scores.parquet
  python -m pipeline.apply sample --model my-model --n 64 --out samples           a folder of images
  python -m pipeline.apply forecast --model my-model --data series.csv --steps 24 --out forecast.csv
"""

METHODS = ("encode", "reconstruct", "score", "anomaly", "impute", "forecast", "sample")
TABLES, ARRAYS = (".csv", ".parquet"), ".npz"
PART = 16 * 1024  # rows that are read at a time; a multiple of the rows that are computed at a time


def main(words: list[str]) -> int:
    parser = cli.parser("apply", ABOUT, epilog=EPILOG)
    parser.add_argument("method", choices=METHODS, metavar="WHAT", help=", ".join(METHODS))
    parser.add_argument("--model", required=True, metavar="MODEL", help="a folder, or models:/NAME@ALIAS of MLflow")
    parser.add_argument("--data", metavar="NAME|PATH", help="new data, of the kind that the model was trained on")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="a file (.csv, .parquet or .npz), or a folder for images"
    )
    parser.add_argument("--by-value", action="store_true", help="score: the log-likelihood of each value")
    parser.add_argument("--steps", type=cli.positive, metavar="N", help="forecast: number of steps")
    parser.add_argument("--n", type=cli.positive, metavar="N", help="sample: number of examples")
    parser.add_argument("--label", metavar="CLASS", help="sample: the class of the examples")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (0)")
    parser.add_argument("--threads", **cli.OPTIONS["--threads"])
    arguments = parser.parse_args(words)

    from pipeline import machine
    from pipeline.model import Model
    from pipeline.progress import Display

    _check(arguments)
    machine.prepare(arguments.threads)
    model = Model.load(arguments.model).set_params(seed=arguments.seed)
    display, begin = Display(), time.perf_counter()
    count = 0
    with _open(arguments.out, arguments.method) as out:
        for part in _results(model, arguments, display):
            count += out.write(part)
    display.say(f"{count} rows in {arguments.out.absolute()}, {time.perf_counter() - begin:.0f} s")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for options that do not belong together, and for a result that would replace a file."""
    from variants import InputError

    method, is_sample = arguments.method, arguments.method == "sample"
    needs = {"--data": not is_sample, "--n": is_sample, "--steps": method == "forecast"}
    given = {"--data": arguments.data, "--n": arguments.n, "--steps": arguments.steps}
    for option, needed in needs.items():
        if needed != (given[option] is not None):
            raise InputError(f"{method} {'needs' if needed else 'takes no'} {option}")
    if arguments.label is not None and not is_sample:
        raise InputError(f"{method} takes no --label: labels of examples are read from --data")
    if arguments.by_value and method != "score":
        raise InputError(f"{method} takes no --by-value; only score does")
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} exists already; delete it, or give another name")
    if arguments.out.suffix not in (*TABLES, ARRAYS, ""):
        expected = f"{', '.join(TABLES)}, {ARRAYS}, or a folder for images"
        raise InputError(f"--out {arguments.out}: files that end in {arguments.out.suffix} are not written; expected {expected}")


def _results(model: Any, arguments: argparse.Namespace, display: Any) -> Iterator[Any]:
    """Yield the results, part by part, and show the progress."""
    if arguments.method == "sample":
        yield model.sample(arguments.n, arguments.label)
        return
    count, parts = model.read_parts(arguments.data, PART)
    with display.progress(arguments.method, count) as progress:
        for raw in parts:
            yield _compute(model, arguments, raw)
            progress.advance()


def _compute(model: Any, arguments: argparse.Namespace, raw: Any) -> Any:
    if arguments.method == "score":
        return model.score_samples(raw, by_value=arguments.by_value)
    if arguments.method == "forecast":
        return model.forecast(raw, arguments.steps)
    return getattr(model, "transform" if arguments.method == "encode" else arguments.method)(raw)


if __name__ == "__main__":
    cli.run(main, "give the same command again")
