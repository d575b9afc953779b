"""The report: one HTML file that needs no network, its figures, and its tables as CSV and LaTeX."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import metrics, pages
from pipeline.compare import figures
from pipeline.compare.analysis import Board
from pipeline.compare.protocol import Comparison
from pipeline.evaluate import report as evaluation
from pipeline.tracker import Tracker, views

STRIPS = {
    "reconstructions": "The same test images, given back", "samples": "Draws from the prior",
    "traversals": "One code, its most informative dimensions moved",
}  # fmt: skip
SHOWN = ("cost", "configurations", "importances", "everything", "environment")  # tables, beside those of the boards


@dataclasses.dataclass(frozen=True)
class Report:
    """Where it lies, and its tables by name."""

    page: Path
    tables: Mapping[str, pd.DataFrame]


def write(found: Comparison, tracker: Tracker, folder: Path, command: str) -> Report:
    """Write `report.html`, `figures/` and `tables/` into a folder."""
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = sorted(found.candidates)
    shown = _shown(found)
    details = {row["variant"]: json.loads(tracker.text(row["run"], evaluation.FILE)) for _, row in shown.iterrows()}
    vectors = {n: d["vectors"].get("kl_per_dimension", []) for n, d in details.items()}
    pictures = _figures(found, tracker, names, vectors)
    for name, themes in pictures.items():
        (folder / "figures" / f"{name}.png").write_bytes(themes["light"])
    strips = _strips(found, tracker, shown, vectors, folder)
    tables = _tables(found)
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        tex = table.to_latex(index=False, escape=True, float_format="%.4g")
        (folder / "tables" / f"{name}.tex").write_text(tex, encoding="utf-8")
    html = pages.page(
        "report", title=f"Which VAE variant for {found.dataset}?", subtitle=_subtitle(found), answers=answers(found),
        warnings=found.warnings, boards=[_board(b, tables) for b in found.boards],
        figures={n: figures.uris(themes) for n, themes in pictures.items()},
        strips=strips, strips_words=STRIPS,
        verdicts=[(n, " ".join(d["words"])) for n, d in details.items() if d["words"]],
        champions=[uri for uri, _, _ in _champions(found)], command=command,
        **{n: pages.table(tables[n]) for n in SHOWN},
    )  # fmt: skip
    (folder / "report.html").write_text(html, encoding="utf-8")
    return Report(folder / "report.html", tables)


def log(found: Comparison, written: Report, tracker: Tracker) -> list[str]:
    """The report and its tables into the comparison's run, the champions into the registry. Returns their addresses."""
    searched = {name for s in found.candidates.values() for name in s.study.space}
    views.write(tracker.client, tracker.experiment, sorted(searched))
    with tracker.run(f"comparison of {found.dataset}", {}, key=f"comparison-{found.dataset}") as run:
        run.files(written.page.parent, "report")
        for board in found.boards:
            name = f"board_{board.criterion.name}"
            run.table(f"{name}.json", written.tables[name].astype(str).to_dict("list"))
    champions = _champions(found)
    for _, model, alias in champions:
        tracker.register(f"vae-{found.dataset}", model, alias)
    return [uri for uri, _, _ in champions]


def _champions(found: Comparison) -> list[tuple[str, str, str]]:
    """Of each criterion (address, model, alias): of its first variant, the final that is best on validation data."""
    champions = []
    for board in found.boards:
        best = next((r.variant for r in board.rows if r.mean is not None), None)
        keys = [c.key for c in found.choices if c.criterion == board.criterion.name and c.variant == best]
        if keys:
            runs = found.finals[(found.finals["config"] == keys[0]) & (found.finals["state"] == "complete")]
            better = metrics.find(board.criterion.chosen).better
            first = runs.sort_values(board.criterion.chosen, ascending=better == "minimize").iloc[0]
            alias = f"champion-{board.criterion.name}"
            champions.append((f"models:/vae-{found.dataset}@{alias}", first["model"], alias))
    return champions


