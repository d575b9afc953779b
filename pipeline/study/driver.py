"""Ask, train, tell, until the asked number of trials is finished."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna
import torch
from optuna.trial import TrialState

import studies
import variants
from pipeline import data as datasets
from pipeline import evaluate, machine, metrics, pictures, trainer
from pipeline.data import Data
from pipeline.study import figures, space, store
from pipeline.study.display import Display
from pipeline.study.space import Value
from pipeline.tracker import Run, Tracker, views
from pipeline.trainer import Diverged, Epoch
from studies import SearchSpace


@dataclass(frozen=True)
class Plan:
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
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """A study that has ended: Optuna's study, its objectives, and the page of its experiment."""

    study: optuna.Study
    objectives: tuple[str, ...]
    experiment: str
    link: str


@dataclass(frozen=True)
class _Job:
    """What all trials of a study share."""

    variant: str
    space: SearchSpace
    data: Data
    objectives: tuple[str, ...]
    name: str
    epochs: int
    patience: int
    seed: int
    fixed: Mapping[str, Value]
    tags: Mapping[str, str]
    colour: int  # of the first trial: other variants on the page begin elsewhere


def run(plan: Plan) -> Outcome:
    """Run a study, or go on with it, until it has the asked number of finished trials.

    Everything that a person can get wrong raises `InputError` before the first trial begins.
    """
    threads = machine.prepare(plan.threads)
    device = machine.device(plan.device)
    asked = studies.get(plan.variant)
    budget = asked.STUDY
    example, ranges = space.outline(asked, plan.fixed)
    data = datasets.load(plan.dataset or budget.dataset)
    objectives = metrics.objectives(budget.objectives, data.spec)
    trainer.build(plan.variant, example, data.spec)  # a variant that does not fit the data says so here
    data = data.to(device)
    trials, epochs = plan.trials or budget.trials, plan.epochs or budget.epochs
    name = plan.study_name or f"{plan.variant}-{data.spec.name}"
    pruner = budget.pruner if len(objectives) == 1 else "none"
    search = {
        "variant": plan.variant, "dataset": data.spec.name, "digest": data.digest, "objectives": list(objectives),
        "epochs": epochs, "seed": plan.seed, "fix": dict(plan.fixed), "space": ranges,
    }  # fmt: skip
    with store.opened(plan.storage, name, objectives, pruner, epochs, search) as study:
        tracker = Tracker(data.spec.name)
        tags = {
            "variant": plan.variant, "dataset": data.spec.name, "study": name, "digest": data.digest,
            **machine.environment(device, threads),
        }  # fmt: skip
        colour = 3 * variants.names().index(plan.variant)
        job = _Job(
            plan.variant, asked, data, objectives, name, epochs, budget.patience, plan.seed, plan.fixed, tags, colour
        )
        views.write(tracker.client, tracker.experiment, ranges)
        link = views.link(tracker.uri, tracker.experiment, "Trials")
        parent = tracker.run(
            name, {**tags, "kind": "study", "seed": str(plan.seed)}, resume=study.user_attrs.get("run")
        )
        study.set_user_attr("run", parent.id)
        done = len(store.finished(study))
        with parent, Display(name, trials, epochs, objectives, done) as display:
            parent.params({"epochs": epochs, **{f"space_{k}": v for k, v in ranges.items()}})
            parent.metrics(evaluate.baselines(data), 0)
            _trials(study, job, tracker, parent, display, trials, plan.timeout)
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                for path, figure in figures.of(study, objectives):
                    parent.figure(path, figure)
            parent.text("study/trials.csv", study.trials_dataframe().to_csv(index=False))
    return Outcome(study, objectives, data.spec.name, link)


