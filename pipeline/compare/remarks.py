"""What a reader has to know before believing a comparison: warnings about all of it, and notes on single variants."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from pipeline.compare import formats
from pipeline.compare.criteria import Criterion
from pipeline.compare.request import DEFAULT_BUDGET, CompareRequest
from pipeline.compare.searches import Choice, Repetition
from pipeline.data import Data
from pipeline.evaluate import bits, latents
from pipeline.study import budget
from pipeline.study.budget import Goal
from pipeline.study.results import StudyRecord

OF_AIS = ("test/ais", "test/ais_subset", "test/ais_gap", "test/ais_less_iw")
MOST_GAP = 1.0  # nats; annealed importance sampling has not converged if the mean gap of a variant is larger
NEARLY_VAE = (0.8, 1.25)  # a model whose KL has a weight in this range is nearly a VAE


def warnings(
    request: CompareRequest, data: Data, repetitions: Sequence[Repetition], frame: pd.DataFrame, is_equal_budget: bool
) -> list[str]:
    """Return sentences, without a full stop, that a reader has to know before believing the tables."""
    candidates, warnings = repetitions[0].candidates, []
    if len(candidates) > 1 and not is_equal_budget:
        spent = _spent(repetitions)
        warnings.append(f"the budgets differ ({spent}): a variant may win only because it was searched for longer")
    warnings += _capped(repetitions, frame)
    warnings += precisions(choice for repetition in repetitions for choice in repetition.choices)
    warnings += [
        f"annealed importance sampling has not converged for {variant}: on simulated data, its upper and lower bounds "
        f"of log p(x) are {gap:,.3g} nats apart on average (test/ais_gap), at most {MOST_GAP:g} is expected; do not "
        f"rely on its {formats.listed(OF_AIS[:2])}"
        for variant, gap in without_convergence(frame).items()
    ]
    for _, row in frame[frame["state"] != "complete"].iterrows():
        warnings.append(f"{row['variant']} with seed {row['seed']} failed: {row['reason']}")
    if request.repeats == 1 and request.finals == 1:
        warnings.append("one seed allows neither intervals nor verdicts; use --seeds 5, or better --repeats 5")
    if request.repeats > 1 and "test" not in data.drawn:
        warnings.append(
            f"{data.spec.name} has a test split of its own, which all repetitions share: the verdicts are about this "
            "test split, and their intervals contain the error over its examples"
        )
    if len(candidates) == 1:
        warnings.append(f"{next(iter(candidates))} is the only variant: there is nothing to compare it with")
    return warnings


def precisions(choices: Iterable[Choice]) -> Iterator[str]:
    """Yield a sentence if the chosen configurations were not all trained in the same precision."""
    of_variants: dict[str, set[str]] = {}
    for choice in choices:
        of_variants.setdefault(choice.config.precision, set()).add(choice.variant)
    if len(of_variants) > 1:
        facts = "; ".join(
            f"{precision} for {formats.listed(sorted(of_variants[precision]))}" for precision in sorted(of_variants)
        )
        yield (
            f"the models were trained in different precisions ({facts}): differences may come from these; --fix "
            "precision=fp32 searches and trains all in the same one"
        )


def without_convergence(finals: pd.DataFrame) -> dict[str, float]:
    """Return the mean `test/ais_gap` of each variant for which it is larger than `MOST_GAP`."""
    if "test/ais_gap" not in finals:
        return {}
    gaps = finals.groupby("variant")["test/ais_gap"].mean()
    return {str(variant): float(gap) for variant, gap in gaps.items() if gap > MOST_GAP}


def _capped(repetitions: Sequence[Repetition], frame: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence on the finals that were trained for all epochs and did not run out of patience."""
    if "time/epochs" not in frame:  # finals of an older version
        return
    studies = {(r.number, variant): c.study for r in repetitions for variant, c in r.candidates.items()}
    capped: dict[int, dict[str, int]] = {}  # by the largest number of epochs and the variant
    trained = frame[frame["time/epochs"].notna()]
    for _, final in trained.iterrows():
        study = studies[final["repetition"], final["variant"]]
        waited = final["time/epochs"] - final["time/best_epoch"]
        if final["time/epochs"] >= study.epochs and (waited < study.patience or not study.patience):
            of_variants = capped.setdefault(study.epochs, {})
            of_variants[final["variant"]] = of_variants.get(final["variant"], 0) + 1
    for epochs, of_variants in capped.items():
        totals = {v: int((trained["variant"] == v).sum()) for v in of_variants}
        whole = sorted(v for v, n in of_variants.items() if n == totals[v])
        counts = [f"all finals of {formats.listed(whole)}"] if whole else []
        counts += [f"{n} of {totals[v]} finals of {v}" for v, n in sorted(of_variants.items()) if v not in whole]
        yield (
            f"{formats.listed(counts)} ended at the cap of {epochs} epoch{'s' * (epochs != 1)}, before their patience "
            "ran out: the ranking is then also one of speed; give more --epochs, with another --storage for the new "
            "studies"
        )


