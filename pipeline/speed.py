"""`python -m pipeline.speed`: how fast a variant trains on this machine.

This measures the seconds that the trainer takes for an epoch, with all that it computes but without validation, beside
the seconds of the matrix products of the variant's linear layers alone. The two take turns, an epoch each. With
--tracking it measures instead what it costs to log and checkpoint every epoch of a training of 10 epochs.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, as_sequences, load
from variants import Batch, InputError, Variant

TRACKED_EPOCHS = 10


def trainer_seconds(variant: Variant, data: Data, epochs: int) -> Iterator[float]:
    """Train a variant, and yield the seconds of each epoch without its validation."""
    for epoch in trainer.train(variant, data, epochs=epochs, seed=0):
        yield epoch.metrics["time/train_seconds"]


def product_seconds(variant: Variant, data: Data, epochs: int) -> Iterator[float]:
    """Yield the seconds that an epoch's matrix products of the linear layers take, forwards and backwards, in fp32.

    The gradient with respect to the input of the first layer is left out, because training does not need it.
    """
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


def tracking(name: str, data: Data, rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of a training without tracking, of the same in a tracked run, and of its last scores.

    The last scores are those that follow the last epoch, with the pictures.
    """
    from pipeline.tracker import Tracker
    from pipeline.training_run import TrainingPlan, TrainingRun

    config = variants.get(name).config_type()
    plan = TrainingPlan(variant=name, config=config, epochs=TRACKED_EPOCHS, patience=0, seed=0)
    tracker = Tracker("speed")
    plain, tracked, final = [], [], []
    for turn in range(rounds):
        for track in (False, True) if turn % 2 else (True, False):
            begin = time.perf_counter()
            if not track:
                torch.manual_seed(0)
                trainer.fit(variants.build(name, config, data.spec), data, epochs=TRACKED_EPOCHS, seed=0)
                plain.append(time.perf_counter() - begin)
                continue
            with tracker.run("cost of tracking", {"kind": "trial"}) as run:
                training = TrainingRun(plan, data, run)
                for _ in training.epochs():
                    pass
                tracked.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                training.scores()
                final.append(time.perf_counter() - begin)
    return statistics.median(plain), statistics.median(tracked), statistics.median(final)


def main(arguments: list[str]) -> int:
    about = str(__doc__).split("\n", 1)[1].strip()
    parser = cli.parser("speed", about, "--variant", "--dataset", "--threads", *cli.DATA)
    parser.add_argument("--rounds", type=cli.positive, default=5, metavar="N", help="how often to measure (5)")
    parser.add_argument("--tracking", action="store_true", help="measure what it costs to log every epoch")
    options = parser.parse_args(arguments)
    name, rounds = options.variant, options.rounds
    if name is None:
        raise InputError(f"--variant is missing: expected one of {', '.join(variants.names())}")
    threads = machine.prepare(options.threads)
    source = options.dataset or "digits"
    place = (as_sequences(source) if "mask" in variants.get(name).required_fields else None) or source
    data = load(cli.source(options, place))
    for line in data.inspect().summary():
        print(line)
    if options.tracking:
        if Path("mlflow.db").exists():
            raise InputError("mlflow.db exists here: use --tracking in an empty folder, because it writes runs")
        plain, tracked, final = tracking(name, data, rounds)
        print(f"{name} on {data.spec.name}, {TRACKED_EPOCHS} epochs, {threads} threads, median of {rounds}:")
        print(
            f"  {plain:.2f} s without tracking, {tracked:.2f} s with every epoch logged ({tracked / plain - 1:+.1%}),"
        )
        print(f"  and {final:.2f} s for the scores and pictures at the end")
        return 0
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
    return 0


if __name__ == "__main__":
    cli.run(main)
