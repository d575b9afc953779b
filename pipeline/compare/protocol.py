"""The protocol: equal budgets, a choice on validation data, fresh seeds, and one look at the test split.

What is done stays done. Called again, after whatever end, `run` goes on, and ends in the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import variants
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import final, machine, trainer, training_run
from pipeline.compare.analysis import Board, Criterion, board
from pipeline.data import Data
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute
from pipeline.final import Final
from pipeline.progress import Display
from pipeline.study.driver import StudyRequest
from pipeline.study.driver import run as search
from pipeline.study.results import StudyRecord, read_study
from pipeline.tracker import Record, Run, Tracker
from variants import Config, InputError

SEEDS = 5
SIZES = Sizes(ais_n=20, ais_temperatures=200, gap_n=10, draws=3)
PARTS = ("bounds", "annealing", "latents", "probe", "clusters", "samples", "generation")
CRITERIA = (
    Criterion(
        name="elbo",
        question="Which models the data best?",
        chosen="valid/elbo",
        judged="test/elbo",
        beside=(f"test/iw{SIZES.iw_k}", "test/ais"),
        caution="The bound at beta = 1. A variant without a density q(z|x) has none; annealing (AIS) covers it too.",
    ),
    Criterion(
        name="probe",
        question="Whose code says most about the class?",
        chosen="probe/accuracy",
        judged="probe/linear_all",
        beside=("probe/linear_100", "probe/knn", "probe/raw_linear_all", "probe/untrained_linear_all"),
        caution="A linear classifier on codes. One that does not beat raw values and an untrained encoder says nothing.",
    ),
    Criterion(
        name="reconstruction",
        question="Which gives examples back best?",
        chosen="valid/reconstruction",
        judged="test/reconstruction",
        beside=("test/kl",),
        caution="By itself it favours codes that hold everything and a prior that fits nothing; read the KL beside it.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """A comparison as it is asked for. Without `train`, studies that are missing are left out, with the reason."""

    dataset: str = "digits"
    variants: tuple[str, ...] = ()  # all, where none is named
    train: bool = False
    trials: int = 20
    epochs: int = 100
    timeout: float | None = None  # seconds, of each study
    seeds: int = SEEDS
    seed: int = 0
    storage: str = "sqlite:///optuna.db"
    compute: Compute = Compute()


@dataclass(frozen=True)
class Candidate:
    """A variant on the data as it takes them, and its study."""

    variant: str
    source: str
    data: Data
    study: StudyRecord


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The configuration that a variant is judged with by a criterion, and its validation score there."""

    criterion: str
    variant: str
    trial: int
    value: float
    config: Config
    key: str  # of the configuration, as finals bear it


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a report tells. `finals` has a row a run, and a column a metric."""

    dataset: str
    candidates: Mapping[str, Candidate]
    left_out: Mapping[str, str]  # variant -> why
    choices: list[Choice]
    finals: pd.DataFrame
    boards: list[Board]
    warnings: list[str]
    parent: str  # the run of the comparison
    environment: Mapping[str, str]
    weights: Mapping[str, int]  # of each variant's model, by its main configuration


def check(request: CompareRequest, sources: Sequence[str]) -> None:
    """Raise `InputError` for an unknown variant, or a data set of these that cannot be loaded, before work starts."""
    for variant in request.variants:
        variants.get(variant)
    for source in sources:
        datasets.load(source)


def run(request: CompareRequest, display: Display) -> Comparison:
    """Search what is missing, choose, train the finals that are missing, and compare.

    Raises `InputError` before anything is trained: for an unknown variant or data set, and where there is no study.
    """
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    base = datasets.load(request.dataset)
    wanted = request.variants or tuple(variants.names())
    sources, left_out = _sources(wanted, request.dataset, base)
    with machine.exclusive(Path(f"compare-{base.spec.name}.lock"), f"{base.spec.name} is being compared"):
        candidates: dict[str, Candidate] = {}
        for variant, (source, data) in sources.items():
            study = _study(request, variant, source, data, display)
            if study is None:
                left_out[variant] = f"it has no study: python -m pipeline.study --variant {variant} --dataset {source}"
            elif study.digest != data.digest:
                left_out[variant] = f"its study {study.name} is of other data (digest {study.digest[:8]})"
            elif not any(t.state == "complete" for t in study.trials):
                left_out[variant] = f"no trial of its study {study.name} was completed"
            else:
                candidates[variant] = Candidate(variant, source, data.to(device), study)
                training_run.cache_data(source, device, candidates[variant].data)
        if not candidates:
            raise InputError(
                f"--dataset {request.dataset}: no variant has a study on it; add --run, which searches them all"
            )
        choices = _choices(candidates)
        tracker = Tracker(base.spec.name)
        tags = {**machine.environment(device, threads), "dataset": base.spec.name}
        with _parent(tracker, base.spec.name, tags) as parent:
            wanted_finals = {one.key(s.data): (s, one) for s, one in _finals(candidates, choices, request.seeds)}
            ready = final.existing(tracker)
            missing = {
                key: final.FinalTask(
                    final=one,
                    key=key,
                    source=s.source,
                    digest=s.data.digest,
                    dataset=tracker.dataset,
                    address=tracker.address,
                    parent=parent.id,
                    tags=tags,
                )
                for key, (s, one) in wanted_finals.items()
                if key not in ready
            }
            with executors.open_executor(request.compute) as executor:
                final.train(executor, missing, len(ready), display)
            problems = tracker.catch_up(patience=60)
            if problems:
                raise InputError(f"finals are trained, but not yet in MLflow: {problems[0]}; the same command goes on")
            ready = final.existing(tracker)
            records = [(one, ready[key]) for key, (_, one) in wanted_finals.items()]
        frame = _frame(records)
        boards = [_board(c, choices, frame, left_out) for c in CRITERIA if c.name != "probe" or base.spec.classes]
        return Comparison(
            dataset=base.spec.name,
            candidates=candidates,
            left_out=left_out,
            choices=choices,
            finals=frame,
            boards=boards,
            warnings=_warnings(candidates, frame, request),
            parent=parent.id,
            environment={**tags, **{f"digest of {s.source}": s.data.digest for s in candidates.values()}},
            weights={one.variant: int(record.params["weights"]) for one, record in reversed(records)},
        )


def _sources(wanted: Sequence[str], dataset: str, base: Data) -> tuple[dict[str, tuple[str, Data]], dict[str, str]]:
    """The data of each variant: the set itself, or its images row by row for one that takes sequences."""
    sources, left_out = {}, {}
    for name in wanted:
        cls = variants.get(name)
        rows = f"{dataset}-rows"
        source, data = dataset, base
        if "mask" in cls.required_fields and not base.spec.steps and rows in datasets.names():
            source, data = rows, datasets.load(rows)
        try:
            trainer.build(name, cls.config_type(), data.spec)
        except InputError as error:
            left_out[name] = str(error)
            continue
        sources[name] = (source, data)
    return sources, left_out


def _study(request: CompareRequest, variant: str, source: str, data: Data, display: Display) -> StudyRecord | None:
    """The study of a variant; where it may be trained, with the asked number of trials."""
    name = f"{variant}-{data.spec.name}"
    ready = read_study(request.storage, name)
    if not request.train or (ready and len(ready.trials) >= request.trials):
        return ready
    display.say(f"{variant}: {request.trials} trials of at most {request.epochs} epochs on {data.spec.name}")
    epochs = ready.epochs if ready else request.epochs
    search(
        StudyRequest(
            variant=variant,
            dataset=source,
            trials=request.trials,
            epochs=epochs,
            timeout=request.timeout,
            seed=request.seed,
            storage=request.storage,
            compute=request.compute,
        )
    )
    return read_study(request.storage, name)


def _choices(candidates: Mapping[str, Candidate]) -> list[Choice]:
    """One configuration a variant and criterion: the complete trial that is best on validation data."""
    chosen = []
    for criterion in CRITERIA:
        for variant, candidate in candidates.items():
            best = candidate.study.best(criterion.chosen)
            if best is not None:
                key = final.config_key(variant, best.config)
                chosen.append(
                    Choice(
                        criterion=criterion.name,
                        variant=variant,
                        trial=best.number,
                        value=best.metrics[criterion.chosen],
                        config=best.config,
                        key=key,
                    )
                )
    return chosen


def _finals(
    candidates: Mapping[str, Candidate], choices: Sequence[Choice], seeds: int
) -> Iterator[tuple[Candidate, Final]]:
    """Each chosen configuration once on each fresh seed, whatever the number of criteria that chose it."""
    configs = {choice.key: choice for choice in choices}
    for seed in range(final.FIRST_SEED, final.FIRST_SEED + seeds):
        for choice in configs.values():
            s = candidates[choice.variant]
            yield (
                s,
                Final(
                    variant=choice.variant,
                    config=choice.config,
                    epochs=s.study.epochs,
                    patience=s.study.patience,
                    seed=seed,
                    sizes=SIZES,
                    parts=PARTS,
                ),
            )


def _frame(records: Sequence[tuple[Final, Record]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for one, record in records:
        known = {"run": record.id, "variant": one.variant, "config": one.config_key, "seed": one.seed}
        state = {"state": record.tags["state"], "reason": record.tags.get("reason"), "model": record.model}
        scores = dict(record.metrics) if record.tags["state"] == "complete" else {}
        rows.append({**known, **state, **scores})
    return pd.DataFrame(rows)


def _board(criterion: Criterion, choices: Sequence[Choice], frame: pd.DataFrame, left_out: Mapping[str, str]) -> Board:
    keys = {c.key for c in choices if c.criterion == criterion.name}
    reasons = dict(left_out)
    for variant in frame["variant"].unique():
        if variant not in {c.variant for c in choices if c.criterion == criterion.name}:
            reasons[variant] = f"no trial has {criterion.chosen}"
    return board(criterion, frame[frame["config"].isin(keys)], reasons)


def _warnings(candidates: Mapping[str, Candidate], frame: pd.DataFrame, request: CompareRequest) -> list[str]:
    """What a reader has to know before the tables are believed."""
    said = []
    budgets = {v: (len(s.study.trials), s.study.epochs) for v, s in candidates.items()}
    if len(set(budgets.values())) > 1:
        each = ", ".join(f"{v} {trials} trials of {epochs} epochs" for v, (trials, epochs) in budgets.items())
        said.append(f"the budgets differ ({each}): a variant may win for having been tuned for longer")
    failed = frame[frame["state"] != "complete"]
    for _, row in failed.iterrows():
        said.append(f"{row['variant']} with seed {row['seed']} failed: {row['reason']}")
    if request.seeds == 1:
        said.append("one seed only: no interval and no verdict can be given; --seeds 5 gives both")
    if len(candidates) == 1:
        said.append(f"{next(iter(candidates))} is alone: there is nothing to compare it with")
    return said


def _parent(tracker: Tracker, dataset: str, tags: Mapping[str, str]) -> Run:
    """The run of the comparison, the same each time; runs that a process left behind when it died are set right."""
    tracker.catch_up()
    for record in tracker.find(kind="final"):
        if "state" not in record.tags:
            tracker.mark_ended(record.id, "interrupted")
    return tracker.run(f"comparison of {dataset}", {**tags, "kind": "comparison"}, key=f"comparison-{dataset}")
