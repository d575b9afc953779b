"""Networks between sequences and codes: what they read, what reaches real steps, and how they tell the time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import variants
from variants import Batch, DataSpec, InputError, Variant
from variants.base.contract import Group
from variants.base.sequences import NETWORKS, Clock, coarser

STEP = torch.tensor(5.0, dtype=torch.float64)
REAL = DataSpec(name="waves", shape=(3,), likelihood="gaussian", classes=3, steps=40, missing=True)
TIMED = replace(REAL, name="stamps", elapsed=90.0)
MIXED = DataSpec(
    name="visits", shape=(4,), likelihood="mixed", classes=3, steps=40, missing=True,
    groups=(Group(likelihood="gaussian", size=1), Group(likelihood="negative-binomial", size=2),
            Group(likelihood="bernoulli", size=1)),
)  # fmt: skip
CASES = [
    (name, network)
    for name in variants.names()
    for network in (("auto",) if "mask" in variants.get(name).required_fields else NETWORKS)
]

SMOOTH = [case for case in CASES if not variants.get(case[0]).discrete]  # a discrete code may stay the same


def make(name: str, spec: DataSpec, network: str, **settings: object) -> Variant:
    torch.manual_seed(0)
    config = variants.get(name).config_type(network=network, width=16, latent=8, **settings)  # type: ignore[arg-type]
    variant = variants.build(name, config, spec).double().eval()
    for parameter in variant.parameters():  # also those that start at 0, so that each of them has an effect
        torch.nn.init.normal_(parameter, 0, 0.2)
    return variant


def examples(spec: DataSpec, steps: int = 30) -> Batch:
    """Sequences with 1 to `steps` steps and missing values."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([steps, steps - 7, 19, 12, 2, 1])
    mask = torch.arange(steps) < lengths[:, None]
    x = torch.rand(6, steps, *spec.shape, generator=generator).double()
    x = x.round() if "mixed" in spec.likelihood else x
    observed = torch.rand(x.shape, generator=generator) > 0.3
    elapsed = torch.rand(6, steps, generator=generator).double().mul(4).cumsum(1) if spec.elapsed else None
    return hidden(Batch(x, torch.arange(6) % 3, mask, observed=observed, elapsed=elapsed), 0.0)


def hidden(batch: Batch, garbage: float) -> Batch:
    """The same sequences with `garbage` where values are missing or behind the end."""
    assert batch.mask is not None and batch.observed is not None
    x = torch.where(batch.mask[..., None] & batch.observed, batch.x, garbage)
    elapsed = None if batch.elapsed is None else torch.where(batch.mask, batch.elapsed, garbage)
    return replace(batch, x=x, elapsed=elapsed)


def padded(batch: Batch, more: int) -> Batch:
    n = len(batch)
    longer = batch
    for name in ("x", "mask", "observed", "elapsed"):
        if (value := getattr(batch, name)) is not None:
            longer = replace(longer, **{name: torch.cat([value, value.new_zeros(n, more, *value.shape[2:])], 1)})  # type: ignore[arg-type]
    return longer


def scores(variant: Variant, batch: Batch) -> list[Tensor]:
    """The terms, their gradients, and the means of real steps."""
    torch.manual_seed(1)
    terms = variant.terms(batch, STEP)
    losses = [loss if isinstance(loss, Tensor) else loss() for loss in terms.losses.values()]
    slopes = torch.autograd.grad(sum(losses), list(variant.parameters()), allow_unused=True)  # type: ignore[arg-type]
    known = [s for s in (terms.reconstruction, terms.kl, *slopes) if s is not None]
    assert batch.mask is not None
    return [*known, variant.decode(variant.encode(batch), batch)[batch.mask]]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("spec", [TIMED, MIXED], ids=lambda s: s.name)
