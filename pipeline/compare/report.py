"""Writes the report of a comparison: one HTML file that needs no network, its figures, and tables as CSV and LaTeX."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import compare, metrics, pages
from pipeline.compare import examples, figures, remarks, sentences, statistics, tables
from pipeline.compare.analysis import Board
from pipeline.compare.criteria import ROWS
from pipeline.compare.examples import Models
from pipeline.compare.protocol import Comparison, run_key
from pipeline.evaluate import report as evaluation
from pipeline.tracker import Tracker, views

STRIPS = {
    "reconstructions": "Reconstructions of the same test images",
    "samples": "Samples of x from the prior",
    "traversals": "Traversals of the most informative dimensions of one code",
}
SHOWN = ("cost", "configurations", "importances", "everything", "environment")  # tables on the page, besides the boards


@dataclasses.dataclass(frozen=True)
class Report:
    """The page of a report, and its tables by name."""

    page: Path
    tables: Mapping[str, pd.DataFrame]


def write(comparison: Comparison, tracker: Tracker, folder: Path, command: str) -> Report:
    """Write `report.html`, `figures/` and `tables/` into a folder. `command` is shown as the way to repeat it."""
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = sorted(comparison.candidates)
    shown = _shown_finals(comparison)
    details = {row["variant"]: json.loads(tracker.text(row["run"], evaluation.FILE)) for _, row in shown.iterrows()}
    kl = {n: d["vectors"]["kl_per_dimension"] for n, d in details.items() if d["vectors"].get("kl_per_dimension")}
    charts = _figures(comparison, tracker, names, kl)
    files = tables.all_of(comparison)
    if len(forecasts := tables.forecasts_table(details)):
        files["forecasts"] = forecasts
    strips: dict[str, list[tuple[str, str]]] = {}
    columns: list[str] = []
    rows: list[examples.ExampleRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        models = _models(comparison, tracker, shown, Path(scratch))
        if models:
            columns, rows = examples.rows(models)
            charts["series"] = examples.series(models)
            for kind, name, png in examples.strips(models, kl):
                strips.setdefault(kind, []).append((name, figures.uri(png)))
                (folder / "figures" / f"{kind}_{name}.png").write_bytes(png)
    for name, themes in charts.items():
        if themes:
            (folder / "figures" / f"{name}.png").write_bytes(themes["light"])
    for name, table in files.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        tex = table.to_latex(index=False, escape=True, float_format="%.4g")
        (folder / "tables" / f"{name}.tex").write_text(tex, encoding="utf-8")
    html = pages.page(
        "report", title=f"Which VAE variant for {comparison.dataset}?", subtitle=sentences.subtitle(comparison),
        answers=sentences.answers(comparison), warnings=comparison.warnings, how=sentences.how(comparison),
        scores=tables.score_rows(comparison.boards), trivial=tables.trivial_rows(comparison.boards),
        columns=columns, rows=rows,
        boards=[_board(board, files) for board in comparison.boards], strips=strips, titles=STRIPS,
        figures={name: figures.uris(themes) for name, themes in charts.items()},
        design=comparison.design, dataset=comparison.dataset,
        conclusions=[(name, " ".join(map(_as_sentence, d["words"]))) for name, d in details.items() if d["words"]],
        is_drawn=next(iter(comparison.candidates.values())).data.layout in ("lines", "table"),
        equal_budget=comparison.equal_budget, repetitions=len(comparison.repetitions),
        champions=[uri for uri, _, _ in _champions(comparison)], command=command, level=f"{statistics.LEVEL:.0%}",
        most_gap=remarks.MOST_GAP, has_importances=tables.has_importances(comparison),
        forecasts=pages.table(_shown_forecasts(forecasts)),
        **{name: pages.table(files[name]) for name in SHOWN},
    )  # fmt: skip
    (folder / "report.html").write_text(html, encoding="utf-8")
    return Report(folder / "report.html", files)


def _shown_forecasts(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the page: all horizons of the first channel, or of all together, and "all" of the others."""
    if not len(forecasts):
        return forecasts
    is_shown = (forecasts["horizon"] == "all") | (forecasts["channel"] == forecasts["channel"].iloc[0])
    rows = forecasts[is_shown].astype(object)
    return pd.DataFrame(evaluation.with_errors(rows.where(rows.notna(), None).to_dict("list")))


def _as_sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def log(comparison: Comparison, report: Report, tracker: Tracker) -> list[str]:
    """Log the report and its tables to the run of the comparison, and register the champions. Returns their URIs."""
    searched = {name for candidate in comparison.candidates.values() for name in candidate.study.space}
    views.write(tracker.client, tracker.experiment, sorted(searched))
    with tracker.run(f"comparison of {comparison.dataset}", {}, key=run_key(comparison.dataset)) as run:
        run.files(report.page.parent, "report")
        for board in comparison.boards:
            name = f"board_{board.criterion.name}"
            run.table(f"{name}.json", report.tables[name].astype(str).to_dict("list"))
    champions = _champions(comparison)
    for _, model, alias in champions:
        tracker.register(f"vae-{comparison.dataset}", model, alias)
    return [uri for uri, _, _ in champions]


