"""The networks between x and z: which one `auto` stands for, and residual networks of images."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import studies
import variants
from pipeline.compare import request as requests
from pipeline.study.space import outline
from variants import Batch, Config, DataSpec, InputError, Likelihood, Variant

IMAGE_VARIANTS = [n for n in variants.names() if "mask" not in variants.get(n).required_fields]
STEP = torch.zeros(())


def images(*shape: int, likelihood: Likelihood = "logistic8") -> DataSpec:
    return DataSpec(name="images", shape=shape, likelihood=likelihood, classes=3)


def batch(spec: DataSpec, n: int = 2) -> Batch:
    torch.manual_seed(0)
    return Batch(torch.rand(n, *spec.shape).mul(255).round() / 255, torch.arange(n) % 3)


def make(name: str, spec: DataSpec, **settings: object) -> Variant:
    torch.manual_seed(0)
    cls = variants.get(name)
    return cls(cls.config_type(latent=4, width=32, **settings), spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "network"),
    [
        (DataSpec(name="table", shape=(7,), likelihood="gaussian"), "mlp"),
        (DataSpec(name="sequences", shape=(3,), likelihood="gaussian", steps=9), "gru"),
        (DataSpec(name="long sequences", shape=(3,), likelihood="gaussian", steps=101), "tcn"),
        (images(1, 8, 8, likelihood="bernoulli"), "mlp"),
        (images(1, 28, 28, likelihood="bernoulli"), "mlp"),
        (images(1, 28, 20), "mlp"),
        (images(3, 27, 40), "mlp"),
        (images(1, 28, 28), "conv"),
        (images(1, 64, 64, likelihood="gaussian"), "conv"),
        (images(3, 28, 28), "resnet"),
        (images(3, 256, 30, likelihood="gaussian"), "resnet"),
        (images(3, 300, 300), "conv"),
    ],
)
def test_auto_chooses_the_network_by_the_data(spec: DataSpec, network: str) -> None:
    config = Config(latent=2, width=8)
    assert config.network == "auto"
    assert config.for_data(spec) == dataclasses.replace(config, network=network)
    assert dataclasses.replace(config, network="conv").for_data(spec).network == "conv"


def test_a_saved_model_says_which_network_it_has(tmp_path: Path) -> None:
    variant = make("vae", images(3, 32, 32))
    variants.save(variant, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["network"] == "resnet"
    x = batch(variant.spec)
    assert torch.equal(variants.load(tmp_path).encode(x), variant.eval().encode(x))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 17, 31), (3, 33, 18), (2, 16, 90)])
@pytest.mark.parametrize("name", IMAGE_VARIANTS)
def test_residual_networks_take_images_of_all_sizes(name: str, shape: tuple[int, ...]) -> None:
    variant = make(name, images(*shape), network="resnet").eval()
    x = batch(variant.spec)
    z = variant.encode(x)
    assert variant.decode(z, x).shape == x.x.shape
    sizes = sum(variant.levels) or z.shape[1]
    assert variant.sample_prior(2, x).shape == z.shape == (2, sizes)
    for loss in variant.terms(x, STEP).losses.values():
        assert (loss if isinstance(loss, torch.Tensor) else loss()).isfinite()


@pytest.mark.parametrize("name", IMAGE_VARIANTS)
def test_the_code_of_an_image_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    variant = make(name, images(3, 16, 20), network="resnet").train()
    x = batch(variant.spec, 4)
    with torch.no_grad():
        for p in variant.parameters():  # otherwise the residual branches are 0
            p.add_(0.1 * torch.randn_like(p))
        torch.testing.assert_close(variant.encode(x)[:1], variant.encode(x[slice(0, 1)]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(9,), (3, 15, 40), (3, 40, 257)])
def test_a_residual_network_says_what_it_needs(shape: tuple[int, ...]) -> None:
    expected = (
        rf"network='resnet': images has examples of {'x'.join(map(str, shape))}; expected images with sides of 16"
    )
    with pytest.raises(InputError, match=expected):
        make("vae", images(*shape, likelihood="gaussian"), network="resnet")


@pytest.mark.parametrize(("name", "latent", "patches"), [("vae", 4, 1), ("hvae", 256, 4)])
def test_residual_networks_use_the_code_from_the_first_steps(name: str, latent: int, patches: int) -> None:
    """Each patch of an image has one of many colours. If the code is ignored, all reconstructions are alike."""
    spec = dataclasses.replace(images(3, 16, 16), classes=0)
    colours = torch.rand(256, 3, patches, patches, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.interpolate(colours, (16, 16)).mul(255).round() / 255
    torch.manual_seed(0)
    cls = variants.get(name)
    variant = cls(cls.config_type(latent=latent, width=32, network="resnet", lr=3e-3), spec)
    optimizer = variant.optimizers()["loss"]
    for part in x.split(32) * 6:
        loss = variant.terms(Batch(part), STEP).losses["loss"]
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    variant.eval()
    error = (variant.decode(variant.encode(Batch(x))) - x).square().mean()
    assert error < 0.65 * (x.mean(0) - x).square().mean()  # eight pairs of a variant and a seed reach 0.38 to 0.56


def test_levels_of_a_residual_hierarchy_are_maps() -> None:
    """z_1 has 8x8 positions with 4 channels, z_2 has 4x4 with 8, and so has z_3, as there is no smaller map."""
    cls = variants.get("hvae")
    spec = images(3, 16, 16)
    config = cls.config_type(latent=4 * 64, levels=3, width=32, network="resnet")  # type: ignore[call-arg]
    assert cls(config, spec).levels == (4 * 64, 8 * 16, 8 * 16)


def test_recurrent_variants_ignore_auto() -> None:
    spec = DataSpec(name="sequences", shape=(3,), likelihood="gaussian", steps=9)
    assert make("vrae", spec).config.network == "mlp"
    with pytest.raises(InputError, match="network='resnet': vrae has networks of its own"):
        make("vrae", spec, network="resnet")


@pytest.mark.parametrize(
    ("spec", "searched"),
    [
        (images(1, 8, 8, likelihood="bernoulli"), None),
        (images(1, 32, 32), "conv or mlp"),
        (images(3, 32, 32), "resnet or conv"),
    ],
)
@pytest.mark.parametrize("name", IMAGE_VARIANTS)
def test_a_study_searches_the_network_of_large_images(name: str, spec: DataSpec, searched: str | None) -> None:
    config, ranges = outline(studies.get(name), {}, spec)
    if name == "vq" and searched:  # its codes belong to a map, so it has residual networks for all large images
        searched = "resnet or conv"
    assert ranges.get("network") == searched
    assert ("positions" in ranges) == (name == "vq" and not searched)
    assert {"latent", "width", "depth", "lr"} <= set(ranges)
    assert config.network != "auto"
    variants.build(name, config, spec)
    pinned, ranges = outline(studies.get(name), {"network": "mlp"}, spec)
    assert pinned.network == "mlp"
    assert "network" not in ranges


def test_compare_fixes_a_parameter_of_the_variants_that_have_it() -> None:
    request = requests.CompareRequest(fix=("network=resnet", "beta=2"), variants=("vae", "beta"))
    requests.check(request, [])
    assert request.fixed("vae") == {"network": "resnet"}
    assert request.fixed("beta") == {"network": "resnet", "beta": 2.0}


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ("networks=conv", "no variant of this comparison has such a parameter"),
        ("beta=2", "no variant of this comparison has such a parameter"),
        ("network=unet", "network='unet': expected one of auto, mlp, conv, resnet"),
        ("latent", "expected NAME=VALUE"),
    ],
)
def test_compare_refuses_a_wrong_fix(fix: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        requests.check(requests.CompareRequest(fix=(fix,), variants=("vae", "hvae")), [])


@pytest.mark.parametrize("name", IMAGE_VARIANTS)
def test_weights_and_the_state_of_their_optimizer_are_stored_in_one_order(name: str) -> None:
    """A checkpoint holds values only, and the state that is read from it is contiguous."""
    variant = make(name, images(3, 16, 16), network="resnet")
    assert all(p.is_contiguous() for p in variant.parameters())
