"""Loads a data set from a name, a path or an object in memory, and splits it into tensors.

    data = load("digits")
    batch = data.batch(data.train, index)    # some examples as a variant gets them, in float32

    source --read--> Raw --split--> indices --Preprocessing.fit, encode--> Data

`Source` names the place, and holds the options that say how it is read. `data.train.x` is stored as
(N, C, H, W), (N, D), or (N, T, D) with a mask (N, T). Sequences may be windows of longer ones (`Raw.windows`), and
may have the times of their steps (`Batch.elapsed`). The type of x decides how `batch` converts it:

    bool     binary values become 0.0 and 1.0
    uint8    grey values of a Bernoulli data set are binarised again each time that a training example is read
    uint8    8-bit pixels (`logistic8`, `mixture8`) are divided by 255
    float32  continuous values, standardised by the training split

`data.preprocessing` turns new rows of the same kind into such tensors, and values of a model into the units of the
source. The grey values of validation and test examples are binarised once.

Importing this package does not import torch, which takes a second, until anything but the names of `_source` is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data._load import *  # noqa: F403
else:
    from pipeline.data._source import KINDS, SPLIT_SEED, Kind, Source  # noqa: F401

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("pipeline.data._load"), name)
