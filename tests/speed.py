"""The speed of the trainer beside other programs, as ratios measured in one run on this machine.

    uv run --extra speed python tests/speed.py [--rounds 5]

Measures the seconds of an MNIST epoch (60,000 images, network 784-400-20, batch 128, Adam with 1e-3). Each contender
runs in its own process, and they take turns, an epoch each:

    ours        pipeline.trainer with everything that it measures, without validation
    program     the usual tutorial: PIL images, ToTensor, a DataLoader, and .item() in each step
    pythae      pythae 0.1.2 with the same network and batch size (needs the extra `speed`)
    floor       the matrix products of the same steps alone, in fp32

Other measurements:

    --evaluation        the importance weighted bound beside pythae's, and the seconds of MIG and SAP
    --mixed             an epoch on a table with values of all kinds, of which a fifth is missing, and on a table of
                        real values
    --images            training steps on 32x32 colour images with `conv` and `resnet`, beside their convolutions and
                        linear layers alone, and epochs beside a plain PyTorch program with a DataLoader
    --precision         epochs in bf16 beside fp32, their validation scores, and the order of variants under each
    --against FOLDER    epochs of this version of the project, and of another version in a folder
"""

import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, Kind, Source, load, search_folders
from pipeline.speed import product_seconds, trainer_seconds
from variants import Batch, Config, DataSpec, InputError
from variants.vae import VAE

BATCH, WIDTH, LATENT, LR = 128, 400, 20, 1e-3


def tutorial_data() -> Data:
    """MNIST as the tutorial has it: all 60,000 training images, with grey pixels as probabilities."""
    data = load("mnist", binarized=False)
    assert data.train.y is not None
    assert data.valid.y is not None
    whole = Batch(torch.cat([data.train.x, data.valid.x]), torch.cat([data.train.y, data.valid.y]))
    return replace(data, train=whole)


def tutorial_vae(data: Data) -> VAE:
    torch.manual_seed(0)
    return VAE(Config(latent=LATENT, width=WIDTH, depth=1, lr=LR, batch=BATCH), data.spec)


def ours(data: Data, epochs: int) -> Iterator[float]:
    return trainer_seconds(tutorial_vae(data), data, epochs)


def floor(data: Data, epochs: int) -> Iterator[float]:
    return product_seconds(tutorial_vae(data), data, epochs)


class TutorialVAE(nn.Module):
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
        reconstruction = self.out(self.back(z).relu()).sigmoid()
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return nn.functional.binary_cross_entropy(reconstruction, x, reduction="sum") + kl


