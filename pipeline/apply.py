"""`python -m pipeline.apply`: use a trained model on new data."""

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas

from pipeline import cli
from variants import InputError

ABOUT = """Use a trained model on new data, and write the results to a file.

The data are read and prepared exactly as the training data were, and the results have their units. Large tables are
read and written in parts, so that memory does not grow with the number of rows."""

EPILOG = """what to do:
  encode         codes, one row for each example
  reconstruct    the mean of p(x|z) at the code of each example
  score          a lower bound of log p(x) of each example, in nats; with --by-value, log p(x|z) of each value
  anomaly        how unusual each example is; higher is more unusual
  impute         the data with their missing values replaced by expected ones, or by --draws random ones
  forecast       the next --steps steps of each sequence
  sample         --n new examples, of one class with --label; takes no --data

examples:
  python -m pipeline.apply encode --model models:/vae-mine@champion-elbo --data new.csv --out codes.csv
  python -m pipeline.apply anomaly --model my-model --data new.parquet --out scores.parquet
  python -m pipeline.apply impute --model my-model --data holes.csv --draws 20 --out completed.csv
  python -m pipeline.apply sample --model my-model --n 64 --out samples           a folder of images
  python -m pipeline.apply forecast --model my-model --data series.csv --steps 24 --out forecast.csv
"""

METHODS = ("encode", "reconstruct", "score", "anomaly", "impute", "forecast", "sample")
TABLES, ARRAYS = (".csv", ".parquet"), ".npz"
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
    parser.add_argument("--steps", type=cli.positive, metavar="N", help="forecast: number of steps")
    parser.add_argument("--n", type=cli.positive, metavar="N", help="sample: number of examples")
    parser.add_argument("--label", metavar="CLASS", help="sample: the class of the examples")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (0)")
    parser.add_argument("--threads", **cli.OPTIONS["--threads"])
    arguments = parser.parse_args(words)

    from pipeline import machine
    from pipeline.fitting import FIXED_OPTIONS, about_options
    from pipeline.model import Model
    from pipeline.progress import Display

    _check(arguments)
    machine.prepare(arguments.threads)
    model = Model.load(arguments.model).set_params(seed=arguments.seed)
    display, begin = Display(), time.perf_counter()
    columns = [column.name for column in model.preprocessing.columns]
    output = _Output(arguments.out, arguments.method, columns, has_draws=arguments.draws is not None)
    with about_options(FIXED_OPTIONS), output as out:
        for results, rows in _results(model, arguments, display):
            out.write(results, rows)
    display.say(f"wrote {out.count} examples to {arguments.out.absolute()} in {time.perf_counter() - begin:.0f} s")
    return 0


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
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} exists already; delete it, or give another path")
    if arguments.out.suffix not in (*TABLES, ARRAYS, ""):
        expected = f"{', '.join(TABLES)}, {ARRAYS}, or a folder for images"
        raise InputError(
            f"--out {arguments.out}: files that end in {arguments.out.suffix} are not written; expected {expected}"
        )


def _results(model: Any, arguments: argparse.Namespace, display: Any) -> Iterator[tuple[list[Any], Any]]:
    """Yield the results of one part of the data after another, with the labels of its rows, and show the progress.

    The results of a part are a list: one entry for each draw, or a single entry if nothing is drawn.
    """
    if arguments.method == "sample":
        yield [model.sample(arguments.n, arguments.label)], None
        return
    count, parts = model.read_parts(arguments.data, PART)
    with display.progress(arguments.method, count) as progress:
        for number, raw in enumerate(parts):
            for note in raw.notes if number == 0 else ():
                display.say(f"note: {note}")
            yield _compute(model, arguments, raw), raw.rows
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


