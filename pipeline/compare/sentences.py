"""The answers of a comparison in sentences: which variant is best, and which ones cannot be told apart from it."""

from collections.abc import Sequence

from pipeline.compare import formats, statistics
from pipeline.compare.analysis import NOT_KNOWN_NOTE, TRIVIAL_NOTES, Board, BoardRow
from pipeline.compare.formats import in_unit
from pipeline.compare.protocol import Comparison

LISTED = 4  # the most names that are listed where "all others" says the same


def answers(comparison: Comparison) -> list[str]:
    """Answer the question of each criterion: which variant is best, and which ones cannot be told apart from it."""
    texts = [_answer(board) for board in comparison.boards]
    if comparison.design.unit == "seed":
        texts.append(
            "These are statements about the chosen configurations on this split of the data. For statements about the "
            "variants, repeat the split and the search, too: add --repeats 5."
        )
    return texts


def _answer(board: Board) -> str:
    criterion, design = board.criterion, board.design
    first = next((r for r in board.rows if r.mean is not None), None)
    if first is None or first.mean is None:
        return f"{criterion.question} There is no answer, because no variant has {criterion.test_metric}."
    mean = first.mean
    error = f"{statistics.LEVEL:.0%} interval {formats.interval(mean, criterion.unit)}"
    evidence = [design.count(mean.repetitions), board.examples, error if mean.is_known else "the error is not known"]
    score = f"{in_unit(formats.number(mean), criterion.unit)} ({', '.join(filter(None, evidence))})"
    best = f"the best mean of {criterion.test_metric} ({criterion.direction}), {score}"
    clause, remarks = trivial_note(first), "".join(f" {remark}" for remark in first.remarks)
    if clause:
        return f"{criterion.question} Even {first.name}, which has {best}, is {clause}.{remarks}" + (
            _verdicts(board, first.name, f" Among the variants, {first.name}")
        )
    text = f"{criterion.question} {first.name} has {best}."
    if first.beats_trivial:
        trivial = board.trivial[0]
        assert trivial.mean is not None
        text += (
            f" This is better than trivial (the best of that kind is {trivial.name}: {formats.number(trivial.mean)})."
        )
    unknown = next((note for note in first.notes if note.startswith(NOT_KNOWN_NOTE)), "")
    if unknown:
        text += f" This is {unknown}, because the error is not known."
    return text + remarks + _verdicts(board, first.name, f" {first.name}" if remarks or first.beats_trivial else " It")


def trivial_note(row: BoardRow) -> str:
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
        by_needed: dict[int, list[str]] = {}  # 0: more than are considered
        for name in groups["undecided"]:
            by_needed.setdefault(pairs[name].needed or 0, []).append(name)
        parts = [
            f"{_listed(by_needed[n])} (about {board.design.count(n)} have an even chance to decide)"
            for n in sorted(by_needed) if n
        ]  # fmt: skip
        if hopeless := by_needed.get(0):
            parts.append(f"{_listed(hopeless)} (even {statistics.MOST_REPETITIONS} would probably not decide)")
        text += f" With {most}, {'it' if known else first} cannot be told apart from {'; nor from '.join(parts)}."
    apart = [r.name for r in board.rows if r.mean is not None and r.name != first and r.name not in pairs]
    reasons: dict[str, list[str]] = {f"no {board.design.unit} has scores of both": apart} if apart else {}
    for name in groups.get("none", ()):
        reasons.setdefault(pairs[name].reason, []).append(name)
    for reason, unknown in reasons.items():
        text += f" There is no verdict on {first} and {_listed(unknown, len(pairs))}: {reason}."
    return text


def _listed(names: Sequence[str], all_others: int = 0) -> str:
    """Return names in a sentence; those of all others are not listed if they are many."""
    if len(names) == all_others > LISTED:
        return f"all {all_others} others"
    return formats.listed(names)


def subtitle(comparison: Comparison) -> str:
    variants = len(comparison.candidates)
    complete = int((comparison.finals["state"] == "complete").sum())
    failed = len(comparison.finals) - complete
    size = len(next(iter(comparison.candidates.values())).data.test)
    text = f"{variants} variant{'s' * (variants != 1)}, {comparison.design.count(comparison.design.asked)}"
    text += f", {complete} finals (of each configuration that a criterion chose), each scored once on {size:,} test "
    return f"{text}examples, and {failed} that failed." if failed else f"{text}examples."


def how(comparison: Comparison) -> str:
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
