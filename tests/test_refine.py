"""PAMR against the formula, pixel by pixel; what it must leave alone; bands with their margin."""

import math

import numpy as np
import pytest

from ovseg.errors import BadInput, BadUsage
from ovseg.refine import affinity, neighbours, pamr, reach
from tests.tiny import picture


def slow_pamr(image: np.ndarray, maps: np.ndarray, steps: int, dilations: tuple[int, ...]) -> np.ndarray:
    """The formula by hand in doubles: one pixel, one channel, one neighbour at a time."""
    height, width, channels = image.shape
    signs = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]

    def place(row: int, col: int) -> tuple[int, int]:
        return min(max(row, 0), height - 1), min(max(col, 0), width - 1)

    weights = {}
    for row in range(height):
        for col in range(width):
            exponents = []
            for channel in range(channels):
                every = [
                    float(image[place(row + far * down, col + far * right)][channel])
                    for far in dilations
                    for down, right in signs
                ]
                mean = sum(every) / len(every)
                deviation = math.sqrt(sum((value - mean) ** 2 for value in every) / (len(every) - 1))
                centre = float(image[row, col][channel])
                exponents.append(
                    [
                        -abs(centre - float(image[place(row + far * down, col + far * right)][channel]))
                        / (1e-8 + 0.1 * deviation)
                        for far in dilations
                        for down, right in signs
                        if down or right
                    ]
                )
            each = [math.exp(sum(column) / channels) for column in zip(*exponents, strict=True)]
            weights[row, col] = [value / sum(each) for value in each]
    offsets = [(far * d, far * r) for far in dilations for d, r in signs if d or r]
    now = maps.astype(float)
    for _ in range(steps):
        then = np.zeros_like(now)
        for (row, col), shares in weights.items():
            for share, (down, right) in zip(shares, offsets, strict=True):
                then[:, row, col] += share * now[(slice(None), *place(row + down, col + right))]
        now = then
    return now


@pytest.mark.parametrize(("steps", "dilations"), [(1, (1,)), (3, (2, 5)), (2, (8, 16)), (0, (1, 2))])
def test_refining_equals_the_formula(steps: int, dilations: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image[:4, :6] = 90  # a flat patch: deviation 0 for the nearest
    maps = rng.normal(0, 3, (4, 9, 13)).astype(np.float32)
    before = maps.copy()
    np.testing.assert_allclose(slow_pamr(image, maps, steps, dilations), pamr(image, maps, steps, dilations), atol=1e-5)
    assert (before == maps).all()


def test_flat_maps_stay_and_a_flat_picture_takes_plain_means() -> None:
    maps = np.random.default_rng(2).normal(size=(2, 48, 80)).astype(np.float32)
    maps[1] = 0.7
    np.testing.assert_allclose(0.7, pamr(picture(), maps)[1], atol=1e-5)
    flat = np.full((48, 80, 3), 17, np.uint8)
    padded = np.pad(maps[0], 3, mode="edge")
    around = [padded[3 + down : 51 + down, 3 + right : 83 + right] for down, right in neighbours((3,))]
    np.testing.assert_allclose(np.mean(around, axis=0), pamr(flat, maps, 1, (3,))[0], atol=1e-6)


def test_a_score_stays_on_its_side_of_an_edge() -> None:
    image = np.zeros((48, 80, 3), np.uint8)
    image[:, 40:] = 255
    maps = np.zeros((1, 48, 80), np.float32)
    maps[0, :, 44:] = 1  # drawn four pixels late
    refined = pamr(image, maps, 10, (2, 4))[0]
    assert refined[:, :40].max() < 1e-3 and 0.25 < refined[:, 40:44].min()


def test_offset_and_scale_of_a_channel_cancel() -> None:
    """So that the picture as read serves as well as the normalised one that the papers' programs look at."""
    image = picture(48, 80, seed=3)
    normalised = (image - np.array([122.771, 116.746, 104.094])) / np.array([68.501, 66.632, 70.323])
    np.testing.assert_allclose(affinity(normalised), affinity(image), atol=2e-5)


def test_a_band_with_its_margin_equals_the_whole() -> None:
    image, maps = picture(120, 50), np.random.default_rng(3).normal(size=(2, 120, 50)).astype(np.float32)
    steps, dilations = 3, (2, 7)
    margin = reach(steps, dilations)
    assert 21 == margin
    whole = pamr(image, maps, steps, dilations)
    band = slice(50 - margin, 70 + margin)
    np.testing.assert_array_equal(
        whole[:, 50:70], pamr(image[band], maps[:, band], steps, dilations)[:, margin:-margin]
    )
    short = slice(50 - margin + 2, 70 + margin - 2)
    lacking = pamr(image[short], maps[:, short], steps, dilations)[:, margin - 2 : 2 - margin]
    assert (whole[:, 50:70] != lacking).any()  # two pixels of margin less is too little


def test_transposing_the_picture_transposes_the_answer() -> None:
    image, maps = picture(), np.random.default_rng(4).normal(size=(2, 48, 80)).astype(np.float32)
    turned = pamr(np.ascontiguousarray(image.transpose(1, 0, 2)), np.ascontiguousarray(maps.transpose(0, 2, 1)))
    np.testing.assert_allclose(pamr(image, maps), turned.transpose(0, 2, 1), atol=1e-5)


def test_no_map_and_one_pixel_are_answers() -> None:
    assert (0, 48, 80) == pamr(picture(), np.zeros((0, 48, 80), np.float32)).shape
    np.testing.assert_allclose([[[0.25]]], pamr(np.full((1, 1, 3), 9, np.uint8), np.full((1, 1, 1), 0.25, np.float32)))


def test_maps_of_another_frame_and_impossible_settings_are_refused() -> None:
    maps = np.zeros((1, 48, 80), np.float32)
    with pytest.raises(BadInput, match=r"they are 48x80, the picture is 80x48 \(rows x cols\). Swapped axes\?"):
        pamr(picture(80, 48), maps)
    with pytest.raises(BadUsage, match="0 or more steps: got -1"):
        pamr(picture(), maps, -1)
    for bad in ((), (0, 8)):
        with pytest.raises(BadUsage, match="dilations of 1 px or more"):
            pamr(picture(), maps, 1, bad)
