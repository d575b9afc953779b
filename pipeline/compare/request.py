"""What a user asks a comparison to do: which variants, on which data, with which budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import variants
from pipeline import data as datasets
from pipeline.compare.criteria import MATTERS
from pipeline.data import Source
from pipeline.executor import Compute
from pipeline.study import budget, space
from pipeline.study.budget import Goal
from pipeline.study.driver import StudyRequest
from studies import SearchBudget, Study
from variants import InputError

DEFAULT_BUDGET = SearchBudget(epochs=1000)  # of the search of each variant
DEFAULT_SEEDS = 5  # finals of each configuration; one in each of several repetitions
MOST_REPEATS = 24


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What to compare, and with which budget.

    Args:
        dataset: The name or the path of a data set, or a source with options.
        variants: The variants to compare; empty for all.
        train: Whether to run the studies that are missing, and continue those that have not spent the budget. Otherwise
            variants without a study are left out.
        budget: What all trials of a study may spend together. None is `DEFAULT_BUDGET`, or no limit if `trials` is set.
        trials: The number of trials of each study; None for no limit.
        epochs: The largest number of epochs of a trial.
        timeout: Seconds after which a study starts no further trial.
        repeats: How often the split, the searches and the finals are repeated.
        seeds: The number of finals of each chosen configuration; None for five, or for one in each of several
            repetitions.
        seed: The seed of the studies of the first repetition.
        fix: Parameters that are not searched, as `NAME=VALUE`, each for all variants that have it.
        matters: The smallest difference that matters by the name of a criterion, where it is not that of `MATTERS`.
        storage: The address of the Optuna store.
        compute: Where trainings run.
    """

    dataset: str | Source = Study.dataset
    variants: tuple[str, ...] = ()
    train: bool = False
    budget: SearchBudget | None = None
    trials: int | None = None
    epochs: int = Study.epochs
    timeout: float | None = None
    repeats: int = 1
    seeds: int | None = None
    seed: int = 0
    fix: tuple[str, ...] = ()
    matters: Mapping[str, float] = field(default_factory=dict)
    storage: str = StudyRequest.storage
    compute: Compute = Compute()

    @property
    def finals(self) -> int:
        """The number of finals of each configuration."""
        return self.seeds or (1 if self.repeats > 1 else DEFAULT_SEEDS)

    @property
    def goal(self) -> Goal:
        """What each study is to reach."""
        is_default = self.budget is None and self.trials is None
        return Goal(DEFAULT_BUDGET if is_default else self.budget, self.trials, self.epochs)

    def fixed(self, variant: str) -> dict[str, space.Value]:
        """Return the parameters of a variant that are not searched. Raises `InputError` for a value that is wrong."""
        config = variants.get(variant).config_type
        return space.parse_fixed([f for f in self.fix if f.partition("=")[0] in config.__dataclass_fields__], config)


def check(request: CompareRequest, sources: Sequence[str | Source]) -> None:
    """Raise `InputError` if an option is out of range, a variant is unknown, or a data set cannot be loaded."""
    budget.check(request.goal.budget, request.epochs)
    if request.repeats > MOST_REPEATS:
        raise InputError(f"--repeats {request.repeats}: expected 1 to {MOST_REPEATS}")
    if unknown := sorted(set(request.matters) - set(MATTERS)):
        raise InputError(f"--matters {unknown[0]}: expected one of {', '.join(MATTERS)}, such as --matters elbo=0.2")
    compared = request.variants or tuple(variants.names())
    known = {name for variant in compared for name in variants.get(variant).config_type.__dataclass_fields__}
    for assignment in request.fix:
        if assignment.partition("=")[0] not in known:
            raise InputError(
                f"--fix {assignment}: no variant of this comparison has such a parameter; expected NAME=VALUE with one "
                f"of {', '.join(sorted(known))}"
            )
    for variant in compared:
        request.fixed(variant)
    for source in sources:
        datasets.load(source)
