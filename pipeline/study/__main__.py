"""`python -m pipeline.study`: search a variant's hyperparameters."""

import dataclasses
import sys
from itertools import pairwise

from pipeline import cli

ABOUT = """Search the hyperparameters of one VAE variant on one data set.

Each trial trains one configuration, scores it on validation data, and is written to MLflow with its curves and
sample grids. Run the same command again and the study goes on until it has the asked number of finished trials.
Trials are compared by the ELBO at beta = 1 in nats per example, whatever they were trained on."""

EXAMPLES = """examples:
  python -m pipeline.study --variant beta                           the embedded digits, a minute or two
  python -m pipeline.study --variant vae --dataset mnist --trials 50 --timeout 8h
  python -m pipeline.study --variant beta --dataset mine.npz --fix latent=2
  python -m pipeline.study --variant beta --workers 4               four trials at a time, in processes of their own
  python -m pipeline.study --variant beta --help                    what beta searches, and what can be pinned
"""

OPTIONS = (
    "--variant", "--dataset", "--trials", "--epochs", "--timeout", "--seed", "--fix", "--storage", "--study-name",
    "--trial-timeout", *cli.COMPUTE,
)  # fmt: skip


def _epilog(words: list[str]) -> str:
    """The examples; below them the parameters of the variant that is named, or all variants."""
    import studies
    import variants
    from pipeline.study.space import outline

    chosen = next((b for a, b in pairwise(words) if a == "--variant"), None)
    if chosen is None:
        lines = [f"  {name:<8} {variants.get(name).paper}" for name in variants.names()]
        return "\n".join([EXAMPLES, "variants:", *lines])
    config, space = variants.get(chosen).config_type, studies.get(chosen)
    searched = outline(space, {})[1]
    lines = []
    for f in dataclasses.fields(config):
        range_ = f"searched: {searched[f.name]}" if f.name in searched else f"default {f.default}"
        lines.append(f"  {f.name:<14} {range_:<32} {f.metadata['help']}")
    budget = space.STUDY
    aims = f"objectives: {', '.join(budget.objectives)}; {budget.trials} trials of at most {budget.epochs} epochs"
    return "\n".join([EXAMPLES, f"{chosen}: {variants.get(chosen).paper}", aims, "", "parameters (--fix):", *lines])


def main(words: list[str]) -> int:
    helped = {"-h", "--help"} & set(words)
    arguments = cli.parser("study", ABOUT, *OPTIONS, epilog=_epilog(words) if helped else "").parse_args(words)
    from rich.console import Console

    import variants
    from pipeline.study import space
    from variants import InputError

    if arguments.variant is None:
        raise InputError(f"--variant is missing: expected one of {', '.join(variants.names())}")
    fixed = space.pinned(arguments.fix, variants.get(arguments.variant).config_type)

    from pipeline.study import display, driver  # after the first checks: MLflow and Optuna take seconds to import

    options = ("variant", "dataset", "trials", "epochs", "timeout", "seed", "storage", "study_name", "trial_timeout")
    chosen = {name: getattr(arguments, name) for name in options}
    outcome = driver.run(driver.StudyRequest(**chosen, fixed=fixed, compute=cli.compute(arguments)))
    console = Console()
    if not any(t.state.name == "COMPLETE" for t in outcome.study.trials):
        print("no trial was completed; the reasons stand above and in MLflow", file=sys.stderr)
        return 1
    console.print(display.summary(outcome.study, outcome.objectives))
    console.print(
        f"compare the trials:  python -m pipeline.ui --dataset {outcome.experiment} --open\nwhich shows ", end=""
    )
    console.print(outcome.link, soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command goes on where this one stopped")
