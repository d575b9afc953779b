"""Real reruns of a small suite: their runs in MLflow, the baseline, the verdict on a fault, and the notification."""

import json
import subprocess
import sys
from pathlib import Path

import drills
import pytest
import stores
from conftest import Command, environment
from test_page import CARD, LINES, browser, page_of

from pipeline.benchmark import history, report, rerun, verdicts
from pipeline.benchmark.__main__ import main
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.verdicts import RerunOutcome
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
        smallest_effects={"test/elbo": 0.002, "test/reconstruction": 0.05},
    )
'''


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the test, with an installed package that registers the suite `tiny`."""
    plugin(folder / "packages")
    monkeypatch.syspath_prepend(str(folder / "packages"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    return folder


def plugin(folder: Path) -> None:
    """Write a package to a folder as if it was installed there. Its entry point registers the suite `tiny`."""
    facts = folder / "tiny_suite-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "tiny_suite.py").write_text(SUITE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-suite\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[vae.suites]\ntiny = tiny_suite:tiny\n")


def rerun_tiny(aside: bool = False) -> RerunOutcome:
    return rerun.run(rerun.RerunRequest(suite="tiny", aside=aside, compute=Compute(threads=1)), Display())


def drop_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the KL from the loss."""
    monkeypatch.setattr(closed_forms, "free_bits", lambda kl, floor: 0 * kl.sum())


@pytest.mark.slow
def test_a_fault_is_confirmed_called_worse_and_reported(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, receiver: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = rerun_tiny()
    assert first.verdict == "no history"
    assert "4 more reruns" in first.no_baseline
    tracker = Tracker("benchmark-tiny")
    with pytest.raises(InputError, match="tiny has 1;"):
        history.pin(tracker, "tiny", "v1", 20, "now")
    for _ in range(4):
        rerun_tiny()
    assert len(history.pin(tracker, "tiny", "v1", 20, "2026-01-01T00:00:00+00:00")) == 5
    with pytest.raises(InputError, match="this baseline exists"):
        history.pin(tracker, "tiny", "v1", 20, "now")
    honest = rerun_tiny()
    assert honest.verdict in ("ok", "better")
    assert honest.changes == []  # the fixed seeds give the same numbers
    assert report.publish(honest, Display(), Path("reports")) == 0
    assert receiver == []

    drop_kl(monkeypatch)
    bad = rerun_tiny(aside=True)
    assert bad.verdict == "worse"
    assert bad.confirmation is not None
    assert set(bad.confirmation.cases) == {"vae"}  # what did not look worse is not trained again
    assert {s.series: s.verdict for s in bad.series}["vae/test/elbo"] == "worse"
    assert {s.series: s.verdict for s in bad.series}["aae/test/reconstruction"] == "ok"
    assert bad.changes == ["the same seed gives other numbers: vae"]
    assert report.publish(bad, Display(), Path("reports")) == 1
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
    """The page needs no network and fits a phone, and the view in MLflow draws each metric over the reruns."""
    rerun_tiny()
    rerun_tiny()
    path = report.write_page("tiny", Path("reports"))
    with browser(chromium) as window:
        requests: list[str] = []
        window.on("request", lambda r: requests.append(r.url))
        for width in (1280, 390):
            window.set_viewport_size({"width": width, "height": 900})
            window.goto(path.absolute().as_uri())
            assert window.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert window.locator("svg.spark").count() == 3
        assert window.locator("svg.spark a circle").count() == 6
        assert "no history" in window.inner_text(".answer")
    with page_of(tiny, "--dataset", "benchmark-tiny", "--view", "Reruns") as link, browser(chromium) as window:
        window.goto(link)
        window.wait_for_selector(CARD)
        window.wait_for_function(f"() => {LINES}.length >= 3")  # lines of two points
        assert "vae/test/elbo" in window.inner_text("body")


@pytest.mark.slow
def test_a_rerun_in_mlflow(tiny: Path) -> None:
    """A rerun has means and standard deviations, the runs of its trainings as children, its environment, and a page."""
    outcome = rerun_tiny()
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
    assert "no history" in report.markdown(outcome)
    assert report.write_page("tiny", Path("reports")).exists()
    with pytest.raises(InputError, match="never rerun"):
        report.write_page("smoke", Path("reports"))


@pytest.mark.slow
def test_a_training_that_fails_is_reported_with_its_reason(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_forms, "free_bits", lambda kl, floor: kl.sum() * float("nan"))
    outcome = rerun_tiny()
    assert outcome.verdict == "failed"
    assert "is infinite or not a number" in report.markdown(outcome)
    assert "vae/test/elbo" not in outcome.rerun.metrics
    assert "aae/test/reconstruction" in outcome.rerun.metrics


def test_scores_of_an_anchor_get_a_verdict_if_they_have_an_expectation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    outcome = rerun_tiny()
    assert [x.series for x in outcome.series] == ["tiny-anchor/vae/-elbo"]
    assert verdicts.series_of(suite, outcome.rerun) == {"tiny-anchor/vae/-elbo": ("minimize", 0.01)}
    sample = outcome.rerun.sample("tiny-anchor/vae/-elbo")
    assert sample is not None
    assert sample.n == 2
    assert sample.sd > 0
    assert 20 < sample.mean < 80
    assert not Path("checkpoints").exists() or not list(Path("checkpoints").iterdir())


def test_a_missing_number_is_a_failure() -> None:
    suite = Suite(
        about="",
        cost="",
        cases={"vae": Case("vae", "digits", 1)},
        smallest_effects={"test/elbo": 0.01, "sample/frechet": 0.1},
    )
    tags = {"cases": json.dumps({"vae": "1"}), "seeds": "2"}

    def fake_rerun(day: int, **numbers: float) -> Rerun:
        return Rerun(
            "r",
            {**tags, "rerun": str(day), "started": f"2026-01-{day:02}"},
            {k: v + day / 100 for k, v in numbers.items()},
        )

    both = {"vae/test/elbo": -20.0, "vae/sample/frechet_aaaaaa": 3.0}
    base = [fake_rerun(day, **both) for day in range(1, 7)]
    gone = verdicts.assess_rerun(suite, fake_rerun(7, **{"vae/test/elbo": -20.0}), base, base)
    assert {x.series: x.verdict for x in gone} == {"vae/sample/frechet_aaaaaa": "failed", "vae/test/elbo": "ok"}
    other = fake_rerun(
        7, **{"vae/test/elbo": -20.0, "vae/sample/frechet_bbbbbb": 3.0}
    )  # another classifier is another metric
    assert {x.series: x.verdict for x in verdicts.assess_rerun(suite, other, base, base)} == {
        "vae/sample/frechet_bbbbbb": "no history", "vae/test/elbo": "ok"
    }  # fmt: skip
    changed = Rerun("r", {**fake_rerun(7).tags, "cases": json.dumps({"vae": "2"})}, {"vae/test/elbo": -90.0})
    assert {x.verdict for x in verdicts.assess_rerun(suite, changed, base, base)} == {
        "no history"
    }  # it is another case


def test_speed_is_compared_on_the_same_hardware_only() -> None:
    suite = Suite(about="", cost="", cases={"vae": Case("vae", "digits", 1)}, smallest_effects={"speed/standard": 0.08})

    def fake_rerun(day: int, value: float, hardware: str) -> Rerun:
        tags = {
            "cases": json.dumps({"vae": "1"}),
            "rerun": str(day),
            "started": f"2026-01-{day:02}",
            "hardware": hardware,
        }
        return Rerun("r", tags, {"vae/speed/standard": value})

    base = [fake_rerun(day, 100 + day % 3, "here") for day in range(1, 8)]
    assert verdicts.assess_rerun(suite, fake_rerun(8, 50, "here"), base, base)[0].verdict == "suspect"
    assert verdicts.assess_rerun(suite, fake_rerun(8, 50, "there"), base, base)[0].verdict == "no history"
    crowded = [Rerun("r", {**r.tags, "started": f"2026-01-01T0{i}"}, r.metrics) for i, r in enumerate(base)]
    found = verdicts.assess_rerun(suite, fake_rerun(8, 50, "here"), crowded, crowded)[0]
    assert found.reason == "the baseline has 1 days with comparable speeds; 5 are needed"


def test_pinning_says_which_noise_it_found(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker("benchmark-tiny")
    cases = json.dumps({"vae": "1"})
    for day in range(1, 7):
        tags = {
            "kind": "rerun", "suite": "tiny", "rerun": str(day), "started": f"2026-01-{day:02}", "cases": cases,
            "seeds": "3",
        }  # fmt: skip
        with tracker.run(f"rerun {day}", tags, key=str(day)) as run:
            run.metrics({"vae/test/elbo": -20 + day % 3, "sd/vae/test/elbo": 1 + day / 10}, day)
    assert main(["tiny", "--pin", "v1"]) == 0
    printed = capsys.readouterr().out
    assert "(1 series)" in printed
    last = history.read(tracker, "tiny")[-1]
    assert last.tags["noise.v1"] in printed
    page = report.write_page("tiny", Path("reports")).read_text()
    assert last.tags["noise.v1"] in page


@pytest.mark.slow
def test_what_shows_reruns_imports_nothing_that_trains() -> None:
    code = "import sys; import pipeline.benchmark.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "pipeline.trainer", "pipeline.training_run", "pipeline.final", "pipeline.executor", "pipeline.reproduce.task",
        "pipeline.benchmark.rerun", "pipeline.benchmark.cases", "pipeline.benchmark.speed",
    }  # fmt: skip


def test_every_fault_of_the_drills_fits_the_code(tmp_path: Path) -> None:
    for fault in drills.FAULTS:
        drills.plant(drills.copy(tmp_path / fault.name), fault)


@pytest.mark.slow
def test_a_rerun_that_was_killed_goes_on(tiny: Path) -> None:
    command = [sys.executable, "-m", "pipeline.benchmark", "tiny", "--threads", "1"]
    env = {**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}:{tiny / 'packages'}"}
    first = subprocess.Popen(command, env=env, cwd=tiny, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for text in first.stdout:
        if "done" in text:
            first.kill()
            break
    first.wait()
    first.stdout.close()
    done = subprocess.run(command, env=env, cwd=tiny, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = stores.runs("rerun", "benchmark-tiny")
    assert len(runs) == 1
    trainings = stores.runs("final", "benchmark-tiny")
    assert len(trainings) == 8
    assert {t.data.tags["state"] for t in trainings} == {"complete"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smok",), "smoke, nightly, paper"),
        (("smoke", "--last", "5"), "--pin NAME"),
        (("smoke", "--report"), "never rerun here"),
        (("smoke", "--pin", "v1"), "smoke has 0;"),
    ],
)
def test_bad_usage_is_refused(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(list(arguments))


@pytest.mark.slow
def test_an_invalid_address_is_refused_before_work(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIANTS_NOTIFY", "nowhere://user:hush@host")
    done = command("benchmark", "smoke")
    assert done.returncode == 2
    assert "address 1 (nowhere://...)" in done.stderr
    assert "hush" not in done.stderr
