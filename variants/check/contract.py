"""Checks of the contract that apply to each kind of data that a variant accepts."""

import copy
import dataclasses
import tempfile
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import variants
from variants.base.contract import Batch, InputError, Variant
from variants.check import kinds
from variants.check.subject import (
    Result,
    Subject,
    expect,
    furthest,
    gradients,
    in_precision,
    is_close,
    is_same,
    losses,
    mean_and_error,
    repeated,
    score,
    skipped,
    train,
    weights_of,
    without_noise,
)

TO_THE_HOST = (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu)
OF_THE_VALUES = (  # operations that wait for values, or whose result has a shape that depends on values
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "bincount", "repeat_interleave",
)  # fmt: skip


def terms_have_their_shapes_and_are_finite(subject: Subject) -> str:
    """Scores are one number for each example, each loss is one number, and each loss has an optimizer."""
    variant, batch = subject.build(), subject.examples()
    terms = score(variant, batch)
    expect(terms.reconstruction.shape == (6,), f"reconstruction is {tuple(terms.reconstruction.shape)}; expected (B,)")
    expect(terms.kl is None or terms.kl.shape == (6,), "kl is neither None nor (B,)")
    names = set(variant.optimizers())
    expect(set(terms.losses) == names, f"the losses are {set(terms.losses)}, and the optimizers {names}")
    for name, loss in losses(terms).items():
        expect(loss.shape == (), f"the loss {name!r} is {tuple(loss.shape)}; expected a scalar")
        expect(loss.isfinite(), f"the loss {name!r} is {loss.detach()}")
    for name, extra in terms.extras.items():
        expect(
            extra.shape[:1] == (6,) and extra.ndim <= 2,
            f"the extra {name!r} is {tuple(extra.shape)}; expected (B,) or (B, n)",
        )
    for name, values in {"reconstruction": terms.reconstruction, "kl": terms.kl, **terms.extras}.items():
        expect(values is None or values.isfinite().all(), f"{name} is not finite")
    return f"Losses: {', '.join(terms.losses)}. Extras: {', '.join(terms.extras) or 'none'}."


def kl_is_not_negative(subject: Subject) -> str | Result:
    """A KL divergence is not negative: for each example in closed form, and on average if it is an estimate."""
    variant, batch = subject.perturbed().eval(), repeated(subject.examples(), 50)
    kl = score(variant, batch).kl
    if kl is None:
        return skipped("q has no density")
    kl = kl.detach().view(6, 50)
    expect(
        (kl.mean(1) + 5 * kl.std(1) / 50**0.5 >= -1e-4).all(), f"the mean KL of an example is {kl.mean(1).min():.4g}"
    )
    return f"The smallest mean KL of an example is {kl.mean(1).min():.3g} nats."


def every_weight_is_trained_by_its_own_losses_alone(subject: Subject) -> str:
    """Each weight has an optimizer and a gradient, and a loss reaches no weights but those of its own optimizer.

    It finds a discriminator's loss that changes the encoder through codes that are not detached.
    """
    variant, reached = subject.build(), set[str]()
    optimizers = variant.optimizers()
    for name, optimizer in optimizers.items():
        weights = [id(weight) for weight in weights_of(optimizer)]
        expect(len(weights) == len(set(weights)), f"the optimizer {name!r} has a weight twice")
    for name, own, others in gradients(variant, score(variant, subject.examples())):
        reached |= set(own)
        for weight, slope in others.items():
            expect(
                not slope.any(),
                f"the loss {name!r} changes {weight}, which is not a weight of its optimizer; expected a detached "
                "input or a frozen network",
            )
    untrained = [name for name, _ in variant.named_parameters() if name not in reached]
    expect(not untrained, f"no loss changes {', '.join(untrained)}")
    return f"All {len(reached)} tensors of weights are trained by {len(optimizers)} losses."


