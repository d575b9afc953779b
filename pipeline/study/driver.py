"""Runs a study: gives the trials of Optuna to an executor, until enough have finished or the budget is spent.

The state of a study is in the Optuna store alone. Whatever process dies, the same command finds there what remains to
be done. Only one process at a time runs a study.
"""

import dataclasses
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

import studies
import variants
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import machine, metrics, training_run
from pipeline.cli import OPTUNA_STORE, command_line
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, bits, pictures, quick
from pipeline.executor import Compute, Ended
from pipeline.metrics import Undefined
from pipeline.progress import Display, Progress
from pipeline.rehearsal import rehearse
from pipeline.study import budget, prior, space, store, summary
from pipeline.study.budget import Goal
from pipeline.study.sampler import Sampler, default_params
from pipeline.study.space import Value
from pipeline.study.trial import TrialSettings, TrialTask, same_failure
from pipeline.tracker import Run, Tracker, views
from studies import SearchBudget, SearchSpace
from variants import DataSpec, InputError

LONG_EPOCH = 2.0  # seconds; what an epoch takes is said before a study with longer ones, or with data on disk
MAX_EQUAL_FAILURES = 3  # a study ends if its first trials, this many, all fail in the same way


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A study that is to be run. Where a value is None, that of the variant's `STUDY` in `studies/` is taken."""

    variant: str
    dataset: str | Source | None = None  # a name, the path of a file or a folder of images, or a source with options
    trials: int | None = None  # finished trials that the study is to have, earlier ones included
    budget: SearchBudget | None = None  # what all trials may spend together; alone, it replaces the number of trials
    epochs: int | None = None  # the largest number of epochs of a trial
    timeout: float | None = None  # seconds after which no trial is started; None for no limit
    seed: int = 0
    fixed: Mapping[str, Value] = field(default_factory=dict)  # parameters that are not searched
    storage: str = OPTUNA_STORE
    study_name: str | None = None  # None for VARIANT-DATASET
    trial_timeout: float | None = None  # seconds of training after which a trial fails; None for no limit
    start_from: tuple[str, ...] = ()  # finished studies in the same store, whose best settings are tried first
    compute: Compute = Compute()
    chooses_precision: bool = True  # whether trainings may be in bf16 if that is faster and no precision is fixed
    shows_data: bool = True  # whether to print what was understood of the data before work starts


@dataclass(frozen=True)
class StudyOutcome:
    """A study that has ended: Optuna's study, its objectives, its MLflow experiment, and the link to its page."""

    study: optuna.Study
    objectives: tuple[str, ...]
    experiment: str
    link: str


