"""Guided crops: ends of the margin, and the mean of several."""

from typing import Any

import numpy as np
import pytest

from ovseg.clip.dense import encode_images
from ovseg.clip.load import Clip
from ovseg.encoders import View, describe
from ovseg.encoders.crops import fitted, mean_colour, spans
from ovseg.errors import BadUsage, UnknownName
from ovseg.types import DenseFeatures, Regions
from tests import tiny


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture
def view(clip: Clip) -> View:
    features = DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), 48, 80)
    return View(clip, tiny.picture(), features)


@pytest.fixture
def regions() -> Regions:
    masks = np.zeros((3, 48, 80), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 40:48, 70:80] = True
    masks[2, 20, 33] = True
    return Regions.from_masks(masks)


def test_margin_0_is_the_box_and_1_the_picture(clip: Clip, view: View, regions: Regions) -> None:
    crops = describe("crop", view, regions).vectors
    np.testing.assert_allclose(crops, describe("guided", view, regions, margins=[0.0]).vectors, atol=1e-6)
    whole = encode_images(clip, [fitted(clip, view.image, "pad")])
    np.testing.assert_allclose(whole.repeat(3, 0), describe("guided", view, regions, margins=[1]).vectors, atol=1e-6)


def test_margin_between_goes_that_share_of_the_way_on_each_side(clip: Clip, view: View, regions: Regions) -> None:
    vectors = describe("guided", view, regions[[0]], margins=[0.25]).vectors
    # from rows 5 to 30 and columns 12 to 61 a quarter of the way to the frame: 3.75 to 34.5 and 9 to 65.75
    assert spans(np.array([9, 3.75, 65.75, 34.5]), 1.0, 48, 80) == (slice(3, 35), slice(9, 66))
    expected = encode_images(clip, [fitted(clip, view.image[3:35, 9:66], "pad")])
    np.testing.assert_allclose(expected, vectors, atol=1e-6)


def test_several_margins_are_averaged_as_unit_vectors_in_any_order(view: View, regions: Regions) -> None:
    single = [describe("guided", view, regions, margins=[margin]).vectors for margin in (0.0, 0.3, 0.9)]
    mean = np.mean(single, axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, describe("guided", view, regions, margins=[0.9, 0.0, 0.3]).vectors, atol=1e-5)


def test_squeezed_box_fills_the_square(clip: Clip, view: View, regions: Regions) -> None:
    expected = encode_images(clip, [view.image[5:30, 12:61]])  # which resizes to the square as it is
    np.testing.assert_allclose(expected[0], describe("crop", view, regions, shape="squeeze").vectors[0], atol=1e-6)


def test_mean_colour_is_next_to_nothing_to_the_network(clip: Clip) -> None:
    assert np.abs(mean_colour(clip) / 255 - np.asarray(clip.mean)).max() <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"margins": []}, BadUsage, "margins is a list of shares"),
        ({"margins": "0.5"}, BadUsage, "margins is a list of shares"),
        ({"margins": [0.5, 1.5]}, BadUsage, "a margin goes from 0"),
        ({"margins": [-0.1]}, BadUsage, "a margin goes from 0"),
        ({"shape": "round"}, UnknownName, "shape must be one of pad, squeeze"),
    ],
)
def test_refuses(view: View, regions: Regions, options: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        describe("guided", view, regions, **options)
