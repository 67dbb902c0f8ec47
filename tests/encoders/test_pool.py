"""Boxes in the dense map: torchvision's own pooling, where cells are no squares."""

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from ovseg.encoders import View, describe
from ovseg.types import DenseFeatures, Regions


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def view() -> View:
    """6 x 10 cells over 48 x 120 px: a cell is 8 px high and 12 px wide."""
    cells = unit(np.random.default_rng(0).normal(size=(60, 16)))
    features = DenseFeatures(np.ascontiguousarray(cells.T).reshape(16, 6, 10), cells[0], 48, 120)
    return View(None, np.zeros((48, 120, 3), np.uint8), features)


def box(top: int, left: int, bottom: int, right: int) -> Regions:
    masks = np.zeros((1, 48, 120), bool)
    masks[0, top:bottom, left:right] = True
    return Regions.from_masks(masks)


def test_box_of_whole_cells_is_their_mean_and_a_cell_is_itself(view: View) -> None:
    cells = view.features.vectors
    mean = cells[:, 1:4, 2:7].reshape(16, -1).mean(axis=1)
    np.testing.assert_allclose(unit(mean), describe("roi", view, box(8, 24, 32, 84)).vectors[0], atol=1e-5)
    np.testing.assert_allclose(cells[:, 5, 9], describe("roi", view, box(40, 108, 48, 120)).vectors[0], atol=1e-5)


def test_equals_roi_align_in_pixels_of_a_map_of_square_cells(view: View) -> None:
    features = DenseFeatures(view.features.vectors, view.features.whole, 48, 80)
    square, masks = View(None, np.zeros((48, 80, 3), np.uint8), features), np.zeros((1, 48, 80), bool)
    masks[0, 5, 13] = masks[0, 30, 60] = True
    expected = roi_align(
        torch.from_numpy(features.vectors)[None], [torch.tensor([[13.0, 5, 61, 31]])], (1, 1), 1 / 8, -1, True
    )[:, :, 0, 0]
    np.testing.assert_allclose(
        unit(expected.numpy()), describe("roi", square, Regions.from_masks(masks)).vectors, atol=1e-6
    )


def test_holes_of_the_mask_count_and_in_pool_they_do_not(view: View) -> None:
    full, holed = box(8, 24, 32, 84), box(8, 24, 32, 84).masks[0].copy()
    holed[16:24, 36:72] = False
    regions = Regions.from_masks(holed[None])
    assert (describe("roi", view, full).vectors == describe("roi", view, regions).vectors).all()
    assert np.abs(describe("pool", view, full).vectors - describe("pool", view, regions).vectors).max() > 1e-3
