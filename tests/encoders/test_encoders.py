from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from ovseg.clip.dense import encode_images
from ovseg.clip.load import Clip
from ovseg.encoders import ENCODERS, crops, encode, encoder
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import DenseFeatures, Regions
from tests import tiny


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(11)


def features_of(vectors: np.ndarray, height: int = 48, width: int = 80) -> DenseFeatures:
    unit = (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)
    return DenseFeatures(unit, unit.mean(axis=(1, 2)), height, width)


def random_features(rng: Generator) -> DenseFeatures:
    return features_of(rng.normal(size=(32, 6, 10)))


def some_masks(rng: Generator) -> np.ndarray:
    """A blob, one pixel, nothing, the frame, and a scatter: 5 x 48 x 80."""
    masks = np.zeros((5, 48, 80), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 47, 79] = True
    masks[3] = True
    masks[4] = rng.random((48, 80)) < 0.1
    return masks


@pytest.mark.parametrize("name", ENCODERS)
class TestEveryEncoder:
    def test_gives_unit_rows_and_zeros_for_nothing(self, name: str, clip: Clip, rng: Generator) -> None:
        image = tiny.picture()
        image.setflags(write=False)
        regions = Regions.from_masks(some_masks(rng))
        vectors = encode(name, clip, image, random_features(rng), regions)
        assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 1], atol=1e-6)

    def test_order_and_copies_of_regions_change_nothing(self, name: str, clip: Clip, rng: Generator) -> None:
        image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(some_masks(rng))
        straight = encode(name, clip, image, features, regions)
        order = np.array([3, 0, 0, 4, 2, 1, 3])
        np.testing.assert_allclose(encode(name, clip, image, features, regions[order]), straight[order], atol=1e-5)

    def test_no_regions_give_no_rows(self, name: str, clip: Clip, rng: Generator) -> None:
        assert encode(name, clip, tiny.picture(), random_features(rng), Regions.empty(48, 80)).shape == (0, 32)

    def test_refuses_what_it_does_not_know(self, name: str, clip: Clip, rng: Generator) -> None:
        with pytest.raises(UnknownName, match=f"option of encoder {name}"):
            encode(name, clip, tiny.picture(), random_features(rng), Regions.empty(48, 80), nonsense=1)
        with pytest.raises(BadInput, match="80x48 and 48x80"):
            encode(name, clip, tiny.picture(), random_features(rng), Regions.empty(80, 48))


def test_names_are_found_whatever_their_case() -> None:
    assert encoder("POOL") is ENCODERS["pool"]
    with pytest.raises(UnknownName, match="crop, pool: got 'poll'. Did you mean 'pool'"):
        encoder("poll")


class TestPool:
    def pooled(self, features: DenseFeatures, masks: np.ndarray) -> np.ndarray:
        image = np.zeros((features.height, features.width, 3), np.uint8)
        return encode("pool", None, image, features, Regions.from_masks(masks))

    def test_needs_no_network_and_equals_the_mean_of_pixels(self, rng: Generator) -> None:
        # 6x10 cells of 8 px: each pixel has the vector of its cell
        features, masks = random_features(rng), some_masks(rng)
        pixels = features.vectors.repeat(8, axis=1).repeat(8, axis=2)
        for mask, vector in zip(masks, self.pooled(features, masks), strict=True):
            if mask.any():
                mean = pixels[:, mask].mean(axis=1)
                np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)

    def test_full_mask_is_the_mean_of_cells_also_where_cells_are_no_whole_pixels(self, rng: Generator) -> None:
        features = features_of(rng.normal(size=(32, 6, 10)), 47, 83)
        mean = features.vectors.mean(axis=(1, 2))
        vector = self.pooled(features, np.ones((1, 47, 83), bool))[0]
        np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)

    def test_constant_map_gives_its_vector(self, rng: Generator) -> None:
        constant = np.broadcast_to(rng.normal(size=(32, 1, 1)), (32, 6, 10))
        features = features_of(constant)
        for vector in self.pooled(features, some_masks(rng)[[0, 1, 3, 4]]):
            np.testing.assert_allclose(features.vectors[:, 0, 0], vector, atol=1e-5)

    def test_planted_cells_are_recovered_by_masks_smaller_than_a_cell(self, rng: Generator) -> None:
        features = random_features(rng)
        masks = np.zeros((60, 48, 80), bool)
        for cell in range(60):
            masks[cell, cell // 10 * 8 + 3, cell % 10 * 8 + 5] = True
        np.testing.assert_allclose(features.vectors.reshape(32, 60).T, self.pooled(features, masks), atol=1e-5)

    def test_vectors_that_cancel_give_a_zero_row(self) -> None:
        vectors = np.ones((4, 6, 10))
        vectors[:, :, 5:] = -1
        assert self.pooled(features_of(vectors), np.ones((1, 48, 80), bool)).tolist() == [[0, 0, 0, 0]]


class TestCrop:
    def test_frame_of_a_square_picture_is_plain_preprocessing(self, clip: Clip, rng: Generator) -> None:
        image = tiny.picture(64, 64)
        features = features_of(rng.normal(size=(32, 6, 10)), 64, 64)
        vectors = encode("crop", clip, image, features, Regions.from_masks(np.ones((1, 64, 64), bool)))
        np.testing.assert_allclose(encode_images(clip, [image]), vectors, atol=1e-5)

    def test_looks_at_the_box_padded_to_a_square_with_the_mean_colour(self, clip: Clip, rng: Generator) -> None:
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        masks = np.zeros((1, 48, 80), bool)
        masks[0, 10, 20] = masks[0, 19, 45] = True  # the box is 10 x 26
        expected = np.empty((26, 26, 3), np.uint8)
        expected[:] = np.round(255 * np.asarray(clip.mean)).astype(np.uint8)
        expected[8:18] = image[10:20, 20:46]
        vectors = encode("crop", clip, image, features, Regions.from_masks(masks))
        np.testing.assert_allclose(encode_images(clip, [expected]), vectors, atol=1e-5)

    @pytest.mark.parametrize(
        ("box", "expand", "rows", "cols"),
        [
            ((20, 10, 46, 20), 1.0, (10, 20), (20, 46)),
            ((20, 10, 46, 20), 2.0, (5, 25), (7, 59)),
            ((70, 40, 80, 48), 3.0, (32, 48), (60, 80)),  # cut at the frame
            ((79, 47, 80, 48), 0.1, (47, 48), (79, 80)),  # at least a pixel
        ],
    )
    def test_window(self, box: Any, expand: float, rows: tuple[int, int], cols: tuple[int, int]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
        expected = image[slice(*rows), slice(*cols)]
        actual = crops.window(image, np.array(box, float), expand)
        assert expected.shape == actual.shape and (expected == actual).all()

    def test_bad_calls_get_a_sentence(self, clip: Clip, rng: Generator) -> None:
        image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(some_masks(rng))
        with pytest.raises(BadUsage, match="needs the CLIP network"):
            encode("crop", None, image, features, regions)
        with pytest.raises(BadUsage, match="expand must be above 0"):
            encode("crop", clip, image, features, regions, expand=0.0)
