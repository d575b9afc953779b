"""The tables of a comparison: the one of all variants by all criteria, and those that are files beside the report."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.compare import formats, remarks, statistics
from pipeline.compare.analysis import TRIVIAL_NOTES, Board, BoardRow, mean_of
from pipeline.compare.criteria import ROWS
from pipeline.compare.protocol import Comparison
from pipeline.compare.sentences import trivial_note
from pipeline.metrics import Undefined

SCORES = ("test/", "probe/", "latent/", "sample/", "use/")  # prefixes of the scores of a final
MARKS = {"worse": "worse", "equal": "= best", "undecided": "undecided", "better": "undecided"}


def score_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
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


def trivial_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    by_board = [{r.name: r for r in board.trivial} for board in boards]
    names = dict.fromkeys(name for by_name in by_board for name in by_name)
    empty = BoardRow(name="")
    return [
        {
            "name": name,
            "notes": [],
            "cells": [_cell(of.get(name, empty), board, ()) for of, board in zip(by_board, boards, strict=True)],
        }
        for name in names
    ]


def _cell(row: BoardRow, board: Board, elsewhere: Iterable[str]) -> dict[str, Any]:
    """Return what a cell of the table shows: notes that are not shown `elsewhere`, and a mark against the best."""
    if row.mean is None:
        return {"value": "—", "notes": [row.reason] if row.reason else []}
    interval = formats.interval(row.mean, board.criterion.unit) if row.mean.is_known else "error unknown"
    return {
        "value": formats.number(row.mean), "interval": interval,
        "n": f"{row.mean.repetitions}" + (f", {row.mean.rows:,} examples" if row.mean.rows else ""),
        "mark": "" if row in board.trivial else _mark(row.name, board), "is_trivial": bool(trivial_note(row)),
        "notes": [n.partition(" (")[0] if n.startswith(TRIVIAL_NOTES) else n for n in row.notes if n not in elsewhere],
    }  # fmt: skip


def _mark(name: str, board: Board) -> str:
    """Return how a variant compares with the one that has the best mean."""
    best = board.rows[0].name
    if name == best:
        return "best mean"
    pair = next((p for p in board.pairs if {p.first, p.second} == {name, best}), None)
    return "no verdict" if pair is None or pair.reason else MARKS[board.verdicts(name)[best]]


def all_of(comparison: Comparison) -> dict[str, pd.DataFrame]:
    tables = {}
    for board in comparison.boards:
        tables[f"board_{board.criterion.name}"] = board_table(board)
        tables[f"pairs_{board.criterion.name}"] = pairs_table(board)
    tables["finals"] = comparison.finals
    tables["everything"] = scores_table(comparison)
    tables["cost"] = cost_table(comparison)
    tables["configurations"] = configurations_table(comparison)
    tables["importances"] = importances_table(comparison)
    tables["environment"] = pd.DataFrame(comparison.environment.items(), columns=["what", "value"])
    return tables


def board_table(board: Board) -> pd.DataFrame:
    """Return a row for each variant, and below, for each trivial model."""
    rows: list[dict[str, Any]] = []
    for r in (*board.rows, *board.trivial):
        row: dict[str, Any] = {
            "name": r.name,
            "mean": "—",
            "notes": "; ".join(filter(None, [*r.notes, *r.remarks, r.reason])),
        }
        if r.mean is not None:
            places = formats.places(r.mean)
            row["mean"] = f"{r.mean.value:.{places}f}"
            row["standard error"] = f"{r.mean.error:.{places}f}" if r.mean.is_known else "—"
            row[f"{statistics.LEVEL:.0%} interval"] = formats.interval(r.mean, board.criterion.unit)
            row["n"] = str(r.mean.repetitions)
            row["test examples"] = str(r.mean.rows or "—")
            row["against the best"] = "trivial" if r in board.trivial else _mark(r.name, board)
        rows.append(row | {metric: formats.number(mean) for metric, mean in r.related.items()})
    table = pd.DataFrame(rows).fillna("—")
    return table[[*(c for c in table if c != "notes"), "notes"]]


def pairs_table(board: Board) -> pd.DataFrame:
    order = [r.name for r in board.rows]
    rows = []
    for p in sorted(board.pairs, key=lambda p: (order.index(p.first), order.index(p.second))):
        c, places = p.chances, formats.places(p.difference)
        known = math.isfinite(p.interval[0])
        needed = p.needed or f"over {statistics.MOST_REPETITIONS}"
        rows.append({
            "first": p.first, "second": p.second, "verdict": f"none: {p.reason}" if p.reason else p.verdict,
            "better by": formats.number(p.difference),
            "simultaneous 95% interval": formats.bounds(p.interval, places) if known else "—",
            "P(better)": formats.probability(c.better) if c else "—",
            "P(practically equal)": formats.probability(c.equal) if c else "—",
            "P(worse)": formats.probability(c.worse) if c else "—", "n": p.difference.repetitions,
            "n needed": needed if p.verdict == "undecided" and not p.reason else "—",
        })  # fmt: skip
    return pd.DataFrame(rows)


def scores_table(comparison: Comparison) -> pd.DataFrame:
    """Return means ± standard errors, with the number of units: a row for each metric, a column for each variant.

    If the units share one split, the column `error over` says of which metrics the error contains that over test
    examples.
    """
    finals, design = comparison.main_finals(), comparison.design
    doubtful = remarks.without_convergence(finals)
    rows = []
    for metric in sorted(c for c in finals.columns if str(c).startswith(SCORES)):
        row: dict[str, Any] = {"metric": metric, "unit": metrics.find(metric).unit}
        if design.overlap is None:
            row["error over"] = f"{design.unit}s{' and test examples' * (metric in ROWS)}"
        for name, runs in finals.groupby("variant"):
            mean = mean_of(runs, metric, comparison.rows, design)
            row[str(name)] = "—"
            if mean is not None:
                notes = [f"n = {mean.repetitions}"] * (mean.repetitions != design.asked)
                notes += ["not converged"] * (str(name) in doubtful and metric in remarks.OF_AIS)
                row[str(name)] = formats.number(mean) + (f" ({', '.join(notes)})" if notes else "")
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each variant. Trials, epochs and seconds of its searches are summed over repetitions."""
    finals = comparison.main_finals()
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


