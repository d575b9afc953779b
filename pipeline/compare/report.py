"""Writes the report of a comparison: one HTML file that needs no network, its figures, and tables as CSV and LaTeX."""

import dataclasses
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import compare, metrics, pages
from pipeline.compare import examples, figures, statistics
from pipeline.compare.analysis import TRIVIAL_NOTES, Board, BoardRow
from pipeline.compare.examples import Models
from pipeline.compare.protocol import Comparison, run_key
from pipeline.compare.statistics import Mean
from pipeline.evaluate import report as evaluation
from pipeline.metrics import Undefined
from pipeline.tracker import Tracker, views

STRIPS = {
    "reconstructions": "Reconstructions of the same test images",
    "samples": "Samples of x from the prior",
    "traversals": "Traversals of the most informative dimensions of one code",
}
SHOWN = ("cost", "configurations", "importances", "everything", "environment")  # tables on the page, besides the boards
SCORES = ("test/", "probe/", "latent/", "sample/", "use/")  # prefixes of the scores of a final
LISTED = 4  # the most names that are listed where "all others" says the same
MARKS = {"worse": "worse", "equal": "= best", "undecided": "undecided", "better": "undecided"}


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
    tables = _tables(comparison)
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
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        tex = table.to_latex(index=False, escape=True, float_format="%.4g")
        (folder / "tables" / f"{name}.tex").write_text(tex, encoding="utf-8")
    html = pages.page(
        "report", title=f"Which VAE variant for {comparison.dataset}?", subtitle=_subtitle(comparison),
        answers=answers(comparison), warnings=comparison.warnings, scores=_score_rows(comparison.boards),
        trivial=_trivial_rows(comparison.boards), how=_how(comparison), columns=columns, rows=rows,
        boards=[_board(board, tables) for board in comparison.boards], strips=strips, titles=STRIPS,
        figures={name: figures.uris(themes) for name, themes in charts.items()},
        design=comparison.design, dataset=comparison.dataset,
        conclusions=[(name, " ".join(d["words"])) for name, d in details.items() if d["words"]],
        is_drawn=next(iter(comparison.candidates.values())).data.layout in ("lines", "table"),
        equal_budget=comparison.equal_budget, repetitions=len(comparison.repetitions),
        champions=[uri for uri, _, _ in _champions(comparison)], command=command, level=f"{statistics.LEVEL:.0%}",
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

    The champion is, among the finals of the first variant on the board, the one that is best on validation data. With
    several repetitions it is one of the first, because their validation data differ.
    """
    champions = []
    for board in comparison.boards:
        criterion = board.criterion
        best = next((r.name for r in board.rows if r.mean is not None), None)
        finals = _finals(comparison, criterion.name)
        finals = finals[(finals["variant"] == best) & (finals["repetition"] == comparison.repetitions[0].number)]
        if len(finals):
            rising = metrics.find(criterion.validation_metric).better == "minimize"
            first = finals.sort_values(criterion.validation_metric, ascending=rising).iloc[0]
            alias = f"champion-{criterion.name}"
            champions.append((f"models:/vae-{comparison.dataset}@{alias}", first["model"], alias))
    return champions


# Sentences


def answers(comparison: Comparison) -> list[str]:
    """Answer the question of each criterion: which variant is best, and which ones cannot be told apart from it."""
    finals = comparison.finals
    partial = finals.loc[finals["conditioned_on"] == "x", "variant"] if "conditioned_on" in finals else ()
    texts = [_answer(board, set(partial)) for board in comparison.boards]
    if comparison.design.unit == "seed":
        texts.append(
            "These are statements about the chosen configurations on this split of the data. For statements about the "
            "variants, repeat the split and the search, too: add --repeats 5."
        )
    return texts


def _answer(board: Board, partial: set[str]) -> str:
    """Answer the question of a criterion. `partial` names variants that model a part of x, given the rest."""
    criterion, design = board.criterion, board.design
    first = next((r for r in board.rows if r.mean is not None), None)
    if first is None or first.mean is None:
        return f"{criterion.question} There is no answer, because no variant has {criterion.test_metric}."
    mean = first.mean
    interval = f", {statistics.LEVEL:.0%} interval {_interval(mean)}" if mean.is_known else ""
    unit = "" if criterion.unit == "share" else f" {criterion.unit}"
    score = f"{_number(mean)}{unit} ({design.count(mean.repetitions)}{interval})"
    clause, accuracy = _no_better(first), _accuracy(first)
    if clause:
        return (
            f"{criterion.question} Even the best variant, {first.name}, is {clause}: its mean is {score}.{accuracy}"
            + (_verdicts(board, first.name, f" Among the variants, {first.name}"))
        )
    text = f"{criterion.question} {first.name}: {score}.{accuracy}"
    if board.trivial and first.name not in partial and mean.is_known:
        best = board.trivial[0]
        assert best.mean is not None
        text += f" This is better than trivial (the best of that kind is {best.name}: {best.mean.value:.4g})."
    return text + _verdicts(board, first.name, " It")


def _accuracy(row: BoardRow) -> str:
    """Return a sentence on the accuracy beside a balanced accuracy, which begins with a space; otherwise nothing."""
    accuracy, share = (row.related.get(name) for name in ("probe/test_accuracy", "probe/majority_all"))
    if accuracy is None or share is None:
        return ""
    return (
        f" Its accuracy is {_number(accuracy)}; always predicting the most frequent class has an accuracy of "
        f"{share.value:.4g}."
    )


def _no_better(row: BoardRow) -> str:
    return next((note for note in row.notes if note.startswith(TRIVIAL_NOTES)), "")


def _verdicts(board: Board, first: str, subject: str) -> str:
    """Return sentences about the first variant and the others, which begin with a space."""
    pairs = {p.second if p.first == first else p.first: p for p in board.pairs if first in (p.first, p.second)}
    verdicts = board.verdicts(first)
    groups: dict[str, list[str]] = {}
    for name in (r.name for r in board.rows if r.name in pairs):
        groups.setdefault("none" if pairs[name].reason else verdicts[name], []).append(name)
    known = [
        f"{words} {_listed(groups[verdict], len(pairs))}"
        for verdict, words in (("better", "better than"), ("equal", "practically equal to"), ("worse", "worse than"))
        if verdict in groups
    ]
    text = f"{subject} is {'; '.join(known)}." if known else ""
    open_pairs = [pairs[name] for name in groups.get("undecided", ())]
    if open_pairs:
        most = board.design.count(max(p.difference.repetitions for p in open_pairs))
        needed = {name: pairs[name].needed for name in groups["undecided"]}
        some = [f"{v} (about {board.design.count(n)} would probably decide)" for v, n in needed.items() if n]
        hopeless = [name for name, n in needed.items() if n is None]
        parts = [_listed(some)] if some else []
        if hopeless:
            parts.append(f"{_listed(hopeless)} (even {statistics.MOST_REPETITIONS} would probably not decide)")
        text += f" With {most}, {'it' if known else first} cannot be told apart from {'; nor from '.join(parts)}."
    reasons: dict[str, list[str]] = {}
    for name in groups.get("none", ()):
        reasons.setdefault(pairs[name].reason, []).append(name)
    for reason, unknown in reasons.items():
        text += f" There is no verdict on {first} and {_listed(unknown, len(pairs))}: {reason}."
    return text


def _listed(names: Sequence[str], all_others: int = 0) -> str:
    """Return names in a sentence; those of all others are not listed if they are many."""
    if len(names) == all_others > LISTED:
        return f"all {all_others} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subtitle(comparison: Comparison) -> str:
    variants, finals = len(comparison.candidates), len(comparison.finals)
    size = len(next(iter(comparison.candidates.values())).data.test)
    text = f"{variants} variant{'s' * (variants != 1)}, {comparison.design.count(comparison.design.asked)}"
    text += f", {finals} finals, each scored once on {size:,} test examples."
    return f"{text} The searches had equal budgets." if comparison.equal_budget else text


def _how(comparison: Comparison) -> str:
    """Return a sentence that says what the errors of the table contain."""
    design = comparison.design
    if design.unit == "seed":
        return (
            "The mean of the chosen configuration over n training seeds. Its error contains that over the test "
            "examples of this split, but not that of another search or split."
        )
    text = "The mean over n repetitions of the split, the search and the training."
    if design.overlap is None:
        return f"{text} Its error contains that over the test examples, which all repetitions share."
    return f"{text} Its variance is corrected for training splits that overlap (Nadeau & Bengio 2003)."


# Numbers


def _number(mean: Mean) -> str:
    """Return a mean with its standard error, to two digits of the error."""
    if not mean.is_known:
        return f"{mean.value:.4g}"
    return f"{mean.value:.{_places(mean)}f} ± {mean.error:.{_places(mean)}f}"


def _interval(mean: Mean) -> str:
    return _range(mean.interval(), _places(mean)) if mean.is_known else "unknown"


def _range(interval: tuple[float, float], places: int) -> str:
    return f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]"


def _probability(value: float) -> str:
    """Return a probability as text. Values near 0 or 1 are written as "< 0.01" or "> 0.99"."""
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def _places(mean: Mean) -> int:
    return min(max(1 - math.floor(math.log10(mean.error)), 0), 8) if mean.is_known else 4


# The table of all variants by all criteria


def _score_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return a row for each variant, in the order of the first board, with a cell for each board."""
    by_board = [{r.name: r for r in board.rows} for board in boards]
    rows = []
    for name in dict.fromkeys(name for by_name in by_board for name in by_name):
        own = [by_name.get(name, BoardRow(name=name)) for by_name in by_board]
        scored = [set(r.notes) for r in own if r.mean is not None]
        common = set.intersection(*scored) if len(scored) > 1 else set()
        common = {n for n in common if not n.startswith(TRIVIAL_NOTES)}
        notes = list(dict.fromkeys(n for r in own for n in r.notes if n in common))
        cells = [_cell(r, board, common) for r, board in zip(own, boards, strict=True)]
        rows.append({"name": name, "notes": notes, "cells": cells})
    return rows


def _trivial_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    by_board = [{r.name: r for r in board.trivial} for board in boards]
    names = dict.fromkeys(name for by_name in by_board for name in by_name)
    empty = BoardRow(name="")
    return [
        {"name": name, "notes": [], "cells": [_cell(by_name.get(name, empty), None) for by_name in by_board]}
        for name in names
    ]


def _cell(row: BoardRow, board: Board | None, elsewhere: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a cell of the table shows: notes that are not shown `elsewhere`, and a mark against the best."""
    if row.mean is None:
        return {"value": "—", "notes": [row.reason] if row.reason else []}
    return {
        "value": _number(row.mean), "interval": _interval(row.mean) if row.mean.is_known else "",
        "n": f"{row.mean.repetitions}" + (f", {row.mean.rows:,} examples" if row.mean.rows else ""),
        "mark": _mark(row.name, board) if board else "", "is_trivial": bool(_no_better(row)),
        "notes": [n.partition(" (")[0] if n.startswith(TRIVIAL_NOTES) else n for n in row.notes if n not in elsewhere],
    }  # fmt: skip


def _mark(name: str, board: Board) -> str:
    """Return how a variant compares with the one that has the best mean."""
    best = board.rows[0].name
    if name == best:
        return "best mean"
    pair = next((p for p in board.pairs if {p.first, p.second} == {name, best}), None)
    return "no verdict" if pair is None or pair.reason else MARKS[board.verdicts(name)[best]]


# Finals


def _finals(comparison: Comparison, criterion: str) -> pd.DataFrame:
    """Return the complete finals of the configurations that a criterion chose in each repetition."""
    return _of_keys(comparison, lambda r: {c.key for c in r.choices if c.criterion == criterion})


def _main_finals(comparison: Comparison) -> pd.DataFrame:
    """Return the complete finals of each variant's main configuration in each repetition.

    That is the one which the ELBO chose, or the reconstruction for a variant that has no ELBO.
    """

    def keys(repetition: Any) -> set[str]:
        main: dict[str, str] = {}
        for criterion in ("elbo", "reconstruction", "probe"):
            for choice in repetition.choices:
                if choice.criterion == criterion:
                    main.setdefault(choice.variant, choice.key)
        return set(main.values())

    return _of_keys(comparison, keys)


def _of_keys(comparison: Comparison, keys: Callable[[Any], set[str]]) -> pd.DataFrame:
    """Return the complete finals whose configuration is among the keys of their repetition."""
    chosen = {r.number: keys(r) for r in comparison.repetitions}
    finals = comparison.finals[comparison.finals["state"] == "complete"]
    return finals[[key in chosen[n] for n, key in zip(finals["repetition"], finals["config"], strict=True)]]


def _shown_finals(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant: the first complete final of its main configuration, of the first repetition."""
    finals = _main_finals(comparison)
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


# Figures


def _figures(
    comparison: Comparison, tracker: Tracker, names: list[str], kl: Mapping[str, list[float]]
) -> dict[str, dict[str, bytes]]:
    trials, finals, main = _trials(comparison), comparison.finals, _main_finals(comparison)
    charts = {}
    for board in comparison.boards:
        if any(r.mean for r in board.rows):
            name = board.criterion.name
            charts[f"board_{name}"] = figures.leaderboard(board, _finals(comparison, name), names)
    probe = next((b.criterion for b in comparison.boards if b.criterion.name == "probe"), None)
    if probe and probe.validation_metric in trials:
        label = f"{probe.test_metric} ({probe.unit})"
        charts["elbo_probe"] = figures.scatter(
            trials, finals, ("valid/elbo", "test/elbo", "ELBO (nats per example)"),
            (probe.validation_metric, probe.test_metric, label), names,
        )  # fmt: skip
        charts["probes"] = figures.probes(main, names)
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


# Tables


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
    """Return a row for each variant, and below, for each trivial model."""
    rows: list[dict[str, Any]] = []
    for r in (*board.rows, *board.trivial):
        row: dict[str, Any] = {"name": r.name, "mean": "—", "notes": "; ".join([*r.notes, r.reason]).strip("; ")}
        if r.mean is not None:
            places = _places(r.mean)
            row["mean"] = f"{r.mean.value:.{places}f}"
            row["standard error"] = f"{r.mean.error:.{places}f}" if r.mean.is_known else "—"
            row[f"{statistics.LEVEL:.0%} interval"] = _interval(r.mean)
            row["n"] = str(r.mean.repetitions)
            row["test examples"] = str(r.mean.rows or "—")
            row["against the best"] = "trivial" if r in board.trivial else _mark(r.name, board)
        rows.append(row | {metric: _number(mean) for metric, mean in r.related.items()})
    table = pd.DataFrame(rows).fillna("—")
    return table[[*(c for c in table if c != "notes"), "notes"]]


def _pairs_table(board: Board) -> pd.DataFrame:
    order = [r.name for r in board.rows]
    rows = []
    for p in sorted(board.pairs, key=lambda p: (order.index(p.first), order.index(p.second))):
        c, places = p.chances, _places(p.difference)
        known = math.isfinite(p.interval[0])
        needed = p.needed or f"over {statistics.MOST_REPETITIONS}"
        rows.append({
            "first": p.first, "second": p.second, "verdict": f"none: {p.reason}" if p.reason else p.verdict,
            "better by": _number(p.difference),
            "simultaneous 95% interval": _range(p.interval, places) if known else "—",
            "P(better)": _probability(c.better) if c else "—",
            "P(practically equal)": _probability(c.equal) if c else "—",
            "P(worse)": _probability(c.worse) if c else "—", "n": p.difference.repetitions,
            "n needed": needed if p.verdict == "undecided" and not p.reason else "—",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _scores_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each metric and a column for each variant: mean and standard error over units, and their n."""
    finals, design = _main_finals(comparison), comparison.design
    rows = []
    for metric in sorted(c for c in finals.columns if str(c).startswith(SCORES)):
        row: dict[str, Any] = {"metric": metric, "unit": metrics.find(metric).unit}
        for name, runs in finals.groupby("variant"):
            values = runs.groupby("unit")[metric].mean().dropna().to_numpy(dtype=float)
            row[str(name)] = "—"
            if len(values):
                missing = f" (n = {len(values)})" if len(values) != design.asked else ""
                row[str(name)] = _number(statistics.mean(values, overlap=design.overlap)) + missing
        rows.append(row)
    return pd.DataFrame(rows)


def _cost_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant. Trials, epochs and seconds of its searches are summed over repetitions."""
    finals = _main_finals(comparison)
    rows = []
    for name, candidate in sorted(comparison.candidates.items()):
        searches = [r.candidates[name].study for r in comparison.repetitions if name in r.candidates]
        study, trials = candidate.study, [t for s in searches for t in s.trials]
        states = Counter("cut off" if t.is_cut_off else t.state for t in trials)
        own_finals = finals[finals["variant"] == name]
        seconds, epochs = own_finals.reindex(columns=["time/trial_seconds", "time/epochs"]).mean()
        rows.append({
            "variant": name, "study": study.name, "budget": study.goal or "—", "searches": len(searches),
            "trials": len(trials), **{state: states[state] for state in ("complete", "pruned", "cut off", "failed")},
            "started from": ", ".join(study.started_from) or "—", "epochs at most": study.epochs,
            "search, epochs": sum(s.spent_epochs for s in searches),
            "search, s": f"{sum(s.seconds for s in searches):.0f}",
            "a final, epochs": f"{epochs:.1f}", "a final, s": f"{seconds:.1f}",
            "weights": f"{comparison.weights.get(name, 0):,}", "data": str(candidate.source),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _configurations_table(comparison: Comparison) -> pd.DataFrame:
    rows = []
    for repetition in comparison.repetitions:
        for c in repetition.choices:
            values = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in dataclasses.asdict(c.config).items()}
            row = {"variant": c.variant, "chosen by": c.criterion, "repetition": repetition.number + 1}
            rows.append({**row, "trial": c.trial, "validation score": f"{c.value:.4g}", **values})
    return pd.DataFrame(rows).fillna("—")


def _importances_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant and objective: the importance of each parameter, or why there is none.

    They are those of the first repetition.
    """
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
        "criterion": board.criterion, "conclusions": board.conclusions, "trivial": board.trivial,
        "table": pages.table(tables[f"board_{name}"]), "pairs": pages.table(tables[f"pairs_{name}"]),
    }  # fmt: skip
