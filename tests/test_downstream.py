"""Downstream tasks of models whose results are known, and the classifier that judges samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from test_likelihood import LinearDecoder, linear_gaussian
from torch import Tensor

from pipeline import data
from pipeline.data import Data, Preprocessing, Source
from pipeline.evaluate import anomaly, areas, classifier, downstream, hidden_values
from pipeline.evaluate.estimates import root_mean_square
from pipeline.metrics import Undefined, defined
from variants import Batch, DataSpec, InputError, Variant
from variants.aae import AAE
from variants.base.contract import Group
from variants.cvae import CVAE
from variants.vae import VAE
from variants.vrae import VRAE


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One folder for all tests of this file."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.mark.slow
def test_the_classifier_knows_digits_and_is_kept(digits: Data, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = defined(classifier.trained(digits))
    assert classifier.accuracy(first, digits, digits.test) > 0.85
    features, predicted = classifier.features(first, digits, digits.test)
    assert features.shape == (len(digits.test), 64)
    assert float((predicted == digits.test.y.numpy()).mean()) == classifier.accuracy(first, digits, digits.test)  # type: ignore[union-attr]
    assert classifier.features(first, digits, digits.train)[0].var(axis=0).mean() == pytest.approx(1, rel=0.05)
    assert len(list((cache / "vae-variants" / "judges").glob(f"digits-*-{classifier.HASH}.safetensors"))) == 1
    monkeypatch.setattr(classifier, "fit", None)  # a second one is not trained
    again = classifier.features(defined(classifier.trained(digits)), digits, digits.test)[0]
    np.testing.assert_array_equal(again, features)


def test_rows_of_an_image_are_classified_as_the_image(digits: Data) -> None:
    spec = DataSpec(name="rows", shape=(8,), likelihood=digits.spec.likelihood, classes=10, steps=8)
    rows = replace(digits, preprocessing=replace(digits.preprocessing, spec=spec))
    torch.manual_seed(0)
    whole = classifier.Classifier(digits)
    torch.manual_seed(0)
    by_rows = classifier.Classifier(rows)
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(whole(Batch(x))[1], by_rows(Batch(x[:, 0]))[1])


def test_a_classifier_of_sequences_does_not_see_padding() -> None:
    spec = DataSpec(name="sequences", shape=(2,), likelihood="gaussian", classes=3, steps=6)
    network = classifier.Classifier(sequences(spec, Batch(torch.zeros(1))))
    x, mask = torch.randn(4, 6, 2), torch.arange(6) < torch.tensor([3, 4, 5, 6])[:, None]
    other = torch.where(mask[..., None], x, 99.0)
    torch.testing.assert_close(network(Batch(x, mask=mask))[1], network(Batch(other, mask=mask))[1])


def test_accuracy_is_that_of_the_labelled_examples(digits: Data) -> None:
    network = classifier.Classifier(digits)
    predicted = classifier.features(network, digits, digits.test)[1]
    y = torch.from_numpy(predicted).clone()
    y[::2] = -1
    assert classifier.accuracy(network, digits, replace(digits.test, y=y)) == 1
    y[1] = (y[1] + 1) % 10
    assert classifier.accuracy(network, digits, replace(digits.test, y=y)) == 1 - 1 / (len(y) // 2)


def test_without_labels_there_is_no_classifier() -> None:
    _, plane, _ = linear_gaussian(1.0)
    assert reason(classifier.trained(plane)) == "the classifier of samples needs labels, and data set plane has none"


def test_a_damaged_file_in_the_cache_is_an_error(digits: Data, cache: Path) -> None:
    """Not a reason why there is no classifier. The message names the file."""
    name = f"digits-{digits.digest[:16]}-{classifier.HASH}.safetensors"
    path = cache / "damaged" / "vae-variants" / "judges" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no tensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache / "damaged"))
        with pytest.raises(InputError, match=rf"{name} is damaged"):
            classifier.trained(digits)


def sequences(spec: DataSpec, split: Batch, scale: float = 1.0) -> Data:
    """Return data whose splits are all the same."""
    preprocessing = Preprocessing(
        spec=spec, layout="lines", source=Source(place="mine"), scale=torch.full((1,), scale, dtype=torch.float64)
    )
    return Data(train=split, valid=split, test=split, digest="", preprocessing=preprocessing)


def run(task: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return defined(task(*arguments, **options))


def reason(value: object) -> str:
    assert isinstance(value, Undefined), value
    return value.reason


def odd(plane: Data, move: Tensor) -> tuple[Batch, Any]:
    """200 examples of the model, and 100 of them moved; the class is whether they were."""
    x = torch.cat([plane.test.x[:200], plane.test.x[200:] + move])
    y = torch.cat([torch.zeros(200), torch.ones(100)]).long()
    return Batch(x, y), y.numpy()


def test_anomalies_are_seen_by_the_score_that_can_see_them() -> None:
    """Far along W: the code is strange, the reconstruction is not. Across W: the other way round."""
    variant, plane, _ = linear_gaussian(1.0)
    w = variant.decoder.weight.detach()  # type: ignore[union-attr]
    across = torch.linalg.svd(w.T)[2][-1] * 6
    along, _ = odd(plane, w[:, 0] * 6)
    scores = anomaly.one_class(variant, plane, along, 0)
    assert scores["latent"].value > 0.99
    assert scores["reconstruction"].value < 0.9  # a code is drawn towards the prior, which leaves a little
    scores = anomaly.one_class(variant, plane, odd(plane, across)[0], 0)
    assert scores["reconstruction"].value > 0.99
    assert abs(scores["latent"].value - 0.5) < 0.1


def test_anomaly_by_the_bound_is_that_of_the_exact_likelihood() -> None:
    variant, plane, _ = linear_gaussian(1.0)
    w, b = variant.decoder.weight.detach(), variant.decoder.bias.detach()  # type: ignore[union-attr, operator]
    split, strange = odd(plane, torch.tensor([1.0, 0.5, -0.5, 0.3]))
    density = torch.distributions.MultivariateNormal(b, w @ w.T + 0.36 * torch.eye(4))
    exact = roc_auc_score(strange, -density.log_prob(split.x).numpy())
    assert 0.55 < exact < 0.95
    scores = anomaly.one_class(variant, plane, split, 0)
    assert scores["iw"].value == pytest.approx(exact, abs=1e-3)  # with the exact posterior every draw is exact
    flipped = anomaly.one_class(variant, plane, replace(split, y=1 - split.y), 0)  # type: ignore[operator]
    assert flipped["iw"].value == pytest.approx(1 - exact, abs=1e-3)
    assert "class '7' as normal" in anomaly.why_not_normal(plane, split, 7)


def test_a_score_of_the_variant_itself_is_high_for_the_ordinary() -> None:
    _, plane, _ = linear_gaussian(1.0)
    torch.manual_seed(0)
    aae = AAE(AAE.config_type(latent=2, width=8), plane.spec).eval()
    split, strange = odd(plane, torch.full((4,), 3.0))
    with torch.no_grad():
        score = aae.terms(split, torch.zeros(())).extras["discriminator_score"]
    scores = anomaly.one_class(aae, plane, split, 0)
    assert scores["discriminator"].value == pytest.approx(roc_auc_score(strange, -score.numpy()))
    assert "elbo" not in scores


def test_mahalanobis_is_that_of_scipy_and_leaves_dead_columns_out() -> None:
    from scipy.spatial.distance import mahalanobis

    rng = np.random.default_rng(0)
    known, points = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 3)) + 2, rng.standard_normal((5, 3))
    inverse = np.linalg.inv(np.cov(known, rowvar=False))
    wanted = [mahalanobis(p, known.mean(axis=0), inverse) for p in points]
    assert anomaly.mahalanobis(points, known) == pytest.approx(wanted)
    dead = [np.column_stack([x, np.zeros(len(x))]) for x in (points, known)]
    assert anomaly.mahalanobis(*dead) == pytest.approx(wanted)


def test_imputation_finds_the_exact_conditional() -> None:
    """Of a linear-Gaussian model log p(missing|seen) is the difference of two normal densities."""
    variant, plane, _ = linear_gaussian(1.0)
    w, b = variant.decoder.weight.detach(), variant.decoder.bias.detach()  # type: ignore[union-attr, operator]
    covariance = w @ w.T + 0.36 * torch.eye(4)
    few = plane.test[slice(0, 40)]
    hiding = hidden_values.hidden(plane, few)
    assert 0.3 < float(hiding.float().mean()) < 0.7
    scores = run(hidden_values.imputation, variant, plane, few, chains=40, rounds=260)

    def density(x: Tensor, kept: Tensor) -> float:
        if not kept.any():
            return 0.0
        return float(torch.distributions.MultivariateNormal(b[kept], covariance[kept][:, kept]).log_prob(x[kept]))

    every = torch.ones(4, dtype=torch.bool)
    exact = [density(x, ~g) - density(x, every) for x, g in zip(few.x, hiding, strict=True)]
    assert float(np.mean(scores["gibbs"] - exact)) == pytest.approx(0, abs=0.02)
    assert np.abs(scores["gibbs"] - exact).max() < 0.15
    assert float(np.median(scores["importance"] - exact)) == pytest.approx(0, abs=0.03)
    assert float(np.mean(scores["importance"] - exact)) == pytest.approx(0, abs=0.15)
    assert scores["gibbs"].mean() < scores["mean"].mean()
    m, v = plane.train.x.mean(0), (plane.train.x.var(0) * hiding).sum(1, keepdim=True) / hiding.sum(1, keepdim=True)
    v = v.nan_to_num(1.0)  # of a row that lacks nothing
    each = 0.5 * ((few.x - m).square() / v + torch.log(2 * math.pi * v)) * hiding
    assert scores["mean"] == pytest.approx(each.sum(1).numpy(), rel=1e-4)


def test_neighbours_fill_in_by_what_is_seen_alone(digits: Data) -> None:
    """Binary values: the mean of the nearest 20 by the pixels that are seen, with Laplace's rule."""
    binary = replace(
        digits,
        preprocessing=replace(
            digits.preprocessing, spec=DataSpec(name="bits", shape=(1, 8, 8), likelihood="bernoulli", classes=10)
        ),
        **{s: replace(getattr(digits, s), x=getattr(digits, s).x > 7) for s in ("train", "valid", "test")},
    )
    variant = VAE(VAE.config_type(latent=2, width=8), binary.spec)
    few = binary.test[slice(0, 6)]
    scores = run(hidden_values.imputation, variant, binary, few, chains=2, rounds=12)
    train = binary.train.x.float().flatten(1)
    for i in range(6):
        x = few.x[i].float().flatten()
        apart = (train[:, :32] - x[:32]).square().sum(1)
        radius = apart.sort().values[19]
        sure = train[apart < radius]
        if len(sure) + int((apart == radius).sum()) != 20:
            continue  # a tie at the rim: either choice is right
        p = (train[apart <= radius][:, 32:].sum(0) + 1) / 22
        assert scores["knn"][i] == pytest.approx(
            float(-(x[32:] * p.log() + (1 - x[32:]) * (1 - p).log()).sum()), rel=1e-4
        )
    p = (train[:, 32:].sum(0) + 1) / (len(train) + 2)
    x = few.x.float().flatten(1)[:, 32:]
    wanted = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    assert scores["mean"] == pytest.approx(wanted.numpy(), rel=1e-4)


