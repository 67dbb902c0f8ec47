"""Run lengths by the hundred; the rest of raster is tested through the nouns, in test_types."""

import numpy as np

from ovseg.masks import iom, iou
from ovseg.raster import areas, decode_rle, rles_of
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