def answers(found: Comparison) -> list[str]:
    """A sentence a criterion: who is first, and who cannot be told apart from it."""
    said = []
    for board in found.boards:
        rows = [r for r in board.rows if r.mean is not None]
        if not rows:
            said.append(f"{board.criterion.question} Nobody can say: no variant has {board.criterion.judged} here.")
            continue
        first, unit = rows[0], metrics.find(board.criterion.judged).unit
        assert first.mean is not None
        rivals = [p.worse for p in board.pairs if p.better == first.variant and not p.sure]
        rest = [p.worse for p in board.pairs if p.better == first.variant and p.sure]
        value = f"{first.mean.value:.4g}" + (
            f" [{first.mean.low:.4g}, {first.mean.high:.4g}]" if np.isfinite(first.mean.low) else ""
        )
        words = f"{board.criterion.question} {first.variant}: {value} {unit}."
        if rest:
            words += f" It beats {_listed(rest)}."
        if rivals:
            words += f" It cannot be told apart from {_listed(rivals)} with {first.seeds} seed(s)."
        said.append(words)
    return said


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subtitle(found: Comparison) -> str:
    runs = len(found.finals)
    seeds = found.finals["seed"].nunique()
    return f"{len(found.candidates)} variants, {seeds} fresh seeds, {runs} trainings scored once on the test split."


def _shown(found: Comparison) -> pd.DataFrame:
    """A row a variant: its first complete final, of its main configuration."""
    keys = _main_keys(found)
    frame = found.finals[(found.finals["state"] == "complete") & found.finals["config"].isin(keys.values())]
    return frame.sort_values("seed").groupby("variant", as_index=False).first()


def _main_keys(found: Comparison) -> dict[str, str]:
    """The configuration of each variant that the ELBO chose; the reconstruction, where there is none."""
    keys: dict[str, str] = {}
    for criterion in ("elbo", "reconstruction", "probe"):
        for choice in found.choices:
            if choice.criterion == criterion:
                keys.setdefault(choice.variant, choice.key)
    return keys


def trials(found: Comparison) -> pd.DataFrame:
    """A row a trial: variant, number, state, its configuration, and its validation scores."""
    rows = [
        {"variant": name, "trial": t.number, "state": t.state, **dataclasses.asdict(t.config), **t.metrics}
        for name, candidate in found.candidates.items()
        for t in candidate.study.trials
    ]
    return pd.DataFrame(rows)


def _figures(
    found: Comparison, tracker: Tracker, names: list[str], vectors: Mapping[str, list[float]]
) -> dict[str, dict[str, bytes]]:
    tried, finals = trials(found), found.finals
    main = finals[finals["config"].isin(_main_keys(found).values())]
    made = {}
    for board in found.boards:
        if any(r.mean for r in board.rows):
            keys = {c.key for c in found.choices if c.criterion == board.criterion.name}
            made[f"board_{board.criterion.name}"] = figures.leaderboard(
                board, finals[finals["config"].isin(keys)], names
            )
    elbo = ("valid/elbo", "test/elbo", "ELBO (nats)")
    if "probe/accuracy" in tried:
        made["elbo_probe"] = figures.scatter(
            tried, finals, elbo, ("probe/accuracy", "probe/linear_all", "probe accuracy"), names
        )
        made["probes"] = figures.probes(main, names)
    made["rate_distortion"] = figures.scatter(
        tried, finals, ("valid/kl", "test/kl", "rate: KL (nats)"),
        ("valid/reconstruction", "test/reconstruction", "distortion: reconstruction (nats)"), names,
    )  # fmt: skip
    if any(vectors.values()):
        made["spectra"] = figures.spectra(vectors, names)
    scored = "valid/elbo" if "valid/elbo" in tried else "valid/reconstruction"
    better = metrics.find(scored).better
    made["budget"] = figures.budgets(tried, scored, better, names)
    made["curves"] = figures.curves(curves(main, tracker, scored), scored, names)
    return made


def curves(finals: pd.DataFrame, tracker: Tracker, *wanted: str) -> pd.DataFrame:
    """A row an epoch of each complete final: variant, seed, epoch, and the metrics wanted."""
    rows = []
    for _, run in finals[finals["state"] == "complete"].iterrows():
        by: dict[int, dict[str, Any]] = {}
        for metric in wanted:
            for step, value in tracker.curve(run["run"], metric):
                by.setdefault(step, {})[metric] = value
        last = max(by, default=0)
        rows += [
            {"variant": run["variant"], "seed": run["seed"], "epoch": step, **values}
            for step, values in by.items()
            if step < last or last == 1  # the last point repeats the kept epoch
        ]
    return pd.DataFrame(rows, columns=["variant", "seed", "epoch", *wanted])


