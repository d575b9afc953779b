"""How often a comparison calls one of two equal searches better, by the rule of this project and by the former one.

    python -m tests.equal_searches                evaluates the stored pool, in seconds
    python -m tests.equal_searches --make 12      makes the pool again, in about half an hour on one core

The pool, `tests/equal_searches.csv`, holds two searches of a VAE on each of 12 random splits of the digits. They are
equal but for their seeds. The configuration that is best on validation data is trained again with five final seeds, and
each final is one row. A search has 240 epochs, in trials of at most 30. Searches that have ended are kept in a folder,
so a pool that was interrupted continues.

A comparison of two variants with K repetitions is imitated by K splits: on each of them, one of the two searches is
taken for the first variant and the other for the second, each with one of its finals. For "any splits", 2 K searches
are drawn and divided at random, so the differences between splits are noise, too. The former rule compared two searches
on one split by the paired t-test of five final seeds.

The standard errors take comparisons for independent. They share searches, so the true errors are somewhat larger. The
differences of equal searches are not correlated between splits, so the correction for overlapping splits makes the rule
more careful here than it has to be.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pipeline.compare import statistics

FILE = Path(__file__).with_suffix(".csv")
FINALS = 5  # of each search
DRAWS = 10  # of z for each test example
OVERLAP = 1 / 8  # the test split has a tenth of the examples, and the training split has eight tenths
COMPARISONS = 2000
Array = NDArray[np.float64]


def make(splits: int, folder: Path) -> None:
    """Make the pool, and write it to `FILE`."""
    from pipeline import machine

    machine.prepare(1)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    rows = []
    for number in range(2 * splits):
        path = folder / f"{number}.json"
        if not path.exists():
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            os.chdir(place)
            path.write_text(json.dumps(search(number)), encoding="utf-8")
            print(f"search {number + 1} of {2 * splits} has ended", flush=True)
        rows += json.loads(path.read_text(encoding="utf-8"))
    pd.DataFrame(rows).to_csv(FILE, index=False, float_format="%.6g", lineterminator="\n")


def search(number: int) -> list[dict[str, Any]]:
    """Search, and train the best configuration on five final seeds. Return a row for each final."""
    from pipeline import data as datasets
    from pipeline import training_run
    from pipeline.data import SPLIT_SEED, Source
    from pipeline.evaluate import likelihood, probe
    from pipeline.evaluate.codes import encode_split, labels_of
    from pipeline.progress import Display
    from pipeline.study.driver import StudyRequest, run
    from pipeline.study.results import read_study
    from pipeline.tracker import Tracker
    from studies import SearchBudget

    source = Source(place="digits", split_seed=SPLIT_SEED + number // 2)
    request = StudyRequest(
        variant="vae", dataset=source, budget=SearchBudget(epochs=240), epochs=30, seed=400 * number, shows_data=False
    )
    run(request, Display())
    study = read_study(request.storage, "vae-digits")
    best = study.best("valid/elbo") if study else None
    assert study and best
    data, rows = datasets.load(source), []
    for seed in range(training_run.FIRST_FINAL_SEED, training_run.FIRST_FINAL_SEED + FINALS):
        plan = training_run.TrainingPlan(
            variant="vae", config=best.config, epochs=study.epochs, patience=study.patience, seed=seed
        )
        with Tracker("digits").run(f"vae seed {seed}", {"kind": "final"}, key=f"final-{seed}") as tracked:
            training = training_run.TrainingRun(plan, data, tracked)
            for _ in training.epochs():
                pass
        terms = likelihood.drawn_terms(training.variant, data, data.test, DRAWS)
        assert terms.kl is not None
        elbo, reconstruction = -(terms.reconstruction + terms.kl), terms.reconstruction.mean(axis=0)
        codes = [encode_split(training.variant, data, split) for split in (data.train, data.test)]
        accuracy = probe.accuracy(codes[0], labels_of(data.train), codes[1], labels_of(data.test))
        scores = {
            "elbo": elbo.mean(), "elbo_of_one_draw": elbo[0].mean(), "elbo_row_error": _error(elbo.mean(axis=0)),
            "reconstruction": reconstruction.mean(), "reconstruction_row_error": _error(reconstruction),
            "probe_accuracy": accuracy, "probe_row_error": float(np.sqrt(accuracy * (1 - accuracy) / len(codes[1]))),
        }  # fmt: skip
        rows.append({
            "split_seed": source.split_seed, "study_seed": request.seed, "trial": best.number,
            **dataclasses.asdict(best.config), "valid_elbo": best.metrics["valid/elbo"], "final_seed": seed,
            "epochs": training.epoch, **{name: float(value) for name, value in scores.items()},
        })  # fmt: skip
    return rows


def _error(values: Array) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def read() -> dict[str, Array]:
    """Return the scores of each criterion, (splits, 2 searches, 5 finals); higher is better."""
    pool = pd.read_csv(FILE)
    sign = {"elbo": 1.0, "probe_accuracy": 1.0, "reconstruction": -1.0}
    return {name: sign[name] * pool[name].to_numpy().reshape(-1, 2, FINALS) for name in sign}


def deviation(scores: Array) -> float:
    """Return the standard deviation of a repetition on a given split: of its search and its final."""
    return float(np.sqrt(scores.transpose(0, 2, 1).reshape(-1, 2).var(axis=1, ddof=1).mean()))


def differences(scores: Array, k: int, rng: np.random.Generator, *, any_splits: bool = False) -> Array:
    """Return the differences of two equal variants in k repetitions, (k,)."""
    if any_splits:
        searches = rng.permuted(np.arange(2 * len(scores)))[: 2 * k].reshape(2, k)
    else:
        searches = 2 * rng.permuted(np.arange(len(scores)))[:k] + rng.permuted(np.tile([[0], [1]], k), axis=0)
    first, second = scores.reshape(-1, FINALS)[searches, rng.integers(FINALS, size=(2, k))]
    return np.asarray(first - second)


def called(
    scores: Array, k: int, matters: float, *, comparisons: int = COMPARISONS, shift: float = 0.0,
    overlap: float | None = OVERLAP, any_splits: bool = False, seed: int = 0,
) -> dict[statistics.Verdict, float]:  # fmt: skip
    """Return the share of each verdict on the first variant, which is better by `shift`, in comparisons at random."""
    rng = np.random.default_rng(seed)
    verdicts: list[statistics.Verdict] = []
    for _ in range(comparisons):
        values = differences(scores, k, rng, any_splits=any_splits) + shift
        chances = statistics.mean(values, overlap=overlap).chances(matters)
        verdicts.append(chances.verdict if chances else "undecided")
    return {verdict: verdicts.count(verdict) / comparisons for verdict in get_args(statistics.Verdict)}


def formerly_called_different(scores: Array) -> Array:
    """Return for each split whether the former rule calls its two searches different, (splits,)."""
    return np.asarray(stats.ttest_rel(scores[:, 0], scores[:, 1], axis=1).pvalue < 0.05)


def evaluate() -> None:
    """Print how often equal and unequal searches are called better or worse."""
    from pipeline.compare.criteria import CRITERIA

    matters = {c.name: c.matters for c in CRITERIA}
    for name, scores in read().items():
        smallest, size = matters[name.removesuffix("_accuracy")], deviation(scores)
        former = formerly_called_different(scores)
        print(
            f"\n{name}: {len(scores)} splits with two searches each; the standard deviation of a repetition on a split "
            f"is {size:.3g}, between finals {np.sqrt(scores.var(axis=2, ddof=1).mean()):.3g}, between splits "
            f"{scores.mean(axis=(1, 2)).std(ddof=1):.3g}; a difference matters from {smallest:g} on"
        )
        print(f"former rule, five seeds:  {_share(former.mean(), len(former))} of equal pairs are called different")
        print(f"of {COMPARISONS} comparisons     K   better           worse            equal            undecided")
        for title, settings in (
            ("equal", {}),
            ("equal, any splits", {"any_splits": True}),
            ("equal, no correction", {"overlap": None}),
            ("better by 2 deviations", {"shift": 2 * size}),
        ):
            for k in (3, 5, 8, 10):
                shares = called(scores, k, smallest, **settings)  # type: ignore[arg-type]
                cells = (_share(shares[v], COMPARISONS) for v in ("better", "worse", "equal", "undecided"))
                print(f"{title:<24} {k:>2}  {'  '.join(cells)}")


def _share(value: float, n: int) -> str:
    """Return a share with its standard error."""
    return f"{100 * value:5.1f}% ± {100 * np.sqrt(value * (1 - value) / n):4.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.equal_searches", description=str(__doc__).splitlines()[0])
    limit = "with more, seeds of trials would be those of finals"
    parser.add_argument(
        "--make",
        type=int,
        choices=range(1, 13),
        metavar="N",
        help=f"make the pool, with N splits, at most 12 ({limit})",
    )
    parser.add_argument("--folder", type=Path, default=Path("equal_searches"), metavar="DIR", help="of what has ended")
    options = parser.parse_args()
    if options.make:
        make(options.make, options.folder)
    evaluate()


if __name__ == "__main__":
    main()
