"""What a study takes over from finished studies: their best configurations, which it tries right after the defaults."""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any

import optuna

from pipeline.metrics import OBJECTIVES
from pipeline.study import store
from pipeline.study.results import StudyRecord, read_study
from pipeline.study.sampler import PRIOR_TRIALS, Params
from variants import InputError


def take_over(
    study: optuna.Study, url: str, names: Sequence[str], objective: str, searched: Iterable[str], defaults: Params
) -> list[Params]:
    """Return the prior of a study, and store it with a new one. A study that has a prior keeps it.

    Args:
        study: The study that starts.
        url: The address of the Optuna store.
        names: The studies that it starts from; empty for no prior, or for the one that it has.
        objective: The metric by which their trials are ranked: the first objective of the study.
        searched: The parameters that the study searches.
        defaults: The default of each parameter. Settings that equal the defaults are left out.

    Raises:
        InputError: One of `names` is no study with a complete trial that has this metric and one of the parameters, or
            the study has already started from others.
    """
    stored = study.user_attrs.get(store.PRIOR, {"studies": [], "configurations": []})
    if store.PRIOR in study.user_attrs or study.trials:
        if names and list(names) != stored["studies"]:
            before = f"from {', '.join(stored['studies'])}" if stored["studies"] else "without --start-from"
            raise InputError(
                f"--start-from {' '.join(names)}: study {study.study_name!r} was started {before}; leave the option "
                "out to continue it, or give another --study-name to start a new one"
            )
        return list(stored["configurations"])
    ranked = [_settings_of(url, name, objective, searched, study.study_name) for name in names]
    in_turn = [c for c in chain.from_iterable(zip_longest(*ranked)) if c]
    different = [c for i, c in enumerate(in_turn) if c not in in_turn[:i] and c != {n: defaults.get(n) for n in c}]
    study.set_user_attr(store.PRIOR, {"studies": list(names), "configurations": different[:PRIOR_TRIALS]})
    return different[:PRIOR_TRIALS]


def settings(record: StudyRecord, objective: str, searched: Iterable[str]) -> list[dict[str, Any]]:
    """Return those of the parameters `searched` that the complete trials of a study have, the best trial first.

    Trials without any of the parameters, or without the metric `objective`, are left out.
    """
    names = set(searched)
    trials = [t for t in record.trials if t.state == "complete" and objective in t.metrics and names & t.params.keys()]
    sign = -1 if OBJECTIVES[objective].better == "maximize" else 1
    trials.sort(key=lambda t: sign * t.metrics[objective])
    return [{name: value for name, value in t.params.items() if name in names} for t in trials]


def _settings_of(url: str, name: str, objective: str, searched: Iterable[str], own_name: str) -> list[dict[str, Any]]:
    """Read a study, and return its `settings`. Raises `InputError` if there are none."""
    record = read_study(url, name) if name != own_name else None
    if record is None:
        others = sorted(n for n in optuna.get_all_study_names(url) if n != own_name)
        known = f"expected one of {', '.join(others)}" if others else "the store has no other study"
        raise InputError(f"--start-from {name}: there is no such finished study; {known}")
    best_first = settings(record, objective, searched)
    if best_first:
        return best_first
    if not any(t.state == "complete" and objective in t.metrics for t in record.trials):
        raise InputError(f"--start-from {name}: none of its trials is complete and has {objective}")
    other = ", ".join(record.space) or "nothing"
    raise InputError(f"--start-from {name}: it searched {other}, and this study searches none of these")
