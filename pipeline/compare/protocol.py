"""The protocol of a comparison: equal budgets, choices on validation data, fresh seeds, one look at the test split.

Studies and finals that exist are used again. A comparison that was interrupted continues when `run` is called again,
and ends with the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

import studies
import variants
from pipeline import cli, final, machine, metrics, training_run
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline.compare.analysis import PPCA, Board, Criterion, board
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, pictures, quick
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute
from pipeline.final import Final
from pipeline.metrics import Undefined
from pipeline.progress import Display
from pipeline.study import budget, prior, space
from pipeline.study.budget import Goal
from pipeline.study.driver import StudyRequest
from pipeline.study.driver import run as search
from pipeline.study.results import StudyRecord, read_study
from pipeline.study.store import other_data
from pipeline.tracker import Record, Run, Tracker
from studies import SearchBudget, Study
from variants import Config, InputError

SIZES = Sizes(ais_n=20, ais_temperatures=200, gap_n=10, draws=3)
DEFAULT_BUDGET = SearchBudget(epochs=1000)  # of the search of each variant
PARTS = ("bounds", "annealing", "latents", "probe", "clusters", "samples", "generation")
CRITERIA = (
    Criterion(
        name="elbo",
        question="Which variant models the data best?",
        validation_metric="valid/elbo",
        test_metric="test/elbo",
        related_metrics=(f"test/iw{SIZES.iw_k}", "test/ais", PPCA),
        caution="This is the bound at beta = 1. A variant whose q(z|x) has no density has no such bound, but annealed "
        f"importance sampling (AIS) can estimate its likelihood; test/ais is of {SIZES.ais_n} test examples, so "
        "compare it with itself only. A model is useful only if it beats the baselines.",
    ),
    Criterion(
        name="probe",
        question="Which variant's code tells most about the class?",
        validation_metric="probe/accuracy",
        test_metric="probe/linear_all",
        related_metrics=(
            "probe/linear_100",
            "probe/knn",
            "probe/majority_all",
            "probe/raw_linear_all",
            "probe/untrained_linear_all",
        ),
        caution="This is the accuracy of a linear classifier on codes. Codes are useful only if they beat the share of "
        "the most frequent class, raw values and the codes of an untrained encoder.",
    ),
    Criterion(
        name="reconstruction",
        question="Which variant reconstructs examples best?",
        validation_metric="valid/reconstruction",
        test_metric="test/reconstruction",
        related_metrics=("test/kl",),
        caution="Alone, this favours codes that store everything, under a prior that does not fit them. Read it with "
        "the KL.",
    ),
)
BALANCED_PROBE = Criterion(  # takes the place of the probe's criterion if the classes are uneven
    name="probe",
    question="Which variant's code tells most about the class?",
    validation_metric="probe/balanced_accuracy",
    test_metric="probe/balanced_all",
    related_metrics=(
        "probe/linear_all", "probe/majority_all", "probe/raw_balanced_all", "probe/untrained_balanced_all",
    ),
    caution="The classes are uneven, so this is the balanced accuracy of a linear classifier on codes: the mean over "
    "classes of the share that is classified correctly. Codes are useful only if they beat raw values and the codes of "
    "an untrained encoder. The accuracy stands beside it, with the share of the most frequent class.",
)  # fmt: skip


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
        seeds: The number of finals of each chosen configuration.
        seed: The seed of the studies.
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
    seeds: int = 5
    seed: int = 0
    storage: str = StudyRequest.storage
    compute: Compute = Compute()

    @property
    def goal(self) -> Goal:
        """What each study is to reach."""
        is_default = self.budget is None and self.trials is None
        return Goal(DEFAULT_BUDGET if is_default else self.budget, self.trials, self.epochs)


@dataclass(frozen=True)
class Candidate:
    """A variant with its study. `source` and `data` are the data set in the form that the variant needs."""

    variant: str
    source: Source
    data: Data
    study: StudyRecord


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The configuration of a variant that is best by a criterion on validation data, and its validation score."""

    criterion: str
    variant: str
    trial: int
    value: float
    config: Config
    key: str  # `final.config_key`


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The results of a comparison. `finals` has a row for each run, and a column for each metric."""

    dataset: str
    candidates: Mapping[str, Candidate]
    equal_budget: str  # what each search spent, as a sentence, if the amounts differ by at most a trial; otherwise ""
    left_out: Mapping[str, str]  # variant -> reason
    choices: list[Choice]
    finals: pd.DataFrame
    boards: list[Board]
    warnings: list[str]
    environment: Mapping[str, str]
    weights: Mapping[str, int]  # variant -> number of weights


def check(request: CompareRequest, sources: Sequence[str | Source]) -> None:
    """Raise `InputError` if a variant is unknown, the budget is too small, or a data set cannot be loaded."""
    budget.check(request.goal.budget, request.epochs)
    for variant in request.variants:
        variants.get(variant)
    for source in sources:
        datasets.load(source)


def run(request: CompareRequest, display: Display) -> Comparison:
    """Run the studies that are missing, choose configurations, train the finals that are missing, and compare.

    Raises:
        InputError: If a variant or the data set is unknown, or no variant has a study.
    """
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    data = datasets.load(request.dataset)
    description = data.inspect()
    display.say("\n".join(description.summary()))
    dataset = data.spec.name
    with machine.exclusive(Path(f"compare-{dataset}.lock"), f"{dataset} is being compared"):
        candidates, left_out = _candidates(request, data, device, display)
        if not candidates:
            reasons = "; ".join(f"{variant}: {reason}" for variant, reason in left_out.items())
            advice = reasons if request.train or request.variants else "add --run to search them all"
            raise InputError(f"--dataset {request.dataset}: no variant has a study of it; {advice}")
        criteria = _criteria(candidates)
        choices = _choices(candidates, criteria)
        tracker = Tracker(dataset)
        tracker.claim(data)
        tags = {**machine.environment(device, threads), "dataset": dataset}
        with _parent(tracker, dataset, tags) as parent:
            parent.description(description, pictures.examples(data))
            means = baselines.means(baselines.log_p(data, data.test))
            baseline_scores = {f"baseline/test_{name}": value for name, value in means.items()}
            parent.metrics(baseline_scores, 0)
            finals = {f.key(c.data): (c, f) for c, f in _finals(candidates, choices, request.seeds)}
            records = _trained(finals, tracker, parent.id, tags, request.compute, display)
        equal_budget = _equal_budget(candidates, request.goal)
        frame, titles = _frame(records), baselines.titled(baseline_scores, data.spec)
        return Comparison(
            dataset=dataset,
            candidates=candidates,
            equal_budget=equal_budget,
            left_out=left_out,
            choices=choices,
            finals=frame,
            boards=[_board(c, choices, frame, left_out, titles) for c in criteria],
            warnings=[*description.warnings, *_warnings(candidates, frame, request.seeds, bool(equal_budget))],
            environment={**tags, **{f"digest of {c.source}": c.data.digest for c in candidates.values()}},
            weights={f.variant: int(record.params["weights"]) for f, record in reversed(records)},
        )


def _candidates(
    request: CompareRequest, data: Data, device: torch.device, display: Display
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the variants that can be compared, with their studies, and the reason for each of the others."""
    sources, left_out = _sources(request.variants or tuple(variants.names()), data)
    candidates = {}
    for variant, own_data in sources.items():
        source = own_data.source
        study = _study(request, variant, own_data, tuple(sources), display)
        if study is None:
            options = cli.command_line(source)
            left_out[variant] = f"it has no study: run python -m pipeline.study --variant {variant} {options}"
        elif study.digest != own_data.digest:
            left_out[variant] = f"its study {study.name} {other_data(study.data, cli.command_line(source.absolute))}"
        elif not any(t.state == "complete" for t in study.trials):
            left_out[variant] = f"no trial of its study {study.name} was completed"
        else:
            candidates[variant] = Candidate(variant, source, own_data.to(device), study)
            training_run.cache_data(source, device, candidates[variant].data)
    return candidates, left_out


