"""Masked crops: nothing outside the mask matters, and learned tokens stand for blank patches, as in OVSeg."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ovseg import images, weights
from ovseg.clip import load
from ovseg.clip.dense import encode_images
from ovseg.clip.load import Clip, wrap
from ovseg.clip.windows import normalised
from ovseg.encoders import View, describe
from ovseg.encoders.crops import mean_colour
from ovseg.encoders.masked import PROMPTS, blanked, nearest
from ovseg.errors import BadUsage, BadWeights, UnsupportedTower
from ovseg.types import DenseFeatures, Regions
from tests import tiny
from tests.clip.families import towers


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture
def prompts() -> torch.Tensor:
    return torch.randn(2, 36, 64, generator=torch.Generator().manual_seed(2))


def view_of(clip: Clip | None, image: np.ndarray) -> View:
    height, width = image.shape[:2]
    return View(clip, image, DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), height, width))


def wedge(height: int = 48, width: int = 80) -> np.ndarray:
    """Half a box, so that patches of it are blank."""
    rows, cols = np.mgrid[:height, :width]
    return (rows >= 8) & (rows < 32) & (cols >= 30) & (cols - 30 < 1.2 * (rows - 8))


def by_hand(
    clip: Clip, view: np.ndarray, kept: Mapping[int, list[int]] | np.ndarray, prompts: torch.Tensor
) -> np.ndarray:
    """OVSeg's order of steps on open_clip's modules, one picture, one block after the other."""
    tower: Any = clip.visual
    seen = torch.as_tensor(np.asarray(kept), dtype=torch.float32).reshape(1, 36, 1)
    with torch.inference_mode():
        tokens = tower.conv1(normalised(clip, view)[None]).flatten(2).mT
        tokens = tokens * seen + prompts[0] * (1 - seen)
        tokens = torch.cat([tower.class_embedding.expand(1, 1, -1), tokens], 1) + tower.positional_embedding
        tokens = tower.ln_pre(tokens)
        for number, block in enumerate(tower.transformer.resblocks, 1):
            tokens = block(tokens)
            if number < len(prompts):
                tokens[:, 1:] = tokens[:, 1:] * seen + prompts[number] * (1 - seen)
        return F.normalize(tower.ln_post(tokens[:, 0]) @ tower.proj, dim=-1).numpy()[0]


def test_full_mask_is_plain_preprocessing(clip: Clip) -> None:
    image = tiny.picture()
    vectors = describe("masked-crop", view_of(clip, image), Regions.from_masks(np.ones((1, 48, 80), bool))).vectors
    assert (encode_images(clip, [image]) == vectors).all()


@pytest.mark.parametrize("shape", ["pad", "squeeze"])
def test_pixels_outside_the_mask_change_nothing_at_all(clip: Clip, shape: str) -> None:
    image, regions = tiny.picture(), Regions.from_masks(wedge()[None])
    other = np.where(wedge()[..., None], image, np.random.default_rng(0).integers(0, 256, image.shape, np.uint8))
    options = {"shape": shape, "expand": 1.5}
    one = describe("masked-crop", view_of(clip, image), regions, **options).vectors
    assert (one == describe("masked-crop", view_of(clip, other), regions, **options).vectors).all()
    assert np.abs(one - describe("crop", view_of(clip, other), regions, **options).vectors).max() > 1e-3


def test_box_is_tight_and_blank_is_the_mean_colour(clip: Clip) -> None:
    image, mask = tiny.picture(), np.zeros((48, 80), bool)
    mask[10, 20:46] = mask[10:20, 20] = True  # an L in a box of 10 x 26
    ((part, inside),) = blanked(image, Regions.from_masks(mask[None]), 1.0, mean_colour(clip))
    assert part.shape == (10, 26, 3) and (inside == mask[10:20, 20:46]).all()
    assert (part[inside] == image[10:20, 20:46][inside]).all() and (part[~inside] == mean_colour(clip)).all()


def test_nearest_is_torchs() -> None:
    mask = np.random.default_rng(1).random((7, 11)) < 0.5
    expected = F.interpolate(torch.from_numpy(mask)[None, None].float(), (48, 56), mode="nearest")[0, 0].numpy() > 0
    assert (nearest(mask, "squeeze", 48, 56) == expected).all()
    assert nearest(np.ones((10, 26), bool), "pad", 52, 52).sum() == 20 * 52, "what is padded is blank"


class TestPrompts:
    def test_equal_ovsegs_order_of_steps(self, clip: Clip, prompts: torch.Tensor, tmp_path: Path) -> None:
        file = tmp_path / "ovseg clip.safetensors"
        save_file({f"clip_model.visual.{PROMPTS}": prompts}, file)
        image, regions = tiny.picture(), Regions.from_masks(wedge()[None])
        ((part, inside),) = blanked(image, regions, 1.0, mean_colour(clip))
        small = nearest(inside, "squeeze", 48, 48).reshape(6, 8, 6, 8).any(axis=(1, 3))  # a patch with any pixel
        assert 0 < small.sum() < 36
        expected = by_hand(clip, images.resize(part, 48, 48), small, prompts)
        vectors = describe("masked-crop", view_of(clip, image), regions, checkpoint=str(file)).vectors
        np.testing.assert_allclose(expected, vectors[0], atol=1e-5)
        one = describe("masked-crop", view_of(clip, image), regions, checkpoint=str(file), depth=1).vectors
        np.testing.assert_allclose(by_hand(clip, images.resize(part, 48, 48), small, prompts[:1]), one[0], atol=1e-5)
        assert np.abs(one - vectors).max() > 1e-3

    def test_full_foreground_leaves_them_alone_and_depth_0_takes_none(self, clip: Clip, prompts: torch.Tensor) -> None:
        learned = replace(clip, parts={PROMPTS: prompts})
        image, full = tiny.picture(), Regions.from_masks(np.ones((1, 48, 80), bool))
        plain = describe("masked-crop", view_of(clip, image), full).vectors
        np.testing.assert_allclose(plain, describe("masked-crop", view_of(learned, image), full).vectors, atol=1e-5)
        some = Regions.from_masks(wedge()[None])
        plain = describe("masked-crop", view_of(clip, image), some).vectors
        assert (plain == describe("masked-crop", view_of(learned, image), some, depth=0).vectors).all()
        assert np.abs(plain - describe("masked-crop", view_of(learned, image), some).vectors).max() > 1e-3

    def test_come_with_the_network_from_a_checkpoint_of_ovsegs(self, prompts: torch.Tensor, tmp_path: Path) -> None:
        """The whole file as detectron2 saves it: the adapted CLIP under a prefix, a proposer beside it."""
        network: Any = tiny.model()
        state = {f"clip_adapter.clip_model.{key}": value.clone() for key, value in network.state_dict().items()}
        state["clip_adapter.clip_model.visual.mask_embedding"] = prompts
        state |= {"backbone.norm0.weight": torch.zeros(3), "clip_adapter.non_object_embedding": torch.zeros(1, 32)}
        config = {
            "embed_dim": tiny.DIM,
            "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 48},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
            "quick_gelu": True,
        }
        save_file(state, tmp_path / "ovseg.safetensors", {"model_cfg": json.dumps(config)})
        opened = load.load(str(tmp_path / "ovseg.safetensors"))
        image, some = tiny.picture(), Regions.from_masks(wedge()[None])
        expected = replace(wrap(network, None), parts={PROMPTS: prompts})
        assert (
            describe("masked-crop", view_of(opened, image), some).vectors
            == describe("masked-crop", view_of(expected, image), some).vectors
        ).all()

    def test_one_token_serves_all_patches(self, clip: Clip, prompts: torch.Tensor) -> None:
        image, some = tiny.picture(), Regions.from_masks(wedge()[None])
        one = replace(clip, parts={PROMPTS: prompts[:, :1]})
        same = replace(clip, parts={PROMPTS: prompts[:, :1].expand(2, 36, 64)})
        np.testing.assert_allclose(
            describe("masked-crop", view_of(one, image), some).vectors,
            describe("masked-crop", view_of(same, image), some).vectors,
            atol=1e-6,
        )

    def test_file_is_read_once_for_many_pictures(
        self, clip: Clip, prompts: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, some, opened = tmp_path / "ovseg clip.safetensors", Regions.from_masks(wedge()[None]), []
        save_file({PROMPTS: prompts}, file)
        read = weights.read_state
        monkeypatch.setattr(weights, "read_state", lambda path, **options: opened.append(path) or read(path, **options))
        for seed in range(3):
            describe("masked-crop", view_of(clip, tiny.picture(seed=seed)), some, checkpoint=str(file))
        assert opened == [file]
        save_file({PROMPTS: prompts[:1] + 1}, file)  # another file under the same name
        changed = describe("masked-crop", view_of(clip, tiny.picture()), some, checkpoint=str(file)).vectors
        anew = describe("masked-crop", view_of(replace(clip, parts={PROMPTS: prompts[:1] + 1}), tiny.picture()), some)
        np.testing.assert_allclose(changed, anew.vectors, atol=1e-6)
        assert len(opened) == 2

    def test_what_does_not_fit_is_refused(self, clip: Clip, prompts: torch.Tensor, tmp_path: Path) -> None:
        some, image = Regions.from_masks(wedge()[None]), tiny.picture()
        file = tmp_path / "plain.safetensors"
        save_file({"visual.proj": torch.zeros(2)}, file)
        with pytest.raises(BadWeights, match="has 0 mask_embedding, not 1"):
            describe("masked-crop", view_of(clip, image), some, checkpoint=str(file))
        with pytest.raises(BadUsage, match="no learned tokens to take 3 of"):
            describe("masked-crop", view_of(clip, image), some, depth=3)
        learned = replace(clip, parts={PROMPTS: prompts})
        with pytest.raises(BadUsage, match="depth goes from 0 to the 2 blocks"):
            describe("masked-crop", view_of(learned, image), some, depth=3)
        flat = replace(clip, parts={PROMPTS: prompts[0]})
        with pytest.raises(BadWeights, match=r"\(depth, patches or 1, width\): \[36, 64\] came"):
            describe("masked-crop", view_of(flat, image), some)
        wrong = replace(clip, parts={PROMPTS: prompts[:, :7]})
        with pytest.raises(BadWeights, match=r"\[2, 7, 64\] came, 36 patches \(or 1\) of width 64 are needed"):
            describe("masked-crop", view_of(wrong, image), some)
        other = replace(clip, model=SimpleNamespace(visual=towers.eva02()), parts={PROMPTS: prompts})
        with pytest.raises(UnsupportedTower, match="mask prompts cannot enter this TimmModel/Eva"):
            describe("masked-crop", view_of(other, image), some)
