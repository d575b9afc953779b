"""Writes the report of a comparison: one HTML file that needs no network, its figures, and tables as CSV and LaTeX."""

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import compare, metrics, pages
from pipeline.compare import figures
from pipeline.compare.analysis import Board
from pipeline.compare.protocol import Comparison, run_key
from pipeline.evaluate import report as evaluation
from pipeline.metrics import Undefined
from pipeline.tracker import Tracker, views

STRIPS = {
    "reconstructions": "Reconstructions of the same test images", "samples": "Samples of x from the prior",
    "traversals": "Traversals of the most informative dimensions of one code",
}  # fmt: skip
SHOWN = ("cost", "configurations", "importances", "everything", "environment")  # tables on the page, besides the boards
SCORES = ("test/", "probe/", "latent/", "sample/", "use/")  # prefixes of the scores of a final


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
    for name, themes in charts.items():
        (folder / "figures" / f"{name}.png").write_bytes(themes["light"])
    strips = _strips(comparison, tracker, shown, kl, folder)
    tables = _tables(comparison)
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        tex = table.to_latex(index=False, escape=True, float_format="%.4g")
        (folder / "tables" / f"{name}.tex").write_text(tex, encoding="utf-8")
    html = pages.page(
        "report", title=f"Which VAE variant for {comparison.dataset}?", subtitle=_subtitle(comparison),
        answers=answers(comparison), warnings=comparison.warnings,
        boards=[_board(board, tables) for board in comparison.boards],
        figures={name: figures.uris(themes) for name, themes in charts.items()},
        strips=[(kind, title, strips[kind]) for kind, title in STRIPS.items() if kind in strips],
        conclusions=[(name, " ".join(d["words"])) for name, d in details.items() if d["words"]],
        champions=[uri for uri, _, _ in _champions(comparison)], command=command,
        **{name: pages.table(tables[name]) for name in SHOWN},
    )  # fmt: skip
    (folder / "report.html").write_text(html, encoding="utf-8")
    return Report(folder / "report.html", tables)


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

    The champion is, among the finals of the first variant on the board, the one that is best on validation data.
    """
    champions = []
    for board in comparison.boards:
        criterion = board.criterion
        best = next((r.variant for r in board.rows if r.mean is not None), None)
        keys = [c.key for c in comparison.choices if c.criterion == criterion.name and c.variant == best]
        if keys:
            finals = _complete(comparison, keys)
            rising = metrics.find(criterion.validation_metric).better == "minimize"
            first = finals.sort_values(criterion.validation_metric, ascending=rising).iloc[0]
            alias = f"champion-{criterion.name}"
            champions.append((f"models:/vae-{comparison.dataset}@{alias}", first["model"], alias))
    return champions


def answers(comparison: Comparison) -> list[str]:
    """Answer the question of each criterion: which variant is best, and which ones cannot be told apart from it."""
    texts = []
    for board in comparison.boards:
        criterion = board.criterion
        rows = [r for r in board.rows if r.mean is not None]
        if not rows:
            texts.append(f"{criterion.question} There is no answer, because no variant has {criterion.test_metric}.")
            continue
        first, unit = rows[0], metrics.find(criterion.test_metric).unit
        assert first.mean is not None
        interval = f" [{first.mean.low:.4g}, {first.mean.high:.4g}]" if np.isfinite(first.mean.low) else ""
        text = f"{criterion.question} {first.variant}: {first.mean.value:.4g}{interval} {unit}."
        related = first.related or {}
        if "probe/linear_all" in related:  # beside a balanced accuracy
            text += f" Its accuracy is {related['probe/linear_all']:.4g}."
        if "probe/majority_all" in related:
            share = related["probe/majority_all"]
            text += f" Always predicting the most frequent class has an accuracy of {share:.4g}."
        if board.baselines:
            values = ", ".join(f"{title} {value:.4g}" for title, value in board.baselines.items())
            text += f" It is {first.trivial}." if first.trivial else f" Baselines: {values}."
        beaten = [p.worse for p in board.pairs if p.better == first.variant and p.significant]
        rivals = [p.worse for p in board.pairs if p.better == first.variant and not p.significant]
        if beaten:
            text += f" It beats {_listed(beaten)}."
        if rivals:
            seeds = "one seed" if first.seeds == 1 else f"{first.seeds} seeds"
            text += f" It cannot be told apart from {_listed(rivals)} with {seeds}."
        texts.append(text)
    return texts


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subtitle(comparison: Comparison) -> str:
    variants, seeds, finals = len(comparison.candidates), comparison.finals["seed"].nunique(), len(comparison.finals)
    text = f"{variants} variants, {seeds} fresh seed(s), {finals} trainings, each scored once on the test split."
    return f"{text} {comparison.equal_budget}".rstrip()


def _complete(comparison: Comparison, config_keys: Sequence[str]) -> pd.DataFrame:
    """Return the complete finals of some configurations."""
    finals = comparison.finals
    return finals[(finals["state"] == "complete") & finals["config"].isin(config_keys)]


def _shown_finals(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant: the first complete final of its main configuration."""
    return _main_finals(comparison).sort_values("seed").groupby("variant", as_index=False).first()


