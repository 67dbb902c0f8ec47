"""The table of methods of whole pictures: names, needs, options, and what is said where a row is wanted."""

from typing import Any

import pytest

import tiny
from ovseg import dense_tokens
from ovseg.clip.methods import LAST_BLOCKS, PICTURES, VARIANTS, canonical, last_block, needs
from ovseg.clip.methods.pictures import PictureMethod, options_of
from ovseg.clip.windows import Reading
from ovseg.errors import BadUsage, UnknownName
from tests.clip.methods.test_rows import PIXELS


def test_names_stand_beside_the_rows_and_are_told_with_them() -> None:
    assert not set(PICTURES) & {*LAST_BLOCKS, *VARIANTS}
    assert canonical("ITACLIP_views") == "itaclip-views"
    with pytest.raises(UnknownName, match="cass, .*corrclip.* trident, .*Did you mean 'trident'"):
        canonical("tridant")
    assert needs("trident") == {"guide", "sam"} and needs("Corrclip") == {"guide", "parts"}
    assert "guide" in needs("proxyclip") and needs("itaclip-views") == frozenset()


@pytest.mark.parametrize("name", PICTURES)
def test_where_a_row_is_wanted_the_sentence_says_where_it_lives_and_what_it_needs(name: str) -> None:
    with pytest.raises(BadUsage, match=rf"method {name} is no row.*needs .*method='{name}'\) or ovseg.clip.pictures"):
        last_block(name)
    with pytest.raises(BadUsage, match="a guide .* and a SAM" if name == "trident" else "needs "):
        dense_tokens(tiny.model().visual, PIXELS, name)


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("naclip", {"keep": 0.5}, "method naclip has no options: got keep=0.5"),
        ("trident", {"faktor": 1.0}, "option of method trident must be one of factor, negative.*Did you mean 'factor'"),
        ("trident", {"factor": "much"}, "factor of method trident is a number: got 'much'"),
        ("trident", {"factor": True}, "factor of method trident is a number: got True"),
        ("trident", {"factor": None}, "factor of method trident is a number: got None"),
        ("cass", {"stretch": 1}, "stretch of method cass is true or false: got 1"),
    ],
)
def test_options_that_it_cannot_take_are_refused(method: str, given: dict[str, Any], sentence: str) -> None:
    for made in (options_of, lambda method, given: Reading(method, options=given)):
        with pytest.raises(BadUsage, match=sentence):
            made(method, given)


def test_options_are_merged_with_the_usual_ones() -> None:
    assert options_of("trident", {"negative": 1}) == {"factor": 1.2, "negative": 1.0}
    assert options_of("trident", {"negative": None}) == dict(PICTURES["trident"].options)
    assert options_of("cass", {"stretch": False})["stretch"] is False and options_of("naclip", {}) == {}


def test_readings_that_it_cannot_do_are_refused_when_made() -> None:
    with pytest.raises(BadUsage, match="protocol fast is needed, got paper"):
        Reading("trident", protocol="paper")
    for change in ({"runtime": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(BadUsage, match="method cass runs in torch at float32 alone"):
            Reading("cass", **change)
    with pytest.raises(UnknownName, match="need of a method must be one of guide, parts, sam"):
        PictureMethod("nothing", needs=("text",))