def _sources(names: Sequence[str], data: Data) -> tuple[dict[str, Data], dict[str, str]]:
    """Return the data set of each variant, as sequences if the variant needs them, and the reasons of the others."""
    sources, left_out = {}, {}
    rows = datasets.as_sequences(data.source.place)
    for name in names:
        cls = variants.get(name)
        own_data = data
        if rows and "mask" in cls.required_fields and not data.spec.steps:
            own_data = datasets.load(replace(data.source, place=rows))
        try:
            variants.build(name, cls.config_type(), own_data.spec)
        except InputError as error:
            left_out[name] = str(error)
            continue
        sources[name] = own_data
    return sources, left_out


def _study(
    request: CompareRequest, variant: str, data: Data, compared: Sequence[str], display: Display
) -> StudyRecord | None:
    """Return the study of a variant, or None if there is none. With `request.train`, run missing trials first.

    A new study starts from those of the other variants in `compared` (`_prior`).
    """
    name = f"{variant}-{data.spec.name}"
    study = read_study(request.storage, name)
    if not request.train or (study and _has_reached(study, request.goal)):
        return study
    epochs = study.epochs if study else request.epochs
    display.say(f"{variant} on {data.spec.name}: a search of {request.goal}, in trials of at most {epochs} epochs")
    study_request = StudyRequest(
        variant=variant, dataset=data.source, trials=request.trials, budget=request.goal.budget, epochs=epochs,
        timeout=request.timeout, seed=request.seed, storage=request.storage, compute=request.compute,
        start_from=() if study else _prior(request, variant, data, compared), shows_data=False,
    )  # fmt: skip
    search(study_request, display)
    return read_study(request.storage, name)


