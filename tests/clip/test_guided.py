"""Trident and CorrCLIP from bytes to features: the plug-ins' answers, on windows and grids laid out right."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from ovseg.clip import dense, guided, tower
from ovseg.clip.dense import Reading
from ovseg.clip.guides import Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.clip.plugins import corrclip, trident
from ovseg.errors import BadInput, BadUsage
from tests.clip.guides.networks import guide, vit
from tests.sam.narrow import narrow_sam

WIDE = tiny.picture(64, 104, seed=3)
PARTS = np.full((64, 104), -1, np.int32)
PARTS[:, :50], PARTS[20:60, 60:] = 0, 1


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture(scope="module")
def fine() -> Guide:
    return guide(vit(patch_size=4, img_size=24))


@pytest.fixture(scope="module")
def sam() -> Guide:
    return load_guide("sam", sam=narrow_sam())


def seen(one: Guide, clip: Clip, pixels: torch.Tensor) -> torch.Tensor:
    return one.features(pixels, mean=clip.mean, std=clip.std)


def windows_of(pixels: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """48 px windows of 64 x 104 px by hand: rows 0, 16; columns 0, 24, 48, 56."""
    corners = [(top, left) for top in (0, 16) for left in (0, 24, 48, 56)]
    return torch.stack([pixels[:, top : top + 48, left : left + 48] for top, left in corners]), corners


def test_trident_joins_its_windows_and_answers_on_sams_grid(clip: Clip, fine: Guide, sam: Guide) -> None:
    got = guided.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=sam)
    windows, corners = windows_of(dense.normalised(clip, WIDE))
    attention, values = sam.last_attention(torch.from_numpy(WIDE).permute(2, 0, 1)[None])
    places = [(top // 8, left // 8, top // 8 + 6, left // 8 + 6) for top, left in corners]
    walk = tower.check(clip.visual, "proxyclip")
    wanted = trident.trident(walk, windows, seen(fine, clip, windows), places, attention[0], values[0])
    assert got.grid == (9, 16) and (got.height, got.width) == (64, 104)
    np.testing.assert_allclose(got.vectors, F.normalize(wanted, dim=-1).detach().permute(2, 0, 1), atol=1e-5)
    other = guided.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=sam, factor=0.0)
    assert np.abs(other.vectors - got.vectors).max() > 1e-3
    assert np.array_equal(got.whole, dense.encode_images(clip, [WIDE])[0])


def test_corrclip_is_read_by_windows_that_are_averaged_on_the_guides_grid(clip: Clip, fine: Guide) -> None:
    got = guided.corrclip(clip, WIDE, Reading(short_side=64), guide=fine, parts=PARTS)
    windows, corners = windows_of(dense.normalised(clip, WIDE))
    walk, total = tower.check(clip.visual, "proxyclip"), torch.zeros(16, 26, tiny.DIM)
    for window, (top, left) in zip(windows, corners, strict=True):
        region = torch.from_numpy(PARTS[top : top + 48, left : left + 48] + 1)[None]
        cells = corrclip.corrclip(walk, window[None], seen(fine, clip, window[None]), region)[0]
        total[top // 4 : top // 4 + 12, left // 4 : left // 4 + 12] += F.normalize(cells, dim=-1)
    assert got.grid == (16, 26)
    np.testing.assert_allclose(got.vectors, F.normalize(total, dim=-1).permute(2, 0, 1), atol=1e-5)


def test_regions_keep_their_place_when_the_picture_is_read_smaller(clip: Clip, fine: Guide) -> None:
    """Twice as large a picture with twice as large regions is the same question."""
    large = WIDE.repeat(2, axis=0).repeat(2, axis=1)
    parts = PARTS.repeat(2, axis=0).repeat(2, axis=1)
    got = guided.corrclip(clip, large, Reading(short_side=64, crop=-1), guide=fine, parts=parts)
    wanted = guided.corrclip(clip, WIDE, Reading(short_side=64, crop=-1), guide=fine, parts=PARTS)
    shuffled = guided.corrclip(clip, WIDE, Reading(short_side=64, crop=-1), guide=fine, parts=PARTS[::-1, ::-1].copy())
    near, far = (np.abs(one.vectors - wanted.vectors).mean() for one in (got, shuffled))
    assert near < far / 2 and (got.height, got.width) == (128, 208)


def test_a_picture_without_regions_is_read_all_the_same(clip: Clip, fine: Guide) -> None:
    none = np.full((64, 104), -1, np.int32)
    got = guided.corrclip(clip, WIDE, Reading(short_side=64), guide=fine, parts=none)
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=0), 1, atol=1e-5)


def test_what_cannot_be_laid_out_gets_a_sentence(clip: Clip, fine: Guide, sam: Guide) -> None:
    with pytest.raises(BadUsage, match="got paper"):
        guided.trident(clip, WIDE, Reading(protocol="paper"), guide=fine, sam=sam)
    with pytest.raises(BadUsage, match="one scale"):
        guided.corrclip(clip, WIDE, Reading(scales=(0.5, 1.0)), guide=fine, parts=PARTS)
    with pytest.raises(BadInput, match="parts must be of the picture: 104x64 and 64x104"):
        guided.corrclip(clip, WIDE, Reading(), guide=fine, parts=PARTS.T.copy())
    with pytest.raises(BadUsage, match="SAM's alone"):
        guided.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=fine)
