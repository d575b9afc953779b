"""`python -m pipeline.speed`: how fast is the trainer, as ratios measured in one run on this machine.

Seconds per MNIST epoch (60,000 images, 784-400-20, batch 128, Adam 1e-3), one epoch of each
in turn, each in a process of its own:

    ours        pipeline.trainer with everything that it measures, its validation not counted
    program     the usual tutorial: PIL images, ToTensor, a DataLoader, one .item() a step
    pythae      pythae 0.1.2, same network and batch (extra `speed`)
    floor       the matrix products of the same steps alone, in fp32

and, with --tracking, what it costs to log a trial; with --evaluation, what it costs to score a model.
"""

import contextlib
import importlib.util
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import cli, machine
from pipeline.data import Data, load
from pipeline.trainer import train
from variants import Batch, Config, InputError
from variants.vae import VAE

BATCH, WIDTH, LATENT, LR = 128, 400, 20, 1e-3
Clock = Iterator[float]  # seconds of one epoch after another


def tutorial_setting() -> Data:
    """MNIST as the tutorial has it: all 60,000 training images, grey pixels as probabilities."""
    data = load("mnist", binarized=False)
    assert data.train.y is not None
    assert data.valid.y is not None
    whole = Batch(torch.cat([data.train.x, data.valid.x]), torch.cat([data.train.y, data.valid.y]))
    return replace(data, train=whole)


def ours(data: Data, epochs: int) -> Clock:
    torch.manual_seed(0)
    variant = VAE(Config(latent=LATENT, width=WIDTH, depth=1, lr=LR, batch=BATCH), data.spec)
    for epoch in train(variant, data, epochs=epochs, seed=0):
        yield epoch.metrics["time/train_seconds"]


def floor(data: Data, epochs: int) -> Clock:
    """x @ W and back, for each of the four layers; the gradient of the first layer's input is not needed."""
    sizes = [(784, WIDTH), (WIDTH, 2 * LATENT), (LATENT, WIDTH), (WIDTH, 784)]
    weights = [torch.randn(shape) for shape in sizes]
    counts = [len(b) for b in torch.arange(len(data.train)).split(BATCH)]
    inputs = {n: [torch.randn(n, a) for a, _ in sizes] for n in set(counts)}
    outputs = {n: [torch.randn(n, b) for _, b in sizes] for n in set(counts)}
    for _ in range(epochs):
        begin = time.perf_counter()
        for n in counts:
            for layer, (weight, x, y) in enumerate(zip(weights, inputs[n], outputs[n], strict=True)):
                x @ weight
                x.T @ y
                if layer:
                    y @ weight.T
        yield time.perf_counter() - begin


class _Program(nn.Module):
    """The tutorial's model: two heads, a sigmoid, the sum of binary cross entropies and the KL."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.log_var = nn.Linear(784, WIDTH), nn.Linear(WIDTH, LATENT), nn.Linear(WIDTH, LATENT)
        self.back, self.out = nn.Linear(LATENT, WIDTH), nn.Linear(WIDTH, 784)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 784)
        h = self.hidden(x).relu()
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        again = self.out(self.back(z).relu()).sigmoid()
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return nn.functional.binary_cross_entropy(again, x, reduction="sum") + kl


def program(data: Data, epochs: int) -> Clock:
    from torchvision import transforms
    from torchvision.datasets import MNIST

    from pipeline.data._catalogue import places

    root = next(p for p in places() if (p / "MNIST" / "raw").is_dir())
    dataset = MNIST(root, train=True, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
    model = _Program()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(epochs):
        begin = time.perf_counter()
        total = 0.0
        for x, _label in loader:
            optimizer.zero_grad()
            loss = model(x)
            loss.backward()
            total += loss.item()
            optimizer.step()
        yield time.perf_counter() - begin


def _pythae() -> Any:
    """Pythae's VAE with our network: 784-400-20, one head for means and log variances."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.heads = nn.Linear(784, WIDTH), nn.Linear(WIDTH, 2 * LATENT)

        def forward(self, x: Tensor) -> Any:
            mean, log_var = self.heads(self.hidden(x.flatten(1)).relu()).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(LATENT, WIDTH), nn.Linear(WIDTH, 784)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.out(self.hidden(z).relu()).sigmoid().view(-1, 1, 28, 28))

    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    return models.VAE(config, Encoder(), Decoder())


