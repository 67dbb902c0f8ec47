import numpy as np
import pytest
from jaxtyping import Bool, Float

from ovseg.masks import Polygon, boxes, cell_fractions, intersections, iom, iou, polygons
from ovseg.raster import encode_rle
from ovseg.types import Regions


def fill(rings: list[np.ndarray], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Even-odd fill of rings with level and upright sides: a pixel is in if an odd number of sides lie to its left."""
    inside = np.zeros((height, width), bool)
    for ring in rings:
        for (x, y), (to_x, to_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x == to_x) != (y == to_y)
            if x == to_x:
                inside[min(y, to_y) : max(y, to_y), x:] ^= True
    return inside


def rings(found: list[Polygon]) -> list[np.ndarray]:
    return [ring for polygon in found for ring in (polygon.outer, *polygon.holes)]


@pytest.mark.parametrize(
    ("rows", "outers", "holes"),
    [
        (["1"], 1, 0),
        (["....", ".11.", "...."], 1, 0),
        (["1.", ".1"], 2, 0),  # a diagonal contact: two parts
        ([".1", "1."], 2, 0),
        (["11111", "1.1.1", "11111"], 1, 2),
        (["11111", "1...1", "1.1.1", "1...1", "11111"], 2, 1),  # an island in a hole
        (["111.", "1.11", ".111"], 1, 0),  # a pocket that meets the outside in a corner is no hole
        (["1111", "1..1", "1..1", "1111"], 1, 1),
    ],
)
def test_outlines_of_small_masks_tell_parts_and_holes(rows: list[str], outers: int, holes: int) -> None:
    mask = np.array([[sign == "1" for sign in row] for row in rows])
    found = polygons(mask)
    assert (outers, holes) == (len(found), sum(len(polygon.holes) for polygon in found))
    assert mask.tolist() == fill(rings(found), *mask.shape).tolist()


def test_filling_the_outline_gives_any_mask_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.random()
        found = polygons(mask)
        assert (mask == fill(rings(found), *mask.shape)).all()
        for polygon in found:  # a part's own rings hold that part alone, so its holes lie in it
            part = fill([polygon.outer, *polygon.holes], *mask.shape)
            assert (part <= mask).all()
            assert all(
                (fill([hole], *mask.shape) <= fill([polygon.outer], *mask.shape)).all() for hole in polygon.holes
            )


def test_outer_rings_fill_exactly_in_pycocotools_too() -> None:
    from pycocotools import mask as coco

    rows, cols = np.mgrid[:48, :80]
    disc = (rows - 20) ** 2 + (cols - 33) ** 2 < 15**2
    flat = polygons(disc)[0].outer.astype(float).ravel().tolist()
    assert (disc == coco.decode(coco.frPyObjects([flat], 48, 80))[:, :, 0]).all()


def test_outer_rings_run_clockwise_and_holes_the_other_way() -> None:
    mask = np.ones((5, 7), bool)
    mask[2, 2:4] = False
    (polygon,) = polygons(mask)
    assert [[0, 0], [7, 0], [7, 5], [0, 5]] == polygon.outer.tolist()
    assert [[2, 2], [2, 3], [4, 3], [4, 2]] == polygon.holes[0].tolist()


def test_an_empty_mask_has_no_outline_and_a_zero_box() -> None:
    assert [] == polygons(np.zeros((4, 6), bool))
    assert [[0, 0, 0, 0]] == boxes(np.zeros((1, 4, 6), bool)).tolist()
    assert (0, 4) == boxes(np.zeros((0, 4, 6), bool)).shape


def test_boxes_are_pixel_edges_as_in_regions() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((5, 9, 13)) < 0.03
    masks[0, 3:5, 4:9] = True
    masks[1] = False
    assert Regions.from_masks(masks).boxes.tolist() == boxes(masks).tolist()


def test_overlaps_equal_counting_pixels() -> None:
    rng = np.random.default_rng(2)
    ones, others = rng.random((3, 9, 13)) < 0.5, rng.random((4, 9, 13)) < 0.2
    ones[2] = others[3] = False  # empty with empty too
    codes = [encode_rle(mask) for mask in ones], [encode_rle(mask) for mask in others]
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            shared, union = int((one & other).sum()), int((one | other).sum())
            smaller = min(one.sum(), other.sum())
            assert shared == intersections(*codes)[i, j]
            assert (shared / union if union else 0) == iou(*codes)[i, j]
            assert (shared / smaller if smaller else 0) == iom(*codes)[i, j]


def test_overlaps_with_no_masks_have_no_rows() -> None:
    code = [encode_rle(np.ones((4, 6), bool))]
    assert (0, 1) == iou([], code).shape
    assert (1, 0) == iom(code, []).shape


def slow_fractions(mask: Bool[np.ndarray, "height width"], rows: int, cols: int) -> Float[np.ndarray, "rows cols"]:
    """Every pixel cut into rows x cols equal crumbs, so that each crumb lies in one cell."""
    height, width = mask.shape
    crumbs = np.repeat(np.repeat(mask, rows, axis=0), cols, axis=1)
    return crumbs.reshape(rows, height, cols, width).mean(axis=(1, 3))


@pytest.mark.parametrize("grid", [(6, 10), (5, 7), (1, 1), (48, 80), (60, 99)])
def test_cell_fractions_are_exact_areas_also_where_cells_cut_pixels(grid: tuple[int, int]) -> None:
    masks = np.random.default_rng(3).random((2, 48, 80)) < 0.4
    found = cell_fractions(Regions.from_masks(masks), *grid)
    expected = np.stack([slow_fractions(mask, *grid) for mask in masks])
    np.testing.assert_allclose(expected, found, atol=1e-6)


def test_a_mask_of_one_pixel_has_a_share_and_the_full_frame_fills_every_cell() -> None:
    masks = np.zeros((3, 48, 80), bool)
    masks[0, 17, 33] = True
    masks[1] = True
    found = cell_fractions(Regions.from_masks(masks), 5, 7)
    assert 1 / (48 * 80) == pytest.approx(found[0].sum() / 35)
    np.testing.assert_allclose(1, found[1], atol=1e-6)
    assert 0 == found[2].max()
    assert (0, 5, 7) == cell_fractions(Regions.empty(48, 80), 5, 7).shape
