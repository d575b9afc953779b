"""The page that a study's link opens, in a real browser."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, environment

from pipeline.executor import Compute
from pipeline.study.driver import StudyRequest, run
from pipeline.tracker import Tracker, views

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CARD = "[data-testid=experiment-view-compare-runs-card]"
WAIT = 90_000  # milliseconds: a shared machine may be slow
LINES = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data.filter(d => d.x && d.x.length > 1))"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def page_of(folder: Path, *words: str) -> Iterator[str]:
    """Run `python -m pipeline.ui`, and yield the link that it prints."""
    line = [sys.executable, "-m", "pipeline.ui", "--port", str(free_port()), *words]
    server = subprocess.Popen(line, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip().split(": ", 1)[1]
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 130


@contextmanager
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = window.new_page(viewport={"width": 1600, "height": 2600})
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        page.set_default_timeout(WAIT)
        yield page
        window.close()


def drawn(page: Any, images: int) -> None:
    """Wait until that many pictures have been loaded."""
    page.wait_for_function(
        "n => [...document.querySelectorAll('.rc-image-img')]"
        ".filter(i => i.complete && i.naturalWidth > 99).length >= n",
        arg=images,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_link_shows_curves_and_grids_of_every_trial(folder: Path, chromium: str) -> None:
    run(StudyRequest(variant="beta", trials=4, epochs=2, compute=Compute(threads=1)))
    shots = Path(os.environ.get("VARIANTS_SHOTS", folder))
    with page_of(folder) as link, browser(chromium) as page:
        page.goto(link)
        page.wait_for_selector(CARD)
        drawn(page, 8)  # reconstructions and samples of four trials
        page.wait_for_function(f"() => {LINES}.length >= 16")  # four trials in four charts
        headings = [h.inner_text() for h in page.query_selector_all(f"{CARD} h4")]
        sections = page.inner_text("body")
        page.screenshot(path=shots / "trials.png")
        assert page.query_selector(".scatterlayer .trace")
        for title in ("valid/elbo", "valid/reconstruction vs. valid/kl", "valid/kl", "probe/accuracy"):
            assert title in headings
        for name in ("ELBO and its parts", "Pictures", "What the codes are good for", "Search", "Cost"):
            assert name in sections
        for trial in range(4):
            assert f"beta {trial}" in sections
        tracker = Tracker("digits")
        for view in ("Variants", "Samples"):
            page.goto("about:blank")
            page.goto(views.link(tracker.uri, tracker.experiment, view, int(link.split(":")[2].split("/")[0])))
            page.wait_for_selector(CARD)
            if view == "Samples":
                drawn(page, 24)  # six pictures of four trials
            else:
                page.wait_for_selector(".scatterlayer .trace")
            page.screenshot(path=shots / f"{view.lower()}.png")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_plain_mlflow_ui_shows_the_same_runs(folder: Path) -> None:
    run(StudyRequest(variant="vae", trials=1, epochs=1, compute=Compute(threads=1)))
    port = free_port()
    line = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(line, cwd=folder, env={**environment(), **light}, stderr=subprocess.DEVNULL)
    try:
        run_id = Tracker("digits").find(kind="trial")[0].id
        url = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run_id}"
        for _ in range(300):
            try:
                answer = urllib.request.urlopen(url, timeout=5).read().decode()
                break
            except OSError:
                server.poll()
                time.sleep(0.3)
        assert "valid/elbo" in answer
        listed = (
            urllib.request.urlopen(url.replace("runs/get?", "artifacts/list?path=images&"), timeout=30).read().decode()
        )
        assert "reconstructions" in listed
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_a_port_in_use_is_an_error(command: Command, folder: Path) -> None:
    run(StudyRequest(variant="vae", trials=1, epochs=1, compute=Compute(threads=1)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("ui", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "choose another with --port" in done.stderr
    unknown = command("ui", "--dataset", "mnist")
    assert unknown.returncode == 2
    assert "no runs on it here; there are runs on digits" in unknown.stderr


@pytest.mark.slow
def test_without_runs_the_page_says_what_to_do(command: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = command("ui", cwd=empty)
    assert done.returncode == 2
    assert "start in the folder in which a study was run" in done.stderr
