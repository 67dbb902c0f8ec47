"""Where recipes disagree, in colour over the grey picture, with the regions that a reviewer should look at first."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from ovseg.disagreement import Disagreement
from ovseg.draw.heat import COLOUR_MAPS, colour_table, steps
from ovseg.draw.paint import blend, enlarge, enlargement, outline, same_size
from ovseg.draw.sheet import INK, PAPER, SOFT, Pen, fineness, text_size
from ovseg.draw.text import Number, Place, clean, measure, put, shorten
from ovseg.errors import UnknownName
from ovseg.raster import decode_rle

MOST_ROWS = 6  # regions that are listed; of what is missing half as many
LEAST_TOUCH = 0.1  # a chance below it is not listed


def disputed(
    image: UInt8[np.ndarray, "height width 3"],
    found: Disagreement,
    *,
    opacity: Number = 0.65,
    colours: str = "inferno",
    legend: bool = True,
) -> UInt8[np.ndarray, "rows cols 3"]:
    """The disagreement in colour over the grey picture; outlines are the regions of the answer under review.

    Dark is where recipes say the same and bright where they are certain of different answers, in all pictures alike.
    With the legend below it: what reviewing may take, the scale, and what to look at first: numbers are regions of the
    answer, letters what only other recipes name.
    """
    import cv2

    same_size(image, found.values.shape)
    if colours not in COLOUR_MAPS:
        raise UnknownName.of("colours", colours, COLOUR_MAPS)
    factor = enlargement(image) if legend else 1
    table = colour_table(colours)
    heat = table[steps(enlarge(found.values, factor), 0, 1)]
    grey = cv2.cvtColor(enlarge(image, factor), cv2.COLOR_RGB2GRAY)[:, :, None]
    canvas = blend(np.broadcast_to(grey, heat.shape), heat, opacity)
    unit = text_size(*canvas.shape[:2])
    canvas = outline(canvas, enlarge(found.first.owners, factor), max(1.0, unit / 14))
    if not legend:
        return canvas
    picture = Image.fromarray(canvas)
    rows = _rows(found)
    for sign, _, mask in reversed(rows):
        _disc(picture, sign, _deepest(enlarge(mask, factor)), unit)
    panel = _panel([(sign, text) for sign, text, _ in rows], found, table, picture.width, unit)
    paper = Image.new("RGB", (picture.width, picture.height + panel.height), PAPER)
    paper.paste(picture, (0, 0))
    paper.paste(panel, (0, picture.height))
    return np.array(paper)


def _rows(found: Disagreement) -> list[tuple[str, str, Bool[np.ndarray, "height width"]]]:
    """What to look at first: its sign, what is said about it, its mask."""
    first, touches = found.first, found.touches
    rows: list[tuple[str, str, Bool[np.ndarray, "height width"]]] = []
    for i in found.ranking:
        if touches[i] >= LEAST_TOUCH and len(rows) < MOST_ROWS:
            name, share = clean(first.names[first.region_labels[i]]), found.region_shares[i]
            text = f"{name}: {share:.0%} contested, chance of a touch {touches[i]:.0%}"
            rows.append((str(len(rows) + 1), text, decode_rle(first.regions.rles[i])))
    letters = iter("abc"[: MOST_ROWS // 2])
    for i in np.argsort(-found.missing_touches, kind="stable"):
        if found.missing_touches[i] >= LEAST_TOUCH and (letter := next(letters, "")):
            name = clean(first.names[found.missing_labels[i]])
            text = f"{name}, say others; chance that it is missing {found.missing_touches[i]:.0%}"
            rows.append((letter, text, decode_rle(found.missing.rles[i])))
    return rows


def _deepest(mask: Bool[np.ndarray, "height width"]) -> Place:
    """The place farthest from the mask's edge, in pixels (x, y)."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)
    row, col = divmod(int(depth.argmax()), depth.shape[1])
    return col - 1, row - 1


def _disc(picture: Image.Image, sign: str, at: Place, unit: int) -> None:
    """A sign on a dark disc, whole inside the picture."""
    fine, side = fineness(unit), round(unit * 1.6)
    disc = Image.new("RGBA", (side * fine, side * fine), (*INK, 0))
    pen = ImageDraw.Draw(disc)
    pen.ellipse((0, 0, side * fine - 1, side * fine - 1), (*INK, 235), (*PAPER, 255), max(1, unit * fine // 12))
    put(pen, (side * fine / 2, side * fine / 2), sign, unit * fine, (*PAPER, 255), "mm")
    x, y = (
        min(max(round(place) - side // 2, 0), max(0, whole - side))
        for place, whole in zip(at, picture.size, strict=True)
    )
    small = disc.resize((side, side), Image.Resampling.BOX)
    picture.paste(small, (x, y), small)


def _panel(
    rows: list[tuple[str, str]], found: Disagreement, table: UInt8[np.ndarray, "256 3"], width: int, unit: int
) -> Image.Image:
    """What is said below the picture."""
    effort, fine = found.effort(), fineness(unit)
    pad, line, small = round(unit * 1.2), round(unit * 1.7), max(10, round(unit * 0.82))
    count = f"{effort['touches']:.1f}" if (effort["touches"] or 0) < 10 else f"{effort['touches']:.0f}"
    title = f"{effort['contested_share']:.0%} contested by {found.recipes} recipes; about {count} touches to review"
    signs = round(unit * 2)
    columns = max(
        1, (width - 2 * pad) // max(22 * unit, signs + max((measure(text, unit) for _, text in rows), default=1))
    )
    deep = -(-len(rows) // columns)
    height = 2 * pad + line * (3 + deep) + (line // 3 if rows else 0)
    panel = Image.new("RGB", (width * fine, height * fine), PAPER)
    pen = Pen(ImageDraw.Draw(panel), fine)
    room = width - 2 * pad
    pen.write((pad, pad + line * 0.5), shorten(title, unit, room), unit, INK, "lm")
    top, bar = pad + line * 1.25, round(unit * 0.9)
    ramp = table[np.linspace(0, 255, room * fine).round().astype(int)][None].repeat(bar * fine, axis=0)
    panel.paste(Image.fromarray(ramp), (pad * fine, round(top) * fine))
    below = top + bar + small * 0.9
    pen.write((pad, below), shorten("0: recipes alike", small, room // 2 - unit), small, SOFT, "lm")
    most = "1: certain, and different"
    pen.write((width - pad, below), shorten(most, small, room // 2), small, SOFT, "rm")
    start = pad + line * 3 + line // 3
    for i, (sign, text) in enumerate(rows):
        x, y = pad + (i // deep) * (room // columns), start + line * (i % deep + 0.5)
        pen.write((x, y), sign, unit, INK, "lm")
        pen.write((x + signs, y), shorten(text, unit, room // columns - signs), unit, SOFT, "lm")
    return panel.resize((width, height), Image.Resampling.BOX)


__all__ = ["LEAST_TOUCH", "MOST_ROWS", "disputed"]