def configurations_table(comparison: Comparison) -> pd.DataFrame:
    rows = []
    for repetition in comparison.repetitions:
        for c in repetition.choices:
            values = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in dataclasses.asdict(c.config).items()}
            row = {"variant": c.variant, "chosen by": c.criterion, "repetition": repetition.number + 1}
            rows.append({**row, "trial": c.trial, "validation score": f"{c.value:.4g}", **values})
    return pd.DataFrame(rows).fillna("—")


def importances_table(comparison: Comparison) -> pd.DataFrame:
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


def forecasts_table(evaluations: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the forecasts of one final of each variant on the same sequences, and below, those of the baselines.

    `evaluations` are the contents of `evaluation.json` by variant. The table is empty if no variant forecasts.
    """
    frames = []
    for name, evaluation in evaluations.items():
        if "forecasts" in evaluation["tables"]:
            frame = pd.DataFrame(evaluation["tables"]["forecasts"])
            frames.append(frame.replace({"method": {"model": name}}))
    if not frames:
        return pd.DataFrame()
    whole = pd.concat(frames).drop_duplicates(["channel", "horizon", "method"])
    is_model = whole["method"].isin(evaluations.keys())
    places = whole.groupby(["channel", "horizon"], sort=False).ngroup()
    return whole.iloc[np.lexsort([~is_model, places])]


def has_importances(comparison: Comparison) -> bool:
    studies = [c.study for c in comparison.candidates.values()]
    return any(not isinstance(shares, Undefined) for study in studies for shares in study.importances.values())
