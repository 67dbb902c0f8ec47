import numpy as np
import pytest

from ovseg.sam.adaptive import LOOKED, RECALLS, REFUSED, explained, passes, under_large, within
from ovseg.sam.found import Found
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import Cut

GRID = np.stack(np.meshgrid(np.arange(8) * 10 + 5, np.arange(8) * 6 + 3), axis=-1).reshape(-1, 2)  # (x, y), 48x80 px


def box(left: int, top: int, right: int, bottom: int) -> Found:
    kept = Kept.of(Cut(np.ones((right - left, bottom - top), bool), left, top, 0, 0))
    return Found(kept, (left, top, right - 1, bottom - 1), 0.9, 0.95, (0.0, 0.0), (0, 0, 80, 48))


def inside(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    x, y = GRID.T
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


@pytest.mark.parametrize("side", [1, 3, 8, 32])
def test_every_point_has_one_pass_and_an_eighth_comes_in_the_first_two(side: int) -> None:
    turns = passes(side)
    assert sorted(np.concatenate(turns).tolist()) == list(range(side * side))
    if side % 4 == 0:
        assert [len(turn) * 16 // side**2 for turn in turns] == [1, 1, 2, 12]


def test_points_under_a_known_mask_are_skipped() -> None:
    mask, none = box(20, 12, 60, 36), np.zeros(64, np.int64)
    asked = ~inside(20, 12, 60, 36)  # what was asked elsewhere tells nothing
    asked[np.flatnonzero(inside(20, 12, 60, 36))[: LOOKED - 1]] = True
    assert not explained([mask], GRID, asked, none, RECALLS["objects"]).any()
    asked[np.flatnonzero(inside(20, 12, 60, 36))[LOOKED]] = True
    assert (explained([mask], GRID, asked, none, RECALLS["objects"]) == inside(20, 12, 60, 36)).all()


def test_parts_are_known_under_two_masks() -> None:
    two, asked = [box(20, 12, 60, 36), box(20, 12, 40, 36)], np.ones(64, bool)
    skip = explained(two, GRID, asked, np.full(64, 99), RECALLS["parts"])
    assert (skip == inside(20, 12, 40, 36)).all()


def test_a_ground_that_was_refused_often_is_skipped_where_nothing_was_accepted() -> None:
    refused = np.where(np.arange(64) < 32, REFUSED, REFUSED - 1)
    mask, asked = box(0, 0, 20, 48), np.zeros(64, bool)  # accepted, but not known: nobody was asked in it
    skip = explained([mask], GRID, asked, refused, RECALLS["objects"])
    assert (skip == ((np.arange(64) < 32) & ~inside(0, 0, 20, 48))).all()


def test_within_is_what_the_mask_says() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((48, 80)) < 0.5
    kept = Kept.of(Cut(np.ascontiguousarray(mask[5:40, 7:70].T), 7, 5, 0, 0))
    shown = np.zeros_like(mask)
    shown[5:40, 7:70] = mask[5:40, 7:70]
    assert within(kept, GRID).tolist() == np.flatnonzero(shown[GRID[:, 1], GRID[:, 0]]).tolist()


def test_only_large_masks_speak_for_a_ground_and_padding_is_not_counted() -> None:
    logits = np.full((2, 16, 20), -1.0, np.float32)
    logits[0, :4, :2] = 1  # 8 of the 100 cells that hold picture
    logits[1, 2:4, 4:6] = 1  # 4 of them
    logits[1, 10:] = 1  # and padding
    cells = np.array([[0, 0], [3, 1], [3, 4], [9, 9]])
    assert under_large(logits, 0.0, (10, 10), cells).tolist() == [True, True, False, False]
