"""Ranks over several data sets, for each criterion among the variants that have a score on all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import pages
from pipeline.compare import figures, statistics
from pipeline.compare.analysis import Board
from pipeline.compare.protocol import CRITERIA, Comparison
from pipeline.compare.statistics import Array


def write(
    comparisons: Sequence[Comparison], folder: Path, command: str, reports: Mapping[str, str]
) -> tuple[Path, list[str]]:
    """Write `across.html` into a folder, with a table and a figure for each criterion.

    `reports` holds the path of each data set's own report. Returns the page, and the answers in sentences.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({v for c in comparisons for v in c.candidates})
    parts, charts, answers = [], {}, []
    for criterion in CRITERIA:
        boards = [(c, b) for c in comparisons for b in c.boards if b.criterion.name == criterion.name]
        scores = {comparison.dataset: _scores(comparison, board) for comparison, board in boards}
        ranked = [n for n in names if scores and all(n in s for s in scores.values())]
        unranked = [n for n in names if n not in ranked and any(n in s for s in scores.values())]
        missing = [f"{n} has no rank, because it has no score on {_without(n, scores)}" for n in unranked]
        if len(ranked) < 2 or len(scores) < 2:
            continue
        seeds = sorted(set.intersection(*(set(s[n].index) for s in scores.values() for n in ranked)))
        if not seeds:
            continue
        by_seed: dict[str, Array] = {
            n: criterion.sign * np.stack([s[n].loc[seeds].to_numpy(dtype=float) for s in scores.values()], axis=1)
            for n in ranked
        }
        averages = statistics.ranks(by_seed)
        places = stats.rankdata(-np.stack([s.mean(0) for s in by_seed.values()]), axis=0)  # (V, T)
        by_dataset = {n: dict(zip(scores, map(float, places[i]), strict=True)) for i, n in enumerate(ranked)}
        rows = [
            {
                "variant": n, "rank": f"{averages[n].value:.2f}",
                "95% interval": f"[{averages[n].low:.2f}, {averages[n].high:.2f}]",
                **{dataset: f"{rank:g}" for dataset, rank in by_dataset[n].items()},
            }
            for n in sorted(ranked, key=lambda n: averages[n].value)
        ]  # fmt: skip
        table = pd.DataFrame(rows)
        table.to_csv(folder / f"ranks_{criterion.name}.csv", index=False)
        charts[criterion.name] = figures.ranks(averages, by_dataset, names)
        (folder / f"ranks_{criterion.name}.png").write_bytes(charts[criterion.name]["light"])
        parts.append({"criterion": criterion, "missing": missing, "table": pages.table(table)})
        first = rows[0]
        answers.append(
            f"{criterion.question} {first['variant']}: its average rank is {first['rank']} {first['95% interval']}, "
            f"over {len(scores)} data sets and {len(seeds)} seeds."
        )
    if not answers:
        answers.append("There are no ranks, because no two variants have a score on all of these data sets.")
    html = pages.page(
        "across", title=f"Which VAE variant for {', '.join(c.dataset for c in comparisons)}?",
        subtitle=f"{len(comparisons)} data sets, each with its own report.", answers=answers, parts=parts,
        figures={n: figures.uris(themes) for n, themes in charts.items()}, reports=reports, command=command,
    )  # fmt: skip
    page = folder / "across.html"
    page.write_text(html, encoding="utf-8")
    return page, answers


def _without(name: str, scores: Mapping[str, Mapping[str, object]]) -> str:
    return ", ".join(dataset for dataset in scores if name not in scores[dataset])


def _scores(comparison: Comparison, board: Board) -> "dict[str, pd.Series[float]]":
    """Return the test scores by seed of each variant that has any."""
    keys = {c.variant: c.key for c in comparison.choices if c.criterion == board.criterion.name}
    scores = {}
    for row in board.rows:
        if row.mean is not None:
            runs = comparison.finals[comparison.finals["config"] == keys[row.variant]]
            scores[row.variant] = runs.set_index("seed")[board.criterion.test_metric].dropna()
    return scores
