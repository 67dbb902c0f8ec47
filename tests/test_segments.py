"""Run lengths of nested segments; what the segments are is tested with the proposer `felzenszwalb`."""

import numpy as np
import pytest
from numpy.random import Generator
from pycocotools import mask as coco

from ovseg import segments
from ovseg.raster import decode_rle


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("box", "frame"),
    [
        ((3, 5, 9, 14), (17, 23)),  # inside
        ((0, 5, 17, 14), (17, 23)),  # columns of full height, whose runs touch
        ((0, 0, 17, 23), (17, 23)),  # the whole frame
        ((16, 22, 17, 23), (17, 23)),  # the last pixel
        ((4, 4, 4, 4), (17, 23)),  # nothing
    ],
)
def test_run_lengths_from_a_box_are_pycocotools_own(
    box: tuple[int, int, int, int], frame: tuple[int, int], rng: Generator
) -> None:
    top, left, bottom, right = box
    for inside in (np.ones((bottom - top, right - left), bool), rng.random((bottom - top, right - left)) < 0.6):
        full = np.zeros(frame, bool)
        full[top:bottom, left:right] = inside
        edges = np.arange(top, bottom + 1), np.arange(left, right + 1)
        rle = segments._stretched_rle(inside, *edges, *frame)
        assert coco.encode(np.asfortranarray(full, np.uint8))["counts"].decode() == rle["counts"]
        assert (decode_rle(rle) == full).all()


def test_run_lengths_of_a_stretched_mask_are_those_of_its_pixels(rng: Generator) -> None:
    mask = rng.random((7, 5)) < 0.6
    rows, cols = ((np.arange(n) + 0.5) * cells / n for n, cells in ((17, 7), (23, 5)))
    full = mask[rows.astype(int)[:, None], cols.astype(int)]
    rle = segments._stretched_rle(mask, segments._edges(7, 17), segments._edges(5, 23), 17, 23)
    assert (decode_rle(rle) == full).all()
    assert coco.encode(np.asfortranarray(full, np.uint8))["counts"].decode() == rle["counts"]
