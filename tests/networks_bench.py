"""Train variants with different networks for equal seconds, and compare their test scores and pictures.

    python -m tests.networks_bench --dataset photos --likelihood mixture8 vae:network=resnet hvae:network=resnet
    python -m tests.networks_bench --dataset mnist --seconds 300 vae:network=mlp vae:network=conv vae:network=resnet

Each contender is a variant with some of its parameters, and is trained in a process of its own with one thread. The
learning rate falls linearly over the last 30% of the seconds. The weights of the best epoch by the validation ELBO are
scored on the test split: in bits per dimension for 8-bit pixels, beside the codecs and baselines that need no training,
and as -ELBO in nats otherwise.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Source, load
from pipeline.evaluate import baselines, bits, pictures
from pipeline.study import space

FALL = 0.3  # the share of the seconds over which the learning rate falls


def contend(contender: str, source: Source, seconds: float, seed: int, out: Path | None) -> dict[str, Any]:
    """Train one contender, draw its reconstructions and samples, and return its scores."""
    machine.prepare(1)
    data = load(source)
    name, _, assignments = contender.partition(":")
    config_type = variants.get(name).config_type
    fixed = space.parse_fixed([part for part in assignments.split(",") if part], config_type)
    config = config_type(**fixed).for_data(data.spec)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    variant = variants.build(name, config, data.spec)
    begin = time.perf_counter()

    def rate(epoch: int, epochs: int) -> float:
        left = 1 - (time.perf_counter() - begin) / seconds
        return min(1.0, max(0.02, left / FALL))

    best, kept, last, number = float("-inf"), dict[str, torch.Tensor](), 0, 0
    for epoch in trainer.train(variant, data, epochs=sys.maxsize, seed=seed, lr_schedule=rate):
        last = epoch.number
        if epoch.metrics["valid/elbo"] > best:
            best, number = epoch.metrics["valid/elbo"], epoch.number
            kept = {key: value.clone() for key, value in variant.state_dict().items()}
        if time.perf_counter() - begin > seconds:
            break
    trained = time.perf_counter() - begin
    variant.load_state_dict(kept)
    variant.eval()
    totals = trainer.score(variant, data, data.test, seed=seed)
    elbo = -float((totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count)
    result = {
        "contender": contender, "seconds": round(trained, 1), "epochs": last, "best": number, "valid": best,
        "test": elbo, "kl": float(totals.sums["kl"] / totals.count),
        "weights": sum(weight.numel() for weight in variant.parameters()),
    }  # fmt: skip
    if out:
        for title, picture in {
            "reconstructions": pictures.reconstructions(variant, data), "samples": pictures.samples(variant, data)
        }.items():  # fmt: skip
            file = contender.translate(str.maketrans(":=,", "---"))
            Image.fromarray(picture).save(out / f"{data.spec.name}-{file}-{seed}-{title}.png")
    return result


def main(arguments: list[str]) -> int:
    description, _, epilog = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("contenders", nargs="+", metavar="VARIANT:PARAMETER=VALUE,...")
    parser.add_argument("--dataset", default="photos", metavar="NAME", help="the data set (photos)")
    parser.add_argument("--likelihood", metavar="NAME", help="such as logistic8, mixture8 or bernoulli")
    parser.add_argument("--seconds", type=cli.positive, default=600, metavar="N", help="of each training (600)")
    parser.add_argument("--seeds", type=cli.positive, default=1, metavar="N", help="seeds of each contender (1)")
    parser.add_argument("--jobs", type=cli.positive, default=2, metavar="N", help="trainings at the same time (2)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where pictures and results.jsonl are written")
    args = parser.parse_args(arguments)
    source = Source(place=args.dataset, likelihood=args.likelihood)
    machine.prepare(1)
    data = load(source)
    is_pixels = bits.is_defined(data.spec)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    if is_pixels:
        anchors = bits.anchors(data, data.test, baselines.log_p(data, data.test))
        print(", ".join(f"{name} {value:.2f}" for name, value in sorted(anchors.items(), key=lambda item: -item[1])))
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        tasks = [
            pool.submit(contend, contender, source, args.seconds, seed, args.out)
            for seed in range(args.seeds)
            for contender in args.contenders
        ]
        for task in as_completed(tasks):
            result = task.result()
            scores = [bits.per_dimension(result[part], data.spec) if is_pixels else -result[part]
                      for part in ("valid", "test")]  # fmt: skip
            print(
                f"{result['contender']:<40} {result['weights']:>10,} weights, {result['epochs']:>4} epochs in "
                f"{result['seconds']:.0f} s, best {result['best']}: {'bits' if is_pixels else '-ELBO'} "
                f"{scores[1]:.3f} (validation {scores[0]:.3f}), KL {result['kl']:.1f} nats",
                flush=True,
            )
            if args.out:
                with (args.out / "results.jsonl").open("a") as file:
                    file.write(json.dumps({"dataset": str(source), **result}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
