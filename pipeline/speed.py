"""`python -m pipeline.speed`: how fast a variant trains on this machine.

This measures the seconds that the trainer takes for an epoch, with all that it computes but without validation, beside
the seconds of the matrix products of the variant's linear layers alone. The two take turns, an epoch each. Then it
measures the seconds of a trial of a study by part: training, validation, scores, pictures, tracking. The trial has 100
epochs, or fewer if these would take more than ten seconds.

With --relative-to NAME, it measures instead how long all variants with their default settings take to train, relative
to this one. They take turns, an epoch of at most 5,000 examples each, so that other work on the machine slows down all
of them alike. If a variant trains in stages, they have their shares of the epochs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import variants
from pipeline import cli
from variants import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from pipeline.data import Data
    from variants import Batch, Variant

TRIAL_EPOCHS = 100
LONGEST_TRIAL = 10.0  # seconds of training
EXAMPLES = 5_000  # of an epoch in which variants are compared


def trainer_seconds(variant: Variant, data: Data, epochs: int) -> Iterator[float]:
    """Train a variant, and yield the seconds of each epoch without its validation."""
    from pipeline import trainer

    for epoch in trainer.train(variant, data, epochs=epochs, seed=0):
        yield epoch.metrics["time/train_seconds"]


def product_seconds(variant: Variant, data: Data, epochs: int) -> Iterator[float]:
    """Yield the seconds that an epoch's matrix products of the linear layers take, forwards and backwards, in fp32.

    The gradient with respect to the input of the first layer is left out, because training does not need it.
    """
    import torch

    sizes = [len(part) for part in torch.arange(len(data.train)).split(variant.config.batch)]
    operands = {}
    for size in set(sizes):
        shapes = linear_layers(variant, data.batch(data.train, slice(0, size)))
        operands[size] = [(torch.randn(n, a), torch.randn(a, b), torch.randn(n, b)) for n, a, b in shapes]
    for _ in range(epochs):
        begin = time.perf_counter()
        for size in sizes:
            for layer, (x, weight, gradient) in enumerate(operands[size]):
                x @ weight
                x.T @ gradient
                if layer:
                    gradient @ weight.T
        yield time.perf_counter() - begin


def linear_layers(variant: Variant, batch: Batch) -> list[tuple[int, int, int]]:
    """Return (rows, inputs, outputs) of each linear layer that the losses of a batch use, in the order of use."""
    import torch
    from torch import Tensor, nn

    shapes = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append((output.numel() // output.shape[-1], inputs[0].shape[-1], output.shape[-1]))

    hooks = [m.register_forward_hook(record) for m in variant.modules() if isinstance(m, nn.Linear)]
    for loss in variant.terms(batch, torch.zeros(())).losses.values():
        if not isinstance(loss, Tensor):
            loss()
    for hook in hooks:
        hook.remove()
    return shapes


def trial_seconds(name: str, data: Data, epochs: int) -> dict[str, float]:
    """Return the seconds that a trial with the default configuration takes, by part.

    The trial is tracked in the MLflow store of the working directory. What Optuna adds to a trial is not included.
    """
    from pipeline.tracker import Tracker
    from pipeline.training_run import TrainingPlan, TrainingRun

    config = variants.get(name).config_type()
    plan = TrainingPlan(variant=name, config=config, epochs=epochs, patience=epochs, seed=0)
    tracker = Tracker("speed")
    begin = time.perf_counter()
    with tracker.run("trial", {"kind": "trial"}) as run:
        training = TrainingRun(plan, data, run)
        of_epochs = [epoch.metrics for epoch in training.epochs()]
        scores = training.scores()
    whole = time.perf_counter() - begin
    seconds = {
        "training": sum(metrics["time/train_seconds"] for metrics in of_epochs),
        "validation": sum(metrics["time/valid_seconds"] for metrics in of_epochs),
        "scores": scores["time/scores_seconds"], "pictures": scores["time/pictures_seconds"],
    }  # fmt: skip
    return {**seconds, "tracking and checkpoints": whole - sum(seconds.values())}


def trial_line(name: str, data: Data, epochs: int) -> str:
    """Return what a trial costs by part, and which share of it is neither training nor validation, as text."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # its runs are nobody's results
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        trial_seconds(name, data, 1)  # the first trial of a process warms up
        seconds = trial_seconds(name, data, epochs)
    others = 1 - (seconds["training"] + seconds["validation"]) / sum(seconds.values())
    parts = ", ".join(f"{value:.2f} s {part}" for part, value in seconds.items())
    length = f"{epochs} epoch{'s' * (epochs > 1)}"
    return f"a trial of {length} on {data.spec.name}: {parts}: {others:.0%} besides training and validation"


