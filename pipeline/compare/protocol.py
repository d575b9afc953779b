"""The protocol of a comparison: equal budgets, choices on validation data, fresh seeds, one look at the test split.

With one repetition, a comparison is about the configurations that were chosen, on one split, and their finals differ in
the seed only. With several, the split, the searches and the finals are repeated together, from the start, so that the
differences between repetitions contain all of the noise; the comparison is then about the variants.

Studies and finals that exist are used again. A comparison that was interrupted, or that is given more repetitions,
continues when `run` is called again, and ends with the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

import studies
import variants
from pipeline import cli, final, machine, metrics, training_run
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline.compare.analysis import Board, Criterion, Design, Rows, Trivial, board
from pipeline.compare.statistics import Array
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, pictures, quick
from pipeline.evaluate import report as evaluation
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
DEFAULT_SEEDS = 5  # finals of each configuration; one in each of several repetitions
STUDY_SEEDS = 400  # the seeds of the studies of two successive repetitions differ by this
FINAL_SEEDS = 100  # and those of their finals by this
MOST_REPEATS = 24
NEARLY_VAE = (0.8, 1.25)  # a model whose KL has a weight in this range is nearly a VAE
PARTS = ("bounds", "annealing", "latents", "probe", "clusters", "samples", "generation")
MATTERS = {"elbo": 0.05, "probe": 0.005, "reconstruction": 0.15}  # nats, share of the examples, nats
CRITERIA = (
    Criterion(
        name="elbo",
        question="Which variant models the data best?",
        validation_metric="valid/elbo",
        test_metric="test/elbo",
        rows="elbo",
        matters=MATTERS["elbo"],
        trivial=tuple(
            Trivial(f"baseline/test_{name}", f"baseline_{name}", name)
            for name in ("independent", "gaussian", "multinomial", "ppca")
        ),
        related_metrics=(f"test/iw{SIZES.iw_k}", "test/ais", "test/ais_subset"),
        caution="This is the bound at beta = 1. A variant whose q(z|x) has no density has no such bound, but annealed "
        f"importance sampling (AIS) can estimate its likelihood. test/ais_subset is of {SIZES.ais_n} test examples "
        "only, so compare it with itself alone.",
    ),
    Criterion(
        name="probe",
        question="Which variant's code tells most about the class?",
        validation_metric="probe/accuracy",
        test_metric="probe/test_accuracy",
        rows="correct",
        matters=MATTERS["probe"],
        trivial=(
            Trivial("probe/majority_all", "correct_majority", "the most frequent class"),
            Trivial("probe/raw_test_accuracy", "correct_raw", "raw values"),
            Trivial("probe/untrained_test_accuracy", "correct_untrained", "untrained codes"),
        ),
        related_metrics=("probe/linear_100", "probe/knn"),
        caution="This is the accuracy of a linear classifier on codes, the same that chose the configurations.",
    ),
    Criterion(
        name="reconstruction",
        question="Which variant reconstructs examples best?",
        validation_metric="valid/reconstruction",
        test_metric="test/reconstruction",
        rows="reconstruction",
        matters=MATTERS["reconstruction"],
        related_metrics=("test/kl",),
        caution="Alone, this favours codes that store everything, under a prior that does not fit them. Read it with "
        "the KL.",
    ),
)
BALANCED_PROBE = Criterion(  # takes the place of the probe's criterion if the classes are uneven
    name="probe",
    question="Which variant's code tells most about the class?",
    validation_metric="probe/balanced_accuracy",
    test_metric="probe/test_balanced_accuracy",
    rows="balanced_correct",
    matters=MATTERS["probe"],
    trivial=(
        Trivial("probe/raw_test_balanced_accuracy", "balanced_correct_raw", "raw values"),
        Trivial("probe/untrained_test_balanced_accuracy", "balanced_correct_untrained", "untrained codes"),
    ),
    related_metrics=("probe/test_accuracy", "probe/majority_all"),
    caution="The classes are uneven, so this is the balanced accuracy of a linear classifier on codes, the same that "
    "chose the configurations: the mean over classes of the share that is classified correctly. The accuracy stands "
    "beside it, with the share of the most frequent class.",
)


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
class Repetition:
    """The searches of all variants on one split, and the configurations that they chose. Numbers start at 0."""

    number: int
    candidates: Mapping[str, Candidate]
    left_out: Mapping[str, str]  # variant -> reason
    choices: list[Choice]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The results of a comparison.

    Args:
        dataset: The name of the data set.
        design: What was repeated.
        repetitions: The searches and choices of each repetition.
        equal_budget: What each search spent, as a sentence, if the amounts differ by at most a trial; otherwise empty.
        left_out: The reason for each variant that was left out.
        finals: A row for each final, with its run, variant, config, seed, repetition, unit (see `Design`), state,
            reason, model, and a column for each metric.
        rows: The scores of the test examples of each final, by the id of its run.
        boards: The results by criterion.
        warnings: Sentences, without a full stop, that a reader has to know before believing the tables.
        environment: The hardware, packages and commit that produced the results.
        weights: The number of weights of each variant.
    """

    dataset: str
    design: Design
    repetitions: list[Repetition]
    equal_budget: str
    left_out: Mapping[str, str]
    finals: pd.DataFrame
    rows: Mapping[str, Rows]
    boards: list[Board]
    warnings: list[str]
    environment: Mapping[str, str]
    weights: Mapping[str, int]

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """The candidates of the first repetition."""
        return self.repetitions[0].candidates

    @property
    def choices(self) -> list[Choice]:
        """The choices of the first repetition."""
        return self.repetitions[0].choices


