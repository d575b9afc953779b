"""Loads data that do not fit in memory: training examples stay on disk, and some of them are kept for evaluation."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._catalogue import CATALOGUE
from pipeline.data._data import Data, held_out
from pipeline.data._description import describe
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import MINIMUM, Raw, encode_labels
from pipeline.data._source import Source
from pipeline.data._splits import listed, split
from pipeline.data._stored import Stored
from pipeline.data._stream import BLOCK, Stream
from pipeline.progress import Display
from variants import Batch

PEAK = 3  # times the size of an array that loading it as a whole takes at most
SHARE = 0.25  # of the memory, which the data may take, because each worker loads them
HELD_OUT = 10_000  # most validation examples, and most test examples
KEPT = 10_000  # most training examples that are kept in memory for evaluation
PACKED = 20  # times the size of a file that its content has at most, if it is compressed
KEPT_BYTES = 128 << 20  # and the most bytes that the examples of a split occupy in memory
EPOCH = 200_000_000  # values of an epoch, if `--portion` does not say otherwise
FINGERPRINT = 64  # blocks from which the digest is computed
Indices = NDArray[np.int64]


def memory() -> int:
    """Return the bytes of memory of this machine, or of its container.

    What is free at the moment does not count, so that all processes read a data set in the same way.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            sizes.append(int((Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):
            continue
    return min(sizes)


def may_be_large(source: Source) -> bool:
    """Whether it is worth looking into the files of a data set to see how large they are."""
    path = source.path
    if source.place in CATALOGUE or not path.exists():
        return False
    return source.portion is not None or path.is_dir() or PEAK * PACKED * path.stat().st_size > SHARE * memory()


def is_large(found: Stored) -> bool:
    """Whether a data set is read in parts: because `--portion` was given, or because it does not fit in memory."""
    return found.source.portion is not None or PEAK * found.bytes > SHARE * memory()


def load_large(found: Stored) -> Data:
    """Load a data set whose training examples stay on disk.

    Some training examples, and validation and test examples up to a limit, are kept in memory.
    """
    codes, names, notes = None, tuple[Any, ...](), tuple[str, ...]()
    if found.y is not None:
        codes, names, notes = encode_labels(found.source, found.y, found.examples)
    whole = Raw(
        name=found.name, source=found.source, x=np.broadcast_to(np.zeros(1, np.uint8), (found.examples, 1)), y=codes,
        class_names=names, likelihood="gaussian", splits=found.splits, groups=_groups(found),
        notes=(*found.notes, *notes), stored=True,
    )  # fmt: skip
    whole, index = split(whole)
    row = max(1, found.bytes // found.examples)
    train, *others = [part.numpy() for part in index]
    kept = [_some(train, KEPT, row), *(_some(part, HELD_OUT, row) for part in others)]
    order = np.sort(np.concatenate(kept))
    raw = found.take(order, found.chunk, None)
    raw = replace(
        raw, y=None if codes is None else codes[order], class_names=names, notes=(*raw.notes, *whole.notes),
        warnings=(*raw.warnings, *whole.warnings), division=whole.division, drawn=whole.drawn,
    ).checked()  # fmt: skip
    places = [torch.from_numpy(np.searchsorted(order, part)) for part in kept]
    preprocessing = Preprocessing.fit(raw, places[0])
    stream = Stream(
        read=_Reader(found, preprocessing, codes), index=train, y=codes, block=max(1, BLOCK // row),
        portion=min(len(train), found.source.portion or max(1, EPOCH // raw.x[0].size)),
    )  # fmt: skip
    if {group.kind for group in preprocessing.spec.parts} == {"real"}:
        preprocessing = _standardised(preprocessing, stream)
    source = replace(found.source, portion=stream.portion)  # so that workers read the data in the same way
    preprocessing = replace(preprocessing, source=source, digest=_digest(found, stream, codes, [train, *kept[1:]]))
    encoded = preprocessing.encode(raw, is_new=False)
    splits = [encoded[place] for place in places]
    raw = raw.with_notes([_what_is_read(found, stream, kept, others)])
    return Data(
        train=splits[0], valid=held_out(splits[1], 1, preprocessing), test=held_out(splits[2], 2, preprocessing),
        digest=preprocessing.digest, preprocessing=preprocessing, drawn=raw.drawn,
        description=describe(raw, [torch.from_numpy(part) for part in (train, *kept[1:])], whole),
        test_rows=torch.from_numpy(kept[2]), stream=replace(stream, read=_Reader(found, preprocessing, codes)),
    )  # fmt: skip


def _what_is_read(found: Stored, stream: Stream, kept: list[Indices], others: list[Indices]) -> str:
    """Return a note about what stays on disk and what is kept in memory."""
    note = (
        f"the values ({found.bytes / 1e9:,.2g} GB) stay on disk, and are read while a model is trained; an epoch is a "
        f"portion of {stream.portion:,} of the {len(stream):,} training examples (--portion); {len(kept[0]):,} of them "
        "are kept in memory for scores that need training examples, such as the probe"
    )
    cut = [
        f"{len(chosen):,} of {len(part):,} {name}"
        for chosen, part, name in zip(kept[1:], others, ("validation", "test"), strict=True)
        if len(chosen) < len(part)
    ]
    return note + (f"; {listed(cut)} examples are used" if cut else "")


def _groups(found: Stored) -> Any:
    import pandas

    return None if found.groups is None else pandas.factorize(np.asarray(found.groups))[0].astype(np.int64)


def _some(part: Indices, most: int, row: int) -> Indices:
    """Choose some examples of a split at random, and return their positions in ascending order.

    At most `most` are drawn, and no more than fit in `KEPT_BYTES`. `row` is the number of bytes of an example.
    """
    most = max(MINIMUM, min(most, KEPT_BYTES // row))
    if len(part) <= most:
        return part
    return np.sort(np.random.default_rng(0).choice(part, most, replace=False))


class _Reader:
    """Reads examples at sorted positions, in the form in which `Data` has them."""

    def __init__(self, found: Stored, preprocessing: Preprocessing, codes: NDArray[np.int64] | None) -> None:
        self._found, self._preprocessing, self._codes = found, preprocessing, codes

    def __call__(self, positions: Indices) -> Batch:
        raw = self._found.take(positions, max(self._found.chunk, 64), self._preprocessing)
        if self._codes is not None:
            raw = replace(raw, y=self._codes[positions])
        return self._preprocessing.encode(raw, is_new=False)


def _standardised(preprocessing: Preprocessing, stream: Stream) -> Preprocessing:
    """Return the preprocessing with the means, scales and limits of all training examples, in one pass over them.

    The sums of Chan, Golub & LeVeque 1983 join the means and squared deviations of parts without cancellation.
    """
    count, mean, squares = 0.0, np.zeros(()), np.zeros(())
    low, high = np.inf, -np.inf
    shift, scale = preprocessing.shift.numpy(), preprocessing.scale.numpy()
    with Display().progress(
        "reading all training examples for means and scales", -(-len(stream) // stream.block)
    ) as progress:
        for part in _blocks(stream):
            x = part.x.double().numpy() * scale + shift
            known = np.ones(x.shape, bool) if part.observed is None else part.observed.expand_as(part.x).numpy()
            axes = (0,) if x.ndim == 2 else tuple(range(x.ndim))
            n = known.sum(axes)
            own = np.where(known, x, 0).sum(axes) / np.maximum(n, 1)
            deviation = np.where(known, (x - own) ** 2, 0).sum(axes)
            change = own - mean
            total = np.maximum(count + n, 1)
            squares = squares + deviation + change**2 * count * n / total
            mean, count = mean + change * n / total, count + n
            low = np.minimum(low, np.where(known, x, np.inf).min(axes))
            high = np.maximum(high, np.where(known, x, -np.inf).max(axes))
            progress.advance()
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    return replace(
        preprocessing, shift=torch.as_tensor(mean), scale=torch.as_tensor(np.where(deviation > 0, deviation, 1.0)),
        low=torch.as_tensor(low), high=torch.as_tensor(high),
    )  # fmt: skip


def _blocks(stream: Stream) -> Iterator[Batch]:
    for start in range(0, len(stream), stream.block):
        yield stream.read(stream.index[start : start + stream.block])


def _digest(found: Stored, stream: Stream, codes: NDArray[np.int64] | None, parts: list[Indices]) -> str:
    """Return a sha256 of labels, splits, and the values of blocks that are evenly spaced over the data."""
    sha = hashlib.sha256(f"{found.examples} {found.bytes}".encode())
    for array in (codes, *parts):
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    starts = np.linspace(0, max(0, len(stream) - stream.block), FINGERPRINT).astype(np.int64)
    for start in np.unique(starts):
        sha.update(stream.read(stream.index[start : start + stream.block]).x.numpy().data)
    return sha.hexdigest()