class _OfFixedShape(TorchDispatchMode):
    """Refuses operations that wait for values, or whose results have a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_on = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None
        expect(
            not self.is_on or counted or (not by_mask and name not in OF_THE_VALUES),
            f"terms or a loss uses the "
            f"operation {name}, which waits for values of a tensor; expected one that can be captured as a CUDA "
            "graph",
        )
        return func(*args, **(kwargs or {}))


class _OnTheDevice(TorchFunctionMode):
    """Refuses calls that copy values to the host.

    `one_hot` reads values on a CPU, but not on CUDA if it is given the number of classes.
    """

    def __init__(self, operations: _OfFixedShape) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        expect(
            func not in TO_THE_HOST,
            f"terms or a loss calls {getattr(func, '__name__', func)}, which copies values to the host",
        )
        self.operations.is_on = func is not F.one_hot or len(args) + len(kwargs or {}) < 2
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.operations.is_on = True


def terms_are_pure_and_can_be_captured(subject: Subject) -> str:
    """The same inputs give the same scores, no weight changes, and nothing is copied to the host.

    Only running averages that the result does not depend on may change, and only in training. It finds counters, code
    books that a call changes, and branches on the values of tensors.
    """
    variant, batch = subject.build(), subject.examples()
    before = {k: v.clone() for k, v in variant.state_dict().items()}
    operations = _OfFixedShape()
    torch.manual_seed(1)
    with operations, _OnTheDevice(operations):
        first = _everything(variant, batch)
    torch.manual_seed(1)
    for name, value in _everything(variant, batch).items():
        expect(is_same(value, first[name]), f"a second call gives another {name}: {furthest(value, first[name])}")
    changed = [name for name, p in variant.named_parameters() if not torch.equal(p, before[name])]
    expect(not changed, f"terms changes {', '.join(changed)}")
    variant.eval()
    before = {k: v.clone() for k, v in variant.state_dict().items()}
    _everything(variant, batch)
    changed = [name for name, value in variant.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, f"terms changes {', '.join(changed)} in evaluation mode")
    return "Two calls give the same scores and losses, and no operation waits for values."


def _everything(variant: Variant, batch: Batch) -> dict[str, Tensor]:
    """Return all terms of a batch by their names."""
    terms = score(variant, batch)
    scores = {"reconstruction": terms.reconstruction} | ({} if terms.kl is None else {"kl": terms.kl})
    return {**scores, **terms.extras, **{f"loss {name!r}": loss for name, loss in losses(terms).items()}}


def each_example_is_scored_by_itself(subject: Subject) -> str:
    """The scores of an example do not depend on the rest of its batch. z is at its mean here, without noise."""
    variant, batch = subject.build().eval(), subject.examples()
    with without_noise():
        whole, part = score(variant, batch, 0), score(variant, batch[slice(0, 2)], 0)
    for name, all_of_them, two in (
        ("reconstruction", whole.reconstruction, part.reconstruction), ("kl", whole.kl, part.kl),
    ):  # fmt: skip
        if all_of_them is not None and two is not None:
            expect(is_close(all_of_them[:2], two), f"{name} in a batch of 6 and of 2: {furthest(all_of_them[:2], two)}")
    return "The scores of two examples are the same in batches of 6 and of 2."


def schedules_never_touch_what_is_compared(subject: Subject) -> str | Result:
    """Warm-up and free bits change only the loss that is minimised."""
    compared = []
    for settings in ({}, {"warmup": 1000}, {"free_bits": 3.0}):
        with suppress(InputError):
            compared.append(score(subject.build(**settings).eval(), subject.examples(), 1))
    for terms in compared[1:]:
        for name in ("reconstruction", "kl"):
            first, changed = getattr(compared[0], name), getattr(terms, name)
            expect(changed is first is None or is_same(changed, first), f"warmup or free_bits changes {name}")
    if len(compared) < 2:
        return skipped("it accepts neither warmup nor free_bits")
    return f"{len(compared)} settings of warmup and free_bits have the same scores."


def encode_never_sees_a_label(subject: Subject) -> str:
    """The code is deterministic, and is the same with other labels or with none."""
    variant, batch = subject.build().eval(), subject.examples()
    code = variant.encode(batch)
    expect(code.ndim == 2 and len(code) == 6, f"encode returns {tuple(code.shape)}; expected (B, Z)")
    expect(torch.equal(code, variant.encode(batch)), "a second call gives another code")
    if batch.y is not None:
        other = dataclasses.replace(batch, y=batch.y.flip(0))
        expect(torch.equal(code, variant.encode(other)), "the code depends on the label")
    expect(torch.equal(code, variant.encode(batch.unlabelled)), "the code is another one without labels")
    return f"The code has {code.shape[1]} dimensions."


def decode_and_sample_give_data(subject: Subject) -> str:
    """Means and samples have the shape of the data, and lie in its range."""
    variant, batch = subject.build(), subject.examples()
    code = variant.encode(batch).detach()
    size = variant.sample_prior(6).shape
    expect(size == code.shape, f"sample_prior(6) returns {tuple(size)}, and encode {tuple(code.shape)}")
    results = {
        "decode": variant.decode(code, batch), "sample_x": variant.sample_x(code, batch),
        "sample": variant.sample(6), "sample with classes and noise": variant.sample(6, batch.y, True),
    }  # fmt: skip
    for name, values in results.items():
        expect(values.shape == batch.x.shape, f"{name} returns {tuple(values.shape)}; expected {tuple(batch.x.shape)}")
        for kind, part in kinds.by_kind(values.detach(), variant.spec).items():
            expect(kind == "real" or part.min() >= 0, f"{name} returns {float(part.min())} for a {kind}")
            bounded = kind not in ("real", "positive", "count")
            expect(not bounded or part.max() <= 1, f"{name} returns {float(part.max())} for a {kind}")
    return f"Means and samples are {tuple(batch.x.shape[1:])} each."


def samples_have_the_mean_that_decode_returns(subject: Subject) -> str:
    """Samples of p(x|z) are values as the data have them, and their mean and spread are those of p(x|z)."""
    variant, n = subject.build().eval(), min(4000, max(500, 200_000 // subject.examples(1).x.numel()))
    one = subject.examples()[slice(5, 6)]
    with torch.no_grad():
        z = variant.encode(one)
        samples, mean = variant.sample_x(z.expand(n, -1), repeated(one, n)), variant.decode(z, one)
    means = kinds.by_kind(mean[0], variant.spec)
    worst = 0.0
    for kind, values in kinds.by_kind(samples, variant.spec).items():
        if kind in ("binary", "category"):
            expect(set(values.unique().tolist()) <= {0.0, 1.0}, f"samples of a {kind} are not 0 or 1")
        elif kind == "count":
            expect(torch.equal(values, values.round()), "samples of a count are not whole numbers")
        elif kind == "pixel":
            expect(is_close(values * 255, (values * 255).round()), "samples of a pixel are not k/255")
        spread = values.std(0)
        width = 0.05 if kind == "pixel" else 12 / n  # what is cut off at 0 and 1; rare values
        away = (values.mean(0) - means[kind]).abs()
        expect(
            (away <= 5 * spread / n**0.5 + width).all(),
            f"the mean of {n} samples of a {kind}, and what decode returns: {furthest(values.mean(0), means[kind])}",
        )
        worst = max(worst, float(away.max()))
        if kind == "binary" and variant.factorized:
            expected = (means[kind] * (1 - means[kind])).sqrt()
            # five standard errors: that of the standard deviation of n values of 0 or 1 is at most 1 / (2 sqrt(n))
            expect(
                (spread - expected).abs().max() <= 2.5 / n**0.5, f"the spread of samples: {furthest(spread, expected)}"
            )
        elif kind == "real" and hasattr(variant, "observation"):
            least = float(variant.observation.families[0].scale.detach().min())  # type: ignore[index,union-attr]
            expect(spread.min() > 0.9 * least, f"samples have the spread {spread.min():.3g}, and p(x|z) {least:.3g}")
    return f"The means of {n} samples are at most {worst:.3f} from what decode returns."


def the_likelihood_counts_each_known_value_once(subject: Subject) -> str:
    """log p(x|z) has a number for each value, which is 0 for missing values and padding; log p(x, z) is their sum."""
    variant, batch = subject.build().eval(), subject.examples()
    z = variant.sample_prior(6, batch)
    each = variant.log_likelihood(z, batch)
    expect(each.shape == batch.x.shape, f"log_likelihood is {tuple(each.shape)}; expected {tuple(batch.x.shape)}")
    known = torch.ones_like(each, dtype=torch.bool) if batch.known is None else batch.known.expand_as(each)
    expect((each[~known] == 0).all(), "log_likelihood of missing values or padding is not 0")
    for kind, values in kinds.by_kind(each, variant.spec).items():  # that of a pixel may be rounded to 0
        counted = values[known[..., variant.spec.kinds[kind].to(known.device)]] != 0
        expect(kind in ("binary", "category") or counted.all(), f"log_likelihood of a {kind} is 0")
    if batch.mask is not None and batch.observed is None:
        expect((each[batch.mask].flatten(1).sum(1) != 0).all(), "log_likelihood of a real step is 0")
    joint, parts = variant.log_joint(z, batch), variant.log_prior(z, batch) + each.flatten(1).sum(1)
    expect(is_close(joint, parts), f"log_joint, and log_prior + log_likelihood: {furthest(joint, parts)}")
    return f"{int(known.sum())} of {known.numel()} values count."


def the_likelihood_is_exact_for_extreme_scales(subject: Subject) -> str | Result:
    """log p(x|z) is finite and the same in float32 and float64, also where scales and dispersions are e^-14 or e^14.

    It finds differences of large numbers, such as logarithms of the gamma function of a large dispersion.
    """
    variant, batch, worst = subject.build().eval(), subject.examples(), 0.0
    if not any(True for _ in getattr(variant, "observation", torch.nn.Module()).parameters()):
        return skipped("the likelihood has no weights of its own")
    wide = copy.deepcopy(variant).double()
    z = variant.encode(batch).detach()
    for value in (-14.0, 14.0):
        each = []
        for model, dtype in ((variant, torch.float32), (wide, torch.float64)):
            with torch.no_grad():
                for parameter in model.get_submodule("observation").parameters():
                    parameter.fill_(value)
                each.append(model.log_likelihood(z.to(dtype), in_precision(batch, dtype)).double())
        away = ((each[0] - each[1]).abs() / (1 + each[1].abs())).max()
        expect(
            away < 2e-3,
            f"with the weights of the likelihood at {value:g}, log p(x|z) in float32 and in float64: {furthest(*each)}",
        )
        worst = max(worst, float(away))
    return f"float32 and float64 differ by at most {worst:.0e} of 1 + |log p(x|z)|."


def the_scores_are_expectations_under_q(subject: Subject) -> str | Result:
    """`reconstruction` is -E_q log p(x|z), and the ELBO is E_q [log p(x, z) - log q(z|x)], estimated by sampling.

    It finds a KL in closed form that belongs to another posterior, means over pixels, and sums over the batch. If q has
    no density, z is the code.
    """
    variant = subject.perturbed().eval()
    draws = min(400, max(100, 20_000 // subject.examples(1).x.numel()))
    many = repeated(subject.examples(), draws)
    with torch.no_grad():
        samples, terms = variant.sample_posterior(many), score(variant, many)
        z = variant.encode(many) if samples is None else samples[0]
        likelihood = variant.log_likelihood(z, many).flatten(1).sum(1)
        pairs = {"reconstruction": (terms.reconstruction, -likelihood)}
        if samples is not None and terms.elbo is not None:
            pairs["elbo"] = (terms.elbo, variant.log_joint(z, many) - samples[1])
    for name, (scored, sampled) in pairs.items():
        first, second = scored.view(6, draws), sampled.view(6, draws)
        error = 5 * (first.std(1) + second.std(1)) / draws**0.5 + 1e-4 * (1 + second.mean(1).abs())
        expect(
            ((first.mean(1) - second.mean(1)).abs() < error).all(),
            f"{name}, and its estimate from {draws} samples of q: {furthest(first.mean(1), second.mean(1))}",
        )
    mean, error = mean_and_error(pairs["elbo" if "elbo" in pairs else "reconstruction"][1].view(6, draws).mean(0))
    return f"The mean {'ELBO' if 'elbo' in pairs else 'reconstruction'} is {mean:.2f} +- {error:.2f} nats by sampling."


def samples_of_one_example_stand_together(subject: Subject) -> str | Result:
    """Without noise, the k samples of an example are equal to its single sample; with noise they differ."""
    variant, batch = subject.build().eval(), subject.examples()
    samples = variant.sample_posterior(batch, 3)
    if samples is None:
        return skipped("q has no density")
    size = (18, variant.sample_prior(1).shape[1])
    expect(samples[0].shape == size, f"3 samples of 6 examples are {tuple(samples[0].shape)}; expected {size}")
    expect(samples[1].shape == (18,), f"their log q is {tuple(samples[1].shape)}; expected (18,)")
    expect(variant.discrete or not torch.equal(samples[0][::3], samples[0][1::3]), "two samples of q are equal")
    with without_noise():
        many, one = variant.sample_posterior(batch, 3), variant.sample_posterior(batch)
    assert many is not None and one is not None
    for name, of_three, single in zip(("z", "log q"), many, one, strict=True):
        expect(
            is_close(of_three, single.repeat_interleave(3, 0)),
            f"{name} of three samples and of one, without noise: {furthest(of_three, single.repeat_interleave(3, 0))}",
        )
    return "Three samples of an example are consecutive rows."


def prior_from_noise_has_the_distribution_of_the_prior(subject: Subject) -> str | Result:
    """By a change of variables: log p(z) = log N(e) - log |dz/de|, up to a constant for a given class."""
    variant, batch = subject.build().eval(), subject.examples()
    if variant.discrete or variant.latent_classes:
        return skipped("z is discrete" if variant.discrete else "z contains a class")
    many = batch[torch.zeros(4000, dtype=torch.int64, device=batch.x.device)]
    sampled = variant.sample_prior(4000, many)
    transformed = variant.prior_from_noise(torch.randn_like(sampled), many)
    if transformed is None:
        return skipped("no function turns noise into the prior")
    away = ((sampled.mean(0) - transformed.mean(0)) / sampled.std(0)).abs().max()
    ratio = (transformed.std(0) / sampled.std(0) - 1).abs().max()
    expect(
        away < 0.12 and ratio < 0.12,
        "samples of prior_from_noise and of sample_prior differ by "
        f"{away:.2f} standard deviations in the mean, and by {ratio:.0%} in the spread",
    )
    variant, one = variant.double(), in_precision(batch, torch.float64)[slice(0, 1)]

    def z_of(e: Tensor) -> Tensor:
        z = variant.prior_from_noise(e, one)
        assert z is not None
        return z

    differences = []
    for e in torch.randn(3, sampled.shape[1], dtype=torch.float64, device=batch.x.device).split(1):
        slope = torch.autograd.functional.jacobian(lambda n: z_of(n)[0], e)[:, 0]
        expected = -0.5 * e.square().sum() - torch.linalg.slogdet(slope)[1]
        differences.append(float((variant.log_prior(z_of(e), one) - expected).detach()))
    expect(
        max(differences) - min(differences) < 1e-6,
        "log_prior - (log N(e) - log |dz/de|) is not constant: it is "
        f"{min(differences):.4f} and {max(differences):.4f}",
    )
    return f"The means differ by {away:.2f} standard deviations, and the spreads by {ratio:.0%}."


def training_improves_the_reconstruction(subject: Subject) -> str:
    """Training steps on one batch lower its reconstruction, and all weights stay finite."""
    variant, batch = subject.build(batch=6, lr=3e-3), subject.examples()
    scores = []
    for steps in (0, 12):
        train(variant, batch, steps, 6)
        with torch.no_grad():
            scores.append(float(score(variant, repeated(batch, 20), 1).reconstruction.mean()))
    expect(scores[1] < scores[0], f"the mean reconstruction is {scores[0]:.4g}, and {scores[1]:.4g} after 12 steps")
    expect(all(v.isfinite().all() for v in variant.state_dict().values()), "a weight is not finite after 12 steps")
    return f"The mean reconstruction is {scores[0]:.4g}, and {scores[1]:.4g} after 12 steps."


def pictures_are_rows_and_columns_of_data(subject: Subject) -> str | Result:
    """The variant's own pictures are grids of examples."""
    batch = subject.examples()
    pictures = subject.build().eval().pictures(batch)
    for name, values in pictures.items():
        expect(
            values.shape[2:] == batch.x.shape[1:],
            f"the picture {name!r} is {tuple(values.shape)}; expected (rows, "
            f"columns, {', '.join(map(str, batch.x.shape[1:]))})",
        )
        expect(not values.isinf().any(), f"the picture {name!r} has infinite values")
        expect(values.flatten(2).isfinite().any(2).all(), f"a cell of the picture {name!r} is empty")
    return f"The pictures are {', '.join(pictures)}." if pictures else skipped("it has no pictures of its own")


