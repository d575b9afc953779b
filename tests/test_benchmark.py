"""A suite rerun for real: its runs, its baseline, what it says of a fault, and who hears of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import stores
from conftest import Command, environment
from test_page import CARD, LINES, browser, page_of

from pipeline.benchmark import history, page, rerun, summary, verdicts
from pipeline.benchmark.__main__ import main
from pipeline.benchmark.finish import finish
from pipeline.benchmark.history import Rerun
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.tracker import Tracker
from studies import benchmark as suites
from studies.anchors import ANCHORS, Anchor, Budget, Training
from studies.benchmark import Case, Suite
from variants import InputError
from variants.base import closed_forms

SUITE = '''
"""A suite of another package: two variants, a few epochs."""

from studies.benchmark import Case, Suite


def tiny():
    small = {"latent": 4, "width": 32, "batch": 64}
    aae = Case("aae", "digits", 2, {**small, "adversary_width": 32})
    return Suite(
        about="a test", cost="seconds", cases={"vae": Case("vae", "digits", 3, {**small, "lr": 3e-3}), "aae": aae},
        seeds=3, parts=("bounds",), sizes={"iw_k": 10, "iw_n": 50},
        judged={"test/elbo": 0.002, "test/reconstruction": 0.05},
    )
'''


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's folder, in which a package is installed that brings the suite `tiny`."""
    plugin(folder / "packages")
    monkeypatch.syspath_prepend(str(folder / "packages"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    return folder


def plugin(resources: Path) -> None:
    facts = resources / "tiny_suite-1.0.dist-info"
    facts.mkdir(parents=True)
    (resources / "tiny_suite.py").write_text(SUITE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-suite\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[vae.suites]\ntiny = tiny_suite:tiny\n")


def once(**more: object) -> Outcome:
    return rerun.run(rerun.RerunRequest(suite="tiny", compute=Compute(threads=1), **more), Display())  # type: ignore[arg-type]


def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The KL costs nothing."""
    monkeypatch.setattr(closed_forms, "free_bits", lambda kl, floor: 0 * kl.sum())


@pytest.mark.slow
def test_a_fault_is_confirmed_called_worse_and_told(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, receiver: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = once()
    assert first.word == "no history"
    assert "4 more are needed" in first.missing
    tracker = Tracker("benchmark-tiny")
    with pytest.raises(InputError, match="1 reruns of tiny"):
        history.pin(tracker, "tiny", "v1", 20, "now")
    for _ in range(4):
        once()
    assert len(history.pin(tracker, "tiny", "v1", 20, "2026-01-01T00:00:00+00:00")) == 5
    with pytest.raises(InputError, match="there is a baseline of that name"):
        history.pin(tracker, "tiny", "v1", 20, "now")
    honest = once()
    assert honest.word in ("ok", "better")
    assert honest.changes == []  # the fixed seeds give the same bits
    assert finish(honest, Display(), Path("reports")) == 0
    assert receiver == []

    faulty(monkeypatch)
    bad = once(aside=True)
    assert bad.word == "worse"
    assert bad.again is not None
    assert set(bad.again.cases) == {"vae"}  # what did not look worse is not trained again
    assert {x.series: x.word for x in bad.lines}["vae/test/elbo"] == "worse"
    assert {x.series: x.word for x in bad.lines}["aae/test/reconstruction"] == "ok"
    assert bad.changes == ["the same seed gives other numbers: vae"]
    assert finish(bad, Display(), Path("reports")) == 1
    assert len(receiver) == 1
    assert receiver[0]["title"] == "Benchmark tiny: worse"
    assert "vae | test/elbo" in receiver[0]["message"]
    run = next(r for r in stores.runs("rerun", "benchmark-tiny") if r.info.run_id == bad.rerun.run)
    assert run.data.tags["verdict"] == "worse"
    assert "vae | test/elbo" in run.data.tags["mlflow.note.content"]
    stored = json.dumps([r.data.to_dictionary() for r in stores.runs("rerun", "benchmark-tiny")])
    assert "hush" not in stored + capsys.readouterr().out

    html = Path("reports/benchmark-tiny/benchmark.html").read_text()
    assert html.count("<svg") == 3
    assert "http" not in html.replace("http://127.0.0.1:5000/", "").replace("http://www.w3.org", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pages_in_a_browser(tiny: Path, chromium: str) -> None:
    """Ours needs no network and fits a phone; MLflow's draws each metric over the reruns."""
    once()
    once()
    path = page.write("tiny", Path("reports"))
    with browser(chromium) as window:
        asked: list[str] = []
        window.on("request", lambda r: asked.append(r.url))
        for width in (1280, 390):
            window.set_viewport_size({"width": width, "height": 900})
            window.goto(path.absolute().as_uri())
            assert window.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert window.locator("svg.spark").count() == 3
        assert window.locator("svg.spark a circle").count() == 6
        assert "no history" in window.inner_text(".answer")
    with page_of(tiny, "--dataset", "benchmark-tiny", "--view", "Reruns") as link, browser(chromium) as window:
        window.goto(link)
        window.wait_for_selector(CARD)
        window.wait_for_function(f"() => {LINES}.length >= 3")  # lines of two points
        assert "vae/test/elbo" in window.inner_text("body")


def test_a_rerun_in_mlflow(tiny: Path) -> None:
    """Means and spreads, trainings below it, the environment; the page; and the same again goes on where it was cut."""
    found = once()
    runs = stores.runs("rerun", "benchmark-tiny")
    trainings = stores.runs("final", "benchmark-tiny")
    assert len(runs) == 1
    assert len(trainings) == 2 * (3 + 1)
    assert {t.data.tags["mlflow.parentRunId"] for t in trainings} == {runs[0].info.run_id}
    fresh = [t for t in trainings if t.data.tags["role"] == "fresh" and t.data.tags["case"] == "vae"]
    values = [t.data.metrics["test/elbo"] for t in fresh]
    assert runs[0].data.metrics["vae/test/elbo"] == pytest.approx(sum(values) / 3)
    assert runs[0].data.metrics["vae/speed/examples_per_second"] > 0
    assert len({t.data.tags["seed"] for t in trainings}) == 4
    tags = runs[0].data.tags
    assert {"hardware", "threads", "torch", "python", "cases", "data", "bits", "verdict"} <= set(tags)
    assert "torch==" in Tracker("benchmark-tiny").text(runs[0].info.run_id, "packages.txt")
    assert "no history" in summary.markdown(found)
    assert page.write("tiny", Path("reports")).exists()
    with pytest.raises(InputError, match="never rerun"):
        page.write("smoke", Path("reports"))


def test_a_training_that_fails_is_told_with_its_reason(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_forms, "free_bits", lambda kl, floor: kl.sum() * float("nan"))
    found = once()
    assert found.word == "failed"
    assert "left the real numbers" in summary.markdown(found)
    assert "vae/test/elbo" not in found.rerun.metrics
    assert "aae/test/reconstruction" in found.rerun.metrics


def test_figures_of_an_anchor_are_judged_by_its_expectation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(variant="vae", settings={"latent": 4, "width": 32, "batch": 64}, epochs=2, dataset="digits")
    budget = Budget({"vae": training}, {"vae/-elbo": ("<=", 50.0)}, {"k": 5, "n": 50})
    anchor = Anchor(
        about="a test",
        source="nowhere",
        published={},
        differs="everything",
        measure="likelihoods",
        budgets={"cpu": budget},
        cost="seconds",
    )
    monkeypatch.setitem(ANCHORS, "tiny-anchor", anchor)
    suite = Suite(about="a test", cost="seconds", anchors=("tiny-anchor",), seeds=2)
    monkeypatch.setattr(suites, "get", lambda name: suite)
    found = once()
    assert [x.series for x in found.lines] == ["tiny-anchor/vae/-elbo"]
    assert verdicts.series_of(suite, found.rerun) == {"tiny-anchor/vae/-elbo": ("minimize", 0.01)}
    sample = found.rerun.sample("tiny-anchor/vae/-elbo")
    assert sample is not None
    assert sample.n == 2
    assert sample.sd > 0
    assert 20 < sample.mean < 80
    assert not Path("checkpoints").exists() or not list(Path("checkpoints").iterdir())


def test_a_number_that_is_gone_is_a_failure() -> None:
    suite = Suite(
        about="", cost="", cases={"vae": Case("vae", "digits", 1)}, judged={"test/elbo": 0.01, "sample/frechet": 0.1}
    )
    tags = {"cases": json.dumps({"vae": "1"}), "seeds": "2"}

    def made(day: int, **numbers: float) -> Rerun:
        return Rerun(
            "r",
            {**tags, "rerun": str(day), "started": f"2026-01-{day:02}"},
            {k: v + day / 100 for k, v in numbers.items()},
        )

    both = {"vae/test/elbo": -20.0, "vae/sample/frechet_aaaaaa": 3.0}
    base = [made(day, **both) for day in range(1, 7)]
    gone = verdicts.lines(suite, made(7, **{"vae/test/elbo": -20.0}), base, base)
    assert {x.series: x.word for x in gone} == {"vae/sample/frechet_aaaaaa": "failed", "vae/test/elbo": "ok"}
    other = made(7, **{"vae/test/elbo": -20.0, "vae/sample/frechet_bbbbbb": 3.0})  # another judge: another figure
    assert {x.series: x.word for x in verdicts.lines(suite, other, base, base)} == {
        "vae/sample/frechet_bbbbbb": "no history", "vae/test/elbo": "ok"
    }  # fmt: skip
    changed = Rerun("r", {**made(7).tags, "cases": json.dumps({"vae": "2"})}, {"vae/test/elbo": -90.0})
    assert {x.word for x in verdicts.lines(suite, changed, base, base)} == {"no history"}  # the case is another


def test_speed_is_compared_on_the_same_hardware_only() -> None:
    suite = Suite(about="", cost="", cases={"vae": Case("vae", "digits", 1)}, judged={"speed/standard": 0.08})

    def made(day: int, value: float, hardware: str) -> Rerun:
        tags = {
            "cases": json.dumps({"vae": "1"}),
            "rerun": str(day),
            "started": f"2026-01-{day:02}",
            "hardware": hardware,
        }
        return Rerun("r", tags, {"vae/speed/standard": value})

    base = [made(day, 100 + day, "here") for day in range(1, 8)]
    assert verdicts.lines(suite, made(8, 50, "here"), base, base)[0].word == "suspect"
    assert verdicts.lines(suite, made(8, 50, "there"), base, base)[0].word == "no history"


@pytest.mark.slow
def test_a_rerun_that_was_killed_goes_on(tiny: Path) -> None:
    line = [sys.executable, "-m", "pipeline.benchmark", "tiny", "--threads", "1"]
    env = {**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}:{tiny / 'packages'}"}
    first = subprocess.Popen(line, env=env, cwd=tiny, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for text in first.stdout:
        if "done" in text:
            first.kill()
            break
    first.wait()
    first.stdout.close()
    done = subprocess.run(line, env=env, cwd=tiny, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = stores.runs("rerun", "benchmark-tiny")
    assert len(runs) == 1
    trainings = stores.runs("final", "benchmark-tiny")
    assert len(trainings) == 8
    assert {t.data.tags["state"] for t in trainings} == {"complete"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smok",), "smoke, nightly, paper"),
        (("smoke", "--last", "5"), "--pin NAME"),
        (("smoke", "--report"), "never rerun here"),
        (("smoke", "--pin", "v1"), "0 reruns of smoke"),
    ],
)
def test_bad_usage_is_said(folder: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        main(list(words))


def test_an_address_that_is_none_is_refused_before_work(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIANTS_NOTIFY", "nowhere://user:hush@host")
    done = command("benchmark", "smoke")
    assert done.returncode == 2
    assert "address 1 (nowhere://...)" in done.stderr
    assert "hush" not in done.stderr