def pythae(data: Data, epochs: int) -> Clock:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=LR, no_cuda=True
        )
        dataset = BaseDataset(data.train.x, torch.zeros(len(data.train)))
        trainer = BaseTrainer(_pythae(), dataset, training_config=settings)
        trainer.prepare_training()
        trainer.callback_handler.callbacks = []  # no progress bar inside the timing
        for epoch in range(1, epochs + 1):
            begin = time.perf_counter()
            trainer.train_step(epoch)
            yield time.perf_counter() - begin


CONTENDERS: dict[str, Callable[[Data, int], Clock]] = {
    "ours": ours, "program": program, "pythae": pythae, "floor": floor,
}  # fmt: skip


def _contend(name: str, rounds: int, threads: int, pipe: Connection) -> None:
    """In a process of its own: run an epoch whenever told to, and answer with its seconds."""
    if name in ("ours", "floor"):
        machine.prepare(threads)
    else:  # others run as they are, without our settings
        torch.set_num_threads(threads)
    with contextlib.redirect_stdout(sys.stderr):
        for seconds in CONTENDERS[name](tutorial_setting(), rounds + 1):
            pipe.send(seconds)
            pipe.recv()


def training(rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each epoch, by contender: one epoch of each in turn, each in its own process, after one to warm up."""
    names = [n for n in CONTENDERS if n != "pythae" or importlib.util.find_spec("pythae")]
    if "pythae" not in names:
        print("pythae is not installed (pip install 'vae-variants[speed]'); it is left out", file=sys.stderr)
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_contend, args=(name, rounds, threads, theirs), daemon=True))
        processes[-1].start()
        pipes[name].recv()  # the first epoch, alone on the machine
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            pipes[name].send("again")
            seconds[name].append(pipes[name].recv())
        print(f"round {turn + 1}/{rounds}: " + "  ".join(f"{n} {s[-1]:.2f}s" for n, s in seconds.items()), flush=True)
    for process in processes:
        process.terminate()
    return seconds


def tracking(data: Data, epochs: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a training: with nothing logged, with every epoch logged; and of the final scores and pictures."""
    from pipeline.evaluate import pictures, quick
    from pipeline.tracker import Tracker

    bare, logged, final = [], [], []
    for turn in range(rounds):
        for log in (False, True) if turn % 2 else (True, False):
            torch.manual_seed(0)
            variant = VAE(Config(latent=LATENT, width=WIDTH, lr=LR, batch=BATCH), data.spec)
            begin = time.perf_counter()
            if not log:
                for _ in train(variant, data, epochs=epochs, seed=0):
                    pass
                bare.append(time.perf_counter() - begin)
                continue
            with Tracker("speed").run("cost of tracking", {"kind": "trial"}) as run:
                run.dataset(data)
                for epoch in train(variant, data, epochs=epochs, seed=0):
                    run.metrics(epoch.metrics, epoch.number)
                logged.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                run.metrics(quick.scores(variant, data), epochs)
                for name, pixels in pictures.all_of(variant, data, epoch.vectors["kl_per_dimension"]).items():
                    run.picture(name, pixels, epochs)
                final.append(time.perf_counter() - begin)
    return statistics.median(bare), statistics.median(logged), statistics.median(final)


def evaluation(rounds: int, k: int = 200, n: int = 1000) -> None:
    """Print seconds of the importance weighted bound beside pythae's of the same weights, and of MIG and SAP."""
    from pipeline.evaluate import disentanglement, likelihood, probe

    data = load("mnist")
    torch.manual_seed(0)
    variant = VAE(Config(latent=LATENT, width=WIDTH, lr=LR, batch=BATCH), data.spec)
    for _ in train(variant, data, epochs=1, seed=0):
        pass
    theirs = _pythae().eval()
    for net, same in ((theirs.encoder, variant.encoder), (theirs.decoder, variant.decoder)):
        net.load_state_dict(dict(zip(net.state_dict(), same.state_dict().values(), strict=True)))
    few = probe.subset(data.test, n)
    seconds: dict[str, list[float]] = {"ours": [], "pythae": []}
    values: dict[str, list[float]] = {"ours": [], "pythae": []}
    for turn in range(rounds):
        begin = time.perf_counter()
        each = likelihood.importance_weighted(variant, data, few, k, seed=turn)
        seconds["ours"].append(time.perf_counter() - begin)
        values["ours"].append(float(each.mean()))
        begin = time.perf_counter()
        with torch.no_grad():  # which it does not ask for itself
            values["pythae"].append(float(theirs.get_nll(few.x.float(), n_samples=k, batch_size=k)))
        seconds["pythae"].append(time.perf_counter() - begin)
    ratio = statistics.median(seconds["pythae"]) / statistics.median(seconds["ours"])
    print(f"IW-{k} of {n} MNIST images, the same weights, median of {rounds}: pythae takes {ratio:.1f} times as long")
    for name in seconds:
        spread = f" +- {statistics.stdev(values[name]) / rounds**0.5:.3f}" if rounds > 1 else ""
        mean = statistics.fmean(values[name])
        print(f"  {name:<8} {statistics.median(seconds[name]):6.2f} s   log p(x) >= {mean:.3f}{spread} nats")
    codes, factors = torch.randn(10_000, 10).numpy(), torch.randint(10, (10_000, 5)).numpy()
    scores = {"MIG": partial(disentanglement.mig, codes, factors)}
    scores["SAP"] = partial(disentanglement.sap, codes, factors, [True, *[False] * 4])
    for name, score in scores.items():
        begin = time.perf_counter()
        score()
        print(f"{name} of 10,000 codes of 10 dimensions, 5 factors: {time.perf_counter() - begin:.2f} s")


def main(words: list[str]) -> int:
    about = str(__doc__).split("\n", 1)[1].strip()
    parser = cli.parser("speed", about, "--threads")
    parser.add_argument("--rounds", type=cli.positive, default=5, metavar="N", help="epochs of each contender (5)")
    parser.add_argument("--tracking", action="store_true", help="measure what it costs to log a trial of 10 epochs")
    parser.add_argument("--evaluation", action="store_true", help="measure bounds beside pythae's, MIG and SAP")
    arguments = parser.parse_args(words)
    threads = machine.prepare(arguments.threads)
    if arguments.evaluation:
        if not importlib.util.find_spec("pythae"):
            raise InputError("--evaluation compares with pythae 0.1.2: pip install 'vae-variants[speed]'")
        evaluation(arguments.rounds)
        return 0
    if arguments.tracking:
        if Path("mlflow.db").exists():
            raise InputError(
                "mlflow.db exists here; start in an empty folder, so that the runs of a timing join no others"
            )
        bare, logged, final = tracking(tutorial_setting(), 10, arguments.rounds)
        print(
            f"10 epochs, {threads} threads, median of {arguments.rounds}: nothing logged {bare:.2f} s, every epoch ",
            end="",
        )
        print(f"logged {logged:.2f} s ({logged / bare - 1:+.1%}); final scores and pictures {final:.2f} s")
        return 0
    seconds = training(arguments.rounds, threads)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    print(f"\nseconds per MNIST epoch, {threads} threads, median of {arguments.rounds}; ratio to ours")
    for name, value in sorted(middle.items(), key=lambda item: item[1]):
        print(f"  {name:<8} {value:6.2f}  {value / middle['ours']:5.2f}")
    print(f"  ours is {middle['ours'] / middle['floor']:.2f} times its matrix products; its epochs one after another:")
    print("  " + " ".join(f"{s:.2f}" for s in seconds["ours"]))
    return 0


if __name__ == "__main__":
    cli.run(main)