def _trials(
    study: optuna.Study, job: _Job, tracker: Tracker, parent: Run, display: Display, asked: int, timeout: float | None
) -> None:
    begin = time.monotonic()
    while len(done := store.finished(study)) < asked:
        if timeout and time.monotonic() - begin > timeout:
            display.say(f"the time is up after {len(done)} of {asked} trials; the same command goes on")
            return
        trial, cut = store.asked(study)
        if cut:
            display.say(f"trial {trial.number} was cut off, and begins anew")
            if "run" in trial.user_attrs:  # of a process that died without a word
                tracker.close(trial.user_attrs["run"], "interrupted")
        tags = {**job.tags, "kind": "trial", "trial": str(trial.number), "seed": str(_seed(job, trial))}
        tags["mlflow.runColor"] = views.COLOURS[(trial.number + job.colour) % len(views.COLOURS)]
        with tracker.run(f"{job.variant} {trial.number}", tags, parent=parent) as run:
            trial.set_user_attr("run", run.id)
            _trial(study, trial, job, run, display)
        display.ended(study.trials[trial.number])
        parent.metrics(_best(study, job.objectives), trial.number)


def _best(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, float]:
    """The best value of each objective so far, by itself: `best/elbo`, `best/accuracy`, ..."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sides = [max if d == optuna.study.StudyDirection.MAXIMIZE else min for d in study.directions]
    names = [f"best/{name.split('/')[1]}" for name in objectives]
    return {n: side(t.values[i] for t in done) for i, (n, side) in enumerate(zip(names, sides, strict=True)) if done}


def _seed(job: _Job, trial: optuna.Trial) -> int:
    return job.seed + trial.number


def _trial(study: optuna.Study, trial: optuna.Trial, job: _Job, run: Run, display: Display) -> None:
    """Train one configuration, score it, and tell Optuna. Whoever interrupts it leaves it to be begun anew."""
    try:
        _train(study, trial, job, run, display)
    except (Diverged, torch.OutOfMemoryError) as error:
        trial.set_user_attr("reason", str(error))
        run.state = "failed"
        run.tags({"reason": str(error)})
        study.tell(trial, state=TrialState.FAIL)
    except Exception:
        study.tell(trial, state=TrialState.FAIL)
        raise


def _train(study: optuna.Study, trial: optuna.Trial, job: _Job, run: Run, display: Display) -> None:
    begin = time.perf_counter()
    config = space.suggest(job.space, trial, job.fixed)
    seed = _seed(job, trial)
    torch.manual_seed(seed)
    variant = trainer.build(job.variant, config, job.data.spec)
    run.params(
        {**dataclasses.asdict(config), "epochs": job.epochs, "weights": sum(p.numel() for p in variant.parameters())}
    )
    run.dataset(job.data)
    if variant.given:  # what its likelihood is conditioned on: say so wherever its ELBO stands
        run.tags({"given": variant.given})
    display.began(trial.number, config)
    best = last = None
    known = max(study.trials[trial.number].intermediate_values, default=0)  # told before the trial was cut off
    for last in trainer.train(variant, job.data, epochs=job.epochs, seed=seed, patience=job.patience):
        best = last if last.best or best is None else best
        run.metrics(last.metrics, last.number)
        display.epoch(last)
        if len(job.objectives) == 1 and job.objectives[0] in last.metrics and last.number >= known:
            if last.number > known:
                trial.report(last.metrics[job.objectives[0]], last.number)
            if trial.should_prune():
                run.state = "pruned"
                trial.set_user_attr("metrics", {**_kept(best), "time/trial_seconds": time.perf_counter() - begin})
                study.tell(trial, state=TrialState.PRUNED)
                return
    assert best and last, "a training has at least one epoch"
    kl = best.vectors.get("kl_per_dimension")
    scores = {**_kept(best), **evaluate.cheap(variant, job.data, kl), "time/trial_seconds": time.perf_counter() - begin}
    # the last point of a curve is the model that was kept, also where that is of an earlier epoch
    run.metrics(scores, last.number + (not last.best))
    for name, pixels in pictures.all_of(variant, job.data, kl).items():
        run.picture(name, pixels, views.PICTURE_STEP)
    trial.set_user_attr("metrics", scores)
    study.tell(trial, [scores[name] for name in job.objectives])
    if trial.number in {t.number for t in study.best_trials}:
        run.model(variant, {k: v for k, v in scores.items() if not k.startswith("time/")}, best.number)


def _kept(best: Epoch) -> dict[str, float]:
    """The validation scores of the weights that training leaves behind."""
    return {k: v for k, v in best.metrics.items() if k.startswith("valid/")}
