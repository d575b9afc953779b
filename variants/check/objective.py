"""Checks of what is minimised: how the losses depend on the batch, on the hyperparameters and on the weights."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import variants
from variants.base.contract import Batch, InputError, Variant
from variants.check.subject import (
    Result,
    Subject,
    expect,
    gradients,
    is_accepted,
    losses,
    mean_and_error,
    score,
    skipped,
    take_step,
    train,
    without_likelihood,
    without_noise,
)

OF_THE_TRAINER = ("batch", "clip", "precision", "network")  # hyperparameters that the trainer reads, and the network
SMALL, LARGE = 16, 256  # sizes of batches whose losses are compared


def losses_do_not_grow_with_the_batch(subject: Subject) -> str:
    """The mean loss of small batches and of large ones is about the same, and so are its parts with and without p(x|z).

    It finds a sum over the batch, a covariance that is not divided by the number of examples, and a code-book loss that
    grows with the batch. Terms that are estimated within a batch may have a bias, but do not grow in proportion.
    """
    variant, batch = subject.trained().eval(), subject.examples(512, 1, factors=2)
    found, most = [], (LARGE / SMALL) ** 0.5
    with torch.no_grad():
        whole = [_losses_in_batches(variant, batch, size) for size in (SMALL, LARGE)]
        with without_likelihood(variant):
            others = [_losses_in_batches(variant, batch, size) for size in (SMALL, LARGE)]
    for name in whole[0]:
        parts = {"with p(x|z)": [w[name] - o[name] for w, o in zip(whole, others, strict=True)]}
        for what, values in (parts | {"without p(x|z)": [o[name] for o in others]}).items():
            (small, small_error), (large, large_error) = map(mean_and_error, values)
            expect(
                abs(large) <= most * abs(small) + 5 * (most * small_error + large_error) + 1e-4,
                f"the part of the loss {name!r} {what} is {small:.4g} in batches of {SMALL} examples and {large:.4g} "
                f"in batches of {LARGE}; expected a mean over the batch",
            )
            found.append(f"{small:.4g} and {large:.4g} of {name!r} {what}")
    return f"In batches of {SMALL} and {LARGE} examples: {', '.join(found)}."


def _losses_in_batches(variant: Variant, batch: Batch, size: int) -> dict[str, Tensor]:
    """Return the mean losses of batches of this size, for each of four orders of the examples."""
    means: dict[str, list[float]] = {}
    for seed in range(4):
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed)).to(batch.x.device)
        parts = [losses(score(variant, batch[rows])) for rows in order.split(size)]
        for name in parts[0]:
            means.setdefault(name, []).append(float(torch.stack([part[name] for part in parts]).mean()))
    return {name: torch.tensor(values) for name, values in means.items()}


def the_decoder_is_trained_by_the_likelihood_in_nats(subject: Subject) -> str | Result:
    """The gradient of the losses on the decoder is that of the mean reconstruction, or of -`bound` if there is one.

    It finds means over pixels, sums over the batch, importance weights that favour the worst samples, and importance
    weights that are not detached. Coefficients such as beta belong to the other terms of a loss.
    """
    found = []
    for each in subject.configurations():
        batch = each.examples(256, 1, factors=2)
        has_bound = "bound" in score(each.build(), batch).extras  # its importance weights are uneven after training
        variant = each.trained() if has_bound else each.perturbed()
        if not (decoder := _decoder(variant, batch)):
            continue
        of_losses, expected = torch.zeros_like(_flat({}, decoder)), torch.zeros_like(_flat({}, decoder))
        for _ in range(10):
            terms = score(variant, batch)
            target = -terms.extras["bound"].mean() if has_bound else terms.reconstruction.mean()
            slopes = torch.autograd.grad(target, list(decoder.values()), retain_graph=True)
            expected += _flat(dict(zip(decoder, slopes, strict=True)), decoder)
            for _, own, _ in gradients(variant, terms):
                of_losses += _flat(own, decoder)
        cosine = float(torch.cosine_similarity(of_losses, expected, 0))
        ratio = float(of_losses.norm() / expected.norm())
        name = "-bound" if has_bound else "the mean reconstruction"
        expect(
            cosine > 0.99 and 0.95 < ratio < 1.05,
            f"with {each}, the gradient of the losses on the decoder is {ratio:.3g} times as long as that of {name}, "
            f"and their cosine is {cosine:.3f}; expected 1 and 1",
        )
        found.append(f"{ratio:.3f} and {cosine:.3f} of {name}")
    if not found:
        return skipped("no weights belong to p(x|z) alone")
    return f"Length and cosine of the decoder's gradient: {'; '.join(found)}."


def _decoder(variant: Variant, batch: Batch) -> dict[str, Tensor]:
    """Return the weights that p(x|z) depends on and the KL does not, by name."""
    named, kl = dict(variant.named_parameters()), score(variant, batch).kl
    likelihood = variant.log_likelihood(variant.encode(batch).detach(), batch)
    depends = [
        [slope is not None for slope in torch.autograd.grad(values.sum(), list(named.values()), allow_unused=True)]
        for values in (likelihood, *([] if kl is None else [kl]))
    ]
    return {
        name: w for (name, w), d in zip(named.items(), zip(*depends, strict=True), strict=True) if d[0] > any(d[1:])
    }


def _flat(slopes: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """Return gradients on these weights as a vector, with 0 for those that are not among them."""
    return torch.cat([slopes.get(name, torch.zeros_like(weight)).flatten() for name, weight in weights.items()])


def a_coefficient_of_zero_leaves_no_weight_untrained(subject: Subject) -> str | Result:
    """With each of the variant's coefficients at 0, its losses still have a gradient on every weight.

    It finds a weight on the wrong term, for instance the commitment's weight on the term that trains the code book.
    """
    names = []
    for field in subject.own_fields:
        each = subject.with_settings(**{field.name: 0.0})
        if field.metadata.get("low") != 0 or not isinstance(field.default, float) or not is_accepted(each.build):
            continue
        variant, reached = each.perturbed(), set[str]()
        for _, own, _ in gradients(variant, score(variant, each.examples(64, 1, factors=2))):
            reached |= {weight for weight, slope in own.items() if slope.any()}
        untrained = [name for name, _ in variant.named_parameters() if name not in reached]
        expect(not untrained, f"with {each}, no loss has a gradient on {', '.join(untrained)}")
        names.append(field.name)
    if not names:
        return skipped("it has no coefficients that may be 0")
    return f"Every weight has a gradient with 0 for each of {', '.join(names)}."


def every_option_changes_something(subject: Subject) -> str:
    """Each hyperparameter, and each value of a choice, changes the weights, the losses, the scores or the optimizers.

    A setting that has an effect only together with another choice, or on other data, is tried with all choices, and on
    images and sequences too. An option that a variant has no use for should be refused with an `InputError`.
    """
    fields = [f for f in dataclasses.fields(subject.variant.config_type) if f.name not in OF_THE_TRAINER]
    choices = {f.name: f.metadata["choices"] for f in fields if "choices" in f.metadata}
    contexts = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    contexts.sort(key=lambda context: sum(value != choices[name][0] for name, value in context.items()))
    fingerprint = functools.cache(lambda where, settings: _fingerprint(where, dict(settings)))
    refused = []
    for field in fields:
        others = list(_other_values(subject, field))
        for values in [[value] for value in others] if field.name in choices else [others]:
            name = f"{field.name}={values[0]}" if field.name in choices else field.name
            tried = (
                (fingerprint(where, tuple(context.items())), fingerprint(where, tuple(changed.items())))
                for where in subject.on_all_references()
                for context in contexts
                for changed in ({**context, field.name: value} for value in values)
            )
            accepted = 0
            for before, after in tried:
                accepted += after is not None
                if None not in (before, after) and before != after:
                    break
            else:
                expect(not accepted, f"nothing depends on {name}; expected an effect, or an InputError")
                refused.append(name)
    return f"{len(fields)} hyperparameters have an effect{', or are refused: ' if refused else ''}{', '.join(refused)}."


def _other_values(subject: Subject, field: Any) -> Iterator[Any]:
    """Yield values of a hyperparameter other than its default, or than the one of the subject."""
    now = getattr(subject.config(), field.name)
    if "choices" in field.metadata:
        yield from (value for value in field.metadata["choices"] if value != now)
        return
    low, high = field.metadata["low"], field.metadata["high"]
    for value in (now * 2, 3, 40, low) if isinstance(now, int) else (now * 2.0, 0.5, 40.0, float(low)):
        if low <= value <= min(high, 1e3) and value != now:
            yield value


def _fingerprint(subject: Subject, settings: dict[str, Any]) -> Any:
    """Return what is compared between two settings; None if they are refused."""
    try:
        variant = subject.build(**settings)
    except InputError:
        return None
    batch = subject.examples(8, 1, factors=2)
    optimizers = variant.optimizers()
    of_optimizers = [
        {k: v for k, v in group.items() if k != "params"} for o in optimizers.values() for group in o.param_groups
    ]
    shapes = [(name, tuple(value.shape)) for name, value in variant.state_dict().items()]
    numbers = []
    for seed in (1, 2):
        terms = score(variant, batch, seed)
        numbers += [terms.reconstruction, *([] if terms.kl is None else [terms.kl]), *terms.extras.values()]
        numbers += losses(terms).values()
        torch.manual_seed(seed)
        take_step(terms, optimizers)  # what a step changes is seen in the scores of the second round
    numbers += [p.grad for p in variant.parameters() if p.grad is not None]
    return repr((shapes, of_optimizers, variant.stages, [value.detach().flatten().tolist() for value in numbers]))


class _Arrangements(TorchDispatchMode):
    """Records all matrices of distinct floating-point numbers, by the set of their numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: dict[bytes, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if (key := _numbers(value)) is not None:
                self.first.setdefault(key, value.detach().clone())
        return result


def _numbers(value: object) -> bytes | None:
    """Return the sorted numbers of a matrix, as bytes; None if some are equal, or it is no such matrix."""
    if not isinstance(value, Tensor) or value.ndim != 2 or min(value.shape) < 2 or not value.is_floating_point():
        return None
    ordered = value.detach().flatten().sort().values
    return ordered.cpu().numpy().tobytes() if (ordered.diff() > 0).all() else None


def codes_are_permuted_over_the_batch(subject: Subject) -> str | Result:
    """If a network is given codes whose numbers are permuted, each column keeps its numbers.

    It finds codes that are permuted within a row, which are no samples of the product of the marginals. A flow may
    change the order of the columns, but not at random.
    """
    orders = [list(_orders_of_columns(subject, seed)) for seed in (1, 2)]
    expect(
        orders[0] == orders[1],
        "a network is given codes whose columns change places at random; expected permutations of each column over "
        "the batch",
    )
    permuted = sum(order == sorted(order) for order in orders[0])
    return f"Codes are permuted over the batch {permuted} times." if permuted else skipped("no codes are permuted")


def _orders_of_columns(subject: Subject, seed: int) -> Iterator[list[int]]:
    """Yield, for each input of a network whose numbers are those of another matrix, from where its columns are."""
    variant, batch, inputs = subject.perturbed(), subject.examples(16, 1, factors=2), list[Tensor]()

    def record(_: nn.Module, arguments: tuple[object, ...]) -> None:
        inputs.extend(argument for argument in arguments if isinstance(argument, Tensor))

    for module in variant.modules():
        module.register_forward_pre_hook(record)
    with torch.no_grad(), _Arrangements() as arrangements:
        losses(score(variant, batch, seed))
    for value in inputs:
        key = _numbers(value)
        original = value if key is None else arrangements.first.get(key, value)
        if original.shape != value.shape or torch.equal(original, value):
            continue
        equal = (value.sort(0).values[:, :, None] == original.sort(0).values[:, None]).all(0)  # (Z, Z)
        expect(
            equal.any(1).all(),
            "a network is given codes whose numbers are permuted between the columns; expected permutations of each "
            "column over the batch",
        )
        yield equal.float().argmax(1).tolist()


def training_and_evaluation_give_the_same_scores(subject: Subject) -> str:
    """The scores that are compared do not depend on the mode, with the same noise.

    Three things may: batch normalisation and dropout, which are in evaluation mode here, and labels that are withheld,
    so that there are none here. It finds noise or a schedule that acts in one mode only.
    """
    variant, batch = subject.trained(), subject.examples(16, 1, factors=2)
    batch = batch if "y" in subject.variant.required_fields else batch.unlabelled
    scores = []
    for training in (True, False):
        for module in variant.modules():
            depends = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
            module.training = training and not depends
        with torch.no_grad(), without_noise():
            scores.append(score(variant, batch, 1))
    first, second = scores
    for name in ("reconstruction", "kl"):
        values = getattr(first, name), getattr(second, name)
        if values[0] is not None:
            away = float((values[0] - values[1]).abs().max())
            expect(
                away < 1e-3 * (1 + float(values[1].abs().max())),
                f"{name} differs by {away:.4g} nats between training and evaluation mode",
            )
    return "Reconstruction and KL are the same in both modes."


def running_averages_stay_finite(subject: Subject) -> str | Result:
    """200 steps on three examples leave a variant with running averages or discrete codes finite.

    Its coefficients have their lowest values, so that averages decay fast. It finds averages of codes that are no
    longer used, which decay until 0 is divided by 0.
    """
    lowest = {f.name: f.metadata["low"] for f in subject.own_fields if isinstance(f.default, float)}
    fast = subject.with_settings(**lowest)
    fast = fast if is_accepted(fast.build) else subject
    variant, batch = fast.build(batch=3, lr=1e-2), fast.examples(3)
    averages = [buffer.clone() for buffer in variant.buffers()]
    train(variant, batch, 1, 3)
    if not variant.discrete and all(map(torch.equal, averages, variant.buffers())):
        return skipped("it has neither running averages nor discrete codes")
    train(variant, batch, 200, 3)
    values = {**variant.state_dict(), "reconstruction": score(variant, batch).reconstruction}
    bad = [name for name, value in values.items() if not value.isfinite().all()]
    expect(not bad, f"after 200 steps on 3 examples, with {fast}, {', '.join(bad)} is not finite")
    return f"{len(values)} tensors are finite after 200 steps on 3 examples, with {fast}."


def bf16_is_near_fp32(subject: Subject) -> str:
    """With bf16 under autocast, the scores differ from those of fp32 by little."""
    variant, batch = subject.trained().eval(), subject.examples(256, 1, factors=2)
    device = torch.device(subject.device).type
    with torch.no_grad():
        exact = score(variant, batch, 1)
        with torch.autocast(device, torch.bfloat16):
            rounded = score(variant, batch, 1)
            values = losses(rounded)
    expect(all(value.isfinite() for value in values.values()), "a loss is not finite in bf16")
    found = []
    for name in ("reconstruction", "kl"):
        first, second = getattr(exact, name), getattr(rounded, name)
        if first is not None and second is not None:
            low, high = float(second.float().mean()), float(first.mean())
            expect(abs(low - high) < 0.1 + 0.03 * abs(high), f"{name} is {low:.3f} in bf16 and {high:.3f} in fp32")
            found.append(f"{name} {low:.3f} and {high:.3f}")
    return f"In bf16 and fp32, {', '.join(found)} nats."


def a_step_takes_about_as_long_as_that_of_a_vae(subject: Subject) -> Result:
    """Compare the time of a training step with that of a VAE with the same networks. This cannot fail."""
    both = []
    for each in (dataclasses.replace(subject, variant=variants.get("vae")), subject):
        both.append((each.build(width=64, batch=128), each.examples(128, factors=2)))
        train(*both[-1], 3, 128)
    seconds = [math.inf, math.inf]
    for n in range(20):
        begin = time.perf_counter()
        train(*both[n % 2], 2, 128)
        seconds[n % 2] = min(seconds[n % 2], (time.perf_counter() - begin) / 2)
    return Result("hint", f"A step takes {1e3 * seconds[1]:.2f} ms, {seconds[1] / seconds[0]:.1f} times that of a VAE.")
