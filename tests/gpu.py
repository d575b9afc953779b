"""Check and time everything that depends on a CUDA GPU, in one call of about four minutes.

    python tests/gpu.py --out FOLDER [--device cuda] [--only CHECK]

Each check runs in its own process with a time limit. A check that fails does not stop the others. The log of each check
and `results.json` are written into the folder, and a table is printed last. Times are recorded, never judged.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import variants
from pipeline import machine, steps, trainer
from pipeline.data import Data, Source, as_sequences, load, read
from pipeline.model import Model
from variants import Batch, DataSpec, Variant
from variants.base import sequences

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] = "true"
CONFIGS: dict[str, dict[str, Any]] = {**{name: {} for name in variants.names()}, "aae": {"encoder": "gaussian"}}


def run(*words: str) -> None:
    """Run `python -m ...` in the current folder. Raises `CalledProcessError`."""
    print("$", *words, flush=True)
    subprocess.run([sys.executable, "-m", *words], env=ENVIRONMENT, check=True)


def dataset(name: str) -> str:
    """Return the data set on which a variant is checked."""
    needs_sequences = "mask" in variants.get(name).required_fields
    return (as_sequences("digits") or "digits") if needs_sequences else "digits"


def build(name: str, spec: DataSpec, **settings: Any) -> Variant:
    torch.manual_seed(0)
    return variants.build(name, variants.get(name).config_type(**settings), spec)


def make_files() -> None:
    """Write a table with values of all kinds, a table of counts, and images of 28x28 into the current folder."""
    rng, n = np.random.default_rng(0), 600
    real, category = rng.normal(size=n), rng.choice(list("abc"), n)
    mixed = {"real": real, "price": np.exp(3 * real + rng.normal(size=n)), "visits": rng.poisson(4.0, n)}
    table = pd.DataFrame({**mixed, "yes": rng.integers(0, 2, n), "kind": category})
    table.mask(rng.random(table.shape) < 0.1).to_csv("mixed.csv", index=False)
    rates = np.exp(rng.normal(size=(n, 2)) @ rng.normal(size=(2, 12)))
    pd.DataFrame(rng.poisson(rates), columns=[f"gene{i}" for i in range(12)]).to_csv("counts.csv", index=False)
    np.savez("images.npz", x=rng.integers(0, 2, (n, 28, 28), dtype=np.uint8), y=rng.integers(0, 3, n))


def contract(device: str, small: bool) -> str:
    tests = [str(ROOT / "tests" / "test_contract.py"), "--device", device, "-n", "2" if small else "8", "-W", "default"]
    words = ["pytest", *tests, "-p", "no:cacheprovider", "--tb", "short", "-k", "hvae and shapes" if small else ""]
    words += ["-m", "slow or not slow"]
    with subprocess.Popen(
        [sys.executable, "-m", *words], env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    print("\n".join(lines))
    if process.returncode:
        raise AssertionError("\n".join(line for line in lines[-40:] if line.startswith("FAILED")) + f"\n{lines[-1]}")
    return lines[-1]


def study(name: str, place: str, *fixed: str) -> Callable[[str, bool], str]:
    """Return a check that runs a short study."""

    def check(device: str, small: bool) -> str:
        make_files()
        where = place or dataset(name)
        words = ["--variant", name, "--dataset", where, "--device", device, "--trials", "2", "--epochs", "3"]
        run("pipeline.study", *words, *(word for setting in fixed for word in ("--fix", setting)))
        return f"2 trials of {name} on {where}"

    return check


def workers(device: str, small: bool) -> str:
    words = ["--variant", "vae", "--dataset", "digits", "--device", device, "--trials", "4", "--epochs", "3"]
    run("pipeline.study", *words, "--workers", "2")
    return "4 trials, 2 at a time"


def evaluate_and_apply(device: str, small: bool) -> str:
    """Train a model on the device, evaluate it there with all parts, apply it, and compare its codes with the CPU."""
    model = Model("vae", epochs=3, device=device, progress=False).fit("digits")
    model.save("model")
    run("pipeline.evaluate", "--model", "model", "--dataset", "digits", "--device", device)
    for what in (["encode", "--data", "digits"], ["score", "--data", "digits"], ["sample", "--n", "8"]):
        run("pipeline.apply", *what, "--model", "model", "--out", f"{what[0]}.npz")
    here, raw = model.transform("digits"), read(Source(place="digits"), like=model.preprocessing)
    with torch.no_grad():
        batch = model.preprocessing.binarized(model.preprocessing.encode(raw)).unlabelled
        there = model.variant_.to(device).encode(batch.to(device))
    difference = float(np.abs(there.cpu().numpy() - here).max())
    assert difference < 1e-3, f"codes differ by {difference}"
    return f"codes differ by at most {difference:.1e}"


def same_terms(device: str, small: bool) -> str:
    """Compare the terms of one batch in fp32 with those of the CPU: the same weights, and noise of zeros."""
    torch.backends.cudnn.allow_tf32 = False  # otherwise recurrent networks and convolutions round to 10 bits
    noise, torch.randn_like = torch.randn_like, torch.zeros_like  # type: ignore[assignment]
    worst, found = 0.0, []
    for name in CONFIGS:
        data = load(dataset(name))
        batch = next(iter(data.batches(data.test)))
        variant = build(name, data.spec, **CONFIGS[name]).eval()
        of_each = []
        for place in ("cpu", device):
            with torch.no_grad():
                terms = variant.to(place).terms(batch.to(place), torch.zeros((), device=place))
            of_each.append({"reconstruction": terms.reconstruction, "kl": terms.kl, "elbo": terms.elbo})
        for part, here in of_each[0].items():
            there = of_each[1][part]
            if here is not None and there is not None:
                scale = here.abs().mean().clamp(min=1e-6)  # of the batch, because a KL may be near 0
                error = float((here - there.cpu()).abs().max() / scale)
                worst = max(worst, error)
                print(f"{name} {part}: relative difference {error:.1e}")
                if error > 1e-4:
                    found.append(f"{name} {part} {error:.1e}")
    torch.randn_like = noise
    assert not found, "; ".join(found)
    return f"largest relative difference {worst:.1e}"


def same_training(device: str, small: bool) -> str:
    """Compare the validation ELBO after 3 epochs on the device, in each precision, with 3 seeds on the CPU."""
    data = load("digits")

    def elbo(place: str, precision: str, seed: int) -> float:
        there = data.to(machine.device(place))
        *_, last = trainer.train(build("vae", data.spec, precision=precision), there, epochs=3, seed=seed)
        return last.metrics["valid/elbo"]

    cpu = [elbo("cpu", "fp32", seed) for seed in range(3)]
    found = {p: [elbo(device, p, seed) for seed in range(3)] for p in ("fp32", "bf16")}
    print(cpu, found)
    middle = float(np.mean(cpu))
    off = {p: float(np.mean(values)) - middle for p, values in found.items()}
    assert all(math.isfinite(v) and abs(v) < 0.05 * abs(middle) for v in off.values()), f"{middle} on the CPU; {off}"
    return f"ELBO {middle:.2f} on the CPU; " + ", ".join(f"{p} {v:+.2f}" for p, v in off.items())


def resumed(device: str, small: bool) -> str:
    """Compare the weights of a training that goes on from a snapshot, in the same process, with an undisturbed one."""
    results = []
    for name in CONFIGS:
        data = load(dataset(name)).to(machine.device(device))
        variant = build(name, data.spec, **CONFIGS[name])
        snapshots = [e.snapshot() for e in trainer.train(variant, data, epochs=4, seed=0)]
        again = build(name, data.spec, **CONFIGS[name])
        torch.rand(5, device=device)  # a random state that the snapshot has to replace
        *_, last = trainer.train(again, data, epochs=4, seed=0, resume=snapshots[1])
        whole, parts = snapshots[-1], last.snapshot()
        difference = max(
            float((whole[k].double() - v.double()).abs().max()) for k, v in parts.items() if "weights" in k
        )
        print(f"{name}: weights differ by at most {difference:.1e}")
        assert difference < 1e-2, f"{name}: weights differ by {difference}"
        results.append(f"{name} {'exact' if difference == 0 else f'{difference:.0e}'}")
    return ", ".join(results)


def killed(device: str, small: bool) -> str:
    """Kill a study with SIGKILL during its first trial, continue it, and compare its scores with an undisturbed one."""
    from stores import trials

    words = ["--variant", "vae", "--dataset", "digits", "--device", device, "--trials", "1"]
    words += ["--epochs", "60" if small else "400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.study", *words], env=ENVIRONMENT, start_new_session=True
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None and not list(Path().rglob("*.safetensors")):
        time.sleep(0.2)
    time.sleep(0.5)
    was_running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    scores = []
    for folder in (Path(), Path("undisturbed")):
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        run("pipeline.study", *words)
        scores.append(trials("vae-digits")[0].user_attrs["metrics"])
    for name, value in scores[0].items():
        print(f"{name}: {value} continued, {scores[1][name]} undisturbed")
    continued, undisturbed = (each["valid/elbo"] for each in scores)
    assert abs(continued - undisturbed) < 0.05 * abs(undisturbed), f"ELBO {continued}, and {undisturbed} undisturbed"
    when = "during" if was_running else "AFTER THE END OF"
    return f"continued after kill -9 {when} the first trial; the ELBO differs by {continued - undisturbed:.1e} nats"


def random_images(n: int, spec: DataSpec, device: str) -> Data:
    """Return n training examples of noise, in the form in which data are stored."""
    small = load("photos" if spec.shape[0] == 3 else "digits")
    x = torch.randint(256, (n, *spec.shape), dtype=torch.uint8)
    part = Batch(x if spec.shape[0] == 3 else x > 200)
    preprocessing = replace(small.preprocessing, spec=spec)
    data = replace(small, train=part, valid=part[slice(0, 64)], test=part[slice(0, 64)], preprocessing=preprocessing)
    return data.to(machine.device(device))


def layer_seconds(variant: Variant, batch: Batch, steps: int) -> float:
    """Return the seconds of the linear and convolutional layers of so many steps, forwards and backwards."""
    calls: list[tuple[nn.Module, Tensor]] = []
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    hooks = [
        m.register_forward_hook(lambda m, inputs, _: calls.append((m, torch.randn_like(inputs[0]))))
        for m in variant.modules()
        if isinstance(m, kinds)
    ]
    variant.terms(batch, torch.zeros((), device=batch.x.device))
    for hook in hooks:
        hook.remove()
    for i, (_, x) in enumerate(calls):
        x.requires_grad_(i > 0)

    def step() -> None:
        for module, x in calls:
            y = module(x)
            torch.autograd.grad(y, [*module.parameters(), *([x] if x.requires_grad else [])], y.detach())

    return timed(step, steps, batch.x.device)


def timed(step: Callable[[], Any], steps: int, device: torch.device) -> float:
    for _ in range(3):
        step()
    machine.synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    machine.synchronize(device)
    return time.perf_counter() - begin


@contextmanager
def eagerly() -> Iterator[None]:
    """Train without CUDA graphs inside the block."""
    before, steps.EAGER = steps.EAGER, 10**9
    try:
        yield
    finally:
        steps.EAGER = before


def speed(network: str, width: int, batch: int, shape: tuple[int, ...] = (1, 28, 28)) -> Callable[[str, bool], str]:
    """Return a measurement of the images that a training reads in a second, with CUDA graphs and without."""

    def check(device: str, small: bool) -> str:
        spec = DataSpec(name="noise", shape=shape, likelihood="bernoulli" if shape[0] == 1 else "logistic8")
        settings: dict[str, Any] = {"latent": 20, "width": width, "batch": batch, "network": network}
        size = 20 * batch if small or device == "cpu" else max(60_000 if network == "mlp" else 6000, 40 * batch)
        rates: dict[str, float] = {}

        def images_per_second(place: str, precision: str, size: int) -> float:
            data = random_images(size // batch * batch, spec, place)
            epochs = trainer.train(build("vae", spec, **settings, precision=precision), data, epochs=3, seed=0)
            return max(e.metrics["time/examples_per_second"] for e in epochs)

        if device != "cpu":
            rates["cpu fp32"] = images_per_second("cpu", "fp32", 20 * batch if network == "mlp" else 2 * batch)
        for precision in ("fp32", "bf16"):
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            rates[precision] = images_per_second(device, precision, size)
            with eagerly():
                rates[f"eager {precision}"] = images_per_second(device, precision, size)
            print(precision, rates, flush=True)
        memory = f"; peak {torch.cuda.max_memory_allocated() / 1e6:.0f} MB" if device != "cpu" else ""
        part = random_images(batch, spec, device).train
        part = replace(part, x=part.x.float() / (255 if shape[0] == 3 else 1))
        count = 3 if small else 50
        rates["layers alone"] = count * batch / layer_seconds(build("vae", spec, **settings).to(device), part, count)
        return ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items()) + memory

    return check


def graphs(device: str, small: bool) -> str:
    """Compare the weights of trainings with recorded steps and without, and the seconds of their last epochs."""
    results = []
    for name in CONFIGS:
        data = load(dataset(name)).to(machine.device(device))
        weights, seconds = [], []
        for recorded in (True, False):
            with nullcontext() if recorded else eagerly():
                variant = build(name, data.spec, **CONFIGS[name])
                for _ in trainer.train(variant, data, epochs=6, seed=0, lr_schedule=trainer.cosine):
                    pass
                for epoch in trainer.train(variant, data, epochs=3, seed=0):  # noqa: B007
                    pass
            weights.append(variant.state_dict())
            seconds.append(epoch.metrics["time/train_seconds"])
        difference = max(float((weights[0][k].double() - v.double()).abs().max()) for k, v in weights[1].items())
        results.append(f"{name} {difference:.0e}, {seconds[1] / seconds[0]:.1f} times as fast")
        print(results[-1], flush=True)
    return "; ".join(results)


def series(device: str, small: bool) -> str:
    """Train every variant on sequences with each network, forecast, and compare reconstructions with the CPU."""
    torch.backends.cudnn.allow_tf32 = False
    data, worst = load("digits-rows"), 0.0
    for name in CONFIGS:
        own = "mask" in variants.get(name).required_fields
        for network in ("auto",) if own else sequences.NETWORKS:
            variant = build(name, data.spec, latent=8, width=32, network=network)
            trainer.fit(variant, data.to(machine.device(device)), epochs=2, seed=0)
            batch = next(data.batches(data.test, 64))
            with torch.no_grad():
                ahead = variant.eval().forecast(batch.to(device), torch.full((64,), 4, device=device), 5, noise=True)
                here = variant.decode(variant.encode(batch.to(device)), batch.to(device)).cpu()
                there = variant.cpu().decode(variant.encode(batch), batch)
            assert ahead is not None and ahead.isfinite().all(), f"{name} {network}: forecasts are not finite"
            worst = max(worst, float((here - there).abs().max()))
    assert worst < 1e-3, f"reconstructions differ by {worst}"
    return f"reconstructions differ by at most {worst:.1e}"


def long_series(device: str, small: bool) -> str:
    """Time an epoch of long series with convolutions and with recurrent networks, and compare their bounds."""
    words = ["tests.series_bench", "--device", device, "--seconds", "1" if small else "15"]
    done = subprocess.run(
        [sys.executable, "-m", *words], env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    )
    return "; ".join(done.stdout.splitlines())


def photos(device: str, small: bool) -> str:
    """Train a hierarchy of residual networks on photographs for 100 seconds, and report bits per dimension."""
    source = Source(place="photos", likelihood="mixture8")
    data = load(source).to(machine.device(device))
    torch.manual_seed(0)
    settings = {"latent": 2048, "width": 256, "network": "resnet", "batch": 32, "lr": 1e-3}
    variant = variants.build("hvae", variants.get("hvae").config_type(**settings), data.spec)
    begin, best = time.monotonic(), math.inf
    for epoch in trainer.train(variant, data, epochs=10_000, seed=0):
        best = min(best, -epoch.metrics["valid/elbo"] / math.log(2) / math.prod(data.spec.shape))
        if epoch.number % 5 == 1:
            print(f"{time.monotonic() - begin:.0f} s: epoch {epoch.number}, {best:.3f} bits per dimension", flush=True)
        if time.monotonic() - begin > (5 if small else 100):
            break
    totals = trainer.score(variant, data, data.test, seed=0)
    bits = float((totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count)
    bits /= math.log(2) * math.prod(data.spec.shape)
    variants.save(variant, Path("photos"))
    return f"{epoch.number} epochs; bits per dimension: validation {best:.3f}, test {bits:.3f}"


def floats(device: str, small: bool) -> str:
    """Report the settings that decide which precision fp32 has on this GPU."""
    tf32 = f"TF32: products {torch.backends.cuda.matmul.allow_tf32}, convolutions {torch.backends.cudnn.allow_tf32}"
    gpu = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    return f"{gpu}, torch {torch.__version__}, {machine.cores()} cores, {tf32}"


CHECKS: dict[str, tuple[Callable[[str, bool], str], int]] = {  # with the seconds that it may take
    "contract": (contract, 400), "devices": (floats, 40), "terms": (same_terms, 60), "training": (same_training, 60),
    "resumed": (resumed, 120), "killed": (killed, 150), "workers": (workers, 90), "evaluate": (evaluate_and_apply, 130),
    "graphs": (graphs, 120), "photos": (photos, 170), "series": (series, 120),
    **{f"study {name}": (study(name, ""), 90) for name in CONFIGS},
    "study mixed": (study("vae", "mixed.csv"), 90), "study counts": (study("vae", "counts.csv"), 90),
    "study conv": (study("vae", "images.npz", "network=conv"), 90),
}  # fmt: skip
SPEEDS: dict[str, tuple[Callable[[str, bool], str], int]] = {
    "speed of long series": (long_series, 120),
    "speed mlp 400 batch 128": (speed("mlp", 400, 128), 60), "speed mlp 1000 batch 128": (speed("mlp", 1000, 128), 60),
    "speed conv 512 batch 128": (speed("conv", 512, 128), 60),
    **{
        f"speed {network} {width} colour {side}": (speed(network, width, 64, (3, side, side)), 60)
        for network, width, side in (("conv", 512, 64), ("resnet", 128, 32), ("resnet", 128, 64), ("resnet", 256, 64))
    },
}  # fmt: skip


def carry_out(name: str, options: Any) -> dict[str, Any]:
    """Run a check in its own process and its own folder, and return its outcome."""
    limit = (CHECKS | SPEEDS)[name][1] * (3 if options.small else 1)
    folder = options.work / name.replace(" ", "_")
    folder.mkdir(parents=True)
    log, begin = folder / "log.txt", time.monotonic()
    words = [sys.executable, str(Path(__file__).resolve()), "--check", name, "--device", options.device]
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {} if name in SPEEDS else {"OMP_NUM_THREADS": "2"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            words + ["--small"] * options.small, cwd=folder, stdout=stream, stderr=stream, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = f"no end after {limit} s"
    text = log.read_text(errors="replace")
    lines = text.strip().splitlines()
    found = lines[-1].removeprefix("RESULT ") if code == 0 and lines else f"exit {code}: " + "\n".join(lines[-12:])
    result = {
        "check": name,
        "ok": code == 0,
        "seconds": round(time.monotonic() - begin, 1),
        "found": found,
        "log": text,
    }
    print(f"{name}: {'ok' if code == 0 else 'FAILED'} after {result['seconds']} s", flush=True)
    return result


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for logs and results.json (gpu)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:0, or cpu to try the program itself (cuda)")
    parser.add_argument("--only", action="append", metavar="CHECK", help="run this check only; may be repeated")
    parser.add_argument("--small", action="store_true", help="use little data, to try the program itself on a CPU")
    parser.add_argument("--check", choices=(CHECKS | SPEEDS).keys(), help="run one check in this process and folder")
    options = parser.parse_args()
    if options.check:
        machine.prepare()
        print("RESULT " + (CHECKS | SPEEDS)[options.check][0](options.device, options.small))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    options.work = Path(tempfile.mkdtemp())
    results = []
    for result in outcomes(options):  # written after each check, in case that the machine stops
        results.append(result)
        summary = [{k: v for k, v in r.items() if k != "log"} for r in results]
        (options.out / "results.json").write_text(json.dumps(summary, indent=1))
        (options.out / "logs.txt").write_text("".join(f"\n##### {r['check']}\n{r['log']}" for r in results))
    print("\ncheck                          seconds  result")
    for r in sorted(results, key=lambda r: r["ok"]):
        print(f"{r['check']:<30} {r['seconds']:>7}  {'' if r['ok'] else 'FAILED '}{r['found'][-700:]}")
    return int(not all(r["ok"] for r in results))


def outcomes(options: Any) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of all checks: first those of speed, one at a time, and then the others at the same time."""
    chosen = [name for name in SPEEDS | CHECKS if not options.only or name in options.only]
    yield from (carry_out(name, options) for name in chosen if name in SPEEDS)
    with ThreadPoolExecutor(1 if options.small else 6) as pool:
        yield from pool.map(lambda name: carry_out(name, options), [name for name in chosen if name in CHECKS])


if __name__ == "__main__":
    sys.exit(main())
