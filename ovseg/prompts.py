"""Words as data: the sentences that surround a name, the words that stand for "none of these", and reading names.

A name may have several phrases (synonyms); a phrase belongs to one name only. Nothing is split by guess: a comma in a
name stays a comma. `TEMPLATES` rows hold exactly one `{}` in each sentence.
"""

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ovseg.errors import BadUsage, UnknownName

LONGEST_NAME = 2000  # characters; longer input is a file given by mistake
MOST_NAMES = 20_000

# A row is a tuple of sentences, or where a library ships them: "module:attribute", functions of the name.
TEMPLATES: Mapping[str, tuple[str, ...] | str] = MappingProxyType(
    {
        "bare": ("{}",),
        "simple": ("a photo of a {}.",),
        "few": ("{}", "a {}", "a photo of a {}.", "a picture of the {}.", "there is a {} in the scene."),
        "openai80": "open_clip.zero_shot_metadata:OPENAI_IMAGENET_TEMPLATES",
        "sub7": "open_clip.zero_shot_metadata:SIMPLE_IMAGENET_TEMPLATES",
    }
)

# Rows owned by no name: they win pixels, which then stay unlabelled.
NEGATIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": (),
        "word": ("background",),
        "scene": (
            "background", "sky", "cloud", "grass", "leaves", "sand", "water", "snow", "dirt", "gravel", "stone", "road",
            "concrete", "brick", "wall", "floor", "tiles", "wood", "carpet", "fabric", "paper", "metal", "marble",
        ),
        # the background list of SCLIP's family for Pascal VOC and COCO-Object
        "voc26": (
            "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed",
            "building", "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor",
            "hill", "rail", "fence",
        ),
    }
)  # fmt: skip

# Everyday things that nobody asks for: what a name must beat to be called present (`presence`). The bundled model was
# taught all of them.
NOUNS: tuple[str, ...] = tuple(
    """
    airplane ambulance anchor ant apple arrow avocado axe backpack balloon banana bandage barrel baseball basket
    basketball bat bathtub battery bear beaver bed bee bell bicycle binoculars bird bone book boot bottle bouquet
    bread briefcase broccoli broom bucket bus butterfly cactus cake calculator calendar camel camera candle canoe car
    carrot castle cat caterpillar chain chair cheese cherry chicken church clock cloud coat coin computer cookie corn
    cow crab crocodile crow crown cup cupcake deer dog dolphin donkey door doughnut dress drum duck eagle ear egg
    elephant envelope eye factory feather fire fish flag flamingo flashlight flower fly foot fox frog garlic gear gift
    giraffe glass glasses globe gloves goat goose grapes guitar hamburger hammer hamster hand handbag harp hat
    headphones helicopter horse hospital house jar jeans kangaroo key keyboard kite knife ladder ladybug lamp lantern
    laptop leaf lemon lighthouse lion lipstick lizard lobster log magnet man map melon microphone mirror monkey moon
    mosquito motorcycle mountain mouse mushroom necklace needle newspaper nose octopus onion orange owl paintbrush
    panda parrot peach pear pen pencil penguin person phone piano pig pineapple pizza plate potato printer pumpkin
    rabbit radio rainbow rat ring robot rocket rooster rose ruler sailboat sandal sandwich saw scarf scissors
    screwdriver shark sheep shell shield ship shirt shoe shovel skateboard skull snail snake snowman socks sofa spider
    spoon squid star statue strawberry suitcase sun sunflower sunglasses swan sword teapot telephone television tent
    tie tiger toilet tomato tooth toothbrush tractor train tree truck trumpet turtle umbrella van vase violin watch
    watermelon whale wheel wheelchair window wolf woman worm zebra
    """.split()
)


@dataclass(frozen=True)
class Words:
    """What was asked, before any network: names, the phrases of each, and what the names brought with them."""

    names: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    negatives: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise BadUsage("at least one name is needed: got none; give words such as -p cat, or ['cat']")
        if len(self.names) > MOST_NAMES:
            raise BadUsage(f"at most {MOST_NAMES} names can be asked at once: got {len(self.names)}")
        folded = Counter(name.casefold() for name in self.names)
        for name in self.names:
            if folded[name.casefold()] > 1:
                raise BadUsage(f"names must differ: {name!r} came {folded[name.casefold()]} times; drop one of them")
        seen: dict[str, str] = {}
        for name, phrases in zip(self.names, self.phrases, strict=True):
            if not phrases:
                raise BadUsage(f"{name!r} has no phrase: write it as 'name=phrase|phrase', or leave the '=' out")
            for phrase in map(str.casefold, phrases):
                if phrase in seen:
                    whose = f"twice under {name!r}" if seen[phrase] == name else f"under {seen[phrase]!r} and {name!r}"
                    raise BadUsage(f"every phrase must be asked once: {phrase!r} came {whose}; drop one of them")
                seen[phrase] = name
        for name, value in self.thresholds.items():
            if name not in self.names:
                raise BadUsage(
                    f"a threshold is for a name that is asked: {name!r} is not among {', '.join(self.names)}"
                )
            if not 0 <= value <= 1:
                raise BadUsage(f"a threshold must be in [0, 1]: {name!r} has {value}")