class _Output:
    """Writes results part by part to a temporary file or folder, which is renamed when everything is written."""

    def __init__(self, path: Path, method: str, columns: list[str], *, has_draws: bool) -> None:
        self.count = 0  # examples that were written
        self._path, self._method, self._columns, self._has_draws = path, method, columns, has_draws
        self._temporary = path.with_name(f".{path.name}.part")
        self._parts: list[Any] = []  # of an .npz file, which can only be written as a whole
        self._parquet: Any = None

    def __enter__(self) -> "_Output":
        from pipeline import machine

        self._discard()  # what a command left behind when it was killed
        machine.writable(self._path.parent if self._path.suffix else self._temporary)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if kind is None:
            if self._path.suffix == ARRAYS:
                self._save_arrays()
            self._temporary.replace(self._path)
        else:
            self._discard()

    def _discard(self) -> None:
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary)
        else:
            self._temporary.unlink(missing_ok=True)

    def write(self, results: list[Any], rows: Any) -> None:
        """Write the results of the next part; `rows` is a pandas Index with the labels of the examples, or None."""
        if self._path.suffix == ARRAYS:
            parts = [part for result in results for part in (result if isinstance(result, list) else [result])]
            if any(np.asarray(part).dtype == object for part in parts):
                raise InputError(f"--out {self._path}: the results hold text; expected {' or '.join(TABLES)}")
            self._parts.append(results)
        elif self._path.suffix:
            frames = [self._frame(result, rows, draw) for draw, result in self._numbered(results)]
            self._write_table(pandas.concat(frames).sort_index(kind="stable"))
        else:
            for draw, result in self._numbered(results):
                self._write_images(result, rows, draw)
        self.count += len(results[0])

    def _numbered(self, results: list[Any]) -> list[tuple[int | None, Any]]:
        """Return each result with the number of its draw, counted from 1, or with None if nothing is drawn."""
        return [*enumerate(results, 1)] if self._has_draws else [(None, results[0])]

    def _write_table(self, frame: pandas.DataFrame) -> None:
        if self._path.suffix == ".csv":
            frame.to_csv(self._temporary, mode="a", header=not self._temporary.exists(), index=False)
            return
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        if self._parquet is None:
            self._parquet = pyarrow.parquet.ParquetWriter(self._temporary, table.schema)
        self._parquet.write_table(table)

    def _write_images(self, result: Any, rows: Any, draw: int | None) -> None:
        from PIL import Image

        if not (isinstance(result, np.ndarray) and result.ndim in (3, 4)):
            raise InputError(
                f"--out {self._path}: the results are no images; expected the ending {', '.join(TABLES)} or {ARRAYS}"
            )
        if result.dtype.kind == "f":  # pixels from 0 to 1
            result = (result.clip(0, 1) * 255).round().astype(np.uint8)
        if result.ndim == 4 and result.shape[-1] not in (1, 3, 4):
            result = np.moveaxis(result, 1, -1)
        for number, image in enumerate(result):
            name = f"{self.count + number:06}.png" if rows is None else Path(str(rows[number])).with_suffix(".png")
            path = self._temporary / name
            path = path if draw is None else path.with_stem(f"{path.stem}-{draw}")
            if path.exists():  # such as for a.jpg and a.png
                path = path.with_stem(f"{path.stem}-{self.count + number:06}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image).save(path)

    def _save_arrays(self) -> None:
        """Write `x` (N, ...), or (N, K, ...) with K draws for each example; for sequences also their `lengths`."""
        if isinstance(self._parts[0][0], list):
            draws = [[s for part in self._parts for s in part[k]] for k in range(len(self._parts[0]))]
            lengths = np.array([len(s) for s in draws[0]])
            x = np.zeros((len(lengths), len(draws), lengths.max(), *np.asarray(draws[0][0]).shape[1:]))
            for k, sequences in enumerate(draws):
                for row, sequence in zip(x[:, k], sequences, strict=True):
                    row[: len(sequence)] = sequence
            arrays: dict[str, Any] = {"x": x, "lengths": lengths}
        else:
            arrays = {"x": np.concatenate([np.stack(part, axis=1) for part in self._parts])}
        if not self._has_draws:
            arrays["x"] = arrays["x"][:, 0]
        with self._temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def _frame(self, result: Any, rows: pandas.Index | None, draw: int | None) -> pandas.DataFrame:
        """Return results as a table, with the labels of the examples and the number of the draw in front, if any."""
        labels = pandas.RangeIndex(self.count, self.count + len(result)) if rows is None else rows
        if isinstance(result, np.ndarray) and result.ndim > 2:
            raise InputError(f"--out {self._path}: images are not written as a table; expected {ARRAYS}, or a folder")
        front: dict[str, Any] = {} if draw is None else {"draw": draw}
        if isinstance(result, list):
            lengths = [len(sequence) for sequence in result]
            frame = pandas.concat([pandas.DataFrame(s, columns=self._columns) for s in result], ignore_index=True)
            first = 1 if self._method == "forecast" else 0  # a forecast counts from the step after the last one
            steps = np.concatenate([np.arange(first, first + n) for n in lengths])
            front = {labels.name or "series": np.repeat(labels, lengths), "step": steps, **front}
        elif isinstance(result, pandas.DataFrame):
            frame = result.reset_index(drop=True)
        elif result.ndim == 1:
            frame = pandas.DataFrame({self._method: np.asarray(result)})
        else:
            names = [f"z{i}" for i in range(result.shape[1])] if self._method == "encode" else self._columns
            frame = pandas.DataFrame(result, columns=names)
        if not isinstance(result, list) and not pandas.api.types.is_integer_dtype(labels):
            front = {labels.name or "row": labels, **front}
        for position, (name, values) in enumerate(front.items()):
            if name in frame:
                raise InputError(
                    f"--out {self._path}: the data have a column {name!r}, which the results need for the {name} of "
                    f"each example; expected {ARRAYS}"
                )
            frame.insert(position, name, values)
        return frame


if __name__ == "__main__":
    cli.run(main, "run the same command again")
