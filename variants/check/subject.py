"""What a check is given, a `Subject`, and what it returns, a `Result`; and tools that several checks use."""

import copy
import dataclasses
import functools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from variants.base.contract import Batch, Config, DataSpec, InputError, Stage, Terms, Variant
from variants.check import kinds

STEP = 5.0  # the number of training steps so far, which `terms` is given
TRAINING_STEPS, TRAINING_BATCH, TRAINING_EXAMPLES = 100, 64, 1024  # of `Subject.trained`
REFERENCE = ("a table", "binary images", "real sequences")  # the kinds of data of checks that run once

Status = Literal["passed", "failed", "skipped", "hint"]


@dataclass(frozen=True)
class Result:
    """What a check found. A hint is no verdict. `evidence` is a sentence with figures, or the reason."""

    status: Status
    evidence: str


class Violation(AssertionError):
    """Raised when a variant does not do what the contract says. The message says what was found and expected."""


def expect(condition: bool | Tensor, message: str) -> None:
    """Raise `Violation` with this message unless the condition is true."""
    if not condition:
        raise Violation(message)


def skipped(reason: str) -> Result:
    return Result("skipped", reason)


@dataclass(frozen=True)
class Subject:
    """A variant and the kind of data on which it is checked.

    Networks are small: 4 latent dimensions and hidden layers of 16 units, and 32 instead of larger whole numbers among
    the variant's own hyperparameters, unless `settings` says otherwise.
    """

    variant: type[Variant]
    kind: str
    _: KW_ONLY
    device: str = "cpu"
    seed: int = 0
    settings: tuple[tuple[str, Any], ...] = ()  # of the configuration, in addition to those above

    @property
    def spec(self) -> DataSpec:
        return kinds.KINDS[self.kind]

    def with_settings(self, **settings: Any) -> "Subject":
        """Return the same subject with other hyperparameters."""
        return replace(self, settings=tuple({**dict(self.settings), **settings}.items()))

    def config(self, **settings: Any) -> Config:
        numbers = [f for f in self.own_fields if type(f.default) is int]
        small = {f.name: max(32, f.metadata["low"]) for f in numbers if f.default > 32}
        return self.variant.config_type(**{"latent": 4, "width": 16, **small, **dict(self.settings), **settings})

    @property
    def own_fields(self) -> list[Any]:
        """The fields of the configuration that are not those of all variants."""
        common = {field.name for field in dataclasses.fields(Config)}
        return [field for field in dataclasses.fields(self.variant.config_type) if field.name not in common]

    def build(self, spec: DataSpec | None = None, **settings: Any) -> Variant:
        """Return a new model, whose weights depend on the seed alone.

        It has the network that is meant for this kind of data, or the one that the variant prefers.

        Raises:
            InputError: If the variant refuses such data, or these settings.
        """
        spec = self.spec if spec is None else spec
        asked = {"network": kinds.network(self.kind), **dict(self.settings), **settings}
        for each in (asked, settings):
            torch.manual_seed(self.seed)
            try:
                return self.variant(self.config(**each), spec).to(self.device)
            except InputError as error:
                refused = error
        raise refused

    def perturbed(self) -> Variant:
        """Return a new model whose weights, also those that start at zero, are moved away from their first values."""
        variant = self.build()
        with torch.no_grad():
            for parameter in variant.parameters():
                inputs = parameter[0].numel() if parameter.ndim > 1 else 16
                parameter.add_(0.8 * inputs**-0.5 * torch.randn_like(parameter))
        return variant

    def examples(self, n: int = 6, seed: int = 0, factors: int = 0) -> Batch:
        return kinds.examples(self.spec, n, self.seed + seed, factors=factors).to(self.device)

    def trained(self) -> Variant:
        """Return a model after some training on examples that depend on two factors. It is trained once, and copied."""
        return copy.deepcopy(_trained(self))

    def configurations(self) -> Iterator["Subject"]:
        """Yield this subject, and those that differ in one of the variant's own hyperparameters.

        These are all values of choices, and 2 instead of numbers that are 0. A value that is refused on this kind of
        data is tried on images and sequences.
        """
        yield self
        for field in self.own_fields:
            for value in field.metadata.get("choices", (2,) if field.default == 0 else ()):
                subjects = (subject.with_settings(**{field.name: value}) for subject in self.on_all_references())
                accepted = next((subject for subject in subjects if is_accepted(subject.build)), None)
                if value != field.default and accepted is not None:
                    yield accepted

    def on_all_references(self) -> Iterator["Subject"]:
        """Yield this subject, and the same variant on the other kinds of data among a table, images and sequences."""
        yield self
        for kind in REFERENCE:
            if kind != self.kind and self.variant.required_fields <= kinds.KINDS[kind].fields:
                yield replace(self, kind=kind)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings) or "the default settings"

    @staticmethod
    def first(variant: type[Variant], device: str = "cpu", seed: int = 0) -> "Subject":
        """Return the subject for checks that run once: on a table, or on what else the variant accepts first."""
        subjects = [Subject(variant, kind, device=device, seed=seed) for kind in (*REFERENCE, *kinds.KINDS)]
        accepted = (c for c in subjects if variant.required_fields <= c.spec.fields and is_accepted(c.build))
        return next(accepted, subjects[0])