def _main_finals(comparison: Comparison) -> pd.DataFrame:
    """Return the complete finals of each variant's main configuration.

    That is the one which the ELBO chose, or the reconstruction for a variant that has no ELBO.
    """
    keys: dict[str, str] = {}
    for criterion in ("elbo", "reconstruction", "probe"):
        for choice in comparison.choices:
            if choice.criterion == criterion:
                keys.setdefault(choice.variant, choice.key)
    return _complete(comparison, list(keys.values()))


def _trials(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each trial: variant, number, state, configuration and validation scores."""
    rows = [
        {"variant": name, "trial": t.number, "state": t.state, **dataclasses.asdict(t.config), **t.metrics}
        for name, candidate in comparison.candidates.items()
        for t in candidate.study.trials
    ]
    return pd.DataFrame(rows)


def _figures(
    comparison: Comparison, tracker: Tracker, names: list[str], kl: Mapping[str, list[float]]
) -> dict[str, dict[str, bytes]]:
    trials, finals, main = _trials(comparison), comparison.finals, _main_finals(comparison)
    charts = {}
    for board in comparison.boards:
        if any(r.mean for r in board.rows):
            keys = {c.key for c in comparison.choices if c.criterion == board.criterion.name}
            runs = finals[finals["config"].isin(keys)]
            charts[f"board_{board.criterion.name}"] = figures.leaderboard(board, runs, names)
    probe = next((b.criterion for b in comparison.boards if b.criterion.name == "probe"), None)
    if probe and probe.validation_metric in trials:
        label = probe.validation_metric.replace("/", " ").replace("_", " ")
        charts["elbo_probe"] = figures.scatter(
            trials, finals, ("valid/elbo", "test/elbo", "ELBO (nats)"),
            (probe.validation_metric, probe.test_metric, label), names,
        )  # fmt: skip
        charts["probes"] = figures.probes(main, names)
    charts["rate_distortion"] = figures.scatter(
        trials, finals, ("valid/kl", "test/kl", "rate: KL (nats)"),
        ("valid/reconstruction", "test/reconstruction", "distortion: reconstruction (nats)"), names,
    )  # fmt: skip
    if kl:
        charts["spectra"] = figures.spectra(kl, names)
    metric = "valid/elbo" if "valid/elbo" in trials else "valid/reconstruction"
    charts["budget"] = figures.budgets(trials, metric, metrics.find(metric).better, names)
    charts["curves"] = figures.curves(_curves(main, tracker, metric), metric, names)
    return charts


def _curves(finals: pd.DataFrame, tracker: Tracker, metric: str) -> pd.DataFrame:
    """Return a row for each epoch of each final: variant, seed, epoch and the metric."""
    rows = []
    for _, final in finals.iterrows():
        values = compare.curves(tracker, final["run"], [metric])
        last = int(final.get("time/epochs", max(values, default=1) - 1))  # a later point repeats the best epoch
        rows += [
            {"variant": final["variant"], "seed": final["seed"], "epoch": epoch, **value}
            for epoch, value in values.items()
            if epoch <= last
        ]
    return pd.DataFrame(rows, columns=["variant", "seed", "epoch", metric])


def _strips(
    comparison: Comparison, tracker: Tracker, shown: pd.DataFrame, kl: Mapping[str, list[float]], folder: Path
) -> dict[str, list[tuple[str, str]]]:
    """Write strips of images as PNG. Returns (variant, image as URI) for each kind in `STRIPS`."""
    strips: dict[str, list[tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for _, row in shown.iterrows():
            data = comparison.candidates[row["variant"]].data
            model = tracker.model(row["model"], Path(scratch) / row["model"])
            models[row["variant"]] = (model.to(data.train.x.device), data)
        for kind, name, png in figures.side_by_side(models, kl) if models else ():
            strips.setdefault(kind, []).append((name, figures.uri(png)))
            (folder / "figures" / f"{kind}_{name}.png").write_bytes(png)
    return strips


def _tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    tables = {}
    for board in comparison.boards:
        tables[f"board_{board.criterion.name}"] = _board_table(board)
        tables[f"pairs_{board.criterion.name}"] = _pairs_table(board)
    tables["finals"] = comparison.finals
    tables["everything"] = _scores_table(comparison)
    tables["cost"] = _cost_table(comparison)
    tables["configurations"] = _configurations_table(comparison)
    tables["importances"] = _importances_table(comparison)
    tables["environment"] = pd.DataFrame(comparison.environment.items(), columns=["what", "value"])
    return tables


def _board_table(board: Board) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for place, r in enumerate(board.rows, 1):
        if r.mean is None:
            rows.append({"variant": r.variant, "place": "—", "mean": "—", "95% interval": r.reason})
            continue
        assert r.middle is not None
        row: dict[str, Any] = {"variant": r.variant, "place": place, "mean": f"{r.mean.value:.4g}"}
        row["95% interval"] = f"[{r.mean.low:.4g}, {r.mean.high:.4g}]" if r.seeds > 1 else "one seed"
        row["IQM, bootstrap interval"] = f"{r.middle.value:.4g} [{r.middle.low:.4g}, {r.middle.high:.4g}]"
        row["rank"] = f"{r.rank.value:.2g} [{r.rank.low:.2g}, {r.rank.high:.2g}]" if r.rank else "—"
        row["seeds"] = str(r.seeds)
        row |= {metric: f"{value:.4g}" for metric, value in (r.related or {}).items()}
        rows.append(row)
    for title, value in board.baselines.items():
        rows.append({"variant": title, "place": "—", "mean": f"{value:.4g}", "95% interval": "baseline"})
    return pd.DataFrame(rows).fillna("—")


def _pairs_table(board: Board) -> pd.DataFrame:
    rows = [
        {
            "better": p.better, "worse": p.worse, "difference": f"{p.difference.mean.value:.3g}",
            "95% interval": f"[{p.difference.mean.low:.3g}, {p.difference.mean.high:.3g}]", "p": f"{p.p:.2g}",
            "effect": f"{p.difference.effect:.2g}",
            "P(better)": f"{p.chance.value:.2f} [{p.chance.low:.2f}, {p.chance.high:.2f}]",
            "pairs": p.difference.pairs, "significant": "yes" if p.significant else "no",
        }
        for p in board.pairs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _scores_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each metric and a column for each variant: mean and standard deviation over seeds."""
    finals = _main_finals(comparison)
    rows = []
    for metric in sorted(c for c in finals.columns if str(c).startswith(SCORES)):
        row: dict[str, Any] = {"metric": metric}
        for name, column in finals.groupby("variant")[metric]:
            values = column.dropna()
            spread = f" ± {values.std():.2g}" if len(values) > 1 else ""
            row[str(name)] = f"{values.mean():.4g}{spread}" if len(values) else "—"
        rows.append(row)
    return pd.DataFrame(rows)


def _cost_table(comparison: Comparison) -> pd.DataFrame:
    finals = _main_finals(comparison)
    rows = []
    for name, candidate in sorted(comparison.candidates.items()):
        study, own_finals = candidate.study, finals[finals["variant"] == name]
        states = Counter("cut off" if t.is_cut_off else t.state for t in study.trials)
        seconds, epochs = own_finals.reindex(columns=["time/trial_seconds", "time/epochs"]).mean()
        rows.append({
            "variant": name, "study": study.name, "budget": study.goal or "—", "trials": len(study.trials),
            **{state: states[state] for state in ("complete", "pruned", "cut off", "failed")},
            "started from": ", ".join(study.started_from) or "—", "epochs at most": study.epochs,
            "search, epochs": study.spent_epochs, "search, s": f"{study.seconds:.0f}",
            "a final, epochs": f"{epochs:.1f}", "a final, s": f"{seconds:.1f}",
            "weights": f"{comparison.weights.get(name, 0):,}", "data": str(candidate.source),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _configurations_table(comparison: Comparison) -> pd.DataFrame:
    rows = []
    for c in comparison.choices:
        values = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in dataclasses.asdict(c.config).items()}
        row = {"variant": c.variant, "chosen by": c.criterion, "trial": c.trial, "score": f"{c.value:.4g}"}
        rows.append({**row, **values})
    return pd.DataFrame(rows).fillna("—")


def _importances_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant and objective: the importance of each parameter, or why there is none."""
    rows = []
    for name, candidate in sorted(comparison.candidates.items()):
        for objective, shares in candidate.study.importances.items():
            row = {"variant": name, "objective": objective}
            if isinstance(shares, Undefined):
                rows.append({**row, "from": f"no importances: {shares.reason}"})
            else:
                numbers = {parameter: f"{share:.2f}" for parameter, share in shares.items()}
                rows.append({**row, "from": f"{candidate.study.complete} complete trials", **numbers})
    return pd.DataFrame(rows).fillna("—")


def _board(board: Board, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    name = board.criterion.name
    return {
        "criterion": board.criterion, "unit": metrics.find(board.criterion.test_metric).unit,
        "conclusions": board.conclusions, "table": pages.table(tables[f"board_{name}"]),
        "pairs": pages.table(tables[f"pairs_{name}"]),
    }  # fmt: skip
