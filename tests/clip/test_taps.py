"""Taps are what entered the blocks, where it was; nothing in the dense features changes by keeping them."""

import numpy as np
import pytest
import torch

from ovseg.clip import dense, tower
from ovseg.clip.families import find
from ovseg.clip.load import Clip
from ovseg.clip.taps import WHOLE, Tapped, Taps, look, shares
from ovseg.clip.windows import Reading, normalised
from ovseg.masks import cell_fractions
from ovseg.types import Regions
from tests import tiny


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


def some_masks() -> np.ndarray:
    """A blob, one pixel in a corner, nothing, the frame, a scatter: 5 x 53 x 83."""
    masks = np.zeros((5, 53, 83), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 52, 82] = True
    masks[3] = True
    masks[4] = np.random.default_rng(3).random((53, 83)) < 0.1
    return masks


def window(grid: tuple[int, int], place: tuple[float, float, float, float] = WHOLE) -> Tapped:
    return Tapped({}, grid, place)


def test_look_keeps_what_enters_the_blocks_of_the_whole_picture(clip: Clip) -> None:
    picture = tiny.picture()
    (seen,) = look(clip, picture, (6, 10), (1, 3)).windows
    taps = tower.prefix(find(clip.visual), normalised(clip, picture)[None], (1, 3))
    assert seen.grid == (6, 10) and seen.place == WHOLE and list(seen.tokens) == [1, 3]
    for number in (1, 3):
        torch.testing.assert_close(taps[number][0], seen.tokens[number], atol=1e-5, rtol=0)


@pytest.mark.parametrize("reading", [Reading(short_side=48), Reading(short_side=48, crop=32, scales=(0.7, 1.0))])
def test_features_are_the_same_with_and_without_taps(clip: Clip, reading: Reading) -> None:
    pictures = [tiny.picture(48, 80), tiny.picture(64, 48)]
    for alone, (features, _) in zip(
        dense.encode(clip, pictures, reading), dense.encode_tapped(clip, pictures, reading, (2,)), strict=True
    ):
        assert (alone.vectors == features.vectors).all() and (alone.whole == features.whole).all()


def test_windows_of_a_wide_picture_cover_it_and_hold_what_their_own_pass_gives(clip: Clip) -> None:
    picture = tiny.picture(48, 112)
    ((_, taps), (_, other)) = dense.encode_tapped(clip, [picture, tiny.picture(64, 48)], Reading(short_side=48), (2, 3))
    assert [one.place for one in taps.windows] == [(0.0, at / 112, 1.0, (at + 48) / 112) for at in (0, 24, 48, 64)]
    assert len(other.windows) == 2 and all(one.grid == (6, 6) for one in (*taps.windows, *other.windows))
    for one in taps.windows:
        left = round(one.place[1] * 112)
        (alone,) = look(clip, picture[:, left : left + 48], (6, 6), (2, 3)).windows
        for number in (2, 3):
            torch.testing.assert_close(alone.tokens[number], one.tokens[number], atol=1e-5, rtol=0)


def test_several_scales_follow_one_another_and_memory_is_that_of_the_tokens(clip: Clip) -> None:
    reading = Reading(short_side=48, crop=-1, scales=(0.5, 1.0))
    ((_, taps),) = dense.encode_tapped(clip, [tiny.picture()], reading, (3,))
    assert [one.grid for one in taps.windows] == [(3, 5), (6, 10)]
    assert taps.nbytes == (1 + 15 + 1 + 60) * 64 * 4
    assert Taps(taps.windows[:1]) + Taps(taps.windows[1:]) is not taps
    assert (Taps(taps.windows[:1]) + Taps(taps.windows[1:])).nbytes == taps.nbytes


def test_methods_with_two_passes_keep_the_taps_of_one(clip: Clip) -> None:
    readings = [Reading(method, protocol="paper", short_side=48) for method in ("clearclip", "sclip")]
    _, taps = dense._encode(clip, [tiny.picture()], readings, (2,), None, None, None)
    ((_, alone),) = dense.encode_tapped(clip, [tiny.picture()], readings[0], (2,))
    assert len(taps) == 1 and len(taps[0].windows) == len(alone.windows)


def test_a_bfloat16_prefix_gives_float32_taps_near_the_exact_ones(clip: Clip) -> None:
    ((_, exact),) = dense.encode_tapped(clip, [tiny.picture()], Reading(short_side=48), (2, 3))
    ((_, half),) = dense.encode_tapped(clip, [tiny.picture()], Reading(short_side=48, precision="bfloat16"), (2, 3))
    for one, other in zip(exact.windows, half.windows, strict=True):
        assert other.tokens[3].dtype == torch.float32
        apart = (one.tokens[3] - other.tokens[3]).abs().max() / one.tokens[3].abs().max()
        assert 0 < apart < 0.05


class TestShares:
    def test_of_the_whole_picture_are_cell_fractions(self) -> None:
        regions = Regions.from_masks(some_masks())
        (found,) = shares(regions, [window((6, 10))])
        np.testing.assert_allclose(cell_fractions(regions, 6, 10), found, atol=1e-6)

    def test_of_a_window_are_those_of_its_part_of_the_picture(self) -> None:
        masks = some_masks()
        place = (13 / 53, 40 / 83, 43 / 53, 1.0)
        found = shares(Regions.from_masks(masks), [window((5, 4), place), window((3, 2))])
        part = cell_fractions(Regions.from_masks(masks[:, 13:43, 40:]), 5, 4)
        np.testing.assert_allclose(part, found[0], atol=1e-5)
        assert found[1].shape == (5, 3, 2) and found[1][1, -1, -1] > 0 and found[0][3].min() > 0.99999

    def test_times_the_area_of_cells_is_the_area_of_the_mask(self) -> None:
        masks = some_masks()
        halves = [window((4, 3), (0.0, 0.0, 1.0, 0.37)), window((5, 6), (0.0, 0.37, 1.0, 1.0))]
        found = shares(Regions.from_masks(masks), halves)
        total = sum(share.sum(axis=(1, 2)) * half.cell_area for share, half in zip(found, halves, strict=True))
        np.testing.assert_allclose(masks.mean(axis=(1, 2)), total, atol=1e-6)

    def test_no_regions_and_no_windows(self) -> None:
        assert shares(Regions.empty(53, 83), [window((6, 10))])[0].shape == (0, 6, 10)
        assert shares(Regions.from_masks(some_masks()), []) == []