def program(data: Data, epochs: int) -> Iterator[float]:
    from torchvision import transforms
    from torchvision.datasets import MNIST

    root = next(p for p in search_folders() if (p / "MNIST" / "raw").is_dir())
    dataset = MNIST(root, train=True, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
    model = TutorialVAE()
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


def pythae_vae() -> Any:
    """Pythae's VAE with our network: 784-400-20, one head for means and log variances."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.heads = nn.Linear(784, WIDTH), nn.Linear(WIDTH, 2 * LATENT)

        def forward(self, x: Tensor) -> Any:
            mean, log_var = self.heads(self.hidden(x.flatten(1)).relu()).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(LATENT, WIDTH), nn.Linear(WIDTH, 784)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.out(self.hidden(z).relu()).sigmoid().view(-1, 1, 28, 28))

    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    return models.VAE(config, Encoder(), Decoder())


def pythae(data: Data, epochs: int) -> Iterator[float]:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=LR, no_cuda=True
        )
        dataset = BaseDataset(data.train.x, torch.zeros(len(data.train)))
        trainer = BaseTrainer(pythae_vae(), dataset, training_config=settings)
        trainer.prepare_training()
        trainer.callback_handler.callbacks = []  # no progress bar inside the timing
        for epoch in range(1, epochs + 1):
            begin = time.perf_counter()
            trainer.train_step(epoch)
            yield time.perf_counter() - begin


CONTENDERS: dict[str, Callable[[Data, int], Iterator[float]]] = {
    "ours": ours, "program": program, "pythae": pythae, "floor": floor,
}  # fmt: skip


def contend(name: str, rounds: int, threads: int, pipe: Connection) -> None:
    """Run in its own process: train an epoch for each message, and answer with its seconds."""
    if name in ("ours", "floor"):
        machine.prepare(threads)
    else:  # other programs run without our settings
        torch.set_num_threads(threads)
    with contextlib.redirect_stdout(sys.stderr):
        for seconds in CONTENDERS[name](tutorial_data(), rounds + 1):
            pipe.send(seconds)
            pipe.recv()


def training(rounds: int, threads: int) -> dict[str, list[float]]:
    """Return the seconds of each epoch of each contender. The first epoch of each warms up and does not count."""
    names = [n for n in CONTENDERS if n != "pythae" or importlib.util.find_spec("pythae")]
    if "pythae" not in names:
        print("pythae is left out, because it is not installed: use uv run --extra speed", file=sys.stderr)
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], other_end = context.Pipe()
        processes.append(context.Process(target=contend, args=(name, rounds, threads, other_end), daemon=True))
        processes[-1].start()
        pipes[name].recv()  # the first epoch, with nothing else running
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            pipes[name].send("next epoch")
            seconds[name].append(pipes[name].recv())
        print(f"round {turn + 1}/{rounds}: " + "  ".join(f"{n} {s[-1]:.2f}s" for n, s in seconds.items()), flush=True)
    for process in processes:
        process.terminate()
    return seconds


def evaluation(rounds: int, k: int = 200, n: int = 1000) -> None:
    """Print the seconds of the importance weighted bound beside pythae's with the same weights, and of MIG and SAP."""
    from pipeline.evaluate import disentanglement, likelihood, probe

    data = load("mnist")
    variant = tutorial_vae(data)
    for _ in trainer_seconds(variant, data, epochs=1):
        pass
    other = pythae_vae().eval()
    for net, same in ((other.encoder, variant.encoder), (other.decoder, variant.decoder)):
        net.load_state_dict(dict(zip(net.state_dict(), same.state_dict().values(), strict=True)))
    subset = probe.subset(data.test, n)
    seconds: dict[str, list[float]] = {"ours": [], "pythae": []}
    values: dict[str, list[float]] = {"ours": [], "pythae": []}
    for turn in range(rounds):
        begin = time.perf_counter()
        bounds = likelihood.importance_weighted(variant, data, subset, k, seed=turn)
        seconds["ours"].append(time.perf_counter() - begin)
        values["ours"].append(float(bounds.mean()))
        begin = time.perf_counter()
        with torch.no_grad():  # pythae does not do this by itself
            values["pythae"].append(float(other.get_nll(subset.x.float(), n_samples=k, batch_size=k)))
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


def table(kinds: dict[str, int], missing: float) -> Data:
    """Return a table of 10,000 rows with so many columns of each kind, and a share of missing values."""
    rng, n = np.random.default_rng(0), 10_000
    draws: dict[str, Callable[[], Any]] = {
        "real": lambda: rng.normal(size=n), "positive": lambda: np.exp(rng.normal(size=n)),
        "count": lambda: rng.poisson(4.0, n), "binary": lambda: rng.integers(0, 2, n),
        "category": lambda: rng.choice(list("abcde"), n),
    }  # fmt: skip
    columns = {f"{kind} {i}": draws[kind]() for kind, number in kinds.items() for i in range(number)}
    frame = pd.DataFrame(columns)
    frame = frame.mask(rng.random(frame.shape) < missing)
    options = {column: cast(Kind, column.split()[0]) for column in frame}
    return load(Source(place="table", kinds=tuple(options.items())), frame)


def mixed(rounds: int) -> None:
    """Print the seconds of an epoch of a mixed table with missing values, and of a table of real values."""
    tables = {
        "real": table({"real": 30}, 0.0),
        "mixed": table({"real": 7, "positive": 7, "count": 7, "binary": 7, "category": 2}, 0.2),
    }
    turns = [
        trainer_seconds(VAE(Config(latent=10, width=256, batch=BATCH), data.spec), data, rounds + 1)
        for data in tables.values()
    ]
    seconds = list(zip(*list(zip(*turns, strict=True))[1:], strict=True))  # the first epoch of each warms up
    middle = dict(zip(tables, map(statistics.median, seconds), strict=True))
    print(f"seconds per epoch of 8,000 rows with 30 columns, 10-256, batch {BATCH}, median of {rounds}:")
    print(f"  {middle['real']:.3f} real values, {middle['mixed']:.3f} mixed values with 20% missing")
    print(f"  ratio {middle['mixed'] / middle['real']:.2f}")


def layer_seconds(layers: list[tuple[nn.Module, Tensor, Tensor]]) -> float:
    """Return the seconds that layers take forwards and backwards, given an input and the gradient of its output each.

    The gradient with respect to the input of the first layer is left out, because training does not need it.
    """
    begin = time.perf_counter()
    for i, (layer, x, gradient) in enumerate(layers):
        torch.autograd.grad(layer(x.requires_grad_(i > 0)), [*layer.parameters(), *[x] * (i > 0)], gradient)
    return time.perf_counter() - begin


def used_layers(variant: VAE, batch: Batch) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Return convolutions and linear layers in the order of use, with an input and a gradient of the output each."""
    layers = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append((layer, inputs[0].detach(), torch.randn_like(output)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [m.register_forward_hook(record) for m in variant.modules() if isinstance(m, kinds)]
    variant.terms(batch, torch.zeros(()))
    for hook in hooks:
        hook.remove()
    return layers


def images(rounds: int) -> None:
    """Print images per second of training steps of a `vae`, and how much longer they take than their layers alone."""
    spec = DataSpec(name="colour", shape=(3, 32, 32), likelihood="logistic8")
    batch, step = Batch(torch.rand(BATCH, *spec.shape).mul(255).round() / 255), torch.zeros(())
    print(f"32x32 colour images, batch {BATCH}, medians of {rounds} rounds, which take turns")
    for network, settings in {"conv": {"latent": 128, "width": 512}, "resnet": {"latent": 128, "width": 256}}.items():
        torch.manual_seed(0)
        variant = VAE(Config(network=network, **settings), spec)  # type: ignore[arg-type]
        optimizer = variant.optimizers()["loss"]
        layers = used_layers(variant, batch)
        convolutions = [layer for layer in layers if not isinstance(layer[0], nn.Linear)]
        seconds: dict[str, list[float]] = {"step": [], "layers": [], "convolutions": []}
        for turn in range(rounds + 1):
            begin = time.perf_counter()
            loss = variant.terms(batch, step).losses["loss"]
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            trained = time.perf_counter() - begin
            optimizer.step()
            if turn:  # the first round warms up
                seconds["step"].append(trained)
                seconds["layers"].append(layer_seconds(layers))
                seconds["convolutions"].append(layer_seconds(convolutions))
        middle = {name: statistics.median(each) for name, each in seconds.items()}
        print(
            f"  {network:<7} {BATCH / middle['step']:6.0f} images/s forwards and backwards; "
            f"{middle['step'] / middle['layers']:.2f} times as long as convolutions and linear layers, "
            f"{middle['step'] / middle['convolutions']:.2f} times as long as convolutions"
        )


def against_plain_program(rounds: int) -> None:
    """Print how much longer than ours an epoch of the photos takes in a plain program with the same networks."""
    data = load("photos")
    for network in ("conv", "resnet"):
        seconds: dict[str, list[float]] = {"ours": [], "program": []}
        for _ in range(rounds):
            variants_of = [VAE(Config(network=network, latent=128, width=256), data.spec) for _ in range(2)]  # type: ignore[arg-type]
            seconds["ours"] += list(trainer_seconds(variants_of[0], data, 2))[1:]
            seconds["program"] += list(plain_program(variants_of[1], data, 2))[1:]
        ratios = [program / ours for ours, program in zip(seconds["ours"], seconds["program"], strict=True)]
        rate = len(data.train) / statistics.median(seconds["ours"])
        print(
            f"  {network:<7} {rate:6.0f} images/s in epochs of the trainer; a plain program takes "
            f"{statistics.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def plain_program(variant: VAE, data: Data, epochs: int) -> Iterator[float]:
    """Yield the seconds of each epoch of the usual loop: a DataLoader over single examples, Adam, and .item()."""
    dataset = torch.utils.data.TensorDataset(data.train.x.float() / 255)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
    optimizer, step = torch.optim.Adam(variant.parameters(), lr=LR), torch.zeros(())
    for _ in range(epochs):
        begin = time.perf_counter()
        total = 0.0
        for (x,) in loader:
            optimizer.zero_grad()
            loss = cast(Tensor, variant.terms(Batch(x), step).losses["loss"])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            optimizer.step()
        yield time.perf_counter() - begin


PRECISION: dict[
    str, tuple[str, dict[str, Any], int]
] = {  # data set, parameters, and epochs of each comparison of fp32 with bf16
    "mlp 400": ("mnist", {"network": "mlp", "width": 400, "latent": 20}, 2),
    "mlp 1000": ("mnist", {"network": "mlp", "width": 1000, "latent": 20}, 2),
    "conv": ("photos", {"network": "conv", "width": 256, "latent": 128}, 4),
    "resnet": ("photos", {"network": "resnet", "width": 256, "latent": 128}, 2),
}


def precision(seeds: int) -> None:
    """Print how many times as fast epochs in bf16 are, and the validation ELBO under each precision."""
    print(
        f"bf16 beside fp32, {seeds} seeds: speed, and the validation ELBO in nats (the mean and its error over seeds)"
    )
    for name, (dataset, settings, epochs) in PRECISION.items():
        scores, seconds = _by_precision("vae", settings, load(dataset), epochs, seeds)
        gain = statistics.median(a / b for a, b in zip(seconds["fp32"], seconds["bf16"], strict=True))
        away = np.subtract(scores["bf16"], scores["fp32"])
        print(
            f"  {name:<9} {gain:.2f} times as fast; ELBO {np.mean(scores['fp32']):.2f} in fp32, "
            f"{away.mean():+.2f} ± {away.std(ddof=1) / seeds**0.5:.2f} in bf16",
            flush=True,
        )
    data = load("photos")
    settings = {"network": "resnet", "width": 64, "latent": 128}
    of_variants = {v: _by_precision(v, settings, data, 3, seeds)[0] for v in ("vae", "beta", "hvae")}
    for kind in ("fp32", "bf16"):
        means = {v: float(np.mean(by_precision[kind])) for v, by_precision in of_variants.items()}
        facts = ", ".join(f"{v} {means[v]:.1f}" for v in sorted(means, key=lambda v: -means[v]))
        print(f"  variants on photos in {kind}: {facts}", flush=True)


def _by_precision(
    variant: str, settings: dict[str, Any], data: Data, epochs: int, seeds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the validation ELBO of each seed, and the training seconds of an epoch, by precision."""
    scores, seconds = dict[str, list[float]](), dict[str, list[float]]()
    for seed in range(seeds):
        for kind in ("fp32", "bf16"):
            torch.manual_seed(seed)
            config = variants.get(variant).config_type(**settings, precision=kind)
            trained = list(trainer.train(variants.build(variant, config, data.spec), data, epochs=epochs, seed=seed))
            scores.setdefault(kind, []).append(trained[-1].metrics["valid/elbo"])
            seconds.setdefault(kind, []).append(min(epoch.metrics["time/train_seconds"] for epoch in trained))
    return scores, seconds


EPOCHS = """
import sys
import torch
import variants
from pipeline import machine
from pipeline.data import load
from pipeline.speed import trainer_seconds
machine.prepare(int(sys.argv[2]))
data = load(sys.argv[1])
torch.manual_seed(0)
epochs = trainer_seconds(variants.build("vae", variants.get("vae").config_type(), data.spec), data, 1_000_000)
for _ in sys.stdin:
    print(next(epochs), flush=True)
"""


def against(folder: Path, rounds: int, threads: int) -> None:
    """Print the seconds of epochs of this version of the project and of the one in a folder, which take turns."""
    here = Path(__file__).resolve().parents[1]
    for dataset, turns in (("mnist", rounds), ("digits", 50 * rounds)):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", EPOCHS, dataset, str(threads)], cwd=place, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(place)},
            )
            for place in (here, folder.resolve())
        ]  # fmt: skip
        for process in processes:
            _epoch(process)  # the first one warms up
        seconds = []
        for turn in range(turns):
            pair = [_epoch(process) for process in (processes[::-1] if turn % 2 else processes)]
            seconds.append(pair[::-1] if turn % 2 else pair)
        for process in processes:
            process.kill()
        ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in seconds], n=4)
        print(f"{dataset}: {ours:.4f} s an epoch here, {theirs:.4f} s in {folder}, medians of {turns} turns")
        print(f"  ratio of the medians {ours / theirs:.3f}; of pairs {middle:.3f}, quartiles {low:.3f} to {high:.3f}")


