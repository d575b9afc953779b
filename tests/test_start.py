"""What a command imports before it does anything, and what the first use of a store leaves behind."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
import torch
from conftest import environment

import pipeline.data
import variants
from pipeline.__main__ import COMMANDS
from pipeline.tracker import Tracker
from variants import InputError
from variants.base import Adam


def imported(folder: Path, *words: str) -> set[str]:
    """Run `python -m` with these words, and return the names of all modules that are imported by then."""
    line = [sys.executable, "-m", *words]
    variables = {**environment(), "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if row.startswith("import time:")}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_no_large_library(name: str, tmp_path: Path) -> None:
    modules = imported(tmp_path, f"pipeline.{name}", "--help")
    assert "pipeline.cli" in modules
    assert not modules & {"torch", "mlflow", "optuna", "sklearn", "matplotlib"}


@pytest.mark.slow
def test_a_study_imports_neither_the_compiler_of_torch_nor_the_libraries_of_reports(folder: Path) -> None:
    words = ("--variant", "aae", "--trials", "1", "--epochs", "2", "--device", "cpu", "--threads", "1")
    modules = imported(folder, "pipeline.study", *words)
    assert {"torch", "mlflow", "optuna"} <= modules
    assert not modules & {"torch._dynamo", "torchvision", "jinja2.environment", "ray"}


@pytest.mark.parametrize("name", variants.names())
def test_the_paper_of_a_variant_is_known_without_importing_it(name: str) -> None:
    assert variants.paper(name) == variants.get(name).paper


def test_there_is_no_paper_of_a_variant_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="unknown variant 'bta': did you mean beta"):
        variants.paper("bta")


@pytest.mark.parametrize("package", [variants, pipeline.data], ids=lambda package: package.__name__)
def test_a_name_that_a_package_does_not_have_is_an_attribute_error(package: object) -> None:
    assert not hasattr(package, "nonsense")
    assert not hasattr(package, "_nonsense")


def test_adam_does_what_the_one_of_torch_does() -> None:
    """Also if the training is interrupted, and continues from the optimizer's state."""
    weights = []
    for kind in (Adam, torch.optim.Adam):
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
        optimizer = kind(network.parameters(), lr=0.1, betas=(0.5, 0.9), fused=True)
        for step in range(6):
            if step == 3:
                state = optimizer.state_dict()
                optimizer = kind([{"params": [network.weight]}], lr=0.1, betas=(0.5, 0.9), fused=True)
                optimizer.add_param_group({"params": [network.bias], "lr": 0.2})
                state["param_groups"] = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            network(torch.randn(8, 5)).square().mean().backward()
            optimizer.step()
        assert all(p.is_leaf and p.requires_grad for p in network.parameters())
        weights.append([p.detach().clone() for p in network.parameters()])
    assert all(map(torch.equal, *weights))


def test_a_new_store_is_whole_and_others_are_written_as_safely_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    tracker = Tracker("digits")
    assert set(os.listdir()) <= {"mlflow.db", "mlflow.db.lock"}
    assert tracker.client.get_experiment(tracker.experiment).name == "digits"
    for path in ("mlflow.db", "other.db"):
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        with closing(engine.connect()) as connection:
            assert connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar() == 2, path  # FULL
            assert connection.execute(sqlalchemy.text("PRAGMA integrity_check")).scalar() == "ok", path
        engine.dispose()
