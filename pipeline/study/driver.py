"""The driver asks, an engine runs, each trial tells, until the asked number of trials is finished.

Nothing that finished is ever lost: the truth is in the Optuna store, and whatever process dies, the same command finds
there what is still to be done. One driver a study.
"""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

import studies
import variants
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import machine, metrics, trainer, training_run
from pipeline.evaluate import quick
from pipeline.executor import Compute, Ended, Executor
from pipeline.study import figures, space, store
from pipeline.study.display import Display
from pipeline.study.space import Value
from pipeline.study.trial import STATES, TrialSettings, TrialTask, alike
from pipeline.tracker import Run, Tracker, views
from studies import SearchSpace
from variants import InputError

FIRST = 3  # trials that fail alike, one after the other from the start, end a study


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A study as it is asked for; what is None comes from the variant's `STUDY`."""

    variant: str
    dataset: str | None = None
    trials: int | None = None
    epochs: int | None = None
    timeout: float | None = None  # seconds
    seed: int = 0
    fixed: Mapping[str, Value] = field(default_factory=dict)
    storage: str = "sqlite:///optuna.db"
    study_name: str | None = None
    trial_timeout: float | None = None  # seconds of training
    compute: Compute = Compute()


@dataclass(frozen=True)
class StudyOutcome:
    """A study that has ended: Optuna's study, its objectives, and the page of its experiment."""

    study: optuna.Study
    objectives: tuple[str, ...]
    experiment: str
    link: str


def run(request: StudyRequest) -> StudyOutcome:
    """Run a study, or go on with it, until it has the asked number of finished trials.

    Everything that a person can get wrong raises `InputError` before the first trial begins. So does, later, a store
    or a disk that fails: then the study can go on once that is seen to.
    """
    try:
        return _run(request)
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        first = str(cause).splitlines()[0]
        raise InputError(
            f"the study had to stop: {first}. Nothing that finished is lost; see to it, and give the same command again"
        ) from error


def _run(request: StudyRequest) -> StudyOutcome:
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    asked = studies.get(request.variant)
    budget = asked.STUDY
    example, ranges = space.outline(asked, request.fixed)
    source = request.dataset or budget.dataset
    data = datasets.load(source)
    objectives = metrics.objectives(budget.objectives, data.spec)
    trainer.build(request.variant, example, data.spec)  # a variant that does not fit the data says so here
    data = data.to(device)
    training_run.cache_data(source, device, data)
    trials, epochs = request.trials or budget.trials, request.epochs or budget.epochs
    name = request.study_name or f"{request.variant}-{data.spec.name}"
    search = {
        "variant": request.variant, "dataset": data.spec.name, "digest": data.digest, "objectives": list(objectives),
        "epochs": epochs, "seed": request.seed, "fix": dict(request.fixed), "space": ranges,
    }  # fmt: skip
    with (
        store.opened(request.storage, name, objectives, budget.pruner, epochs, search) as study,
        executors.open_executor(request.compute) as executor,
    ):
        if executor.hosts > 1 and request.storage.startswith("sqlite"):
            raise InputError(
                f"--storage {request.storage}: an SQLite file serves one machine, and the cluster has {executor.hosts}; "
                "expected postgresql://USER@HOST/DATABASE"
            )
        tracker = Tracker(data.spec.name)
        tags = {
            "variant": request.variant,
            "dataset": data.spec.name,
            "study": name,
            "digest": data.digest,
            **machine.environment(device, threads),
        }
        views.write(tracker.client, tracker.experiment, ranges)
        link = views.link(tracker.uri, tracker.experiment, "Trials")
        uid = study.user_attrs["uid"]
        done = len(store.finished(study))
        parent = tracker.run(name, {**tags, "kind": "study", "seed": str(request.seed)}, key=f"{name}-{uid}")
        with parent, Display(name, trials, epochs, objectives, done) as display:
            job = TrialSettings(
                variant=request.variant,
                source=source,
                dataset=data.spec.name,
                digest=data.digest,
                objectives=objectives,
                study=name,
                uid=uid,
                storage=request.storage,
                pruner=budget.pruner,
                epochs=epochs,
                patience=budget.patience,
                timeout=request.trial_timeout,
                seed=request.seed,
                tags=tags,
                address=tracker.address,
                parent=parent.id,
                colour=3 * variants.names().index(request.variant),
            )
            for line in _mark_ended(study, job, tracker):
                display.say(line)
            parent.params({"epochs": epochs, **{f"space_{k}": v for k, v in ranges.items()}})
            parent.metrics(quick.baselines(data), 0)
            _Driver(study, job, asked, request, tracker, parent, display, trials).run(executor)
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                for path, figure in figures.of(study, objectives):
                    parent.figure(path, figure)
            parent.text("study/trials.csv", study.trials_dataframe().to_csv(index=False))
    for problem in tracker.catch_up(patience=5):  # now that no worker lives
        display.say(f"not yet in MLflow: {problem}; python -m pipeline.sync sends it")
    return StudyOutcome(study, objectives, data.spec.name, link)