def check(request: CompareRequest, sources: Sequence[str | Source]) -> None:
    """Raise `InputError` if an option is out of range, a variant is unknown, or a data set cannot be loaded."""
    budget.check(request.goal.budget, request.epochs)
    if request.repeats > MOST_REPEATS:
        raise InputError(f"--repeats {request.repeats}: expected 1 to {MOST_REPEATS}")
    if unknown := sorted(set(request.matters) - set(MATTERS)):
        raise InputError(f"--matters {unknown[0]}: expected one of {', '.join(MATTERS)}, such as --matters elbo=0.2")
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
    tags = {**machine.environment(device, threads), "dataset": dataset}
    with machine.exclusive(Path(f"compare-{dataset}.lock"), f"{dataset} is being compared"):
        tracker = Tracker(dataset)
        repetitions, runs = [], []
        for number in range(request.repeats):
            if request.repeats > 1:
                display.say(f"repetition {number + 1} of {request.repeats}")
            split = data if not number else datasets.load(_split_anew(data, number))
            repetition = _searched(request, number, split, device, display)
            if not number:
                tracker.claim(data)
            with _parent(tracker, dataset, tags) as parent:
                if not number:
                    parent.description(description, pictures.examples(data))
                runs += _trained(request, repetition, tracker, parent.id, tags, display)
            repetitions.append(repetition)
        frame = _frame(runs, _design(request, data))
        tracker.group(_groups(repetitions, runs))
        complete = frame.loc[frame["state"] == "complete", "run"]
        rows = {run: _rows(tracker.parquet(run, evaluation.ROWS)) for run in complete}
    return _results(request, data, repetitions, frame, rows, {**tags}, description.warnings)


def _split_anew(data: Data, number: int) -> Source:
    """Return the source with other random splits; as it is if the data bring their own."""
    return replace(data.source, split_seed=data.source.split_seed + number) if data.drawn else data.source


def _design(request: CompareRequest, data: Data) -> Design:
    if request.repeats == 1:
        return Design(unit="seed", asked=request.finals)
    overlap = len(data.test) / len(data.train) if "test" in data.drawn else None
    return Design(unit="repetition", asked=request.repeats, overlap=overlap)


