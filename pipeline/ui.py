"""`python -m pipeline.ui`: Look at the runs in MLflow.

This starts MLflow's web page on this machine only (127.0.0.1), and prints a link that opens a view with curves and
sample grids. It needs a fifth of the memory of a plain `mlflow ui`, which shows the same runs in the same folder. Stop
it with Ctrl-C. If MLFLOW_TRACKING_URI is the address of a server, only the link is printed.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from pipeline import cli
from variants import InputError

BY_CRITERION = ("Variants by elbo", "Variants by probe", "Variants by reconstruction")
VIEWS = ("Trials", "Variants", *BY_CRITERION, "Samples", "Reruns")
START_TIMEOUT = 120  # seconds within which MLflow must start


def main(argv: list[str]) -> int:
    parser = cli.parser("ui", str(__doc__).split(": ", 1)[1])
    parser.add_argument("--dataset", metavar="NAME|PATH", help="data set whose runs to show (that of the newest run)")
    parser.add_argument("--view", choices=VIEWS, default="Trials", help="view to open (Trials)")
    parser.add_argument("--port", type=cli.positive, metavar="N", help="port on 127.0.0.1 (5000)")
    parser.add_argument("--open", action="store_true", help="open the link in the browser")
    arguments = parser.parse_args(argv)

    from pipeline.tracker import tracking_uri, views

    port = arguments.port or views.PORT
    uri = tracking_uri()
    experiment = _experiment(uri, arguments.dataset)
    link = views.link(uri, experiment, arguments.view, port)
    if uri.startswith(("http:", "https:")):
        print(link)
        if arguments.open:
            webbrowser.open(link)
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--port {port} cannot be used on 127.0.0.1 ({error}); choose another with --port"
            ) from error
    server = _start(uri, port)
    try:
        _wait(server, port)
        print(f"{arguments.view}: {link}\n(stop it with Ctrl-C)", flush=True)
        if arguments.open:
            webbrowser.open(link)
        return server.wait()
    finally:
        server.terminate()
        server.wait()


def _experiment(uri: str, dataset: str | None) -> str:
    """Return the id of the experiment of a data set; without a name, of the newest run."""
    from mlflow import MlflowClient

    from pipeline.data import name_of
    from pipeline.tracker import sqlite_path

    path = sqlite_path(uri)
    if path and not path.exists():
        raise InputError(f"there is no {path}; start in the folder in which a study was run")
    client = MlflowClient(uri)
    experiments = {e.name: e.experiment_id for e in client.search_experiments() if e.name != "Default"}
    if dataset is not None and dataset not in experiments and Path(dataset).expanduser().exists():
        dataset = name_of(Path(dataset).expanduser())
    if dataset is not None and dataset not in experiments:
        names = ", ".join(experiments) or "no data set"
        raise InputError(f"--dataset {dataset}: there are no runs on it here; there are runs on {names}")
    if not experiments:
        raise InputError("there are no runs here yet; `python -m pipeline.study --variant beta` makes some")
    if dataset is not None:
        return experiments[dataset]
    newest = client.search_runs(list(experiments.values()), max_results=1, order_by=["attributes.start_time DESC"])
    return newest[0].info.experiment_id if newest else next(iter(experiments.values()))


def _start(uri: str, port: int) -> "subprocess.Popen[bytes]":
    """Start MLflow on loopback, with one worker, no job runner and no telemetry, and without its output."""
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    line = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    print("starting MLflow ...", file=sys.stderr, flush=True)
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < START_TIMEOUT:
        if server.poll() is not None:
            raise InputError(f"MLflow ended with code {server.returncode}; `mlflow ui --port {port}` shows why")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise InputError(f"MLflow did not answer on port {port} within {START_TIMEOUT} seconds")


if __name__ == "__main__":
    cli.run(main)
