"""PostgreSQL and MLflow servers for tests and scripts, on loopback, each in its own folder."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def postgres_programs() -> Path | None:
    """Return the folder of initdb and postgres; None if PostgreSQL is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    path = installed[-1] if installed else Path(shutil.which("initdb") or "/nowhere")
    return path.parent if path.exists() else None


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a database in a new server, which runs as another user because it refuses to run as root."""
    programs = postgres_programs()
    assert programs is not None
    port = free_port()
    user: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("postgres" if any(u.pw_name == "postgres" for u in pwd.getpwall()) else "nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        for parent in folder.parents:  # the other user must be able to enter the folder
            with contextlib.suppress(PermissionError):
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    data = folder / "db"
    subprocess.run([programs / "initdb", "-D", data, "-U", "variants", "-A", "trust", "-N"], check=True, **quiet)  # type: ignore[call-overload]
    options = ["-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen([programs / "postgres", *options], **quiet)  # type: ignore[call-overload]
    try:
        line = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "variants", "optuna"]
        until(lambda: subprocess.run(line, check=False, **quiet).returncode == 0)  # type: ignore[call-overload]
        yield f"postgresql://variants@127.0.0.1:{port}/optuna"
    finally:
        server.send_signal(signal.SIGINT)  # a "fast" shutdown, which does not wait for connections to end
        server.wait(timeout=30)


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until a condition holds. Raises `TimeoutError` if it does not after some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a server did not come up")
        time.sleep(0.2)


class MLflowServer:
    """`mlflow server` in a folder; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        line = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--artifacts-destination",
            str(self.folder / "artifacts"), "--serve-artifacts",
        ]  # fmt: skip
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        nowhere = subprocess.DEVNULL
        self._process = subprocess.Popen(
            line, cwd=self.folder, env={**os.environ, **light}, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
        until(self._up)

    def _up(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kill the server and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
