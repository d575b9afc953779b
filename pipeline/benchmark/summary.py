"""A rerun in words: Markdown for a pull request, a chat or a job's summary."""

from collections.abc import Sequence

from pipeline import metrics
from pipeline.benchmark import history
from pipeline.benchmark.verdicts import Line, RerunOutcome

SAID = {
    "ok": "nothing got worse", "better": "something got better", "worse": "something got worse",
    "drifting": "something gets worse, slowly", "suspect": "something looks worse (confirming)",
    "failed": "something failed", "no history": "there is nothing to compare with yet",
}  # fmt: skip


def markdown(found: RerunOutcome) -> str:
    """The verdict, every series that is not as it was, and what changed since the baseline."""
    counts = {w: sum(1 for x in found.lines if x.word == w) for w in dict.fromkeys(x.word for x in found.lines)}
    told = ", ".join(f"{n} {word}" for word, n in counts.items())
    against = f"baseline `{found.baseline}` of {found.reruns} reruns" if found.baseline else found.missing
    out = [
        f"### Benchmark {found.suite}: {found.word}",
        "",
        f"Rerun `{found.rerun.id}`: {SAID[found.word]}; {told}. Against: {against}.",
    ]
    if found.again:
        out.append(f"\nWhat looked worse was trained once more on other seeds: `{found.again.id}`.")
    notable = [x for x in found.lines if x.word not in ("ok", "no history")]
    if notable:
        out += ["", *_table(notable)]
    if found.changes:
        out += ["", "Changed since the baseline:", "", *(f"- {line}" for line in found.changes)]
    elif found.baseline:
        commit = "commit," if found.rerun.tags.get("commit") else "(no commit is known)"
        out += ["", f"Nothing that is recorded changed since the baseline: {commit} packages, data, hardware, numbers."]
    return "\n".join(out) + "\n"


def _table(notable: Sequence[Line]) -> list[str]:
    rows = [
        "| verdict | case | metric | now | baseline [limits] | change | smoothed |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in notable:
        if line.judgement is None:
            reason = line.reason.replace("|", "/").replace("\n", " ")
            rows.append(f"| **{line.word}** | {line.series} | | {reason} | | | |")
            continue
        j, metric = line.judgement, history.metric_of(line.series)
        share = f" ({j.change / abs(j.centre):+.1%})" if j.centre else ""
        rows.append(
            f"| **{line.word}** | {history.case_of(line.series)} | {metric}{_unit(metric)} | {j.value:.4g} | "
            f"{j.centre:.4g} [{j.low:.4g}, {j.high:.4g}] | {j.change:+.3g}{share} | {j.smoothed:.4g} |"
        )
    return rows


def _unit(metric: str) -> str:
    try:
        return f", {metrics.find(metric).unit}"
    except KeyError:  # of an anchor
        return ""
