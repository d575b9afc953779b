"""What a rerun is made of: cases trained on fresh seeds and on their fixed one, figures of anchors, and speed."""

import dataclasses
import hashlib
import json
import shutil
import statistics
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import variants
from pipeline import data as datasets
from pipeline import executor as executors
from pipeline import final, machine, trainer, training_run
from pipeline.benchmark import changes, history
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.speed import Speed
from pipeline.benchmark.verdicts import check, of_anchor
from pipeline.data import Data
from pipeline.evaluate.context import Sizes
from pipeline.executor import Ended, Executor, Resources
from pipeline.final import Final
from pipeline.progress import Display
from pipeline.reproduce.task import AnchorTask, plain
from pipeline.tracker import Record, Run, Tracker
from pipeline.trainer import Diverged
from studies.anchors import ANCHORS
from studies.benchmark import Suite
from variants import Config, InputError

KEPT = ("test/", "probe/", "latent/", "sample/", "use/")
LEFT_OUT = ("probe/raw_", "probe/pca_", "probe/untrained_", "_floor_")
REASON = 300  # characters of one
AGAIN = "-again"  # ends the id of a rerun that repeats another in part


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """A case, ready to be trained."""

    name: str
    variant: str
    config: Config
    epochs: int
    source: str
    data: Data

    def digest(self, suite: Suite) -> str:
        facts = [self.variant, dataclasses.asdict(self.config), self.epochs, self.data.digest]
        facts += [suite.seeds, suite.parts, dict(suite.sizes)]
        return _short(facts)


