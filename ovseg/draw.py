"""Pictures out: what was found, laid over the picture, with a legend or a scale that can be read at any size.

Nothing is told by colour alone: regions have double outlines (light in dark) and, where they have room, their names.
Names are drawn as plain text; signs that no font on the machine has lose their accents or become boxes,
and a line below says so.
"""

import functools
import io
import math
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from ovseg.errors import BadInput, UnknownName
from ovseg.raster import decode_rle, split
from ovseg.types import AnomalyMap, Segmentation

SMALLEST = 320  # px: a picture whose long side is below this is drawn enlarged by a whole number, so a legend fits
FINE = 3  # text and rounded corners are drawn this much larger and shrunk: even spacing, smooth edges
INK, SOFT, FAINT, PAPER = (31, 35, 40), (101, 109, 118), (208, 212, 217), (255, 255, 255)
SPACE = 0.3  # of the text's size, between words
BOX = "\u25a1"  # stands for a sign that cannot be drawn
Number = float | int
Place = tuple[Number, Number]
COLOUR_MAPS = ("cividis", "inferno", "viridis")  # even in lightness; never jet

# Tried in turn for signs that Pillow's own font lacks; found by Pillow in the system's font folders, or skipped.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "seguisym.ttf",
)


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    segmentation: Segmentation,
    *,
    opacity: Number = 0.55,
    outlines: bool = True,
    labels: bool = True,
    legend: bool = True,
) -> UInt8[np.ndarray, "rows cols 3"]:
    """The picture with every name in its colour, and a legend below it (beside it if the picture is upright).

    The legend has a row a name: colour, share of the picture, mean posterior over the name's pixels; names without a
    pixel stand last, greyed, as "not found". Without the legend the result has the picture's size; with it a picture
    below 320 px is enlarged by a whole number.
    """
    _same_size(image, segmentation.labels.shape)
    factor = _enlargement(image) if legend else 1
    unit = _unit(image.shape[0] * factor, image.shape[1] * factor)
    owners = _enlarge(_owners(segmentation), factor)
    found = _enlarge(segmentation.labels, factor)
    canvas = _tint(_enlarge(image, factor), found, segmentation.colours, opacity)
    if outlines:
        canvas = _outline(canvas, owners, max(1.0, unit / 12))
    picture = Image.fromarray(canvas)
    if labels:
        _chips(picture, segmentation, owners, unit)
    if not legend:
        return np.array(picture)
    rows, title = _rows(segmentation)
    return np.array(_with_legend(picture, rows, title, unit))


def heatmap(
    image: UInt8[np.ndarray, "height width 3"],
    anomaly_map: AnomalyMap,
    *,
    opacity: Number = 0.65,
    colours: str = "inferno",
    limits: Place | None = None,
    scale: bool = True,
) -> UInt8[np.ndarray, "rows cols 3"]:
    """The map in colour over the grey picture, its threshold as a contour, and a scale with numbers and unit.

    Colours run from the smallest to the largest value, or to the threshold where that is larger, so that a picture with
    nothing above its threshold does not glow; `limits` sets both ends, as for pictures that are to be compared.
    """
    import cv2

    _same_size(image, anomaly_map.values.shape)
    if colours not in COLOUR_MAPS:
        raise UnknownName.of("colours", colours, COLOUR_MAPS)
    values, threshold = anomaly_map.values, anomaly_map.threshold
    low, high = limits or (float(values.min()), float(max(values.max(), -math.inf if threshold is None else threshold)))
    if not low < high:
        high = low + 1.0
    factor = _enlargement(image) if scale else 1
    table = _colour_table(colours)
    heat = table[_steps(_enlarge(values, factor), low, high)]
    grey = cv2.cvtColor(_enlarge(image, factor), cv2.COLOR_RGB2GRAY)[:, :, None]
    canvas = _blend(np.broadcast_to(grey, heat.shape), heat, opacity)
    unit = _unit(*canvas.shape[:2])
    if threshold is not None:
        above = _enlarge(np.where(values >= threshold, 0, -1), factor)
        canvas = _outline(canvas, above, max(1.0, unit / 12))
    return np.array(_with_scale(Image.fromarray(canvas), anomaly_map, table, low, high, unit)) if scale else canvas