def _mark_ended(study: optuna.Study, job: TrialSettings, tracker: Tracker) -> list[str]:
    """Before anything is trained: what dead processes left unsent or unended. Returns what a person should know."""
    states = {job.key(t.number): STATES[t.state] for t in store.finished(study)}
    said = [f"not yet in MLflow: {problem}" for problem in tracker.catch_up(states)]
    mine = {job.key(t.number): t.number for t in study.get_trials(deepcopy=False)}
    for record in tracker.find(kind="trial", study=job.study):
        key, state = record.tags.get("key", ""), record.tags.get("state")
        if key in states and state != states[key]:  # told to Optuna, and cut off before MLflow heard of it
            tracker.mark_ended(record.id, states[key])
        elif state is None and key not in mine:
            tracker.mark_ended(record.id, "interrupted")
    return said


class _Driver:
    """What the loop of a study needs to know, from one trial to the next."""

    def __init__(
        self,
        study: optuna.Study,
        job: TrialSettings,
        asked: SearchSpace,
        request: StudyRequest,
        tracker: Tracker,
        parent: Run,
        display: Display,
        trials: int,
    ) -> None:
        self._study, self._job, self._space, self._request = study, job, asked, request
        self._tracker, self._parent, self._display, self._asked = tracker, parent, display, trials
        self._begin = time.monotonic()
        self._again = store.cut(study)
        self._given: set[int] = set()  # numbers of trials that are out
        self._late = False

    def run(self, executor: Executor) -> None:
        executors.run_all(executor, self._ask, self._show, self._ended)

    def _ask(self) -> tuple[Hashable, TrialTask] | None:
        done = store.finished(self._study)
        if len(done) + len(self._given) >= self._asked:
            return None
        if self._request.timeout and time.monotonic() - self._begin > self._request.timeout:
            if not self._late:
                self._display.say(f"the time is up after {len(done)} of {self._asked} trials; the same command goes on")
            self._late = True
            return None
        reasons = [t.user_attrs.get("reason", "") for t in done if t.state == TrialState.FAIL]
        if len(reasons) == len(done) >= FIRST and alike(reasons):
            raise InputError(f"the first {len(done)} trials all failed alike: {reasons[-1]}")
        if self._again:
            trial = self._again.pop(0)
            self._display.say(f"trial {trial.number} was cut off, and goes on")
        else:
            trial = self._study.ask()
        config = space.suggest(self._space, trial, self._request.fixed)
        self._given.add(trial.number)
        self._display.began(trial.number)
        return trial.number, TrialTask(self._job, trial.number, trial._trial_id, config)

    def _show(self, number: Hashable, told: Any) -> None:
        epoch, scores = told
        self._display.epoch(number, epoch, scores)

    def _ended(self, end: Ended) -> None:
        number = end.key
        assert isinstance(number, int)
        self._given.discard(number)
        if end.died and not self._study.trials[number].state.is_finished():
            trial = self._study.trials[number]
            reason = f"given up after {executors.MAX_DEATHS} processes died at it; of the last: {end.died}"
            self._study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            self._study.tell(number, state=TrialState.FAIL)
            self._tracker.catch_up({self._job.key(number): "failed"})
        self._display.ended(self._study.trials[number])
        self._parent.metrics(_best(self._study, self._job.objectives), number)


def _best(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, float]:
    """The best value of each objective so far, by itself: `best/elbo`, `best/accuracy`, ..."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sides = [max if d == optuna.study.StudyDirection.MAXIMIZE else min for d in study.directions]
    names = [f"best/{name.split('/')[1]}" for name in objectives]
    return {n: side(t.values[i] for t in done) for i, (n, side) in enumerate(zip(names, sides, strict=True)) if done}
