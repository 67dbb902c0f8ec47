"""Guided methods from pixels to features: each window with the guide's own map of it, joined on the guide's grid."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from ovseg.clip import dense, tower
from ovseg.clip.dense import Reading, encode, guide_map
from ovseg.clip.guides import Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.errors import BadUsage
from tests.clip.guides.networks import guide, vit

WIDE, TALL = tiny.picture(48, 80), tiny.picture(91, 50, seed=1)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture(scope="module")
def fine() -> Guide:
    """Twice as many cells a side as the tower, as DINO's ViT-B/8 has beside CLIP's ViT-B/16."""
    return guide(vit(patch_size=4, img_size=24))


def slow(clip: Clip, window: torch.Tensor, one: Guide) -> torch.Tensor:
    """Unit cells of a window (1, rows, cols, dim), step by step."""
    seen = one.features(window, mean=clip.mean, std=clip.std)
    return torch.nn.functional.normalize(tower.dense_tokens(clip.visual, window, "proxyclip", guide=seen), dim=-1)[0]


def test_one_whole_window_is_the_towers_answer_to_the_guides_map(clip: Clip, fine: Guide) -> None:
    (got,) = encode(clip, [WIDE], Reading("proxyclip", short_side=48, crop=-1), guide=fine)
    wanted = slow(clip, dense.normalised(clip, WIDE)[None], fine)
    assert got.grid == (12, 20) and got.cell == (4.0, 4.0)
    np.testing.assert_allclose(got.vectors, wanted.permute(2, 0, 1), atol=1e-5)
    (plain,) = encode(clip, [WIDE], Reading("clearclip", short_side=48, crop=-1))
    np.testing.assert_allclose(got.whole, plain.whole, atol=1e-6)  # the tower's own vector knows no guide


def test_windows_are_averaged_on_the_guides_grid(clip: Clip, fine: Guide) -> None:
    """64 x 104 px: windows of 48 at rows 0, 16 and columns 0, 24, 48, 56; cells of 4 px; the slow way."""
    picture = tiny.picture(64, 104, seed=3)
    (got,) = encode(clip, [picture], Reading("proxyclip", short_side=64), guide=fine)
    pixels = dense.normalised(clip, picture)
    total = torch.zeros(16, 26, tiny.DIM)
    for top in (0, 16):
        for left in (0, 24, 48, 56):
            window = pixels[None, :, top : top + 48, left : left + 48]
            total[top // 4 : top // 4 + 12, left // 4 : left // 4 + 12] += slow(clip, window, fine)
    wanted = torch.nn.functional.normalize(total, dim=-1).permute(2, 0, 1)
    np.testing.assert_allclose(got.vectors, wanted, atol=1e-5)


def test_a_grid_that_does_not_lie_on_the_towers_is_joined_all_the_same(clip: Clip) -> None:
    """DINOv2's patch of 14 px beside one of 8: windows of 48 px have 3 x 3 cells."""
    coarse = guide(vit("dinov2 with registers"))
    (got,) = encode(clip, [TALL], Reading("proxyclip", short_side=48), guide=coarse)
    assert got.grid == (6, 3) and (got.height, got.width) == (91, 50)
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("protocol", dense.PROTOCOLS)
def test_answer_does_not_depend_on_the_batch(
    clip: Clip, fine: Guide, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading("proxyclip", protocol=protocol, short_side=56)
    together = encode(clip, [WIDE, TALL], reading, guide=fine)
    seen = []
    monkeypatch.setattr(dense, "TOKENS_PER_BATCH", 2 * 12 * 12)  # two windows of the guide's 144 cells
    monkeypatch.setattr(Guide, "features", watched(seen))
    for picture, wanted in zip([WIDE, TALL], together, strict=True):
        (alone,) = encode(clip, [picture], reading, guide=fine)
        np.testing.assert_allclose(alone.vectors, wanted.vectors, atol=1e-5)
        if protocol == "paper":
            assert alone.windows is not None and alone.windows.vectors.shape[2:] == (12, 12)
    assert max(seen) == 2


def watched(seen: list[int]) -> Any:
    """`Guide.features`, telling how many windows come at a time."""
    real = Guide.features

    def features(self: Guide, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(len(pixels))
        return real(self, pixels, **options)

    return features


def test_scales_meet_on_the_finest_grid(clip: Clip, fine: Guide) -> None:
    (got,) = encode(clip, [WIDE], Reading("proxyclip", short_side=48, crop=-1, scales=(0.5, 1.0)), guide=fine)
    assert got.grid == (12, 20)


def test_a_guided_method_needs_a_guide_and_others_never_ask_one(clip: Clip) -> None:
    with pytest.raises(BadUsage, match="takes its attention from another network: give a guide .*dino-b16"):
        encode(clip, [WIDE], Reading("proxyclip", short_side=48))

    @dataclass(frozen=True, eq=False)
    class Silent(Guide):
        def features(self, *pixels: Any, **moments: Any) -> Any:
            raise AssertionError("nobody asks")

    silent = Silent("own", guide(vit()).row, vit())
    (got,) = encode(clip, [WIDE], Reading("naclip", short_side=48), guide=silent)
    (wanted,) = encode(clip, [WIDE], Reading("naclip", short_side=48))
    assert np.array_equal(got.vectors, wanted.vectors)


def test_the_tower_may_guide_itself(clip: Clip) -> None:
    (got,) = encode(clip, [WIDE], Reading("proxyclip", short_side=48, crop=-1), guide=load_guide("self", clip=clip))
    assert got.grid == (6, 10) and np.isfinite(got.vectors).all()


def test_the_map_for_the_stages_is_of_the_whole_picture(fine: Guide) -> None:
    """At the size that the picture is read at, 56 px on its short side: 56 x 93 px are 14 x 23 cells."""
    reading = Reading(short_side=28, scales=(1.0, 2.0))
    found = guide_map(fine, WIDE, reading)
    assert found.shape == (48, 14, 23) and found.dtype == np.float32
    flat = np.full((48, 80, 3), (124, 116, 104), np.uint8)
    assert np.abs(guide_map(fine, flat, reading) - found).max() > 0.1
    assert np.array_equal(guide_map(replace(fine, name="again"), WIDE, reading), found)