def equal_budget(repetitions: Sequence[Repetition], goal: Goal) -> str:
    """Return a sentence that says what each search spent if the amounts differ by at most a trial; otherwise ""."""
    records = [c.study for r in repetitions for c in r.candidates.values()]
    unit = goal.budget or DEFAULT_BUDGET  # a number of trials is no budget, and is judged by its epochs
    amounts = [record.spent(unit) for record in records]
    if len(records) < 2 or max(amounts) - min(amounts) > max(record.longest_trial(unit) for record in records):
        return ""
    kind = "epochs" if unit.seconds is None else "seconds"
    return f"Each variant was searched with an equal budget of {kind}, to within one trial: {_spent(repetitions)}."


def _spent(repetitions: Sequence[Repetition]) -> str:
    """Return what the searches of each variant have spent, in words."""
    amounts: dict[str, list[StudyRecord]] = {}
    for repetition in repetitions:
        for variant, candidate in repetition.candidates.items():
            amounts.setdefault(variant, []).append(candidate.study)
    searches = f" in {len(repetitions)} searches" if len(repetitions) > 1 else ""
    return ", ".join(
        f"{variant} {sum(s.spent_epochs for s in records)} epochs and {sum(s.seconds for s in records):.0f} s in "
        f"{budget.count(sum(len(s.trials) for s in records))}{searches}"
        for variant, records in amounts.items()
    )


def notes(criterion: Criterion, choices: Sequence[tuple[int, Choice]], finals: pd.DataFrame) -> dict[str, list[str]]:
    """Return clauses that belong beside the scores of variants by one criterion.

    Args:
        criterion: The criterion.
        choices: The configurations that it chose, each with the number of its repetition.
        finals: Their finals, with the columns variant and remark.
    """
    notes: dict[str, list[str]] = {}
    for variant, runs in finals.groupby("variant"):
        collapsed = int(runs["remark"].fillna("").str.contains("collapsed").sum())
        if collapsed:
            notes.setdefault(str(variant), []).append(
                f"{collapsed} of {len(runs)} finals collapsed ({latents.COLLAPSE})"
            )
    if criterion.name == "elbo":
        for variant, gap in without_convergence(finals).items():
            words = f"annealed importance sampling has not converged (test/ais_gap: {gap:,.3g} nats)"
            notes.setdefault(variant, []).append(words)
    for variant, values in _kl_weights(choices).items():
        low, high = NEARLY_VAE
        if criterion.name == "elbo" and all(low <= value <= high for value in values):
            shown = ", ".join(f"{value:.3g}" for value in values)
            notes.setdefault(variant, []).append(f"nearly a plain VAE: its search chose beta = {shown}")
    return notes


def bits_without_a_model(frame: pd.DataFrame, data: Data) -> Iterator[str]:
    """Yield a sentence about the bits per dimension of 8-bit images that cost nothing, the means over finals."""
    scores = {name: float(frame[name].mean()) for name in map(str, frame.columns) if name.startswith("bits/test_")}
    if scores:
        values = ", ".join(f"{title} {value:.3f}" for title, value in bits.titled(scores, data.spec).items())
        yield (
            f"In bits per dimension, these need no model: {values}. PNG and WebP are sizes of test images in one file, "
            "not likelihoods."
        )


def _kl_weights(choices: Sequence[tuple[int, Choice]]) -> dict[str, list[float]]:
    """Return the weights of the KL that searches chose, by variant, for variants that have such a setting."""
    weights: dict[str, list[float]] = {}
    for _, choice in choices:
        if isinstance(beta := getattr(choice.config, "beta", None), float):
            weights.setdefault(choice.variant, []).append(beta)
    return weights
