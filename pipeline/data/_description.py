"""A description of what was understood of a data set, for people to check before any work starts."""

from dataclasses import dataclass

import torch

from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw


@dataclass(frozen=True, kw_only=True)
class Description:
    """What was understood of a data set."""

    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def describe(raw: Raw, splits: list[torch.Tensor], preprocessing: Preprocessing) -> Description:
    """Describe a data set that was read and split."""
    return Description(notes=raw.notes, warnings=raw.warnings)