@pytest.mark.parametrize(("name", "network"), CASES)
def test_what_is_missing_or_behind_the_end_changes_nothing(name: str, network: str, spec: DataSpec) -> None:
    variant, batch = make(name, spec, network), examples(spec)
    expected = scores(variant, batch)
    for changed in (hidden(batch, 77.0), hidden(batch, math.nan), hidden(padded(batch, 10), 5.0)):
        for a, b in zip(expected, scores(variant, changed), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "network"), SMOOTH)
def test_each_step_and_their_order_are_read(name: str, network: str) -> None:
    variant = make(name, REAL, network)
    batch = replace(examples(REAL), observed=None)
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(variant.encode(replace(batch, x=x)).square().sum(), x)
    assert batch.mask is not None
    assert ((slope != 0).any(2) == batch.mask).all()
    turned = replace(batch, x=torch.cat([batch.x[:, 1:2], batch.x[:, :1], batch.x[:, 2:]], 1))
    different = (variant.encode(turned) - variant.encode(batch)).abs().amax(1)
    assert (different[:5] > 1e-9).all()


@pytest.mark.parametrize(("name", "network"), SMOOTH)
def test_times_reach_the_code_and_the_decoder(name: str, network: str) -> None:
    """A variant with networks of its own reads them in its encoder alone."""
    variant, batch = make(name, TIMED, network), examples(TIMED)
    assert batch.elapsed is not None
    later = replace(batch, elapsed=batch.elapsed * torch.linspace(1, 1.5, 30))
    code = variant.encode(batch)
    assert ((variant.encode(later) - code).abs().amax(1)[:5] > 1e-9).all()
    is_moved = (variant.decode(code, later) - variant.decode(code, batch)).abs().amax((1, 2))[:4] > 1e-9
    assert is_moved.all() or "mask" in variant.required_fields


def test_the_clock_tells_even_steps_as_times() -> None:
    mask = torch.arange(12) < torch.tensor([12, 5])[:, None]
    even, timed = Clock(replace(REAL, steps=12)), Clock(replace(REAL, steps=12, elapsed=11.0))
    assert timed.size == even.size + 1
    times = torch.arange(12.0).expand(2, 12)
    told = timed(mask, times)
    torch.testing.assert_close(told[..., :-1][mask], even(mask)[mask])
    torch.testing.assert_close(told[0, 1:, -1], torch.full((11,), math.log(2)))


def test_steps_are_joined_to_the_mean_of_the_real_ones() -> None:
    x = torch.arange(1.0, 8.0)[None, :, None]
    joined, mask = coarser(x, torch.arange(7)[None] < 6, 4)
    assert joined.flatten().tolist() == [2.5, 5.5]
    assert mask.tolist() == [[True, True]]


def test_the_levels_of_a_ladder_have_time_scales_and_no_information_where_there_are_no_steps() -> None:
    variant = make("hvae", REAL, "tcn", levels=3, free_bits=0.0)
    assert variant.levels == (8, 4, 2)  # 4, 4 and 2 numbers at each of 2, 1 and 1 positions in time
    kl = variant.terms(examples(REAL, 40), STEP).extras["kl_per_dimension"]
    lowest = kl[:, :8].unflatten(1, (2, 4))  # of steps 1 to 32, and of steps 33 to 40
    assert (lowest[:2] > 1e-3).all()  # sequences with 40 and 33 steps
    assert (lowest[2:, 0] > 1e-3).all()
    assert lowest[2:, 1].abs().max() < 1e-12


def test_a_ladder_says_that_a_sequence_is_too_long() -> None:
    variant = make("hvae", REAL, "gru")
    with pytest.raises(InputError, match="more than 40 steps"):
        variant.encode(examples(REAL, 70))


@pytest.mark.parametrize("name", ["vae", "hvae"])
@pytest.mark.parametrize(("network", "spec"), [("mlp", REAL), ("gru", replace(REAL, steps=0)), ("conv", REAL)])
def test_a_network_for_other_data_is_refused(name: str, network: str, spec: DataSpec) -> None:
    with pytest.raises(InputError, match=r"network='\w+': waves has (no )?sequences; expected auto"):
        make(name, spec, network)
