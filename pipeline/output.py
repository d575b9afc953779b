"""Writes results of a model to a file, part by part: a table, arrays, or a folder of images."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas

from pipeline.data import Raw
from pipeline.evaluate.whole_series import SeriesSteps
from variants import InputError

TABLES, ARRAYS = (".csv", ".parquet"), ".npz"


class Output:
    """Writes results part by part to a temporary file or folder, which is renamed when everything is written."""

    def __init__(self, path: Path, method: str, columns: list[str], *, has_draws: bool) -> None:
        self.count = 0  # examples, or steps in a table of steps, that were written
        self._path, self._method, self._columns, self._has_draws = path, method, columns, has_draws
        self._temporary = path.with_name(f".{path.name}.part")
        self._parts: list[Any] = []  # of an .npz file, which can only be written as a whole
        self._parquet: Any = None

    def __enter__(self) -> "Output":
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

    def write(self, results: list[Any], raw: Raw | None) -> None:
        """Write the results of the next part, which was read as `raw`; None for samples, for which nothing was read."""
        if self._path.suffix == ARRAYS:
            parts = [part for result in results for part in (result if isinstance(result, list) else [result])]
            if self._method == "forecast" or any(np.asarray(part).dtype == object for part in parts):
                raise InputError(
                    f"--out {self._path}: the results are a table with columns of several types, or hold text; "
                    f"expected {' or '.join(TABLES)}"
                )
            self._parts.append(results)
        elif self._path.suffix:
            frames = [self._frame(result, raw, draw) for draw, result in self._numbered(results)]
            self._write_table(pandas.concat(frames).sort_index(kind="stable"))
        else:
            for draw, result in self._numbered(results):
                self._write_images(result, None if raw is None else raw.rows, draw)
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

    def _frame(self, result: Any, raw: Raw | None, draw: int | None) -> pandas.DataFrame:
        """Return results as a table, with the labels of the examples and the number of the draw in front, if any."""
        if isinstance(result, np.ndarray) and result.ndim > 2:
            raise InputError(f"--out {self._path}: images are not written as a table; expected {ARRAYS}, or a folder")
        front: dict[str, Any] = {}
        if isinstance(result, list):
            front = self._labels_of_steps(result, raw)
            names = None if self._method == "forecast" else self._columns
            frame = pandas.concat([pandas.DataFrame(s, columns=names) for s in result], ignore_index=True)
        else:
            if isinstance(result, np.ndarray) and result.ndim == 2:
                names = [f"z{i}" for i in range(result.shape[1])] if self._method == "encode" else self._columns
                frame = pandas.DataFrame(result, columns=names)
            elif isinstance(result, pandas.DataFrame):
                frame = result.reset_index(drop=True)
            else:
                frame = pandas.DataFrame({self._method: np.asarray(result)})
            labels = getattr(result, "index", None)
            if isinstance(labels, pandas.MultiIndex) or not (
                labels is None or (pandas.api.types.is_integer_dtype(labels) and labels.name is None)
            ):
                front = {name or "row": labels.get_level_values(i) for i, name in enumerate(labels.names)}
        if draw is not None:
            front["draw"] = draw
        for position, (name, values) in enumerate(front.items()):
            if name in frame:
                raise InputError(
                    f"--out {self._path}: the data have a column {name!r}, which the results need for the {name} of "
                    f"each example; expected {ARRAYS}"
                )
            frame.insert(position, name, values)
        return frame

    def _labels_of_steps(self, result: list[Any], raw: Raw | None) -> dict[str, Any]:
        """Return columns with the series and the step, or its time, of each step of sequences."""
        lengths = [len(sequence) for sequence in result]
        if raw is None:
            steps = np.concatenate([np.arange(n) for n in lengths])
            return {"series": np.repeat(np.arange(self.count, self.count + len(result)), lengths), "step": steps}
        series = SeriesSteps.of(raw)
        if self._method == "forecast":  # which has a column with the step or the time
            return {str(series.names.name): np.repeat(np.asarray(series.names), lengths)}
        return series.labels(raw)