Check = Callable[[Subject], str | Result]


def name_of(check: Check) -> str:
    """Return the name of a check: that of its function, in words."""
    return check.__name__.replace("_", " ")


def carry_out(check: Check, subject: Subject) -> Result:
    """Run a check. The global random state is kept."""
    devices = [torch.device(subject.device)] if subject.device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(subject.seed)
        try:
            found = check(subject)
        except Violation as error:
            return Result("failed", str(error))
        except Exception as error:  # of the variant, or of torch in it
            return Result("failed", described(error))
    return found if isinstance(found, Result) else Result("passed", found)


def described(error: Exception) -> str:
    """Return one line about an error: its type, the file and line of our code that raised it, and its message.

    If torch raised it, the file and line are those of the call of torch.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "torch" not in Path(f.filename).parts] or frames
    return f"{type(error).__name__} in {Path(own[-1].filename).name}, line {own[-1].lineno}: {error}"


def is_accepted(build: Callable[[], object]) -> bool:
    """Return whether something is built without an `InputError`."""
    try:
        build()
    except InputError:
        return False
    return True


@functools.cache
def _trained(subject: Subject) -> Variant:
    variant = subject.build(replace(subject.spec, examples=TRAINING_EXAMPLES), batch=256, lr=1e-2)
    batch = subject.examples(TRAINING_EXAMPLES, factors=2)
    train(variant, batch, TRAINING_STEPS, TRAINING_BATCH)
    return variant


def train(variant: Variant, batch: Batch, steps: int, size: int) -> None:
    """Train a variant for a number of steps, each on `size` examples that are drawn at random from `batch`.

    Stages and the order of the losses are those of the trainer of the pipeline.
    """
    optimizers, step = variant.optimizers(), torch.zeros((), device=batch.x.device)
    variant.train()
    for stage in variant.stages or (Stage(tuple(optimizers), 1.0),):
        for _ in range(round(steps * stage.share)):
            rows = torch.randint(len(batch), (size,), device=batch.x.device) if size < len(batch) else slice(None)
            take_step(variant.terms(batch[rows], step), {name: optimizers[name] for name in stage.losses})
            step += 1


def take_step(terms: Terms, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Let each optimizer take one step on the loss of its name."""
    ready = [name for name in optimizers if isinstance(terms.losses[name], Tensor)]
    for name in ready:
        _backward(terms.losses[name], optimizers[name], retain=True)  # type: ignore[arg-type]
    for name in ready:
        optimizers[name].step()
    for name, optimizer in optimizers.items():
        if callable(loss := terms.losses[name]):
            _backward(loss(), optimizer, retain=False)
            optimizer.step()


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def gradients(variant: Variant, terms: Terms) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Yield the name of each loss, and its gradients on the weights of its optimizer, and on all others, by name.

    Weights that a loss does not depend on are left out.
    """
    named, optimizers = dict(variant.named_parameters()), variant.optimizers()
    for name, loss in losses(terms).items():
        own = {id(weight) for weight in weights_of(optimizers[name])}
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        reached = {weight: slope for weight, slope in zip(named, found, strict=True) if slope is not None}
        yield (
            name,
            {weight: slope for weight, slope in reached.items() if id(named[weight]) in own},
            {weight: slope for weight, slope in reached.items() if id(named[weight]) not in own},
        )


def _backward(loss: Tensor, optimizer: torch.optim.Optimizer, retain: bool) -> None:
    optimizer.zero_grad()
    loss.backward(inputs=weights_of(optimizer), retain_graph=retain)


def losses(terms: Terms) -> dict[str, Tensor]:
    """Return the losses as tensors, also those that are functions."""
    return {name: loss() if callable(loss) else loss for name, loss in terms.losses.items()}


def score(variant: Variant, batch: Batch, seed: int | None = None) -> Terms:
    """Return the terms of a batch; with `seed`, with the random numbers of this seed."""
    if seed is not None:
        torch.manual_seed(seed)
    return variant.terms(batch, torch.tensor(STEP, device=batch.x.device))


def repeated(batch: Batch, times: int) -> Batch:
    """Return each example so many times; the copies of an example stand next to each other."""
    return batch[torch.arange(len(batch), device=batch.x.device).repeat_interleave(times)]


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the same examples with floating-point numbers of another precision."""
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "_"}
    return Batch(**{
        name: value.to(dtype) if value is not None and value.is_floating_point() else value
        for name, value in fields.items()
    })  # fmt: skip


