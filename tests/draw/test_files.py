import io

import numpy as np
import pytest
from PIL import Image

from ovseg.draw import class_table, index_png, png
from tests.draw.pictures import PLAN, photo
from tests.results import segmentation


def test_the_index_picture_holds_class_numbers_and_colours() -> None:
    found = segmentation(PLAN, ["cat", "dog"])
    with Image.open(io.BytesIO(index_png(found))) as picture:
        assert ("P", (5, 4)) == (picture.mode, picture.size)
        assert [[1, 1, 1, 0, 0], [1, 1, 1, 0, 2], [0] * 5, [0] * 5] == np.asarray(picture).tolist()
        assert found.colours[1].tolist() == np.asarray(picture.convert("RGB"))[1, 4].tolist()
    table = class_table(found)
    assert [(0, None), (1, "cat"), (2, "dog")] == [(row["id"], row["name"]) for row in table]
    assert ["#000000", "#e69f00", "#56b4e9"] == [row["colour"] for row in table]


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16")])
def test_the_index_picture_holds_any_number_of_names(count: int, mode: str) -> None:
    found = segmentation(["a" + chr(ord("a") + count - 1) + "."], [f"n{i}" for i in range(count)])
    with Image.open(io.BytesIO(index_png(found))) as picture:
        assert mode == picture.mode
        assert [[1, count, 0]] == np.asarray(picture).tolist()


def test_png_bytes_hold_the_picture() -> None:
    image = photo(48, 80)
    with Image.open(io.BytesIO(png(image))) as picture:
        assert image.tolist() == np.asarray(picture).tolist()
