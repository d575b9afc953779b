"""Replay searches on stored learning curves, and compare how fast they find good configurations.

    python -m tests.search_bench
    python -m tests.search_bench --table vae-digits --strategy default --strategy random --repetitions 200

`tests/search_curves.npz` has the curves of random configurations that were trained to the end (`tests.search_curves`).
A strategy asks for a configuration, and gets the nearest one of the table that it has not had yet. Its curve then
unfolds epoch by epoch, until the strategy ends it or it has ended by itself: at the largest number of epochs, or after
15 epochs without a better validation ELBO, as in a study.

The regret is what the best complete trial is worse than the best one of the table, in nats per example; with two
objectives it is the share of the table's hypervolume that the complete trials do not cover. Budgets are in full
trainings: the mean number of epochs that a training of the table takes. The samplers and the pruner of the program are
those of `pipeline.study`, not copies.
"""

import argparse
import json
import multiprocessing
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PatientPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

import studies
from pipeline import machine
from pipeline.study import pruning, space
from pipeline.study.sampler import PRIOR_TRIALS, Sampler
from tests.search_curves import FILE, PROBED

BUDGETS = (5, 10, 20, 40)  # full trainings
STEPS = {"digits": 12, "fashion-mnist": 32}  # optimization steps of an epoch, with 128 examples in a batch
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CurveTable:
    """The measured trainings of one variant on one data set: N configurations, E epochs, K objectives."""

    name: str
    params: list[dict[str, Any]]
    distributions: dict[str, BaseDistribution]
    curves: Array  # (N, E, K) scores after each epoch; higher is better
    ends: NDArray[np.int64]  # (N,) the epoch after which a training ends by itself
    finals: Array  # (N, K) scores of the weights that are kept
    warmups: Array  # (N,) epochs of warm-up

    @property
    def epochs(self) -> int:
        return self.curves.shape[1]

    @property
    def full(self) -> float:
        """The mean number of epochs of a training."""
        return float(self.ends.mean())

    @property
    def objectives(self) -> int:
        return self.curves.shape[2]

    def positions(self, params: Sequence[dict[str, Any]]) -> Array:
        """Return configurations as points of the unit cube (N, P); logarithms where the search has logarithms."""
        columns = []
        for name, distribution in self.distributions.items():
            values = [p[name] for p in params]
            if isinstance(distribution, CategoricalDistribution):
                columns.append([float(distribution.choices.index(v)) for v in values])
                continue
            change = np.log if distribution.log else np.asarray
            low, high = change(distribution.low), change(distribution.high)
            columns.append((change(np.array(values, dtype=float)) - low) / (high - low))
        return np.clip(np.array(columns, dtype=float).T, 0, 1)

    def regret(self, rows: Sequence[int]) -> float:
        """Return the regret after these rows were completed."""
        if self.objectives == 1:
            return float(self.finals.max() - max((self.finals[r, 0] for r in rows), default=self.finals.min()))
        return 1 - hypervolume(self.scaled[list(rows)]) / hypervolume(self.scaled)

    @property
    def scaled(self) -> Array:
        """Final scores, scaled so that the table's median is 0 and its best is 1; what is below is 0."""
        middle = np.median(self.finals, axis=0)
        scaled: Array = np.clip((self.finals - middle) / (self.finals.max(axis=0) - middle), 0, None)
        return scaled


def hypervolume(points: Array) -> float:
    """Return the area that points (N, 2) dominate above the origin; higher is better."""
    area = height = 0.0
    for x, y in sorted(map(tuple, points), reverse=True):
        if y > height:
            area, height = area + x * (y - height), y
    return area


