"""The protocol of a comparison: equal budgets, choices on validation data, fresh seeds, one look at the test split.

With one repetition, a comparison is about the configurations that were chosen, on one split, and their finals differ in
the seed only. With several, the split, the searches and the finals are repeated together, from the start, so that the
differences between repetitions contain all of the noise; the comparison is then about the variants.

Studies and finals that exist are used again. A comparison that was interrupted, or that is given more repetitions,
continues when `run` is called again, and ends with the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import final, machine, training_run
from pipeline.compare import remarks, searches
from pipeline.compare.analysis import Board, Design, Rows, board
from pipeline.compare.criteria import SIZES, Criterion
from pipeline.compare.request import CompareRequest
from pipeline.compare.searches import Candidate, Choice, Repetition
from pipeline.compare.statistics import Array
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, pictures
from pipeline.evaluate import report as evaluation
from pipeline.final import Final
from pipeline.progress import Display
from pipeline.tracker import Record, Run, Tracker
from variants import InputError

FINAL_SEEDS = 100  # the seeds of the finals of two successive repetitions differ by this
PARTS = ("bounds", "annealing", "latents", "probe", "clusters", "samples", "generation")  # and of sequences, "forecast"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The results of a comparison.

    Args:
        dataset: The name of the data set.
        design: What was repeated.
        repetitions: The searches and choices of each repetition.
        equal_budget: What each search spent, as a sentence, if the amounts differ by at most a trial; otherwise empty.
        left_out: The reason for each variant that was left out.
        finals: A row for each final, with its run, variant, config, seed, repetition, unit (see `Design`), state,
            reason, model, and a column for each metric.
        rows: The scores of the test examples of each final, by the id of its run.
        boards: The results by criterion.
        warnings: Sentences, without a full stop, that a reader has to know before believing the tables.
        environment: The hardware, packages and commit that produced the results.
        weights: The number of weights of each variant.
    """

    dataset: str
    design: Design
    repetitions: list[Repetition]
    equal_budget: str
    left_out: Mapping[str, str]
    finals: pd.DataFrame
    rows: Mapping[str, Rows]
    boards: list[Board]
    warnings: list[str]
    environment: Mapping[str, str]
    weights: Mapping[str, int]

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """The candidates of the first repetition."""
        return self.repetitions[0].candidates

    @property
    def choices(self) -> list[Choice]:
        """The choices of the first repetition."""
        return self.repetitions[0].choices

    def chosen_finals(self, criterion: str) -> pd.DataFrame:
        """Return the complete finals of the configurations that a criterion chose in each repetition."""
        return self._of_keys(lambda r: {c.key for c in r.choices if c.criterion == criterion})

    def main_finals(self) -> pd.DataFrame:
        """Return the complete finals of each variant's main configuration in each repetition.

        That is the one which the ELBO chose, or the reconstruction for a variant that has no ELBO.
        """

        def keys(repetition: Repetition) -> set[str]:
            main: dict[str, str] = {}
            for criterion in ("elbo", "reconstruction", "probe"):
                for choice in repetition.choices:
                    if choice.criterion == criterion:
                        main.setdefault(choice.variant, choice.key)
            return set(main.values())

        return self._of_keys(keys)

    def _of_keys(self, keys: Callable[[Repetition], set[str]]) -> pd.DataFrame:
        """Return the complete finals whose configuration is among the keys of their repetition."""
        chosen = {r.number: keys(r) for r in self.repetitions}
        finals = self.finals[self.finals["state"] == "complete"]
        return finals[[key in chosen[n] for n, key in zip(finals["repetition"], finals["config"], strict=True)]]


def run(request: CompareRequest, display: Display) -> Comparison:
    """Run the studies that are missing, choose configurations, train the finals that are missing, and compare.

    Raises:
        InputError: If a variant or the data set is unknown, or no variant has a study.
    """
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    data = datasets.load(request.dataset)
    description = data.inspect()
    display.say("\n".join(description.summary()))
    dataset = data.spec.name
    tags = {**machine.environment(device, threads), "dataset": dataset}
    with machine.exclusive(Path(f"compare-{dataset}.lock"), f"{dataset} is being compared"):
        tracker = Tracker(dataset)
        repetitions, runs = [], []
        for number in range(request.repeats):
            if request.repeats > 1:
                display.say(f"repetition {number + 1} of {request.repeats}")
            split = data if not number else datasets.load(_split_anew(data, number))
            repetition = searches.run(request, number, split, device, display)
            if not number:
                tracker.claim(data)
            with _parent(tracker, dataset, tags) as parent:
                if not number:
                    parent.description(description, pictures.examples(data))
                runs += _trained(request, repetition, tracker, parent.id, tags, display)
            repetitions.append(repetition)
        frame = _frame(runs, _design(request, data))
        tracker.group(_groups(repetitions, runs))
        complete = frame.loc[frame["state"] == "complete", "run"]
        rows = {run: _rows(tracker.parquet(run, evaluation.ROWS)) for run in complete}
    return _results(request, data, repetitions, frame, rows, {**tags}, description.warnings)