def templates(name: str) -> tuple[str, ...]:
    """The sentences of a row of `TEMPLATES`.

    >>> templates("simple")
    ('a photo of a {}.',)
    """
    if name not in TEMPLATES:
        raise UnknownName.of("templates", name, TEMPLATES)
    row = TEMPLATES[name]
    if isinstance(row, tuple):
        return row
    module, attribute = row.split(":")
    return tuple(fill("{}") for fill in getattr(importlib.import_module(module), attribute))


def negatives(name: Any) -> tuple[str, ...]:
    """The words of a row of `NEGATIVES`."""
    if not isinstance(name, str):
        raise BadUsage(
            "negatives is the name of a set (" + ", ".join(NEGATIVES) + "); words of your own go with the names: "
            f"{{'names': [...], 'negatives': [...]}}: got {name!r}"
        )
    if name not in NEGATIVES:
        raise UnknownName.of("negatives", name, NEGATIVES)
    return NEGATIVES[name]


def read_words(source: Any) -> Words:
    """Names as a person gives them: one text, a list of texts and mappings, a mapping, or a YAML, JSON or text file.

    >>> read_words(["cat", {"dog": ["dog", "puppy"]}]).phrases
    (('cat',), ('dog', 'puppy'))
    >>> read_words({"bolt": "hex bolt", "nut": {"phrases": ["nut"], "threshold": 0.4}}).thresholds
    {'nut': 0.4}
    """
    if isinstance(source, Words):
        return source
    if isinstance(source, Path) or (isinstance(source, str) and _looks_like_file(source)):
        return read_file(Path(source).expanduser())
    if isinstance(source, str):
        source = [source]
    if isinstance(source, Mapping):
        if "names" in source and set(source) <= {"names", "negatives"}:
            inner = read_words(source["names"])
            extra = _texts(source.get("negatives") or [], "negatives")
            return Words(inner.names, inner.phrases, inner.negatives + extra, inner.thresholds)
        source = [source]
    if not isinstance(source, Iterable):
        raise BadUsage(f"names must be texts, a mapping or a file: got {type(source).__name__}")
    names: list[str] = []
    phrases: list[tuple[str, ...]] = []
    thresholds: dict[str, float] = {}
    for entry in source:
        pairs: Iterable[tuple[Any, Any]] = entry.items() if isinstance(entry, Mapping) else [(entry, None)]
        for name, value in pairs:
            clean = _text(name, "a name")
            if isinstance(value, Mapping):
                stray = set(value) - {"phrases", "threshold"}
                if stray:
                    raise BadUsage(
                        f"{clean!r} may have phrases and threshold: got {', '.join(sorted(map(str, stray)))}"
                    )
                if value.get("threshold") is not None:
                    thresholds[clean] = float(value["threshold"])
                value = value.get("phrases")
            names.append(clean)
            phrases.append((clean,) if value is None else _texts(value, f"the phrases of {clean!r}"))
    return Words(tuple(names), tuple(phrases), (), thresholds)


def read_option(text: str) -> str | dict[str, list[str]]:
    """One `-p` option or one line of a text file: `cat`, or `dog=dog|puppy`.

    >>> read_option("dog = dog | puppy")
    {'dog': ['dog', 'puppy']}
    """
    name, equals, rest = text.partition("=")
    if not equals:
        return text.strip()
    return {name.strip(): [phrase.strip() for phrase in rest.split("|") if phrase.strip()]}


def read_file(path: Path) -> Words:
    """Names from a file.

    .txt has one `name` or `name=phrase|phrase` a line (# starts a comment); .json and .yaml hold a list, a mapping of
    names to phrases, or {"names": ..., "negatives": [...]}.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadUsage(f"the file of names is not there: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"a file of names must be UTF-8 text: {path} ({error})") from None
    if path.suffix.lower() == ".json":
        try:
            return read_words(json.loads(text))
        except json.JSONDecodeError as error:
            raise BadUsage(f"{path} is not JSON: {error}") from None
    if path.suffix.lower() in (".yaml", ".yml"):
        import yaml

        try:
            return read_words(yaml.safe_load(text) or [])
        except yaml.YAMLError as error:
            raise BadUsage(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return read_words([read_option(line) for line in lines if line])


def _looks_like_file(text: str) -> bool:
    return Path(text).suffix.lower() in (".txt", ".json", ".yaml", ".yml")


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Sequence):
        raise BadUsage(f"{what} must be a text or a list of texts: got {type(value).__name__}")
    return tuple(_text(entry, f"one of {what}") for entry in value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadUsage(f"{what} must be a text: got {value!r}; quote it if it is a number or yes/no")
    clean = " ".join(value.split())
    if not clean:
        raise BadUsage(f"{what} is empty: give a word, or leave it out")
    if len(clean) > LONGEST_NAME:
        raise BadUsage(f"{what} has {len(clean)} characters: at most {LONGEST_NAME} are read")
    return clean


__all__ = [
    "LONGEST_NAME",
    "MOST_NAMES",
    "NEGATIVES",
    "NOUNS",
    "TEMPLATES",
    "Words",
    "negatives",
    "read_file",
    "read_option",
    "read_words",
    "templates",
]