@cache
def load(name: str, objectives: int = 1) -> CurveTable:
    """Load a table from `FILE`. With two objectives, they are the ELBO and the accuracy of the probe."""
    stored = np.load(FILE)
    variant, _, dataset = name.partition("-")
    rows = np.flatnonzero(stored[f"{name}/seed"] < 1000)  # further seeds show the noise, and are not replayed
    elbo, probe = (stored[f"{name}/{key}"][rows].astype(float) for key in ("elbo", "probe"))
    params = [json.loads(text) for text in stored[f"{name}/params"][rows]]
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    trial = study.ask()
    space.suggest(studies.get(variant), trial, {}, None)
    best = np.maximum.accumulate(elbo, axis=1)
    ends, finals, curves = [], [], [elbo]
    if objectives == 2:
        curves.append(np.array([np.interp(np.arange(1, elbo.shape[1] + 1), PROBED, row) for row in probe]))
    for i, curve in enumerate(elbo):
        since = np.arange(len(curve)) - np.array([int(curve[: e + 1].argmax()) for e in range(len(curve))])
        late = np.flatnonzero(since >= studies.get(variant).STUDY.patience)
        ends.append(int(late[0]) + 1 if len(late) else len(curve))
        kept = int(curve[: ends[-1]].argmax())
        finals.append([c[i, kept] for c in curves])
    assert np.allclose(best[np.arange(len(ends)), np.array(ends) - 1], np.array(finals)[:, 0])
    warmups = [np.ceil(p.get("warmup", 0) / STEPS[dataset]) for p in params]
    return CurveTable(
        name, params, trial.distributions, np.stack(curves, axis=2), np.array(ends), np.array(finals), np.array(warmups)
    )


Decision = Callable[[optuna.Study, int, int, list[float]], bool]  # (study, number, epoch, scores) -> whether it ends


@dataclass(frozen=True)
class Strategy:
    """How a search chooses configurations, and how it ends trials.

    Either `pruner` is one of Optuna's, made from the largest number of epochs, which decides after every epoch; or
    `decide` decides at the epochs that `rungs` returns. With neither, all trials run to the end.
    """

    sampler: Callable[[CurveTable, int], BaseSampler]
    pruner: Callable[[int], BasePruner] | None = None
    decide: Decision | None = None
    rungs: Callable[[int, float], list[int]] = pruning.rungs


def replay(table: CurveTable, strategy: Strategy, seed: int, budget: float) -> list[tuple[int, int, bool]]:
    """Search a table. Return for each trial: the epochs spent until its end, its row, and whether it is complete."""
    pruner = strategy.pruner(table.epochs) if strategy.pruner else NopPruner()
    study = optuna.create_study(
        directions=["maximize"] * table.objectives, sampler=strategy.sampler(table, seed), pruner=pruner
    )
    everything, unused = table.positions(table.params), np.ones(len(table.params), dtype=bool)
    trials: list[tuple[int, int, bool]] = []
    spent = 0
    while unused.any():
        trial = study.ask(table.distributions)
        distances = ((everything - table.positions([trial.params])) ** 2).sum(1)
        row = int(np.where(unused, distances, np.inf).argmin())
        unused[row] = False
        for name, distribution in table.distributions.items():
            value = distribution.to_internal_repr(table.params[row][name])
            study._storage.set_trial_param(trial._trial_id, name, value, distribution)
        end = _end(table, strategy, study, trial, row)
        is_complete = end is None
        spent += int(table.ends[row]) if end is None else end
        if spent > budget:
            break
        trials.append((spent, row, is_complete))
        if is_complete:
            study.tell(trial, list(table.finals[row]))
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return trials


def _end(table: CurveTable, strategy: Strategy, study: optuna.Study, trial: optuna.Trial, row: int) -> int | None:
    """Return the epoch at which the strategy ends a trial; None if it does not."""
    curve, last = table.curves[row], int(table.ends[row])
    if strategy.decide:
        scores: dict[str, list[float]] = {}
        for epoch in strategy.rungs(table.epochs, table.warmups[row]):
            if epoch >= last:
                return None
            scores[str(epoch)] = list(curve[epoch - 1])
            trial.set_user_attr(pruning.RUNGS, dict(scores))
            if strategy.decide(study, trial.number, epoch, scores[str(epoch)]):
                return epoch
    elif strategy.pruner:
        for epoch in range(1, last):
            trial.report(curve[epoch - 1, 0], epoch)
            if trial.should_prune():
                return epoch
    return None


