from dataclasses import replace

import numpy as np
import pytest

from ovseg.disagreement import Chances, Disagreement, disagree
from ovseg.draw import disputed
from ovseg.errors import BadInput, UnknownName
from ovseg.types import Segmentation
from tests.draw.pictures import PLAN, photo
from tests.results import segmentation

OTHER = ["aaa..", "bbb.b", ".....", "bb..."]
NEVER = Chances((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))  # nothing is likely enough to be listed
GREY = np.full((48, 80, 3), 100, np.uint8)


def answer(plan: list[str], names: list[str]) -> Segmentation:
    """A plan on 48 x 80 px."""
    found = segmentation(plan, names, scale=1)
    assert found.evidence is not None
    rows = found.evidence.rows.repeat(12, axis=1).repeat(16, axis=2)
    return Segmentation.decide(names, replace(found.evidence, height=48, width=80, rows=rows), found.recipe)


def found(names: list[str], other: list[str] = OTHER) -> Disagreement:
    return disagree([answer(PLAN, names), answer(other, names)])


@pytest.mark.parametrize("colours", ["cividis", "inferno", "viridis"])
def test_contested_pixels_are_light_and_agreed_ones_dark(colours: str) -> None:
    drawn = disputed(GREY, found(["cat", "dog"]), colours=colours, legend=False) @ [0.2126, 0.7152, 0.0722]
    assert (48, 80) == drawn.shape
    assert drawn[18, 20] > drawn[30, 70] + 80 and drawn[42, 16] > drawn[30, 70] + 80
    assert drawn[5, 20] == drawn[30, 70]  # agreed, named or not


def test_the_scale_is_the_same_in_all_pictures() -> None:
    """A picture that hardly disagrees does not glow."""
    names = ["cat", "dog"]
    calm = found(names)
    calm = replace(calm, values=calm.values * np.float32(0.05))
    assert disputed(GREY, calm, legend=False)[18, 20].max() < 80


def test_what_to_look_at_first_is_marked_and_told_below() -> None:
    given = found(["cat", "dog"])
    drawn, bare = disputed(GREY, given), disputed(GREY, replace(given, chances=NEVER))
    assert 320 == drawn.shape[1] == bare.shape[1] and drawn.shape[0] > bare.shape[0] > 192 + 60
    marked = (drawn[:192] != bare[:192]).any(axis=2)
    cat, missing = marked[:96, :192], marked[144:, :128]
    assert cat.mean() > 0.02 and missing.mean() > 0.02 and cat.sum() + missing.sum() == marked.sum()


@pytest.mark.parametrize("names", [["<script>", "dog " * 60], ["猫", "собака"]], ids=["long, markup", "other scripts"])
@pytest.mark.parametrize("size", [(48, 80), (90, 48)])
def test_any_names_and_shapes_leave_the_paper_whole(names: list[str], size: tuple[int, int]) -> None:
    one, other = answer(PLAN, names), answer(OTHER, names)
    if size != (48, 80):
        sides = []
        for result in (one, other):
            assert result.evidence is not None
            rows = np.ascontiguousarray(result.evidence.rows.transpose(0, 2, 1))
            evidence = replace(result.evidence, height=size[0], width=size[1], rows=rows)
            sides.append(Segmentation.decide(names, evidence, result.recipe))
        one, other = sides
    drawn = disputed(photo(*size), disagree([one, other]))
    inked = (drawn < 250).any(axis=2)
    top = size[0] * -(-320 // max(size))
    assert not inked[-8:].any() and not inked[top:, -6:].any() and inked[top:].any()


def test_no_region_at_all_is_drawn_too() -> None:
    empty = ["....."] * 4
    drawn = disputed(GREY, disagree([answer(empty, ["cat", "dog"])] * 2))
    assert drawn.shape[1] == 320


def test_another_picture_and_another_colour_map_are_refused() -> None:
    with pytest.raises(BadInput, match="of this picture: it is 48x80, the picture is 80x48"):
        disputed(photo(80, 48), found(["cat", "dog"]))
    with pytest.raises(UnknownName, match="cividis, inferno, viridis"):
        disputed(GREY, found(["cat", "dog"]), colours="jet")
