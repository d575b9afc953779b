"""Runs a study: asks Optuna for trials, and gives them to an executor until the requested number has finished.

The state of a study is in the Optuna store alone. Whatever process dies, the same command finds there what remains to
be done. Only one process at a time runs a study.
"""

import dataclasses
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
from pipeline import machine, metrics, training_run
from pipeline.cli import OPTUNA_STORE, command_line
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, pictures, quick
from pipeline.executor import Compute, Ended
from pipeline.metrics import Undefined
from pipeline.progress import Display, Progress
from pipeline.study import space, store, summary
from pipeline.study.space import Value
from pipeline.study.trial import TrialSettings, TrialTask, same_failure
from pipeline.tracker import Run, Tracker, views
from studies import SearchSpace
from variants import InputError

MAX_EQUAL_FAILURES = 3  # a study ends if its first trials, this many, all fail in the same way


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A study that is to be run. Where a value is None, that of the variant's `STUDY` in `studies/` is taken."""

    variant: str
    dataset: str | Source | None = None  # a name, the path of a file or a folder of images, or a source with options
    trials: int | None = None  # finished trials that the study is to have, earlier ones included
    epochs: int | None = None  # the largest number of epochs of a trial
    timeout: float | None = None  # seconds after which no trial is started; None for no limit
    seed: int = 0
    fixed: Mapping[str, Value] = field(default_factory=dict)  # parameters that are not searched
    storage: str = OPTUNA_STORE
    study_name: str | None = None  # None for VARIANT-DATASET
    trial_timeout: float | None = None  # seconds of training after which a trial fails; None for no limit
    compute: Compute = Compute()
    shows_data: bool = True  # whether to print what was understood of the data before work starts


@dataclass(frozen=True)
class StudyOutcome:
    """A study that has ended: Optuna's study, its objectives, its MLflow experiment, and the link to its page."""

    study: optuna.Study
    objectives: tuple[str, ...]
    experiment: str
    link: str


def run(request: StudyRequest, display: Display | None = None) -> StudyOutcome:
    """Run a study, or continue it, until it has the requested number of finished trials.

    Raises:
        InputError: Before the first trial for anything in the request that is wrong, and later if a store or a disk
            fails. The study can be continued once that is repaired.
    """
    try:
        return _run(request, display or Display())
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = error if isinstance(error, OSError) else store.as_os_error(error)
        repair = f"make room ({machine.room_left()})" if machine.disk_is_full(reason) else "repair this"
        raise InputError(
            f"the study had to stop: {reason}; finished trials are not lost: {repair}, and run the same command again"
        ) from error


