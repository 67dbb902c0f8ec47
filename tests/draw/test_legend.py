import numpy as np
import pytest

from ovseg.draw import overlay
from ovseg.draw.legend import _words
from ovseg.presence import Presence
from ovseg.types import NAMELESS, Segmentation
from tests.draw.pictures import PLAN, photo
from tests.results import segmentation

NASTY = ["<img src=x onerror=alert(1)>", "${f(1)} `x` {{y}}", "two\nlines\tand\x00zero", "猫", "égaré", "x" * 9000, ""]


def untouched(height: int, width: int, names: list[str]) -> Segmentation:
    return segmentation(["." * width] * height, names)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (48, 80), (80, 48), (300, 460), (30, 900), (900, 30), (640, 480)])
@pytest.mark.parametrize(
    "names", [[], ["cat"], ["cat", "dog", "bicycle"], [f"name number {i}" for i in range(20)], NASTY]
)
def test_nothing_of_the_legend_is_cut_at_any_size(size: tuple[int, int], names: list[str]) -> None:
    height, width = size
    letter = "a" if names else "."
    found = segmentation([letter * width] * (height // 2) + ["." * width] * (height - height // 2), names)
    image = photo(height, width)
    drawn = overlay(image, found, outlines=False, labels=False)
    alone = overlay(image, found, outlines=False, labels=False, legend=False)
    factor = 1 if max(size) >= 320 else -(-320 // max(size))
    shown = alone.repeat(factor, axis=0).repeat(factor, axis=1)
    assert (shown == drawn[: shown.shape[0], : shown.shape[1]]).all()
    panel = drawn.copy()
    panel[: shown.shape[0], : shown.shape[1]] = 255
    inked = (panel < 250).any(axis=2)
    assert inked.any()
    assert not inked[-8:].any() and not inked[:, -8:].any()
    if height > width:
        assert not inked[:8].any() and not inked[:, : shown.shape[1] + 8].any()
    else:
        assert not inked[: shown.shape[0] + 8].any() and not inked[:, :8].any()


def test_the_legend_tells_found_from_not_found() -> None:
    both = overlay(photo(48, 60), segmentation(PLAN, ["cat", "dog", "fox"], 12), outlines=False, labels=False)
    swatches = {tuple(colour) for colour in both[300:, :60].reshape(-1, 3).tolist()}
    colours = segmentation(PLAN, ["cat", "dog", "fox"]).colours.tolist()
    assert {tuple(colours[0]), tuple(colours[1])} <= swatches
    assert tuple(colours[2]) not in swatches


def test_the_legend_counts_what_was_asked_and_says_which_names_were_judged_absent() -> None:
    odds, share = np.array([3.0, -9.0], np.float32), np.array([0.99, 0.2], np.float32)
    seen = Presence(odds, share, np.array([256, 256]), np.zeros(256, np.float32))
    told = _words(segmentation(PLAN, ["cat", "dog"], presence=seen))
    assert told.title.startswith("1 of 2 names found") and "judged absent" in repr(told.rows[1])
    click = _words(segmentation(PLAN, ["cat", NAMELESS]))
    assert click.title.startswith("1 of 1 name found")
    assert _words(segmentation(["..", ".."], [])).title == "Nothing was found"


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_a_name_that_loses_signs_adds_a_line_that_says_so() -> None:
    plain, changed = (overlay(photo(48, 80), untouched(48, 80, [name])) for name in ("cafe", "café"))
    assert changed.shape[0] > plain.shape[0]
    assert overlay(photo(48, 80), untouched(48, 80, ["cafe…"])).shape == plain.shape
