"""Ranks over several data sets, for each criterion among the variants that have a score on all of them.

The data sets are the unit: each variant has one score on each of them, the mean of its board.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import pages
from pipeline.compare import figures, formats, statistics
from pipeline.compare.analysis import TRIVIAL_NOTES, Board
from pipeline.compare.criteria import Criterion
from pipeline.compare.protocol import Comparison
from pipeline.compare.statistics import RankTest

FEW = 5  # with fewer data sets than this, ranks show little


def write(
    comparisons: Sequence[Comparison], folder: Path, command: str, reports: Mapping[str, str]
) -> tuple[Path, list[str]]:
    """Write `across.html` into a folder, with a table and a figure for each criterion.

    `reports` holds the path of each data set's own report. Returns the page, and the answers in sentences.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boards: dict[str, dict[str, Board]] = {}  # by criterion and data set
    for comparison in comparisons:
        for board in comparison.boards:
            boards.setdefault(board.criterion.name, {})[comparison.dataset] = board
    parts, charts, answers = [], {}, []
    for name, of_datasets in boards.items():
        criterion = next(iter(of_datasets.values())).criterion
        scores = {
            dataset: {r.name: board.criterion.sign * r.mean.value for r in board.rows if r.mean is not None}
            for dataset, board in of_datasets.items()
        }
        variants = sorted({r.name for board in of_datasets.values() for r in board.rows})
        ranked = [v for v in variants if all(v in of_dataset for of_dataset in scores.values())]
        if len(ranked) < 2 or len(scores) < 2:
            continue
        by_variant = {v: np.array([of_dataset[v] for of_dataset in scores.values()]) for v in ranked}
        test = statistics.rank_test(by_variant)
        places = stats.rankdata(-np.stack(list(by_variant.values())), axis=0)
        by_dataset = {v: dict(zip(scores, map(float, places[i]), strict=True)) for i, v in enumerate(ranked)}
        order = sorted(ranked, key=lambda v: test.ranks[v])
        table = pd.DataFrame([
            {"variant": v, "average rank": f"{test.ranks[v]:.2f}", **{d: f"{r:g}" for d, r in by_dataset[v].items()}}
            for v in order
        ])  # fmt: skip
        table.to_csv(folder / f"ranks_{name}.csv", index=False)
        charts[name] = figures.critical_difference(test, by_dataset)
        (folder / f"ranks_{name}.png").write_bytes(charts[name]["light"])
        missing = [
            f"{v} has no rank, because it has no score on {formats.listed([d for d in scores if v not in scores[d]])}"
            for v in variants
            if v not in ranked
        ]
        fewer = _fewer(of_datasets, ranked)
        parts.append({
            "criterion": criterion, "test": _result(test), "warnings": [*missing, *fewer], "table": pages.table(table),
        })  # fmt: skip
        few = f" Some ranks rest on fewer scores: {'; '.join(fewer)}." if fewer else ""
        answers.append(_answer(criterion, test, order) + _no_better(of_datasets) + few)
    if not answers:
        answers.append("There are no ranks, because no two variants have a score on all of these data sets.")
    elif len(comparisons) < FEW:
        answers.append(
            f"Ranks over {len(comparisons)} data sets show little: the tests find only differences on which nearly all "
            f"of them agree, so finding none says little. Compare variants on at least {FEW}, better on ten."
        )
    reports = {dataset: os.path.relpath(report, folder) for dataset, report in reports.items()}
    html = pages.page(
        "across", title=f"Which VAE variant for {formats.listed([c.dataset for c in comparisons])}?",
        subtitle=f"{len(comparisons)} data sets, each with its own report.", answers=answers, parts=parts,
        figures={n: figures.uris(themes) for n, themes in charts.items()}, reports=reports, command=command,
    )  # fmt: skip
    page = folder / "across.html"
    page.write_text(html, encoding="utf-8")
    return page, answers


def _answer(criterion: Criterion, test: RankTest, order: Sequence[str]) -> str:
    """Say which variant has the best average rank, and which ones it is better than."""
    first, last = order[0], order[-1]
    rank = f"{test.ranks[first]:.2f} over {test.datasets} data sets"
    text = f"{criterion.question} {first} has the best average rank, {rank}."
    agreement = statistics.rank_test({v: np.full(test.datasets, -float(i)) for i, v in enumerate(order)})
    if not agreement.tells_apart(first, last):
        return f"{text} Even ranks on which so few data sets agree cannot be told from chance ({_result(agreement)})."
    behind = [v for v in order if test.tells_apart(first, v)]
    better = f"It is better than {formats.listed(behind)}" if behind else "It cannot be told apart from any other one"
    return f"{text} {better} ({_result(test)})."


def _result(test: RankTest) -> str:
    """Return the result of the test in words."""
    p = f"p = {test.p:.3f}" if test.p >= 0.001 else "p < 0.001"
    if len(test.ranks) == 2:
        return f"sign test: {p}"
    return f"Friedman's test: {p}; Nemenyi's critical difference: {test.critical_difference:.2f}"


def _fewer(boards: Mapping[str, Board], ranked: Sequence[str]) -> list[str]:
    """Return a clause on each ranked mean that is not of all repetitions or seeds, because finals failed."""
    return [
        f"{row.name} has scores of only {row.mean.repetitions} of {board.design.count(board.design.asked)} on {dataset}"
        for dataset, board in boards.items()
        for row in board.rows
        if row.name in ranked and row.mean is not None and row.mean.repetitions < board.design.asked
    ]


def _no_better(boards: Mapping[str, Board]) -> str:
    """Return a sentence that names data sets where no variant is clearly better than a trivial model, or "".

    It begins with a space.
    """
    trivial = [d for d, board in boards.items() if any(n.startswith(TRIVIAL_NOTES) for n in board.rows[0].notes)]
    if not trivial:
        return ""
    return f" On {formats.listed(trivial)}, even the best variant is not clearly better than trivial."
