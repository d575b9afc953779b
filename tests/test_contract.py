"""The contract, tested for every registered variant with every kind of data that it accepts.

To test one variant: `uv run pytest tests/test_contract.py -n0 -k NAME`, and on a GPU with `--device cuda`.
"""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

import studies
import variants
from pipeline import machine
from pipeline.metrics import objectives
from pipeline.steps import NamedOptimizer, Steps
from pipeline.study.space import Outline, outline
from variants import Batch, Config, DataSpec, InputError, Terms, Variant
from variants.base.contract import Group, ValueKind

SPECS = {
    "binary images": DataSpec(name="binary", shape=(1, 8, 8), likelihood="bernoulli", classes=3),
    "8-bit colour": DataSpec(name="colour", shape=(3, 6, 5), likelihood="logistic8", classes=3),
    "8-bit colour with mixtures": DataSpec(name="mixtures", shape=(3, 6, 5), likelihood="mixture8", classes=3),
    "grey images from 0 to 1": DataSpec(
        name="fractions", shape=(1, 6, 5), likelihood="continuous-bernoulli", classes=3
    ),
    "a table": DataSpec(name="table", shape=(7,), likelihood="gaussian", classes=3),
    "large images": DataSpec(name="large", shape=(1, 30, 28), likelihood="bernoulli", classes=3),
    "binary sequences": DataSpec(name="roll", shape=(5,), likelihood="bernoulli", classes=3, steps=7),
    "real sequences": DataSpec(name="waves", shape=(2,), likelihood="gaussian", classes=3, steps=7),
    "symbols": DataSpec(name="text", shape=(4,), likelihood="categorical", classes=3, steps=7),
    "long sequences with times": DataSpec(
        name="stamps", shape=(3,), likelihood="gaussian", classes=3, steps=20, elapsed=50.0
    ),
    "counts": DataSpec(
        name="genes", shape=(6,), likelihood="negative-binomial", classes=3,
        exposure="sum", exposures=(1.0, 12.0, 50.0),
        groups=(Group(likelihood="negative-binomial", size=6, offset=(-2.0, -1.5, -2.5, -1.0, -2.0, -3.0)),),
    ),
    "a mixed table": DataSpec(
        name="mixed", shape=(14,), likelihood="mixed", classes=3, exposure="column", exposures=(0.5, 1.0, 4.0),
        groups=(
            Group(likelihood="gaussian", size=2), Group(likelihood="student-t", size=1),
            Group(likelihood="log-normal", size=1, spread=(0.6,)), Group(likelihood="gamma", size=1, spread=(0.8,)),
            Group(likelihood="poisson", size=1, offset=(0.5,)), Group(likelihood="negative-binomial", size=1),
            Group(likelihood="zero-inflated", size=1, offset=(1.0,)), Group(likelihood="bernoulli", size=1),
            Group(likelihood="categorical", size=3), Group(likelihood="categorical", size=2, offset=(-0.4, -1.1)),
        ),
    ),
    "a table with holes": DataSpec(name="holes", shape=(7,), likelihood="gaussian", classes=3, missing=True),
    "images with holes": DataSpec(name="clouds", shape=(3, 6, 5), likelihood="gaussian", classes=3, missing=True),
    "real sequences with holes": DataSpec(
        name="sensors", shape=(2,), likelihood="gaussian", classes=3, steps=7, missing=True
    ),
    "mixed sequences with holes": DataSpec(
        name="visits", shape=(4,), likelihood="mixed", classes=3, steps=7, missing=True,
        groups=(
            Group(likelihood="gaussian", size=1), Group(likelihood="zero-inflated", size=2),
            Group(likelihood="bernoulli", size=1),
        ),
    ),
}  # fmt: skip
STEP = torch.tensor(5.0)
DEVICE = torch.device("cpu")  # of models and batches; the option `--device` changes it


@pytest.fixture(autouse=True, scope="module")
def _device(request: pytest.FixtureRequest) -> None:
    global DEVICE
    DEVICE = machine.device(request.config.getoption("--device"))
    torch.backends.cudnn.allow_tf32 = False  # otherwise convolutions on CUDA round to 10 bits


