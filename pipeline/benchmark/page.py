"""The page of a suite: its status, a sparkline for each judged series, and its last reruns, in one HTML file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from markupsafe import Markup, escape

from pipeline import metrics, pages
from pipeline.benchmark import control_chart, history
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.rerun import experiment
from pipeline.benchmark.summary import SAID
from pipeline.benchmark.verdicts import Line, lines, overall, series_of
from pipeline.tracker import Tracker, views
from studies import benchmark as suites
from variants import InputError

WIDTH, HEIGHT, EDGE = 300, 64, 7
SHOWN = 60  # reruns, the newest, in a sparkline and in the table


@dataclass(frozen=True, kw_only=True)
class Card:
    """A series as the page shows it."""

    case: str
    word: str
    value: str
    detail: str
    picture: Markup


def write(suite: str, folder: Path) -> Path:
    """Write `benchmark.html` into a folder. Raises `InputError` where the suite was never rerun."""
    tracker = Tracker(experiment(suite))
    reruns = history.read(tracker, suite)
    whole = [r for r in reruns if not r.confirms]
    remembered = [r for r in whole if not r.aside]
    if not whole:
        raise InputError(f"{suite} was never rerun here; python -m pipeline.benchmark {suite} does that")
    now = (remembered or whole)[-1]
    name, base = history.pinned(reruns)
    again = next((r for r in reruns if r.confirms == now.id), None)
    before = [r for r in reruns if r.started < now.started]
    declared = suites.get(suite)
    judged = lines(declared, now, base, before, again)
    found = {x.series: x for x in judged}
    links = {r.id: views.run_link(tracker.uri, tracker.experiment, r.run) for r in reruns}
    sections: dict[str, list[Card]] = {}
    for series in _ordered(series_of(declared, now), list(declared.judged)):
        line = found[series]
        points = [r for r in reruns if not r.aside]
        card = Card(
            case=history.case_of(series),
            word=line.word,
            value=f"{now.metrics[series]:.4g}",
            detail=_detail(line.judgement, line.reason),
            picture=_spark(history.comparable(points, now, series)[-SHOWN:], series, line.judgement, name, links),
        )
        sections.setdefault(history.metric_of(series), []).append(card)
    rows = [_row(r, links[r.id], name) for r in reversed(reruns)]
    html = pages.page(
        "benchmark", title=f"Benchmark {suite}", subtitle=f"{declared.about}; {len(whole)} reruns",
        word=overall(judged), answers=_answers(now, judged, name, base), changes=now.changes,
        failed=now.failed, sections={m: (_about(m), cards) for m, cards in sections.items()}, rows=rows[:SHOWN],
        view=views.link(tracker.uri, tracker.experiment, "Reruns"), command=f"python -m pipeline.benchmark {suite}",
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark.html"
    path.write_text(html, encoding="utf-8")
    return path


def _ordered(series: Iterable[str], declared: Sequence[str]) -> list[str]:
    """Metrics in the order in which the suite names them, cases by name."""

    def place(name: str) -> tuple[int, str]:
        metric = history.metric_of(name)
        return next((i for i, d in enumerate(declared) if metric.startswith(d)), len(declared)), name

    return sorted(series, key=place)


def _answers(now: Rerun, judged: Sequence[Line], name: str, base: Sequence[Rerun]) -> list[str]:
    word = overall(judged)
    bad = [f"{line.series}: {line.word}" for line in judged if line.word in (*control_chart.BAD, "suspect")]
    said = [f"{word}: {SAID[word]} in the rerun of {_when(now.started)}."]
    if bad:
        said.append("; ".join(bad))
    if base:
        said.append(
            f"Judged by baseline {name}: {len(base)} reruns, {_when(base[0].started)} to {_when(base[-1].started)}."
        )
    else:
        said.append(f"No baseline is pinned: --pin NAME makes one of {control_chart.LEAST} reruns or more.")
    return said


def _detail(found: control_chart.Judgement | None, reason: str) -> str:
    if found is None:
        return reason
    share = f" ({found.change / abs(found.centre):+.1%})" if found.centre else ""
    return f"{found.change:+.3g}{share} from {found.centre:.4g} [{found.low:.4g}, {found.high:.4g}]"


def _about(metric: str) -> str:
    try:
        known = metrics.find(metric)
    except KeyError:  # of an anchor
        return ""
    better = {"maximize": "higher is better", "minimize": "lower is better"}.get(known.better, "")
    return f"{known.about}; {known.unit}; {better}"


def _row(rerun: Rerun, link: str, baseline: str) -> dict[str, str]:
    kind = "again, in part" if rerun.confirms else "aside" if rerun.aside else ""
    kind = f"baseline {baseline}" if baseline in rerun.baselines else kind
    notable = {s: w for s, w in rerun.verdicts.items() if w != "no history"}
    return {
        "when": _when(rerun.started), "link": link, "word": rerun.tags.get("verdict", ""), "kind": kind,
        "commit": rerun.tags.get("commit", "")[:10], "hardware": rerun.hardware,
        "notable": "; ".join(f"{s}: {w}" for s, w in notable.items()),
    }  # fmt: skip


def _when(started: str) -> str:
    return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"


def _spark(
    reruns: Sequence[Rerun], series: str, found: control_chart.Judgement | None, baseline: str, links: dict[str, str]
) -> Markup:
    """Means over reruns: a band for the limits of the baseline, hollow points for its reruns, red ones for alarms, and
    a tick below where the commit changed."""
    values = [r.metrics[series] for r in reruns]
    limits = [found.low, found.high] if found else []
    low, high = min(values + limits), max(values + limits)
    room = (high - low) or abs(high) or 1.0

    def x(i: int) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (i / max(1, len(values) - 1))

    def y(value: float) -> float:
        return EDGE + (HEIGHT - 2 * EDGE) * (1 - (value - low) / room)

    parts = []
    if found:
        top, tall = y(found.high), y(found.low) - y(found.high)
        parts.append(f'<rect class="band" x="0" y="{top:.1f}" width="{WIDTH}" height="{max(tall, 1):.1f}"/>')
        middle = y(found.centre)
        parts.append(f'<line class="middle" x1="0" x2="{WIDTH}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
    parts.append(f'<polyline class="line" points="{path}"/>')
    for i, rerun in enumerate(reruns):
        commit = rerun.tags.get("commit", "")
        if i and commit != reruns[i - 1].tags.get("commit", ""):
            parts.append(f'<line class="release" x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{HEIGHT - 5}" y2="{HEIGHT}"/>')
        word = rerun.verdicts.get(series, "ok")
        kind = (
            "pinned"
            if baseline in rerun.baselines
            else "alarm"
            if word in control_chart.BAD
            else word.replace(" ", "-")
        )
        title = escape(f"{_when(rerun.started)}: {values[i]:.5g}, {word}{', commit ' + commit[:10] if commit else ''}")
        mark = f'<circle class="{kind}" cx="{x(i):.1f}" cy="{y(values[i]):.1f}" r="3"><title>{title}</title></circle>'
        parts.append(f'<a href="{escape(links[rerun.id])}">{mark}</a>')
    words = escape(f"{series} over {len(values)} reruns")
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}"'
    return Markup(f'<svg class="spark" {frame}>{"".join(parts)}</svg>')  # built of numbers and of escaped words alone
