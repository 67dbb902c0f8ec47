"""Agreement of the dense map with the network looking at boxes alone."""

from dataclasses import replace

import numpy as np
import pytest

from ovseg.clip.dense import encode_images
from ovseg.encoders import View, describe
from ovseg.errors import BadInput
from ovseg.health import agreement
from ovseg.types import DenseFeatures, Regions
from tests import tiny


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def view() -> View:
    cells = unit(np.random.default_rng(0).normal(size=(60, 32)))
    features = DenseFeatures(np.ascontiguousarray(cells.T).reshape(32, 6, 10), cells[0], 48, 80)
    return View(tiny.clip(), tiny.picture(), features)


@pytest.fixture
def regions() -> Regions:
    masks = np.zeros((4, 48, 80), bool)
    masks[0, :24, :40] = masks[1, :24, 40:] = masks[2, 24:, :40] = True
    return Regions.from_masks(masks)  # the last is empty


def test_is_the_cosine_of_both_vectors(view: View, regions: Regions) -> None:
    found = agreement(view, regions, dense="pool")
    pooled, seen = describe("pool", view, regions).vectors, describe("crop", view, regions).vectors
    np.testing.assert_allclose([pooled[i] @ seen[i] for i in range(3)], found.cosines[:3], atol=1e-6)
    assert np.isnan(found.cosines[3]) and abs(found.mean - found.cosines[:3].mean()) < 1e-6


def test_map_that_holds_the_crops_themselves_agrees_wholly(view: View, regions: Regions) -> None:
    """Cells that are planted with what the network says of their own box: cosine 1, every region finds its own."""
    assert view.clip is not None
    crops = describe("crop", view, regions).vectors
    cells = np.zeros((32, 6, 10), np.float32)
    cells[:, :3, :5], cells[:, :3, 5:], cells[:, 3:, :5] = (crops[i][:, None, None] for i in range(3))
    planted = replace(view, features=replace(view.features, vectors=cells))
    for dense in ("roi", "pool"):
        found = agreement(planted, regions, dense=dense)
        np.testing.assert_allclose(np.ones(3), found.cosines[:3], atol=1e-5)
        assert found.recall == 1.0
    swapped = replace(view, features=replace(view.features, vectors=np.roll(cells, 5, axis=2)))
    assert agreement(swapped, regions[np.arange(2)]).recall == 0.0


def test_map_of_one_vector_has_its_cosine_and_tells_nothing_apart(view: View, regions: Regions) -> None:
    assert view.clip is not None
    whole = encode_images(view.clip, [view.image])[0]
    flat = np.ascontiguousarray(np.broadcast_to(whole[:, None, None], (32, 6, 10)))
    constant = replace(view, features=replace(view.features, vectors=flat))
    frame = Regions.from_masks(np.ones((1, 48, 80), bool))
    plain = describe("crop", constant, frame, shape="squeeze").vectors[0]
    np.testing.assert_allclose(whole, plain, atol=1e-5)
    assert agreement(constant, frame).mean == pytest.approx(float(whole @ describe("crop", constant, frame).vectors[0]))
    assert agreement(constant, regions).recall == pytest.approx(1 / 3)


def test_nothing_to_look_at_is_refused(view: View) -> None:
    for nothing in (Regions.empty(48, 80), Regions.from_masks(np.zeros((2, 48, 80), bool))):
        with pytest.raises(BadInput, match="needs regions to look at"):
            agreement(view, nothing)