def _searched(request: CompareRequest, number: int, data: Data, device: torch.device, display: Display) -> Repetition:
    """Run the studies of a repetition that are missing, and choose configurations.

    Raises:
        InputError: If no variant has a study.
    """
    candidates, left_out = _candidates(request, number, data, device, display)
    if not candidates:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in left_out.items())
        advice = reasons if request.train or request.variants else "add --run to search them all"
        raise InputError(f"--dataset {request.dataset}: no variant has a study of it; {advice}")
    choices = _choices(candidates, _criteria(candidates, request.matters))
    return Repetition(number=number, candidates=candidates, left_out=left_out, choices=choices)


def _results(
    request: CompareRequest, data: Data, repetitions: list[Repetition], frame: pd.DataFrame, rows: Mapping[str, Rows],
    environment: Mapping[str, str], warnings: Sequence[str],
) -> Comparison:  # fmt: skip
    first = repetitions[0]
    left_out = {name: reason for r in reversed(repetitions) for name, reason in r.left_out.items()}
    equal_budget = _equal_budget(repetitions, request.goal)
    design = _design(request, data)
    digests = {f"digest of {c.source}": c.data.digest for c in first.candidates.values()}
    return Comparison(
        dataset=data.spec.name, design=design, repetitions=repetitions, equal_budget=equal_budget, left_out=left_out,
        finals=frame, rows=rows,
        boards=[
            _board(c, repetitions, frame, rows, design, data, left_out)
            for c in _criteria(first.candidates, request.matters)
        ],
        warnings=[*warnings, *_warnings(request, data, repetitions, frame, bool(equal_budget))],
        environment={**environment, **digests},
        weights={str(v): int(runs["weights"].iloc[0]) for v, runs in frame.groupby("variant")},
    )  # fmt: skip