def table(spec: DataSpec, train: Batch, test: Batch) -> Data:
    preprocessing = Preprocessing(spec=spec, layout="table", source=Source(place="mine"))
    return Data(train=train, valid=test, test=test, digest="", preprocessing=preprocessing)


def test_hidden_values_are_observed_ones_and_whole_categories() -> None:
    groups = (Group(likelihood="poisson", size=2), Group(likelihood="categorical", size=3))
    spec = DataSpec(name="mixed", shape=(5,), likelihood="mixed", groups=groups, exposure="sum", missing=True)
    generator = torch.Generator().manual_seed(1)
    observed = (torch.rand(400, 3, generator=generator) < 0.7).repeat_interleave(torch.tensor([1, 1, 3]), 1)
    x = torch.randint(1, 9, (400, 5), generator=generator) * observed
    split = Batch(x.float(), observed=observed, exposure=x[:, :2].sum(1).float())
    missing = hidden_values.hidden(table(spec, split, split), split)
    assert not (missing & ~observed).any()
    assert float(missing.sum() / observed.sum()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(missing[:, 2], missing[:, 3]) and torch.equal(missing[:, 2], missing[:, 4])
    rest = hidden_values.hide(split, missing, spec)
    assert torch.equal(rest.observed, observed & ~missing)  # type: ignore[arg-type]
    assert not rest.x[~(observed & ~missing)].any()
    assert torch.equal(rest.exposure, (x * (observed & ~missing))[:, :2].sum(1))  # type: ignore[arg-type]


class ExactPosterior(VAE):
    """x = w z + b + 0.5 e, with one z, and the exact posterior of z given the observed values."""

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        w, b = (p.detach() for p in (self.decoder.weight[:, 0], self.decoder.bias))  # type: ignore[index, union-attr]
        known = torch.ones_like(batch.x) if batch.observed is None else batch.observed.float()
        variance = 1 / (1 + (known * w.square()).sum(1, keepdim=True) / 0.25)
        return variance * (known * w * (batch.x - b)).sum(1, keepdim=True) / 0.25, variance.log()


def spread_of_resampled_roots(squared: Sequence[Tensor]) -> float:
    """Return the bootstrap error of a root mean square, for which whole examples are drawn anew."""
    sums, counts = (np.array([float(f(each)) for each in squared]) for f in (torch.sum, torch.numel))
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    return float(np.sqrt(sums[drawn].sum(1) / counts[drawn].sum(1)).std())


def test_imputation_with_an_encoder_that_reads_what_is_missing_is_exact() -> None:
    """-log p(missing|observed) and errors of conditional means equal those of a normal distribution."""
    spec = DataSpec(name="line", shape=(5,), likelihood="gaussian", missing=True)
    variant = ExactPosterior(VAE.config_type(latent=1, width=1), spec)
    variant.decoder = LinearDecoder(1, 5)  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    w, b = torch.tensor([1.2, -0.8, 0.5, 1.0, 0.0]), torch.tensor([0.3, 0, 0, -0.2, 0])
    with torch.no_grad():
        variant.decoder.weight.copy_(w[:, None])
        variant.decoder.bias.copy_(b)
        variant.observation.families[0].log_scale.fill_(math.log(0.5))
    x = torch.randn(340, 1, generator=generator) * w + b + 0.5 * torch.randn(340, 5, generator=generator)
    observed = torch.rand(340, 5, generator=generator) < 0.8
    whole = Batch(x * observed, observed=observed)
    made = table(spec, whole[slice(40, 340)], whole[slice(0, 40)])
    missing = hidden_values.hidden(made, made.test)
    scores = run(hidden_values.imputation, variant, made, made.test)
    assert set(scores) == {"encoder", "importance", "mean", "knn"}
    covariance, losses, squared = torch.outer(w, w) + 0.25 * torch.eye(5), [], []
    for row, seen, gap in zip(x, observed, missing, strict=False):
        rest = seen & ~gap
        solved = torch.linalg.solve(covariance[rest][:, rest], covariance[rest][:, gap])
        mean = b[gap] + (row[rest] - b[rest]) @ solved
        spread = covariance[gap][:, gap] - covariance[gap][:, rest] @ solved
        squared.append((row[gap] - mean).square())
        losses.append(
            -float(torch.distributions.MultivariateNormal(mean, spread).log_prob(row[gap])) if gap.any() else 0.0
        )
    for name in ("encoder", "importance"):
        assert scores[name] == pytest.approx(losses, abs=0.25)
        assert scores[name].mean() == pytest.approx(np.mean(losses), abs=0.02)
    errors = run(hidden_values.imputation_error, variant, made, made.test)
    assert errors["rmse"].value == pytest.approx(float(torch.cat(squared).mean().sqrt()), abs=0.01)
    assert errors["rmse_mean"].value == pytest.approx(float(x[:40][missing].square().mean().sqrt()), abs=1e-5)
    assert errors["rmse"].value < errors["rmse_knn"].value < errors["rmse_mean"].value
    each = [row[gap].square() for row, gap in zip(x, missing, strict=False)]
    assert errors["rmse_mean"].error == pytest.approx(spread_of_resampled_roots(each), rel=0.15)


@pytest.mark.parametrize("is_missing", [False, True])
def test_the_sum_of_hidden_counts_is_not_known(is_missing: bool) -> None:
    """The means of hidden counts depend only on the counts that remain."""
    rates = torch.tensor([1.0, 2.0, 4.0, 8.0])
    group = Group(likelihood="poisson", size=4, offset=tuple(rates.log().tolist()))
    spec = DataSpec(
        name="counts", shape=(4,), likelihood="poisson", groups=(group,), exposure="sum", missing=is_missing
    )
    variant = VAE(VAE.config_type(latent=1, width=2), spec)
    torch.nn.init.zeros_(variant.decoder.net[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(variant.decoder.net[-1].bias)  # type: ignore[arg-type]
    x = torch.poisson(rates.expand(60, 4) * 2, generator=torch.Generator().manual_seed(0))
    observed = torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < 0.8 if is_missing else None
    x = x if observed is None else x * observed
    split = Batch(x, observed=observed, exposure=x.sum(1))
    made = table(spec, split, split)
    missing = hidden_values.hidden(made, split)
    rest = ~missing if observed is None else observed & ~missing
    totals = (x * rest).sum(1)
    means = rates * (totals / (rest * rates).sum(1))[:, None]
    exact = (-torch.distributions.Poisson(means, validate_args=False).log_prob(x) * missing).sum(1)[totals > 0]
    scores = run(hidden_values.imputation, variant, made, split, chains=2, rounds=11)
    assert len(scores["mean"]) == int((totals > 0).sum()) < 60
    for values in (scores["encoder" if is_missing else "gibbs"], scores["mean"]):
        assert values == pytest.approx(exact.numpy(), rel=1e-4)


Payments = tuple[Variant, Data, Any, Any]


@pytest.fixture(scope="module")
def payments() -> Payments:
    """A model that knows the density of payments exactly, 2,000 test payments, that density and the frauds among them.

    40 of the test payments are frauds, and 20 are refunds; of the 1,980 training payments, 20 are of each.
    """
    variant, _, _ = linear_gaussian(1.0)
    w, b = variant.decoder.weight.detach(), variant.decoder.bias.detach()  # type: ignore[union-attr, operator]
    density = torch.distributions.MultivariateNormal(b, w @ w.T + 0.36 * torch.eye(4))
    torch.manual_seed(0)
    x = density.sample((2000,))
    y = torch.ones(2000, dtype=torch.int64)
    y[:40], y[40:60] = 0, 2
    x[:40] += torch.tensor([2.0, 1.0, -1.0, 0.6])
    x[40:60] += torch.tensor([0.0, 0.0, 1.0, 1.0])
    spec = DataSpec(name="payments", shape=(4,), likelihood="gaussian", classes=3)
    made = table(spec, Batch(x, y)[slice(20, 2000)], Batch(x, y))
    names = replace(made.preprocessing, class_names=("fraud", "ok", "refund"))
    return variant, replace(made, preprocessing=names), -density.log_prob(x).numpy(), y.numpy()


def test_anomalies_are_the_classes_other_than_the_most_frequent_one(payments: Payments) -> None:
    """The areas are those of the exact density, whatever the order of the classes."""
    variant, made, score, y = payments
    found = run(anomaly.detect, variant, made)
    assert made.preprocessing.class_names[found.normal] == "ok"
    assert found.share == pytest.approx(60 / 2000)
    assert found.trained_share == pytest.approx(40 / 1980)
    values = found.areas()
    assert values["roc_iw"].value == pytest.approx(roc_auc_score(y != 1, score), abs=1e-3)
    assert values["precision_recall_iw"].value == pytest.approx(average_precision_score(y != 1, score), abs=5e-3)
    assert values["roc_iw"].value > 0.8
    assert values["precision_recall_iw"].value > 5 * found.share
    centred = np.linalg.norm((made.test.x - made.train.x.mean(0)).numpy(), axis=1)
    assert values["roc_distance_from_mean"].value == pytest.approx(roc_auc_score(y != 1, centred), abs=1e-4)
    assert 0.6 < values["roc_isolation_forest"].value < values["roc_iw"].value
    assert found.remark(made) == "class 'ok' counts as normal in the detection of anomalies"

    train, test = (replace(part, y=torch.tensor([2, 0, 1])[part.y]) for part in (made.train, made.test))
    assert run(anomaly.detect, variant, replace(made, train=train, test=test)).areas() == values


def test_each_class_is_compared_with_the_normal_one_by_its_name(payments: Payments) -> None:
    variant, made, score, y = payments
    rows = run(anomaly.detect, variant, made).by_class(made)
    assert (rows["class"], rows["n"], rows["score"]) == (["fraud", "refund"], [40, 20], ["iw", "iw"])
    for i, c in enumerate((0, 2)):
        chosen = (y == c) | (y == 1)
        assert rows["roc"][i] == pytest.approx(roc_auc_score(y[chosen] == c, score[chosen]), abs=1e-3)
        assert rows["share"][i] == pytest.approx((y == c).sum() / chosen.sum())
        assert rows["precision_recall"][i] > rows["share"][i]
    no_refunds = replace(made, test=made.test[torch.tensor([0, 1, *range(60, 2000)])])
    rows = run(anomaly.detect, variant, no_refunds).by_class(made)
    assert (rows["n"], rows["roc"][1], rows["precision_recall_error"][1]) == ([2, 0], None, None)


def test_the_normal_class_is_named_as_in_the_data(payments: Payments) -> None:
    variant, made, score, y = payments
    found = run(anomaly.detect, variant, made, anomaly.class_number(made, "fraud"))
    assert found.areas()["roc_iw"].value == pytest.approx(roc_auc_score(y != 0, score), abs=1e-3)
    remark = found.remark(made)
    assert "class 'fraud' counts as normal" in remark
    assert "no better than trivial (" in remark
    assert "was trained on the classes that count as anomalies here, too: 99% of the training examples" in remark
    with pytest.raises(InputError, match="--normal Fraud: expected a class of payments, which are fraud, ok, refund"):
        anomaly.class_number(made, "Fraud")
    only_ok = replace(made, test=made.test[slice(60, 2000)])
    assert "class 'ok' as normal: expected test examples of it and of other classes" in reason(
        anomaly.detect(variant, only_ok)
    )


def test_a_rare_class_is_never_the_one_class_that_a_model_is_trained_on(payments: Payments, digits: Data) -> None:
    assert anomaly.frequent_classes(payments[1], 3) == [1]
    counts = np.bincount(digits.train.y.numpy())  # type: ignore[union-attr]
    chosen = anomaly.frequent_classes(digits, 3)
    assert sorted(counts[chosen]) == sorted(counts)[-3:]
    assert sorted(anomaly.frequent_classes(digits, 10)) == list(range(10))


def test_areas_are_those_of_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for score in (rng.standard_normal(300), rng.integers(0, 5, 300).astype(float), np.zeros(300)):
        is_positive = rng.random(300) < 0.1
        assert areas.roc_area(score, is_positive).value == pytest.approx(roc_auc_score(is_positive, score))
        precision = areas.average_precision(score, is_positive).value
        assert precision == pytest.approx(average_precision_score(is_positive, score))
    perfect = areas.roc_area(np.arange(10.0), np.arange(10) > 5)
    assert perfect == (1.0, None)
    assert areas.roc_area(np.arange(10.0), np.arange(10) == 5).error is None


def test_the_error_of_a_root_mean_square_is_the_spread_over_samples() -> None:
    """Of examples that have between 1 and 30 values."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 31, (400, 150)).astype(np.float64)
    results = [root_mean_square(rng.chisquare(n), n) for n in counts]
    assert np.mean([each.error or 0.0 for each in results]) == pytest.approx(
        np.std([r.value for r in results]), rel=0.1
    )
    assert root_mean_square(np.array([8.0]), np.array([2.0])) == (2, None)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_errors_of_areas_are_the_spread_over_samples(shift: float) -> None:
    """A random score has a ROC area of 0.5 within its error. The error of the average precision is rough for it."""
    is_positive = np.arange(500) < 40
    scores = np.random.default_rng(1).standard_normal((200, 500)) + shift * is_positive
    for area, reference, rel in (
        (areas.roc_area, roc_auc_score, 0.2), (areas.average_precision, average_precision_score, 0.2 if shift else 0.4),
    ):  # fmt: skip
        spread = np.std([reference(is_positive, score) for score in scores])
        errors = [area(score, is_positive).error or 0.0 for score in scores[:40]]
        assert np.mean(errors) == pytest.approx(spread, rel=rel)

    value, error = areas.roc_area(scores[0], is_positive)
    assert (abs(value - 0.5) < 2 * (error or 0.0)) == (shift == 0)


def test_a_difference_of_areas_has_the_error_of_pairs() -> None:
    """Two scores that see almost the same differ by little, with an error that is much smaller than that of each."""
    rng = np.random.default_rng(2)
    is_positive = np.arange(400) < 60
    first = rng.standard_normal((200, 400)) + is_positive
    second = first + 0.2 * rng.standard_normal(first.shape)
    differences = [areas.roc_difference(a, b, is_positive) for a, b in zip(first, second, strict=True)]
    expected = areas.roc_area(first[0], is_positive).value - areas.roc_area(second[0], is_positive).value
    assert differences[0].value == pytest.approx(expected)
    spread = np.std([difference.value for difference in differences])
    assert np.mean([difference.error or 0.0 for difference in differences]) == pytest.approx(spread, rel=0.2)


def test_missing_values_look_the_same_to_the_classifier_whatever_they_hold() -> None:
    spec = DataSpec(name="table", shape=(3,), likelihood="negative-binomial", classes=2, missing=True)
    network = classifier.Classifier(table(spec, Batch(torch.zeros(1)), Batch(torch.zeros(1))))
    x, observed = torch.randint(0, 1000, (8, 3)).float(), torch.rand(8, 3) < 0.5
    first, second = (network(Batch(torch.where(observed, x, fill), observed=observed))[1] for fill in (0.0, 99.0))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, network(Batch(x))[1])


def test_what_hides_behind_an_end_is_not_missing() -> None:
    spec = DataSpec(name="sequences", shape=(2,), likelihood="gaussian", steps=6)
    mask = torch.arange(6) < torch.tensor([[2], [5]])
    split = Batch(torch.zeros(2, 6, 2), mask=mask)
    made = sequences(spec, split)
    hiding = hidden_values.hidden(made, split)[..., 0]
    assert hiding.int().tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_padding_fills_nothing_in() -> None:
    """Means of steps are those of the sequences that have them, not of the zeros behind the ends of others."""
    spec = DataSpec(name="sequences", shape=(1,), likelihood="gaussian", steps=4)
    mask = torch.arange(4) < torch.tensor([[4]] * 3 + [[2]] * 5)
    x = torch.randn(8, 4, 1, generator=torch.Generator().manual_seed(0)) + 5
    split = Batch(torch.where(mask[..., None], x, 0.0), mask=mask)
    made = sequences(spec, split)
    scores = run(
        hidden_values.imputation, VRAE(VRAE.config_type(latent=1, width=4), spec), made, split, chains=2, rounds=11
    )
    late = x[:3, 2:, 0]  # of the long ones the second half, of the short ones the second step is missing
    v = late.var(0).mean()
    wanted = (0.5 * ((late - late.mean(0)).square() / v + torch.log(2 * math.pi * v))).sum(1)
    assert scores["mean"][:3] == pytest.approx(wanted.numpy(), rel=1e-4)
    assert scores["knn"][:3] == pytest.approx(wanted.numpy(), rel=1e-4)  # of so few, all are neighbours


def test_a_straight_way_has_even_steps_and_no_detour() -> None:
    variant, plane, _ = linear_gaussian(1.0)
    values = run(downstream.interpolation, variant, plane, plane.test, pairs=5)
    for each in values.values():
        assert each == pytest.approx(np.ones(5), abs=1e-4)

    class Switch(VAE):
        def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
            return (z[:, :1] > 0).float() * torch.ones(4)

    switch = Switch(variant.config, variant.spec)
    switch.encoder = variant.encoder  # type: ignore[has-type]
    values = run(downstream.interpolation, switch, plane, plane.test)
    assert 0 < len(values["jump"]) < 200  # the others decode to the same
    assert values["jump"] == pytest.approx(10) and values["length"] == pytest.approx(1)


class Copies(CVAE):
    """Gives examples of a data set, of the class that is asked for; `lie` gives those of the next class."""

    given_data: Data
    lie = 0

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        assert y is not None
        test = self.given_data.test
        wanted = (y + self.lie) % 10
        rows = [int(torch.eq(test.y, c).nonzero()[i % 5, 0]) for i, c in enumerate(wanted.tolist())]  # type: ignore[arg-type]
        return self.given_data.batch(test, torch.tensor(rows)).x


def test_samples_of_a_class_are_recognised_by_the_classifier(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # this classifier is trained for a short time
    monkeypatch.setitem(classifier.RECIPE, "steps", 200)
    variant = Copies(Copies.config_type(latent=2, width=4), digits.spec)
    variant.given_data = digits
    assert run(downstream.generation, variant, digits, each=5)["accuracy"] > 0.8
    variant.lie = 1
    assert run(downstream.generation, variant, digits, each=5)["accuracy"] < 0.1


def test_no_classifier_is_trained_for_a_variant_that_cannot_be_asked_for_a_class(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "trained", None)
    vae = VAE(VAE.config_type(width=4), digits.spec)
    assert reason(downstream.generation(vae, digits)) == "VAE cannot be asked for a class"


class Mirror(VAE):
    """Draws the very examples that it encodes (`noise` 0), or noise."""

    noise = 0.0

    def encode(self, batch: Batch) -> Tensor:
        return batch.x.flatten(1)

    def sample_posterior(self, batch: Batch, k: int = 1) -> Any:
        return None

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return z.view(-1, 1, 8, 8) * (1 - self.noise) + self.noise * torch.rand(len(z), 1, 8, 8)


def test_samples_are_added_with_the_labels_of_their_examples(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []
    monkeypatch.setattr(classifier, "fit", lambda learner, of, split, steps: splits.append(split))
    monkeypatch.setattr(Mirror, "noise", 1.0)
    run(downstream.augmentation, Mirror(VAE.config_type(width=4), digits.spec), digits, labels=20, copies=2, draws=1)
    without, added = splits
    assert len(without) == len(added) == 60
    assert torch.equal(without.y, added.y) and torch.equal(added.y, added.y[:20].repeat(3))
    assert torch.equal(added.x[:20], without.x[:20])
    is_binary = [(split.x[20:].round() == split.x[20:]).flatten(1).all(1) for split in splits]  # samples are not
    assert is_binary[0].all() and not is_binary[1].any()


@pytest.mark.slow
def test_added_samples_help_as_far_as_they_are_right(digits: Data) -> None:
    variant: Variant = Mirror(VAE.config_type(width=4), digits.spec)
    same = run(downstream.augmentation, variant, digits, labels=50, copies=2, steps=100, draws=2)
    assert same["without"].shape == same["with"].shape == (2,)
    assert abs(same["with"].mean() - same["without"].mean()) < 0.08
    assert same["without"].mean() > 0.4
    Mirror.noise = 1.0
    noisy = run(downstream.augmentation, variant, digits, labels=50, copies=2, steps=100, draws=2)
    Mirror.noise = 0.0
    assert noisy["with"].mean() < same["with"].mean() - 0.03
    assert noisy["without"].tolist() == same["without"].tolist()
