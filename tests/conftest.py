"""Fixtures with real stores and real processes. Each test of a command runs in its own empty folder."""

import http.server
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # also of studies that tests run, because tests run side by side
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each process that a test starts would compile torch again
if "VARIANTS_DATA" in os.environ:  # relative to the folder of pytest, not to that of the test
    os.environ["VARIANTS_DATA"] = str(Path(os.environ["VARIANTS_DATA"]).resolve())
ROOT = Path(__file__).parents[1]
REQUIRED = set(os.environ.get("VARIANTS_REQUIRE", "").split(","))  # data, browser, database: what CI must not skip

from pipeline import machine  # noqa: E402

machine.prepare(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the contract tests, such as cuda (cpu)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but one in N cases of each test that is marked `one_in(N)`, by the order of a hash."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("one_in"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_test in cases.values():
        (share,) = of_test[0].iter_markers("one_in")
        of_test.sort(key=lambda item: zlib.crc32(item.name.encode()))
        for item in of_test[math.ceil(len(of_test) / share.args[0]) :]:
            item.add_marker(pytest.mark.slow)


def needs(what: str, why: str) -> None:
    """Skip a test that needs something; fail it if VARIANTS_REQUIRE says that this must be available."""
    if what in REQUIRED:
        pytest.fail(f"{why}, and VARIANTS_REQUIRE names {what}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    folder = Path(os.environ.get("VARIANTS_DATA", "nowhere"))
    if not (folder / "MNIST" / "raw").is_dir():
        needs("data", "VARIANTS_DATA names no folder with MNIST/raw")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        needs("browser", "no Chromium is installed")
    return str(path)


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of an empty PostgreSQL database."""
    if servers.postgres_programs() is None:
        needs("database", "PostgreSQL is not installed")
    with servers.postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow store with its tables, which take a second to create and a moment to copy."""
    from pipeline.tracker.local import first_use, sqlite_uri

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    with first_use(sqlite_uri(path)):
        return path


@pytest.fixture
def folder(tmp_path: Path, _template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in a new working directory with a new store of MLflow."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(_template, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures, which take most of the time of a short study."""
    monkeypatch.setattr("pipeline.evaluate.pictures.all_of", lambda *_: {})
    monkeypatch.setattr("pipeline.study.summary.figures", lambda *_: [])


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@pytest.fixture
def command(folder: Path) -> Command:
    """Return a function that runs `python -m pipeline.NAME ...` as a person would, in the folder of the test."""

    def run(name: str, *words: str, cwd: Path | str = folder) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", f"pipeline.{name}", *words]
        return subprocess.run(line, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that does the same in this process, without the seconds that a new one takes to start."""
    from pipeline import cli

    def run(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        is_package = (ROOT / "pipeline" / name).is_dir()
        module = importlib.import_module(f"pipeline.{name}" + ".__main__" * is_package)
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(module.main)
        return subprocess.CompletedProcess([name, *words], ended.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]

    return run


class Receiver(http.server.BaseHTTPRequestHandler):
    """A receiver of notifications, which keeps what is posted to it."""

    messages: list[dict[str, str]]

    def do_POST(self) -> None:
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """Yield what is received at the address in VARIANTS_NOTIFY."""
    Receiver.messages = []
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("VARIANTS_NOTIFY", f"json://127.0.0.1:{server.server_port}/?secret=hush")
    yield Receiver.messages
    server.shutdown()
    server.server_close()
    thread.join()
