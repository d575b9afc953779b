"""Faults planted one at a time into a copy of the project's metrics, and the test that caught each.

python tests/faults.py              all of them, some minutes; exit code 1 where one was not caught
python tests/faults.py likelihood   those of one module
"""

# ruff: noqa: E501 (a fault is a line of the table)
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    module: str  # of pipeline.evaluate
    what: str
    right: str  # stands once in the module
    wrong: str
    tests: str  # the file that is to catch it


FAULTS = [
    Fault("likelihood", "k is one too many", "logsumexp(1) - math.log(k)", "logsumexp(1) - math.log(k + 1)", "likelihood"),
    Fault("likelihood", "log q has the wrong sign", "batch[index]) - log_q)", "batch[index]) + log_q)", "likelihood"),
    Fault("likelihood", "mean of log weights (the ELBO)", "1).logsumexp(1) - math.log(k)", "1).mean(1)", "likelihood"),
    Fault("likelihood", "label leak: the true class alone", "if marginal else [batch]", "if 0 else [batch]", "likelihood"),
    Fault("likelihood", "classes averaged, not summed", ".logsumexp(0))", ".mean(0))", "likelihood"),
    Fault("likelihood", "nats called bits", " * math.log(2))", ")", "likelihood"),
    Fault("likelihood", "Parzen: number of samples forgotten", "math.log(len(samples)) + ", "", "likelihood"),
    Fault("likelihood", "Parzen: the worst width", "return max(grid", "return min(grid", "likelihood"),
    Fault("ais", "weights by the whole temperature", "weight + (beta - betas[t - 1]) *", "weight + beta *", "likelihood"),
    Fault("ais", "number of chains forgotten", "- math.log(weight.shape[1])", "", "likelihood"),
    Fault("ais", "moves accepted the wrong way", "torch.rand_like(energy).log() < energy", "torch.rand_like(energy).log() < -energy", "likelihood"),
    Fault("ais", "kinetic energy forgotten", "- 0.5 * (momentum.square() - start.square()).sum(1)", "", "likelihood"),
    Fault("ais", "gap of the wrong sign", "tuned, chains) - lower)", "tuned, chains) * -1 + lower)", "likelihood"),
    Fault("ais", "p(y) forgotten", "classes = variant.spec.classes if", "classes = 1 if", "likelihood"),
    Fault("ais", "rate without log Z", "beta * mean - _mean_exp(weight)", "beta * mean", "likelihood"),
    Fault("latents", "deviation for variance", "codes.var(axis=0) > threshold", "codes.std(axis=0) > threshold", "latents"),
    Fault("latents", "a unit at the threshold counts", "return int((kl > threshold)", "return int((kl >= threshold)", "latents"),
    Fault("latents", "KL of a level averaged", "float(part.sum())", "float(part.mean())", "latents"),
    Fault("latents", "MMD: cross term once", "within - 2 * kernel", "within - kernel", "latents"),
    Fault("latents", "moments not in units of the prior", "codes.std(axis=0) / scale", "codes.std(axis=0)", "latents"),
    Fault("latents", "divergence: k-th neighbour off by one", "query(codes, k + 1)[0][:, k]", "query(codes, k + 1)[0][:, k - 1]", "latents"),
    Fault("latents", "divergence: wrong way round", "np.log(other / own)", "np.log(own / other)", "latents"),
    Fault("latents", "collapse not seen", "if not used or total < 1", "if not used", "latents"),
    Fault("clusters", "the worst assignment", "maximize=True", "maximize=False", "latents"),
    Fault("clusters", "all starts but the best", "KMeans(count, n_init=10", "KMeans(count + 1, n_init=10", "latents"),
    Fault("disentanglement", "MIG not over the entropy", "(ordered[-1] - ordered[-2]) / entropy", "ordered[-1] - ordered[-2]", "disentanglement"),
    Fault("disentanglement", "MIG against the third", "ordered[-1] - ordered[-2]", "ordered[-1] - ordered[-3]", "disentanglement"),
    Fault("disentanglement", "modularity: all factors are others", "/ (factors.shape[1] - 1)", "/ factors.shape[1]", "disentanglement"),
    Fault("disentanglement", "SAP: correlation not squared", "_correlation(codes, factor) ** 2", "abs(_correlation(codes, factor))", "disentanglement"),
    Fault("disentanglement", "SAP: told what it learned from", "balanced_accuracy_score(factor[test], model.predict(scaled[test]))", "balanced_accuracy_score(factor[train], model.predict(scaled[train]))", "disentanglement"),
    Fault("disentanglement", "DCI: told what it learned from", "model.score(codes[test], factor[test])", "model.score(codes[train], factor[train])", "disentanglement"),
    Fault("disentanglement", "DCI: disentanglement and completeness swapped", "(weight * _purity(table)).sum()", "_purity(table.T).mean()", "disentanglement"),
    Fault("disentanglement", "BetaVAE: told what it learned from", "model.score(apart[TRAIN:], shared[TRAIN:])", "model.score(apart[:TRAIN], shared[:TRAIN])", "disentanglement"),
    Fault("disentanglement", "BetaVAE: one value for all pairs of a vote", "one = rng.integers(len(factors), size=(len(shared), alike))", "one = _partners(factors, shared, rng.integers(len(factors), size=(len(shared), 1)).repeat(alike, axis=1), rng)", "disentanglement"),
    Fault("disentanglement", "FactorVAE: the loudest code votes", "var(axis=1).argmin(axis=1)", "var(axis=1).argmax(axis=1)", "disentanglement"),
    Fault("disentanglement", "FactorVAE: variances as they are", "codes[:, heard] / spread[heard]", "codes[:, heard]", "disentanglement"),
    Fault("disentanglement", "FactorVAE: quiet codes vote", "spread >= QUIET", "spread >= 0", "disentanglement"),
    Fault("samples", "a point is its own neighbour", "np.partition(apart, k, axis=1)[:, k]", "np.partition(apart, k, axis=1)[:, k - 1]", "samples"),
    Fault("samples", "coverage by the fakes' balls", "covered[rows] = within.any(axis=1)", "covered[rows] = (apart < fake_radius).any(axis=1)", "samples"),
    Fault("samples", "recall by the reals' balls", "recalled[rows] = (apart < fake_radius).any(axis=1)", "recalled[rows] = within.any(axis=1)", "samples"),
    Fault("samples", "density not over k", "inside_real.mean() / k", "inside_real.mean()", "samples"),
    Fault("samples", "Frechet: cross term once", "- 2 * cross", "- cross", "samples"),
    Fault("samples", "KID: pairs of a point with itself", "kernel.sum() - np.trace(kernel)", "kernel.sum()", "samples"),
    Fault("samples", "neighbours unsorted", "order = near.argsort(axis=1)", "order = np.tile(np.arange(n), (len(near), 1))", "samples"),
    Fault("probe", "one label too many", "kind=\"stable\")][:n]", "kind=\"stable\")][: n + 1]", "probe"),
    Fault("probe", "labels of the common classes", "chosen = order[np.argsort(turn[order], kind=\"stable\")][:n]", "chosen = np.sort(order)[:n]", "probe"),
    Fault("probe", "told what it learned from", "found.append(model.score(test_x, test_y))", "found.append(model.score(train_x[chosen], train_y[chosen]))", "probe"),
    Fault("probe", "one neighbour", "min(k, len(train[1]))", "1", "probe"),
    Fault("probe", "each column on a scale of its own", "float(np.sqrt(((train_x - mean) ** 2).mean())) or 1.0", "train_x.std(axis=0)", "probe"),
    Fault("latents", "variance not in units of the prior", "threshold * prior.var(axis=0)", "threshold", "latents"),
    Fault("suite", "the first examples stand for all", "true = probe.subset(data.test, n)", "true = data.test[slice(0, n)]", "suite"),
    Fault("uses", "padding fills in what is missing", "there.sum(1), (like * there)", "0 * there.sum(1) + there.shape[1], (like * there)", "uses"),
    Fault("judge", "padding is seen", "x = self.body((x * mask[..., None]).transpose(1, 2)) * mask[:, None]", "x = self.body(x.transpose(1, 2))", "uses"),
    Fault("judge", "unlabelled examples count as wrong", "== y)[y >= 0].mean()", "!= y)[y >= 0].mean()", "uses"),
    Fault("uses", "anomalies are the likely ones", "scores[\"iw\"] = -likelihood", "scores[\"iw\"] = likelihood", "uses"),
    Fault("uses", "a score of the variant with the wrong sign", "append(-terms.extras[name])", "append(terms.extras[name])", "uses"),
    Fault("uses", "imputation: mean of logs", "math.log(gain.shape[1]) - gain.logsumexp(1)", "-gain.mean(1)", "uses"),
    Fault("uses", "imputation: what is missing counts as seen", "weights.append(_sum(each, ~away)", "weights.append(_sum(each, away)", "uses"),
    Fault("uses", "neighbours by what is missing", "seen = (real & ~gone).flatten(1).float()", "seen = real.expand_as(gone).flatten(1).float()", "uses"),
    Fault("uses", "interpolation: sum over the ends' sum", "(moves.sum(1) / ends).mean()", "moves.sum() / len(moves)", "uses"),
    Fault("uses", "forecasts scored on what is given", "places >= prefix[:, None]", "places < prefix[:, None]", "uses"),
    Fault("uses", "forecasts in standardised units", "(guess - batch.x) * data.scale", "guess - batch.x", "uses"),
    Fault("uses", "samples replace the examples", "(\"with\", more)", "(\"with\", replace(more, x=more.x.flip(0)))", "uses"),
    Fault("uses", "classes not those asked for", "variant.sample(len(part), part, noise=True)", "variant.sample(len(part), part.flip(0), noise=True)", "uses"),
    Fault("suite", "ELBO of the wrong sign", "_mean(\"test/elbo\", -both,", "_mean(\"test/elbo\", both,", "suite"),
    Fault("suite", "a sum called a mean", "Figure(name, float(total) / n, n)", "Figure(name, float(total), n)", "suite"),
    Fault("suite", "k of the table is not that of the name", "rows.append(_average(name, each, k=s.sizes.iw_k))", "rows.append(_average(name, each, k=1))", "suite"),
    Fault("__init__", "label leak: codes with labels", "variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(split)", "variant.encode(b) for b in data.batches(split)", "suite"),
]  # fmt: skip


def caught(root: Path, fault: Fault) -> str:
    """The first test that fails with the fault in place; "" where none does."""
    path = root / "pipeline" / "evaluate" / f"{fault.module}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(fault.right) == 1, f"{fault.what}: {fault.right!r} stands {text.count(fault.right)} times"
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        f"tests/test_{fault.tests}.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, check=False)
    path.write_text(text, encoding="utf-8")
    found = re.search(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
    assert found or done.returncode == 0, done.stdout + done.stderr
    return found[1] if found else ""


def main(modules: list[str]) -> int:
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("variants", "studies", "pipeline", "tests"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        for fault in FAULTS:
            if not modules or fault.module in modules:
                test = caught(root, fault)
                survived += not test
                print(f"| {fault.module} | {fault.what} | {test or 'NOT CAUGHT'} |", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
