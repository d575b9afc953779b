"""`python -m pipeline.study`: search a variant's hyperparameters."""

import dataclasses
import sys
from itertools import pairwise

from pipeline import cli

ABOUT = """Search the hyperparameters of one VAE variant on one data set with Optuna.

Each trial trains one configuration, scores it on validation data, and writes curves, scores and sample grids to
MLflow. Run the same command again to continue an interrupted study; with larger --trials or --budget, it is extended.
Trials are compared by the ELBO at beta = 1 in nats per example, whatever loss they were trained with."""

EXAMPLES = """examples:
  python -m pipeline.study --variant beta                           on the built-in digits, in a minute or two
  python -m pipeline.study --variant vae --dataset mnist --trials 50 --timeout 8h
  python -m pipeline.study --variant vae --dataset mnist --budget 2000epochs     or --budget 30m
  python -m pipeline.study --variant beta --dataset mine.csv --label diagnosis --fix latent=2
  python -m pipeline.study --variant beta --start-from vae-digits   first tries the best settings of another study
  python -m pipeline.study --variant beta --workers 4               four trials at a time, each in its own process
  python -m pipeline.study --variant beta --help                    which parameters beta has, and their ranges
"""

OPTIONS = (
    "--variant", "--dataset", "--trials", "--budget", "--epochs", "--timeout", "--seed", "--fix", "--storage",
    "--study-name", "--start-from", "--trial-timeout", *cli.COMPUTE, *cli.DATA,
)  # fmt: skip


def _epilog(arguments: list[str]) -> str:
    """Return the examples, followed by the parameters of the variant that is named, or by all variants."""
    import variants

    chosen = next((value for option, value in pairwise(arguments) if option == "--variant"), None)
    if chosen is None:
        lines = [f"  {name:<8} {variants.paper(name)}" for name in variants.names()]
        return "\n".join([EXAMPLES, "variants:", *lines])

    import studies
    from pipeline.study.space import outline

    config, space = variants.get(chosen).config_type, studies.get(chosen)
    searched = outline(space, {})[1]
    lines = []
    for f in dataclasses.fields(config):
        range_ = f"searched: {searched[f.name]}" if f.name in searched else f"default {f.default}"
        lines.append(f"  {f.name:<14} {range_:<32} {f.metadata['help']}")
    study = space.STUDY
    budget = f"objectives: {', '.join(study.objectives)}; {study.trials} trials of at most {study.epochs} epochs"
    return "\n".join(
        [EXAMPLES, f"{chosen}: {variants.get(chosen).paper}", budget, "", "hyperparameters (--fix):", *lines]
    )


def main(argv: list[str]) -> int:
    wants_help = {"-h", "--help"} & set(argv)
    arguments = cli.parser("study", ABOUT, *OPTIONS, epilog=_epilog(argv) if wants_help else "").parse_args(argv)
    import studies
    import variants
    from pipeline.progress import Display
    from variants import InputError

    display = Display()
    if arguments.variant is None:
        raise InputError(f"--variant is missing: expected one of {', '.join(variants.names())}")
    if arguments.variant in variants.names():
        display.say("loading PyTorch, MLflow and Optuna ...")  # it takes seconds

    from pipeline.study import space

    fixed = space.parse_fixed(arguments.fix, variants.get(arguments.variant).config_type)

    from pipeline.study import driver, store, summary

    options = ("variant", "trials", "budget", "epochs", "timeout", "seed", "storage", "study_name", "trial_timeout")
    request = {name: getattr(arguments, name) for name in options}
    source = cli.source(arguments, arguments.dataset or studies.get(arguments.variant).STUDY.dataset)
    outcome = driver.run(
        driver.StudyRequest(
            **request, dataset=source, fixed=fixed, start_from=tuple(arguments.start_from),
            compute=cli.compute(arguments),
        ),
        display,
    )  # fmt: skip
    if not store.complete_trials(outcome.study):
        print("no trial was completed; the reasons are printed above, and are in MLflow", file=sys.stderr)
        return 1
    display.show(summary.best_table(outcome.study, outcome.objectives))
    display.say(f"to compare the trials, run:  python -m pipeline.ui --dataset {outcome.experiment} --open")
    display.say(f"while it runs, the page is at {outcome.link}")
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command continues where this one stopped")