def _prior(request: CompareRequest, variant: str, data: Data, compared: Sequence[str]) -> tuple[str, ...]:
    """Return the finished studies of other variants on the same data whose settings a new study can try first."""
    search_space = studies.get(variant)
    objective = metrics.objectives(search_space.STUDY.objectives, data.spec, quick.probe_metric(data))[0]
    searched = space.outline(search_space, {})[1]
    records = [read_study(request.storage, f"{name}-{data.spec.name}") for name in compared if name != variant]
    return tuple(
        record.name
        for record in records
        if record and record.digest == data.digest and _has_reached(record, request.goal)
        if prior.settings(record, objective, searched)
    )


def _has_reached(study: StudyRecord, goal: Goal) -> bool:
    """Return whether a study needs no more trials. One that was run for another goal may lack up to one trial."""
    if goal.trials and len(study.trials) >= goal.trials:
        return True
    if goal.budget is None:
        return False
    missing = goal.budget.amount - study.spent(goal.budget)
    return missing <= 0 or (study.goal != str(goal) and missing < study.longest_trial(goal.budget))


def _equal_budget(candidates: Mapping[str, Candidate], goal: Goal) -> str:
    """Return a sentence that says what each search spent if the amounts differ by at most a trial; otherwise ""."""
    records = [c.study for c in candidates.values()]
    unit = goal.budget or DEFAULT_BUDGET  # a number of trials is no budget, and is judged by its epochs
    amounts = [record.spent(unit) for record in records]
    if len(records) < 2 or max(amounts) - min(amounts) > max(record.longest_trial(unit) for record in records):
        return ""
    return f"Each variant was searched with an equal budget, to within one trial: {_spent(candidates)}."


def _spent(candidates: Mapping[str, Candidate]) -> str:
    """Return what the search of each variant has spent, in words."""
    return ", ".join(
        f"{variant} {c.study.spent_epochs} epochs and {c.study.seconds:.0f} s in {budget.count(len(c.study.trials))}"
        for variant, c in candidates.items()
    )


def _criteria(candidates: Mapping[str, Candidate]) -> list[Criterion]:
    """Return the criteria that the data allow.

    If the classes are uneven, the probe is judged by its balanced accuracy, unless all studies are older than that.
    """
    metric = quick.probe_metric(next(iter(candidates.values())).data)
    if isinstance(metric, Undefined):
        return [c for c in CRITERIA if c.name != "probe"]
    if metric == BALANCED_PROBE.validation_metric and any(c.study.best(metric) for c in candidates.values()):
        return [BALANCED_PROBE if c.name == "probe" else c for c in CRITERIA]
    return list(CRITERIA)


def _choices(candidates: Mapping[str, Candidate], criteria: Sequence[Criterion]) -> list[Choice]:
    """Choose a configuration for each criterion and variant: the complete trial that is best on validation data."""
    choices = []
    for criterion in criteria:
        for variant, candidate in candidates.items():
            best = candidate.study.best(criterion.validation_metric)
            if best is not None:
                choice = Choice(
                    criterion=criterion.name, variant=variant, trial=best.number,
                    value=best.metrics[criterion.validation_metric], config=best.config,
                    key=final.config_key(variant, best.config),
                )  # fmt: skip
                choices.append(choice)
    return choices


def _finals(
    candidates: Mapping[str, Candidate], choices: Sequence[Choice], seeds: int
) -> Iterator[tuple[Candidate, Final]]:
    """Yield each chosen configuration once for each fresh seed, even if several criteria chose it."""
    configs = {choice.key: choice for choice in choices}
    for seed in range(training_run.FIRST_FINAL_SEED, training_run.FIRST_FINAL_SEED + seeds):
        for choice in configs.values():
            candidate = candidates[choice.variant]
            yield candidate, Final(
                variant=choice.variant, config=choice.config, epochs=candidate.study.epochs,
                patience=candidate.study.patience, seed=seed, sizes=SIZES, parts=PARTS,
            )  # fmt: skip


