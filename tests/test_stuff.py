import pytest

from ovseg.errors import BadUsage, UnknownName
from ovseg.stuff import STUFF, stuff_among, stuff_words

# Of COCO's own list (panoptic_coco_categories.json), the 53 names that are not things, as it writes them.
COCO = (
    "banner,blanket,bridge,cardboard,counter,curtain,door-stuff,floor-wood,flower,fruit,gravel,house,light,mirror-stuff,"
    "net,pillow,platform,playingfield,railroad,river,road,roof,sand,sea,shelf,snow,stairs,tent,towel,wall-brick,"
    "wall-stone,wall-tile,wall-wood,water-other,window-blind,window-other,tree-merged,fence-merged,ceiling-merged,"
    "sky-other-merged,cabinet-merged,table-merged,floor-other-merged,pavement-merged,mountain-merged,grass-merged,"
    "dirt-merged,paper-merged,food-other-merged,building-other-merged,rock-merged,wall-other-merged,rug-merged"
).split(",")


def test_every_stuff_name_of_coco_is_stuff_as_it_stands_there() -> None:
    assert len(COCO) == 53
    assert tuple(COCO) == stuff_among(COCO, STUFF["coco"])


def test_things_are_no_stuff() -> None:
    things = (
        "cat",
        "person",
        "potted plant",
        "dining table",
        "sea lion",
        "tree frog",
        "house cat",
        "light bulb",
        "other",
    )
    assert stuff_among(things, STUFF["coco"]) == ()


def test_case_hyphens_and_blanks_do_not_matter() -> None:
    names = ["SKY", " wood-floor ", "Floor_Wood", "STRASSE"]
    assert (*names,) == stuff_among(names, [*STUFF["coco"], "straße"])


def test_a_phrase_makes_its_name_stuff() -> None:
    assert ("up there",) == stuff_among(["cat", "up there"], ["sky"], [["cat"], ["heaven", "Sky"]])
    assert stuff_among([], ["sky"]) == () == stuff_among(["sky"], [])


@pytest.mark.parametrize("row", STUFF)
def test_no_word_stands_twice(row: str) -> None:
    assert len(set(STUFF[row])) == len(STUFF[row])
    assert all(word == word.strip().casefold() for word in STUFF[row])


def test_what_is_no_list_of_words_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'coco'"):
        stuff_words("cocos")
    for given in (3, ["sky", 3], ["sky", " "], None):
        with pytest.raises(BadUsage, match="stuff is the name of a list"):
            stuff_words(given)
