"""What is understood of data is shown before work starts, by a command of its own and by all others."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from conftest import Command
from PIL import Image
from sklearn import datasets as sklearn_datasets
from stores import client, runs

from pipeline import cli, data
from pipeline.data import Source
from pipeline.data import __main__ as command_of_data
from pipeline.data._description import WIDTH, near_duplicates
from pipeline.evaluate import pictures
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.study import driver, summary
from variants import Batch, InputError

RNG = np.random.default_rng(0)


def table(folder: Path, columns: int = 5, n: int = 60, **more: Any) -> str:
    frame = pandas.DataFrame(RNG.normal(size=(n, columns)), columns=[f"value {i}" for i in range(columns)])
    frame.assign(**more).to_csv(folder / "mine.csv", index=False)
    return str(folder / "mine.csv")


def arrays(folder: Path, **content: Any) -> str:
    np.savez(folder / "mine.npz", **content)
    return str(folder / "mine.npz")


def kinds_of_data(folder: Path) -> dict[str, tuple[Source, list[str]]]:
    """Data of each kind, and words that their description must contain."""
    label = np.where(np.arange(60) % 3, "ill", "well")
    named = {"label": label, "patient": np.arange(60) // 4, "day": np.arange(60)}
    visits, town = RNG.poisson(3, 60), np.where(np.arange(60) % 4, "Bonn", np.where(np.arange(60) % 8, "Ulm", "Köln"))
    hole = np.where(np.arange(60) % 4, RNG.normal(size=60), np.nan)
    mixed: dict[str, Any] = {
        "visits": visits,
        "member": np.arange(60) % 2 == 0,
        "town": town,
        "hours": 1 + np.arange(60) % 4,
        "hole": hole,
    }
    for name in ("table", "mixed", "counts", "images", "sequences", "folder"):
        (folder / name).mkdir()
    for i in range(30):
        Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(folder / "folder" / f"{i}.png")
    return {
        "table": (
            Source(place=table(folder / "table", **named), label="label", group="patient", time="day"),
            ["60 rows with 5 columns", "column label, 2 classes: ill (40) and well (20)", "column patient, 15 groups",
             "column day", "gaussian", "value 4", "groups (patient) are kept whole", "--split-seed"],
        ),
        "mixed": (
            Source(place=table(folder / "mixed", **mixed), exposure="hours"),
            ["60 rows with 9 columns", "mixed, because each column has the likelihood of its kind (6 gaussian, 1 "
             "negative-binomial, 1 bernoulli, 1 categorical)", "15 of 540 (3%), in 1 of 9 columns", "│ hole │ real",
             "25% │", "column hours, from 1 to 4", "Bonn (75%), Köln (13%) and Ulm (12%)", "50% True",
             "--kind COLUMN=KIND", "gaussian makes all columns continuous"],
        ),
        "counts": (
            Source(place=arrays(folder / "counts", x=RNG.poisson(3, (60, 12)))),
            ["negative-binomial, because all columns are counts", "the sum of the counts, from", "│ x11 │ count │",
             "--exposure none", "--exposure sum|none|COLUMN", "poisson"],
        ),
        "images": (
            Source(place=arrays(folder / "images", x=RNG.integers(0, 256, (40, 6, 8), dtype=np.uint8))),
            ["40 images of 6x8 pixels (height x width), 1 channel", "logistic8", "--size HxW"],
        ),
        "folder": (Source(place=str(folder / "folder")), ["30 images of 6x8", "3 channels (colour)", "--size HxW"]),
        "sequences": (
            Source(place=arrays(folder / "sequences", x=RNG.normal(size=(40, 9, 2)), lengths=np.arange(40) % 7 + 3)),
            ["40 sequences of 3 to 9 steps, 2 channels", "gaussian"],
        ),
        "embedded": (Source(place="digits"), ["1,797 images of 8x8", "10 classes", "bernoulli", "--split-seed N"]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["table", "mixed", "counts", "images", "folder", "sequences", "embedded"])
def test_each_kind_of_data_is_described_and_drawn(kind: str, tmp_path: Path) -> None:
    source, words = kinds_of_data(tmp_path)[kind]
    loaded = data.load(source)
    description = loaded.inspect()
    text = description.text()
    for word in words:
        assert word in " ".join(text.split()), word
    assert max(map(len, text.splitlines())) <= WIDTH
    lines = description.summary()
    assert 3 <= len([line for line in lines if not line.startswith(("note", "warning"))]) <= 6
    assert [line for line in lines if line.startswith("warning: ")] == [f"warning: {w}" for w in description.warnings]
    for part in (loaded.train, loaded.valid, loaded.test):
        assert f"{len(part):,}" in " ".join(lines)
    picture = pictures.examples(loaded)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[1] >= 256
    assert picture.std() > 0


def test_names_in_any_script_are_shown(tmp_path: Path) -> None:
    frame = pandas.DataFrame(RNG.normal(size=(40, 3)), columns=["Größe $cm", "年齢", "$a$b_{"])
    frame.assign(label=np.where(np.arange(40) % 2, "да", "нет")).to_csv(tmp_path / "mine.csv", index=False)
    loaded = data.load(str(tmp_path / "mine.csv"))
    assert all(word in loaded.inspect().text() for word in ("Größe $cm", "年齢", "$a$b_{", "нет"))
    assert pictures.examples(loaded).std() > 0


def test_missing_values_are_counted_in_the_summary_and_shown_only_where_there_are_any(tmp_path: Path) -> None:
    values = np.where(np.arange(60) % 300 == 7, np.nan, RNG.normal(size=60))
    description = data.load(table(tmp_path, hole=values)).inspect()
    assert "missing values: 1 of 360 (<1%), in 1 of 6 columns" in " ".join(description.summary())
    assert "missing ┃" in description.text()
    complete = data.load(table(tmp_path)).inspect()
    assert "missing values" not in " ".join(complete.summary()) and "missing ┃" not in complete.text()


def test_options_that_were_given_or_do_not_apply_are_not_offered(tmp_path: Path) -> None:
    place = table(tmp_path, patient=np.arange(60) // 4)
    offered = {option.split()[0] for option, _ in data.load(Source(place=place, group="patient")).inspect().options}
    assert offered >= {"--label", "--drop", "--kind", "--split", "--split-seed", "--test"}
    assert not offered & {"--group", "--size", "--alpha"}
    assert [option for option, _ in data.load("digits").inspect().options] == ["--split-seed N"]


def test_the_middle_of_many_columns_is_left_out(tmp_path: Path) -> None:
    text = data.load(table(tmp_path, columns=200)).inspect().text()
    assert "value 0" in text and "value 199" in text and "more columns" in text
    assert "value 100" not in text
    assert len(text.splitlines()) < 70


def standardised(x: Any) -> torch.Tensor:
    return torch.from_numpy(((x - x.mean(0)) / x.std(0)).astype(np.float32))


def halves(x: torch.Tensor) -> tuple[Batch, Batch]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return Batch(x[order[len(x) // 5 :]]), Batch(x[order[: len(x) // 5]])


HONEST = {
    "normal": lambda: RNG.normal(size=(1000, 4)),
    "heavy tails": lambda: RNG.standard_cauchy((1000, 5)),
    "a surface in ten dimensions": lambda: np.tanh(RNG.random((3000, 2)) @ RNG.normal(size=(2, 10))),
    "clusters": lambda: RNG.normal(size=(1000, 6)) / 10 + RNG.normal(size=(10, 6))[RNG.integers(10, size=1000)],
    "two different rows": lambda: np.tile(RNG.normal(size=(2, 300)), (50, 1)),
    "rounded": lambda: RNG.normal(size=(1000, 5)).round(1),
    "flowers": lambda: sklearn_datasets.load_iris().data,
    "tumours": lambda: sklearn_datasets.load_breast_cancer().data,
}


@pytest.mark.parametrize("name", HONEST)
def test_ordinary_data_have_no_near_duplicates(name: str) -> None:
    assert near_duplicates(*halves(standardised(HONEST[name]()))) < 0.05


def test_embedded_images_have_no_near_duplicates() -> None:
    digits = data.load("digits")
    assert near_duplicates(digits.train, digits.test) == 0


@pytest.mark.parametrize(("n", "size", "noise"), [(300, 10, 1e-3), (2000, 100, 1e-4), (6000, 2, 1e-3)])
def test_rows_that_differ_by_noise_are_near_duplicates(n: int, size: int, noise: float) -> None:
    x = np.repeat(RNG.normal(size=(n // size, 6)), size, axis=0)
    assert near_duplicates(*halves(standardised(x + noise * RNG.normal(size=x.shape)))) > 0.7


def test_near_duplicates_are_a_warning_until_the_groups_are_named(tmp_path: Path) -> None:
    x = np.repeat(RNG.normal(size=(30, 5)), 10, axis=0) + 1e-3 * RNG.normal(size=(300, 5))
    frame = pandas.DataFrame(x, columns=list("abcde"))
    frame.assign(patient=np.repeat(np.arange(30), 10)).to_csv(tmp_path / "mine.csv", index=False)
    place = str(tmp_path / "mine.csv")
    warned = data.load(Source(place=place, drop=("patient",))).inspect().warnings
    assert any("of the test examples have a training example nearer" in w and "--group" in w for w in warned)
    assert not data.load(Source(place=place, group="patient")).inspect().warnings


OPTIONS = {
    "none": Source(place="mine.csv"),
    "columns": Source(place="my data.csv", label="a b", group="it's", time="day", drop=("x", "y,z"), header=False),
    "kinds": Source(place="mine.csv", kinds=(("a=b", "real"), ("c", "binary")), likelihood="gaussian"),
    "counts": Source(place="mine.csv", kinds=(("a", "count"), ("b", "positive")), likelihood="poisson", exposure="c d"),
    "images": Source(place="folder", size=(32, 48), alpha="keep", split="random", split_seed=7),
    "sequences": Source(place="mine.csv", time_as_input=True, window=24, wide=True, test="other.csv"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_of_commands_and_the_source_say_the_same(name: str) -> None:
    source = OPTIONS[name]
    parser = cli.parser("study", "", "--dataset", *cli.DATA)
    arguments = parser.parse_args(shlex.split(cli.command_line(source)))
    assert cli.source(arguments, arguments.dataset) == source
    assert Source.parse(source.json()) == source


def test_names_of_columns_may_be_given_together_or_one_by_one() -> None:
    parser = cli.parser("study", "", *cli.DATA)
    words = ["--drop", "a, b", "--drop", '"c,d"']
    assert cli.source(parser.parse_args(words), "mine.csv").drop == ("a", "b", "c,d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "age"], "'age': expected COLUMN=KIND, where KIND is one of real, positive, count"),
        (["--kind", "age=number"], "expected COLUMN=KIND"),
        (["--size", "64"], "'64': expected HxW"),
        (["--size", "0x64"], "expected HxW"),
        (["--split", "date"], "choose from"),
        (["--split-seed", "-1"], "expected a whole number, 0 or more"),
        (["--drop", ","], "expected names of columns"),
        (["--likelihood", "mixed"], "choose from"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parser("study", "", *cli.DATA).parse_args(words)
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_describes_data_without_training(command: Command, folder: Path) -> None:
    place = table(folder, label=np.arange(60) % 2)
    done = command("data", place, "--label", "label", "--out", "here")
    assert done.returncode == 0, done.stderr
    assert "60 rows with 5 columns" in done.stdout
    (path,) = folder.glob("here/*/data.png")
    assert str(path) in done.stdout
    with Image.open(path) as picture:
        assert picture.size[0] >= 256
    assert not (folder / "optuna.db").exists() and not client().search_experiments(filter_string="name != 'Default'")
    refused = command("data", place, "--label", "lable")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


def test_without_a_source_the_names_are_listed() -> None:
    with pytest.raises(InputError, match=r"SOURCE is missing: expected .*digits.*or the path"):
        command_of_data.main([])


def test_a_study_says_what_it_understood_and_logs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "all_of", lambda *_: {})
    monkeypatch.setattr(summary, "figures", lambda *_: [])
    source = Source(place=table(folder, label=np.arange(60) % 2), label="label", split_seed=3)
    request = driver.StudyRequest(
        variant="vae", dataset=source, trials=1, epochs=1, compute=Compute(threads=1), fixed={"width": 8, "depth": 1}
    )
    outcome = driver.run(request, Display())
    printed = capsys.readouterr().out
    assert printed.index("60 rows with 5 columns") < printed.index("trial")
    (study,) = runs("study", outcome.experiment)
    path = client().download_artifacts(study.info.run_id, "data/description.txt")
    assert "60 rows with 5 columns" in Path(path).read_text(encoding="utf-8")
    assert study.data.tags["split_seed"] == "3"
    with Image.open(client().download_artifacts(study.info.run_id, "data/examples.png")) as picture:
        assert picture.size[0] >= 256


def test_a_run_is_evaluated_on_the_data_of_its_training(folder: Path) -> None:
    from pipeline.evaluate.__main__ import main

    with pytest.raises(InputError, match=r"--label, --kind: with --run, the data are read .* as in the training"):
        main(["--run", "0" * 32, "--label", "a", "--kind", "b=real"])


def test_every_command_with_a_data_set_has_its_options() -> None:
    assert set(cli.DATA) <= set(cli.OPTIONS)
    parser = cli.parser("study", "", *cli.DATA)
    (group,) = [g for g in parser._action_groups if g.title == "options of data"]
    assert {a.option_strings[0] for a in group._group_actions} == set(cli.DATA)
    assert isinstance(parser, argparse.ArgumentParser)