def _champions(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return (URI, id of the model, alias) for each criterion.

    The champion is, among the finals of the first variant on the board, the one that is best on validation data. With
    several repetitions it is one of the first, because their validation data differ.
    """
    champions = []
    for board in comparison.boards:
        criterion = board.criterion
        best = next((r.name for r in board.rows if r.mean is not None), None)
        finals = comparison.chosen_finals(criterion.name)
        finals = finals[(finals["variant"] == best) & (finals["repetition"] == comparison.repetitions[0].number)]
        if len(finals):
            rising = metrics.find(criterion.validation_metric).better == "minimize"
            first = finals.sort_values(criterion.validation_metric, ascending=rising).iloc[0]
            alias = f"champion-{criterion.name}"
            champions.append((f"models:/vae-{comparison.dataset}@{alias}", first["model"], alias))
    return champions


def _shown_finals(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant: the first complete final of its main configuration, of the first repetition."""
    finals = comparison.main_finals()
    finals = finals[finals["repetition"] == comparison.repetitions[0].number]
    return finals.sort_values("seed").groupby("variant", as_index=False).first()


def _models(comparison: Comparison, tracker: Tracker, shown: pd.DataFrame, folder: Path) -> Models:
    models = {}
    for _, row in shown.iterrows():
        data = comparison.candidates[row["variant"]].data
        model = tracker.model(row["model"], folder / row["model"])
        models[row["variant"]] = (model.to(data.train.x.device), data)
    return models


def _trials(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each trial of all repetitions: variant, number, state, configuration and validation scores."""
    rows = [
        {"variant": name, "trial": t.number, "state": t.state, **dataclasses.asdict(t.config), **t.metrics}
        for repetition in comparison.repetitions
        for name, candidate in repetition.candidates.items()
        for t in candidate.study.trials
    ]
    return pd.DataFrame(rows)


def _figures(
    comparison: Comparison, tracker: Tracker, names: list[str], kl: Mapping[str, list[float]]
) -> dict[str, dict[str, bytes]]:
    trials, finals, main = _trials(comparison), comparison.finals, comparison.main_finals()
    charts = {}
    for board in comparison.boards:
        if any(r.mean for r in board.rows):
            name = board.criterion.name
            charts[f"board_{name}"] = figures.leaderboard(board, comparison.chosen_finals(name), names)
    probe = next((b.criterion for b in comparison.boards if b.criterion.name == "probe"), None)
    if probe and probe.validation_metric in trials:
        label = f"{probe.test_metric} ({probe.unit})"
        charts["elbo_probe"] = figures.scatter(
            trials, finals, ("valid/elbo", "test/elbo", "ELBO (nats per example)"),
            (probe.validation_metric, probe.test_metric, label), names,
        )  # fmt: skip
        charts["probes"] = figures.probes(main, comparison.rows, comparison.design, names)
    charts["rate_distortion"] = figures.scatter(
        trials, finals, ("valid/kl", "test/kl", "rate: KL (nats per example)"),
        ("valid/reconstruction", "test/reconstruction", "distortion: reconstruction (nats per example)"), names,
    )  # fmt: skip
    if kl:
        charts["spectra"] = figures.spectra(kl, names)
    metric = "valid/elbo" if "valid/elbo" in trials else "valid/reconstruction"
    charts["curves"] = figures.curves(_curves(main, tracker, metric), metric, names)
    return charts


def _curves(finals: pd.DataFrame, tracker: Tracker, metric: str) -> pd.DataFrame:
    """Return a row for each epoch of each final: variant, epoch and the metric."""
    rows = []
    for _, final in finals.iterrows():
        values = compare.curves(tracker, final["run"], [metric])
        last = int(final.get("time/epochs", max(values, default=1) - 1))  # a later point repeats the best epoch
        rows += [
            {"variant": final["variant"], "epoch": epoch, **value} for epoch, value in values.items() if epoch <= last
        ]
    return pd.DataFrame(rows, columns=["variant", "epoch", metric])


def _board(board: Board, files: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    name = board.criterion.name
    return {
        "criterion": board.criterion, "conclusions": board.conclusions, "examples": board.examples,
        "without_rows": [f"<code>{metric}</code>" for metric in board.criterion.related_metrics if metric not in ROWS],
        "table": pages.table(files[f"board_{name}"]), "pairs": pages.table(files[f"pairs_{name}"]),
    }  # fmt: skip
