"""`python -m pipeline.evaluate`: score a trained model on the test split, with every metric that it allows."""

import tempfile
import time
from pathlib import Path

from pipeline import cli

ABOUT = """Score a trained model on the test split, with every metric that its data and kind allow.

What is undefined for a model gets a reason instead of a number. With --run, figures and pictures join the model's run
in MLflow, and evaluation.json there holds every figure with its unit, size, error and library versions; with --model
they are written into the folder evaluation below the model. Choose on validation data; look here once, at the end."""

EPILOG = """parts (--only): bounds annealing latents probe clusters disentanglement samples anomaly imputation
interpolation generation forecast augmentation

examples:
  python -m pipeline.evaluate --run 5b1f0e6c...                    the run id stands in MLflow's page of the run
  python -m pipeline.evaluate --model my-model --dataset mnist     a folder that variants.save wrote
  python -m pipeline.evaluate --model my-model --dataset mine.npz --only probe --only samples
"""


def main(words: list[str]) -> int:
    parser = cli.parser("evaluate", ABOUT, "--dataset", "--seed", "--device", "--threads", epilog=EPILOG)
    parser.add_argument("--run", metavar="RUN_ID", help="an MLflow run that holds a trained model")
    parser.add_argument("--model", metavar="FOLDER", type=Path, help="a folder that variants.save wrote")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="some parts only; repeatable")
    arguments = parser.parse_args(words)

    from rich.console import Console

    from pipeline import data, machine
    from pipeline.evaluate import report, suite
    from variants import InputError, load

    if (arguments.run is None) == (arguments.model is None):
        raise InputError("expected either --run RUN_ID or --model FOLDER")
    names = suite.names(arguments.only)
    threads = machine.prepare(arguments.threads)
    device = machine.device(arguments.device)
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.run is None:
            run, saved, source, digest = None, arguments.model, arguments.dataset, None
        else:
            from pipeline.tracker import saved_model

            run, saved, source, digest = saved_model(arguments.run, Path(scratch))
        variant = load(saved).to(device)
        loaded = data.load(arguments.dataset or source or variant.spec.name).to(device)
    if loaded.spec != variant.spec:
        raise InputError(f"--dataset {loaded.spec.name}: the model was made for {variant.spec}, not for {loaded.spec}")
    if digest not in (None, loaded.digest[:36]):
        raise InputError(
            f"{loaded.source} changed since the run was trained on it: digest {loaded.digest}, not {digest}"
        )
    if run is None:
        machine.writable(arguments.model / "evaluation")
    begin = time.perf_counter()
    parts = []
    with report.Progress(names, console) as progress:
        for part in suite.run(variant, loaded, only=tuple(arguments.only), seed=arguments.seed):
            parts.append(part)
            progress.done(part)
    about = report.about(variant, loaded, parts, arguments.seed, machine.environment(device, threads))
    if run is None:
        where = report.write(arguments.model / "evaluation", parts, about)
    else:
        where = report.log(run, parts, about)
        trouble = run.settle()
        if trouble:
            where += f" once `python -m pipeline.sync` has sent it ({trouble})"
    console.print(report.table(parts))
    for part in parts:
        if part.words:
            console.print(part.words, highlight=False)
    console.print(f"{time.perf_counter() - begin:.0f} s; everything is in {where}", highlight=False)
    return 0


if __name__ == "__main__":
    cli.run(main, "give the same command again")