def _split_anew(data: Data, number: int) -> Source:
    """Return the source with other random splits; as it is if the data bring their own."""
    return replace(data.source, split_seed=data.source.split_seed + number) if data.drawn else data.source


def _design(request: CompareRequest, data: Data) -> Design:
    if request.repeats == 1:
        return Design(unit="seed", asked=request.finals)
    overlap = len(data.test) / len(data.stream or data.train) if "test" in data.drawn else None
    return Design(unit="repetition", asked=request.repeats, overlap=overlap)


def _results(
    request: CompareRequest, data: Data, repetitions: list[Repetition], frame: pd.DataFrame, rows: Mapping[str, Rows],
    environment: Mapping[str, str], warnings: Sequence[str],
) -> Comparison:  # fmt: skip
    first = repetitions[0]
    left_out = {name: reason for r in reversed(repetitions) for name, reason in r.left_out.items()}
    equal_budget = remarks.equal_budget(repetitions, request.goal)
    design = _design(request, data)
    digests = {f"digest of {c.source}": c.data.digest for c in first.candidates.values()}
    return Comparison(
        dataset=data.spec.name, design=design, repetitions=repetitions, equal_budget=equal_budget, left_out=left_out,
        finals=frame, rows=rows,
        boards=[
            _board(c, repetitions, frame, rows, design, data, left_out)
            for c in searches.criteria(first.candidates, request.matters)
        ],
        warnings=[*warnings, *remarks.warnings(request, data, repetitions, frame, bool(equal_budget))],
        environment={**environment, **digests},
        weights={str(v): int(runs["weights"].iloc[0]) for v, runs in frame.groupby("variant")},
    )  # fmt: skip


def _finals(request: CompareRequest, repetition: Repetition) -> Iterator[tuple[Candidate, Final]]:
    """Yield each chosen configuration once for each fresh seed, even if several criteria chose it."""
    configs = {choice.key: choice for choice in repetition.choices}
    first = training_run.FIRST_FINAL_SEED + FINAL_SEEDS * repetition.number
    for seed in range(first, first + request.finals):
        for choice in configs.values():
            candidate = repetition.candidates[choice.variant]
            yield candidate, Final(
                variant=choice.variant, config=choice.config, epochs=candidate.study.epochs,
                patience=candidate.study.patience, seed=seed, sizes=SIZES,
                parts=(*PARTS, "forecast") if candidate.data.spec.steps else PARTS,
            )  # fmt: skip


def _trained(
    request: CompareRequest, repetition: Repetition, tracker: Tracker, parent: str, tags: Mapping[str, str],
    display: Display,
) -> list[tuple[int, Final, Record]]:  # fmt: skip
    """Train the finals of a repetition that are not yet in MLflow.

    Returns the number of the repetition, the final and its run for each of them.
    """
    finals = {f.key(c.data): (c, f) for c, f in _finals(request, repetition)}
    ready = final.existing(tracker)
    missing = {
        key: final.FinalTask(
            final=f, key=key, source=c.source, digest=c.data.digest, dataset=tags["dataset"], address=tracker.address,
            parent=parent, tags={**tags, "repetition": str(repetition.number + 1)},
        )
        for key, (c, f) in finals.items() if key not in ready
    }  # fmt: skip
    with executors.open_executor(request.compute) as executor:
        final.train(executor, missing, len(finals) - len(missing), display)
    problems = tracker.catch_up(patience=60)
    if problems:
        raise InputError(f"the finals are trained, but not yet in MLflow: {problems[0]}; run the same command again")
    ready = final.existing(tracker)
    return [(repetition.number, f, ready[key]) for key, (_, f) in finals.items()]


def _groups(repetitions: Sequence[Repetition], runs: Sequence[tuple[int, Final, Record]]) -> dict[str, str]:
    """Return the variant of each run, and the criteria that chose its configuration, by the id of the run."""
    chosen: dict[tuple[int, str], list[str]] = {}
    for repetition in repetitions:
        for choice in repetition.choices:
            chosen.setdefault((repetition.number, choice.key), []).append(choice.criterion)
    return {record.id: f"{f.variant} ({', '.join(chosen[number, f.config_key])})" for number, f, record in runs}


