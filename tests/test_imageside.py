"""What the image side holds and keeps; that it makes the right features and regions is tested in `test_pipeline`."""

import numpy as np
import pytest

from ovseg.errors import BadInput
from ovseg.imageside import ImageSide
from ovseg.recipe import Recipe
from tests import tiny


def test_pictures_of_two_sizes_are_encoded_as_alone_and_left_as_they_were() -> None:
    side = ImageSide(Recipe(short_side=48, proposer="felzenszwalb", negatives="none"), tiny.clip())
    pictures = [tiny.picture(48, 80), tiny.picture(64, 48)]
    for picture in pictures:
        picture.setflags(write=False)
    together = side.encode(pictures, ["", ""], lambda stage, done, of: None)
    for picture, encoding in zip(pictures, together, strict=True):
        (alone,) = side.encode([picture], [""], lambda stage, done, of: None)
        np.testing.assert_allclose(alone.features.vectors, encoding.features.vectors, atol=1e-6)
        assert alone.regions.rles == encoding.regions.rles and len(encoding.described) == len(encoding.regions)
        assert (encoding.region_vectors == encoding.described.vectors).all()


def test_a_picture_too_small_is_refused_with_its_size() -> None:
    side = ImageSide(Recipe(short_side=48, negatives="none"), tiny.clip())
    with pytest.raises(BadInput, match="got 1x9"):
        side.encode([np.zeros((1, 9, 3), np.uint8)], [""], lambda stage, done, of: None)
