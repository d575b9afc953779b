"""What all commands share: their options, and their exit codes.

Exit codes: 0 if the command succeeded, 1 if it succeeded and the result is bad news, 2 for bad usage or input (one line
without a traceback), 3 for a defect of this program (with a traceback), and 130 if it was interrupted.
"""

import argparse
import csv
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.data import KINDS, SPLIT_SEED, Source
from pipeline.executor import Compute
from variants import KIND_OF, InputError

if TYPE_CHECKING:
    from studies import SearchBudget

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


def seed(text: str) -> int:
    """Parse a whole number of at least 0, as the `type` of an `argparse` option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


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


def budget(text: str) -> "SearchBudget":
    """Parse a number of epochs or a time, such as 2000epochs, 90s, 30m or 2h, as the `type` of an `argparse` option."""
    from studies import SearchBudget

    try:
        if text.endswith(("epoch", "epochs")):
            return SearchBudget(epochs=positive(re.sub("epochs?$", "", text)))
        if text.endswith(("s", "m", "h")):
            return SearchBudget(seconds=seconds(text))
    except argparse.ArgumentTypeError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r}: expected a number with its unit, either epochs, such as 2000epochs, or a time, such as 90s, 30m, 2h"
    )


def size(text: str) -> tuple[int, int]:
    """Parse a height and a width, such as 32x48, as the `type` of an `argparse` option."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    height_and_width = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(height_and_width) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HxW, the height and the width in pixels, such as 64x48")
    return height_and_width


def kind(text: str) -> tuple[str, str]:
    """Parse COLUMN=KIND, as the `type` of an `argparse` option. The word `symbols` alone is the kind of all values."""
    column, _, name = ("x", "", text) if text == "symbols" else text.rpartition("=")
    if not column or name not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected COLUMN=KIND, where KIND is one of {', '.join(KINDS)}")
    return column, name