def _candidates(
    request: CompareRequest, number: int, data: Data, device: torch.device, display: Display
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the variants that can be compared, with their studies, and the reason for each of the others."""
    sources, left_out = _sources(request.variants or tuple(variants.names()), data)
    candidates = {}
    for variant, own_data in sources.items():
        source = own_data.source
        study = _study(request, number, variant, own_data, tuple(sources), display)
        if study is None:
            options = cli.command_line(source)
            advice = f"run python -m pipeline.study --variant {variant} {options}" if not number else "add --run"
            left_out[variant] = f"it has no study{f' for repetition {number + 1}' if number else ''}: {advice}"
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


def _study_name(variant: str, data: Data, number: int) -> str:
    """Return the name of the study of a variant in a repetition; in the first one, it is that of `pipeline.study`."""
    return f"{variant}-{data.spec.name}" + (f"-repetition-{number + 1}" if number else "")


def _study(
    request: CompareRequest, number: int, variant: str, data: Data, compared: Sequence[str], display: Display
) -> StudyRecord | None:
    """Return the study of a variant, or None if there is none. With `request.train`, run missing trials first.

    A new study starts from those of the other variants in `compared` in the same repetition (`_prior`).
    """
    name = _study_name(variant, data, number)
    study = read_study(request.storage, name)
    if not request.train or (study and _has_reached(study, request.goal)):
        return study
    epochs = study.epochs if study else request.epochs
    display.say(f"{variant} on {data.spec.name}: a search of {request.goal}, in trials of at most {epochs} epochs")
    study_request = StudyRequest(
        variant=variant, dataset=data.source, trials=request.trials, budget=request.goal.budget, epochs=epochs,
        timeout=request.timeout, seed=request.seed + STUDY_SEEDS * number, storage=request.storage,
        compute=request.compute, study_name=name,
        start_from=() if study else _prior(request, number, variant, data, compared), shows_data=False,
    )  # fmt: skip
    search(study_request, display)
    return read_study(request.storage, name)


def _prior(request: CompareRequest, number: int, variant: str, data: Data, compared: Sequence[str]) -> tuple[str, ...]:
    """Return the finished studies of other variants on the same data whose settings a new study can try first."""
    search_space = studies.get(variant)
    objective = metrics.objectives(search_space.STUDY.objectives, data.spec, quick.probe_metric(data))[0]
    searched = space.outline(search_space, {})[1]
    others = [_study_name(name, data, number) for name in compared if name != variant]
    records = [read_study(request.storage, name) for name in others]
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


def _equal_budget(repetitions: Sequence[Repetition], goal: Goal) -> str:
    """Return a sentence that says what each search spent if the amounts differ by at most a trial; otherwise ""."""
    records = [c.study for r in repetitions for c in r.candidates.values()]
    unit = goal.budget or DEFAULT_BUDGET  # a number of trials is no budget, and is judged by its epochs
    amounts = [record.spent(unit) for record in records]
    if len(records) < 2 or max(amounts) - min(amounts) > max(record.longest_trial(unit) for record in records):
        return ""
    return f"Each variant was searched with an equal budget, to within one trial: {_spent(repetitions)}."


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


def _criteria(candidates: Mapping[str, Candidate], matters: Mapping[str, float]) -> list[Criterion]:
    """Return the criteria that the data allow, with the smallest differences that matter.

    If the classes are uneven, the probe is judged by its balanced accuracy, unless all studies are older than that.
    """
    metric = quick.probe_metric(next(iter(candidates.values())).data)
    criteria = list(CRITERIA)
    if isinstance(metric, Undefined):
        criteria = [c for c in CRITERIA if c.name != "probe"]
    elif metric == BALANCED_PROBE.validation_metric and any(c.study.best(metric) for c in candidates.values()):
        criteria = [BALANCED_PROBE if c.name == "probe" else c for c in CRITERIA]
    return [replace(c, matters=matters.get(c.name, c.matters)) for c in criteria]


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


def _finals(request: CompareRequest, repetition: Repetition) -> Iterator[tuple[Candidate, Final]]:
    """Yield each chosen configuration once for each fresh seed, even if several criteria chose it."""
    configs = {choice.key: choice for choice in repetition.choices}
    first = training_run.FIRST_FINAL_SEED + FINAL_SEEDS * repetition.number
    for seed in range(first, first + request.finals):
        for choice in configs.values():
            candidate = repetition.candidates[choice.variant]
            yield candidate, Final(
                variant=choice.variant, config=choice.config, epochs=candidate.study.epochs,
                patience=candidate.study.patience, seed=seed, sizes=SIZES, parts=PARTS,
            )  # fmt: skip


def _trained(
    request: CompareRequest, repetition: Repetition, tracker: Tracker, parent: str, tags: Mapping[str, str],
    display: Display,
) -> list[tuple[int, Final, Record]]:  # fmt: skip
    """Train the finals of a repetition that are not yet in MLflow.

    Returns the number of the repetition, the final and its run for each of them.
    """
    finals = {f.key(c.data): (c, f) for c, f in _finals(request, repetition)}
    ready = final.existing(tracker)
    missing = {
        key: final.FinalTask(
            final=f, key=key, source=c.source, digest=c.data.digest, dataset=tags["dataset"], address=tracker.address,
            parent=parent, tags={**tags, "repetition": str(repetition.number + 1)},
        )
        for key, (c, f) in finals.items() if key not in ready
    }  # fmt: skip
    with executors.open_executor(request.compute) as executor:
        final.train(executor, missing, len(finals) - len(missing), display)
    problems = tracker.catch_up(patience=60)
    if problems:
        raise InputError(f"the finals are trained, but not yet in MLflow: {problems[0]}; run the same command again")
    ready = final.existing(tracker)
    return [(repetition.number, f, ready[key]) for key, (_, f) in finals.items()]


def _groups(repetitions: Sequence[Repetition], runs: Sequence[tuple[int, Final, Record]]) -> dict[str, str]:
    """Return the variant of each run, and the criteria that chose its configuration, by the id of the run."""
    chosen: dict[tuple[int, str], list[str]] = {}
    for repetition in repetitions:
        for choice in repetition.choices:
            chosen.setdefault((repetition.number, choice.key), []).append(choice.criterion)
    return {record.id: f"{f.variant} ({', '.join(chosen[number, f.config_key])})" for number, f, record in runs}


def _frame(runs: Sequence[tuple[int, Final, Record]], design: Design) -> pd.DataFrame:
    """Return a row for each final. A final that failed has no scores."""
    rows = []
    for number, f, record in runs:
        state = record.tags["state"]
        row = {"run": record.id, "variant": f.variant, "config": f.config_key, "seed": f.seed, "repetition": number}
        row |= {"unit": f.seed if design.unit == "seed" else number, "weights": record.params.get("weights", 0)}
        row |= {"state": state, "reason": record.tags.get("reason"), "model": record.model}
        row |= {name: record.tags.get(name) for name in ("conditioned_on", "remark")}
        rows.append({**row, **(record.metrics if state == "complete" else {})})
    return pd.DataFrame(rows)


def _rows(frame: pd.DataFrame) -> dict[str, Array]:
    """Return the scores of the test examples of a final, by column.

    Each column `correct` also has a form `balanced_correct`, whose mean is the mean over classes of the share that is
    classified correctly.
    """
    columns = {str(name): frame[name].to_numpy(dtype=float) for name in frame}
    if "correct" in frame:
        known = frame["correct"].notna()
        counts = frame.loc[known, "label"].value_counts()
        weights = (known.sum() / len(counts) / frame["label"].map(counts)).to_numpy(dtype=float)
        correct = [name for name in columns if name.startswith("correct")]
        columns |= {f"balanced_{name}": columns[name] * weights for name in correct}
    return columns


def _board(
    criterion: Criterion, repetitions: Sequence[Repetition], frame: pd.DataFrame, rows: Mapping[str, Rows],
    design: Design, data: Data, left_out: Mapping[str, str],
) -> Board:  # fmt: skip
    """Return the board of a criterion."""
    choices = [(r.number, c) for r in repetitions for c in r.choices if c.criterion == criterion.name]
    chosen = {(number, c.key) for number, c in choices}
    others = [v for v in frame["variant"].unique() if v not in {c.variant for _, c in choices}]
    reasons = {**left_out, **dict.fromkeys(others, f"no trial has {criterion.validation_metric}")}
    is_chosen = [key in chosen for key in zip(frame["repetition"], frame["config"], strict=True)]
    titles = baselines.titles(data.spec)
    trivial = tuple(replace(t, title=titles.get(t.title, t.title)) for t in criterion.trivial)
    notes: dict[str, list[str]] = {}
    for variant, runs in frame[is_chosen].groupby("variant"):
        collapsed = int(runs["remark"].fillna("").str.contains("collapsed").sum())
        if collapsed:
            notes.setdefault(str(variant), []).append(f"{collapsed} of {len(runs)} finals collapsed")
    for variant, values in _kl_weights(choices).items():
        low, high = NEARLY_VAE
        if criterion.name == "elbo" and all(low <= value <= high for value in values):
            shown = ", ".join(f"{value:.3g}" for value in values)
            notes.setdefault(variant, []).append(f"nearly a plain VAE: its search chose beta = {shown}")
    return board(replace(criterion, trivial=trivial), frame[is_chosen], rows, design, reasons=reasons, notes=notes)


def _kl_weights(choices: Sequence[tuple[int, Choice]]) -> dict[str, list[float]]:
    """Return the weights of the KL that searches chose, by variant, for variants that have such a setting."""
    weights: dict[str, list[float]] = {}
    for _, choice in choices:
        if isinstance(beta := getattr(choice.config, "beta", None), float):
            weights.setdefault(choice.variant, []).append(beta)
    return weights


def _warnings(
    request: CompareRequest, data: Data, repetitions: Sequence[Repetition], frame: pd.DataFrame, is_equal_budget: bool
) -> list[str]:
    """Return sentences, without a full stop, that a reader has to know before believing the tables."""
    candidates, warnings = repetitions[0].candidates, []
    if len(candidates) > 1 and not is_equal_budget:
        spent = _spent(repetitions)
        warnings.append(f"the budgets differ ({spent}): a variant may win only because it was searched for longer")
    warnings += _capped(candidates, frame)
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
