"""What the commands share: one vocabulary of options, and one way to end.

Exit codes: 0 done; 1 done, and the answer is bad news; 2 bad usage or bad input, in a line and without a traceback;
3 a fault of this program, with its traceback; 130 interrupted.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from pipeline.executor import Compute
from variants import InputError

CRASHED, INTERRUPTED = 3, 130


def positive(word: str) -> int:
    """An `argparse` type: a whole number from 1."""
    try:
        value = int(word)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: expected a whole number, 1 or more")
    return value


def seconds(word: str) -> float:
    """An `argparse` type: a number of seconds above 0, also as 90s, 15m, 2h."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (word[:-1], units[word[-1]]) if word[-1:] in units else (word, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r}: expected seconds above 0, or 90s, 15m, 2h")
    return value


OPTIONS: dict[str, dict[str, Any]] = {
    "--variant": {"metavar": "NAME", "help": "which variant; a wrong name lists them all"},
    "--dataset": {"metavar": "NAME|PATH", "help": "digits, mnist, ..., or a path to a file or a folder of images"},
    "--trials": {"type": positive, "metavar": "N", "help": "finished trials that the study is to have"},
    "--epochs": {"type": positive, "metavar": "N", "help": "passes over the training data in a trial, at most"},
    "--timeout": {"type": seconds, "metavar": "SECONDS", "help": "begin no trial after this long (90s, 15m, 2h)"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "of the search, weights, noise and data order (0)"},
    "--seeds": {"type": positive, "metavar": "N", "help": "so many seeds, one after the other, from --seed on (1)"},
    "--fix": {
        "action": "append",
        "default": [],
        "metavar": "NAME=VALUE",
        "help": "pin a parameter, such as latent=2 or beta=4; repeatable",
    },
    "--storage": {
        "metavar": "URL",
        "default": os.environ.get("VARIANTS_STORAGE") or "sqlite:///optuna.db",
        "help": "Optuna's store: sqlite:///file.db or postgresql://... (VARIANTS_STORAGE, else optuna.db here)",
    },
    "--study-name": {"metavar": "NAME", "help": "the study's name (VARIANT-DATASET)"},
    "--device": {
        "default": "auto",
        "metavar": "NAME",
        "help": "auto, cpu, cuda or cuda:0 (auto: CUDA where there is one)",
    },
    "--threads": {
        "type": positive,
        "metavar": "N",
        "help": "CPU threads of each worker (OMP_NUM_THREADS, else its share of the cores)",
    },
    "--workers": {"type": positive, "default": 1, "metavar": "N", "help": "trainings at a time (1)"},
    "--executor": {
        "choices": ("local", "ray"),
        "default": "local",
        "help": "run trainings in processes of this machine, or on a Ray cluster (local)",
    },
    "--ray-address": {"metavar": "ADDRESS", "help": "an existing cluster (a new one on this machine)"},
    "--trial-timeout": {
        "type": seconds,
        "metavar": "SECONDS",
        "help": "a trial that trained for longer fails; 90, 15m, 8h",
    },
}
COMPUTE = ("--device", "--threads", "--workers", "--executor", "--ray-address")


def parser(command: str, about: str, *options: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with some of the common options."""
    made = argparse.ArgumentParser(
        prog=f"python -m pipeline.{command}",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in options:
        made.add_argument(option, **OPTIONS[option])
    return made


def compute(arguments: argparse.Namespace) -> Compute:
    """The options of `COMPUTE` as one record."""
    a = arguments
    return Compute(device=a.device, threads=a.threads, workers=a.workers, executor=a.executor, address=a.ray_address)


def run(command: Callable[[list[str]], int], goes_on: str = "") -> NoReturn:
    """Run a command on the words of the command line, and exit as the table above says. SIGTERM acts as Ctrl-C.

    `goes_on` tells a person who interrupted it how to go on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = command(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except Exception:
        traceback.print_exc()
        code = CRASHED
    except KeyboardInterrupt:
        for again in (signal.SIGINT, signal.SIGTERM):  # a second one, while all is put away: stop at once
            signal.signal(again, lambda *_: os._exit(INTERRUPTED))
        print(f"interrupted; {goes_on}" if goes_on else "interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
