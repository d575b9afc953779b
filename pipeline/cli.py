"""What all commands share: their options, and their exit codes.

Exit codes: 0 if the command succeeded, 1 if it succeeded and the result is bad news, 2 for bad usage or input (one line
without a traceback), 3 for a defect of this program (with a traceback), and 130 if it was interrupted.
"""

import argparse
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pipeline.executor import Compute
from variants import InputError

CRASHED, INTERRUPTED = 3, 130
OPTUNA_STORE = "sqlite:///optuna.db"  # in the working directory


def positive(text: str) -> int:
    """Parse a whole number of at least 1, as the `type` of an `argparse` option."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return value


def seconds(text: str) -> float:
    """Parse a number of seconds above 0, such as 90, 90s, 15m or 2h, as the `type` of an `argparse` option."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds above 0, or 90s, 15m, 2h")
    return value


OPTIONS: dict[str, dict[str, Any]] = {
    "--variant": {"metavar": "NAME", "help": "the variant; a wrong name lists them all"},
    "--dataset": {"metavar": "NAME|PATH", "help": "digits, mnist, ..., or the path of a file or of a folder of images"},
    "--trials": {"type": positive, "metavar": "N", "help": "number of finished trials that the study is to have"},
    "--epochs": {"type": positive, "metavar": "N", "help": "largest number of epochs of a trial"},
    "--timeout": {"type": seconds, "metavar": "SECONDS", "help": "start no trial after this time, such as 15m or 2h"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "seed of the search, weights, noise and order (0)"},
    "--seeds": {"type": positive, "metavar": "N", "help": "number of seeds, from --seed upwards (1)"},
    "--fix": {"action": "append", "default": [], "metavar": "NAME=VALUE",
              "help": "set a parameter instead of searching it, such as latent=2; may be repeated"},
    "--storage": {"metavar": "URL", "default": os.environ.get("VARIANTS_STORAGE") or OPTUNA_STORE,
                  "help": "Optuna store, sqlite:///file.db or postgresql://... (VARIANTS_STORAGE, or optuna.db here)"},
    "--study-name": {"metavar": "NAME", "help": "name of the study (VARIANT-DATASET)"},
    "--out": {"type": Path, "default": Path("reports"), "metavar": "FOLDER",
              "help": "folder into which reports are written (reports)"},
    "--device": {"default": "auto", "metavar": "NAME", "help": "auto, cpu, cuda or cuda:0 (auto: CUDA if available)"},
    "--threads": {"type": positive, "metavar": "N",
                  "help": "CPU threads of each worker (OMP_NUM_THREADS, or its share of the cores)"},
    "--workers": {"type": positive, "default": 1, "metavar": "N", "help": "number of simultaneous trainings (1)"},
    "--executor": {"choices": ("local", "ray"), "default": "local",
                   "help": "run trainings in processes of this machine, or on a Ray cluster (local)"},
    "--ray-address": {"metavar": "ADDRESS", "help": "address of an existing Ray cluster (a new one on this machine)"},
    "--trial-timeout": {"type": seconds, "metavar": "SECONDS", "help": "a trial that trains for longer fails"},
}  # fmt: skip
COMPUTE = ("--device", "--threads", "--workers", "--executor", "--ray-address")


def parser(command: str, about: str, *options: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return a parser with some of the common options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{command}",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in options:
        parser.add_argument(option, **OPTIONS[option])
    return parser


def compute(arguments: argparse.Namespace) -> Compute:
    """Return the values of the options `COMPUTE` as one record."""
    a = arguments
    return Compute(device=a.device, threads=a.threads, workers=a.workers, executor=a.executor, address=a.ray_address)


def run(command: Callable[[list[str]], int], how_to_continue: str = "") -> NoReturn:
    """Run a command with the arguments of the command line, and exit with its exit code. SIGTERM acts as Ctrl-C.

    `how_to_continue` is printed when the command was interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        code = command(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except Exception:
        traceback.print_exc()
        code = CRASHED
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one during the clean-up exits at once
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        print(f"interrupted; {how_to_continue}" if how_to_continue else "interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
