"""What the READMEs show is true: commands run, options exist, code works, and links lead to files."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import stores
from conftest import ROOT, Command

from pipeline.__main__ import COMMANDS
from studies import benchmark
from studies.anchors import ANCHORS

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/**/README.md"), *ROOT.glob("*/*.md"), *ROOT.glob(".github/*.md")])
PAGES = [p for p in dict.fromkeys(PAGES) if ".venv" not in p.parts]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY: dict[
    str, list[str]
] = {  # what makes a command of the README short enough to be run here; all others are asked for their --help
    "study": ["--trials", "1", "--epochs", "1", "--threads", "1"],
    "compare": ["--trials", "1", "--epochs", "1", "--seeds", "1", "--variant", "vae", "--threads", "1"],
    "evaluate": ["--only", "latents", "--threads", "1"],
    "speed": ["--dataset", "digits", "--rounds", "1", "--threads", "1"],
    "sync": [],
    "apply": ["--threads", "1"],
    "data": [],
}


def commands(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(name, words) of every `python -m pipeline.NAME ...` of a page, those of tables included."""
    text = page.read_text(encoding="utf-8")
    pattern = r"python -m pipeline\.([^\n`|]*)|^\| `pipeline\.([^`]*)`"
    lines = [code or table for code, table in re.findall(pattern, text, re.MULTILINE)]
    found = []
    for line in lines:
        name, *words = shlex.split(re.split(r"\s{2,}|\s#|\s\[|&&", line)[0].rstrip(".,;:)"))
        found.append((name, tuple(words)))
    return list(dict.fromkeys(found))


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    is_package = (ROOT / "pipeline" / name).is_dir()
    module = importlib.import_module(f"pipeline.{name}.__main__" if is_package else f"pipeline.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_pages_are_found() -> None:
    names = {p.relative_to(ROOT).as_posix() for p in PAGES}
    assert names >= {
        "README.md", "variants/README.md", "studies/RESULTS.md", "pipeline/README.md", "pipeline/evaluate/README.md",
        "pipeline/benchmark/README.md", "pipeline/deploy/README.md", ".github/CONTRIBUTING.md",
    }  # fmt: skip
    assert sum(len(commands(p)) for p in PAGES) > 15


@pytest.mark.parametrize(
    ("page", "name", "words"),
    [(p.relative_to(ROOT).as_posix(), name, words) for p in PAGES for name, words in commands(p)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_command_of_a_page_exists_and_has_these_options(
    page: str, name: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert name in COMMANDS
    text = help_of(name, capsys)
    for option in (w.split("=")[0] for w in words if w.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", text), option
    if words and not words[0].startswith("--"):
        valid = {"benchmark": benchmark.names(), "schedule": benchmark.names(), "reproduce": list(ANCHORS)}
        assert words[0] in valid.get(name, words) or words[0].isupper()


@pytest.mark.slow
def test_the_commands_of_the_readme_run(folder: Path, command: Command) -> None:
    """In the order of the README, with tiny sizes: a study, a comparison, an evaluation of its run, and so on."""
    hours = pd.date_range("2024-01-01", periods=240, freq="h").strftime("%Y-%m-%dT%H:%M")
    values = np.random.default_rng(0).normal(size=(12 * 240, 2))
    names = {"series": np.repeat([f"plant {i}" for i in range(12)], 240), "time": np.tile(hours, 12)}
    pd.DataFrame({**names, "flow": values[:, 0], "heat": values[:, 1]}).to_csv(folder / "sensors.csv", index=False)
    for name, words in commands(ROOT / "README.md"):
        if name not in TINY or {"--once", "--cron", "MODEL", "mine.csv"} & set(words):
            continue
        run_id = next((r.info.run_id for r in stores.runs("trial", "digits")), "") if "RUN_ID" in words else ""
        words = tuple(run_id if w == "RUN_ID" else w for w in words)
        done = command(name, *words, *TINY[name])
        assert done.returncode == 0, f"{name} {words}: {done.stdout}{done.stderr}"
    assert (folder / "codes.csv").exists()


def test_the_program_of_the_readme_fits_encodes_scores_and_plots(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = re.search(r"## Use a model\n.*?```python\n(.*?)```", README, re.DOTALL)
    assert program
    assert len([line for line in program[1].splitlines() if line.strip()]) <= 15
    matplotlib.use("Agg")
    scope: dict[str, Any] = {}
    exec(program[1], scope)
    assert scope["codes"].shape == (178, 2)
    means = scope["codes"].groupby(scope["wines"]["target"]).mean()  # the cultivars are apart
    assert (means.diff().abs().max() > 0.5).any()
    assert (folder / "wines.png").stat().st_size > 5000
    assert "proline" in capsys.readouterr().out
    assert (folder / "wine-model" / "preprocessing.json").exists()


def test_the_variant_that_is_shown_is_the_vae() -> None:
    page = (ROOT / "variants" / "README.md").read_text(encoding="utf-8")
    program = re.search(r"This is a complete variant.*?```python\n(.*?)```", page, re.DOTALL)
    assert program and program[1] == (ROOT / "variants" / "vae.py").read_text(encoding="utf-8")


def test_links_and_pictures_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).resolve().exists(), f"{page}: {target}"


def test_programs_that_pages_name_exist() -> None:
    for page in PAGES:
        for program in re.findall(r"(tests/\w+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / program).exists(), f"{page}: {program}"
