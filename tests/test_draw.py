import dataclasses
import io

import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from ovseg import draw
from ovseg.draw import COLOUR_MAPS, class_table, heatmap, index_png, overlay, png
from ovseg.errors import BadInput, UnknownName
from ovseg.types import AnomalyMap, Segmentation
from tests.results import NoRecipe, segmentation

PLAN = ["aaa..", "aaa.b", ".....", "....."]
NASTY = ["<img src=x onerror=alert(1)>", "${f(1)} `x` {{y}}", "two\nlines\tand\x00zero", "猫", "égaré", "x" * 9000, ""]


def photo(height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    return np.random.default_rng(0).integers(60, 190, (height, width, 3), np.uint8)


def untouched(height: int, width: int, names: list[str]) -> Segmentation:
    return segmentation(["." * width] * height, names)


def test_without_legend_the_overlay_is_the_picture_with_colours_laid_in() -> None:
    image, found = photo(48, 60), segmentation(PLAN, ["cat", "dog"], 12)
    drawn = overlay(image, found, opacity=0.5, outlines=False, labels=False, legend=False)
    nobody = found.labels < 0
    assert (image[nobody] == drawn[nobody]).all()
    for k in range(2):
        here = found.labels == k
        expected = image[here] * 0.5 + found.colours[k] * 0.5
        assert np.abs(expected - drawn[here]).max() <= 1


def test_outlines_are_light_in_dark_and_stay_near_the_border() -> None:
    image, found = np.full((48, 60, 3), 120, np.uint8), segmentation(PLAN, ["cat", "dog"], 12)
    plain, lined = (overlay(image, found, outlines=on, labels=False, legend=False) for on in (False, True))
    changed = (plain != lined).any(axis=2)
    assert changed[20:28, 5].any() and not changed[:20, :30].any() and not changed[30:, :42].any()
    across = lined[18:30, 5].mean(axis=1)
    assert across.max() > 230 and across.min() < 70
    assert 9 < across.argmin() + 18 < 30


def test_the_picture_that_came_stays_as_it_was() -> None:
    image, found = photo(48, 60), segmentation(PLAN, ["cat", "dog"], 12)
    before, labels = image.copy(), found.labels.copy()
    overlay(image, found)
    assert (before == image).all() and (labels == found.labels).all()


def test_a_result_without_evidence_is_drawn_alike() -> None:
    found = segmentation(PLAN, ["cat", "dog"], 12)
    bare = dataclasses.replace(found, evidence=None)
    assert (overlay(photo(48, 60), found) == overlay(photo(48, 60), bare)).all()


def test_names_stand_on_regions_that_have_room_and_on_no_others() -> None:
    image, found = np.full((480, 600, 3), 120, np.uint8), segmentation(PLAN, ["cat", "hippopotamus"], 120)
    bare, named = (overlay(image, found, labels=on, legend=False) for on in (False, True))
    rows, cols = np.nonzero((bare != named).any(axis=2))
    assert len(rows) and cols.max() < 360 and rows.max() < 240  # on the cat; the other name is wider than its region


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


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"it is 48x60, the picture is 60x48 \(rows x cols\). Swapped axes\?"):
        overlay(photo(60, 48), segmentation(PLAN, ["cat", "dog"], 12))
    with pytest.raises(BadInput, match="48x80, the picture is 80x48"):
        heatmap(photo(80, 48), strange(0, 1))


def strange(low: float | int, high: float | int, threshold: float | None = None, **words: str) -> AnomalyMap:
    values = np.linspace(low, high, 80, dtype=np.float32)[None].repeat(48, axis=0)
    return AnomalyMap(values, float(high), words.get("unit", "cosine"), NoRecipe(), threshold, words.get("object", ""))


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


def test_signs_that_no_font_has_lose_their_accents_or_become_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_families", lambda: ("",))  # a machine with Pillow's own font alone
    draw._clean.cache_clear()
    try:
        assert "cafe au lait □□ ok" == draw._clean("café  au\nlait 猫\x07 ok")
        plain, changed = (overlay(photo(48, 80), untouched(48, 80, [name])) for name in ("cafe", "café"))
        assert changed.shape[0] > plain.shape[0]  # one line more: what became of the name
        assert overlay(photo(48, 80), untouched(48, 80, ["cafe…"])).shape == plain.shape
    finally:
        draw._clean.cache_clear()