def _random(table: CurveTable, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(table: CurveTable, seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _gp(table: CurveTable, seed: int) -> BaseSampler:
    return GPSampler(seed=seed)


def _default(table: CurveTable, seed: int) -> BaseSampler:
    return Sampler(seed, table.params[0])


class _GPAfterDefaults(Sampler):
    """The sampler of the program, with a Gaussian process in the place of TPE."""

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seed = zlib.crc32(f"{self.seed} {trial.number}".encode())
        return GPSampler(seed=seed, n_startup_trials=6).sample_relative(study, trial, search_space)


def _gp_after_defaults(table: CurveTable, seed: int) -> BaseSampler:
    return _GPAfterDefaults(seed, table.params[0])


def _from_study(table: CurveTable, seed: int, *, misleading: bool = False) -> BaseSampler:
    """Start from a study of another variant with the default strategy, and a budget of 20 full trainings.

    A misleading start is one from the worst of 20 random trials of it.
    """
    other = load(SOURCES[table.name])
    strategy = Strategy(_random) if misleading else Strategy(_default, decide=pruning.ends_early)
    rows = [row for _, row, is_complete in replay(other, strategy, seed, 20 * other.full) if is_complete]
    rows.sort(key=lambda row: other.finals[row, 0], reverse=not misleading)
    shared = [name for name in other.distributions if name in table.distributions]
    prior = [{name: other.params[row][name] for name in shared} for row in rows[:PRIOR_TRIALS]]
    return Sampler(seed, table.params[0], prior)


def _halving_rungs(epochs: int, warmup: float) -> list[int]:
    return [epochs // 9, epochs // 3]


def _halving(study: optuna.Study, number: int, epoch: int, scores: list[float]) -> bool:
    """Asynchronous successive halving for several objectives (Schmucker et al. 2021), as in earlier versions.

    A trial ends unless it is among the best third of those that were at this rung: front by front, and the first ones
    of a front are spread out.
    """
    every = [t.user_attrs[pruning.RUNGS] for t in study.get_trials(deepcopy=False) if pruning.RUNGS in t.user_attrs]
    values = np.array([rungs[str(epoch)] for rungs in every if str(epoch) in rungs])
    if len(values) < 3:
        return False
    remaining, order = list(range(len(values))), []
    while remaining:
        front = [i for i in remaining if not any(_dominates(values[j], values[i]) for j in remaining)]
        order += [front[i] for i in _spread_out(values[front])]
        remaining = [i for i in remaining if i not in front]
    return len(values) - 1 not in order[: len(values) // 3]


def _dominates(a: Array, b: Array) -> bool:
    return bool((a >= b).all() and (a > b).any())


def _spread_out(values: Array) -> list[int]:
    """Order the rows of (N, K): the best by the first column, then always the one farthest from all before it."""
    ranges = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(ranges > 0, ranges, 1)
    order = [int(values[:, 0].argmax())]
    while len(order) < len(values):
        distance = np.linalg.norm(scaled[:, None] - scaled[order], axis=2).min(axis=1)
        distance[order] = -1
        order.append(int(distance.argmax()))
    return order


SAMPLERS = {"random": _random, "tpe": _tpe, "gp": _gp}
PRUNERS: dict[str, dict[str, Any]] = {  # the arguments of a strategy
    "": {},
    "hyperband": {"pruner": partial(HyperbandPruner, 1)},
    "halving": {"decide": _halving, "rungs": _halving_rungs},
    "median": {"pruner": lambda epochs: MedianPruner(5, 5)},
    "patient median": {"pruner": lambda epochs: PatientPruner(MedianPruner(5, 5), patience=5)},
    "wilcoxon": {"pruner": lambda epochs: WilcoxonPruner(p_threshold=0.1)},
    "chance": {"decide": pruning.ends_early},
}
STRATEGIES = {
    **{
        " + ".join(filter(None, [sampler, pruner])): Strategy(SAMPLERS[sampler], **arguments)
        for sampler in SAMPLERS
        for pruner, arguments in PRUNERS.items()
    },
    "defaults, gp + chance": Strategy(_gp_after_defaults, decide=pruning.ends_early),
    "defaults, tpe": Strategy(_default),
    "default": Strategy(_default, decide=pruning.ends_early),
    "default, prior": Strategy(_from_study, decide=pruning.ends_early),
    "default, misleading prior": Strategy(partial(_from_study, misleading=True), decide=pruning.ends_early),
}
SOURCES = {  # table -> the table of the variant whose study it starts from
    "vae-digits": "beta-digits", "hvae-digits": "vae-digits", "beta-digits": "vae-digits",
    "vae-fashion-mnist": "vae-digits",
}  # fmt: skip
TABLES = {"vae-digits": 1, "hvae-digits": 1, "vae-fashion-mnist": 1, "beta-digits": 2}  # number of objectives


def regrets(table: CurveTable, trials: Sequence[tuple[int, int, bool]]) -> Array:
    """Return the regret at budgets of 1, 2, ... full trainings, (max(BUDGETS),)."""
    budgets = np.arange(1, max(BUDGETS) + 1) * table.full
    values = np.empty(len(budgets))
    rows: list[int] = []
    waiting = list(trials)
    for i, budget in enumerate(budgets):
        while waiting and waiting[0][0] <= budget:
            _, row, is_complete = waiting.pop(0)
            rows += [row] * is_complete
        values[i] = table.regret(rows)
    return values


def _repetition(task: tuple[str, str, int]) -> tuple[str, str, Array, float]:
    name, strategy, seed = task
    table = load(name, TABLES[name])
    begin = time.perf_counter()
    trials = replay(table, STRATEGIES[strategy], seed, max(BUDGETS) * table.full)
    return name, strategy, regrets(table, trials), time.perf_counter() - begin


def interval(values: Array) -> tuple[float, float, float]:
    """Return the median of (N,) values, and the bounds of its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def epochs_to_reach(values: Array, goal: float) -> float:
    """Return after how many full trainings the median of regrets (N, budgets) is at most `goal`; inf if never."""
    reached = np.flatnonzero(np.median(values, axis=0) <= goal)
    return float(reached[0] + 1) if len(reached) else np.inf


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.search_bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="append", choices=TABLES, help="a table; may be repeated (all)")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="a strategy; may be repeated (all)")
    parser.add_argument(
        "--repetitions", type=int, default=200, metavar="N",
        help="repetitions of each strategy; those with a Gaussian process, which is slow, get a tenth (200)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="number of processes (2)")
    arguments = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(arguments.workers, _prepare) as pool:
        for name in arguments.table or TABLES:
            strategies = [
                s for s in arguments.strategy or STRATEGIES if TABLES[name] == 1 or not STRATEGIES[s].pruner
            ]  # Optuna's pruners know one objective only
            _show(name, strategies, pool, arguments.repetitions)


def _show(name: str, strategies: list[str], pool: Any, repetitions: int) -> None:
    """Replay the strategies on a table, and print a line for each."""
    table = load(name, TABLES[name])
    unit = "nats" if table.objectives == 1 else "share of the hypervolume"
    print(f"\n{name}: {len(table.params)} configurations, {table.full:.0f} epochs in a full training")
    print(f"median regret ({unit}) with its 95% interval after so many full trainings' worth of epochs")
    print(f"{'':26} {'n':>4} " + " ".join(f"{b:>21}" for b in BUDGETS) + "  reaches random's 20 after")
    results: dict[str, list[Array]] = {}
    goal = np.inf
    for strategy in dict.fromkeys(["random", *strategies]):
        is_slow = "gp" in strategy
        tasks = [(name, strategy, seed) for seed in range(max(2, repetitions // (10 if is_slow else 1)))]
        for _, _, regret, _ in pool.imap_unordered(_repetition, tasks):
            results.setdefault(strategy, []).append(regret)
        values = np.array(results[strategy])
        if strategy == "random":
            goal = float(np.median(values[:, 19]))
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval(values[:, b - 1])) for b in BUDGETS]
        print(
            f"{strategy:26} {len(values):>4} " + " ".join(f"{c:>21}" for c in cells)
            + f"  {epochs_to_reach(values, goal):>4.0f} trainings",
            flush=True,
        )  # fmt: skip


def _prepare() -> None:
    machine.prepare(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main()