def prepared(suite: Suite, device: torch.device) -> dict[str, PreparedCase]:
    """Every case with its data, refused here where it cannot be trained."""
    loaded: dict[str, Data] = {}
    cases = {}
    for name, case in suite.cases.items():
        if case.dataset not in loaded:
            loaded[case.dataset] = datasets.load(case.dataset).to(device)
            training_run.cache_data(case.dataset, device, loaded[case.dataset])
        cls = variants.get(case.variant)
        try:
            config = cls.config_type(**case.settings)
        except TypeError as error:
            raise InputError(f"case {name} of studies/benchmark.py: {error}") from error
        trainer.build(case.variant, config, loaded[case.dataset].spec)
        cases[name] = PreparedCase(
            name=name,
            variant=case.variant,
            config=config,
            epochs=case.epochs,
            source=case.dataset,
            data=loaded[case.dataset],
        )
    Sizes(**suite.sizes)
    check(suite)
    return cases


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What trains the parts of a rerun."""

    suite: Suite
    tags: Mapping[str, str]
    tracker: Tracker
    executor: Executor
    display: Display
    number: int
    timed: Mapping[str, PreparedCase]  # whose speeds are measured in turns: all of them each time, as in the baseline

    @contextmanager
    def begin(
        self, id_: str, started: str, parent: str | None = None, more: Mapping[str, str] | None = None
    ) -> Iterator[Run]:
        """The run of a rerun, below which its trainings stand."""
        tags = {**self.tags, **(more or {}), "kind": "rerun", "rerun": id_, "started": started}
        title = f"{self.tags['suite']} {started[:16].replace('T', ' ')}{' again' if parent else ''}"
        with self.tracker.run(title, tags, parent=parent, key=f"rerun-{id_}") as run:
            run.text(changes.PACKAGES, machine.packages())
            yield run

    def make(
        self,
        parent: Run,
        id_: str,
        started: str,
        cases: Mapping[str, PreparedCase],
        anchors: tuple[str, ...] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Rerun:
        """Train, measure, and log: the rerun as it will be read."""
        seeds = self._seeds(id_)
        values, failed, fingerprints = self._trained(parent, id_, cases, seeds)
        names = self.suite.anchors if anchors is None else anchors
        measured, without = self._anchors(parent, names, seeds)
        values |= measured
        failed |= without
        hardware: dict[str, str] = {}
        going = {n: (c.variant, c.config, c.source, c.data.digest) for n, c in self.timed.items() if n not in failed}
        if going and cases:
            speeds, hardware = self._speeds(going)
            values |= {f"{n}/{m}": [v] for n, found in speeds.items() if n in cases for m, v in found.items()}
        numbers = {series: statistics.fmean(each) for series, each in values.items()}
        spread = {s: statistics.stdev(each) for s, each in values.items() if len(each) > 1 and self._judged(s)}
        numbers |= {history.SD + series: value for series, value in spread.items()}
        parent.metrics(numbers, self.number)
        digests = {n: c.digest(self.suite) for n, c in cases.items()}
        digests |= {a: _short([repr(ANCHORS[a]), self.suite.seeds]) for a in map(history.case_of, measured)}
        data = {c.source: c.data.digest for c in cases.values()}
        said = {
            "cases": json.dumps(digests), "failed": json.dumps(failed), "bits": json.dumps(fingerprints),
            "data": json.dumps(data), **{k: hardware[k] for k in ("hardware", "threads") if hardware},
        }  # fmt: skip
        parent.tags(said)
        known = {"rerun": id_, "started": started, **self.tags, **(more or {}), **said}
        return Rerun(parent.id, known, numbers)

    def _trained(
        self, parent: Run, id_: str, cases: Mapping[str, PreparedCase], seeds: Sequence[int]
    ) -> tuple[dict[str, list[float]], dict[str, str], dict[str, str]]:
        """Values by series, a reason for each case that failed, and the digests of fixed seeds."""
        tasks: dict[str, final.FinalTask] = {}
        for name, case in cases.items():
            first = () if id_.endswith(AGAIN) else (("fixed", final.FIRST_SEED),)
            for role, seed in (*first, *((f"fresh {i}", s) for i, s in enumerate(seeds))):
                parts = ("bounds",) if role == "fixed" else self.suite.parts
                one = Final(
                    variant=case.variant,
                    config=case.config,
                    epochs=case.epochs,
                    patience=0,
                    seed=seed,
                    sizes=Sizes(**self.suite.sizes),
                    parts=parts,
                )
                tags = {**self.tags, "rerun": id_, "case": name, "role": role.split()[0]}
                # of this code and case alone: whoever goes on with other code trains anew
                made_of = _short([case.digest(self.suite), self.tags.get("commit", "")])[:6]
                key = f"{id_}-{name}-{role}-{made_of}"
                tasks[key] = final.FinalTask(
                    final=one,
                    key=key,
                    source=case.source,
                    digest=case.data.digest,
                    dataset=self.tracker.dataset,
                    address=self.tracker.address,
                    parent=parent.id,
                    tags=tags,
                    keep=role == "fixed",  # one of each case to look at; the others are figures for months
                )
        ready = {r.tags["key"] for r in self._finals(id_)}
        if tasks:
            final.train(self.executor, {k: t for k, t in tasks.items() if k not in ready}, len(ready), self.display)
        problems = self.tracker.catch_up(patience=60)
        found = {r.tags["key"]: r for r in self._finals(id_)}
        if set(tasks) - set(found):
            raise InputError(
                f"trained, but not yet in MLflow: {problems[0] if problems else 'no answer'}; the same command goes on"
            )
        failed: dict[str, str] = {}
        fingerprints: dict[str, str] = {}
        values: dict[str, list[float]] = {}
        for key, task in tasks.items():
            name, made = task.tags["case"], found[key]
            if made.tags["state"] != "complete":
                failed[name] = f"seed {task.final.seed}: {made.tags.get('reason', 'no reason is known')}"[:REASON]
            elif task.tags["role"] == "fixed":
                fingerprints[name] = _digest(made)
            else:
                for metric, value in made.metrics.items():
                    if metric.startswith(KEPT) and not any(part in metric for part in LEFT_OUT):
                        values.setdefault(f"{name}/{metric}", []).append(value)
        whole = {s: v for s, v in values.items() if len(v) == len(seeds) and history.case_of(s) not in failed}
        return whole, failed, fingerprints

    def _judged(self, series: str) -> bool:
        return history.case_of(series) in self.suite.anchors or any(
            history.metric_of(series).startswith(name) for name in self.suite.judged
        )

    def _finals(self, id_: str) -> list[Record]:
        return [r for r in self.tracker.find(kind="final", rerun=id_) if r.tags.get("state") in final.DONE]

    def _anchors(
        self, parent: Run, names: Sequence[str], seeds: Sequence[int]
    ) -> tuple[dict[str, list[float]], dict[str, str]]:
        """Figures of anchors by series, each with its values over seeds, and a reason for each anchor that failed."""
        jobs = {
            f"{n} seed {seed}": _Anchor(
                AnchorTask(
                    name=n,
                    form="cpu",
                    seed=seed,
                    dataset=self.tracker.dataset,
                    address=self.tracker.address,
                    tags=self.tags,
                    parent=parent.id,
                )
            )
            for n in names
            for seed in seeds
        }
        results: dict[Hashable, Mapping[str, float] | str] = {}
        with self.display.jobs("anchors", len(jobs)) as done:

            def ended(end: Ended) -> None:
                results[end.key] = (
                    f"{executors.MAX_DEATHS} processes died at it: {end.died}" if end.died else end.result
                )
                done()

            executors.run_all(self.executor, _queue(jobs), lambda *_: None, ended)
        values: dict[str, list[float]] = {}
        failed: dict[str, str] = {}
        for key, job in jobs.items():
            found = results[key]
            if isinstance(found, str):
                failed[job.seed.name] = f"seed {job.seed.seed}: {found}"[:REASON]
                continue
            for metric in ANCHORS[job.seed.name].budgets["cpu"].expected:
                values.setdefault(of_anchor(job.seed.name, plain(metric)), []).append(found[metric])
        return {s: v for s, v in values.items() if history.case_of(s) not in failed}, failed

    def forget(self, id_: str) -> None:
        """Take away what anchors keep so that they can go on."""
        for again in ("", AGAIN):
            for seed in self._seeds(id_ + again):
                for name in self.suite.anchors:
                    shutil.rmtree(AnchorTask.place(name, "cpu", seed), ignore_errors=True)

    def _seeds(self, id_: str) -> list[int]:
        return [_seed(f"{self.tags['suite']} {id_} {i}") for i in range(self.suite.seeds)]

    def _speeds(self, cases: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        done: list[Any] = []
        executors.run_all(self.executor, _queue({"speed": Speed(cases)}), lambda *_: None, lambda end: done.append(end))
        if done[0].died:
            raise InputError(f"the measurement of speed was given up: {done[0].died}")
        return done[0].result  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Anchor:
    """An anchor with one seed, as a task that gives its figures, or says why it has none."""

    seed: AnchorTask

    def run(self, resources: Resources, report: Callable[[Any], None]) -> Mapping[str, float] | str:
        try:
            return self.seed.run(resources, report)
        except (Diverged, MemoryError, torch.OutOfMemoryError) as error:
            return str(error) or type(error).__name__


def _queue(jobs: Mapping[str, Any]) -> Callable[[], tuple[Hashable, Any] | None]:
    left = list(jobs.items())
    return lambda: left.pop(0) if left else None


def _seed(words: str) -> int:
    """A seed that no other rerun has, above those of searches and comparisons."""
    return 10 * final.FIRST_SEED + zlib.crc32(words.encode()) % 2**31


def _digest(one: Record) -> str:
    """Of all that a training led to on the test split: other bits, another digest."""
    return _short({k: v for k, v in one.metrics.items() if k.startswith("test/")})


def _short(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
