"""Measure how data that do not fit in memory are read: `python -m tests.large FOLDER`.

    first     300,000 colour images of 64x64 pixels in one .npy file (3.7 GB, made in FOLDER): the seconds until the
              first batch, the peak of memory, and examples per second on disk and in memory
    images    80,000 of these images as PNG files: examples per second that one thread and all cores decode
    order     Fashion-MNIST sorted by class: the validation ELBO after one epoch, with examples in the order of blocks
              and windows and in a random order, for several seeds
    kills     a study of data on disk that is killed (-9) several times within epochs, and one that is not: the digests
              of their weights

`VARIANTS_DATA` names the folder with Fashion-MNIST. A part that is named is measured alone.
"""

import argparse
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, Source, load

ROOT = Path(__file__).parents[1]
SIDE, CHUNK = 64, 2000
SUBSET = 8000  # examples of the comparison with data in memory
SEEDS = 5


def pictures(n: int) -> np.ndarray:
    """Return images of discs on a background, uint8, with noise."""
    random = np.random.default_rng(n)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre, radius = random.integers(0, SIDE, (CHUNK, 2, 1, 1)), random.uniform(4, 16, (CHUNK, 1, 1))
    is_inside = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2
    colours = random.integers(40, 255, (2, CHUNK, 1, 1, 3))
    noise = random.integers(-20, 20, (CHUNK, SIDE, SIDE, 3))
    return (np.where(is_inside[..., None], *colours) + noise).clip(0, 255).astype(np.uint8)


def array_file(folder: Path, examples: int) -> Path:
    path = folder / f"discs-{examples}.npy"
    if not path.exists():
        array = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, (examples, SIDE, SIDE, 3))
        for start in range(0, examples, CHUNK):
            array[start : start + CHUNK] = pictures(start)[: examples - start]
        array.flush()
        path.with_suffix(".part").rename(path)
    return path