def is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two calls gave the same: exactly on a CPU, and on CUDA, where sums vary in their order, nearly."""
    if first.device.type == "cpu":
        return torch.equal(first, second)
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-5, atol=1e-5)


def is_close(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=tolerance, atol=tolerance)


def furthest(first: Tensor, second: Tensor) -> str:
    """Return a part of a sentence about the two values of two tensors that differ most."""
    if first.shape != second.shape:
        return f"shapes {tuple(first.shape)} and {tuple(second.shape)}"
    first, second = first.detach().flatten(), second.detach().flatten()
    worst = int((first - second).abs().nan_to_num(math.inf).argmax())
    return f"{first[worst]:.6g} and {second[worst]:.6g}"


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of values, and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


class ChangedNoise(TorchFunctionMode):
    """Within this context, `change` is applied to the standard normal noise of `torch.randn_like`.

    With `everywhere`, it is applied to that of `torch.randn` as well. `count` is the number of numbers that were drawn.
    """

    def __init__(self, change: Callable[[Tensor], Tensor], *, everywhere: bool = False) -> None:
        super().__init__()
        self.change, self.functions, self.count = change, (torch.randn_like, torch.randn)[: 1 + everywhere], 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if func not in self.functions:
            return value
        self.count += value.numel()
        return self.change(value)


def without_noise() -> ChangedNoise:
    """Return a context in which z is at the mean of q(z|x)."""
    return ChangedNoise(torch.zeros_like)


@contextmanager
def without_likelihood(variant: Variant) -> Iterator[None]:
    """Within this context, log p(x|z) is 0, so that only the other parts of a loss are left.

    It needs a variant whose likelihood is an `Observation`; others keep theirs.
    """
    observation = getattr(variant, "observation", None)
    if observation is None:
        yield
        return

    observation.nll_each = lambda batch, output: torch.zeros_like(batch.x) + 0 * output.sum()
    try:
        yield
    finally:
        del observation.nll_each
