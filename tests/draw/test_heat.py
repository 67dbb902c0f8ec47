import numpy as np
import pytest

from ovseg.draw import COLOUR_MAPS, heatmap
from ovseg.errors import UnknownName
from tests.draw.pictures import photo, strange


@pytest.mark.parametrize("colours", COLOUR_MAPS)
def test_stranger_is_lighter_in_every_colour_map(colours: str) -> None:
    drawn = heatmap(np.full((48, 80, 3), 100, np.uint8), strange(0, 1), colours=colours, scale=False)
    lightness = drawn[10] @ [0.2126, 0.7152, 0.0722]
    assert (48, 80, 3) == drawn.shape
    assert (np.diff(lightness) > -1.5).all() and lightness[-1] > lightness[0] + 80


def test_the_threshold_is_a_contour_where_it_is_crossed() -> None:
    image = np.full((48, 80, 3), 100, np.uint8)
    bare, lined = (heatmap(image, strange(0, 1, cut), scale=False) for cut in (None, 0.5))
    cols = np.flatnonzero((bare != lined).any(axis=(0, 2)))
    assert (37, 42) == (cols.min(), cols.max())


def test_a_picture_below_its_threshold_does_not_glow() -> None:
    image = np.full((48, 80, 3), 100, np.uint8)
    calm = heatmap(image, strange(0, 0.1, 0.5), scale=False)
    assert calm.max() < heatmap(image, strange(0, 1, 0.5), scale=False).max() - 80
    same = heatmap(image, strange(0, 0.1), limits=(0, 0.5), scale=False)
    assert (calm == same).all()


@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.5, 0.5), (-3.0, 14.0), (0.99, 1.0), (1e-7, 2e-7), (0.0, 1e6)])
def test_the_scale_is_whole_for_any_range_of_values(limits: tuple[float, float]) -> None:
    words = {"unit": "probability of damage", "object": "a part with a long name " * 9}
    drawn = heatmap(photo(48, 80), strange(*limits, sum(limits) / 2, **words))
    assert drawn.shape[0] > 192 and drawn.shape[1] > 320
    inked = (drawn < 250).any(axis=2)
    assert not inked[-8:].any() and not inked[:, -6:].any() and inked[:192, 330:].any()


def test_an_unknown_colour_map_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="cividis, inferno, viridis"):
        heatmap(photo(48, 80), strange(0, 1), colours="jet")