def saved_and_loaded_is_the_same_model(subject: Subject) -> str:
    """A model that was saved and loaded has the same configuration, and gives the same codes, to the bit."""
    variant, batch = subject.build(), subject.examples()
    with tempfile.TemporaryDirectory() as folder:
        loaded = variants.load(variants.save(variant, folder), subject.variant).to(subject.device)
    expect(type(loaded) is subject.variant, f"the loaded model is a {type(loaded).__name__}")
    expect(loaded.config == variant.config and loaded.spec == variant.spec, "the configuration or the spec changed")
    expect(torch.equal(loaded.encode(batch), variant.eval().encode(batch)), "the loaded model gives other codes")
    states = loaded.state_dict(), variant.state_dict()
    expect(all(torch.equal(states[0][name], value) for name, value in states[1].items()), "a weight changed")
    return f"{len(states[1])} tensors are the same after loading."


def missing_values_and_padding_do_not_leak(subject: Subject) -> str | Result:
    """Whatever stands in the place of missing values and of padding reaches no score, no gradient and no code."""
    batch = subject.examples()
    if batch.known is None:
        return skipped("no value is missing, and there is no padding")
    known = batch.known.expand_as(batch.x)
    fillings = (7.0, -7.0, *([float("nan")] if batch.observed is not None and batch.mask is None else []))
    results = []
    for filling in (0.0, *fillings):
        filled = dataclasses.replace(batch, x=torch.where(known, batch.x, filling))
        variant = subject.build()
        terms = score(variant, filled, 1)
        for loss in losses(terms).values():
            loss.backward(retain_graph=True)
        slopes = {f"the gradient of {n}": p.grad for n, p in variant.named_parameters() if p.grad is not None}
        variant.eval()
        code = variant.encode(filled)
        joint = {} if variant.latent_classes else {"log_joint": variant.log_joint(code, filled)}
        results.append({"reconstruction": terms.reconstruction, **slopes, "the code": code, **joint})
    for filling, result in zip(fillings, results[1:], strict=True):
        for name, value in result.items():
            expect(
                is_same(value, results[0][name]) and value.isfinite().all(),
                f"{name} depends on what stands in the place of missing values or padding: {filling} instead of 0",
            )
    return f"{int((~known).sum())} missing values or steps of padding do not matter."


def an_encoder_tells_a_missing_value_from_a_zero(subject: Subject) -> str | Result:
    """The code depends on which values are observed, not on whether the mask is given if all are."""
    variant, batch = subject.build().eval(), subject.examples()
    if batch.observed is None:
        return skipped("no value is missing")
    complete = dataclasses.replace(batch, observed=torch.ones_like(batch.observed))
    codes = [variant.encode(b) for b in (batch, complete, dataclasses.replace(batch, observed=None))]
    expect(not torch.allclose(codes[0], codes[1]), "missing values and zeros have the same code")
    expect(torch.equal(codes[1], codes[2]), "a mask without missing values changes the code")
    return "Missing values and zeros have different codes."
