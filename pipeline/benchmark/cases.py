"""The work of a rerun: training the cases on fresh and fixed seeds, measuring anchors, and timing.

Every step can be interrupted: what has ended is in MLflow or on disk, and is not repeated.
"""

import dataclasses
import hashlib
import json
import shutil
import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import studies
import variants
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import final, machine, training_run
from pipeline.benchmark import history
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.speed import SpeedTask, TimedCase
from pipeline.benchmark.verdicts import anchor_series, check
from pipeline.data import Data, Source
from pipeline.evaluate.context import Sizes
from pipeline.executor import Executor, Report, Resources
from pipeline.final import Final, FinalTask
from pipeline.progress import Display
from pipeline.reproduce.task import AnchorTask, checkpoint_folder
from pipeline.tracker import Record, Run, Tracker
from pipeline.trainer import Diverged
from studies.anchors import ANCHORS
from studies.benchmark import Suite
from variants import Config, InputError

SCORES = ("test/", "probe/", "latent/", "sample/", "use/")  # prefixes of the metrics that a rerun averages
# parts of the names of trivial scores
NOT_OF_THE_MODEL = ("probe/raw_", "probe/pca_", "probe/untrained_", "probe/majority_", "_floor_")
CONFIRMATION = "-again"  # suffix of the id of a rerun that confirms another one
MAX_REASON = 300  # characters


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """A case of a suite with its configuration and data, ready to be trained."""

    name: str
    variant: str
    config: Config
    epochs: int
    source: Source
    data: Data

    def digest(self, suite: Suite) -> str:
        """Return a digest of all that defines the case. Reruns are compared only if it is the same."""
        facts = [self.variant, dataclasses.asdict(self.config), self.epochs, self.data.digest]
        facts += [suite.seeds, suite.parts, dict(suite.sizes)]
        return _digest(facts)


def prepare(suite: Suite, device: torch.device) -> dict[str, PreparedCase]:
    """Load the data of every case. Raises `InputError` for a suite that cannot be trained or judged."""
    loaded: dict[str, Data] = {}
    cases = {}
    for name, case in suite.cases.items():
        place = case.dataset or studies.get(case.variant).STUDY.dataset
        if place not in loaded:
            loaded[place] = data = datasets.load(place).to(device)
            training_run.cache_data(data.source, device, data)
        data = loaded[place]
        try:
            config = variants.get(case.variant).config_type(**case.settings)
        except TypeError as error:
            raise InputError(f"case {name} of studies/benchmark.py: {error}") from error
        variants.build(case.variant, config, data.spec)
        cases[name] = PreparedCase(
            name=name, variant=case.variant, config=config, epochs=case.epochs, source=data.source, data=data
        )
    Sizes(**suite.sizes)
    check(suite)
    return cases