def _epoch(process: "subprocess.Popen[str]") -> float:
    """Make a process train one epoch, and return the seconds that it took."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(arguments: list[str]) -> int:
    parser = cli.parser("speed", str(__doc__), "--threads")
    parser.prog = "python tests/speed.py"
    parser.add_argument("--rounds", type=cli.positive, default=5, metavar="N", help="epochs of each contender (5)")
    parser.add_argument("--evaluation", action="store_true", help="measure bounds beside pythae's, MIG and SAP")
    parser.add_argument("--mixed", action="store_true", help="compare a mixed table with a table of real values")
    parser.add_argument("--images", action="store_true", help="compare networks of images with their layers alone")
    parser.add_argument("--precision", action="store_true", help="compare bf16 with fp32, with as many seeds as rounds")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with another version of this project")
    options = parser.parse_args(arguments)
    threads = machine.prepare(options.threads)
    if options.mixed:
        mixed(options.rounds)
        return 0
    if options.images:
        images(options.rounds)
        against_plain_program(options.rounds)
        return 0
    if options.precision:
        precision(options.rounds)
        return 0
    if options.against:
        against(options.against, options.rounds, threads)
        return 0
    if options.evaluation:
        if not importlib.util.find_spec("pythae"):
            raise InputError("--evaluation compares with pythae 0.1.2: use uv run --extra speed")
        evaluation(options.rounds)
        return 0
    seconds = training(options.rounds, threads)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    print(f"\nseconds per MNIST epoch, {threads} threads, median of {options.rounds}; ratio to ours")
    for name, value in sorted(middle.items(), key=lambda item: item[1]):
        print(f"  {name:<8} {value:6.2f}  {value / middle['ours']:5.2f}")
    print(f"  ours takes {middle['ours'] / middle['floor']:.2f} times as long as its matrix products; each epoch:")
    print("  " + " ".join(f"{s:.2f}" for s in seconds["ours"]))
    return 0


if __name__ == "__main__":
    cli.run(main)