def losses(terms: Terms) -> dict[str, Tensor]:
    """The losses as tensors, also those that are given as functions."""
    return {name: loss if isinstance(loss, Tensor) else loss() for name, loss in terms.losses.items()}


def assert_same(first: Tensor, second: Tensor) -> None:
    """Two calls gave the same: exactly on a CPU, up to rounding on CUDA, where convolutions add up in varying order."""
    tolerance = 0.0 if DEVICE.type == "cpu" else 1e-5
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def of_kind(kind: ValueKind, draw: Tensor) -> Tensor:
    """Values of a kind from uniform ones."""
    return {
        "binary": (draw > 0.5).float(),
        "pixel": (draw * 255).round() / 255,
        "fraction": draw,
        "real": 4 * draw - 2,
        "category": (draw == draw.amax(-1, keepdim=True)).float(),
        "positive": (2 * draw - 1).exp(),
        "count": (9 * draw**2).floor(),
    }[kind]


def examples(spec: DataSpec, n: int = 6, seed: int = 0) -> Batch:
    """Fixed random values; sequences of all lengths from 1 to `steps`, padded by zeros. Missing values are 0."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(n, *([spec.steps] if spec.steps else []), *spec.shape, generator=generator)
    parts = zip(spec.parts, draw.split([group.size for group in spec.parts], -1), strict=True)
    x = torch.cat([of_kind(group.kind, part) for group, part in parts], -1)
    y, mask, observed, exposure, elapsed = torch.arange(n) % spec.classes, None, None, None, None
    if spec.missing:
        observed = torch.rand(x.shape, generator=generator) > 0.3
        x = torch.where(observed, x, 0.0)
    if spec.steps:
        mask = torch.arange(spec.steps) < (torch.arange(n)[:, None] % spec.steps + 1)
        x = x * mask[..., None]
    if spec.exposure:
        exposure = x[..., spec.kinds["count"]].sum(-1) if spec.exposure == "sum" else 0.5 + torch.arange(n)
    if mask is not None and spec.elapsed:
        elapsed = torch.rand(n, spec.steps, generator=generator).cumsum(1) * mask
    return Batch(x, y, mask, observed=observed, exposure=exposure, elapsed=elapsed).to(DEVICE)


def of_kinds(values: Tensor, spec: DataSpec) -> dict[ValueKind, Tensor]:
    """The values of each kind, (..., number of this kind in the last axis)."""
    return {kind: values[..., where] for kind, where in spec.kinds.items()}


def fits(name: str, spec: DataSpec) -> bool:
    """Variants that need sequences take nothing else."""
    return bool(spec.steps) or "mask" not in variants.get(name).required_fields


def make(name: str, spec: DataSpec, **settings: object) -> Variant:
    torch.manual_seed(0)
    cls = variants.get(name)
    return cls(cls.config_type(latent=4, width=16, **settings), spec).to(DEVICE)  # type: ignore[arg-type]


@pytest.fixture(
    params=[(n, s) for n in variants.names() for s in SPECS if fits(n, SPECS[s])], ids=lambda p: f"{p[0]} on {p[1]}"
)
def case(request: pytest.FixtureRequest) -> tuple[Variant, Batch]:
    name, kind = request.param
    spec = SPECS[kind]
    networks = {"large images": "conv", "symbols": "lstm", "real sequences": "tcn", "long sequences with times": "tcn"}
    network = networks.get(kind, "gru" if spec.steps else "mlp")
    return make(name, spec, network="auto" if name == "vrae" else network), examples(spec)


def test_terms_have_their_shapes_and_are_finite(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    terms = variant.terms(batch, STEP)
    assert terms.reconstruction.shape == (6,)
    if terms.kl is not None:  # an estimate from one sample may be negative, but not on average
        assert terms.kl.shape == (6,)
        kl = variant.terms(batch[torch.arange(6, device=DEVICE).repeat_interleave(50)], STEP).kl.view(6, 50)  # type: ignore[union-attr]
        assert (kl.mean(1) + 5 * kl.std(1) / 50**0.5 >= 0).all()
    assert terms.losses.keys() == variant.optimizers().keys()
    assert all(loss.shape == () and loss.isfinite() for loss in losses(terms).values())
    assert all(len(extra) == 6 for extra in terms.extras.values())


def test_every_weight_is_trained(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    for loss in losses(variant.terms(batch, STEP)).values():
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert [n for n, p in variant.named_parameters() if p.grad is None] == []
    trained = [[id(p) for g in o.param_groups for p in g["params"]] for o in variant.optimizers().values()]
    assert all(len(ids) == len(set(ids)) for ids in trained)
    assert {i for ids in trained for i in ids} == {id(p) for p in variant.parameters()}


def test_terms_are_pure(case: tuple[Variant, Batch]) -> None:
    """A call changes nothing that its own result depends on. Only running averages may change, and only in training."""
    variant, batch = case
    before = {k: v.clone() for k, v in variant.state_dict().items()}
    torch.manual_seed(1)
    first = variant.terms(batch, STEP)
    minimised = losses(first)
    torch.manual_seed(1)
    second = variant.terms(batch, STEP)
    assert_same(first.reconstruction, second.reconstruction)
    for name, loss in losses(second).items():
        assert_same(loss, minimised[name])
    assert all(torch.equal(p, before[k]) for k, p in variant.named_parameters())
    variant.eval()
    before = {k: v.clone() for k, v in variant.state_dict().items()}
    variant.terms(batch, STEP)
    assert all(torch.equal(v, before[k]) for k, v in variant.state_dict().items())


def test_terms_score_each_example_by_itself(case: tuple[Variant, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of an example do not depend on the rest of the batch. z is at its mean here, without noise."""
    variant, batch = case
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    variant.eval()
    whole, part = variant.terms(batch, STEP), variant.terms(batch[torch.arange(2, device=DEVICE)], STEP)
    torch.testing.assert_close(whole.reconstruction[:2], part.reconstruction)
    if whole.kl is not None and part.kl is not None:
        torch.testing.assert_close(whole.kl[:2], part.kl)