def _run(request: StudyRequest, display: Display) -> StudyOutcome:
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    search_space = studies.get(request.variant)
    defaults = search_space.STUDY
    example, ranges = space.outline(search_space, request.fixed)
    data = datasets.load(request.dataset or defaults.dataset)
    description = data.inspect()
    if request.shows_data:
        display.say("\n".join(description.summary()))
    name = request.study_name or f"{request.variant}-{data.spec.name}"
    objectives = _objectives(request, name, defaults.objectives, data, display)
    variants.build(request.variant, example, data.spec)  # raises InputError if the variant does not fit the data
    data = data.to(device)
    training_run.cache_data(data.source, device, data)
    trials, epochs = request.trials or defaults.trials, request.epochs or defaults.epochs
    if not 0 <= request.seed <= training_run.FIRST_FINAL_SEED - trials:
        raise InputError(
            f"--seed {request.seed}: expected 0 to {training_run.FIRST_FINAL_SEED - trials} for {trials} trials, "
            f"because finals use the seeds from {training_run.FIRST_FINAL_SEED} on"
        )
    search = {
        "variant": request.variant, "dataset": data.spec.name, "digest": data.digest, "objectives": list(objectives),
        "epochs": epochs, "patience": defaults.patience, "seed": request.seed, "fix": dict(request.fixed),
        "space": ranges, "data": command_line(data.source.absolute),
    }  # fmt: skip
    with (
        store.open_study(request.storage, name, objectives, defaults.pruner, epochs, search) as study,
        executors.open_executor(request.compute) as executor,
    ):
        if executor.hosts > 1 and request.storage.startswith("sqlite"):
            raise InputError(
                f"--storage {request.storage}: an SQLite file serves one machine only, and the cluster has "
                f"{executor.hosts}; expected postgresql://USER@HOST/DATABASE"
            )
        tracker = Tracker(data.spec.name)
        tracker.claim(data)
        tags = {
            "variant": request.variant, "dataset": data.spec.name, "study": name, "digest": data.digest,
            **machine.environment(device, threads),
        }  # fmt: skip
        views.write(tracker.client, tracker.experiment, ranges)
        link = views.link(tracker.uri, tracker.experiment, "Trials")
        uid = study.user_attrs["uid"]
        finished = len(store.finished_trials(study))
        with (
            tracker.run(name, {**tags, "kind": "study", "seed": str(request.seed)}, key=f"{name}-{uid}") as parent,
            display.progress(f"study {name}", trials, finished) as progress,
        ):
            if not display.console.is_terminal:
                display.say(f"study {name}: {finished} of {trials} trials finished, at most {epochs} epochs each")
            settings = TrialSettings(
                variant=request.variant, source=data.source, dataset=data.spec.name, digest=data.digest,
                objectives=objectives, study=name, uid=uid, storage=request.storage, pruner=defaults.pruner,
                epochs=epochs, patience=defaults.patience, timeout=request.trial_timeout, seed=request.seed, tags=tags,
                address=tracker.address, parent=parent.id, first_color=3 * variants.names().index(request.variant),
            )  # fmt: skip
            for problem in _mark_ended(study, settings, tracker):
                display.say(f"not yet in MLflow: {problem}")
            parent.params({"epochs": epochs, **{f"space_{k}": v for k, v in ranges.items()}})
            parent.description(description, pictures.examples(data))
            baseline_scores = quick.baselines(data)
            parent.metrics(baseline_scores, 0)
            study.set_user_attr(store.BASELINES, baselines.titled(baseline_scores, data.spec))
            driver = _Driver(
                request=request, trials=trials, search_space=search_space, study=study, settings=settings,
                tracker=tracker, parent=parent, display=display, progress=progress,
                interrupted=store.interrupted_trials(study),
            )  # fmt: skip
            executors.run_all(executor, driver.next_trial, driver.show_epoch, driver.end_trial)
            if store.complete_trials(study):
                for path, figure in summary.figures(study, objectives):
                    parent.figure(path, figure)
            parent.text("study/trials.csv", study.trials_dataframe().to_csv(index=False))
    for problem in tracker.catch_up(patience=5):  # after all workers have ended
        display.say(f"not yet in MLflow: {problem}; `python -m pipeline.sync` sends it later")
    return StudyOutcome(study, objectives, data.spec.name, link)


def _objectives(
    request: StudyRequest, name: str, asked: tuple[str, ...], data: Data, display: Display
) -> tuple[str, ...]:
    """Return the objectives of a study. If classes are uneven, balanced accuracy replaces accuracy, with a message.

    An older version counted other classes as uneven. A study that it started keeps its objectives.
    """
    probe = quick.probe_metric(data)
    objectives = metrics.objectives(asked, data.spec, probe)
    if isinstance(probe, Undefined):
        return objectives
    plain, balanced = (metrics.objectives(asked, data.spec, f"probe/{n}") for n in ("accuracy", "balanced_accuracy"))
    stored = store.stored_objectives(request.storage, name)
    if stored in (plain, balanced) and stored != objectives:
        kept = ", ".join(set(stored) - set(objectives))
        display.say(f"study {name} was started with the objective {kept}, and keeps it")
        return stored
    if objectives != plain:
        display.say("the classes are uneven: probe/balanced_accuracy takes the place of the objective probe/accuracy")
    return objectives