def index_png(segmentation: Segmentation) -> bytes:
    """A PNG of class numbers in the picture's own size: 0 unlabelled, k + 1 for name k, with the names' colours.

    Palette PNG up to 255 names, 16-bit grey above. `class_table` says which number is which.
    """
    numbers = segmentation.labels + 1
    if len(segmentation.names) > 255:
        picture = Image.fromarray(numbers.astype(np.uint16))
    else:
        picture = Image.fromarray(numbers.astype(np.uint8))
        picture.putpalette(b"\0\0\0" + segmentation.colours.tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def class_table(segmentation: Segmentation) -> list[dict[str, Any]]:
    """What the numbers of `index_png` mean: one row a class, ready for JSON; 0 is unlabelled."""
    named = zip(segmentation.names, segmentation.colours, strict=True)
    rows = [{"id": k + 1, "name": name, "colour": "#" + bytes(colour).hex()} for k, (name, colour) in enumerate(named)]
    return [{"id": 0, "name": None, "colour": "#000000"}, *rows]


def png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


# Fills and outlines


def _tint(
    image: UInt8[np.ndarray, "height width 3"],
    labels: Int[np.ndarray, "height width"],
    colours: UInt8[np.ndarray, "names 3"],
    opacity: Number,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with labelled pixels moved towards their colour."""
    tinted = image.copy()
    inside = labels >= 0
    tinted[inside] = _blend(image[inside], colours[labels[inside]], opacity)
    return tinted


def _blend(
    under: UInt8[np.ndarray, "..."], over: UInt8[np.ndarray, "..."], opacity: Number
) -> UInt8[np.ndarray, "..."]:
    share = round(256 * opacity)
    return ((under.astype(np.uint16) * (256 - share) + over.astype(np.uint16) * share) >> 8).astype(np.uint8)


def _outline(
    canvas: UInt8[np.ndarray, "height width 3"], owners: Int[np.ndarray, "height width"], thickness: Number
) -> UInt8[np.ndarray, "height width 3"]:
    """A light line with dark edges wherever the owner changes; not along the picture's own border."""
    import cv2

    border = np.zeros(owners.shape, np.uint8)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        change = owners[one] != owners[other]
        border[one] |= change
        border[other] |= change
    if not border.any():
        return canvas
    away: Float32[np.ndarray, "height width"] = cv2.distanceTransform(1 - border, cv2.DIST_L2, 5)
    near = away < 2 * thickness + 1
    pixels, distance = canvas[near].astype(np.float32), away[near][:, None]
    dark = (2 * thickness - distance).clip(0, 1) * 0.75
    light = (thickness - distance).clip(0, 1) * 0.95
    pixels *= 1 - dark
    pixels += (255 - pixels) * light
    drawn = canvas.copy()
    drawn[near] = np.rint(pixels).astype(np.uint8)
    return drawn


def _owners(segmentation: Segmentation) -> Int[np.ndarray, "height width"]:
    """The region of each pixel, -1 for none."""
    if segmentation.evidence is not None:
        return split(segmentation.labels, segmentation.evidence.parts, len(segmentation.names))[0]
    owners = np.full(segmentation.labels.shape, -1, np.int64)
    for i, rle in enumerate(segmentation.regions.rles):
        owners[decode_rle(rle)] = i
    return owners


# Names on regions


def _chips(
    picture: Image.Image, segmentation: Segmentation, owners: Int[np.ndarray, "height width"], unit: int
) -> None:
    """Names on dark chips, at the deepest place of each region that has room for one, the largest regions first."""
    import cv2

    kinds = segmentation.region_labels
    sizes = np.bincount(owners[owners >= 0], minlength=len(kinds))
    margin = round(unit * 0.4)
    taken = Image.new("1", picture.size)
    for region in np.argsort(-sizes, kind="stable")[:40].tolist():
        here = owners == region
        rows, cols = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        chip = _chip(segmentation.names[kinds[region]], tuple(segmentation.colours[kinds[region]].tolist()), unit)
        tall, wide = int(rows[-1] - rows[0]), int(cols[-1] - cols[0])
        if chip.width > 0.9 * wide or chip.height > 0.6 * tall or chip.width * chip.height > 0.4 * sizes[region]:
            continue
        step = max(1, max(tall, wide) // 256)
        part = here[rows[0] : rows[-1] + 1 : step, cols[0] : cols[-1] + 1 : step]
        depth = cv2.distanceTransform(np.pad(part.astype(np.uint8), 1), cv2.DIST_L2, 5)
        row, col = divmod(int(depth.argmax()), depth.shape[1])
        middle = int(cols[0]) + (col - 1) * step, int(rows[0]) + (row - 1) * step
        x, y = (
            min(max(at - size // 2, margin), whole - size - margin)
            for at, size, whole in zip(middle, chip.size, picture.size, strict=True)
        )
        frame = (x - margin, y - margin, x + chip.width + margin, y + chip.height + margin)
        if min(x, y) < margin or taken.crop(frame).getbbox():
            continue
        taken.paste(1, frame)
        picture.paste(chip, (x, y), chip)


@functools.lru_cache(256)
def _chip(name: str, colour: tuple[int, int, int], unit: int) -> Image.Image:
    """A name and its colour on a dark, nearly opaque plate."""
    size = max(11, round(unit * 0.92))
    text = _shorten(_clean(name), size, 13 * size)
    pad, dot, height, fine = round(size * 0.45), round(size * 0.7), round(size * 1.5), _fine(unit)
    width = _width(text, size) + dot + round(pad * 2.6)
    chip = Image.new("RGBA", (width * fine, height * fine), (*INK, 0))
    pen = ImageDraw.Draw(chip)
    pen.rounded_rectangle((0, 0, width * fine - 1, height * fine - 1), height * fine * 0.28, (*INK, 215))
    box = [side * fine for side in (pad, (height - dot) / 2, pad + dot, (height + dot) / 2)]
    pen.ellipse(box, (*colour, 255), (*PAPER, 255), max(1, size * fine // 16))
    _put(pen, ((pad * 1.6 + dot) * fine, height * fine / 2), text, size * fine, (*PAPER, 255), "lm")
    return chip.resize((width, height), Image.Resampling.BOX)


# The legend


@dataclass(frozen=True)
class _Row:
    """One line of the legend; no colour for what was not found."""

    name: str
    colour: tuple[int, int, int] | None
    share: str
    score: str


def _rows(segmentation: Segmentation) -> tuple[list[_Row], str]:
    """Names found, by falling share, then names not found; and a title that sums them up."""
    labels, kinds = segmentation.region_labels, segmentation.regions.area
    shares = segmentation.shares
    found: list[tuple[float, _Row]] = []
    absent: list[_Row] = []
    for k, name in enumerate(segmentation.names):
        if not shares[name]:
            absent.append(_Row(name, None, "not found", ""))
            continue
        own = labels == k
        score = float(np.average(segmentation.region_scores[own, k], weights=kinds[own])) if own.any() else math.nan
        red, green, blue = segmentation.colours[k].tolist()
        found.append((shares[name], _Row(name, (red, green, blue), _percent(shares[name]), f"{score:.2f}")))
    found.sort(key=lambda pair: -pair[0])
    count = len(segmentation.names)
    title = f"{len(found)} of {count} name{'s' * (count != 1)} found" if count else "No name was asked"
    if found:
        title += f", {_percent(sum(share for share, _ in found))} of the picture"
    return [row for _, row in found] + absent, title


def _with_legend(picture: Image.Image, rows: list[_Row], title: str, unit: int) -> Image.Image:
    """The picture on paper, the legend below it, or beside it if it is upright; nothing is cut."""
    beside = picture.height > picture.width
    pad, line, small, gap = round(unit * 1.2), round(unit * 1.7), max(10, round(unit * 0.82)), round(unit * 0.7)
    swatch = round(unit * 1.05)
    score = max(_width("0.00", unit), _width("score", small))
    share = max(_width("100 %", unit), _width("99.9 %", unit), _width("share", small))
    tail = max(share + gap + score, _width("not found", unit))
    longest = max((_width(_clean(row.name), unit) for row in rows), default=0)
    fixed = swatch + gap + 2 * gap + tail  # a column less its name
    column = fixed + min(max(longest, 4 * unit), 16 * unit)
    changed = any(_clean(row.name).rstrip("…") not in " ".join(row.name.split()) for row in rows)
    notes = ["some signs are not in this machine's fonts"] if changed else []
    titles = max(_width(title, unit), *(_width(note, small) for note in notes), 0)
    between = 3 * gap
    if beside:
        deep = max(1, (picture.height - 2 * pad - line * (2 + len(notes))) // line)
        columns = max(1, -(-len(rows) // deep))
    else:
        room = picture.width - 2 * pad
        column = max(min(column, room), fixed + 4 * unit)  # a narrow picture shortens names before the paper grows
        columns = max(1, min((room + between) // (column + between), len(rows)))
    deep = -(-len(rows) // columns)
    columns = max(1, -(-len(rows) // max(1, deep)))
    if not beside:  # columns spread over the picture's width, as far as the eye still follows a row
        column = max(column, min((room - (columns - 1) * between) // columns, 30 * unit))
    wide = 2 * pad + max(columns * column + (columns - 1) * between, titles)
    header = line if any(row.colour for row in rows) else line // 3
    high = 2 * pad + line * (1 + deep + len(notes)) + (header if rows else 0)

    fine = _fine(unit)
    panel = Image.new("RGB", (wide * fine, high * fine), PAPER)
    pen = _Pen(ImageDraw.Draw(panel), fine)
    pen.write((pad, pad + line * 0.5), title, unit, INK, "lm")
    top = pad + line
    for at in range(columns if rows else 0):
        x = pad + at * (column + between)
        shown = rows[at * deep : (at + 1) * deep]
        if any(row.colour for row in shown):
            pen.write((x + column, top + line * 0.5), "score", small, SOFT, "rm")
            pen.write((x + column - score - gap, top + line * 0.5), "share", small, SOFT, "rm")
        pen.line((x, top + header - line * 0.1), x + column, unit)
        for i, row in enumerate(shown):
            _legend_row(
                pen, row, (x, top + header + line * (0.5 + i)), column, (unit, swatch, gap, score), column - fixed
            )
    for i, note in enumerate(notes):
        pen.write((pad, high - pad - line * (len(notes) - i - 0.5)), note, small, SOFT, "lm")
    panel = panel.resize((wide, high), Image.Resampling.BOX)

    size = (picture.width + wide, max(picture.height, high))
    if not beside:
        size = (max(picture.width, wide), picture.height + high)
    paper = Image.new("RGB", size, PAPER)
    paper.paste(picture, (0, 0))
    paper.paste(panel, (picture.width, 0) if beside else (0, picture.height))
    return paper


def _legend_row(
    pen: "_Pen",
    row: _Row,
    at: Place,
    column: int,
    sizes: tuple[int, int, int, int],
    name_room: Number,
) -> None:
    """One line of the legend from `at`, the middle of its left end, to `column` px further right."""
    unit, swatch, gap, score = sizes
    x, middle = at
    name = _shorten(_clean(row.name), unit, name_room)
    pen.swatch(at, swatch, row.colour)
    pen.write((x + swatch + gap, middle), name, unit, INK if row.colour else SOFT, "lm")
    if row.colour is None:
        pen.write((x + column, middle), row.share, unit, SOFT, "rm")
    else:
        pen.write((x + column, middle), row.score, unit, SOFT, "rm")
        pen.write((x + column - score - gap, middle), row.share, unit, INK, "rm")


def _percent(share: float) -> str:
    """A share of the picture in at most five signs."""
    if share < 0.0005:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.9995 else "100 %"


# The scale of a heat map


def _with_scale(
    picture: Image.Image,
    anomaly_map: AnomalyMap,
    table: UInt8[np.ndarray, "256 3"],
    low: Number,
    high: Number,
    unit: int,
) -> Image.Image:
    """The picture on paper, with a colour bar on its right and what the map says in words below."""
    pad, line, bar, cut = round(unit * 1.2), round(unit * 1.7), round(unit * 1.2), anomaly_map.threshold
    step, ticks = _ticks(low, high, max(1, min(6, int(picture.height // (2.2 * line)))))
    digits = max(0, -math.floor(math.log10(step)))
    marks = [f"{value:.{digits}f}" for value in ticks]
    of = f"{_clean(anomaly_map.object)}: " if anomaly_map.object else ""
    texts = [f"{of}score {anomaly_map.score:.3g}", f"unit: {_clean(anomaly_map.unit)}"]
    texts += [] if cut is None else [f"contour: threshold {cut:.3g}"]
    side = pad + bar + unit + max(_width(mark, unit) for mark in marks) + pad
    width = max(picture.width + side, 2 * pad + min(max(_width(text, unit) for text in texts), 30 * unit))

    fine, tall = _fine(unit), picture.height
    scale = Image.new("RGB", (side * fine, tall * fine), PAPER)
    pen = _Pen(ImageDraw.Draw(scale), fine)
    end = round(unit * 0.7)  # room for half a line of text at both ends
    height = max(2, tall - 2 * end)
    ramp = table[np.linspace(255, 0, height * fine).round().astype(int)][:, None].repeat(bar * fine, axis=1)
    scale.paste(Image.fromarray(ramp), (pad * fine, end * fine))
    places = [end + (high - value) / (high - low) * height for value in ticks]
    for place, mark in zip(places, marks, strict=True):
        pen.line((pad + bar, place), pad + bar + unit * 0.35, unit)
        pen.write((pad + bar + unit * 0.65, place), mark, unit, INK, "lm")
    if cut is not None and low <= cut <= high:
        pen.marker(end + (high - cut) / (high - low) * height, pad - unit * 0.3, pad + bar + unit * 0.3, unit / 12)
    words = Image.new("RGB", (width * fine, (2 * pad + line * len(texts)) * fine), PAPER)
    pen = _Pen(ImageDraw.Draw(words), fine)
    for i, text in enumerate(texts):
        shown = _shorten(text, unit, width - 2 * pad)
        pen.write((pad, pad + line * (i + 0.5)), shown, unit, SOFT if i else INK, "lm")

    paper = Image.new("RGB", (width, tall + words.height // fine), PAPER)
    paper.paste(picture, (0, 0))
    paper.paste(scale.resize((side, tall), Image.Resampling.BOX), (picture.width, 0))
    paper.paste(words.resize((width, words.height // fine), Image.Resampling.BOX), (0, tall))
    return paper


def _ticks(low: Number, high: Number, most: int) -> tuple[float, list[float]]:
    """A round step (1, 2 or 5 times a power of ten) and its multiples in [low, high]: about `most`, at least one.

    >>> _ticks(0.0, 1.0, 5), _ticks(-3.0, 14.0, 4)
    ((0.2, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (5.0, [0.0, 5.0, 10.0]))
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if first > last:
        return _ticks(low, high, most + 1)
    return step, [round(i * step, 12) for i in range(first, last + 1)]


def _steps(values: Float32[np.ndarray, "height width"], low: Number, high: Number) -> UInt8[np.ndarray, "height width"]:
    return np.rint((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _colour_table(colours: str) -> UInt8[np.ndarray, "256 3"]:
    """RGB of 256 steps of a colour map."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{colours.upper()}"))
    return np.ascontiguousarray(bgr[:, 0, ::-1])


# Sizes and text


def _same_size(image: UInt8[np.ndarray, "height width 3"], shape: tuple[int, ...]) -> None:
    if image.shape[:2] != shape:
        raise BadInput(
            f"the result must be of this picture: it is {shape[0]}x{shape[1]}, the picture is "
            f"{image.shape[0]}x{image.shape[1]} (rows x cols). Swapped axes?"
        )


def _enlargement(image: UInt8[np.ndarray, "height width 3"]) -> int:
    return -(-SMALLEST // max(image.shape[:2])) if max(image.shape[:2]) < SMALLEST else 1


def _enlarge(array: Shaped[np.ndarray, "height width *rest"], factor: int) -> Shaped[np.ndarray, "rows cols *rest"]:
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def _unit(height: int, width: int) -> int:
    """Height of the text in pixels: about 2 % of a picture, never too small to read."""
    return max(13, round(0.0125 * (height + width)))


def _fine(unit: int) -> int:
    """How much larger than life text is drawn; large text needs no help."""
    return FINE if unit <= 40 else 1


@dataclass(frozen=True)
class _Pen:
    """Draws on a sheet that is `fine` times larger than life; all numbers here are of the sheet once shrunk."""

    sheet: ImageDraw.ImageDraw
    fine: int

    def write(self, at: Place, text: str, size: int, colour: tuple[int, int, int], anchor: str) -> None:
        _put(self.sheet, (at[0] * self.fine, at[1] * self.fine), text, size * self.fine, colour, anchor)

    def line(self, at: Place, to: Number, unit: int) -> None:
        """A level hair line."""
        x, y = at[0] * self.fine, round(at[1]) * self.fine
        self.sheet.rectangle((x, y, to * self.fine - 1, y + max(1, unit // 14) * self.fine - 1), FAINT)

    def swatch(self, at: Place, size: int, colour: tuple[int, int, int] | None) -> None:
        """A square with round corners, middle left at `at`; hollow without a colour."""
        x, y = at[0] * self.fine, (at[1] - size / 2) * self.fine
        corners = (x, y, x + size * self.fine - 1, y + size * self.fine - 1)
        edge = FAINT if colour is None else (colour[0] * 2 // 3, colour[1] * 2 // 3, colour[2] * 2 // 3)
        self.sheet.rounded_rectangle(corners, size * self.fine * 0.22, colour, edge, max(1, size * self.fine // 14))

    def marker(self, middle: Number, start: Number, end: Number, half: Number) -> None:
        """A white level bar in a dark one."""
        box = [side * self.fine for side in (start, middle - 2 * half, end, middle + 2 * half)]
        self.sheet.rectangle(box, INK)
        inner = half * self.fine
        self.sheet.rectangle([box[0] + inner, box[1] + inner, box[2] - inner, box[3] - inner], PAPER)


def _put(
    sheet: ImageDraw.ImageDraw,
    at: Place,
    text: str,
    size: int,
    colour: tuple[int, ...],
    anchor: str,
) -> None:
    """Text with its left ("lm") or right ("rm") middle at a place, word by word: the font has narrow spaces."""
    font = _font_for(text, size)
    x = at[0] if anchor == "lm" else at[0] - _length(text, size)
    for word in text.split(" "):
        sheet.text((x, at[1]), word, colour, font, anchor="lm")
        x += font.getlength(word) + SPACE * size


def _length(text: str, size: int) -> float:
    font, words = _font_for(text, size), text.split(" ")
    return sum(font.getlength(word) for word in words) + SPACE * size * (len(words) - 1)


def _width(text: str, size: int) -> int:
    return math.ceil(_length(text, size * FINE) / FINE)


def _shorten(text: str, size: int, room: Number) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    if _width(text, size) <= room:
        return text
    fits = next((n for n in range(len(text) - 1, 0, -1) if _width(text[:n].rstrip() + "…", size) <= room), 0)
    return text[:fits].rstrip() + "…"


@functools.lru_cache(1024)
def _clean(text: str) -> str:
    """One line of signs that can be drawn; white space as single spaces, and a long text is cut."""
    line = " ".join(text.split())
    return "".join(_drawable(sign) for sign in (line if len(line) <= 200 else line[:199] + "…"))


def _drawable(sign: str) -> str:
    """The sign if some font here has it, else its letter without accents, else a box."""
    plain = unicodedata.normalize("NFKD", sign)[0]
    for choice in (sign, plain):
        if choice.isprintable() and any(_has(family, choice) for family in _families()):
            return choice
    return BOX


@functools.lru_cache(1024)
def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has every sign of the text, or the one that has most."""
    own = _font("", size)
    if all(_has("", sign) for sign in text):
        return own
    best = max(_families(), key=lambda family: sum(_has(family, sign) for sign in text))
    return _font(best, size)


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


__all__ = [
    "COLOUR_MAPS",
    "class_table",
    "heatmap",
    "index_png",
    "overlay",
    "png",
]
