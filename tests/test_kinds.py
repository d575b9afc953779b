"""Every variant trains, scores, samples and imputes on every kind of table and sequences, in the units of the data."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.model import Model
from variants import InputError, names

ROWS = 120
TABLES = ("real", "count", "mixed", "missing")
SEQUENCES = ("real", "count", "symbol", "missing")


def table(kind: str) -> pd.DataFrame:
    """Rows that depend on a factor of two values. `missing` is `mixed` with a fifth of its values missing."""
    rng = np.random.default_rng(0)
    factor = rng.random(ROWS) < 0.5
    frame = pd.DataFrame(index=[f"row {i}" for i in range(ROWS)])
    if kind == "count":
        depth = rng.gamma(5, 20, ROWS)
        shares = np.where(factor[:, None], rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(12)))
        return frame.assign(**{f"gene {i}": rng.poisson(depth * share) for i, share in enumerate(shares.T)})
    frame = frame.assign(height=170 + 10 * factor + rng.normal(size=ROWS), weight=60 + 9 * rng.normal(size=ROWS))
    if kind == "real":
        return frame
    frame = frame.assign(
        city=np.where(factor, "Rome", rng.choice(["Oslo", "Lima"], ROWS)), visits=rng.poisson(2 + 5 * factor),
        smoker=np.where(rng.random(ROWS) < 0.3, "yes", "no"), side=rng.integers(1, 3, ROWS),
        amount=np.exp(factor + rng.normal(size=ROWS)),
    )  # fmt: skip
    return frame.mask(rng.random(frame.shape) < 0.2) if kind == "missing" else frame


def sequences(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, ROWS)
    if kind == "symbol":
        return [rng.integers(0, 4, n) for n in lengths]
    if kind == "count":
        return [rng.poisson(30, (n, 2)) for n in lengths]
    series = [np.cumsum(rng.normal(size=(n, 2)), 0) for n in lengths]
    if kind == "missing":
        return [np.where(rng.random(s.shape) < 0.2, np.nan, s) for s in series]
    return series


def check_kinds(values: pd.DataFrame, original: pd.DataFrame, drawn: bool) -> None:
    """Values have the columns of the data in their order, nothing is missing, and each is of its kind."""
    assert list(values) == list(original)
    assert values.notna().all(axis=None)
    for name, column in values.items():
        known = original[name].dropna()
        if name in ("city", "smoker"):
            assert set(column) <= set(known), name
        elif name == "side":
            assert (set(column) <= {1, 2}) if drawn else column.between(1, 2).all()
        elif name == "visits" or str(name).startswith("gene"):
            assert (column >= 0).all(), name
            assert not drawn or (column == column.round()).all(), name
        elif name == "amount":
            assert (column > 0).all()


def check_scores(model: Model, data: Any) -> None:
    assert np.isfinite(np.asarray(model.transform(data))).all()
    assert np.isfinite(np.asarray(model.anomaly(data, by_series=isinstance(data, list)))).all()
    if model.variant == "aae":  # its encoder is deterministic
        with pytest.raises(InputError, match=r"has no density q\(z\|x\).*use anomaly"):
            model.score_samples(data)
    else:
        assert np.isfinite(np.asarray(model.score_samples(data))).all()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("variant", [name for name in names() if name != "vrae"])
def test_a_variant_trains_scores_samples_and_imputes_tables(variant: str, kind: str) -> None:
    frame = table(kind)
    options = {"kinds": {"amount": "positive"}} if "amount" in frame else {}
    model = Model(variant, epochs=2, latent=2, width=8, progress=False, data_options=options)
    model.fit(frame, np.arange(ROWS) % 2)
    check_scores(model, frame)
    by_value = model.score_samples(frame, by_value=True)
    assert list(by_value) == list(frame) and (by_value.notna() == frame.notna()).all(axis=None)
    check_kinds(model.sample(50), frame, drawn=True)
    check_kinds(model.sample(50, noise=False), frame, drawn=False)
    check_kinds(model.reconstruct(frame), frame, drawn=False)
    check_kinds(model.inverse_transform(model.transform(frame)), frame, drawn=False)
    holes = frame.mask(np.random.default_rng(1).random(frame.shape) < 0.1)
    known = holes.notna()
    draws = model.impute(holes, draws=2, importance=50)
    for filled in (model.impute(holes, importance=50), *draws):
        check_kinds(filled, frame, drawn=any(filled is draw for draw in draws))
        assert filled[known].equals(holes[known].astype(filled.dtypes))
    if kind == "count":  # as many counts in a row as in the data
        assert model.sample(200).sum(axis=1).mean() == pytest.approx(frame.sum(axis=1).mean(), rel=0.25)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequences_are_trained_scored_sampled_and_imputed(kind: str) -> None:
    series = sequences(kind)
    options = {"kinds": {"x": "symbols"}} if kind == "symbol" else {}
    model = Model("vrae", epochs=2, latent=2, width=8, progress=False, data_options=options).fit(series)
    check_scores(model, series)
    shapes = [s.reshape(len(s), -1).shape for s in series]
    for values in (model.reconstruct(series), model.score_samples(series, by_value=True)):
        assert [v.shape for v in values] == shapes
    for values in (model.sample(20), model.forecast(series[:5], steps=3)):
        assert np.isfinite(np.concatenate(values)).all()
    holes = [np.where(np.arange(len(s)).reshape(-1, *[1] * (s.ndim - 1)) == 1, np.nan, s) for s in series]
    draws = model.impute(holes, draws=2, importance=50)
    for filled in (model.impute(holes, importance=50), *draws):
        for whole, incomplete in zip(filled, holes, strict=True):
            known = ~np.isnan(incomplete.reshape(whole.shape))
            assert np.isfinite(whole).all() and (whole[known] == incomplete.reshape(whole.shape)[known]).all()
    if kind in ("count", "symbol"):
        whole_numbers = np.concatenate([*model.sample(20), *draws[0]])
        assert (whole_numbers == whole_numbers.round()).all() and whole_numbers.min() >= 0


def test_a_decoder_that_reads_true_steps_does_not_impute() -> None:
    series = [np.random.default_rng(i).normal(size=(6, 2)) for i in range(20)]
    model = Model("vrae", epochs=1, latent=2, width=8, feeding="teacher", progress=False).fit(series)
    with pytest.raises(InputError, match="expected feeding='free'"):
        model.impute(series)
