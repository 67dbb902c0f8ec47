"""Marks in the picture: equal to the published drawings, sharp inside, and nothing else touched."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image

from ovseg.clip.dense import encode_images
from ovseg.encoders import View, describe
from ovseg.encoders.marks import RED, blurred, drawn, line_width, mixed, ring
from ovseg.errors import BadUsage, UnknownName
from ovseg.types import DenseFeatures, Regions
from tests import tiny

MARKED = GOLDEN / "anomaly" / "marked"


@pytest.fixture(scope="module")
def published() -> Path:
    if not MARKED.is_dir():
        pytest.skip("parity data is not beside this checkout (../shared/golden/anomaly)")
    return MARKED


def read(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("name", ["large", "small"])
def test_drawn_as_published(published: Path, name: str) -> None:
    """FALIP's circle is exact; where it blurs, one grey level is what another Pillow may differ by."""
    image = read(published / f"{name}.image.png")
    soft, line = blurred(image, 100.0), line_width(*image.shape[:2], compat=True)
    seen = 0
    for number, edges in enumerate(json.loads((published / "boxes.json").read_text())[name]):
        box = np.array(edges, float)
        inside = drawn("ellipse", box, *image.shape[:2], compat=True)
        kept = {"circle": image, "circle_blur": mixed(image, soft, inside)}
        for kind, before in kept.items():
            expected = read(published / f"{name}.{kind}.{number}.png").astype(int)
            difference = np.abs(expected - ring(before, box, line)).max()
            assert difference <= (0 if kind == "circle" else 1), (kind, number)
            seen += 1
        if (published / f"{name}.blur.{number}.png").is_file():
            made = mixed(image, soft, drawn("box", box, *image.shape[:2]))
            assert np.abs(read(published / f"{name}.blur.{number}.png").astype(int) - made).max() <= 1
            seen += 1
    assert seen == {"large": 8, "small": 2}[name]


def test_line_of_a_small_picture_is_a_pixel_and_as_published_none() -> None:
    image, box = tiny.picture(48, 80), np.array([10, 5, 60, 40.0])
    assert (ring(image, box, line_width(48, 80, compat=True)) == image).all()
    assert (ring(image, box, line_width(48, 80)) != image).any()
    assert [line_width(300, 420), line_width(3000, 4000)] == [2, 20]


def test_ring_is_inscribed_and_only_it_is_red() -> None:
    image = np.full((48, 80, 3), 128, np.uint8)
    made = ring(image, np.array([10, 5, 59, 40.0]), 2)
    rows, cols = np.nonzero((made != image).any(axis=2))
    assert [rows.min(), rows.max(), cols.min(), cols.max()] == [5, 40, 10, 59]
    assert (made[rows, cols] == RED).all()
    assert (made[12:34, 20:50] == 128).all(), "inside is left alone"


def test_blur_leaves_the_inside_exact_and_no_detail_outside() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    soft = blurred(image, 100.0)
    inside = drawn("ellipse", np.array([10, 5, 59, 40.0]), 48, 80)
    made = mixed(image, soft, inside)
    assert (made[inside > 0] == image[inside > 0]).all() and (made[inside == 0] == soft[inside == 0]).all()
    assert 0 < (inside > 0).sum() < 50 * 36 and set(np.unique(inside)) == {0, 255}
    assert soft.std(axis=(0, 1)).max() < 10 and blurred(image, 0) is image
    with pytest.raises(BadUsage, match="blur is a standard deviation"):
        blurred(image, -1.0)


@pytest.fixture(scope="module")
def view() -> View:
    features = DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), 48, 80)
    return View(tiny.clip(), tiny.picture(), features)


@pytest.fixture
def regions() -> Regions:
    masks = np.zeros((2, 48, 80), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 40:48, 70:80] = True
    return Regions.from_masks(masks)


class TestRow:
    def test_sees_the_marked_picture(self, view: View, regions: Regions) -> None:
        assert view.clip is not None
        soft = blurred(view.image, 100.0)
        place = np.array([12, 5, 60, 29.0])
        expected = ring(mixed(view.image, soft, drawn("ellipse", place, 48, 80)), place, 1)
        np.testing.assert_allclose(
            encode_images(view.clip, [expected])[0], describe("circle", view, regions).vectors[0], atol=1e-5
        )

    def test_without_ring_and_blur_every_region_is_the_whole_picture(self, view: View, regions: Regions) -> None:
        assert view.clip is not None
        vectors = describe("circle", view, regions, ring=False, blur=0.0).vectors
        whole = encode_images(view.clip, [view.image])[0]
        np.testing.assert_allclose(np.stack([whole, whole]), vectors, atol=1e-5)

    def test_mask_stays_sharp_where_it_is_asked_for(self, view: View, regions: Regions) -> None:
        box = describe("circle", view, regions, ring=False, sharp="box").vectors
        np.testing.assert_allclose(
            box, describe("circle", view, regions, ring=False, sharp="mask").vectors, atol=1e-5
        )  # these masks are boxes
        assert np.abs(box - describe("circle", view, regions, ring=False).vectors).max() > 1e-4

    def test_unknown_shape_is_refused(self, view: View, regions: Regions) -> None:
        with pytest.raises(UnknownName, match="sharp must be one of box, ellipse, mask"):
            describe("circle", view, regions, sharp="star")