def run(request: StudyRequest, display: Display | None = None) -> StudyOutcome:
    """Run a study, or continue it, until it has the requested number of finished trials or has spent its budget.

    A trial for which the budget has not enough epochs or seconds left is pruned where it has used them up.

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
    search_space = studies.get(request.variant)
    defaults = search_space.STUDY
    epochs = request.epochs or defaults.epochs
    budget.check(request.budget, epochs)
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    data = datasets.load(request.dataset or defaults.dataset)
    example, ranges = space.outline(search_space, request.fixed, data.spec)
    description = data.inspect()
    if request.shows_data:
        display.say("\n".join(description.summary()))
    if len(data.spec.shape) == 3:
        how = "searched" if "network" in ranges else "fixed" if "network" in request.fixed else "for such images"
        display.say(f"network: {ranges.get('network', example.network)} ({how})")
    name = request.study_name or f"{request.variant}-{data.spec.name}"
    objectives = _objectives(request, name, defaults.objectives, data, display)
    variants.build(request.variant, example, data.spec)  # raises InputError if the variant does not fit the data
    data = data.to(device)
    training_run.cache_data(data.source, device, data)
    trials = request.trials or (None if request.budget else defaults.trials)
    last_seed = training_run.FIRST_FINAL_SEED - (trials or 1)
    if not 0 <= request.seed <= last_seed:
        raise InputError(
            f"--seed {request.seed}: expected 0 to {last_seed} for {f'{trials} trials' if trials else 'a trial'}, "
            f"because finals use the seeds from {training_run.FIRST_FINAL_SEED} on"
        )
    request = dataclasses.replace(request, fixed=_with_precision(request, name, data, display))
    search = {
        "variant": request.variant, "dataset": data.spec.name, "digest": data.digest, "objectives": list(objectives),
        "epochs": epochs, "patience": defaults.patience, "seed": request.seed, "fix": dict(request.fixed),
        "space": ranges, "data": command_line(data.source.absolute),
    }  # fmt: skip
    with (
        store.open_study(request.storage, name, objectives, search) as study,
        executors.open_executor(request.compute) as executor,
    ):
        if executor.hosts > 1 and request.storage.startswith("sqlite"):
            raise InputError(
                f"--storage {request.storage}: an SQLite file serves one machine only, and the cluster has "
                f"{executor.hosts}; expected postgresql://USER@HOST/DATABASE"
            )
        study.sampler = _sampler(study, request, objectives[0], ranges, display)
        tracker = Tracker(data.spec.name)
        tracker.claim(data)
        tags = {
            "variant": request.variant, "dataset": data.spec.name, "study": name, "digest": data.digest,
            **machine.environment(device, threads),
        }  # fmt: skip
        views.write(tracker.client, tracker.experiment, ranges)
        link = views.link(tracker.uri, tracker.experiment, "Trials")
        uid = study.user_attrs["uid"]
        goal = Goal(budget=request.budget, trials=trials, epochs=epochs)
        finished = store.finished_trials(study)
        study.set_user_attr(budget.GOAL, str(goal))
        with (
            tracker.run(name, {**tags, "kind": "study", "seed": str(request.seed)}, key=f"{name}-{uid}") as parent,
            display.progress(f"study {name}", goal.total, len(finished), goal.unit) as progress,
        ):
            if not display.console.is_terminal:
                display.say(f"study {name}: {goal.state(finished)}, at most {epochs} epoch{'s' * (epochs != 1)} each")
            settings = TrialSettings(
                variant=request.variant, source=data.source, dataset=data.spec.name, digest=data.digest,
                objectives=objectives, study=name, uid=uid, storage=request.storage,
                epochs=epochs, patience=defaults.patience, budget=request.budget, timeout=request.trial_timeout,
                seed=request.seed, tags=tags, address=tracker.address, parent=parent.id,
                first_color=3 * variants.names().index(request.variant),
            )  # fmt: skip
            for problem in _mark_ended(study, settings, tracker):
                display.say(f"not yet in MLflow: {problem}")
            parent.params({"epochs": epochs, **{f"space_{k}": v for k, v in ranges.items()}})
            parent.description(description, pictures.examples(data))
            baseline_scores = quick.baselines(data)
            parent.metrics(baseline_scores, 0)
            study.set_user_attr(store.BASELINES, baselines.titled(baseline_scores, data.spec))
            study.set_user_attr(store.BITS, bits.titled(baseline_scores, data.spec))
            driver = _Driver(
                request=request, goal=goal, search_space=search_space, spec=data.spec, study=study, settings=settings,
                tracker=tracker, parent=parent, display=display, progress=progress,
                interrupted=store.interrupted_trials(study), finished=finished,
            )  # fmt: skip
            executors.run_all(executor, driver.next_trial, driver.show_epoch, driver.end_trial)
            if store.complete_trials(study):
                for path, figure in summary.figures(study, objectives):
                    parent.figure(path, figure)
            spent = budget.summary(store.finished_trials(study), epochs)
            pruned = summary.pruning_text(study, objectives)
            parent.tags({"budget": str(goal), "spent": spent, "pruning": pruned})
            parent.text("study/trials.csv", summary.trials_table(study, objectives).to_csv(index=False))
    display.say(f"spent {spent}")
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


def _with_precision(request: StudyRequest, name: str, data: Data, display: Display) -> dict[str, Value]:
    """Return the fixed parameters of a study, with a precision if that is not the default. Say how long an epoch takes.

    A new study measures which precision is faster, and one that continues keeps its own.
    """
    fixed, stored = dict(request.fixed), store.stored_precision(request.storage, name)
    if stored is None:
        config = variants.get(request.variant).config_type(**fixed).for_data(data.spec)  # type: ignore[arg-type]
        compares = "precision" not in fixed and request.chooses_precision
        try:
            rehearsal = rehearse(request.variant, config, data, compare_precisions=compares)
        except Exception:  # the trials report errors in the code of a variant
            return fixed
        if rehearsal.epoch_seconds > LONG_EPOCH or data.stream:
            display.say(str(rehearsal))
        stored = rehearsal.precision
    return {"precision": stored, **fixed} if stored != "fp32" else fixed


def _sampler(
    study: optuna.Study, request: StudyRequest, objective: str, searched: Iterable[str], display: Display
) -> Sampler:
    """Return the sampler of a study, with the default of each parameter that has one. Say which prior it has."""
    defaults = default_params(variants.get(request.variant).config_type)
    configurations = prior.take_over(study, request.storage, request.start_from, objective, searched, defaults)
    if configurations and len(study.trials) <= len(configurations):
        names = ", ".join(study.user_attrs[store.PRIOR]["studies"])
        trials = "trial 1 starts" if len(configurations) == 1 else f"trials 1 to {len(configurations)} start"
        settings = "".join(f"\n  {summary.params_text(c)}" for c in configurations)
        display.say(
            f"{trials} from the best settings of {names}, unless they turn out no better than the defaults:{settings}"
        )
    return Sampler(request.seed, defaults, configurations)


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
class _RunningTrial:
    """A running trial: what it may spend, in the unit of the budget, and how long it has been trained so far."""

    allowance: float | None
    epoch: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class _Driver:
    """Gives out the trials of a study, and shows and tracks how they end."""

    request: StudyRequest
    goal: Goal
    search_space: SearchSpace
    spec: DataSpec
    study: optuna.Study
    settings: TrialSettings
    tracker: Tracker
    parent: Run
    display: Display
    progress: Progress
    interrupted: list[optuna.Trial]
    finished: list[FrozenTrial]
    running: dict[int, _RunningTrial] = field(default_factory=dict)  # by the number of the trial
    begin: float = field(default_factory=time.monotonic)
    out_of_time: bool = False

    def next_trial(self) -> tuple[Hashable, TrialTask] | None:
        """Return the next trial; None if the goal is reached by trials that run or have finished, or the time is up."""
        # a trial that has told Optuna its end, which has not arrived here yet, still counts as running
        finished = [t for t in store.finished_trials(self.study) if t.number not in self.running]
        self.finished = finished
        seeds = training_run.FIRST_FINAL_SEED - self.request.seed
        if len(finished) + len(self.running) >= (self.goal.trials or seeds):
            return None
        if self.request.timeout and time.monotonic() - self.begin > self.request.timeout:
            if not self.out_of_time:
                self.display.say(
                    f"the time limit is reached after {self.goal.state(finished).removesuffix(' finished')}; "
                    "the same command continues the study"
                )
            self.out_of_time = True
            return None
        reasons = [t.user_attrs.get("reason", "") for t in finished if t.state == TrialState.FAIL]
        if len(reasons) == len(finished) >= MAX_EQUAL_FAILURES and same_failure(reasons):
            raise InputError(f"the first {len(finished)} trials all failed in the same way: {reasons[-1]}")
        interrupted = self.interrupted[0] if self.interrupted else None
        allowance = self._allowance(interrupted)
        if allowance is not None and allowance <= 0:
            return None
        trial = self.interrupted.pop(0) if interrupted else self.study.ask()
        config = store.stored_config(trial, self.settings.variant)
        if interrupted:
            rebuilt = "; its configuration was not stored, and comes from today's search space" if not config else ""
            self.display.say(f"trial {trial.number} was interrupted, and continues{rebuilt}")
        if config is None:
            config = space.suggest(self.search_space, trial, self.request.fixed, self.spec)
            trial.set_user_attr(store.CONFIG, dataclasses.asdict(config))
        if allowance is not None:
            trial.set_user_attr(budget.ALLOWANCE, {str(self.goal.budget): allowance})
        self.running[trial.number] = _RunningTrial(allowance=allowance)
        self.progress.start(trial.number, f"trial {trial.number}", self.settings.epochs)
        return trial.number, TrialTask(self.settings, trial.number, trial._trial_id, config)

    def _allowance(self, interrupted: optuna.Trial | None) -> float | None:
        """Return the epochs or seconds that the next trial may take; None if the study has no budget.

        A trial may take what finished trials have not spent and other trials may not take. Seconds are divided among
        the workers that are idle. A trial that was interrupted keeps its allowance.
        """
        if self.goal.budget is None:
            return None
        if interrupted and (stored := budget.allowance(interrupted, self.goal.budget)) is not None:
            return stored
        others = [t.allowance for t in self.running.values()]
        others += [budget.allowance(t, self.goal.budget) for t in self.interrupted]
        left = self.goal.budget.amount - self.goal.spent(self.finished) - sum(amount for amount in others if amount)
        if self.goal.budget.seconds is None:
            return min(self.goal.epochs, left)
        return left / (self.request.compute.workers - len(self.running))

    def show_epoch(self, number: Hashable, message: Any) -> None:
        """Show an epoch that a trial has reported."""
        epoch, scores = message
        assert isinstance(number, int)
        trial = self.running.get(number)
        if trial is None:  # the message has arrived late
            return
        trial.epoch, trial.seconds = epoch, trial.seconds + scores["time/train_seconds"] + scores["time/valid_seconds"]
        self.progress.update(number, epoch, summary.scores_text(scores, self.settings.objectives))
        self._show_spent()

    def _show_spent(self) -> None:
        """Show how much of the budget is spent, running trials included."""
        if self.goal.budget:
            by_epochs = self.goal.budget.seconds is None
            running = sum(t.epoch if by_epochs else t.seconds for t in self.running.values())
            self.progress.spend(self.goal.spent(self.finished) + running, self.goal.state(self.finished, running))

    def end_trial(self, end: Ended) -> None:
        """Show and track the result of a trial, which has told Optuna itself unless its process died too often."""
        number = end.key
        assert isinstance(number, int)
        running = self.running.pop(number)
        trial = self.study.trials[number]
        if end.died and not trial.state.is_finished():
            reason = f"given up after {executors.MAX_DEATHS} processes died while running it; the last: {end.died}"
            spent = {store.EPOCHS: max(1, running.epoch), store.SECONDS: running.seconds}
            for name, value in {"reason": reason, **spent}.items():
                self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
            self.study.tell(number, state=TrialState.FAIL)
            self.tracker.catch_up({self.settings.run_key(number): "failed"})
            trial = self.study.trials[number]
        self.finished.append(trial)
        best = store.best_values(self.study, self.settings.objectives)
        self.progress.finish(number, summary.trial_line(trial, self.settings.objectives))
        self._show_spent()
        trials = f"{budget.count(len(self.finished))}  " if self.goal.budget else ""  # the bar shows the budget
        self.progress.note(trials + summary.best_text(best))
        self.parent.metrics({f"best/{name.split('/')[1]}": value for name, (value, _) in best.items()}, number)
