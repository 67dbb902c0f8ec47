"""Run lengths by the hundred; the rest of raster is tested through the nouns, in test_types."""

from typing import Any

import numpy as np
import pytest

from ovseg.masks import iom, iou
from ovseg.raster import areas, checked_rle, decode_rle, encode_rle, rles_of, split, touching
from ovseg.types import Regions


def test_three_hundred_regions_have_areas_and_overlaps() -> None:
    """pycocotools 2.0.11 overflows on a list of more than 255 masks under numpy 2."""
    owners = np.arange(20 * 15).repeat(2).reshape(20, 30)
    rles = list(rles_of(owners, 300))
    assert areas(rles).tolist() == [2] * 300
    assert np.array_equal(decode_rle(rles[16]), owners == 16)
    regions = Regions(20, 30, tuple(rles), np.ones(300, np.float32))
    assert regions.area.sum() == 600 and regions.boxes.shape == (300, 4)
    assert np.array_equal(iou(rles, rles), np.eye(300)) and np.array_equal(iom(rles, rles), np.eye(300))


def test_no_region_at_all() -> None:
    assert areas([]).shape == (0,) and list(rles_of(np.full((3, 5), -1), 0)) == []


def test_run_lengths_of_all_regions_are_those_that_pycocotools_writes() -> None:
    rng = np.random.default_rng(0)
    for height, width, count in ((48, 80, 7), (1, 5, 2), (5, 1, 3), (700, 900, 4), (2, 3, 9)):
        owners = rng.integers(-1, count, (height, width)).astype(np.int32)
        owners[: height // 2] = np.where(rng.random((height // 2, 1)) < 0.5, 0, owners[: height // 2])  # long runs
        assert [encode_rle(owners == region) for region in range(count)] == list(rles_of(owners, count))
    whole = np.zeros((3, 5), np.int32)
    assert [encode_rle(whole == 0), encode_rle(whole == 1)] == list(rles_of(whole, 2))  # the second is empty
    corner = np.full((3000, 4000), -1, np.int32)
    corner[-1, -1] = 0
    assert [encode_rle(corner == 0)] == list(rles_of(corner, 1))


@pytest.mark.parametrize("form", ["text", "list"])
def test_run_lengths_of_a_file_are_taken_as_they_are(form: str) -> None:
    rng = np.random.default_rng(8)
    for height, width in ((1, 1), (7, 1), (48, 80), (300, 401)):
        for mask in (
            rng.random((height, width)) > 0.7,
            np.zeros((height, width), bool),
            np.ones((height, width), bool),
        ):
            text = encode_rle(mask)
            flat = np.concatenate([[False], mask.ravel(order="F")])
            runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()
            assert sum(runs) == mask.size
            given = text if form == "text" else {"size": [height, width], "counts": runs if runs[-1] else runs[:-1]}
            assert checked_rle(given) == text


@pytest.mark.parametrize(
    "counts",
    ["5", "", "abc", "06`", "06\xe9", "06 ", "60" + "P" * 9 + "0", [3, 4], [5, -1, 2], [5.5, 0.5], []],
)
def test_counts_that_do_not_make_up_the_size_are_refused(counts: Any) -> None:
    with pytest.raises(ValueError):
        checked_rle({"size": [2, 3], "counts": counts})
    assert checked_rle({"size": [2, 3], "counts": [0, 6]}) == checked_rle({"size": [2, 3], "counts": "06"})


@pytest.mark.parametrize("size", [[-2, -3], [6], [2, 3, 1], [2.5, 2.4]])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ValueError):
        checked_rle({"size": size, "counts": "06"})


def slow_touching(owners: np.ndarray) -> dict[tuple[int, int], int]:
    """Every pixel with the four neighbours that come after it in reading order."""
    height, width = owners.shape
    places: dict[tuple[int, int], int] = {}
    for row, col in np.ndindex(height, width):
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if row + down < height and 0 <= col + right < width:
                pair = sorted((int(owners[row, col]), int(owners[row + down, col + right])))
                if 0 <= pair[0] < pair[1]:
                    places[pair[0], pair[1]] = places.get((pair[0], pair[1]), 0) + 1
    return places


@pytest.mark.parametrize("shape", [(8, 11), (1, 9), (9, 1), (1, 1)])
def test_pairs_that_touch_equal_those_met_pixel_by_pixel(shape: tuple[int, int]) -> None:
    owners = np.random.default_rng(2).integers(-1, 6, shape).astype(np.int32)
    low, high, places = touching(owners)
    assert slow_touching(owners) == dict(
        zip(zip(low.tolist(), high.tolist(), strict=True), places.tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_touches_a_proposal_of_its_label_belongs_to_the_one_it_touches_most(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, (8, 11), np.int16).repeat(2, axis=0).repeat(2, axis=1)
    parts = rng.integers(-4, 5, (4, 11)).clip(-1).repeat(4, axis=0).repeat(2, axis=1).astype(np.int32)
    free = np.where(parts >= 0, np.int16(-1), labels)
    pieces, of_pieces = split(free, None, 2)
    owned, of_owned = split(np.where(parts >= 0, labels, np.int16(-1)), parts, 2)
    places = slow_touching(np.where(pieces >= 0, pieces + len(of_owned), owned))
    expected, count, joined = owned.copy(), len(of_owned), 0
    for piece, label in enumerate(of_pieces.tolist()):
        near = [(n, low) for (low, high), n in places.items() if high == piece + len(of_owned) and low < len(of_owned)]
        near = [(-n, int(np.flatnonzero(owned == low)[0]), low) for n, low in near if of_owned[low] == label]
        joined += bool(near)
        expected[pieces == piece] = min(near)[2] if near else count
        count += not near
    owners, kinds = split(labels, parts, 2)
    assert (expected == owners).all() and count == len(kinds) and joined > 3
    assert (kinds[owners[labels >= 0]] == labels[labels >= 0]).all()
    order = rng.permutation(5)  # the order of proposals moves numbers alone
    shuffled, _ = split(labels, np.append(order, -1).astype(np.int32)[parts], 2)
    same = [set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)) for one, other in [(owners, shuffled)]]
    assert len(same[0]) == len(np.unique(owners)) == len(np.unique(shuffled))
