"""How unusual each value and each step of sequences is to a model, and thresholds from the scores of training examples.

A value x_i, of one channel at one step, has two scores, both in nats and higher for unusual values:

    reconstruction   -E log p(x_i|z), where z ~ q(z|x) has seen x_i itself
    surprise         -log p(x_i|all other values of the sequence), the conditional predictive ordinate (Gelfand, Dey &
                     Chang 1992)

With w_k = p(x, z_k) / q(z_k|x) and z_k ~ q(z|x), the surprise is estimated by importance sampling of p(z|others):

    r_k = w_k / p(x_i|z_k)          p(x_i|others) = sum_k r_k p(x_i|z_k) / sum_k r_k

A few r_k can be far larger than all others, and the sum then has a large variance. They are therefore cut off at their
mean times the root of their number (Ionides 2008). On linear Gaussian models of 20 to 2,000 values, whose surprise is
known exactly, this had errors as small as those of Pareto smoothing (Vehtari et al. 2017), and smaller ones than the
sum as it is. If q(z|x) is far from the posterior, even many draws do not help: the surprise of an unusual value is then
too low, and about as large as the reconstruction.

The surprise is not defined if q(z|x) has no density, or if the values of x depend on each other given z.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from pipeline import machine
from pipeline.data import Data, Preprocessing, Raw
from pipeline.evaluate import detectors, scores
from pipeline.evaluate.likelihood import every_class
from pipeline.evaluate.probe import subset
from pipeline.evaluate.scores import DRAWS
from pipeline.evaluate.whole_series import SeriesSteps
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]
Progress = Callable[[Sequence[int]], Iterable[int]]  # shows how many parts of a work are done, as `tqdm.tqdm` does
VALUES = 1 << 21  # the most values, of all draws, that are scored at a time
MOST, FEWEST, FEWEST_SEQUENCES = 256, 100, 20  # training examples that are scored for thresholds
TRAINING_VALUES = 5_000  # if the examples have more values than this together, fewer of them are scored
SHARES = np.logspace(-4, 0, 41)  # of training scores above a quantile


def value_scores(
    variant: Variant, batch: Batch, preprocessing: Preprocessing, seed: int, progress: Progress = iter
) -> tuple[dict[str, Array], Array]:
    """Return the scores of each value of sequences by name, and that of each sequence.

    The former are (B, T, C) with C channels, and NaN for missing values and padding. There is no `surprise` if it is
    not defined for the variant. The latter, (B,), is that of `scores.unusualness`, by other draws. `progress` iterates
    over the parts of the batch, and may show how many are done.
    """
    values = DRAWS * batch.x[0].numel() * len(every_class(variant, batch[slice(0, 1)]))
    size = max(1, VALUES // values)
    parts, of_sequences = [], []
    for start in progress(range(0, len(batch), size)):
        part = preprocessing.binarized(batch[slice(start, start + size)]).unlabelled.to(variant.device)
        with machine.seeded(variant.device, seed):
            each, of_sequence = _scores_of_part(variant, part, preprocessing)
        parts.append(each)
        of_sequences.append(of_sequence)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, np.concatenate(of_sequences)


def _scores_of_part(variant: Variant, batch: Batch, preprocessing: Preprocessing) -> tuple[dict[str, Array], Array]:
    known = torch.ones_like(batch.x, dtype=torch.bool) if batch.known is None else batch.known.expand_as(batch.x)
    missing = preprocessing.by_column(known) == 0
    by_class = [_draws(variant, labelled, preprocessing) for labelled in every_class(variant, batch)]
    if by_class[0] is None:
        each = preprocessing.by_column(-variant.log_likelihood(variant.encode(batch), batch))
        return {"reconstruction": np.where(missing, np.nan, each)}, each.sum((1, 2))
    parts = [part for part in by_class if part is not None]
    log_p = np.concatenate([part[0] for part in parts])  # (classes K, B, T, C)
    log_w = np.stack([part[1] for part in parts])  # (classes, K, B)
    of_sequence = math.log(DRAWS) - logsumexp(log_w, (0, 1))
    p_class = np.exp(logsumexp(log_w, 1) - logsumexp(log_w, (0, 1)))  # (classes, B), given x
    weight = np.repeat(p_class / DRAWS, DRAWS, axis=0)
    result = {"reconstruction": -np.einsum("kb,kbtc->btc", weight, log_p)}
    if variant.factorized:
        result["surprise"] = surprise(log_p, log_w.reshape(len(log_p), -1))
    return {name: np.where(missing, np.nan, values) for name, values in result.items()}, of_sequence


def _draws(variant: Variant, batch: Batch, preprocessing: Preprocessing) -> tuple[Array, Array] | None:
    """Return log p(x_i|z) of each value and log p(x, z) - log q(z|x) of draws of z, (K, B, T, C) and (K, B).

    Returns None if q(z|x) has no density.
    """
    with machine.EqualNoise(len(batch)):
        proposal = variant.sample_posterior(batch, DRAWS)
    if proposal is None:
        return None
    codes, log_q = (draws.unflatten(0, (len(batch), DRAWS)) for draws in proposal)
    log_p, log_w = [], []
    for k in range(DRAWS):
        z = codes[:, k]
        each = variant.log_likelihood(z, batch)
        log_w.append((variant.log_prior(z, batch) + each.flatten(1).sum(1) - log_q[:, k]).double().cpu().numpy())
        log_p.append(preprocessing.by_column(each))
    return np.stack(log_p), np.stack(log_w)


def surprise(log_p: Array, log_w: Array) -> Array:
    """Return -log p(x_i|all other values), (B, ...), in nats, from K draws of z ~ q(z|x).

    Args:
        log_p: log p(x_i|z) of each value, (K, B, ...).
        log_w: log p(x, z) - log q(z|x) of each draw, (K, B).
    """
    draws = len(log_p)
    log_r = log_w.reshape(*log_w.shape, *[1] * (log_p.ndim - 2)) - log_p
    log_r = np.minimum(log_r, logsumexp(log_r, 0) - 0.5 * math.log(draws))
    result: Array = logsumexp(log_r, 0) - logsumexp(log_r + log_p, 0)
    return result


def of_steps(values: Array) -> Array:
    """Return the sum over the channels of scores (..., C); NaN where all are NaN."""
    return np.where(np.isnan(values).all(-1), np.nan, np.nansum(values, -1))


@dataclass(frozen=True, kw_only=True)
class TrainingScores:
    """Quantiles of the scores of some training examples, and the mean and standard deviation of their values.

    `quantiles` has, for each kind of score, the values that the shares `SHARES` of the scores exceed. The kinds are
    `example`, and for sequences `step NAME` and `channel I NAME`. `mean` and `deviation` have an entry for each value
    of a step, or of a row, as a model reads it; they are empty for images.
    """

    examples: int
    steps: int  # that have a known value; 0 if the examples are no sequences
    quantiles: Mapping[str, tuple[float, ...]]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def threshold(self, kind: str, share: float) -> float:
        """Return the score of a kind that a share of the training scores exceeds; infinity if there are no scores.

        Raises:
            InputError: If there are fewer than 1 / share training scores, or the share is below the smallest one for
                which a quantile is kept.
        """
        n = self.examples if kind == "example" else self.steps
        most = min(max(n, 1), round(1 / SHARES[0]))
        if not 1 / most <= share < 1:
            raise InputError(f"share={share:g}: expected a share from 1/{most} to below 1 of the {n:,} training scores")
        if not self.quantiles[kind]:
            return math.inf
        return float(np.interp(math.log(share), np.log(SHARES), self.quantiles[kind]))

    def json(self) -> dict[str, Any]:
        """Return the scores as a mapping that JSON can hold."""
        return asdict(self)

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Self:
        """Restore the scores from what `json` returned."""
        tuples = {name: tuple(facts[name]) for name in ("mean", "deviation")}
        quantiles = {kind: tuple(values) for kind, values in facts["quantiles"].items()}
        return cls(**{**facts, **tuples, "quantiles": quantiles})


def training_scores(variant: Variant, data: Data) -> TrainingScores:
    """Score a fixed subset of the training examples, and return the quantiles of their scores.

    It has at most `MOST` examples, and fewer of many values, so that it takes about as long as an epoch of a small data
    set.
    """
    spec, preprocessing = data.spec, data.preprocessing
    fewest = FEWEST_SEQUENCES if spec.steps else FEWEST
    split = subset(data.train, min(MOST, max(fewest, TRAINING_VALUES // data.train.x[0].numel())))
    found: dict[str, Array] = {}
    variant.eval()
    if spec.steps:
        each, found["example"] = value_scores(variant, split.to("cpu"), preprocessing, 0)
        for name, values in each.items():
            found[f"step {name}"] = of_steps(values)
            found |= {f"channel {i} {name}": values[..., i] for i in range(values.shape[-1])}
    else:
        of_examples = []
        for batch in data.batches(split):
            with machine.seeded(variant.device, 0):
                of_examples.append(scores.unusualness(variant, batch).cpu().numpy())
        found["example"] = np.concatenate(of_examples)
    mean, deviation = np.zeros(0), np.zeros(0)
    if len(spec.shape) == 1:
        x = detectors.with_gaps(preprocessing.binarized(split.to("cpu")))
        mean, deviation = detectors.moments(x.reshape(-1, x.shape[-1]))
    if spec.steps:
        for name, trivial in detectors.trivial_scores(list(x), mean, deviation).items():
            found[f"step {name}"] = np.concatenate(trivial)
    return TrainingScores(
        examples=len(split), steps=int((~np.isnan(found["step reconstruction"])).sum()) if spec.steps else 0,
        quantiles=_quantiles(found), mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()),
    )  # fmt: skip


def _quantiles(found: Mapping[str, Array]) -> dict[str, tuple[float, ...]]:
    known = {kind: values[~np.isnan(values)] for kind, values in found.items()}
    return {kind: tuple(np.quantile(v, 1 - SHARES).tolist()) if len(v) else () for kind, v in known.items()}


def preferred(names: Collection[str]) -> str:
    """Return the score that marks anomalies if none is named: the surprise, if it is defined for the variant."""
    return "surprise" if "surprise" in names else "reconstruction"


def of_series(values: Array, raw: Raw, share: float | None) -> Any:
    """Return a pandas Series with the score of each series, in nats per step, from the scores of its windows (N,).

    It is the mean over the steps of a series, and over the windows that cover a step, of the score of a window divided
    by its length.

    Raises:
        InputError: If there is a `share`, because the thresholds are those of windows.
    """
    import pandas

    assert raw.lengths is not None
    if share is not None:
        raise InputError(
            f"share={share:g}: the thresholds of this model are those of windows, and not of whole series; expected no "
            "share, or scores of the steps"
        )
    steps = SeriesSteps.of(raw)
    each = steps.mean(np.repeat((values / raw.lengths)[:, None], raw.mask.shape[1], axis=1))
    return pandas.Series([float(own.mean()) for own in steps.split(each)], index=steps.names)


def frame_of_steps(
    values: Array, raw: Raw, names: list[str], score: str, limits: TrainingScores | None, share: float | None
) -> Any:
    """Return a data frame with a row for each step of all series, from scores (R, C) of each channel.

    Its columns are the series, the step or its time stamp, `anomaly` with the sum over the channels, and
    `anomaly_CHANNEL`. With `limits`, there are also `is_anomaly` and `is_anomaly_CHANNEL`, which are true where a score
    exceeds the threshold.

    Raises:
        InputError: If the column of the series or of the channel has a name that is needed for another one.
    """
    import pandas

    of_step, marks = {"anomaly": of_steps(values)}, {}
    of_step |= {f"anomaly_{name}": values[:, i] for i, name in enumerate(names)}
    if limits is not None and share is not None:
        kinds = [f"step {score}", *(f"channel {i} {score}" for i in range(len(names)))]
        for (name, column), kind in zip(of_step.items(), kinds, strict=True):
            marks[f"is_{name}"] = column > limits.threshold(kind, share)
    labels = SeriesSteps.of(raw).labels(raw)
    if taken := [name for name in labels if name in of_step or name in marks]:
        raise InputError(f"{raw.source}: the results need a column {taken[0]!r} of their own; rename this column")
    return pandas.DataFrame({**labels, **of_step, **marks})
