"""The Optuna store: studies are created or opened here, and their trials are read."""

import re
import shlex
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

import variants
from pipeline import machine
from pipeline.metrics import OBJECTIVES
from pipeline.tracker import State, sqlite_path, without_credentials
from variants import Config, InputError

CONFIG = "config"  # the user attribute of a trial that holds its whole configuration, fixed values included
REMARK = "remark"  # the attribute of a trial whose model has collapsed or is no better than trivial
EPOCHS = "epochs"  # the attribute of a finished trial: the number of epochs that it was trained for
SECONDS = "seconds"  # the attribute of a finished trial: how long training, validation and scoring took
PRIOR = "prior"  # the attribute of a study: the names of the studies that it started from, and their configurations
BITS = "bits"  # the attribute of a study: bits per dimension of validation data without a model, by its title
BASELINES = "baselines"  # the attribute of a study: log p(x) of validation data under each baseline, by its title
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip


@contextmanager
def open_study(url: str, name: str, objectives: tuple[str, ...], search: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """Open a study, or create it, and keep other processes from running it until the block ends.

    `search` describes what is searched. It is stored with a new study, and compared with that of an existing one.

    Raises:
        InputError: If the store cannot be opened, another process runs the study, or it searches something else.
    """
    _silence()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"--study-name {name!r}: expected letters, digits, '.', '_' and '-'")
    with _exclusive(url, name):
        study = optuna.create_study(
            storage=_storage(url),
            study_name=name,
            directions=_directions(url, name, objectives),
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # trials decide by `pruning`
        )
        _check_search(study, search)
        study.set_metric_names(list(objectives))
        if "uid" not in study.user_attrs:
            study.set_user_attr("uid", uuid.uuid4().hex[:8])
        yield study


