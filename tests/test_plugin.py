"""A new variant needs one or two files, or an entry point, and no other edit."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

import variants

VARIANT = '''
"""Squashed VAE: a VAE whose code is the tanh of the posterior mean. An example of what a variant needs."""

from torch import Tensor

from variants.base import Batch, GaussianVariant, Terms


class Squashed(GaussianVariant):
    paper = "nobody, never"

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound = self.bound(batch)
        kl = bound.kl.sum(1)
        loss = (bound.reconstruction + kl).mean()
        return Terms(bound.reconstruction, kl, {"loss": loss}, {"kl_per_dimension": bound.kl})

    def encode(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0].tanh()
'''

STUDY = '''
"""Does squashing help?"""

from studies import Study
from variants import Config

STUDY = Study(objectives=("valid/elbo",), trials=2, epochs=2)


def suggest(trial):
    return Config(latent=trial.suggest_int("latent", 2, 8))
'''


def call(folder: Path, *arguments: str) -> str:
    env = {**environment(), "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy(folder: Path) -> None:
    for name in ("variants", "studies", "pipeline", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


@pytest.mark.slow
def test_a_variant_is_added_by_two_files(tmp_path: Path) -> None:
    """The contract tests, the search, the scores and the page apply to it."""
    copy(tmp_path)
    (tmp_path / "variants" / "squashed.py").write_text(VARIANT)
    (tmp_path / "studies" / "squashed.py").write_text(STUDY)
    assert len(VARIANT.splitlines()) < 100
    call(
        tmp_path,
        "-m",
        "pytest",
        "tests/test_contract.py",
        "tests/test_house.py",
        "-n0",
        "-k",
        "(squashed and (images or mixed)) or imports",
        "-q",
    )
    output = call(tmp_path, "-m", "pipeline.study", "--variant", "squashed", "--threads", "1")
    assert "squashed-digits: best trials" in output
    assert "2 complete" in output


def test_another_package_adds_one_by_an_entry_point(tmp_path: Path) -> None:
    """Installed packages are found by their metadata; without a study of its own the common parameters are searched."""
    (tmp_path / "squashed_vae.py").write_text(VARIANT)
    metadata = tmp_path / "squashed_vae-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: squashed-vae\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vae.variants]\nsquashed = squashed_vae:Squashed\n")
    env = {**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    code = (
        "import variants, studies, torch; c = variants.get('squashed'); print(variants.names());"
        "m = c(c.config_type(latent=3), variants.DataSpec(name='d', shape=(4,), likelihood='gaussian'));"
        "loaded = variants.load(variants.save(m, 'model'));"
        "print(type(loaded).__name__, studies.get('squashed').STUDY.objectives)"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout.split("\n")[:2] == [
        str(sorted([*variants.names(), "squashed"])),
        "Squashed ('valid/elbo',)",
    ], done.stderr


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vae.variants]\nbeta = other:Beta\n")
    env = {**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    line = [sys.executable, "-m", "pipeline.study", "--variant", "beta"]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "variant 'beta' is defined twice: by" in done.stderr
    assert "variants/beta.py and by other:Beta" in done.stderr