def _strips(
    found: Comparison, tracker: Tracker, shown: pd.DataFrame, vectors: Mapping[str, list[float]], folder: Path
) -> dict[str, list[tuple[str, str]]]:
    strips: dict[str, list[tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for _, row in shown.iterrows():
            data = found.candidates[row["variant"]].data
            model = tracker.model(row["model"], Path(scratch) / row["model"])
            models[row["variant"]] = (model.to(data.train.x.device), data)
        known = {n: v for n, v in vectors.items() if v}
        for what, name, png in figures.side_by_side(models, known) if models else ():
            strips.setdefault(what, []).append((name, figures.uri(png)))
            (folder / "figures" / f"{what}_{name}.png").write_bytes(png)
    return strips


def _tables(found: Comparison) -> dict[str, pd.DataFrame]:
    tables = {}
    for board in found.boards:
        tables[f"board_{board.criterion.name}"] = _board_table(board)
        tables[f"pairs_{board.criterion.name}"] = _pairs_table(board)
    tables["finals"] = found.finals
    tables["everything"] = _everything(found)
    tables["cost"] = _cost(found)
    tables["configurations"] = _configurations(found)
    tables["importances"] = _importances(found)
    tables["environment"] = pd.DataFrame(found.environment.items(), columns=["what", "value"])
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
        row |= {m: f"{v:.4g}" for m, v in (r.beside or {}).items()}
        rows.append(row)
    return pd.DataFrame(rows).fillna("—")


def _pairs_table(board: Board) -> pd.DataFrame:
    rows = [
        {
            "better": p.better, "worse": p.worse, "difference": f"{p.difference.mean.value:.3g}",
            "95% interval": f"[{p.difference.mean.low:.3g}, {p.difference.mean.high:.3g}]", "p": f"{p.corrected:.2g}",
            "effect": f"{p.difference.effect:.2g}",
            "P(better)": f"{p.chance.value:.2f} [{p.chance.low:.2f}, {p.chance.high:.2f}]",
            "pairs": p.difference.pairs, "sure": "yes" if p.sure else "no",
        }
        for p in board.pairs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _everything(found: Comparison) -> pd.DataFrame:
    """A metric a row, a variant a column: mean and standard deviation over seeds."""
    frame = found.finals[found.finals["config"].isin(_main_keys(found).values())]
    frame = frame[frame["state"] == "complete"]
    tested = [c for c in frame.columns if str(c).startswith(("test/", "probe/", "latent/", "sample/", "use/"))]
    rows = []
    for metric in sorted(tested):
        row: dict[str, Any] = {"metric": metric}
        for name, values in frame.groupby("variant")[metric]:
            known = values.dropna()
            spread = f" ± {known.std():.2g}" if len(known) > 1 else ""
            row[str(name)] = f"{known.mean():.4g}{spread}" if len(known) else "—"
        rows.append(row)
    return pd.DataFrame(rows)


def _cost(found: Comparison) -> pd.DataFrame:
    main = found.finals[found.finals["config"].isin(_main_keys(found).values())]
    rows = []
    for name, s in sorted(found.candidates.items()):
        states = [t.state for t in s.study.trials]
        mine = main[main["variant"] == name]
        seconds = mine["time/trial_seconds"].mean() if "time/trial_seconds" in mine else float("nan")
        rows.append({
            "variant": name, "study": s.study.name, "trials": len(states), "pruned": states.count("pruned"),
            "failed": states.count("failed"), "epochs at most": s.study.epochs, "search, s": f"{s.study.seconds:.0f}",
            "a final, s": f"{seconds:.1f}", "weights": f"{found.weights.get(name, 0):,}", "data": s.source,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _configurations(found: Comparison) -> pd.DataFrame:
    rows = []
    for c in found.choices:
        own = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in dataclasses.asdict(c.config).items()}
        rows.append(
            {"variant": c.variant, "chosen by": c.criterion, "trial": c.trial, "score": f"{c.value:.4g}", **own}
        )
    return pd.DataFrame(rows).fillna("—")


def _importances(found: Comparison) -> pd.DataFrame:
    rows = [
        {"variant": name, "objective": objective, **{k: f"{v:.2f}" for k, v in shares.items()}}
        for name, s in sorted(found.candidates.items())
        for objective, shares in s.study.importances.items()
    ]
    return pd.DataFrame(rows).fillna("—")


def _board(board: Board, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    c, metric = board.criterion, metrics.find(board.criterion.judged)
    return {
        "name": c.name, "question": c.question, "caution": c.caution, "chosen": c.chosen, "judged": c.judged,
        "unit": metric.unit, "better": "lower is better" if metric.better == "minimize" else "higher is better",
        "words": board.words, "table": pages.table(tables[f"board_{c.name}"]),
        "pairs": pages.table(tables[f"pairs_{c.name}"]),
    }  # fmt: skip
