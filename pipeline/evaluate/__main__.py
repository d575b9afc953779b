"""`python -m pipeline.evaluate`: score a trained model on the test split, with every metric that is defined for it."""

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cli

if TYPE_CHECKING:
    import torch

    from pipeline.data import Data
    from pipeline.tracker import Run
    from variants import DataSpec, Variant

ABOUT = """Score a trained model on the test split, with every metric that is defined for it and its data.

A metric that is undefined is shown with the reason instead of a number. With --run, scores and pictures are added to
the model's run in MLflow, together with evaluation.json, which holds every score with its unit, size, error and the
versions of libraries, and rows.parquet, which holds scores of each test example. With --model they are written into the
folder "evaluation" in the model's folder. Make choices on validation data, and use this command once, at the end."""

EPILOG = """parts (--only): bounds annealing latents probe clusters disentanglement samples anomaly one_class
imputation interpolation generation forecast augmentation

examples:
  python -m pipeline.evaluate --run 5b1f0e6c...                    the run id is shown on the page of the run in MLflow
  python -m pipeline.evaluate --model my-model --only anomaly --normal ok     all classes but ok are anomalies
  python -m pipeline.evaluate --model my-model --dataset mnist     a folder with a saved model
  python -m pipeline.evaluate --model my-model --dataset mine.npz --only probe --only samples
"""


def main(words: list[str]) -> int:
    parser = cli.parser("evaluate", ABOUT, "--dataset", "--seed", "--device", "--threads", *cli.DATA, epilog=EPILOG)
    parser.add_argument("--run", metavar="RUN_ID", help="an MLflow run that holds a trained model")
    parser.add_argument("--model", metavar="FOLDER", type=Path, help="a folder with a saved model")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PART", help="compute this part only; may be repeated"
    )
    parser.add_argument(
        "--normal", metavar="CLASS", help="the class that counts as normal when anomalies are detected (most frequent)"
    )
    arguments = parser.parse_args(words)

    from pipeline import machine
    from pipeline.evaluate import anomaly, report, suite
    from pipeline.progress import Display
    from variants import InputError

    if (arguments.run is None) == (arguments.model is None):
        raise InputError("expected either --run RUN_ID or --model FOLDER")
    options = cli.source(arguments, "")
    if arguments.run and options.options:
        raise InputError(
            f"{', '.join(options.option_names)}: with --run, the data are read and split as in the training; "
            "leave these options out, or use --model"
        )
    names = suite.names(arguments.only)
    if arguments.normal is not None and not {"anomaly", "one_class"} & set(names):
        raise InputError("--normal is for the parts anomaly and one_class; with --only, name one of them")
    threads = machine.prepare(arguments.threads)
    device = machine.device(arguments.device)
    display = Display()
    run, variant, loaded = _load(arguments, options.options, device)
    normal = None if arguments.normal is None else anomaly.class_number(loaded, arguments.normal)
    if run is None:
        machine.writable(arguments.model / "evaluation")
    display.say("\n".join(loaded.inspect().summary()))
    begin = time.perf_counter()
    parts = []
    scored = suite.run(variant, loaded, only=tuple(arguments.only), seed=arguments.seed, normal=normal)
    with display.progress("evaluation", len(names)) as progress:
        for name in names:
            progress.start(name, name)
            parts.append(next(scored))
            progress.finish(name)
    about = report.about(variant, loaded, parts, arguments.seed, machine.environment(device, threads))
    rows = report.rows(loaded, parts)
    if run is None:
        where = report.write(arguments.model / "evaluation", parts, about, rows)
    else:
        where = report.log(run, parts, about, rows)
        problem = run.close()
        if problem:
            where += f" once `python -m pipeline.sync` has sent it ({problem})"
    display.show(report.table(parts))
    for part in parts:
        for name, columns in part.tables.items():
            display.show(report.other_table(name, columns))
        if part.remark:
            display.say(part.remark)
    display.say(f"{time.perf_counter() - begin:.0f} s; everything is in {where}")
    return 0


def _load(
    arguments: argparse.Namespace, options: Mapping[str, Any], device: "torch.device"
) -> "tuple[Run | None, Variant, Data]":
    """Return the run, if there is one, the model and its data. Raise `InputError` if the data do not belong to it."""
    from pipeline import data
    from variants import InputError, load

    with tempfile.TemporaryDirectory() as scratch:
        if arguments.run is None:
            run, saved, digest = None, arguments.model, None
            preprocessing = data.Preprocessing.load(saved)
            source = preprocessing.source if preprocessing else None
        else:
            from pipeline.tracker import saved_model

            run, saved, text, digest = saved_model(arguments.run, Path(scratch))
            source = data.Source.parse(text) if text else None
        variant = load(saved).to(device)
        source = source or data.Source(place=variant.spec.name)
        asked = replace(source, place=arguments.dataset or source.place, **options)
        loaded = data.load(asked).to(device)
    if digest not in (None, loaded.digest[:36]):
        before, now = source.absolute.place, loaded.source.absolute.place
        if before == now:
            raise InputError(f"{now} has changed since the run was trained on it; restore it, or train again")
        raise InputError(f"the run was trained on {before}, and {now} holds other data; leave --dataset out")
    if differences := _differences(loaded.spec, variant.spec):
        raise InputError(
            f"--dataset {loaded.spec.name}: the model was made for other data than these: {'; '.join(differences)}"
        )
    if run is None and preprocessing is not None and preprocessing.digest != loaded.digest:
        raise InputError(
            f"{loaded.source} holds other data or splits than {preprocessing.source}, on which the model was trained; "
            "leave --dataset out, or use pipeline.apply, which is for new data"
        )
    return run, variant, loaded


def _differences(spec: "DataSpec", expected: "DataSpec") -> list[str]:
    """Return clauses that say how data differ from those that a model was made for, in what decides its networks."""
    facts = {"shape": "shape", "likelihood": "likelihood", "classes": "number of classes", "steps": "number of steps",
             "missing": "having missing values", "exposure": "exposure"}  # fmt: skip
    clauses = [
        f"{title} {getattr(spec, name)!r}, not {getattr(expected, name)!r}"
        for name, title in facts.items()
        if getattr(spec, name) != getattr(expected, name)
    ]
    groups = [[(g.likelihood, g.size) for g in s.parts] for s in (spec, expected)]
    return clauses if clauses or groups[0] == groups[1] else ["the columns have other kinds"]


if __name__ == "__main__":
    cli.run(main, "run the same command again")