def _frame(runs: Sequence[tuple[int, Final, Record]], design: Design) -> pd.DataFrame:
    """Return a row for each final. A final that failed has no scores."""
    rows = []
    for number, f, record in runs:
        state = record.tags["state"]
        row = {"run": record.id, "variant": f.variant, "config": f.config_key, "seed": f.seed, "repetition": number}
        row |= {"unit": f.seed if design.unit == "seed" else number, "weights": record.params.get("weights", 0)}
        row |= {"state": state, "reason": record.tags.get("reason"), "model": record.model}
        row |= {name: record.tags.get(name) for name in ("conditioned_on", "remark")}
        rows.append({**row, **(record.metrics if state == "complete" else {})})
    return pd.DataFrame(rows)


def _rows(frame: pd.DataFrame) -> dict[str, Array]:
    """Return the scores of the test examples of a final, by column.

    Each column `correct` also has a form `balanced_correct`, whose mean is the mean over classes of the share that is
    classified correctly. The mean of `ais_corrected` is `test/ais`: the mean importance weighted bound of N examples,
    plus the mean difference between annealing and this bound of n of them. Each of the N values is a bound plus this
    mean difference, and for the n examples, plus N/n times how far their own difference deviates from it. So the
    error of the mean contains the errors of both parts.
    """
    columns = {str(name): frame[name].to_numpy(dtype=float) for name in frame}
    if {"iw", "ais"} <= columns.keys():
        difference = columns["ais"] - columns["iw"]
        weight = np.isfinite(columns["iw"]).sum() / max(1, np.isfinite(difference).sum())
        mean = np.nanmean(difference)
        columns["ais_corrected"] = columns["iw"] + mean + weight * np.nan_to_num(difference - mean)
    if "correct" in frame:
        known = frame["correct"].notna()
        counts = frame.loc[known, "label"].value_counts()
        weights = (known.sum() / len(counts) / frame["label"].map(counts)).to_numpy(dtype=float)
        correct = [name for name in columns if name.startswith("correct")]
        columns |= {f"balanced_{name}": columns[name] * weights for name in correct}
    return columns


def _board(
    criterion: Criterion, repetitions: Sequence[Repetition], frame: pd.DataFrame, rows: Mapping[str, Rows],
    design: Design, data: Data, left_out: Mapping[str, str],
) -> Board:  # fmt: skip
    """Return the board of a criterion."""
    choices = [(r.number, c) for r in repetitions for c in r.choices if c.criterion == criterion.name]
    chosen = {(number, c.key) for number, c in choices}
    others = [v for v in frame["variant"].unique() if v not in {c.variant for _, c in choices}]
    missing = f"no trial has {criterion.validation_metric}"
    if criterion.name == "elbo":  # each complete trial of a variant whose q has a density has an ELBO
        missing = "undefined, because its q(z|x) has no density"
    reasons = {**left_out, **dict.fromkeys(others, missing)}
    is_chosen = [key in chosen for key in zip(frame["repetition"], frame["config"], strict=True)]
    titles = baselines.titles(data.spec)
    trivial = tuple(replace(t, title=titles.get(t.title, t.title)) for t in criterion.trivial)
    chosen_finals = frame[is_chosen]
    notes = remarks.notes(criterion, choices, chosen_finals)
    if criterion.name == "elbo":
        caution = " ".join([criterion.caution, *remarks.bits_without_a_model(frame, data)])
        criterion = replace(criterion, caution=caution)
    return board(
        replace(criterion, trivial=trivial), chosen_finals, rows, design, reasons=reasons, notes=notes,
        examples=_examples(criterion, data, design),
    )  # fmt: skip


def _examples(criterion: Criterion, data: Data, design: Design) -> str:
    """Return on how many test examples each unit is scored, in words; for the probe, also how many are rare."""
    each = f" in each {design.unit}" if design.overlap is not None else ""
    if criterion.name != "probe" or data.test.y is None:
        return f"{len(data.test):,} test examples{each}"
    labels, counts = data.test.y[data.test.y >= 0].unique(return_counts=True)
    names, rarest = data.preprocessing.class_names, int(counts.argmin())
    name = names[int(labels[rarest])] if names else int(labels[rarest])
    text = f"{int(counts.sum()):,} test examples{each}"
    if counts[rarest] == counts.max():
        return text
    return f"{text}, with {int(counts[rarest]):,} of the rarest class ({name})"


def _parent(tracker: Tracker, dataset: str, tags: Mapping[str, str]) -> Run:
    """Open the run of the comparison, which is the same each time.

    Finals of processes that died are marked as interrupted, so that they are trained again.
    """
    tracker.catch_up()
    for record in tracker.find(kind="final"):
        if "state" not in record.tags:
            tracker.mark_ended(record.id, "interrupted")
    return tracker.run(f"comparison of {dataset}", {**tags, "kind": "comparison"}, key=run_key(dataset))


def run_key(dataset: str) -> str:
    """Return the key of the run that holds the comparison of a data set."""
    return f"comparison-{dataset}"