def _trained(
    finals: Mapping[str, tuple[Candidate, Final]], tracker: Tracker, parent: str, tags: Mapping[str, str],
    compute: Compute, display: Display,
) -> list[tuple[Final, Record]]:  # fmt: skip
    """Train those finals, given by their keys, that are not yet in MLflow. Return all of them with their runs."""
    ready = final.existing(tracker)
    missing = {
        key: final.FinalTask(
            final=f, key=key, source=c.source, digest=c.data.digest, dataset=tags["dataset"], address=tracker.address,
            parent=parent, tags=tags,
        )
        for key, (c, f) in finals.items() if key not in ready
    }  # fmt: skip
    with executors.open_executor(compute) as executor:
        final.train(executor, missing, len(finals) - len(missing), display)
    problems = tracker.catch_up(patience=60)
    if problems:
        raise InputError(f"the finals are trained, but not yet in MLflow: {problems[0]}; run the same command again")
    ready = final.existing(tracker)
    return [(f, ready[key]) for key, (_, f) in finals.items()]


def _frame(records: Sequence[tuple[Final, Record]]) -> pd.DataFrame:
    """Return a row for each final. A final that failed has no scores."""
    rows = []
    for f, record in records:
        state = record.tags["state"]
        row = {"run": record.id, "variant": f.variant, "config": f.config_key, "seed": f.seed}
        row |= {"state": state, "reason": record.tags.get("reason"), "model": record.model}
        row |= {name: record.tags.get(name) for name in ("conditioned_on", "remark")}
        rows.append({**row, **(record.metrics if state == "complete" else {})})
    return pd.DataFrame(rows)


def _board(
    criterion: Criterion,
    choices: Sequence[Choice],
    frame: pd.DataFrame,
    left_out: Mapping[str, str],
    titles: Mapping[str, float],
) -> Board:
    """Return the board of a criterion. `titles` maps the title of each baseline of the ELBO to its score."""
    chosen = {c.variant: c.key for c in choices if c.criterion == criterion.name}
    others = [v for v in frame["variant"].unique() if v not in chosen]
    reasons = {**left_out, **dict.fromkeys(others, f"no trial has {criterion.validation_metric}")}
    runs = frame[frame["config"].isin(chosen.values())]
    return board(criterion, runs, reasons, titles if criterion.name == "elbo" else {})


def _warnings(candidates: Mapping[str, Candidate], frame: pd.DataFrame, seeds: int, is_equal_budget: bool) -> list[str]:
    """Return sentences, without a full stop, that a reader has to know before believing the tables."""
    warnings = []
    if len(candidates) > 1 and not is_equal_budget:
        spent = _spent(candidates)
        warnings.append(f"the budgets differ ({spent}): a variant may win only because it was searched for longer")
    warnings += _capped(candidates, frame)
    for _, row in frame[frame["state"] != "complete"].iterrows():
        warnings.append(f"{row['variant']} with seed {row['seed']} failed: {row['reason']}")
    if seeds == 1:
        warnings.append("one seed allows neither intervals nor tests; use --seeds 5")
    if len(candidates) == 1:
        warnings.append(f"{next(iter(candidates))} is the only variant: there is nothing to compare it with")
    return warnings


def _capped(candidates: Mapping[str, Candidate], frame: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence on the finals that were trained for all epochs and did not run out of patience."""
    if "time/epochs" not in frame:  # finals of an older version
        return
    by_epochs: dict[int, list[str]] = {}
    for variant, candidate in candidates.items():
        epochs, patience = candidate.study.epochs, candidate.study.patience
        finals = frame[(frame["variant"] == variant) & frame["time/epochs"].notna()]
        waited = finals["time/epochs"] - finals["time/best_epoch"]
        capped = int(((finals["time/epochs"] >= epochs) & ((waited < patience) | (patience == 0))).sum())
        if capped:
            by_epochs.setdefault(epochs, []).append(f"{capped} of {len(finals)} finals of {variant}")
    for epochs, capped_finals in by_epochs.items():
        yield (
            f"{' and '.join(capped_finals)} ended at the cap of {epochs} epochs, before their patience ran out: the "
            "ranking is then also one of speed; give more --epochs, with another --storage for the new studies"
        )


def _parent(tracker: Tracker, dataset: str, tags: Mapping[str, str]) -> Run:
    """Open the run of the comparison, which is the same each time.

    Finals of processes that died are marked as interrupted, so that they are trained again.
    """
    tracker.catch_up()
    for record in tracker.find(kind="final"):
        if "state" not in record.tags:
            tracker.mark_ended(record.id, "interrupted")
    return tracker.run(f"comparison of {dataset}", {**tags, "kind": "comparison"}, key=run_key(dataset))


def run_key(dataset: str) -> str:
    """Return the key of the run that holds the comparison of a data set."""
    return f"comparison-{dataset}"
