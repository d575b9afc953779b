"""Ranks over several data sets, for each criterion among the variants that have a score on all of them.

The data sets are the unit: each variant has one score on each of them, the mean of its board.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import pages
from pipeline.compare import figures, statistics
from pipeline.compare.analysis import Board, Criterion
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
        variants = sorted({v for of_dataset in scores.values() for v in of_dataset})
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
            f"{v} has no rank, because it has no score on {_without(v, scores)}" for v in variants if v not in ranked
        ]
        parts.append({"criterion": criterion, "test": test, "missing": missing, "table": pages.table(table)})
        answers.append(_answer(criterion, test, order))
    if not answers:
        answers.append("There are no ranks, because no two variants have a score on all of these data sets.")
    elif len(comparisons) < FEW:
        answers.append(
            f"Ranks over {len(comparisons)} data sets show little: compare variants on at least {FEW}, better on ten."
        )
    html = pages.page(
        "across", title=f"Which VAE variant for {', '.join(c.dataset for c in comparisons)}?",
        subtitle=f"{len(comparisons)} data sets, each with its own report.", answers=answers, parts=parts,
        figures={n: figures.uris(themes) for n, themes in charts.items()}, reports=reports, command=command,
    )  # fmt: skip
    page = folder / "across.html"
    page.write_text(html, encoding="utf-8")
    return page, answers


def _answer(criterion: Criterion, test: RankTest, order: Sequence[str]) -> str:
    """Say which variant has the best average rank, and which ones it is better than."""
    first = order[0]
    rank = f"{test.ranks[first]:.2f} over {test.datasets} data sets"
    text = f"{criterion.question} {first} has the best average rank, {rank}."
    if len(order) - 1 < test.critical_difference:
        return (
            f"{text} No difference of ranks could be told from chance here: the critical difference is "
            f"{test.critical_difference:.2f}, and the largest possible one is {len(order) - 1}."
        )
    behind = [v for v in order if test.ranks[v] - test.ranks[first] >= test.critical_difference]
    better = f"It is better than {', '.join(behind)}" if behind else "It cannot be told apart from any other one"
    difference = f"Nemenyi's critical difference: {test.critical_difference:.2f}"
    return f"{text} {better} ({difference}; Friedman's test: p = {test.p:.2g})."


def _without(name: str, scores: Mapping[str, Mapping[str, object]]) -> str:
    return ", ".join(dataset for dataset in scores if name not in scores[dataset])
