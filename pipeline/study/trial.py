"""One trial as a task: it trains, logs, prunes and tells Optuna by itself, in whatever process it is run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline import machine, training_run
from pipeline.data import Data
from pipeline.evaluate import quick
from pipeline.executor import Resources
from pipeline.study import halving, store
from pipeline.tracker import Address, Run, State, Tracker, views
from pipeline.training_run import TrainingRun
from variants import Config

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a study share."""

    variant: str
    source: str  # of the data, as `data.load` takes it
    dataset: str
    digest: str
    objectives: tuple[str, ...]
    study: str
    uid: str  # of this study, and of no other of the same name
    storage: str
    pruner: str
    epochs: int
    patience: int
    timeout: float | None  # seconds, of a trial
    seed: int
    tags: Mapping[str, str]
    address: Address
    parent: str
    colour: int  # of the first trial: other variants on the page begin elsewhere

    def key(self, number: int) -> str:
        """Of a trial's run."""
        return f"{self.study}-{self.uid}-{number}"


@dataclass(frozen=True)
class TrialTask:
    """A trial that was asked for. Given out again, it goes on; one that is finished is left alone."""

    job: TrialSettings
    number: int
    id: int  # Optuna's
    config: Config

    def run(self, resources: Resources, report: Callable[[Any], None]) -> None:
        job = self.job
        with store.joined(job.storage, job.study, job.pruner, job.epochs) as study:
            if not study.trials[self.number].state.is_finished():
                self._run(study, resources, report)

    def _run(self, study: optuna.Study, resources: Resources, report: Callable[[Any], None]) -> None:
        job = self.job
        data = training_run.cached_data(job.source, job.digest, machine.device(resources.device))
        trial = optuna.trial.Trial(study, self.id)
        seed = job.seed + self.number
        tags = {**job.tags, "kind": "trial", "trial": str(self.number), "seed": str(seed)}
        tags["mlflow.runColor"] = views.COLOURS[(self.number + job.colour) % len(views.COLOURS)]
        tracker = Tracker(job.dataset, job.address)
        training = training_run.TrainingPlan(
            variant=job.variant,
            config=self.config,
            epochs=job.epochs,
            patience=job.patience,
            seed=seed,
            timeout=job.timeout,
        )
        name = f"{job.variant} {self.number}"
        with tracker.run(name, tags, parent=job.parent, key=job.key(self.number)) as run:
            try:
                self._train(study, trial, TrainingRun(training, data, run), run, data, report)
            except (optuna.exceptions.OptunaError, SQLAlchemyError):  # the store's fault, not the trial's
                raise
            except Exception as error:
                trial.set_user_attr("reason", training_run.failed(run, error))
                study.tell(trial, state=TrialState.FAIL)

    def _train(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        made: TrainingRun,
        run: Run,
        data: Data,
        report: Callable[[Any], None],
    ) -> None:
        job = self.job
        several = len(job.objectives) > 1
        held = halving.rungs(job.epochs) if several and job.pruner == "halving" else []
        told = max(study.trials[self.number].intermediate_values, default=0)  # before the trial was cut off
        for last in made.epochs():
            report((last.number, last.metrics))
            if several:
                prune = last.number in held and not self._climbs(study, trial, made, last.metrics, last.number, data)
            else:
                prune = job.objectives[0] in last.metrics and last.number >= told
                if prune and last.number > told:
                    trial.report(last.metrics[job.objectives[0]], last.number)
                prune = prune and trial.should_prune()
            if prune:
                trial.set_user_attr("metrics", {**made.kept, "time/trial_seconds": made.seconds})
                run.state = "pruned"
                study.tell(trial, state=TrialState.PRUNED)
                return
        scores = made.scores()
        values = [scores[name] for name in job.objectives]
        if _leads(study, values):
            kept = {k: v for k, v in scores.items() if not k.startswith("time/")}
            run.model(made.variant, kept, made.best_epoch)
        trial.set_user_attr("metrics", scores)
        study.tell(trial, values)

    def _climbs(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        made: TrainingRun,
        metrics: Mapping[str, float],
        epoch: int,
        data: Data,
    ) -> bool:
        kept = dict(study.trials[self.number].user_attrs.get(halving.RUNGS, {}))
        if str(epoch) not in kept:
            with machine.seeded(data.train.x.device, 0):
                known = {**metrics, **quick.scores(made.variant, data)}
            trial.set_user_attr(halving.RUNGS, {**kept, str(epoch): [known[o] for o in self.job.objectives]})
        return halving.goes_on(study, self.number, epoch, self.job.objectives)


def _leads(study: optuna.Study, values: list[float]) -> bool:
    """Whether no complete trial dominates these values."""
    sign = np.array([1.0 if d == optuna.study.StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return not any(halving.dominates(sign * t.values, sign * values) for t in complete)


def alike(reasons: list[str]) -> bool:
    """Whether failures are the same but for their numbers."""
    return len({re.sub(r"[-\d.e+]+", "#", reason) for reason in reasons}) == 1
