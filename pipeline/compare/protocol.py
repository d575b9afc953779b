"""The protocol: equal budgets, a choice on validation data, fresh seeds, and one look at the test split.

What is done stays done. Called again, after whatever end, `run` goes on, and ends in the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import variants
from pipeline import attempt, final, machine, trainer
from pipeline import data as datasets
from pipeline import engine as engines
from pipeline.compare.analysis import Board, Criterion, board
from pipeline.data import Data
from pipeline.evaluate.subject import Sizes
from pipeline.final import Final
from pipeline.progress import Display
from pipeline.study.driver import Plan
from pipeline.study.driver import run as search
from pipeline.study.results import Found, found
from pipeline.tracker import Record, Run, Tracker
from variants import Config, InputError

SEEDS = 5
SIZES = Sizes(ais_n=20, ais_temperatures=200, gap_n=10, draws=3)
PARTS = ("bounds", "annealing", "latents", "probe", "clusters", "samples", "generation")
CRITERIA = (
    Criterion(
        "elbo", "Which models the data best?", "valid/elbo", "test/elbo", (f"test/iw{SIZES.iw_k}", "test/ais"),
        "The bound at beta = 1. A variant without a density q(z|x) has none; annealing (AIS) covers it too.",
    ),
    Criterion(
        "probe", "Whose code says most about the class?", "probe/accuracy", "probe/linear_all",
        ("probe/linear_100", "probe/knn", "probe/raw_linear_all", "probe/untrained_linear_all"),
        "A linear classifier on codes. One that does not beat raw values and an untrained encoder says nothing.",
    ),
    Criterion(
        "reconstruction", "Which gives examples back best?", "valid/reconstruction", "test/reconstruction",
        ("test/kl",),
        "By itself it favours codes that hold everything and a prior that fits nothing; read the KL beside it.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
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
    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    engine: engines.Kind = "here"
    ray_address: str | None = None


@dataclass(frozen=True)
class Subject:
    """A variant on the data as it takes them, and its study."""

    variant: str
    source: str
    data: Data
    study: Found


@dataclass(frozen=True)
class Choice:
    """The configuration that a variant is judged with by a criterion, and its validation score there."""

    criterion: str
    variant: str
    trial: int
    value: float
    config: Config
    key: str  # of the configuration, as finals bear it


@dataclass(frozen=True)
class Comparison:
    """Everything that a report tells. `finals` has a row a run, and a column a metric."""

    dataset: str
    subjects: Mapping[str, Subject]
    left_out: Mapping[str, str]  # variant -> why
    choices: list[Choice]
    finals: pd.DataFrame
    boards: list[Board]
    warnings: list[str]
    parent: str  # the run of the comparison
    environment: Mapping[str, str]
    weights: Mapping[str, int]  # of each variant's model, by its main configuration


def check(asked: Asked, sources: Sequence[str]) -> None:
    """Raise `InputError` for an unknown variant, or a data set of these that cannot be loaded, before work starts."""
    for variant in asked.variants:
        variants.get(variant)
    for source in sources:
        datasets.load(source)


def run(asked: Asked, display: Display) -> Comparison:
    """Search what is missing, choose, train the finals that are missing, and compare.

    Raises `InputError` before anything is trained: for an unknown variant or data set, and where there is no study.
    """
    threads = machine.prepare(asked.threads, asked.workers)
    device = machine.device(asked.device)
    base = datasets.load(asked.dataset)
    wanted = asked.variants or tuple(variants.names())
    sources, left_out = _sources(wanted, asked.dataset, base)
    with machine.alone(Path(f"compare-{base.spec.name}.lock"), f"{base.spec.name} is being compared"):
        subjects: dict[str, Subject] = {}
        for variant, (source, data) in sources.items():
            study = _study(asked, variant, source, data, display)
            if study is None:
                left_out[variant] = f"it has no study: python -m pipeline.study --variant {variant} --dataset {source}"
            elif study.digest != data.digest:
                left_out[variant] = f"its study {study.name} is of other data (digest {study.digest[:8]})"
            elif not any(t.state == "complete" for t in study.trials):
                left_out[variant] = f"no trial of its study {study.name} was completed"
            else:
                subjects[variant] = Subject(variant, source, data.to(device), study)
                attempt.hold(source, device, subjects[variant].data)
        if not subjects:
            raise InputError(
                f"--dataset {asked.dataset}: no variant has a study on it; add --run, which searches them all"
            )
        choices = _choices(subjects)
        tracker = Tracker(base.spec.name)
        tags = {**machine.environment(device, threads), "dataset": base.spec.name}
        with _parent(tracker, base.spec.name, tags) as parent:
            wanted_finals = {one.key(s.data): (s, one) for s, one in _finals(subjects, choices, asked.seeds)}
            ready = final.existing(tracker)
            missing = {
                key: final.Task(one, key, s.source, s.data.digest, tracker.dataset, tracker.address, parent.id, tags)
                for key, (s, one) in wanted_finals.items() if key not in ready
            }  # fmt: skip
            with engines.open_engine(
                asked.engine, asked.workers, asked.threads, asked.device, asked.ray_address
            ) as engine:
                final.train(engine, missing, len(ready), display)
            problems = tracker.catch_up(patience=60)
            if problems:
                raise InputError(f"finals are trained, but not yet in MLflow: {problems[0]}; the same command goes on")
            ready = final.existing(tracker)
            records = [(one, ready[key]) for key, (_, one) in wanted_finals.items()]
        frame = _frame(records)
        boards = [_board(c, choices, frame, left_out) for c in CRITERIA if c.name != "probe" or base.spec.classes]
        return Comparison(
            base.spec.name, subjects, left_out, choices, frame, boards, _warnings(subjects, frame, asked), parent.id,
            {**tags, **{f"digest of {s.source}": s.data.digest for s in subjects.values()}},
            {one.variant: int(record.params["weights"]) for one, record in reversed(records)},
        )  # fmt: skip


def _sources(wanted: Sequence[str], dataset: str, base: Data) -> tuple[dict[str, tuple[str, Data]], dict[str, str]]:
    """The data of each variant: the set itself, or its images row by row for one that takes sequences."""
    sources, left_out = {}, {}
    for name in wanted:
        cls = variants.get(name)
        rows = f"{dataset}-rows"
        source, data = dataset, base
        if "mask" in cls.needs and not base.spec.steps and rows in datasets.names():
            source, data = rows, datasets.load(rows)
        try:
            trainer.build(name, cls.config_type(), data.spec)
        except InputError as error:
            left_out[name] = str(error)
            continue
        sources[name] = (source, data)
    return sources, left_out


def _study(asked: Asked, variant: str, source: str, data: Data, display: Display) -> Found | None:
    """The study of a variant; where it may be trained, with the asked number of trials."""
    name = f"{variant}-{data.spec.name}"
    ready = found(asked.storage, name)
    if not asked.train or (ready and len(ready.trials) >= asked.trials):
        return ready
    display.say(f"{variant}: {asked.trials} trials of at most {asked.epochs} epochs on {data.spec.name}")
    epochs = ready.epochs if ready else asked.epochs
    search(
        Plan(
            variant, source, asked.trials, epochs, asked.timeout, asked.seed, storage=asked.storage,
            device=asked.device, threads=asked.threads, workers=asked.workers, engine=asked.engine,
            ray_address=asked.ray_address,
        )
    )  # fmt: skip
    return found(asked.storage, name)


def _choices(subjects: Mapping[str, Subject]) -> list[Choice]:
    """One configuration a variant and criterion: the complete trial that is best on validation data."""
    chosen = []
    for criterion in CRITERIA:
        for variant, subject in subjects.items():
            best = subject.study.best(criterion.chosen)
            if best is not None:
                key = final.config_key(variant, best.config)
                chosen.append(
                    Choice(criterion.name, variant, best.number, best.metrics[criterion.chosen], best.config, key)
                )
    return chosen


def _finals(subjects: Mapping[str, Subject], choices: Sequence[Choice], seeds: int) -> Iterator[tuple[Subject, Final]]:
    """Each chosen configuration once on each fresh seed, whatever the number of criteria that chose it."""
    configs = {choice.key: choice for choice in choices}
    for seed in range(final.FIRST_SEED, final.FIRST_SEED + seeds):
        for choice in configs.values():
            s = subjects[choice.variant]
            yield (
                s,
                Final(choice.variant, choice.config, s.study.epochs, s.study.patience, seed, SIZES, PARTS),
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


def _warnings(subjects: Mapping[str, Subject], frame: pd.DataFrame, asked: Asked) -> list[str]:
    """What a reader has to know before the tables are believed."""
    said = []
    budgets = {v: (len(s.study.trials), s.study.epochs) for v, s in subjects.items()}
    if len(set(budgets.values())) > 1:
        each = ", ".join(f"{v} {trials} trials of {epochs} epochs" for v, (trials, epochs) in budgets.items())
        said.append(f"the budgets differ ({each}): a variant may win for having been tuned for longer")
    failed = frame[frame["state"] != "complete"]
    for _, row in failed.iterrows():
        said.append(f"{row['variant']} with seed {row['seed']} failed: {row['reason']}")
    if asked.seeds == 1:
        said.append("one seed only: no interval and no verdict can be given; --seeds 5 gives both")
    if len(subjects) == 1:
        said.append(f"{next(iter(subjects))} is alone: there is nothing to compare it with")
    return said


def _parent(tracker: Tracker, dataset: str, tags: Mapping[str, str]) -> Run:
    """The run of the comparison, the same each time; runs that a process left behind when it died are set right."""
    tracker.catch_up()
    for record in tracker.find(kind="final"):
        if "state" not in record.tags:
            tracker.set_right(record.id, "interrupted")
    return tracker.run(f"comparison of {dataset}", {**tags, "kind": "comparison"}, key=f"comparison-{dataset}")
