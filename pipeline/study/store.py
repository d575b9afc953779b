"""The Optuna study: opened, compared with what it was begun as, and asked for its next trial."""

import re
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from pipeline import machine
from pipeline.metrics import OBJECTIVES
from pipeline.tracker import public
from variants import InputError

Names = tuple[str, ...]


@contextmanager
def opened(
    url: str, name: str, objectives: Names, pruner: str, epochs: int, search: Mapping[str, Any]
) -> Iterator[optuna.Study]:
    """The study, held by this process alone while the block lasts (where the store is a file).

    `search` says what the study is; one that was begun as another is refused with `InputError`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"--study-name {name!r}: expected letters, digits, '.', '_' and '-'")
    with _exclusive(url, name):
        study = optuna.create_study(
            storage=_storage(url),
            study_name=name,
            directions=[OBJECTIVES[o].better for o in _directions(url, name, objectives)],
            load_if_exists=True,
            pruner=_pruner(pruner, epochs, len(objectives)),
        )
        _same(study, search)
        study.set_metric_names(list(objectives))
        if "uid" not in study.user_attrs:
            study.set_user_attr("uid", uuid.uuid4().hex[:8])
        yield study


@contextmanager
def joined(url: str, name: str, pruner: str, epochs: int) -> Iterator[optuna.Study]:
    """A study that a driver holds, as a task of it sees it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = _storage(url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        study.pruner = _pruner(pruner, epochs, len(study.directions))
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _pruner(kind: str, epochs: int, objectives: int) -> optuna.pruners.BasePruner:
    """Optuna prunes by one objective only; see `halving` for several."""
    one = kind == "halving" and objectives == 1
    return optuna.pruners.HyperbandPruner(1, epochs) if one else optuna.pruners.NopPruner()


def stored(url: str, name: str) -> optuna.Study | None:
    """A study to be read; None where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    try:
        study = optuna.load_study(study_name=name, storage=_storage(url))
    except KeyError:
        return None
    if "search" not in study.user_attrs:
        raise InputError(f"study {name!r} in {public(url)} was made by another program")
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended by themselves: complete, pruned or failed."""
    return [t for t in study.trials if t.state.is_finished()]


def cut(study: optuna.Study) -> list[optuna.Trial]:
    """The trials that were cut off: to be given out again. Call it only while the study is held alone."""
    study.sampler = Sampler(study.user_attrs["search"]["seed"])
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.trial.Trial(study, t._trial_id) for t in running]


class Sampler(optuna.samplers.BaseSampler):
    """TPE without a state: what it draws depends on the seed, the trial's number, the parameter's name, and the trials
    before alone. So a study that was cut off, even between two parameters, ends like one that was not.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _tpe(self, trial: FrozenTrial, name: str = "") -> optuna.samplers.TPESampler:
        return optuna.samplers.TPESampler(seed=zlib.crc32(f"{self.seed} {trial.number} {name}".encode()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return self._tpe(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return self._tpe(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._tpe(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


def _directions(url: str, name: str, objectives: Names) -> Names:
    """The objectives, unless the stored study has another number of them: then say so before Optuna does."""
    try:
        stored = optuna.load_study(study_name=name, storage=_storage(url))
    except KeyError:
        return objectives
    if len(stored.directions) != len(objectives):
        _same(stored, {"objectives": list(objectives)})
        raise InputError(f"study {name!r} in {public(url)} was made by another program; give another --study-name")
    return objectives


def _same(study: optuna.Study, search: Mapping[str, Any]) -> None:
    """Refuse to go on with a study that was begun as another search."""
    begun = study.user_attrs.get("search")
    if begun is None:
        if study.trials:
            raise InputError(f"study {study.study_name!r} was made by another program; give another --study-name")
        study.set_user_attr("search", dict(search))
        return
    for key, now in search.items():
        if begun.get(key) != now:
            raise InputError(
                f"study {study.study_name!r} was begun with {key} = {begun.get(key)!r}, and is now asked with {now!r}; "
                "give the same again to go on with it, or another --study-name to begin anew"
            )


def _storage(url: str) -> optuna.storages.RDBStorage:
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except Exception as error:  # SQLAlchemy, the driver, or its absence
        raise _unopened(url, error) from error


def _unopened(url: str, error: Exception) -> InputError:
    first = str(error).splitlines()[0]
    return InputError(f"--storage {public(url)} cannot be opened ({type(error).__name__}: {first})")


@contextmanager
def _exclusive(url: str, name: str) -> Iterator[None]:
    """One driver a study, by a lock that dies with its holder: beside an SQLite file, or in the PostgreSQL server."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        with machine.exclusive(Path(f"{path}.{name}.lock"), f"study {name!r} is running"):
            yield
    elif url.startswith("postgresql"):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        try:
            connection = engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise _unopened(url, error) from error
        with connection:
            number = zlib.crc32(name.encode())
            if not connection.execute(
                sqlalchemy.text("select pg_try_advisory_lock(7, :n)"), {"n": number - 2**31}
            ).scalar():
                raise InputError(f"study {name!r} is running in another process; wait for it")
            connection.commit()  # the lock is of the connection, not of the transaction
            yield
    else:
        yield