def image_files(folder: Path, images: int) -> Path:
    path = folder / f"discs-{images}"
    if not path.exists():
        part = folder / "discs.part"
        for start in range(0, images, CHUNK):
            for i, pixels in enumerate(pictures(start)[: images - start], start):
                (part / str(i % 10)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(part / str(i % 10) / f"{i:06}.png")
        part.rename(path)
    return path


def rates(data: Data, epochs: int) -> list[float]:
    """Return the training examples per second of each epoch of a small model."""
    config = variants.get("vae").config_type(network="mlp", width=64, latent=16)
    torch.manual_seed(0)
    trained = trainer.train(variants.build("vae", config, data.spec), data, epochs=epochs, seed=0)
    return [epoch.metrics["time/examples_per_second"] for epoch in trained]


def peak() -> float:
    """Return the most memory of this process so far, in GB."""
    return machine.peak_memory(torch.device("cpu")) / 1e9


def first(folder: Path, examples: int) -> None:
    path = array_file(folder, examples)
    begin = time.perf_counter()
    data = load(str(path))
    assert data.stream is not None, f"{path} fits in memory"
    next(next(data.stream.epochs(0, 128, 0)))
    print(f"first batch after {time.perf_counter() - begin:.1f} s", flush=True)
    speeds = rates(replace(data, valid=data.valid[slice(0, 200)]), 8)
    print(
        f"examples/s of {len(speeds)} epochs of {data.epoch:,}: {speeds[0]:.0f} first, "
        f"{statistics.median(speeds):.0f} median, {speeds[-1]:.0f} last; peak of memory {peak():.2f} GB",
        flush=True,
    )
    part = folder / "discs-part.npy"
    np.save(part, np.load(path, mmap_mode="r")[: 2 * SUBSET])
    on_disk, in_memory = load(Source(place=str(part), portion=SUBSET)), load(str(part))
    in_memory = replace(in_memory, train=in_memory.train[slice(0, SUBSET)])
    ratios = []
    for _ in range(3):
        disk, memory = (
            statistics.median(rates(replace(data, valid=data.valid[slice(0, 200)]), 3)) for data in (on_disk, in_memory)
        )
        ratios.append(disk / memory)
        print(f"examples/s: {disk:.0f} on disk, {memory:.0f} in memory ({disk / memory:.0%})", flush=True)


def images(folder: Path, n: int) -> None:
    path = image_files(folder, n)
    data = load(Source(place=str(path), portion=SUBSET))
    assert data.stream is not None
    available = os.sched_getaffinity(0)
    for cores in ({min(available)}, available) * 2:
        os.sched_setaffinity(0, cores)
        begin, count = time.perf_counter(), 0
        index = data.stream.index[: 8 * data.stream.block * (SUBSET // data.stream.block // 8 + 1)]
        for start in range(0, len(index), data.stream.block):
            count += len(data.stream.read(index[start : start + data.stream.block]))
        print(f"{len(cores)} threads decode {count / (time.perf_counter() - begin):.0f} images/s", flush=True)
    print(f"trained on {[round(rate) for rate in rates(data, 3)]} images/s; peak of memory {peak():.2f} GB")


def order(folder: Path) -> None:
    whole = load(Source(place="fashion-mnist", likelihood="logistic8"))
    x, y = whole.train.x, whole.train.y
    assert y is not None
    by_class = y.argsort(stable=True)
    np.savez(folder / "sorted.npz", x=x[by_class].numpy(), y=y[by_class].numpy())
    data = load(Source(place=str(folder / "sorted.npz"), portion=len(x), likelihood="logistic8"))
    assert data.stream is not None
    n = len(data.stream)
    orders = {
        "blocks": replace(data.stream, portion=n, block=max(1, n // 3000), window=96),  # as of 250,000 larger images
        "random": replace(data.stream, portion=n, block=1, window=n),
        "as in the file": replace(data.stream, portion=n, block=n // 10, window=1),
    }
    scores: dict[str, list[float]] = {name: [] for name in orders}
    for seed in range(SEEDS):
        for name, stream in orders.items():
            torch.manual_seed(seed)
            variant = variants.build("vae", variants.get("vae").config_type(network="mlp"), data.spec)
            (epoch,) = trainer.train(variant, replace(data, stream=stream), epochs=1, seed=seed)
            scores[name].append(epoch.metrics["valid/elbo"])
    for name, values in scores.items():
        away = np.subtract(values, scores["random"])
        print(f"{name:<15} ELBO {np.mean(values):.2f} nats (sd of seeds {np.std(values, ddof=1):.2f}), away from a "
              f"random order by {away.mean():+.2f} ± {away.std(ddof=1) / SEEDS**0.5:.2f}", flush=True)  # fmt: skip


def kills(folder: Path, times: int = 3) -> None:
    place = folder / "small.npy"
    np.save(place, pictures(0))
    digests = []
    for name, stops in (("undisturbed", 0), ("killed", times)):
        where = folder / f"study-{name}-{os.getpid()}"
        where.mkdir()
        options = "--trials 1 --epochs 60 --portion 400 --threads 1 --fix network=mlp --fix width=512 --fix latent=8"
        options += " --fix precision=fp32"  # otherwise, two new studies may measure that different ones are faster
        command = [
            sys.executable,
            "-m",
            "pipeline.study",
            "--variant",
            "vae",
            "--dataset",
            str(place),
            *options.split(),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for stop in range(stops + 1):
            begin = time.time()
            with (where / f"log{stop}").open("w") as log:
                process = subprocess.Popen(command, cwd=where, env=environment, stdout=log, stderr=log)
            if stop < stops:
                while process.poll() is None and not any(
                    path.stat().st_mtime > begin for path in where.rglob("checkpoint.safetensors")
                ):
                    time.sleep(0.05)
                time.sleep(0.5 + 0.37 * stop)  # a checkpoint is saved every second
                process.send_signal(signal.SIGKILL)
            process.wait()
        (model,) = where.rglob("model.safetensors")
        digests.append(hashlib.sha256(model.read_bytes()).hexdigest())
        interruptions = sum("was interrupted" in log.read_text() for log in islice(where.glob("log*"), 9))
        print(f"{name}: continued {interruptions} times, weights {digests[-1][:16]}", flush=True)
    print("equal" if len(set(digests)) == 1 else "DIFFERENT")


def main(arguments: list[str]) -> int:
    description, _, epilog = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the data are made, 6 GB")
    parser.add_argument("part", nargs="*", metavar="PART", help="first, images, order or kills (all)")
    parser.add_argument(
        "--examples", type=cli.positive, default=300_000, metavar="N", help="in the .npy file (300,000)"
    )
    parser.add_argument("--images", type=cli.positive, default=80_000, metavar="N", help="PNG files (80,000)")
    args = parser.parse_args(arguments)
    machine.prepare()
    args.folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "first": lambda: first(args.folder, args.examples),
        "images": lambda: images(args.folder, args.images),
        "order": lambda: order(args.folder),
        "kills": lambda: kills(args.folder.resolve()),
    }
    for name in args.part or parts:
        print(f"{name}:", flush=True)
        parts[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
