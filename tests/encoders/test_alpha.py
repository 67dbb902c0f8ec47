"""The fourth channel: equal to Alpha-CLIP's own program, CLIP itself without it, refused where there is none."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from safetensors.torch import load_file, save_file

from ovseg.clip import load
from ovseg.clip.dense import encode_images
from ovseg.clip.load import Clip, wrap
from ovseg.encoders import View, describe
from ovseg.encoders.alpha import ALPHA, alpha_map, opened, runner, with_alpha
from ovseg.errors import BadUsage, BadWeights, UnsupportedTower
from ovseg.types import DenseFeatures, Regions
from tests import tiny
from tests.clip.families import towers

ANOMALY = GOLDEN / "anomaly"


@pytest.fixture(scope="module")
def stored() -> Mapping[str, torch.Tensor]:
    if not ANOMALY.is_dir():
        pytest.skip("parity data is not beside this checkout (../shared/golden/anomaly)")
    return load_file(ANOMALY / "alphaclip.safetensors")


@pytest.fixture(scope="module")
def published(stored: Mapping[str, torch.Tensor]) -> Clip:
    """The golden network with QuickGELU, as Alpha-CLIP builds it."""
    model = open_clip.CLIP(**json.loads((ANOMALY / "model.json").read_text()), quick_gelu=True)
    model.load_state_dict(load_file(ANOMALY / "model.safetensors"))
    return wrap(model.eval(), None, name="golden")


class TestPublished:
    def test_maps(self, stored: Mapping[str, torch.Tensor]) -> None:
        for mask, expected in zip(stored["masks_bool"], stored["alpha_maps"], strict=True):
            torch.testing.assert_close(expected, alpha_map(mask.numpy(), 112, 112), atol=1e-6, rtol=0)
        odd = alpha_map(stored["odd_size_mask_bool"].numpy(), 112, 112)
        torch.testing.assert_close(stored["odd_size_alpha_map"], odd, atol=1e-5, rtol=0)

    def test_embeddings(self, stored: Mapping[str, torch.Tensor], published: Clip) -> None:
        pixels = load_file(ANOMALY / "inputs.safetensors")["pixels_query"]
        run = runner(published, published.visual, stored["conv1_alpha.weight"])
        for number, alpha in enumerate(stored["alpha_maps"]):
            (vectors,) = run(pixels, alpha.expand(2, 1, 112, 112))
            expected = stored["image_embeddings"][:, number]
            given = expected.norm(dim=-1, keepdim=True)
            scaled = vectors if (given - 1).abs().max() > 1e-3 else F.normalize(vectors, dim=-1)
            torch.testing.assert_close(expected, scaled, atol=2e-5, rtol=0)

    def test_alpha_of_zeros_is_plain_clip(self, stored: Mapping[str, torch.Tensor], published: Clip) -> None:
        pixels = load_file(ANOMALY / "inputs.safetensors")["pixels_query"]
        run = runner(published, published.visual, stored["conv1_alpha.weight"])
        (vectors,) = run(pixels, torch.zeros(2, 1, 112, 112))
        torch.testing.assert_close(stored["image_embeddings_alpha_zero_tensor"], vectors, atol=2e-5, rtol=0)
        torch.testing.assert_close(stored["plain_quickgelu_embeddings"], vectors, atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return 0.05 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def view(clip: Clip) -> View:
    features = DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), 48, 80)
    return View(clip, tiny.picture(), features)


@pytest.fixture
def regions() -> Regions:
    masks = np.zeros((2, 48, 80), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 40:48, 70:80] = True
    return Regions.from_masks(masks)


def as_published(visual: Any, weight: torch.Tensor | None, prefix: str = "") -> dict[str, torch.Tensor]:
    """A vision tower as Alpha-CLIP saves it: the packed attention as a layer of its own, the fourth channel beside."""
    state = {}
    for key, value in visual.state_dict().items():
        for part in ("weight", "bias"):
            key = key.replace(f".attn.in_proj_{part}", f".attn.in_proj.{part}")
        state[prefix + key] = value.clone()
    return state if weight is None else state | {prefix + ALPHA: weight}


def test_zeros_in_the_fourth_convolution_are_clip_bit_for_bit(clip: Clip) -> None:
    pixels = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        blind = with_alpha(clip.visual, torch.zeros(64, 1, 8, 8), "test")
        assert torch.equal(clip.visual(pixels), blind(torch.cat([pixels, torch.randn(2, 1, 48, 48)], dim=1)))


def test_tower_that_was_given_stays_as_it_is(clip: Clip, weight: torch.Tensor) -> None:
    before, parts = clip.visual.conv1, dict(clip.visual.state_dict())
    with_alpha(clip.visual, weight, "test")
    assert clip.visual.conv1 is before and clip.visual.state_dict().keys() == parts.keys()


@pytest.mark.parametrize("prefix", ["", "visual."])
def test_checkpoint_of_the_published_form_is_read(
    tmp_path: Path, view: View, regions: Regions, weight: torch.Tensor, prefix: str
) -> None:
    """The file's own tower computes, not the network's: another seed, so every block differs."""
    other: Any = tiny.clip(seed=5)
    file = tmp_path / "with space.safetensors"
    save_file(as_published(other.visual, weight, prefix), file)
    vectors = describe("alpha", view, regions, checkpoint=str(file)).vectors
    assert view.clip is not None
    expected = runner(other, other.visual, weight)
    height, width = view.clip.image_size
    from ovseg import images
    from ovseg.clip.windows import normalised

    pixels = normalised(view.clip, images.resize(view.image, height, width))[None]
    for mask, vector in zip(regions.masks, vectors, strict=True):
        (row,) = expected(pixels, alpha_map(mask, height, width)[None])
        np.testing.assert_allclose(F.normalize(row, dim=-1)[0].numpy(), vector, atol=1e-5)


def test_pickle_is_opened_when_it_is_allowed(
    tmp_path: Path, view: View, regions: Regions, weight: torch.Tensor
) -> None:
    file = tmp_path / "clip_b16_grit1m.pth"
    assert view.clip is not None
    torch.save(as_published(view.clip.visual, weight), file)
    with pytest.raises(BadWeights, match="pickle"):
        describe("alpha", view, regions, checkpoint=str(file))
    assert describe("alpha", view, regions, checkpoint=str(file), allow_pickle=True).vectors.shape == (2, 32)


def test_file_is_read_once_for_a_network(tmp_path: Path, clip: Clip, weight: torch.Tensor) -> None:
    file = tmp_path / "alpha.safetensors"
    save_file({ALPHA: weight}, file)
    assert opened(clip, str(file)) is opened(clip, str(file))


def test_model_file_may_bring_it(tmp_path: Path, regions: Regions, weight: torch.Tensor) -> None:
    network: Any = tiny.model()
    config = {
        "embed_dim": tiny.DIM,
        "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 48},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
        "quick_gelu": True,
    }
    state = as_published(network.visual, weight, "visual.")
    state |= {key: value for key, value in network.state_dict().items() if not key.startswith("visual.")}
    file = tmp_path / "alpha-clip.safetensors"
    save_file(state, file, {"model_cfg": json.dumps(config)})
    clip = load.load(str(file))
    features = DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), 48, 80)
    view = View(clip, tiny.picture(), features)
    told = describe("alpha", view, regions).vectors
    assert np.abs(told - describe("alpha", view, regions, look="crop").vectors).max() > 1e-4
    np.testing.assert_allclose(
        encode_images(wrap(network, None), [view.image]), encode_images(clip, [view.image]), atol=1e-6
    )
    assert clip.fingerprint != wrap(network, None).fingerprint, "what a result depends on"


def test_alpha_follows_the_region(view: View, regions: Regions, weight: torch.Tensor, tmp_path: Path) -> None:
    file = tmp_path / "alpha.safetensors"
    save_file({ALPHA: weight}, file)
    vectors = describe("alpha", view, regions, checkpoint=str(file)).vectors
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


class TestRefuses:
    def test_network_without_a_fourth_channel(self, view: View, regions: Regions) -> None:
        with pytest.raises(BadUsage, match=r"needs conv1_alpha.weight, and test came without: give checkpoint=FILE"):
            describe("alpha", view, regions)

    def test_checkpoint_without_it_by_name(self, view: View, regions: Regions, tmp_path: Path) -> None:
        assert view.clip is not None
        file = tmp_path / "plain.safetensors"
        save_file(as_published(view.clip.visual, None), file)
        with pytest.raises(BadWeights, match=r"needs conv1_alpha.weight: .*plain.safetensors has none"):
            describe("alpha", view, regions, checkpoint=str(file))

    def test_convolution_of_another_patch(self, view: View, regions: Regions, tmp_path: Path) -> None:
        file = tmp_path / "other.safetensors"
        save_file({ALPHA: torch.zeros(64, 1, 16, 16)}, file)
        with pytest.raises(BadWeights, match=r"is \[64, 1, 16, 16\] and the network needs \[64, 1, 8, 8\]"):
            describe("alpha", view, regions, checkpoint=str(file))

    def test_tower_of_another_architecture(
        self, view: View, regions: Regions, tmp_path: Path, weight: torch.Tensor
    ) -> None:
        file = tmp_path / "deeper.safetensors"
        deeper: Any = tiny.model(layers=4)
        save_file(as_published(deeper.visual, weight), file)
        with pytest.raises(BadWeights, match="is it of another architecture"):
            describe("alpha", view, regions, checkpoint=str(file))

    def test_family_without_that_entrance(self, regions: Regions) -> None:
        clip = replace(tiny.clip(), model=SimpleNamespace(visual=towers.resnet()))
        features = DenseFeatures(np.ones((20, 2, 3), np.float32), np.ones(20, np.float32), 48, 80)
        with pytest.raises(UnsupportedTower, match="encoder alpha cannot read this ModifiedResNet"):
            describe("alpha", View(clip, tiny.picture(), features), regions)