def columns(text: str) -> list[str]:
    """Parse names with commas between them, as the `type` of an `argparse` option. Quotes protect a comma in a name."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(names) or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: expected names of columns with commas between them")
    return names


OPTIONS: dict[str, dict[str, Any]] = {
    "--variant": {"metavar": "NAME", "help": "the variant; a wrong name lists them all"},
    "--dataset": {"metavar": "NAME|PATH", "help": "digits, mnist, ..., or the path of a file or folder"},
    "--trials": {"type": positive, "metavar": "N", "help": "number of finished trials that the study is to have"},
    "--budget": {"type": budget, "metavar": "AMOUNT",
                 "help": "what all trials may spend together, earlier ones included: 2000epochs, or 90s, 30m or 2h of "
                 "training and scoring, added over all workers; with --trials, whichever is reached first"},
    "--epochs": {"type": positive, "metavar": "N", "help": "largest number of epochs of a trial"},
    "--timeout": {"type": seconds, "metavar": "SECONDS", "help": "start no trial after this time, such as 15m or 2h"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "seed of the search, weights, noise and order (0)"},
    "--seeds": {"type": positive, "metavar": "N", "help": "number of seeds, from --seed upwards (1)"},
    "--fix": {"action": "append", "default": [], "metavar": "NAME=VALUE",
              "help": "set a parameter instead of searching it, such as latent=2; may be repeated"},
    "--storage": {"metavar": "URL", "default": os.environ.get("VARIANTS_STORAGE") or OPTUNA_STORE,
                  "help": "Optuna store, sqlite:///file.db or postgresql://... (VARIANTS_STORAGE, or optuna.db here)"},
    "--study-name": {"metavar": "NAME", "help": "name of the study (VARIANT-DATASET)"},
    "--start-from": {"action": "append", "default": [], "metavar": "STUDY",
                     "help": "try the best settings of this finished study in the same store right after the defaults; "
                     "may be repeated, and the settings are dropped once one is no better than the defaults"},
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
    "--label": {"metavar": "COLUMN", "help": "the column that holds the class; it is not modelled as a value"},
    "--group": {"metavar": "COLUMN", "help": "the column that says which rows belong together, such as those of one "
                "patient; no group is divided between splits"},
    "--time": {"metavar": "COLUMN", "help": "the column that holds the time, a number or a date"},
    "--drop": {"type": columns, "action": "extend", "default": [], "metavar": "COLUMNS",
               "help": "leave out a column, or several with commas between them; may be repeated"},
    "--no-header": {"action": "store_false", "dest": "header",
                    "help": "the first line of the table holds values, not names; the columns are called x0, x1, ..."},
    "--likelihood": {"choices": tuple(KIND_OF),
                     "help": "p(x|z) of the values of one kind: gaussian or student-t (heavy tails) for real, "
                     "log-normal or gamma for positive, negative-binomial, poisson or zero-inflated for count, "
                     "bernoulli for binary, categorical for category, logistic8 or mixture8 (channels that depend on "
                     "each other) for 8-bit pixels; the first of each kind is the default. continuous-bernoulli is for "
                     "pixels from 0 to 1. gaussian also models columns of other kinds as continuous"},
    "--exposure": {"metavar": "sum|none|COLUMN",
                   "help": "what counts are proportional to: their sum in the row, nothing, or a column, such as the "
                   "time of observation, which is not modelled (sum if there are at least 10 columns, all of counts)"},
    "--kind": {"type": kind, "action": "append", "default": [], "metavar": "COLUMN=KIND",
               "help": "what a column holds: real for any numbers, positive for numbers above 0 that are many times "
               "larger in some rows than in others, such as prices, count for whole numbers from 0 of events or "
               "things, binary for two values, category for one of up to 100 categories, also numbered ones; may be "
               "repeated. x=pixels or x=sequence says what the array x of a file holds; COLUMN=sequence says that a "
               "column of a table names the sequence of each row; symbols, without a column, reads whole numbers of "
               "sequences of one channel as symbols without an order, such as letters"},
    "--size": {"type": size, "metavar": "HxW", "help": "resize and crop images to this height and width in pixels"},
    "--alpha": {"choices": ("white", "black", "keep"),
                "help": "the colour behind transparent pixels, or keep, which keeps alpha as a channel "
                "(white for files of images)"},
    "--dates": {"choices": ("day-first", "month-first"),
                "help": "how dates such as 1/2/2020 are read, if it is not clear which number is the month"},
    "--step": {"metavar": "STEP",
               "help": "put each sequence on a grid of this step of time, such as 30s, 15min, 1h, 1d, 1w, 1mo, or 0.5 "
               "if times are numbers; absent steps are missing values. rows takes the rows as consecutive steps"},
    "--time-as-input": {"action": "store_true",
                        "help": "take the rows of each sequence as its steps, and give their times to the networks"},
    "--window": {"type": positive, "metavar": "N",
                 "help": "cut each sequence into windows of N steps, which become the examples; shorter sequences stay "
                 "whole"},
    "--stride": {"type": positive, "metavar": "M",
                 "help": "start a window every M steps, so that windows overlap if M is less than N (N)"},
    "--wide": {"action": "store_true",
               "help": "each column of the table, except for that of --time, is a sequence of one channel, and each "
               "row is a step"},
    "--test": {"metavar": "NAME|PATH", "help": "use other data of the same kind as the test split"},
    "--split": {"choices": ("random", "group", "time"),
                "help": "draw each example by itself, keep groups whole, or test on the latest tenth, which with "
                "--window is the end of each sequence (the data's own splits if there are any; otherwise at random, "
                "with groups, equal examples and the windows of a sequence kept whole)"},
    "--split-seed": {"type": seed, "default": SPLIT_SEED, "metavar": "N",
                     "help": f"seed of the random split ({SPLIT_SEED})"},
    "--portion": {"type": positive, "metavar": "N",
                  "help": "read training examples from disk while a model is trained, N in each epoch (chosen by their "
                  "size if the data do not fit in memory)"},
}  # fmt: skip
COMPUTE = ("--device", "--threads", "--workers", "--executor", "--ray-address")
DATA = (
    "--label", "--group", "--time", "--drop", "--no-header", "--likelihood", "--exposure", "--kind", "--size",
    "--alpha", "--dates", "--step", "--time-as-input", "--window", "--stride", "--wide", "--test", "--split",
    "--split-seed", "--portion",
)  # fmt: skip


def parser(command: str, about: str, *options: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return a parser with some of the common options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{command}",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("options of data") if set(options) & set(DATA) else parser
    for option in options:
        (group if option in DATA else parser).add_argument(option, **OPTIONS[option])
    return parser


def compute(arguments: argparse.Namespace) -> Compute:
    """Return the values of the options `COMPUTE` as one record."""
    a = arguments
    return Compute(device=a.device, threads=a.threads, workers=a.workers, executor=a.executor, address=a.ray_address)


def source(arguments: argparse.Namespace, place: str) -> Source:
    """Return the data set at `place` with the values of the options `DATA`."""
    a = arguments
    return Source(
        place=place, label=a.label, group=a.group, time=a.time, drop=tuple(a.drop), header=a.header,
        likelihood=a.likelihood, exposure=a.exposure, kinds=tuple(a.kind), size=a.size, alpha=a.alpha, dates=a.dates,
        step=a.step, time_as_input=a.time_as_input, window=a.window, stride=a.stride, wide=a.wide, test=a.test,
        split=a.split, split_seed=a.split_seed, portion=a.portion,
    )  # fmt: skip


def command_line(source: Source) -> str:
    """Return the options of a command that name a data set and say how it is read."""
    words = ["--dataset", source.place]
    for option, value in zip(source.option_names, source.options.values(), strict=True):
        if option == "--kind":
            words += [word for column, kind in value for word in (option, f"{column}={kind}")]
        elif option == "--drop":
            words += [word for column in value for word in (option, f'"{column}"' if "," in column else column)]
        elif isinstance(value, bool):
            words.append(option)
        else:
            words += [option, f"{value[0]}x{value[1]}" if option == "--size" else str(value)]
    return shlex.join(words)


def run(command: Callable[[list[str]], int], how_to_continue: str = "") -> NoReturn:
    """Run a command with the arguments of the command line, and exit with its exit code. SIGTERM acts as Ctrl-C.

    `how_to_continue` is printed when the command was interrupted, or had to stop because a disk is full.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        code = command(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except Exception as error:
        from pipeline import machine  # not above: it imports torch, which takes a second and which --help does not need

        if machine.disk_is_full(error):
            first, how = str(error).splitlines()[0], how_to_continue or "run the same command again"
            print(f"error: {first}; make room ({machine.room_left()}), and {how}", file=sys.stderr)
            code = 2
        else:
            traceback.print_exc()
            code = CRASHED
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one during the clean-up exits at once
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        print(f"interrupted; {how_to_continue}" if how_to_continue else "interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
