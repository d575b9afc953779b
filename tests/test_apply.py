"""A trained model on new data: `python -m pipeline.apply`, and MLflow's own commands."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Command, environment
from PIL import Image
from test_model import COLUMNS, QUICK, images, table, waves

from pipeline import apply
from pipeline.model import Model
from variants import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models of a table, of images and of sequences, and their data as files."""
    folder = tmp_path_factory.mktemp("saved")
    table().to_csv(folder / "new.csv", index=False)
    table().to_parquet(folder / "new.parquet")
    for number, pixels in enumerate(images(20)):
        (folder / "pictures" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number % 2}" / f"{number}.png")
    rows = [
        {"series": f"s{i}", "time": t, "level": v[0], "slope": v[1]}
        for i, series in enumerate(waves(60)) for t, v in enumerate(series)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "series.csv", index=False)
    Model("cvae", **QUICK).fit(folder / "new.csv").save(folder / "table")
    Model("vae", **QUICK).fit(folder / "pictures").save(folder / "images")
    Model("vrae", width=8, latent=2, **QUICK).fit(folder / "series.csv").save(folder / "sequences")
    return folder


def read(path: Path) -> Any:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("encode", []), ("reconstruct", []), ("score", []), ("score", ["--by-value"]), ("anomaly", []), ("impute", [])],
)
def test_a_table_gives_what_the_model_gives(
    saved: Path, tmp_path: Path, method: str, options: list[str], ending: str
) -> None:
    out = tmp_path / f"out{ending}"
    assert apply.main(
        [method, "--model", str(saved / "table"), "--data", str(saved / "new.csv"), "--out", str(out), *options]
    ) == 0  # fmt: skip
    model, source = Model.load(saved / "table"), saved / "new.csv"
    expected = {
        "encode": model.transform, "reconstruct": model.reconstruct, "anomaly": model.anomaly, "impute": model.impute,
        "score": lambda x: model.score_samples(x, by_value=bool(options)),
    }[method](source)  # fmt: skip
    written = read(out)
    assert len(written) == 300
    np.testing.assert_allclose(written.to_numpy(), np.asarray(expected).reshape(300, -1), rtol=1e-6)
    assert list(written) == (list(expected) if isinstance(expected, pd.DataFrame) else [method])
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_the_parts_of_a_large_table_give_what_the_whole_gives(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "PART", 128)
    for name in ("new.csv", "new.parquet"):
        out = tmp_path / f"{name}.csv"
        words = ["encode", "--model", str(saved / "table"), "--data", str(saved / name), "--out", str(out)]
        assert apply.main(words) == 0
        codes = Model.load(saved / "table").transform(saved / name)
        np.testing.assert_allclose(read(out)[list(codes)].to_numpy(), codes.to_numpy(), rtol=1e-6, atol=1e-6)
    assert read(out)["row"].tolist() == [f"row {i}" for i in range(300)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(saved: Path, tmp_path: Path) -> None:
    peaks = []
    for n in (20_000, 200_000):
        table(n).to_csv(tmp_path / f"{n}.csv", index=False)
        words = ["encode", "--model", str(saved / "table"), "--data", f"{n}.csv", "--out", f"codes-{n}.csv"]
        line = [sys.executable, "-m", "pipeline.apply", *words, "--threads", "1"]
        process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
    assert (tmp_path / "codes-200000.csv").read_bytes().count(b"\n") == 200_001
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.slow
def test_images_come_back_as_images_and_sequences_as_rows(saved: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "rebuilt"
    words = ["reconstruct", "--model", str(saved / "images"), "--data", str(saved / "pictures"), "--out", str(pictures)]
    assert apply.main(words) == 0
    names = sorted(str(p.relative_to(saved / "pictures")) for p in (saved / "pictures").rglob("*.png"))
    assert sorted(str(p.relative_to(pictures)) for p in pictures.rglob("*.png")) == names
    rebuilt = Model.load(saved / "images").reconstruct(saved / "pictures")
    np.testing.assert_array_equal(np.asarray(Image.open(pictures / "0" / "0.png")), rebuilt[0])
    forecast, few = tmp_path / "forecast.csv", tmp_path / "few.csv"
    series = read(saved / "series.csv")
    series[series["series"].isin([f"s{i}" for i in range(6)])].to_csv(few, index=False)
    words = ["forecast", "--model", str(saved / "sequences"), "--data", str(few), "--steps", "5"]
    assert apply.main([*words, "--out", str(forecast)]) == 0
    rows = read(forecast)
    columns = [f"{name}_{what}" for name in ("level", "slope") for what in ("mean", "q0.1", "q0.5", "q0.9")]
    assert list(rows) == ["series", "time", *columns]
    lengths = series.groupby("series").size()
    assert all(own.tolist() == [lengths[name] + i for i in range(5)] for name, own in rows.groupby("series")["time"])
    assert rows.groupby("series").size().to_dict() == {f"s{i}": 5 for i in range(6)}
    assert apply.main(["sample", "--model", str(saved / "images"), "--n", "7", "--out", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["x"].shape == (7, 8, 8, 3)
    samples = tmp_path / "yes.csv"
    words = ["sample", "--model", str(saved / "table"), "--n", "9", "--label", "yes", "--out", str(samples)]
    assert apply.main(words) == 0
    assert list(read(samples)) == COLUMNS and len(read(samples)) == 9


@pytest.mark.parametrize(
    ("value", "name"), [(np.inf, "new.csv"), (np.nan, "new.csv"), ("word", "new.csv"), (np.nan, "new.parquet")]
)
def test_a_bad_row_is_named_by_its_number_in_the_whole_table(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, name: str
) -> None:
    monkeypatch.setattr(apply, "PART", 128)
    frame = table().reset_index(drop=True)
    frame[COLUMNS[1]] = [value if row == 200 else number for row, number in enumerate(frame[COLUMNS[1]])]
    getattr(frame, f"to_{name.split('.')[1]}")(tmp_path / name, index=False)
    words = ["encode", "--model", str(saved / "table"), "--data", str(tmp_path / name)]
    with pytest.raises(InputError, match="row 201"):
        apply.main([*words, "--out", str(tmp_path / "codes.csv")])


def test_draws_of_missing_values_are_numbered_rows(saved: Path, tmp_path: Path) -> None:
    frame = table(6, seed=1).drop(columns="label")
    frame.iloc[2, 0] = frame.iloc[4, 1] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    words = ["impute", "--model", str(saved / "table"), "--data", str(tmp_path / "holes.csv"), "--draws", "3"]
    for name in ("out.csv", "out.parquet", "out.npz"):
        assert apply.main([*words, "--out", str(tmp_path / name)]) == 0
    rows = read(tmp_path / "out.csv")
    assert list(rows) == ["draw", *COLUMNS]
    assert rows["draw"].tolist() == [1, 2, 3] * 6
    repeated = frame.loc[frame.index.repeat(3)].reset_index(drop=True)
    known = repeated.notna()
    assert rows[COLUMNS][known].equals(repeated[known]) and rows.notna().all(axis=None)
    assert rows["a"][6:9].nunique() == rows["b"][12:15].nunique() == 3
    pd.testing.assert_frame_equal(read(tmp_path / "out.parquet"), rows)
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_allclose(file["x"].reshape(18, 6), rows[COLUMNS])
    once = [*words[:5], "--out", str(tmp_path / "means.csv")]
    assert apply.main(once) == 0
    assert list(read(tmp_path / "means.csv")) == COLUMNS and len(read(tmp_path / "means.csv")) == 6
    frame.to_parquet(tmp_path / "holes.parquet")
    named = ["impute", "--model", str(saved / "table"), "--data", str(tmp_path / "holes.parquet"), "--draws", "2"]
    assert apply.main([*named, "--out", str(tmp_path / "named.csv")]) == 0
    assert read(tmp_path / "named.csv").columns[:2].tolist() == ["row", "draw"]


def test_draws_of_missing_steps_and_pixels_are_written(saved: Path, tmp_path: Path) -> None:
    steps = pd.read_csv(saved / "series.csv")
    steps.loc[3, "level"] = np.nan
    steps.to_csv(tmp_path / "holes.csv", index=False)
    words = ["impute", "--model", str(saved / "sequences"), "--data", str(tmp_path / "holes.csv"), "--draws", "2"]
    for name in ("out.csv", "out.npz"):
        assert apply.main([*words, "--out", str(tmp_path / name)]) == 0
    rows = read(tmp_path / "out.csv")
    assert list(rows) == ["series", "time", "draw", "level", "slope"] and len(rows) == 2 * len(steps)
    assert rows["level"][6] != rows["level"][7] and rows["level"][8] == rows["level"][9]
    with np.load(tmp_path / "out.npz") as file:
        assert file["x"].shape == (60, 2, 11, 2)
        np.testing.assert_allclose(file["x"][0, :, 3, 0], rows["level"][6:8])
    np.savez(tmp_path / "pictures.npz", x=images(3))
    words = ["impute", "--model", str(saved / "images"), "--data", str(tmp_path / "pictures.npz"), "--draws", "2"]
    assert apply.main([*words, "--out", str(tmp_path / "drawn")]) == 0
    names = [f"00000{i}-{draw}.png" for i in range(3) for draw in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names


def test_what_may_be_wrong_with_new_data_is_printed(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = pd.read_csv(saved / "series.csv")
    steps.assign(time=2 * steps["time"]).to_csv(tmp_path / "steps.csv", index=False)
    words = ["encode", "--model", str(saved / "sequences"), "--data", str(tmp_path / "steps.csv")]
    assert apply.main([*words, "--out", str(tmp_path / "out.csv")]) == 0
    assert "warning: the step of time is 2, and 1 in the training data" in capsys.readouterr().out


def test_anomalies_are_compared_with_the_truth(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = pd.read_csv(saved / "series.csv").assign(bad=0)
    steps.loc[steps["time"].between(3, 4) & steps["series"].isin(["s0", "s1"]), ["slope", "bad"]] = [0.05, 1]
    steps[steps["series"].isin([f"s{i}" for i in range(12)])].sample(frac=1).to_csv(tmp_path / "steps.csv", index=False)
    words = ["anomaly", "--model", str(saved / "sequences"), "--data", str(tmp_path / "steps.csv"), "--share", "0.05"]
    out = ["--out", str(tmp_path / "out.csv"), "--picture", str(tmp_path / "marks.png")]
    assert apply.main([*words, *out, "--truth", "bad"]) == 0
    text, rows = capsys.readouterr().out, read(tmp_path / "out.csv")
    assert list(rows)[:3] == ["series", "time", "anomaly"] and len(rows) == len(read(tmp_path / "steps.csv"))
    assert rows["is_anomaly_slope"][rows["series"].isin(["s0", "s1"]) & rows["time"].between(3, 4)].all()
    for name in ("surprise", "reconstruction", "deviation", "moving", "no model"):
        assert f"\n{name}" in text
    assert "surprise is no better than the best trivial score (deviation)" in text  # it finds all of them
    with Image.open(tmp_path / "marks.png") as picture:
        assert picture.size[0] > 300


def test_anomalous_rows_are_compared_with_the_truth(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table().assign(bad=[i % 20 == 0 for i in range(300)])
    frame.loc[frame["bad"], "b"] += 100
    frame.to_csv(tmp_path / "rows.csv", index=False)
    words = ["anomaly", "--model", str(saved / "table"), "--data", str(tmp_path / "rows.csv"), "--share", "0.1"]
    assert apply.main([*words, "--out", str(tmp_path / "out.csv"), "--truth", "bad"]) == 0
    assert list(read(tmp_path / "out.csv")) == ["anomaly", "is_anomaly"]
    assert read(tmp_path / "out.csv")["is_anomaly"][frame["bad"].to_numpy()].all()
    assert "model is no better than the best trivial score (deviation)" in capsys.readouterr().out


def test_what_a_killed_command_left_is_not_in_the_results(saved: Path, tmp_path: Path) -> None:
    (tmp_path / ".codes.csv.part").write_text("old\n1\n")
    words = ["encode", "--model", str(saved / "table"), "--data", str(saved / "new.csv")]
    assert apply.main([*words, "--out", str(tmp_path / "codes.csv")]) == 0
    assert len(read(tmp_path / "codes.csv")) == 300 and "old" not in read(tmp_path / "codes.csv")


def test_images_that_differ_in_their_ending_are_all_written(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name, pixels in zip(("a.png", "a.bmp", "b.png"), images(3), strict=True):
        Image.fromarray(pixels).save(tmp_path / "new" / name)
    words = ["reconstruct", "--model", str(saved / "images"), "--data", str(tmp_path / "new")]
    assert apply.main([*words, "--out", str(tmp_path / "rebuilt")]) == 0
    assert len([*(tmp_path / "rebuilt").iterdir()]) == 3


def test_text_is_not_written_to_arrays(tmp_path: Path) -> None:
    frame = table(60).assign(answer=["yes", "no", "no"] * 20)
    Model("vae", **QUICK).fit(frame).save(tmp_path / "model")
    frame.to_csv(tmp_path / "new.csv", index=False)
    words = ["reconstruct", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "new.csv")]
    with pytest.raises(InputError, match="or hold text"):
        apply.main([*words, "--out", str(tmp_path / "rebuilt.npz")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "--out", "x.csv"], "encode needs --data"),
        (["sample", "--out", "x.csv"], "sample needs --n"),
        (["forecast", "--data", "new.csv", "--out", "x.csv"], "forecast needs --steps"),
        (["encode", "--data", "new.csv", "--n", "3", "--out", "x.csv"], "encode takes no --n"),
        (["encode", "--data", "new.csv", "--label", "a", "--out", "x.csv"], "encode takes no --label"),
        (["encode", "--data", "new.csv", "--draws", "2", "--out", "x.csv"], "encode takes no --draws"),
        (["encode", "--data", "new.csv", "--share", "0.1", "--out", "x.csv"], "encode takes no --share"),
        (["score", "--data", "new.csv", "--picture", "x.png", "--out", "x.csv"], "score takes no --picture"),
        (["anomaly", "--data", "new.csv", "--truth", "a", "--out", "x.csv"], "--truth and --picture need --share"),
        (["anomaly", "--data", "new.csv", "--share", ".1", "--truth", "a", "--out", "x.csv"], "trained on this column"),
        (["anomaly", "--data", "new.csv", "--share", ".1", "--truth", "b2", "--out", "x.csv"], "missing: b2"),
        (["anomaly", "--data", "new.csv", "--share", "1e-4", "--out", "x.csv"], "share=0.0001: expected a share from"),
        (["encode", "--data", "new.csv", "--out", "x.xlsx"], r"--out x.xlsx: .* expected \.csv, \.parquet, \.npz"),
        (["forecast", "--data", "new.csv", "--steps", "3", "--out", "x.csv"], "there are no sequences"),
        (["encode", "--data", "nowhere.csv", "--out", "x.csv"], "nowhere.csv: there is no such file"),
        (["reconstruct", "--data", "new.csv", "--out", "x"], "the results are no images"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_bytes((saved / "new.csv").read_bytes())
    with pytest.raises(InputError, match=message):
        apply.main([*words, "--model", str(saved / "table")])
    assert [p.name for p in tmp_path.iterdir()] == ["new.csv"]


def test_a_result_never_replaces_a_file(saved: Path, tmp_path: Path, command: Command, call: Command) -> None:
    (tmp_path / "out.csv").write_text("precious")
    words = ("encode", "--model", str(saved / "table"), "--data", str(saved / "new.csv"))
    done = call("apply", *words, "--out", str(tmp_path / "out.csv"))
    assert done.returncode == 2
    assert "exists already" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "out.csv").read_text() == "precious"
    done = command("apply", *words, "--out", str(tmp_path / "codes.csv"))
    assert done.returncode == 0, done.stderr
    assert "300 examples" in done.stdout
    table().assign(more=1).to_csv(tmp_path / "wider.csv", index=False)
    words = ("encode", "--model", str(saved / "table"), "--data", str(tmp_path / "wider.csv"))
    assert "more" in call("apply", *words, "--out", str(tmp_path / "wider-codes.csv")).stdout


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType:UserWarning")  # of MLflow about itself
def test_mlflow_loads_a_model_without_pickle(saved: Path) -> None:
    model = mlflow.pyfunc.load_model(str(saved / "table"))
    frame = table(5, seed=3)
    own = Model.load(saved / "table")
    pd.testing.assert_frame_equal(model.predict(frame), own.transform(frame))
    pd.testing.assert_series_equal(model.predict(frame, params={"method": "score"}), own.score_samples(frame))
    assert mlflow.pyfunc.load_model(str(saved / "images")).predict(images(3)).shape == (3, 16)
    endings = {p.suffix for p in (saved / "table").iterdir()}
    assert endings == {".json", ".safetensors", ""}


@pytest.mark.slow
def test_mlflow_serves_a_tracked_model(folder: Path) -> None:
    frame = table()
    model = Model("vae", track=True, **QUICK).fit(frame)
    from pipeline.tracker import Tracker

    (record,) = Tracker("data").find(kind="model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{folder}/mlflow.db"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    line = ["mlflow", "models", "serve", "-m", f"models:/{record.model}", "--env-manager", "local", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            line, env={**environment(), "PATH": path, "MLFLOW_TRACKING_URI": uri}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        body = {"dataframe_split": json.loads(frame[:3].to_json(orient="split", double_precision=15))}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(240):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    predictions = json.load(answer)["predictions"]
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail((folder / "log").read_text())
        np.testing.assert_allclose(pd.DataFrame(predictions), model.transform(frame[:3]), rtol=1e-5, atol=1e-6)
    finally:
        os.killpg(server.pid, 15)
        server.wait()
