"""The searches of a repetition: a study of each variant, and the configurations that they choose on validation data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

import studies
import variants
from pipeline import cli, final, metrics, training_run
from pipeline import data as datasets
from pipeline.compare.criteria import BALANCED_PROBE, CRITERIA, Criterion
from pipeline.compare.request import CompareRequest
from pipeline.data import Data, Source
from pipeline.evaluate import quick
from pipeline.metrics import Undefined
from pipeline.progress import Display
from pipeline.study import prior, space
from pipeline.study.budget import Goal
from pipeline.study.driver import StudyRequest
from pipeline.study.driver import run as search
from pipeline.study.results import StudyRecord, read_study
from pipeline.study.store import other_data
from variants import Config, InputError

STUDY_SEEDS = 400  # the seeds of the studies of two successive repetitions differ by this


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


def run(request: CompareRequest, number: int, data: Data, device: torch.device, display: Display) -> Repetition:
    """Run the studies of a repetition that are missing, and choose configurations.

    Raises:
        InputError: If no variant has a study.
    """
    candidates, left_out = _candidates(request, number, data, device, display)
    if not candidates:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in left_out.items())
        advice = reasons if request.train or request.variants else "add --run to search them all"
        raise InputError(f"--dataset {request.dataset}: no variant has a study of it; {advice}")
    choices = _choices(candidates, criteria(candidates, request.matters))
    return Repetition(number=number, candidates=candidates, left_out=left_out, choices=choices)


def criteria(candidates: Mapping[str, Candidate], matters: Mapping[str, float]) -> list[Criterion]:
    """Return the criteria that the data allow, with the smallest differences that matter.

    If the classes are uneven, the probe is judged by its balanced accuracy, unless all studies are older than that.
    """
    metric = quick.probe_metric(next(iter(candidates.values())).data)
    chosen = list(CRITERIA)
    if isinstance(metric, Undefined):
        chosen = [c for c in CRITERIA if c.name != "probe"]
    elif metric == BALANCED_PROBE.validation_metric and any(c.study.best(metric) for c in candidates.values()):
        chosen = [BALANCED_PROBE if c.name == "probe" else c for c in CRITERIA]
    return [replace(c, matters=matters.get(c.name, c.matters)) for c in chosen]


def _candidates(
    request: CompareRequest, number: int, data: Data, device: torch.device, display: Display
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the variants that can be compared, with their studies, and the reason for each of the others."""
    sources, left_out = _sources(request, data)
    candidates = {}
    for variant, own_data in sources.items():
        source = own_data.source
        study = _study(request, number, variant, own_data, tuple(sources), display)
        if study is None:
            options = " ".join([cli.command_line(source), *_fix_options(request, variant, own_data)])
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


def _fix_options(request: CompareRequest, variant: str, data: Data) -> list[str]:
    """Return the options with which `pipeline.study` fixes the same parameters, in the study of the same name."""
    fixed = request.fixed(variant)
    name = [f"--study-name {_study_name(request, variant, data, 0)}"] if fixed else []
    return [*name, *(f"--fix {name}={value}" for name, value in fixed.items())]


def _sources(request: CompareRequest, data: Data) -> tuple[dict[str, Data], dict[str, str]]:
    """Return the data set of each variant, as sequences if the variant needs them, and the reasons of the others."""
    sources, left_out = {}, {}
    rows = datasets.as_sequences(data.source.place)
    for name in request.variants or tuple(variants.names()):
        cls = variants.get(name)
        own_data = data
        if rows and "mask" in cls.required_fields and not data.spec.steps:
            own_data = datasets.load(replace(data.source, place=rows))
        try:
            variants.build(name, cls.config_type(**request.fixed(name)), own_data.spec)  # type: ignore[arg-type]
        except InputError as error:
            left_out[name] = str(error)
            continue
        sources[name] = own_data
    return sources, left_out


def _study_name(request: CompareRequest, variant: str, data: Data, number: int) -> str:
    """Return the name of the study of a variant in a repetition.

    The name in the first repetition is the one that `pipeline.study` gives by default, with the parameters of `--fix`
    added to it.
    """
    fixed = "".join(f"-{name}-{value}" for name, value in sorted(request.fixed(variant).items()))
    return f"{variant}-{data.spec.name}{fixed}" + (f"-repetition-{number + 1}" if number else "")


def _study(
    request: CompareRequest, number: int, variant: str, data: Data, compared: Sequence[str], display: Display
) -> StudyRecord | None:
    """Return the study of a variant, or None if there is none. With `request.train`, run missing trials first.

    A new study starts from those of the other variants in `compared` in the same repetition (`_prior`).
    """
    name = _study_name(request, variant, data, number)
    study = read_study(request.storage, name)
    if not request.train or (study and _has_reached(study, request.goal)):
        return study
    epochs = study.epochs if study else request.epochs
    most = f"at most {epochs} epoch{'s' * (epochs != 1)}"
    display.say(f"{variant} on {data.spec.name}: a search of {request.goal}, in trials of {most}")
    study_request = StudyRequest(
        variant=variant, dataset=data.source, trials=request.trials, budget=request.goal.budget, epochs=epochs,
        timeout=request.timeout, seed=request.seed + STUDY_SEEDS * number, storage=request.storage,
        compute=request.compute, study_name=name, fixed=request.fixed(variant),
        start_from=() if study else _prior(request, number, variant, data, compared), shows_data=False,
        chooses_precision=False,
    )  # fmt: skip
    search(study_request, display)
    return read_study(request.storage, name)


def _prior(request: CompareRequest, number: int, variant: str, data: Data, compared: Sequence[str]) -> tuple[str, ...]:
    """Return the finished studies of other variants on the same data whose settings a new study can try first."""
    search_space = studies.get(variant)
    objective = metrics.objectives(search_space.STUDY.objectives, data.spec, quick.probe_metric(data))[0]
    searched = space.outline(search_space, request.fixed(variant), data.spec)[1]
    others = [_study_name(request, name, data, number) for name in compared if name != variant]
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
