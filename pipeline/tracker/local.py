"""An MLflow store in an SQLite file: its URI, its creation, and the correction of its locations after a move.

MLflow stores the absolute locations of artifacts. If the folder with `mlflow.db` and `mlruns/` is moved or copied, they
still lead to the old folder. They are therefore compared with the working directory whenever the store is opened.
"""

import json
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from pipeline import machine
from pipeline.tracker.journal import ARTIFACTS, unsent_runs
from variants import InputError

COLUMNS = (  # where MLflow stores the locations of artifacts, apart from those of experiments
    ("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("model_versions", "source"),
    ("model_versions", "storage_location"), ("trace_tags", "value"),
)  # fmt: skip
TIMEOUT = 60.0  # seconds for which another process may lock the file
DEFAULT = 0  # the id of the experiment that MLflow creates with each store


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file, in which `%`, `?` and `#` of its path are escaped.

    It names the driver, because MLflow would otherwise create a folder whose name is the escaped path.
    """
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the SQLite file of a URI; None if the URI is that of anything else."""
    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)).absolute() if is_file else None


def without_credentials(uri: str) -> str:
    """Return a URI as messages show it: the path of an SQLite file, and any other URI without its password."""
    path = sqlite_path(uri)
    if path:
        return str(path)
    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Let only one process at a time open an SQLite store, since two that create its tables at the same time crash.

    A new store is created under another name and then renamed, since one whose creation was interrupted cannot be
    opened any more. It is written to the disk once, before it is renamed, and not after each of about 100 statements.
    """
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    machine.writable(path.parent)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            event.listen(Engine, "connect", _do_not_sync)
            try:
                MlflowClient(sqlite_uri(part)).search_experiments(max_results=1)
            finally:
                event.remove(Engine, "connect", _do_not_sync)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        yield


def _do_not_sync(connection: sqlite3.Connection, _: object) -> None:
    """Let a new connection leave it to the system when what it writes reaches the disk, which saves seconds."""
    connection.execute("PRAGMA synchronous = OFF")


def follow_move(path: Path) -> None:
    """If a store in the working directory was moved or copied here, correct the locations of its artifacts.

    Only the locations of artifacts that came along in `mlruns/` are changed. An experiment whose artifacts are meant to
    be somewhere else keeps its location.

    Raises:
        InputError: If the artifacts did not come along, or the store cannot be written to.
    """
    try:
        with closing(_connect(path)) as connection:
            if not _moved(connection):
                return
    except sqlite3.Error:  # the file is damaged, which MLflow reports when it opens the file
        return
    machine.writable(path.parent)
    with FileLock(f"{path}.lock"), closing(_connect(path)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            moved = _moved(connection)
            has_runs = _check_artifacts(path, moved, connection)
            for old, new in moved.items():
                _replace(connection, old, new)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise InputError(
                f"{path} was moved, and the locations of its artifacts cannot be corrected ({error}); try again when "
                "no other program uses the file"
            ) from error
    if has_runs:
        warnings.warn(
            f"{path} was moved or copied, so the locations of its artifacts were changed from {_folders(moved)} to "
            f"{ARTIFACTS.absolute()}",
            stacklevel=3,
        )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)


def _moved(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the locations of experiments that lead to another `mlruns/`, each with the location that is right here.

    An experiment was moved if its folder is in the `mlruns/` of the working directory. All others were moved with it if
    they are in the same old `mlruns/` as the experiment Default, and none has ever been created here.
    """
    here = ARTIFACTS.absolute()
    rows = connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
    folders = {location: path for _, location in rows if (path := _path(location)) and path.parent.name == here.name}
    default = next((folders[location].parent for i, location in rows if i == DEFAULT and location in folders), None)
    if default is not None and default.resolve() == here.resolve():
        return {}
    if any(path.parent.resolve() == here.resolve() for path in folders.values()):
        default = None
    return {
        location: (here / path.name).as_uri() if location.startswith("file:") else str(here / path.name)
        for location, path in folders.items()
        if path.parent.resolve() != here.resolve() and (path.parent == default or (here / path.name).is_dir())
    }


def _path(location: str | None) -> Path | None:
    """Return the path of a location on this machine, a `file:` URI or a plain path; None for any other location."""
    location = location or ""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return Path(location) if Path(location).is_absolute() else None


def _check_artifacts(path: Path, moved: Mapping[str, str], connection: sqlite3.Connection) -> bool:
    """Return whether these experiments have runs. Raises `InputError` if they do, but none has its artifacts here."""
    query = "SELECT artifact_location FROM experiments WHERE experiment_id IN (SELECT experiment_id FROM runs)"
    used = [folder for (old,) in connection.execute(query) if (folder := _path(moved.get(old)))]
    unsent = {experiment for experiment, _ in unsent_runs()}
    if used and not any(folder.is_dir() or folder.name in unsent for folder in used):
        raise InputError(
            f"{path} was moved or copied without the artifacts of its runs, which were in {_folders(moved)}; move or "
            f"copy that folder to {ARTIFACTS.absolute()}, or give {path.name} another name to start without its runs"
        )
    return bool(used)


def _folders(locations: Iterable[str]) -> str:
    return ", ".join(sorted({str(path.parent) for location in locations if (path := _path(location))}))


def _replace(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the location of an experiment, those of its runs, models and traces, and those of data beside it."""
    connection.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old))
    for table, column in COLUMNS:
        _replace_start(connection, table, column, f"{old}/", f"{new}/")
    before, after = (f"{path.parent.parent}/" for location in (old, new) if (path := _path(location)))
    _replace_start(connection, "experiment_tags", "value", before, after)
    start_of_source = '{"place": '  # what `Source.json` returns begins with it
    before, after = (start_of_source + json.dumps(folder)[:-1] for folder in (before, after))
    _replace_start(connection, "datasets", "dataset_source", before, after)


def _replace_start(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    """Replace `old` by `new` in the values of a column that start with `old`."""
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
        (new, len(old) + 1, len(old), old),
    )
