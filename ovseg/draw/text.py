"""Names as plain text: fonts, what they can draw, what fits.

A name is drawn in one font: Pillow's own if it has every sign, else the font of this machine that has most. Pillow's
own covers ASCII and a few signs more, so a machine without system fonts shows names of European languages in Latin
letters without their accents (Käse as Kase, Straße as Strasse, øl as ol) and Greek, Cyrillic and all others as boxes.
"""

import functools
import math
import unicodedata

from PIL import ImageDraw, ImageFont

from ovseg.errors import BadInput

FINE = 3  # text and rounded corners are drawn this much larger and shrunk: even spacing, smooth edges
SPACE = 0.3  # of the text's size, between words
BOX = "\u25a1"  # stands for a sign that cannot be drawn
Number = float | int
Place = tuple[Number, Number]

# Tried in turn for signs that Pillow's own font lacks; found by Pillow in the system's font folders, or skipped.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSans[wght].ttf",
    "LiberationSans-Regular.ttf",
    "FreeSans.ttf",
    "Arial.ttf",
    "arial.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "seguisym.ttf",
)

# Signs that Unicode does not take apart, as they are written where they are missing.
_PLAIN = {
    "ß": "ss",
    "ẞ": "SS",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "Th",
    "ħ": "h",
    "Ħ": "H",
    "ı": "i",
    "µ": "u",
    "×": "x",
    "–": "-",
    "—": "-",
    "„": "“",
}


def put(
    sheet: ImageDraw.ImageDraw,
    at: Place,
    text: str,
    size: int,
    colour: tuple[int, ...],
    anchor: str,
) -> None:
    """Text with its left ("lm") or right ("rm") middle at a place, word by word: the font has narrow spaces."""
    font = _font(_family_for(text), size)
    x = at[0] if anchor == "lm" else at[0] - _length(text, size)
    for word in text.split(" "):
        sheet.text((x, at[1]), word, colour, font, anchor="lm")
        x += font.getlength(word) + SPACE * size


def _length(text: str, size: int) -> float:
    font, words = _font(_family_for(text), size), text.split(" ")
    return sum(font.getlength(word) for word in words) + SPACE * size * (len(words) - 1)


def measure(text: str, size: int) -> int:
    return math.ceil(_length(text, size * FINE) / FINE)


def shorten(text: str, size: int, room: Number) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    if measure(text, size) <= room:
        return text
    fits = next((n for n in range(len(text) - 1, 0, -1) if measure(text[:n].rstrip() + "…", size) <= room), 0)
    return text[:fits].rstrip() + "…"


@functools.lru_cache(1024)
def clean(text: str) -> str:
    """One line of signs that can be drawn; white space as single spaces, and a long text is cut."""
    line = _line(text)
    line = line if len(line) <= 200 else line[:199] + "…"
    family = _family_for(line)
    return "".join(_drawable(sign, family) for sign in line)


def altered(text: str) -> bool:
    """Whether `clean` had to write signs otherwise; a cut does not count."""
    return not _line(text).startswith(clean(text).removesuffix("…"))


def _line(text: str) -> str:
    """The text on one line, letters and accents as one sign: macOS hands out file names with the two apart."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _drawable(sign: str, family: str) -> str:
    """The sign if the font has it, else its plain letters, else a box; nothing for marks that only change others."""
    apart = unicodedata.normalize("NFKD", sign)
    plain = "".join(part for part in apart if not unicodedata.combining(part))
    for choice in (sign, _PLAIN.get(sign, plain)):
        if choice and choice.isprintable() and all(_has(family, part) for part in choice):
            return choice
    return "" if unicodedata.category(sign) in ("Mn", "Me", "Cf") else BOX


@functools.lru_cache(1024)
def _family_for(text: str) -> str:
    """The first font that has every sign of the text, or the one that has most."""
    return max(_families(), key=lambda family: sum(_has(family, sign) for sign in text))


@functools.lru_cache(64)
def _font(family: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(family, size) if family else ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise BadInput("drawing text needs a Pillow that was built with FreeType: install the wheel from PyPI")
    return font


@functools.cache
def _families() -> tuple[str, ...]:
    """Pillow's own font (its name here is empty) and those of the list that this machine has."""
    here = [""]
    for family in _SYSTEM_FONTS:
        try:
            _font(family, 20)
        except OSError:
            continue
        here.append(family)
    return tuple(here)


@functools.lru_cache(4096)
def _has(family: str, sign: str) -> bool:
    """Whether a font draws a sign otherwise than one that cannot exist."""
    font = _font(family, 20)
    return sign == " " or bytes(font.getmask(sign)) != bytes(font.getmask("\U0010fffe"))


__all__ = ["BOX", "FINE", "Number", "Place", "SPACE", "altered", "clean", "measure", "put", "shorten"]
