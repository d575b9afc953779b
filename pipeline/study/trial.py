"""One trial as a task, which trains, logs, prunes, and tells Optuna the result, in whatever process it runs."""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline import machine, training_run
from pipeline.data import Data, Source
from pipeline.evaluate import quick
from pipeline.executor import Resources
from pipeline.study import budget, pruning, store
from pipeline.tracker import Address, Run, Tracker
from pipeline.trainer import Diverged
from pipeline.training_run import TrainingPlan, TrainingRun
from studies import SearchBudget
from variants import Config

if TYPE_CHECKING:
    from pipeline.trainer import Epoch


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a study share."""

    variant: str
    source: Source  # of the data
    dataset: str  # the name of the data set, and of the MLflow experiment
    digest: str
    objectives: tuple[str, ...]
    study: str
    uid: str  # differs from that of any other study of the same name
    storage: str
    epochs: int
    patience: int
    budget: SearchBudget | None  # of the study
    timeout: float | None  # seconds of training of a trial
    seed: int  # of the first trial; each further trial has the next one
    tags: Mapping[str, str]
    address: Address
    parent: str  # the id of the study's run
    first_color: int  # of the first trial's run; it differs between variants

    def run_key(self, number: int) -> str:
        """Return the key of the run of the trial with this number."""
        return f"{self.study}-{self.uid}-{number}"


@dataclass(frozen=True)
class TrialTask:
    """A trial that is to be run. If its process died before, it continues; if it is finished, nothing happens."""

    settings: TrialSettings
    number: int
    id: int  # Optuna's id, which is unique in its store
    config: Config

    def run(self, resources: Resources, report: Callable[[Any], None]) -> None:
        """Run the trial, and report the number and the scores of each epoch."""
        s = self.settings
        with store.join_study(s.storage, s.study) as study:
            if not study.trials[self.number].state.is_finished():
                self._run(study, resources, report)

    def _run(self, study: optuna.Study, resources: Resources, report: Callable[[Any], None]) -> None:
        s = self.settings
        data = training_run.cached_data(s.source, s.digest, machine.device(resources.device))
        trial = optuna.trial.Trial(study, self.id)
        seed = s.seed + self.number
        plan = TrainingPlan(
            variant=s.variant, config=self.config, epochs=s.epochs, patience=s.patience, seed=seed, timeout=s.timeout
        )
        tags = {**s.tags, "kind": "trial", "trial": str(self.number), "seed": str(seed)}
        with Tracker(s.dataset, s.address).run(
            f"{s.variant} {self.number}", tags, parent=s.parent, key=s.run_key(self.number),
            color=self.number + s.first_color,
        ) as run:  # fmt: skip
            try:
                self._train_and_tell(study, trial, plan, data, run, report)
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:  # of the store, not of the trial
                raise store.as_os_error(error) from error

    def _train_and_tell(
        self, study: optuna.Study, trial: optuna.Trial, plan: TrainingPlan, data: Data, run: Run,
        report: Callable[[Any], None],
    ) -> None:  # fmt: skip
        """Train, and tell Optuna the result, what the trial has spent, and the reason if it failed."""
        begin = time.perf_counter()
        training: TrainingRun | None = None
        values: list[float] | None = None
        if "reason" in trial.user_attrs:  # its process died right before it told Optuna the end, which may differ now
            trial.set_user_attr("reason", "")
        try:
            training = TrainingRun(plan, data, run)
            begin -= training.seconds  # before an interruption
            values = self._train(study, trial, training, run, report)
            epochs, state = training.epoch, None if values else TrialState.PRUNED
        except (optuna.exceptions.OptunaError, SQLAlchemyError):
            raise
        except Exception as error:
            trial.set_user_attr("reason", training_run.failed(run, error))
            # the epoch in which a trial fails counts, so that a budget ends even if all trials fail
            epochs = max(1, training.epoch + isinstance(error, Diverged)) if training else 1
            state = TrialState.FAIL
        trial.set_user_attr(store.EPOCHS, epochs)
        trial.set_user_attr(store.SECONDS, time.perf_counter() - begin)
        study.tell(trial, values, state=state)

    def _train(
        self, study: optuna.Study, trial: optuna.Trial, training: TrainingRun, run: Run, report: Callable[[Any], None]
    ) -> list[float] | None:
        """Train and score, and return the value of each objective; None if the trial was pruned."""
        allowance = budget.allowance(trial, self.settings.budget)
        is_pruned = False
        epochs = training.epochs()
        while not (is_cut_off := self._is_cut_off(training, allowance)) and (epoch := next(epochs, None)):
            report((epoch.number, epoch.metrics))
            is_pruned = self._is_pruned(study, trial, training, epoch)
            if is_pruned:
                break
        if is_cut_off or is_pruned:
            reason = budget.CUT_OFF if is_cut_off else pruning.REASON
            trial.set_user_attr("reason", reason)
            run.tags({"reason": reason})
            run.metrics(training.lengths, training.epoch)
            trial.set_user_attr("metrics", {**training.kept, **training.lengths})
            trial.set_user_attr(store.REMARK, training.remark(training.kept, {}))
            run.state = "pruned"
            return None
        scores = training.scores()
        values = [scores[name] for name in self.settings.objectives]
        if _is_best(study, values):
            untimed = {k: v for k, v in scores.items() if not k.startswith("time/")}
            run.model(training.variant, training.data, untimed, training.best_epoch)
        trial.set_user_attr("metrics", scores)
        trial.set_user_attr(store.REMARK, training.remark(scores, study.user_attrs.get(store.BASELINES, {})))
        return values

    def _is_cut_off(self, training: TrainingRun, allowance: float | None) -> bool:
        """Return whether the trial has used up its allowance, and its training would otherwise go on."""
        s = self.settings
        is_patient = not s.patience or training.epoch - training.best_epoch < s.patience
        if s.budget is None or allowance is None or training.epoch >= s.epochs or not is_patient:
            return False
        return (training.seconds if s.budget.epochs is None else training.epoch) >= allowance

    def _is_pruned(self, study: optuna.Study, trial: optuna.Trial, training: TrainingRun, epoch: "Epoch") -> bool:
        """Store the trial's scores at a rung, and return whether it ends there. An epoch that is no rung is passed."""
        steps = math.ceil(training.data.epoch / self.config.batch)
        if epoch.number not in pruning.rungs(self.settings.epochs, self.config.warmup / steps):
            return False
        stored = trial.user_attrs.get(pruning.RUNGS, {})
        rung, objectives = str(epoch.number), self.settings.objectives
        if rung not in stored:
            scores = epoch.metrics
            if not set(objectives) <= set(scores):
                with machine.seeded(training.data.train.x.device, 0):
                    scores = {**scores, **quick.scores(training.variant, training.data)}
            stored[rung] = [scores[o] for o in objectives]
            trial.set_user_attr(pruning.RUNGS, stored)
        return pruning.ends_early(study, self.number, epoch.number, stored[rung])


def _is_best(study: optuna.Study, values: list[float]) -> bool:
    """Return whether no complete trial dominates or equals these values."""
    sign = pruning.signs(study)
    others = np.array([t.values for t in store.complete_trials(study)]).reshape(-1, len(sign))
    return pruning.undominated(sign * np.array([values]), sign * others) == 1


def same_failure(reasons: list[str]) -> bool:
    """Return whether the reasons of failures differ in their numbers only."""
    return len({re.sub(r"[-\d.e+]+", "#", reason) for reason in reasons}) == 1
