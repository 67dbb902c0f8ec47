import pytest

from ovseg.draw import heatmap, overlay
from ovseg.errors import BadInput
from tests.draw.pictures import PLAN, photo, strange
from tests.results import segmentation


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"it is 48x60, the picture is 60x48 \(rows x cols\). Swapped axes\?"):
        overlay(photo(60, 48), segmentation(PLAN, ["cat", "dog"], 12))
    with pytest.raises(BadInput, match="48x80, the picture is 80x48"):
        heatmap(photo(80, 48), strange(0, 1))
