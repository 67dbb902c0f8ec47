"""Which names are stuff (what has no number: sky, grass) and which are things (what is counted: cats, chairs).

Words decide, as people type them; nothing is learnt. `STUFF` rows are lists of such words.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ovseg.errors import BadUsage, UnknownName

# COCO's names end in these where classes were merged or a thing has the same word ("wall-other-merged", "door-stuff").
_ENDINGS = {"merged", "other", "stuff"}

STUFF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": (),
        # The 53 stuff classes of COCO panoptic (Kirillov et al. 2019, arXiv:1801.00868), as people type them.
        "coco": (
            "banner", "blanket", "bridge", "cardboard", "counter", "curtain", "curtains", "door", "wood floor",
            "floor wood", "wooden floor", "flower", "flowers", "fruit", "gravel", "house", "light", "mirror", "net",
            "pillow", "platform", "playingfield", "playing field", "field", "railroad", "rails", "river", "road",
            "street", "asphalt", "roof", "sand", "beach", "sea", "ocean", "shelf", "snow", "stairs", "tent", "towel",
            "brick wall", "wall brick", "brick", "bricks", "stone wall", "wall stone", "tile wall", "wall tile",
            "tiles", "wood wall", "wall wood", "wooden wall", "water", "window blind", "window", "tree", "trees",
            "bush", "bushes", "leaves", "fence", "railing", "ceiling", "sky", "cloud", "clouds", "cabinet", "table",
            "floor", "carpet", "pavement", "sidewalk", "concrete", "mountain", "mountains", "hill", "hills", "grass",
            "lawn", "moss", "straw", "dirt", "mud", "ground", "soil", "paper", "food", "building", "buildings", "rock",
            "rocks", "stone", "stones", "wall", "walls", "rug", "mat",
        ),
    }
)  # fmt: skip


def stuff_words(given: object) -> tuple[str, ...]:
    """The words that a choice of stuff stands for: a row of `STUFF`, or a list of words as it is.

    >>> stuff_words("none"), stuff_words(["Lawn"])
    ((), ('Lawn',))
    """
    if isinstance(given, str):
        if given not in STUFF:
            raise UnknownName.of("stuff", given, STUFF)
        return STUFF[given]
    if not isinstance(given, Sequence) or not all(isinstance(word, str) and word.strip() for word in given):
        raise BadUsage(f"stuff is the name of a list ({', '.join(STUFF)}) or a list of words: got {given!r}")
    return tuple(given)


def stuff_among(names: Sequence[str], words: Sequence[str], phrases: Sequence[Sequence[str]] = ()) -> tuple[str, ...]:
    """The names that are stuff: the name itself or one of its phrases is among the words, whatever case and hyphens.

    >>> stuff_among(["cat", "Lawn", "heaven"], ["sky", "lawn"], [["cat"], ["Lawn"], ["heaven", "sky-other-merged"]])
    ('Lawn', 'heaven')
    """
    known = {_plain(word) for word in words}
    spoken = phrases or [()] * len(names)
    return tuple(
        name for name, others in zip(names, spoken, strict=True) if known & {_plain(one) for one in (name, *others)}
    )


def _plain(text: str) -> str:
    """A word without case, hyphens and COCO's endings."""
    parts = re.split(r"[\s_-]+", text.casefold().strip())
    while len(parts) > 1 and parts[-1] in _ENDINGS:
        parts.pop()
    return " ".join(parts)


__all__ = ["STUFF", "stuff_among", "stuff_words"]
