"""What people see of a rerun: a summary in Markdown, a page in HTML, a notification, and an exit code."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from markupsafe import Markup, escape

from pipeline import machine, metrics, notify, pages
from pipeline.benchmark import control_chart, history
from pipeline.benchmark.control_chart import Assessment, Verdict
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.verdicts import (
    RerunOutcome,
    SeriesVerdict,
    assess_rerun,
    baselines_of,
    noise_found,
    overall,
    series_of,
)
from pipeline.progress import Display
from pipeline.tracker import Tracker, views
from studies import benchmark as suites
from variants import InputError

MEANINGS: dict[Verdict, str] = {
    "ok": "nothing got worse", "better": "something got better", "worse": "something got worse",
    "drifting": "something is slowly getting worse", "suspect": "something looks worse, and is being confirmed",
    "failed": "something failed", "no history": "there is nothing to compare with yet",
}  # fmt: skip
WIDTH, HEIGHT, MARGIN = 300, 64, 7  # of a sparkline, in its own units
MAX_SHOWN = 60  # the newest reruns, in each sparkline and in the table


def check_output(folder: Path, summary: Path | None = None) -> None:
    """Raise `InputError` if the report could not be written later, or if nobody could be notified."""
    notify.check()
    machine.writable(folder)
    if summary:
        machine.writable(summary.absolute().parent)


def publish(outcome: RerunOutcome, display: Display, folder: Path, summary: Path | None = None) -> int:
    """Notify people of bad news, print the summary, and write the page into a folder. Returns the exit code.

    The summary is also appended to the file `summary`, if that is given.
    """
    text = markdown(outcome)
    bad = outcome.verdict in control_chart.ALARMS
    if bad and (problem := notify.send(f"Benchmark {outcome.suite}: {outcome.verdict}", text, "failure")):
        display.say(f"warning: {problem}")
    display.say(text)
    try:
        if summary:
            with summary.open("a", encoding="utf-8") as stream:
                stream.write(text)
        display.say(f"the page: {write_page(outcome.suite, folder)}")
    except (OSError, InputError) as error:  # the verdict holds, and people were notified
        display.say(f"warning: the report could not be written: {error}")
    return 1 if bad else 0


def markdown(outcome: RerunOutcome) -> str:
    """Return the verdict, every series that is not ok, and what changed since the baseline, as Markdown."""
    verdicts = [s.verdict for s in outcome.series]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    size = outcome.baseline_size
    against = f"baseline `{outcome.baseline}` of {size} reruns" if outcome.baseline else outcome.no_baseline
    lines = [
        f"### Benchmark {outcome.suite}: {outcome.verdict}",
        "",
        f"Rerun `{outcome.rerun.id}`: {MEANINGS[outcome.verdict]}; {counts}. Against: {against}.",
    ]
    if outcome.confirmation:
        lines.append(f"\nWhat looked worse was trained a second time on other seeds: `{outcome.confirmation.id}`.")
    notable = [s for s in outcome.series if s.verdict not in ("ok", "no history")]
    if notable:
        header = "| verdict | case | metric | now | baseline [limits] | change | smoothed |"
        lines += ["", header, "|---|---|---|---|---|---|---|", *map(_markdown_row, notable)]
    if outcome.changes:
        lines += ["", "Changed since the baseline:", "", *(f"- {line}" for line in outcome.changes)]
    elif outcome.baseline:
        commit = "commit" if outcome.rerun.tags.get("commit") else "commit (unknown)"
        lines += ["", f"Nothing recorded changed since the baseline: {commit}, packages, data, hardware, fixed seeds."]
    return "\n".join(lines) + "\n"


def _markdown_row(series: SeriesVerdict) -> str:
    a, metric = series.assessment, ""
    if a is None:
        reason = series.reason.replace("|", "/").replace("\n", " ")
        return f"| **{series.verdict}** | {series.series} | | {reason} | | | |"
    metric = history.metric_of(series.series)
    unit = f", {known.unit}" if (known := _metric(metric)) else ""
    return (
        f"| **{series.verdict}** | {history.case_of(series.series)} | {metric}{unit} | {a.value:.4g} | "
        f"{a.centre:.4g} [{a.low:.4g}, {a.high:.4g}] | {_change(a)} | {a.ewma:.4g} |"
    )


def _change(a: Assessment) -> str:
    share = f" ({a.change / abs(a.centre):+.1%})" if a.centre else ""
    return f"{a.change:+.3g}{share}"


def _metric(name: str) -> metrics.Metric | None:
    try:
        return metrics.find(name)
    except KeyError:  # the metric of an anchor
        return None


def write_page(suite: str, folder: Path) -> Path:
    """Write `benchmark.html` from what MLflow has, and return its path, which is below `folder`.

    Raises:
        InputError: If the store has no rerun of the suite.
    """
    tracker = Tracker(history.experiment(suite))
    reruns = history.read(tracker, suite)
    whole = [r for r in reruns if not r.confirms]
    if not whole:
        raise InputError(f"{suite} was never rerun here; python -m pipeline.benchmark {suite} does that")
    now = ([r for r in whole if not r.aside] or whole)[-1]
    baseline, base = history.latest_baseline(reruns)
    confirmation = next((r for r in reruns if r.confirms == now.id), None)
    earlier = [r for r in reruns if r.started < now.started]
    declared = suites.get(suite)
    verdicts = assess_rerun(declared, now, base, earlier, confirmation)
    found = noise_found(baselines_of(declared, now, base))
    by_series = {v.series: v for v in verdicts}
    links = {r.id: views.run_link(tracker.uri, tracker.experiment, r.run) for r in reruns}
    cards: dict[str, list[dict[str, str]]] = {}
    for series in _ordered(series_of(declared, now), list(declared.smallest_effects)):
        verdict = by_series[series]
        shown = history.comparable([r for r in reruns if not r.aside], now, series)[-MAX_SHOWN:]
        card = {
            "case": history.case_of(series), "verdict": verdict.verdict, "value": f"{now.metrics[series]:.4g}",
            "detail": _detail(verdict), "picture": _sparkline(shown, series, verdict.assessment, baseline, links),
        }  # fmt: skip
        cards.setdefault(history.metric_of(series), []).append(card)
    html = pages.page(
        "benchmark", title=f"Benchmark {suite}", subtitle=f"{declared.about}; {len(whole)} reruns",
        verdict=overall(verdicts), answers=_answers(now, verdicts, baseline, base, found), changes=now.changes,
        failed=now.failed, sections={m: (_about(m), section) for m, section in cards.items()},
        rows=[_row(r, links[r.id], baseline) for r in reversed(reruns)][:MAX_SHOWN],
        view=views.link(tracker.uri, tracker.experiment, "Reruns"), command=f"python -m pipeline.benchmark {suite}",
    )  # fmt: skip
    path = folder / history.experiment(suite) / "benchmark.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _ordered(series: Iterable[str], declared: Sequence[str]) -> list[str]:
    """Return the series in the order in which the suite declares their metrics, and then by name."""

    def position(name: str) -> tuple[int, str]:
        metric = history.metric_of(name)
        return next((i for i, d in enumerate(declared) if metric.startswith(d)), len(declared)), name

    return sorted(series, key=position)


def _answers(
    now: Rerun, verdicts: Sequence[SeriesVerdict], baseline: str, base: Sequence[Rerun], found: Sequence[str]
) -> list[str]:
    verdict = overall(verdicts)
    lines = [f"{verdict}: {MEANINGS[verdict]} in the rerun of {_time(now.started)}."]
    bad = [v for v in verdicts if v.verdict in (*control_chart.ALARMS, "suspect")]
    lines += [f"{v.series}: {v.verdict}, {_detail(v)}" for v in bad]
    if base:
        period = f"{_time(base[0].started)} to {_time(base[-1].started)}"
        lines.append(f"It is compared with the baseline {baseline}: {len(base)} reruns, {period}.")
        lines += [f"Its noise: {line}." for line in found]
    else:
        lines.append(f"No baseline is pinned: --pin NAME makes one of {control_chart.MIN_RERUNS} reruns or more.")
    return lines


def _detail(verdict: SeriesVerdict) -> str:
    a = verdict.assessment
    return f"{_change(a)} from {a.centre:.4g} [{a.low:.4g}, {a.high:.4g}]" if a else verdict.reason


def _about(name: str) -> str:
    if not (metric := _metric(name)):
        return ""
    better = {"maximize": "higher is better", "minimize": "lower is better"}.get(metric.better, "")
    return f"{metric.about}; {metric.unit}; {better}"


def _row(rerun: Rerun, link: str, baseline: str) -> dict[str, str]:
    kind = "confirmation" if rerun.confirms else "aside" if rerun.aside else ""
    kind = f"baseline {baseline}" if baseline in rerun.baselines else kind
    notable = {s: v for s, v in rerun.verdicts.items() if v != "no history"}
    return {
        "time": _time(rerun.started), "link": link, "verdict": rerun.tags.get("verdict", ""), "kind": kind,
        "commit": rerun.tags.get("commit", "")[:10], "hardware": rerun.hardware,
        "notable": "; ".join(f"{s}: {v}" for s, v in notable.items()),
    }  # fmt: skip


def _time(started: str) -> str:
    return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"


def _sparkline(
    reruns: Sequence[Rerun], series: str, assessment: Assessment | None, baseline: str, links: dict[str, str]
) -> Markup:
    """Draw the means of a series over reruns.

    A band shows the limits of the baseline, hollow points its reruns, and red points alarms. A tick at the bottom marks
    each change of the commit.
    """
    values = [r.metrics[series] for r in reruns]
    limits = [assessment.low, assessment.high] if assessment else []
    low, high = min(values + limits), max(values + limits)
    span = (high - low) or abs(high) or 1.0

    def x(i: int) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (i / max(1, len(values) - 1))

    def y(value: float) -> float:
        return MARGIN + (HEIGHT - 2 * MARGIN) * (1 - (value - low) / span)

    parts = []
    if assessment:
        top, height = y(assessment.high), y(assessment.low) - y(assessment.high)
        parts.append(f'<rect class="band" x="0" y="{top:.1f}" width="{WIDTH}" height="{max(height, 1):.1f}"/>')
        middle = y(assessment.centre)
        parts.append(f'<line class="middle" x1="0" x2="{WIDTH}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
    parts.append(f'<polyline class="line" points="{path}"/>')
    for i, rerun in enumerate(reruns):
        commit = rerun.tags.get("commit", "")
        if i and commit != reruns[i - 1].tags.get("commit", ""):
            parts.append(f'<line class="release" x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{HEIGHT - 5}" y2="{HEIGHT}"/>')
        verdict = rerun.verdicts.get(series, "ok")
        style = "alarm" if verdict in control_chart.ALARMS else verdict.replace(" ", "-")
        style = "pinned" if baseline in rerun.baselines else style
        text = f"{_time(rerun.started)}: {values[i]:.5g}, {verdict}{', commit ' + commit[:10] if commit else ''}"
        title = f"<title>{escape(text)}</title>"
        mark = f'<circle class="{style}" cx="{x(i):.1f}" cy="{y(values[i]):.1f}" r="3">{title}</circle>'
        parts.append(f'<a href="{escape(links[rerun.id])}">{mark}</a>')
    label = escape(f"{series} over {len(values)} reruns")
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return Markup(f'<svg class="spark" {frame}>{"".join(parts)}</svg>')  # every text in it is escaped above
