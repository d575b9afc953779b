"""Steps before a study: which precision is taken, and what is said about time and memory."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import data, rehearsal
from pipeline.data import Data, Source
from variants import Config

SMALL = Config(width=8, latent=2)


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits")


@pytest.mark.parametrize(
    ("weights", "gain", "compares", "precision"),
    [(1e6, 1.6, True, "bf16"), (1e6, 1.4, True, "fp32"), (1e6, 1.6, False, "fp32"), (1e4, 1.6, True, "fp32")],
)
def test_bf16_is_taken_where_it_is_clearly_faster(
    weights: float, gain: float, compares: bool, precision: str, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(variant: str, config: Config, data: Data) -> tuple[float, int]:
        return 0.1 / (gain if config.precision == "bf16" else 1), int(weights)

    monkeypatch.setattr(rehearsal, "_step_seconds", measured)
    monkeypatch.setattr(rehearsal, "_has_bf16", lambda device: True)
    result = rehearsal.rehearse("vae", SMALL, digits, compare_precisions=compares)
    assert result.precision == precision
    assert ("steps in bf16 are" in str(result)) == (result.bf16_gain is not None) == (compares and weights > 1e5)
    step = 0.1 / (gain if precision == "bf16" else 1)
    assert math.ceil(len(digits.train) / 128) * step < result.epoch_seconds < len(digits.train) / 128 * 1.3 * step
    assert 1e8 < result.memory < 1e11


def test_a_rehearsal_leaves_the_random_state_as_it_was(digits: Data) -> None:
    before = torch.get_rng_state()
    assert rehearsal.rehearse("vae", SMALL, digits, compare_precisions=True).epoch_seconds > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_time_of_an_epoch_includes_that_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(900, 4)))
    loaded = data.load(Source(place=str(tmp_path / "x.npy"), portion=300))
    assert loaded.stream is not None
    read = loaded.stream.read

    def slow(positions: object) -> object:
        time.sleep(0.2)
        return read(positions)  # type: ignore[arg-type]

    windows = replace(loaded.stream, read=slow, block=10, window=10)  # type: ignore[arg-type]
    monkeypatch.setattr(rehearsal, "_step_seconds", lambda *_: (0.0, 1))
    result = rehearsal.rehearse("vae", SMALL, replace(loaded, stream=windows), compare_precisions=False)
    assert result.epoch_seconds == pytest.approx(0.6, rel=0.2)  # three windows of 100 examples
