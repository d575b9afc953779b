"""The conformance suite over every registered variant, and tests of the contract itself and of the registry.

By default, each variant is checked on an eighth of the kinds of data, and with `-m slow` on the others. To check one
variant on all of them: `uv run python -m variants.check NAME`. Both take `--device cuda`.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import studies
import variants
from pipeline import machine
from pipeline.metrics import objectives
from pipeline.study.space import Outline, outline
from variants import Batch, Config, DataSpec, InputError, Variant
from variants.base.contract import Group
from variants.check import EACH_KIND, KINDS, ONCE, Check, Subject, carry_out, kinds, name_of
from variants.check.subject import is_same, score


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> str:
    torch.backends.cudnn.allow_tf32 = False  # otherwise convolutions on CUDA round to 10 bits
    return str(machine.device(request.config.getoption("--device")))


def fits(name: str, kind: str) -> bool:
    """Variants that need sequences take nothing else."""
    return variants.get(name).required_fields <= KINDS[kind].fields


def each_kind() -> list[object]:
    """Every variant with every kind of data; seven of eight are slow, and other ones for the next variant."""
    subjects = []
    for n, name in enumerate(variants.names()):
        for k, kind in enumerate(kind for kind in KINDS if fits(name, kind)):
            marks = [pytest.mark.slow] if (n + k) % 8 else []
            subjects.append(pytest.param(name, kind, marks=marks, id=f"{name} on {kind}"))
    return subjects


def confirm(check: Check, subject: Subject) -> None:
    result = carry_out(check, subject)
    if result.status == "skipped":
        pytest.skip(result.evidence)
    assert result.status != "failed", result.evidence


@pytest.mark.parametrize("check", EACH_KIND, ids=name_of)
@pytest.mark.parametrize(("name", "kind"), each_kind())
def test_a_variant_on_a_kind_of_data(name: str, kind: str, check: Check, device: str) -> None:
    confirm(check, Subject(variants.get(name), kind, device=device))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("check", ONCE[:-1], ids=name_of)  # the last one is a hint about time
@pytest.mark.parametrize("name", variants.names())
def test_a_variant(name: str, check: Check, device: str) -> None:
    confirm(check, Subject.first(variants.get(name), device))


@pytest.mark.parametrize("network", ["conv", "resnet"])
@pytest.mark.parametrize("name", [n for n in variants.names() if fits(n, "large images")])
def test_convolutions_read_images_with_holes(name: str, network: str, device: str) -> None:
    spec = DataSpec(name="clouds", shape=(3, 30, 28), likelihood="gaussian", classes=3, missing=True)
    subject = Subject(variants.get(name), "large images", device=device)
    variant, batch = subject.build(spec, network=network).eval(), kinds.examples(spec, 2).to(device)
    filled = dataclasses.replace(batch, x=torch.where(batch.observed, batch.x, torch.nan))  # type: ignore[arg-type]
    assert is_same(score(variant, filled, 1).reconstruction, score(variant, batch, 1).reconstruction)
    assert not torch.allclose(variant.encode(batch), variant.encode(dataclasses.replace(batch, observed=None)))
    assert (variant.log_likelihood(variant.sample_prior(2, batch), batch)[~batch.observed] == 0).all()  # type: ignore[operator]


def test_a_batch_keeps_all_its_fields(device: str) -> None:
    spec = dataclasses.replace(KINDS["real sequences with holes"], exposure="column", elapsed=9.0)
    spec = dataclasses.replace(spec, groups=(Group(likelihood="poisson", size=2),))
    batch = kinds.examples(spec).to(device)
    names = [f.name for f in dataclasses.fields(Batch)]
    assert all(getattr(batch, name) is not None for name in names)
    for rows in (slice(1, 4), torch.tensor([3, 0, 3], device=device)):
        assert all(torch.equal(getattr(batch[rows], name), getattr(batch, name)[rows]) for name in names)
    whole = Batch.cat([batch[slice(0, 2)], batch[slice(2, 6)]])
    assert all(torch.equal(getattr(whole, name), getattr(batch, name)) for name in names)
    assert all(getattr(batch.to("meta"), name).device.type == "meta" for name in names)
    assert batch.unlabelled.y is None
    assert all(getattr(batch.unlabelled, name) is getattr(batch, name) for name in names if name != "y")
    assert batch.known is not None and batch.observed is not None and batch.mask is not None
    assert torch.equal(batch.known, batch.observed & batch.mask[..., None])


@pytest.mark.parametrize("name", variants.names())
def test_a_variant_has_a_study_that_compares_fairly(name: str) -> None:
    space = studies.get(name)
    config, ranges = outline(space, {})
    assert ranges
    assert set(ranges) <= {f.name for f in dataclasses.fields(config)}
    assert type(config) is variants.get(name).config_type
    assert type(config)(**dataclasses.asdict(config)) == config
    assert objectives(space.STUDY.objectives, KINDS["binary images"]) == space.STUDY.objectives
    variants.build(name, config, Subject.first(variants.get(name)).spec)


def test_an_unknown_variant_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown variant 'bta': did you mean beta or tcvae\? the variants are .*vae"):
        variants.get("bta")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import no_such_module", r"odd\.py.*No module named 'no_such_module'"),
        ("x = 1", r"odd\.py defines 0 variants"),
        ("from variants import Variant\nclass A(Variant): pass\nclass B(Variant): pass", r"odd\.py defines 2 variants"),
        (
            "from variants import Variant\nclass A(Variant):\n    paper = 'p'",
            r"odd\.py: A is incomplete.*decode",
        ),
    ],
)
def test_a_bad_file_is_named(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(body)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    monkeypatch.setattr(variants, "_FOLDER", tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "variants.odd", raising=False)
    with pytest.raises(InputError, match=message):
        variants.get("odd")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, r"latent=0: expected 1 to 65536 \(latent dimensions\)"),
        ({"latent": 2.5}, r"latent=2\.5: expected a whole number"),
        ({"lr": float("nan")}, r"lr=nan: expected 1e-08 to 1"),
        ({"network": "unet"}, r"network='unet': expected one of auto, mlp, conv, resnet"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**settings)  # type: ignore[arg-type]


def vae(spec: DataSpec, **settings: str) -> Variant:
    return variants.build("vae", Config(latent=4, width=16, **settings), spec)  # type: ignore[arg-type]


def test_a_convolutional_network_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"network='conv': binary has examples of 1x8x8; expected images of at least"):
        vae(KINDS["binary images"], network="conv")


@pytest.mark.parametrize("damage", ["missing", "truncated", "unknown variant"])
def test_a_damaged_model_is_refused(damage: str, tmp_path: Path) -> None:
    folder = variants.save(vae(KINDS["a table"]), tmp_path)
    weights, about = folder / "model.safetensors", folder / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        about.write_text(json.dumps(json.loads(about.read_text()) | {"variant": "nonesuch"}))
    with pytest.raises(InputError, match="nonesuch" if damage == "unknown variant" else "holds no model"):
        variants.load(folder)


def test_an_outline_needs_no_optuna() -> None:
    trial = Outline()
    studies.get("beta").suggest(trial)
    assert trial.ranges["beta"] == "0.25 to 8, log"
