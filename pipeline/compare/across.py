"""Several data sets: who is first on the whole. Of each criterion the variants that have a number on all of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import metrics, pages
from pipeline.compare import figures, statistics
from pipeline.compare.analysis import Board
from pipeline.compare.protocol import CRITERIA, Comparison
from pipeline.compare.statistics import Array


def write(found: Sequence[Comparison], folder: Path, command: str, reports: dict[str, str]) -> tuple[Path, list[str]]:
    """`across.html`, a table and a figure a criterion, in a folder. Returns the page, and the answers in words."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({v for one in found for v in one.candidates})
    parts, pictures, said = [], {}, []
    for criterion in CRITERIA:
        boards = {one.dataset: (one, b) for one in found for b in one.boards if b.criterion.name == criterion.name}
        scores = {source: _scores(one, board) for source, (one, board) in boards.items()}
        everywhere = [n for n in names if scores and all(n in s for s in scores.values())]
        missing = [f"{n} has no number on {', '.join(s for s in scores if n not in scores[s])}, and no rank"
                   for n in names if n not in everywhere and any(n in s for s in scores.values())]  # fmt: skip
        if len(everywhere) < 2 or len(scores) < 2:
            continue
        seeds = sorted(set.intersection(*(set(s[n].index) for s in scores.values() for n in everywhere)))
        if not seeds:
            continue
        sign = -1.0 if metrics.find(criterion.judged).better == "minimize" else 1.0
        tables: dict[str, Array] = {
            n: sign * np.stack([s[n].loc[seeds].to_numpy(dtype=float) for s in scores.values()], axis=1)
            for n in everywhere
        }
        averages = statistics.ranks(tables)
        places = stats.rankdata(-np.stack([t.mean(0) for t in tables.values()]), axis=0)  # (V, T)
        each = {n: dict(zip(scores, map(float, places[i]), strict=True)) for i, n in enumerate(everywhere)}
        rows = [
            {
                "variant": n, "rank": f"{averages[n].value:.2f}",
                "95% interval": f"[{averages[n].low:.2f}, {averages[n].high:.2f}]",
                **{s: f"{r:g}" for s, r in each[n].items()},
            }
            for n in sorted(everywhere, key=lambda n: averages[n].value)
        ]  # fmt: skip
        table = pd.DataFrame(rows)
        table.to_csv(folder / f"ranks_{criterion.name}.csv", index=False)
        pictures[criterion.name] = figures.ranks(averages, each, names)
        (folder / f"ranks_{criterion.name}.png").write_bytes(pictures[criterion.name]["light"])
        parts.append({
            "name": criterion.name, "question": criterion.question, "judged": criterion.judged, "missing": missing,
            "table": pages.table(table),
        })  # fmt: skip
        first = rows[0]
        said.append(
            f"{criterion.question} {first['variant']}, of rank {first['rank']} {first['95% interval']} over "
            f"{len(scores)} data sets and {len(seeds)} seeds."
        )
    if not said:
        said.append("No two variants have a number on all of these data sets: there are no ranks.")
    html = pages.page(
        "across", title=f"Which VAE variant for {', '.join(o.dataset for o in found)}?",
        subtitle=f"{len(found)} data sets, each with a report of its own.", answers=said, parts=parts,
        figures={n: figures.uris(p) for n, p in pictures.items()}, reports=reports, command=command,
    )  # fmt: skip
    page = folder / "across.html"
    page.write_text(html, encoding="utf-8")
    return page, said


def _scores(found: Comparison, board: Board) -> "dict[str, pd.Series[float]]":
    """Of each variant with a number: its test scores by seed."""
    keys = {c.variant: c.key for c in found.choices if c.criterion == board.criterion.name}
    scores = {}
    for row in board.rows:
        if row.mean is not None:
            runs = found.finals[found.finals["config"] == keys[row.variant]]
            scores[row.variant] = runs.set_index("seed")[board.criterion.judged].dropna()
    return scores
