"""The conformance suite finds planted mistakes, passes the right variants, and its command reports both."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment
from planted import MISTAKES, Mistake, vae

import variants
from variants import DataSpec, InputError, Variant
from variants.check import EACH_KIND, ONCE, Result, Subject, carry_out, name_of, run
from variants.check.__main__ import main
from variants.check.kinds import KINDS, examples

CHECKS = {name_of(check): check for check in (*EACH_KIND, *ONCE)}


@cache
def of_the_right_variant(factory: Callable[[], type[Variant]], check: str, kind: str) -> Result:
    return carry_out(CHECKS[check], Subject(factory(), kind))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: f"{m.factory.__name__}: {m.mistake}")
def test_a_mistake_is_found_and_the_right_variant_passes(planted: Mistake) -> None:
    right = of_the_right_variant(planted.factory, planted.check, planted.kind)
    assert right.status == "passed", right.evidence
    wrong = carry_out(CHECKS[planted.check], Subject(planted.factory(planted.mistake), planted.kind))
    assert wrong.status == "failed", wrong.evidence


def test_the_readme_says_which_check_finds_which_mistake() -> None:
    text = (ROOT / "variants" / "README.md").read_text(encoding="utf-8")
    assert {planted.check for planted in MISTAKES} <= set(CHECKS)
    assert [name for name in {planted.check for planted in MISTAKES} if name not in text] == []


def test_every_check_says_what_it_is_about() -> None:
    for check in CHECKS.values():
        first = (check.__doc__ or "").splitlines()[0]
        assert first.endswith("."), name_of(check)


def test_a_check_that_raises_fails_with_the_place_in_the_variant() -> None:
    class Broken(vae()):  # type: ignore[misc]
        def terms(self, batch, step):  # type: ignore[no-untyped-def]
            return batch.x @ batch.x

    result = carry_out(CHECKS["kl is not negative"], Subject(Broken, "a table"))
    assert result.status == "failed"
    assert re.match(r"RuntimeError in test_check\.py, line \d+: .*shapes cannot be multiplied", result.evidence)


def test_a_constructor_that_raises_another_error_is_named() -> None:
    class Crashing(vae()):  # type: ignore[misc]
        def __init__(self, config: object, spec: DataSpec) -> None:
            raise ZeroDivisionError("no reason")

    expected = (
        r"Crashing cannot be built for a table: ZeroDivisionError in test_check\.py, line \d+: no reason; expected"
    )
    with pytest.raises(InputError, match=expected):
        next(run(Crashing))


def test_the_random_state_is_kept() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    carry_out(CHECKS["kl is not negative"], Subject(vae(), "a table"))
    assert torch.equal(torch.rand(2), expected)


def test_a_variant_of_sequences_is_checked_on_sequences_alone() -> None:
    vrae = variants.get("vrae")
    assert Subject.first(vrae).kind == "real sequences"
    (found,) = run(vrae, only="encode never")
    assert found.result.evidence == "On 6 kinds of data. The code has 4 dimensions."


def test_a_variant_that_accepts_nothing_is_refused() -> None:
    class Picky(vae()):  # type: ignore[misc]
        def __init__(self, config: object, spec: DataSpec) -> None:
            raise InputError(f"{spec.name} is not good enough")

    with pytest.raises(InputError, match="Picky accepts no kind of data: table is not good enough; binary is not"):
        next(run(Picky))


def test_a_variant_that_cannot_be_built_is_refused_with_the_place() -> None:
    class Clumsy(vae()):  # type: ignore[misc]
        def __init__(self, config: object, spec: DataSpec) -> None:
            raise ValueError("too few columns")

    with pytest.raises(InputError, match=r"Clumsy cannot be built for a table: ValueError in test_check\.py, line \d+"):
        next(run(Clumsy))


def test_factors_make_the_values_of_an_example_depend_on_each_other() -> None:
    for kind in ("a table", "real sequences"):
        spread = [
            torch.linalg.svdvals(examples(KINDS[kind], 500, factors=n).x.flatten(1)[6::7].T.cov()) for n in (0, 2)
        ]
        assert float(spread[1][:2].sum() / spread[1].sum()) > 0.8 > 0.6 > float(spread[0][:2].sum() / spread[0].sum())


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["variants.check", *words])
    return main()


def test_the_command_prints_a_line_for_each_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "vae", "vrae", "--only", "label") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vae: 16 of 16 kinds of data"
    assert re.fullmatch(
        r"passed +\d+\.\d s  encode never sees a label: On 16 kinds of data\. The code has 4 dimensions\.", lines[1]
    )
    assert re.fullmatch(r"vae: 1 passed, 0 hint, 0 skipped, 0 failed, in \d+ s", lines[2])
    assert lines[4].startswith("vrae: 6 of 16 kinds of data; not a table, binary images, 8-bit colour, ")
    assert lines[4].endswith("images with holes: it needs sequences")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vea"], "error: unknown variant 'vea': did you mean vae"),
        (["nowhere:VAE"], "error: nowhere:VAE cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        (["variants.vae:Missing"], "error: variants.vae:Missing cannot be loaded: AttributeError"),
        (["variants.vae:Batch"], "error: variants.vae:Batch is <class 'variants.base.contract.Batch'>; expected a sub"),
    ],
)
def test_a_bad_name_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


@pytest.mark.parametrize("words", [[], ["vae", "--only", "nonsense"], ["vae", "--device", "nowhere"]])
def test_bad_usage_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *words)
    assert ended.value.code == 2


def test_help_lists_the_checks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "--help")
    text = capsys.readouterr().out
    assert all(f"  {name}\n" in text for name in CHECKS)


@pytest.mark.slow
def test_a_class_of_the_current_folder_is_checked(tmp_path: Path) -> None:
    """It need not be registered, and a failed check makes the exit code 1."""
    (tmp_path / "mine.py").write_text(
        "from variants.base import GaussianVariant, Terms\n"
        "class Mine(GaussianVariant):\n"
        "    paper = 'nobody, never'\n"
        "    def terms(self, batch, step):\n"
        "        bound = self.bound(batch)\n"
        "        loss = (bound.reconstruction + bound.kl.sum(1)).sum()\n"
        "        return Terms(bound.reconstruction, bound.kl.sum(1), {'loss': loss})\n"
    )
    line = [sys.executable, "-m", "variants.check", "mine:Mine", "--only"]
    for only, code, expected in (
        ("loaded", 0, "passed"),
        ("losses do not grow", 1, "the part of the loss 'loss' with p(x|z) is"),
    ):
        done = subprocess.run(
            [*line, only], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code, done.stderr
        assert expected in done.stdout
        assert done.stderr == ""