def _mark_ended(study: optuna.Study, settings: TrialSettings, tracker: Tracker) -> list[str]:
    """Send what dead processes have left, and end their runs. Return what could not be sent."""
    states = {settings.run_key(t.number): store.STATES[t.state] for t in store.finished_trials(study)}
    problems = tracker.catch_up(states)
    keys = {settings.run_key(t.number) for t in study.get_trials(deepcopy=False)}
    for record in tracker.find(kind="trial", study=settings.study):
        key, state = record.tags.get("key", ""), record.tags.get("state")
        if key in states and state != states[key]:  # the process died after it told Optuna and before it told MLflow
            tracker.mark_ended(record.id, states[key])
        elif state is None and key not in keys:
            tracker.mark_ended(record.id, "interrupted")
    return problems


@dataclass(kw_only=True)
class _Driver:
    """Gives out the trials of a study, and shows and tracks how they end."""

    request: StudyRequest
    trials: int
    search_space: SearchSpace
    study: optuna.Study
    settings: TrialSettings
    tracker: Tracker
    parent: Run
    display: Display
    progress: Progress
    interrupted: list[optuna.Trial]
    running: set[int] = field(default_factory=set)  # the numbers of trials
    begin: float = field(default_factory=time.monotonic)
    out_of_time: bool = False

    def next_trial(self) -> tuple[Hashable, TrialTask] | None:
        """Return the next trial; None if enough trials run or have finished, or the time limit is reached."""
        finished = store.finished_trials(self.study)
        if len(finished) + len(self.running) >= self.trials:
            return None
        if self.request.timeout and time.monotonic() - self.begin > self.request.timeout:
            if not self.out_of_time:
                self.display.say(
                    f"the time limit is reached after {len(finished)} of {self.trials} trials; "
                    "the same command continues the study"
                )
            self.out_of_time = True
            return None
        reasons = [t.user_attrs.get("reason", "") for t in finished if t.state == TrialState.FAIL]
        if len(reasons) == len(finished) >= MAX_EQUAL_FAILURES and same_failure(reasons):
            raise InputError(f"the first {len(finished)} trials all failed in the same way: {reasons[-1]}")
        is_new = not self.interrupted
        trial = self.study.ask() if is_new else self.interrupted.pop(0)
        config = store.stored_config(trial, variants.get(self.settings.variant).config_type)
        if not is_new:
            rebuilt = "; its configuration was not stored, and comes from today's search space" if not config else ""
            self.display.say(f"trial {trial.number} was interrupted, and continues{rebuilt}")
        if config is None:
            config = space.suggest(self.search_space, trial, self.request.fixed)
            trial.set_user_attr(store.CONFIG, dataclasses.asdict(config))
        self.running.add(trial.number)
        self.progress.start(trial.number, f"trial {trial.number}", self.settings.epochs)
        return trial.number, TrialTask(self.settings, trial.number, trial._trial_id, config)

    def show_epoch(self, number: Hashable, message: Any) -> None:
        """Show an epoch that a trial has reported."""
        epoch, scores = message
        self.progress.update(number, epoch, summary.scores_text(scores, self.settings.objectives))

    def end_trial(self, end: Ended) -> None:
        """Show and track the result of a trial, which has told Optuna itself unless its process died too often."""
        number = end.key
        assert isinstance(number, int)
        self.running.discard(number)
        trial = self.study.trials[number]
        if end.died and not trial.state.is_finished():
            reason = f"given up after {executors.MAX_DEATHS} processes died while running it; the last: {end.died}"
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            self.study.tell(number, state=TrialState.FAIL)
            self.tracker.catch_up({self.settings.run_key(number): "failed"})
            trial = self.study.trials[number]
        best = store.best_values(self.study, self.settings.objectives)
        self.progress.finish(number, summary.trial_line(trial, self.settings.objectives))
        self.progress.note(summary.best_text(best))
        self.parent.metrics({f"best/{name.split('/')[1]}": value for name, (value, _) in best.items()}, number)
