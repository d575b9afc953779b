"""Training examples that stay on disk, in a shuffled order that depends on nothing but a seed and a position."""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from variants import Batch

BLOCK = 1 << 20  # bytes of encoded examples that are read together
WINDOW = 96  # blocks whose examples are shuffled with each other
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Training examples that are read from disk while a model is trained.

    Each pass reads all examples once. Neighbouring examples form blocks, which are put in a random order; the examples
    of `window` consecutive blocks of this order are then shuffled. So a disk reads whole blocks, and an example of a
    batch comes from a random place. The order of a pass depends on the seed and the number of the pass alone.
    """

    read: Callable[[Indices], Batch]  # sorted positions in the source -> examples in the form in which `Data` has them
    index: Indices  # sorted positions of the training examples in the source
    y: Indices | None = None  # the classes of all examples of the source, -1 if unknown
    block: int  # examples in a block
    portion: int  # examples in an epoch of the trainer
    window: int = WINDOW
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.index)

    def only_class(self, c: int) -> Stream:
        """Return the stream of the examples of class `c`."""
        assert self.y is not None
        index = self.index[self.y[self.index] == c]
        return replace(self, index=index, portion=min(self.portion, len(index)))

    def epochs(self, seed: int, size: int, done: int) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each epoch, without end, after `done` epochs that were already trained.

        An epoch has `portion` examples in batches of `size`; its last batch may be smaller.
        """
        windows, rest = _Ahead(self._windows(seed, done * self.portion)), list[Batch]()
        sizes = [size] * (self.portion // size) + [self.portion % size] * (self.portion % size > 0)
        while True:
            yield (self._next(windows, rest, n) for n in sizes)

    def _next(self, windows: Iterator[Batch], rest: list[Batch], size: int) -> Batch:
        """Return the next `size` examples, and keep those of the last window that are left in `rest`."""
        parts, missing = [], size
        while missing:
            window = rest.pop() if rest else next(windows)
            parts.append(window[slice(0, missing)])
            if len(window) > missing:
                rest.append(window[slice(missing, len(window))])
            missing -= len(parts[-1])
        return (Batch.cat(parts) if len(parts) > 1 else parts[0]).to(self.device)

    def _windows(self, seed: int, start: int) -> Iterator[Batch]:
        """Yield the shuffled examples of each window, without end; `start` examples were already read."""
        first, done = divmod(start, len(self))
        for number in itertools.count(first):
            for positions in self._orders(seed, number):
                if done < len(positions):
                    sorted_order = np.argsort(positions[done:])
                    back = np.argsort(sorted_order)
                    yield self.read(self.index[positions[done:][sorted_order]])[torch.from_numpy(back)]
                done = max(0, done - len(positions))

    def _orders(self, seed: int, number: int) -> Iterator[Indices]:
        """Yield the order of the examples in each window of one pass, as positions in `index`."""
        blocks = np.random.default_rng((seed, number)).permutation(-(-len(self) // self.block))
        for window, start in enumerate(range(0, len(blocks), self.window)):
            chosen = blocks[start : start + self.window, None] * self.block + np.arange(self.block)
            inside = chosen[chosen < len(self)]
            yield np.random.default_rng((seed, number, window)).permutation(inside)


class _Ahead:
    """Runs an iterator in a thread, one item ahead, so that reading and training happen at the same time.

    The thread ends when nobody holds this object any more.
    """

    def __init__(self, items: Iterator[Batch]) -> None:
        self._queue, stop = queue.Queue[Batch | BaseException](1), threading.Event()
        threading.Thread(target=_fill, args=(items, self._queue, stop), daemon=True).start()
        weakref.finalize(self, stop.set)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item


def _fill(items: Iterator[Batch], into: queue.Queue[Batch | BaseException], stop: threading.Event) -> None:
    """Put items into a queue, until `stop` is set; an error takes the place of an item."""
    item: Batch | BaseException
    while not stop.is_set():
        try:
            item = next(items)
        except BaseException as error:
            item = error
        while not stop.is_set():
            try:
                into.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if isinstance(item, BaseException):
            return