@dataclass(frozen=True, kw_only=True)
class CaseTrainer:
    """Trains and measures the cases of a rerun."""

    suite: Suite
    tags: Mapping[str, str]  # of every run, among them the environment
    tracker: Tracker
    executor: Executor
    display: Display
    number: int  # of this rerun; it is the step of its metrics
    cases: Mapping[str, PreparedCase]  # all of the suite: speed is always measured with all of them

    @contextmanager
    def open_run(self, id_: str, started: str, *, parent: str | None = None, confirms: str = "") -> Iterator[Run]:
        """Open the MLflow run of a rerun, which is the parent of the runs of its trainings."""
        title = f"{self.tags['suite']} {started[:16].replace('T', ' ')}{' again' if parent else ''}"
        tags = {**self._rerun_tags(id_, started, confirms), "kind": "rerun"}
        with self.tracker.run(title, tags, parent=parent, key=f"rerun-{id_}") as run:
            run.text(history.PACKAGES, machine.packages())
            yield run

    def _rerun_tags(self, id_: str, started: str, confirms: str) -> dict[str, str]:
        return {**self.tags, **({"confirms": confirms} if confirms else {}), "rerun": id_, "started": started}

    def measure(self, run: Run, id_: str, started: str, *, only: set[str] | None = None, confirms: str = "") -> Rerun:
        """Train and measure the cases and the anchors of the suite, and log the results to the run of the rerun.

        Args:
            run: The run that `open_run` has opened for the same id.
            id_: The id of the rerun, from which its seeds follow.
            started: When the rerun started.
            only: The names of the cases and anchors to measure; None measures all of them.
            confirms: The id of the rerun that this one confirms.
        """
        cases = {n: c for n, c in self.cases.items() if only is None or n in only}
        anchors = [a for a in self.suite.anchors if only is None or a in only]
        seeds = self._seeds(id_)
        values, failed, fingerprints = self._train(run, id_, cases, seeds)
        anchor_values, failed_anchors = self._measure_anchors(run, anchors, seeds)
        values |= anchor_values
        failed |= failed_anchors
        environment: dict[str, str] = {}
        timed = {n: (c.variant, c.config, c.source, c.data.digest) for n, c in self.cases.items() if n not in failed}
        if timed and cases:
            speeds, environment = self._time(timed)
            values |= {f"{n}/{m}": [v] for n, speed in speeds.items() if n in cases for m, v in speed.items()}
        numbers = {series: statistics.fmean(each) for series, each in values.items()}
        spread = {s: statistics.stdev(each) for s, each in values.items() if len(each) > 1 and self._is_judged(s)}
        numbers |= {history.SD + series: value for series, value in spread.items()}
        run.metrics(numbers, self.number)
        digests = {n: c.digest(self.suite) for n, c in cases.items()}
        digests |= {a: _digest([repr(ANCHORS[a]), self.suite.seeds]) for a in map(history.case_of, anchor_values)}
        data = {str(c.source): c.data.digest for c in cases.values()}
        results = {
            "cases": json.dumps(digests), "failed": json.dumps(failed), "bits": json.dumps(fingerprints),
            "data": json.dumps(data), **{k: environment[k] for k in ("hardware", "threads") if environment},
        }  # fmt: skip
        run.tags(results)
        return Rerun(run.id, {**self._rerun_tags(id_, started, confirms), **results}, numbers)

    def _is_judged(self, series: str) -> bool:
        metric = history.metric_of(series)
        return history.case_of(series) in self.suite.anchors or any(map(metric.startswith, self.suite.smallest_effects))

    def _train(
        self, parent: Run, id_: str, cases: Mapping[str, PreparedCase], seeds: Sequence[int]
    ) -> tuple[dict[str, list[float]], dict[str, str], dict[str, str]]:
        """Return the values of each series, a reason for each case that failed, and the fingerprint of each case."""
        tasks: dict[str, FinalTask] = {}
        for name, case in cases.items():
            fixed = () if id_.endswith(CONFIRMATION) else (("fixed", training_run.FIRST_FINAL_SEED),)
            for role, seed in (*fixed, *((f"fresh {i}", s) for i, s in enumerate(seeds))):
                training = Final(
                    variant=case.variant, config=case.config, epochs=case.epochs, patience=0, seed=seed,
                    sizes=Sizes(**self.suite.sizes), parts=("bounds",) if role == "fixed" else self.suite.parts,
                )  # fmt: skip
                # other code or another case trains anew, also when a rerun that was cut off continues
                version = _digest([case.digest(self.suite), self.tags.get("commit", "")])[:6]
                key = f"{id_}-{name}-{role}-{version}"
                tasks[key] = FinalTask(
                    final=training, key=key, source=case.source, digest=case.data.digest,
                    dataset=self.tracker.dataset, address=self.tracker.address, parent=parent.id,
                    tags={**self.tags, "rerun": id_, "case": name, "role": role.split()[0]},
                    keep=role == "fixed",  # one model of each case; of the other trainings only the scores are kept
                )  # fmt: skip
        ready = {r.tags["key"] for r in self._trained(id_)}
        if tasks:
            final.train(self.executor, {k: t for k, t in tasks.items() if k not in ready}, len(ready), self.display)
        problems = self.tracker.catch_up(patience=60)
        records = {r.tags["key"]: r for r in self._trained(id_)}
        if set(tasks) - set(records):
            problem = problems[0] if problems else "no answer"
            raise InputError(f"the trainings are done, but MLflow does not have them: {problem}; start again to go on")
        failed: dict[str, str] = {}
        fingerprints: dict[str, str] = {}
        values: dict[str, list[float]] = {}
        for key, task in tasks.items():
            name, record = task.tags["case"], records[key]
            if record.tags["state"] != "complete":
                reason = record.tags.get("reason", "the reason is unknown")
                failed[name] = f"seed {task.final.seed}: {reason}"[:MAX_REASON]
            elif task.tags["role"] == "fixed":
                fingerprints[name] = _digest({k: v for k, v in record.metrics.items() if k.startswith("test/")})
            else:
                for metric, value in record.metrics.items():
                    if metric.startswith(SCORES) and not any(part in metric for part in NOT_OF_THE_MODEL):
                        values.setdefault(f"{name}/{metric}", []).append(value)
        whole = {s: v for s, v in values.items() if len(v) == len(seeds) and history.case_of(s) not in failed}
        return whole, failed, fingerprints

    def _trained(self, id_: str) -> list[Record]:
        return [r for r in self.tracker.find(kind="final", rerun=id_) if r.tags.get("state") in final.DONE]

    def _measure_anchors(
        self, parent: Run, anchors: Sequence[str], seeds: Sequence[int]
    ) -> tuple[dict[str, list[float]], dict[str, str]]:
        """Return the values of each series of the anchors, and a reason for each anchor that failed."""
        tasks = {
            f"{anchor} seed {seed}": AnchorTask(
                name=anchor, budget="cpu", seed=seed, dataset=self.tracker.dataset, address=self.tracker.address,
                tags=self.tags, parent=parent.id,
            )
            for anchor in anchors
            for seed in seeds
        }  # fmt: skip
        with self.display.progress("anchors", len(tasks)) as progress:
            wrapped = {key: _AnchorOrReason(task) for key, task in tasks.items()}
            ended = executors.run_with_progress(self.executor, wrapped, progress)
        values: dict[str, list[float]] = {}
        failed: dict[str, str] = {}
        for key, task in tasks.items():
            end = ended[key]
            scores = f"{executors.MAX_DEATHS} processes died at it: {end.died}" if end.died else end.result
            if isinstance(scores, str):
                failed[task.name] = f"seed {task.seed}: {scores}"[:MAX_REASON]
                continue
            for metric in ANCHORS[task.name].budgets["cpu"].expected:
                values.setdefault(anchor_series(task.name, metric), []).append(scores[metric])
        return {s: v for s, v in values.items() if history.case_of(s) not in failed}, failed

    def delete_checkpoints(self, id_: str) -> None:
        """Delete the checkpoints of anchors, from which an interrupted rerun would have continued."""
        for suffix in ("", CONFIRMATION):
            for seed in self._seeds(id_ + suffix):
                for name in self.suite.anchors:
                    shutil.rmtree(checkpoint_folder(name, "cpu", seed), ignore_errors=True)

    def _seeds(self, id_: str) -> list[int]:
        """Return seeds that no other rerun has. They lie above those of searches and of comparisons."""
        names = [f"{self.tags['suite']} {id_} {i}" for i in range(self.suite.seeds)]
        return [10 * training_run.FIRST_FINAL_SEED + zlib.crc32(name.encode()) % 2**31 for name in names]

    def _time(self, cases: Mapping[str, TimedCase]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        with self.display.progress("speed", 1) as progress:
            ended = executors.run_with_progress(self.executor, {"speed": SpeedTask(cases)}, progress)
        speeds, environment = ended["speed"].result_of("the measurement of speed")
        return speeds, environment


@dataclass(frozen=True)
class _AnchorOrReason:
    """An anchor with one seed, as a task that returns its scores, or the reason why there are none."""

    task: AnchorTask

    @property
    def title(self) -> str:
        return self.task.title

    @property
    def steps(self) -> int:
        return self.task.steps

    def run(self, resources: Resources, report: Report) -> Mapping[str, float] | str:
        try:
            return self.task.run(resources, report)
        except (Diverged, MemoryError, torch.OutOfMemoryError) as error:
            return str(error) or type(error).__name__


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