@contextmanager
def join_study(url: str, name: str) -> Iterator[optuna.Study]:
    """Open a study that a driver runs, in a process that runs one of its trials."""
    _silence()
    storage = _storage(url)
    try:
        yield optuna.load_study(study_name=name, storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def load_study(url: str, name: str) -> optuna.Study | None:
    """Open a study to read it. Return None if there is none of that name."""
    study = _existing(url, name)
    if study is not None and "search" not in study.user_attrs:
        raise _foreign(name)
    return study


def stored_objectives(url: str, name: str) -> tuple[str, ...]:
    """Return the objectives that a study was started with; empty if there is no study of that name."""
    study = _existing(url, name)
    return () if study is None else tuple(study.user_attrs.get("search", {}).get("objectives", ()))


def stored_precision(url: str, name: str) -> str | None:
    """Return the precision of trainings that a study was started with; None if there is no study of that name."""
    study = _existing(url, name)
    return None if study is None else str(study.user_attrs.get("search", {}).get("fix", {}).get("precision", "fp32"))


def _existing(url: str, name: str) -> optuna.Study | None:
    _silence()
    path = sqlite_path(url)
    if path and not path.exists():
        return None
    try:
        return optuna.load_study(study_name=name, storage=_storage(url))
    except KeyError:
        return None


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are complete, pruned or failed."""
    return [t for t in study.trials if t.state.is_finished()]


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are complete."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def best_values(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, tuple[float, int]]:
    """Return the best value of each objective, taken by itself, and the number of its trial."""
    best: dict[str, tuple[float, int]] = {}
    for i, name in enumerate(objectives):
        pick = max if OBJECTIVES[name].better == "maximize" else min
        if complete := complete_trials(study):
            trial = pick(complete, key=lambda t: float(t.values[i]))
            best[name] = (trial.values[i], trial.number)
    return best


def stored_config(trial: FrozenTrial | optuna.Trial, variant: str) -> Config | None:
    """Return the configuration that a trial was given; None if an older version of this program did not store it.

    Raises:
        InputError: If the configuration does not fit today's variant any more.
    """
    values = trial.user_attrs.get(CONFIG)
    if values is None:
        return None
    try:
        name, config = variants.restore(variant, values)
        if name != variant:
            raise InputError(f"it belongs to the variant {name} today")
    except (TypeError, InputError) as error:
        raise InputError(
            f"trial {trial.number} was run with a configuration that {variant} does not accept any more ({error}); "
            "restore the variant, or start a study of another --study-name"
        ) from error
    return config


def interrupted_trials(study: optuna.Study) -> list[optuna.Trial]:
    """Return the trials whose process died. Call this only inside `open_study`, before a trial of it runs."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.trial.Trial(study, t._trial_id) for t in running]


def _directions(url: str, name: str, objectives: tuple[str, ...]) -> list[Literal["minimize", "maximize"]]:
    """Return the direction of each objective. Raises `InputError` if the stored study has another number of them."""
    try:
        stored = optuna.load_study(study_name=name, storage=_storage(url))
    except KeyError:
        stored = None
    if stored and len(stored.directions) != len(objectives):
        _check_search(stored, {"objectives": list(objectives)})
        raise _foreign(name)
    return [OBJECTIVES[o].better for o in objectives]


def _check_search(study: optuna.Study, search: Mapping[str, Any]) -> None:
    """Store what a new study searches. Raises `InputError` if an existing study searches something else."""
    stored = study.user_attrs.get("search")
    if stored is None:
        if study.trials:
            raise _foreign(study.study_name)
        study.set_user_attr("search", dict(search))
        return
    for key, value in search.items():
        if key == "digest" and stored[key] != value:
            raise InputError(
                f"study {study.study_name!r} {other_data(stored.get('data', ''), search['data'])}; give the same data "
                "to continue it, or another --study-name to start a new one"
            )
        if key != "data" and stored.get(key, value) != value:  # older versions stored no patience
            raise InputError(
                f"study {study.study_name!r} was started with {key} = {stored[key]!r}, and {value!r} is asked for "
                "now; give the same value to continue it, or another --study-name to start a new one"
            )


def other_data(before: str, now: str) -> str:
    """Say that a study was started on other data.

    `before` and `now` are the options that name the data and say how they are read; `before` is "" if not known.
    """
    if before == now:
        return f"was started before the values, labels or splits of {now} changed"
    return f"was started on {before or 'other data'}; the values, labels or splits of {now} differ from them"


def _foreign(name: str) -> InputError:
    return InputError(f"study {name!r} was made by another program; give another --study-name or --storage")


def _storage(url: str) -> optuna.storages.RDBStorage:
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except Exception as error:  # of SQLAlchemy, of the database's driver, or because that is not installed
        raise _cannot_open(url, error) from error


def _cannot_open(url: str, error: Exception) -> InputError:
    shown = url if sqlite_path(url) else without_credentials(url)
    if "optuna storage upgrade" in str(error):
        return InputError(
            f"--storage {shown} was written by an older version of Optuna; this command brings it up to date:  "
            f"optuna storage upgrade --storage {shlex.quote(shown)}"
        )
    first = (str(error).splitlines() or [""])[0]
    return InputError(f"--storage {shown} cannot be opened ({type(error).__name__}: {first})")


def as_os_error(error: Exception) -> OSError:
    """Return an error of the Optuna store as an `OSError` with the reason, which keeps it in other processes too."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return OSError((str(cause or error).splitlines() or [""])[0])


@contextmanager
def _exclusive(url: str, name: str) -> Iterator[None]:
    """Let one process run a study, by a lock file beside an SQLite file, or a lock of the PostgreSQL server.

    The lock is released when the process ends, however it ends.
    """
    path = sqlite_path(url)
    if path:
        with machine.exclusive(Path(f"{path}.{name}.lock"), f"study {name!r} is running"):
            yield
    elif url.startswith("postgresql"):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        try:
            connection = engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise _cannot_open(url, error) from error
        with connection:
            number = zlib.crc32(name.encode())
            if not connection.execute(
                sqlalchemy.text("select pg_try_advisory_lock(7, :n)"), {"n": number - 2**31}
            ).scalar():
                raise InputError(f"study {name!r} is running in another process; wait for it")
            connection.commit()  # the lock belongs to the connection, not to the transaction
            yield
    else:
        yield
