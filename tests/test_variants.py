"""Identities from each variant's own mathematics, in addition to the contract that all variants fulfil."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import variants
from pipeline import data, trainer
from variants import Batch, Config, DataSpec, InputError, Variant
from variants.base import closed_forms as m
from variants.base.contract import Likelihood
from variants.base.networks import Decoder

IMAGES = DataSpec(name="images", shape=(1, 6, 6), likelihood="bernoulli", classes=3)
WAVES = DataSpec(name="waves", shape=(2,), likelihood="gaussian", classes=3, steps=9)
ROLLS = DataSpec(name="rolls", shape=(5,), likelihood="bernoulli", steps=9)
STEP = torch.tensor(5.0)


def make(name: str, spec: DataSpec, **settings: object) -> Variant:
    torch.manual_seed(0)
    cls = variants.get(name)
    return variants.build(name, cls.config_type(**{"latent": 4, "width": 16, **settings}), spec)  # type: ignore[arg-type]


def images(n: int = 12) -> Batch:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0)).round()
    return Batch(x, torch.arange(n) % 3)


# --- cvae


def test_cvae_permuted_labels_leave_encode_unchanged_and_change_samples() -> None:
    variant = make("cvae", IMAGES).eval()
    batch = images()
    assert torch.equal(variant.encode(batch), variant.encode(Batch(batch.x, batch.y.flip(0))))  # type: ignore[union-attr]
    torch.manual_seed(1)
    first = variant.sample(12, torch.zeros(12, dtype=torch.int64))
    torch.manual_seed(1)
    other = variant.sample(12, torch.ones(12, dtype=torch.int64))
    assert (first - other).abs().amax() > 1e-3


def test_cvae_marginal_is_the_sum_over_classes() -> None:
    """sum_y p(x, y) with p(y) uniform, when p(x|y) is made the same for all y, is p(x|y)."""
    variant = make("cvae", IMAGES).eval()
    batch = images(4)
    with torch.no_grad():
        for net in (variant.prior_net, variant.decoder.net[0]):  # type: ignore[index,union-attr]
            weight = net.weight  # type: ignore[union-attr]
            weight[:, -3:] = weight[:, -3:].mean(1, keepdim=True)  # type: ignore[index]
        z = torch.randn(4, 4)
        joints = [variant.log_joint(z, Batch(batch.x, torch.full((4,), y))) for y in range(3)]
    torch.testing.assert_close(joints[0], joints[1])
    given = joints[0] + math.log(3)  # log p(x, z|y)
    torch.testing.assert_close(torch.stack(joints).logsumexp(0), given)


@pytest.mark.parametrize("shares", [(), (0.6, 0.3, 0.1)])
def test_cvae_without_its_label_costs_nothing_and_with_it_log_of_its_frequency(shares: tuple[float, ...]) -> None:
    variant = make("cvae", dataclasses.replace(IMAGES, class_shares=shares)).eval()
    batch = images(4)  # of the classes 0, 1, 2 and 0
    torch.manual_seed(1)
    known = variant.terms(batch, STEP)
    log_p = torch.tensor(shares or (1 / 3, 1 / 3, 1 / 3)).log()[[0, 1, 2, 0]]
    torch.testing.assert_close(known.elbo, known.extras["elbo_given_y"] + log_p)
    z = torch.randn(4, 4)
    given_y = m.log_normal(z, *variant.conditional_prior(variant.encode_condition(batch))).sum(1)  # type: ignore[operator]
    torch.testing.assert_close(variant.log_prior(z, batch), given_y + log_p)
    for y in (None, torch.full((4,), -1)):
        unknown = variant.terms(Batch(batch.x, y), STEP)
        torch.testing.assert_close(unknown.elbo, unknown.extras["elbo_given_y"])


def test_cvae_samples_classes_by_their_frequencies() -> None:
    variant = make("cvae", dataclasses.replace(IMAGES, class_shares=(0.6, 0.3, 0.1)), latent=1).eval()
    with torch.no_grad():  # p(z|y) = N(10 y, 1)
        variant.prior_net.weight.copy_(torch.tensor([[0.0, 10.0, 20.0], [0.0, 0.0, 0.0]]))  # type: ignore[operator, union-attr]
        variant.prior_net.bias.zero_()  # type: ignore[operator, union-attr]
    for z in (variant.sample_prior(4000), variant.prior_from_noise(torch.randn(4000, 1))):
        counts = torch.bincount((z[:, 0] / 10).round().clamp(0, 2).long(), minlength=3) / 4000
        torch.testing.assert_close(counts, torch.tensor([0.6, 0.3, 0.1]), atol=0.04, rtol=0)


def test_cvae_withholds_labels_in_training_alone() -> None:
    variant = make("cvae", IMAGES, drop=0.5)
    shares = [variant.encode_condition(images(2000), withhold=w).sum(1).mean() for w in (True, False)]  # type: ignore[operator]
    assert float(shares[0]) == pytest.approx(0.5, abs=0.05)
    assert float(shares[1]) == 1


@pytest.mark.parametrize("observed", [1, 2, 3])
def test_cvae_quadrants_score_missing_pixels_alone_and_see_the_others(observed: int) -> None:
    variant = make("cvae", IMAGES, condition="quadrants", observed=observed).eval()
    assert int(variant.observed_pixels.sum()) == 9 * observed  # type: ignore[operator,union-attr]
    batch, z = images(4), torch.randn(4, 4)
    base = variant.log_joint(z, batch)
    seen = variant.observed_pixels.expand_as(batch.x)  # type: ignore[operator,union-attr]
    x = batch.x.clone().requires_grad_()
    c = variant.encode_condition(batch)  # type: ignore[operator]
    (slope,) = torch.autograd.grad(variant.conditional_nll(Batch(x), z, c).sum(), x)  # type: ignore[operator]
    assert (slope[seen] == 0).all()
    assert (slope[~seen] != 0).all()
    other = Batch(torch.where(seen, 1 - batch.x, batch.x))
    assert (variant.log_joint(z, other) - base).abs().amin() > 1e-4  # what is seen changes the prediction
    decoded = variant.decode(z, batch)
    assert torch.equal(decoded[seen], batch.x[seen])


def test_cvae_quadrants_fill_in_the_holes_of_what_is_seen() -> None:
    holes = dataclasses.replace(IMAGES, likelihood="gaussian", missing=True)
    variant = make("cvae", holes, condition="quadrants", observed=2).eval()
    observed = torch.rand(4, 1, 6, 6) > 0.3
    batch = Batch(torch.where(observed, torch.randn(4, 1, 6, 6), torch.nan), observed=observed)
    z = variant.sample_prior(4, batch)
    kept = variant.observed_pixels & observed  # type: ignore[operator]
    for values in (variant.decode(z, batch), variant.sample_x(z, batch)):
        assert torch.equal(values[kept], batch.x[kept])
        assert values.isfinite().all()
    each = variant.log_likelihood(z, batch)
    assert ((each != 0) == (observed & ~variant.observed_pixels)).all()  # type: ignore[operator]
    completions = variant.pictures(batch)["completions"]
    assert torch.equal(completions[:, 0].isnan(), ~observed)
    assert completions[:, 2:].isfinite().all()


def test_cvae_network_is_a_network_without_z() -> None:
    variant = make("cvae", IMAGES, condition="quadrants", objective="network").eval()
    batch = images(4)
    first, again = (variant.terms(batch, STEP) for _ in range(2))
    assert torch.equal(first.reconstruction, again.reconstruction)
    assert (first.kl == 0).all()  # type: ignore[union-attr]
    samples = variant.sample_posterior(batch)
    assert samples is not None
    torch.testing.assert_close(variant.log_joint(samples[0], batch), -first.reconstruction)
    with pytest.raises(InputError, match="objective='network' needs condition='quadrants'"):
        make("cvae", IMAGES, objective="network")


# --- aae


@pytest.mark.one_in(3)
@pytest.mark.parametrize("settings", [{"encoder": "gaussian"}, {"supervision": "semi"}, {"scale": 1.0}])
def test_aae_settings_train(settings: dict[str, object]) -> None:
    digits = data.load("digits")
    variant = make("aae", digits.spec, lr=3e-3, **settings)
    epochs = list(trainer.train(variant, digits, epochs=6, seed=0))
    assert epochs[-1].metrics["valid/reconstruction"] < epochs[0].metrics["valid/reconstruction"] - 2
    assert ("valid/elbo" in epochs[-1].metrics) == ("encoder" in settings)


def test_aae_gaussian_kl_is_against_the_prior_of_its_scale() -> None:
    variant = make("aae", IMAGES, encoder="gaussian", scale=3.0).eval()
    many = Batch(images(1).x.expand(20_000, -1, -1, -1))
    with torch.no_grad():
        z, log_q = variant.sample_posterior(many)  # type: ignore[misc]
        prior = (m.log_standard_normal(z / 3) - math.log(3)).sum(1)
        kl = variant.terms(many[slice(0, 1)], STEP).kl
    assert float(kl) == pytest.approx(float((log_q - prior).mean()), rel=0.02)  # type: ignore[arg-type]


def test_aae_prior_has_its_scale() -> None:
    drawn = make("aae", IMAGES, scale=5.0).sample_prior(20_000)
    assert float(drawn.std()) == pytest.approx(5, rel=0.02)
    semi = make("aae", IMAGES, supervision="semi").sample_prior(300)
    assert semi.shape == (300, 4 + 3)
    assert (semi[:, 4:].sum(1) == 1).all()


def test_aae_losses_are_of_logits_and_do_not_saturate() -> None:
    """With a constant logit l: softplus(-l) + softplus(l) for the discriminator and softplus(-l) for the encoder."""
    variant = make("aae", IMAGES)
    for p in variant.discriminators.parameters():  # type: ignore[union-attr]
        torch.nn.init.zeros_(p)
    torch.nn.init.constant_(variant.discriminators[0][-1].bias, -20.0)  # type: ignore[index,union-attr]
    losses = variant.terms(images(), STEP).losses
    for name in ("discriminator", "generator"):
        assert float(losses[name]().detach()) == pytest.approx(20, rel=1e-4)  # type: ignore[operator]


def test_aae_phases_have_the_order_of_the_paper_and_their_own_weights() -> None:
    variant = make("aae", IMAGES, supervision="semi")
    assert list(variant.terms(images(), STEP).losses) == list(variant.optimizers())
    assert list(variant.optimizers()) == ["reconstruction", "discriminator", "generator", "classifier"]
    owned = {n: {id(p) for g in o.param_groups for p in g["params"]} for n, o in variant.optimizers().items()}
    encoder = {id(p) for p in variant.encoder.parameters()}  # type: ignore[union-attr]
    assert owned["generator"] == owned["classifier"] == encoder < owned["reconstruction"]
    assert not owned["discriminator"] & owned["reconstruction"]


def test_aae_reads_known_labels_alone() -> None:
    variant = make("aae", IMAGES, supervision="semi")
    batch = images(6)
    half = Batch(batch.x, torch.tensor([0, 1, 2, -1, -1, -1]))
    expected = variant.terms(batch[slice(0, 3)], STEP).losses["classifier"]()  # type: ignore[operator]
    torch.testing.assert_close(variant.terms(half, STEP).losses["classifier"](), expected)  # type: ignore[operator]
    none = Batch(batch.x, torch.full((6,), -1))
    assert float(variant.terms(none, STEP).losses["classifier"]().detach()) == 0  # type: ignore[operator]


# --- vrae


def sequences(spec: DataSpec, n: int = 6) -> Batch:
    draw = torch.rand(n, 9, spec.shape[0], generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 7, 5, 3, 2, 1])[:n, None]
    return Batch((draw.round() if spec.likelihood == "bernoulli" else draw) * mask[..., None], None, mask)


def padded(batch: Batch, more: int, garbage: float) -> Batch:
    assert batch.mask is not None
    x = torch.cat([batch.x, torch.zeros(len(batch), more, batch.x.shape[2])], 1)
    mask = torch.cat([batch.mask, torch.zeros(len(batch), more, dtype=torch.bool)], 1)
    return Batch(torch.where(mask[..., None], x, garbage), None, mask)


@pytest.mark.parametrize("settings", [{}, {"feeding": "teacher"}, {"cell": "lstm", "depth": 2}, {"directions": 1}])
@pytest.mark.parametrize("spec", [WAVES, ROLLS], ids=lambda s: s.name)
@pytest.mark.parametrize("garbage", [0.0, math.nan])
def test_vrae_padding_changes_nothing(settings: dict[str, object], spec: DataSpec, garbage: float) -> None:
    variant = make("vrae", spec, **settings)
    results = []
    for batch in (sequences(spec), padded(sequences(spec), 5, garbage)):
        torch.manual_seed(1)
        terms = variant.terms(batch, STEP)
        assert isinstance(terms.losses["loss"], Tensor)
        slopes = torch.autograd.grad(terms.losses["loss"], list(variant.parameters()))
        results.append((terms.reconstruction, terms.kl, *slopes))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_vrae_reads_every_step_and_their_order() -> None:
    variant = make("vrae", WAVES).eval()
    batch = sequences(WAVES)
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(variant.encode(Batch(x, None, batch.mask)).sum(), x)
    assert ((slope != 0).any(2) == batch.mask).all()
    whole = batch[slice(0, 1)]
    assert not torch.allclose(variant.encode(whole), variant.encode(Batch(whole.x.flip(1), None, whole.mask)))


def test_vrae_free_decoder_reads_x_only_through_z_and_a_teacher_forced_one_only_the_past() -> None:
    batch, z = sequences(WAVES)[slice(0, 1)], torch.randn(1, 4)
    free = make("vrae", WAVES)
    output = free.generate(z, 9)[0]  # type: ignore[operator]
    torch.testing.assert_close(free.nll(batch, z), free.observation.nll(batch, output))  # type: ignore[operator,union-attr]
    forced = make("vrae", WAVES, feeding="teacher")
    x = batch.x.clone().requires_grad_()
    for t in range(9):
        output = forced.teacher_forced(z, Batch(x, None, batch.mask))[0, t]  # type: ignore[operator]
        (slope,) = torch.autograd.grad(output.sum(), x, allow_unused=True)
        seen = (slope[0] != 0).any(1)
        assert seen[:t].all()
        assert not seen[t:].any()


def test_vrae_forecasts_from_the_prefix_alone() -> None:
    for feeding in ("free", "teacher"):
        variant = make("vrae", WAVES, feeding=feeding).eval()
        batch = sequences(WAVES)[slice(0, 1)]
        other = Batch(torch.cat([batch.x[:, :4], -batch.x[:, 4:]], 1), None, batch.mask)
        forecasts = []
        for each in (batch, other):
            torch.manual_seed(1)
            forecasts.append(variant.forecast(each, torch.tensor([4]))[0])  # type: ignore[index]
        a, b = forecasts
        assert torch.equal(a, b)
        assert torch.equal(a[:, :4], batch.x[:, :4])
        assert a.shape == batch.x.shape


def test_vrae_teacher_forced_decoders_generate_from_samples_if_the_data_are_discrete() -> None:
    for likelihood, size in (("bernoulli", 5), ("categorical", 5), ("poisson", 3), ("gaussian", 2), ("student-t", 2)):
        spec = DataSpec(name="steps", shape=(size,), likelihood=likelihood, steps=9)  # type: ignore[arg-type]
        z = torch.randn(2000, 4)
        for feeding in ("teacher", "free"):
            output, values = make("vrae", spec, feeding=feeding).generate(z, 1)  # type: ignore[operator]
            mean = make("vrae", spec).observation.mean(output)  # type: ignore[operator,union-attr]
            if likelihood in ("gaussian", "student-t") or feeding == "free":
                assert torch.equal(values, mean)
                continue
            assert torch.equal(values, values.round())
            assert set(values.unique().tolist()) == {0.0, 1.0} or likelihood == "poisson"
            exactness = 0.12 if likelihood == "poisson" else 0.06
            torch.testing.assert_close(values.mean(0), mean.mean(0), atol=exactness, rtol=0)
            assert likelihood != "categorical" or (values.sum(-1) == 1).all()


def test_vrae_forecasts_fill_in_the_holes_of_the_prefix_and_ignore_what_stands_there() -> None:
    spec = dataclasses.replace(WAVES, missing=True)
    for feeding in ("free", "teacher"):
        variant = make("vrae", spec, feeding=feeding).eval()
        whole = sequences(WAVES)[slice(0, 1)]
        observed = torch.rand(1, 9, 2, generator=torch.Generator().manual_seed(2)) > 0.4
        forecasts = []
        for hidden in (0.0, torch.nan):
            torch.manual_seed(1)
            batch = Batch(torch.where(observed, whole.x, hidden), None, whole.mask, observed=observed)
            forecasts.append(variant.forecast(batch, torch.tensor([6]))[0])  # type: ignore[index]
        assert torch.equal(*forecasts)
        assert forecasts[0].isfinite().all()
        assert torch.equal(forecasts[0][:, :6][observed[:, :6]], whole.x[:, :6][observed[:, :6]])


# --- hvae


def test_hvae_product_of_gaussians() -> None:
    from variants.hvae import _product

    a, b = (torch.tensor([0.5]), torch.tensor([0.3])), (torch.tensor([-1.0]), torch.tensor([-0.7]))
    mean, log_var = _product(a, b)
    x = torch.linspace(-3, 3, 50)
    difference = m.log_normal(x, *a) + m.log_normal(x, *b) - m.log_normal(x, mean, log_var)
    torch.testing.assert_close(difference, difference[:1].expand(50), rtol=1e-4, atol=1e-5)


def test_hvae_of_one_level_is_a_vae_with_a_standard_normal_prior() -> None:
    for merge in ("ladder", "plain"):
        variant = make("hvae", IMAGES, levels=1, merge=merge).eval()
        _, ((mean, log_var),), _ = variant.infer(images(), noise=False)  # type: ignore[operator]
        if merge == "ladder":
            terms = variant.terms(images(), STEP)
            torch.testing.assert_close(terms.kl, m.kl_standard_normal(mean, log_var).sum(1))


@pytest.mark.parametrize("merge", ["ladder", "plain"])
def test_hvae_kl_is_against_the_predicted_prior(merge: str) -> None:
    """By sampling: E_q [log q(z|x) - log p(z)] with p(z) = prod p(z_n|z_{n+1}), which is not N(0, I)."""
    variant = make("hvae", IMAGES, merge=merge).eval()
    with torch.no_grad():
        for p in variant.down.parameters():  # type: ignore[union-attr]
            p.mul_(1.5)
        many = Batch(images(1).x.expand(20_000, -1, -1, -1))
        z, log_q = variant.sample_posterior(many)  # type: ignore[misc]
        joint = variant.log_prior(z, many)
        kl = variant.terms(many, STEP).kl
    assert kl is not None
    error = 5 * float((log_q - joint).std()) / 20_000**0.5
    assert float(kl.mean()) == pytest.approx(float((log_q - joint).mean()), abs=error)
    standard = float((log_q - m.log_standard_normal(z).sum(1)).mean())
    assert abs(standard - float(kl.mean())) > 2 * error


def test_hvae_samples_the_levels_below_the_fixed_ones() -> None:
    variant = make("hvae", IMAGES, latent=8, levels=3).eval()
    assert variant.levels == (8, 4, 2)
    fixed = list(variant.sample_prior(1).split(variant.levels, dim=1))[1:]
    samples = variant.complete_from_top([k.expand(5, -1) for k in fixed], torch.randn(5, sum(variant.levels)))  # type: ignore[operator]
    assert torch.equal(samples[:, 8:], torch.cat(fixed, 1).expand(5, -1))
    assert samples[:, :8].std(0).amin() > 0


def test_hvae_takes_a_training_batch_of_one() -> None:
    variant = make("hvae", IMAGES)
    terms = variant.terms(images(1), STEP)
    assert terms.losses["loss"].isfinite()  # type: ignore[union-attr]


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson", "negative-binomial"])
@pytest.mark.parametrize("side", [28, 64])
def test_convolutions_start_near_a_constant_image(likelihood: Likelihood, side: int) -> None:
    spec = DataSpec(name="images", shape=(1, side, side), likelihood=likelihood)
    torch.manual_seed(0)
    decoder = Decoder(spec, Config(network="conv"), 8)
    with torch.no_grad():
        assert 0 < float(decoder(torch.randn(16, 8)).std()) < 0.5
