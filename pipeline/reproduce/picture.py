"""A picture that compares the models of an anchor over several seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline.evaluate import drawing
from pipeline.evaluate.drawing import Picture

LEVEL = 0.95


def compared(scores: Mapping[str, Sequence[float]], models: Sequence[str], titles: Mapping[str, str]) -> Picture:
    """Draw a panel for each score: a dot for each seed, and the mean of each model with its 95% interval over seeds.

    Args:
        scores: The values of all seeds, at least two, by "MODEL/SCORE". A model may lack a score.
        models: The names of the models, from top to bottom.
        titles: The scores, each with the title of its axis.
    """

    def draw(axes: Any) -> None:
        for ax, (score, title) in zip(axes.flat, titles.items(), strict=True):
            for place, (model, colour) in enumerate(zip(models, drawing.palette(len(models)), strict=True)):
                if values := scores.get(f"{model}/{score}"):
                    reach = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
                    ax.plot(values, np.full(len(values), place + 0.25), "o", color=colour, alpha=0.5, markersize=4)
                    ax.errorbar(np.mean(values), place, xerr=reach, fmt="D", color=colour, capsize=4)
            ax.set(xlabel=title, ylim=(len(models) - 0.5, -0.5))
            ax.set_yticks(range(len(models)), models if ax is axes.flat[0] else [""] * len(models))

    return drawing.figure(draw, (0.8 + 2.6 * len(titles), 0.8 + 0.45 * len(models)), columns=len(titles), rows=1)