def relative_seconds(options: argparse.Namespace, names: Sequence[str]) -> dict[str, list[float]]:
    """Return the seconds of each variant's epochs, after a first one that warms up. The variants take turns.

    Those that cannot model the data are left out, with a line that says why.
    """
    import torch

    turns = {}
    for name in dict.fromkeys(names):
        data = loaded(options, name)
        data = replace(data, train=data.train[slice(0, EXAMPLES)])
        torch.manual_seed(0)
        try:
            variant = variants.build(name, variants.get(name).config_type(), data.spec)
        except InputError as error:
            print(f"{name} is left out: {error}")
        else:
            turns[name] = trainer_seconds(variant, data, options.rounds + 1)
    rounds = [{name: next(turn) for name, turn in turns.items()} for _ in range(options.rounds + 1)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in turns}


def loaded(options: argparse.Namespace, name: str) -> Data:
    """Return the data for a variant: images row by row, if it needs sequences."""
    from pipeline.data import as_sequences, load

    source = options.dataset or "digits"
    place = (as_sequences(source) if "mask" in variants.get(name).required_fields else None) or source
    return load(cli.source(options, place))


def main(arguments: list[str]) -> int:
    about = str(__doc__).split("\n", 1)[1].strip()
    parser = cli.parser("speed", about, "--variant", "--dataset", "--threads", *cli.DATA)
    parser.add_argument("--rounds", type=cli.positive, default=5, metavar="N", help="how often to measure (5)")
    parser.add_argument(
        "--relative-to", metavar="NAME", help="compare all variants, or that of --variant, with this one"
    )
    options = parser.parse_args(arguments)

    import torch

    from pipeline import machine

    name, rounds, reference = options.variant, options.rounds, options.relative_to
    if name is None and reference is None:
        raise InputError(f"--variant is missing: expected one of {', '.join(variants.names())}")
    threads = machine.prepare(options.threads)
    if reference:
        of_variants = relative_seconds(options, [reference, *([name] if name else variants.names())])
        if reference not in of_variants:
            raise InputError(f"--relative-to {reference}: expected a variant that can model these data")
        print(f"seconds per epoch, {threads} threads, mean of {rounds}, and relative to {reference}:")
        for each, values in of_variants.items():
            mean = statistics.fmean(values)
            print(f"  {each:12} {mean:.3f}  {mean / statistics.fmean(of_variants[reference]):.2f}")
        return 0
    data = loaded(options, name)
    for line in data.inspect().summary():
        print(line)
    torch.manual_seed(0)
    variant = variants.build(name, variants.get(name).config_type(), data.spec)
    products = product_seconds(variant, data, rounds + 1)
    turns = zip(trainer_seconds(variant, data, rounds + 1), products, strict=True)
    next(turns)  # the first epoch of each warms up
    seconds, floors = zip(*turns, strict=True)
    middle, floor = statistics.median(seconds), statistics.median(floors)
    print(f"{name} on {data.spec.name}, seconds per epoch, {threads} threads, median of {rounds}:")
    print(f"  {middle:.3f} in the trainer, {floor:.3f} for the matrix products alone (ratio {middle / floor:.2f})")
    print("  each epoch of the trainer: " + " ".join(f"{s:.3f}" for s in seconds))
    print(trial_line(name, data, max(1, min(TRIAL_EPOCHS, int(LONGEST_TRIAL / middle)))))
    return 0


if __name__ == "__main__":
    cli.run(main)