def test_encode_is_deterministic_and_never_sees_a_label(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    variant.eval()
    code = variant.encode(batch)
    assert code.ndim == 2
    other = dataclasses.replace(batch, y=batch.y.flip(0) if batch.y is not None else None)
    assert torch.equal(code, variant.encode(batch))
    assert torch.equal(code, variant.encode(other))
    assert torch.equal(code, variant.encode(batch.unlabelled))


def test_decode_and_sample_give_data(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    code = variant.encode(batch)
    assert variant.sample_prior(6).shape == code.shape
    results = (
        variant.decode(code, batch),
        variant.sample_x(code, batch),
        variant.sample(6),
        variant.sample(6, batch.y, True),
    )
    for values in results:
        assert values.shape == batch.x.shape
        for kind, part in of_kinds(values, variant.spec).items():
            assert kind == "real" or part.min() >= 0
            assert kind in ("real", "positive", "count") or part.max() <= 1


def test_samples_look_like_data_and_have_the_mean_that_decode_returns(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    variant.eval()
    one = batch[slice(5, 6)]
    many = one[torch.zeros(4000, dtype=torch.int64, device=DEVICE)]
    with torch.no_grad():
        z = variant.encode(one)
        samples, mean = variant.sample_x(z.expand(4000, -1), many), variant.decode(z, one)
    means = of_kinds(mean[0], variant.spec)
    for kind, values in of_kinds(samples, variant.spec).items():
        if kind in ("binary", "category"):
            assert set(values.unique().tolist()) <= {0.0, 1.0}
        elif kind == "count":
            assert torch.equal(values, values.round())
        elif kind == "pixel":
            torch.testing.assert_close(values * 255, (values * 255).round())
        scale = values.std(0) / 4000**0.5
        width = 0.05 if kind == "pixel" else 0.003  # what is cut off at 0 and 1; rare pixels
        assert (values.mean(0) - means[kind]).abs().le(5 * scale + width).all()
        spread = values.std(0)  # that of the likelihood
        if kind == "real":
            assert spread.amin() > 0.9 * float(variant.observation.families[0].log_scale.detach().exp().min())  # type: ignore[index,union-attr]
        elif kind == "binary" and variant.factorized:
            # five standard errors: that of the standard deviation of n values of 0 or 1 is at most 1 / (2 sqrt(n))
            torch.testing.assert_close(spread, (means[kind] * (1 - means[kind])).sqrt(), atol=0.04, rtol=0)


def test_the_likelihood_has_each_value_and_is_zero_for_padding_and_missing_values(
    case: tuple[Variant, Batch],
) -> None:
    variant, batch = case
    variant.eval()
    z = variant.sample_prior(6, batch)
    each = variant.log_likelihood(z, batch)
    assert each.shape == batch.x.shape
    known = torch.ones_like(each, dtype=torch.bool) if batch.known is None else batch.known.expand_as(each)
    assert (each[~known] == 0).all()
    for kind, values in of_kinds(each, variant.spec).items():  # that of a pixel may be rounded to 0
        assert kind in ("binary", "category") or (values[known[..., variant.spec.kinds[kind]]] != 0).all()
    if batch.mask is not None and batch.observed is None:
        assert (each[batch.mask].flatten(1).sum(1) != 0).all()
    torch.testing.assert_close(variant.log_joint(z, batch), variant.log_prior(z, batch) + each.flatten(1).sum(1))


def test_prior_from_noise_has_the_distribution_of_the_prior(case: tuple[Variant, Batch]) -> None:
    """By a change of variables: log p(z) = log N(e) - log |dz/de|, up to a constant for a given class."""
    variant, batch = case
    variant.eval()
    many = batch[torch.zeros(4000, dtype=torch.int64, device=DEVICE)]
    sampled = variant.sample_prior(4000, many)
    transformed = variant.prior_from_noise(torch.randn_like(sampled), many)
    if transformed is None:
        pytest.skip("no function turns noise into the prior")
    scale = sampled.std(0)
    assert ((sampled.mean(0) - transformed.mean(0)) / scale).abs().max() < 0.12
    assert (transformed.std(0) / scale - 1).abs().max() < 0.12
    variant, one = variant.double(), dataclasses.replace(batch, x=batch.x.double())[slice(0, 1)]
    differences = []
    for e in torch.randn(3, sampled.shape[1], dtype=torch.float64, device=DEVICE).split(1):
        slope = torch.autograd.functional.jacobian(lambda n: variant.prior_from_noise(n, one)[0], e)[:, 0]
        expected = -0.5 * e.square().sum() - torch.linalg.slogdet(slope)[1]
        differences.append(variant.log_prior(variant.prior_from_noise(e, one), one) - expected)
    torch.testing.assert_close(torch.stack(differences), differences[0].expand(3, 1), atol=1e-6, rtol=0)


def test_samples_of_one_example_stand_together(case: tuple[Variant, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, the k samples of an example are equal to its single sample; with noise they differ."""
    variant, batch = case
    variant.eval()
    samples = variant.sample_posterior(batch, 3)
    if samples is None:
        pytest.skip("q has no density")
    assert samples[0].shape == (18, variant.sample_prior(1).shape[1])
    assert samples[1].shape == (18,)
    assert variant.discrete or not torch.equal(samples[0][::3], samples[0][1::3])
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    (z, log_q), (one, log_one) = variant.sample_posterior(batch, 3) or (), variant.sample_posterior(batch) or ()
    torch.testing.assert_close(z, one.repeat_interleave(3, 0))
    torch.testing.assert_close(log_q, log_one.repeat_interleave(3, 0))


def test_joint_and_posterior_agree_with_the_elbo(case: tuple[Variant, Batch]) -> None:
    """E_q [log p(x, z) - log q(z|x)], estimated by sampling, is equal to the mean of `Terms.elbo`."""
    variant, batch = case
    variant.eval()
    if variant.sample_posterior(batch) is None:
        pytest.skip("q has no density")
    many = batch[torch.arange(6, device=DEVICE).repeat_interleave(400)]
    with torch.no_grad():
        samples = variant.sample_posterior(many)
        assert samples is not None
        sampled = (variant.log_joint(samples[0], many) - samples[1]).view(6, 400)
        elbo = variant.terms(many, STEP).elbo
    assert elbo is not None
    error = 5 * (sampled.std(1) + elbo.view(6, 400).std(1)) / 400**0.5
    assert ((sampled.mean(1) - elbo.view(6, 400).mean(1)).abs() < error + 1e-4).all()


def test_a_training_step_lowers_the_loss(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    variant.config = dataclasses.replace(variant.config, batch=len(batch))
    optimizers = [NamedOptimizer(name, optimizer) for name, optimizer in variant.optimizers().items()]
    steps = Steps(variant, optimizers, torch.full((), 5.0, device=DEVICE), nullcontext)
    scored = []
    for _ in range(40):
        steps.start_epoch(None)
        steps.take(batch)
        scored.append(float(steps.totals.sums["reconstruction"]))
    assert sum(scored[-10:]) < sum(scored[:10])


def test_pictures_are_rows_and_columns_of_data(case: tuple[Variant, Batch]) -> None:
    variant, batch = case
    for values in variant.eval().pictures(batch).values():
        assert values.shape[2:] == batch.x.shape[1:]
        assert not values.isinf().any()
        assert values.flatten(2).isfinite().any(2).all()  # a cell is not entirely NaN


def test_saved_and_loaded_is_the_same_model(case: tuple[Variant, Batch], tmp_path: Path) -> None:
    variant, batch = case
    loaded = variants.load(variants.save(variant, tmp_path / "model")).to(DEVICE)
    assert type(loaded) is type(variant)
    assert loaded.config == variant.config
    assert loaded.spec == variant.spec
    assert torch.equal(loaded.encode(batch), variant.eval().encode(batch))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


HOLES = [(n, s) for n in variants.names() for s in SPECS if fits(n, SPECS[s]) and SPECS[s].missing]


@pytest.mark.parametrize("hidden", [float("nan"), -7.0])
@pytest.mark.parametrize(("name", "kind"), HOLES)
def test_missing_values_reach_no_score_and_no_gradient(name: str, kind: str, hidden: float) -> None:
    batch = examples(SPECS[kind])
    assert batch.observed is not None
    filled = dataclasses.replace(batch, x=torch.where(batch.observed, batch.x, hidden))
    results = []
    for each in (batch, filled):
        variant = make(name, SPECS[kind])
        torch.manual_seed(1)
        terms = variant.terms(each, STEP)
        for loss in losses(terms).values():
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        slopes = [p.grad for p in variant.parameters() if p.grad is not None]
        variant.eval()
        code = variant.encode(each)
        joint = variant.log_joint(code, each) if not variant.latent_classes else code
        results.append([terms.reconstruction, *slopes, code, joint])
    assert all(torch.equal(a, b) and b.isfinite().all() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("name", "kind"), HOLES)
def test_an_encoder_tells_a_missing_value_from_a_zero(name: str, kind: str) -> None:
    variant, batch = make(name, SPECS[kind]).eval(), examples(SPECS[kind])
    assert batch.observed is not None
    complete = dataclasses.replace(batch, observed=torch.ones_like(batch.observed))
    assert not torch.allclose(variant.encode(batch), variant.encode(complete))
    assert torch.equal(variant.encode(complete), variant.encode(dataclasses.replace(batch, observed=None)))


@pytest.mark.parametrize("network", ["conv", "resnet"])
@pytest.mark.parametrize("name", [n for n in variants.names() if fits(n, SPECS["large images"])])
def test_convolutions_read_images_with_holes(name: str, network: str) -> None:
    spec = DataSpec(name="clouds", shape=(3, 30, 28), likelihood="gaussian", classes=3, missing=True)
    variant, batch = make(name, spec, network=network).eval(), examples(spec, 2)
    filled = dataclasses.replace(batch, x=torch.where(batch.observed, batch.x, torch.nan))  # type: ignore[arg-type]
    torch.manual_seed(1)
    expected = variant.terms(batch, STEP).reconstruction
    torch.manual_seed(1)
    assert_same(variant.terms(filled, STEP).reconstruction, expected)
    assert not torch.allclose(variant.encode(batch), variant.encode(dataclasses.replace(batch, observed=None)))
    assert (variant.log_likelihood(variant.sample_prior(2, batch), batch)[~batch.observed] == 0).all()  # type: ignore[operator]


def test_a_batch_keeps_all_its_fields() -> None:
    spec = dataclasses.replace(SPECS["real sequences with holes"], exposure="column", elapsed=9.0)
    spec = dataclasses.replace(spec, groups=(Group(likelihood="poisson", size=2),))
    batch = examples(spec)
    names = [f.name for f in dataclasses.fields(Batch)]
    assert all(getattr(batch, name) is not None for name in names)
    for rows in (slice(1, 4), torch.tensor([3, 0, 3], device=DEVICE)):
        assert all(torch.equal(getattr(batch[rows], name), getattr(batch, name)[rows]) for name in names)
    whole = Batch.cat([batch[slice(0, 2)], batch[slice(2, 6)]])
    assert all(torch.equal(getattr(whole, name), getattr(batch, name)) for name in names)
    assert all(getattr(batch.to("meta"), name).device.type == "meta" for name in names)
    assert batch.unlabelled.y is None
    assert all(getattr(batch.unlabelled, name) is getattr(batch, name) for name in names if name != "y")
    assert batch.known is not None and batch.observed is not None and batch.mask is not None
    assert torch.equal(batch.known, batch.observed & batch.mask[..., None])


@pytest.mark.parametrize("name", variants.names())
def test_a_variant_has_a_study_that_compares_fairly(name: str) -> None:
    space = studies.get(name)
    config, ranges = outline(space, {})
    assert ranges
    assert set(ranges) <= {f.name for f in dataclasses.fields(config)}
    assert type(config) is variants.get(name).config_type
    assert type(config)(**dataclasses.asdict(config)) == config
    assert objectives(space.STUDY.objectives, SPECS["binary images"]) == space.STUDY.objectives
    spec = next(s for s in SPECS.values() if fits(name, s))
    variants.build(name, config, spec)


@pytest.mark.parametrize("name", variants.names())
def test_schedules_and_free_bits_never_touch_what_is_compared(name: str) -> None:
    spec = next(s for s in SPECS.values() if fits(name, s))
    compared = []
    for settings in ({}, {"warmup": 1000}, {"free_bits": 3.0}):
        try:
            variant = make(name, spec, **settings).eval()
        except InputError as error:
            assert settings and "expected warmup=0" in str(error)  # noqa: PT017
            continue
        torch.manual_seed(1)
        terms = variant.terms(examples(spec), STEP)
        compared.append((terms.reconstruction, terms.kl))
    for reconstruction, kl in compared[1:]:
        assert torch.equal(reconstruction, compared[0][0])
        assert kl is compared[0][1] is None or torch.equal(kl, compared[0][1])  # type: ignore[arg-type]


def test_an_unknown_variant_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown variant 'bta': did you mean beta\? the variants are .*vae"):
        variants.get("bta")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import no_such_module", r"odd\.py.*No module named 'no_such_module'"),
        ("x = 1", r"odd\.py defines 0 variants"),
        ("from variants import Variant\nclass A(Variant): pass\nclass B(Variant): pass", r"odd\.py defines 2 variants"),
        (
            "from variants import Variant\nclass A(Variant):\n    paper = 'p'",
            r"odd\.py: A is incomplete.*decode",
        ),
    ],
)
def test_a_bad_file_is_named(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(body)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    monkeypatch.setattr(variants, "_FOLDER", tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "variants.odd", raising=False)
    with pytest.raises(InputError, match=message):
        variants.get("odd")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, r"latent=0: expected 1 to 65536 \(latent dimensions\)"),
        ({"latent": 2.5}, r"latent=2\.5: expected a whole number"),
        ({"lr": float("nan")}, r"lr=nan: expected 1e-08 to 1"),
        ({"network": "unet"}, r"network='unet': expected one of auto, mlp, conv, resnet"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**settings)  # type: ignore[arg-type]


def test_a_convolutional_network_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"network='conv': binary has examples of 1x8x8; expected images of at least"):
        make("vae", SPECS["binary images"], network="conv")


@pytest.mark.parametrize("damage", ["missing", "truncated", "unknown variant"])
def test_a_damaged_model_is_refused(damage: str, tmp_path: Path) -> None:
    folder = variants.save(make("vae", SPECS["a table"]), tmp_path)
    weights, about = folder / "model.safetensors", folder / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        about.write_text(json.dumps(json.loads(about.read_text()) | {"variant": "nonesuch"}))
    with pytest.raises(InputError, match="nonesuch" if damage == "unknown variant" else "holds no model"):
        variants.load(folder)


def test_an_outline_needs_no_optuna() -> None:
    trial = Outline()
    studies.get("beta").suggest(trial)
    assert trial.ranges["beta"] == "0.25 to 8, log"
