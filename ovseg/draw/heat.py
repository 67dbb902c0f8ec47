"""An anomaly map in colour over the grey picture, with a scale: numbers, unit, threshold."""

import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from ovseg.draw.paint import blend, enlarge, enlargement, outline, same_size
from ovseg.draw.sheet import INK, PAPER, SOFT, Pen, fineness, text_size
from ovseg.draw.text import Number, Place, clean, measure, shorten
from ovseg.errors import UnknownName
from ovseg.types import AnomalyMap

COLOUR_MAPS = ("cividis", "inferno", "viridis")  # even in lightness; never jet


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

    same_size(image, anomaly_map.values.shape)
    if colours not in COLOUR_MAPS:
        raise UnknownName.of("colours", colours, COLOUR_MAPS)
    values, threshold = anomaly_map.values, anomaly_map.threshold
    low, high = limits or (float(values.min()), float(max(values.max(), -math.inf if threshold is None else threshold)))
    if not low < high:
        high = low + 1.0
    factor = enlargement(image) if scale else 1
    table = colour_table(colours)
    heat = table[steps(enlarge(values, factor), low, high)]
    grey = cv2.cvtColor(enlarge(image, factor), cv2.COLOR_RGB2GRAY)[:, :, None]
    canvas = blend(np.broadcast_to(grey, heat.shape), heat, opacity)
    unit = text_size(*canvas.shape[:2])
    if threshold is not None:
        above = enlarge(np.where(values >= threshold, 0, -1), factor)
        canvas = outline(canvas, above, max(1.0, unit / 12))
    return np.array(_with_scale(Image.fromarray(canvas), anomaly_map, table, low, high, unit)) if scale else canvas


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
    of = f"{clean(anomaly_map.object)}: " if anomaly_map.object else ""
    texts = [f"{of}score {anomaly_map.score:.3g}", f"unit: {clean(anomaly_map.unit)}"]
    texts += [] if cut is None else [f"contour: threshold {cut:.3g}"]
    side = pad + bar + unit + max(measure(mark, unit) for mark in marks) + pad
    width = max(picture.width + side, 2 * pad + min(max(measure(text, unit) for text in texts), 30 * unit))

    fine, tall = fineness(unit), picture.height
    scale = Image.new("RGB", (side * fine, tall * fine), PAPER)
    pen = Pen(ImageDraw.Draw(scale), fine)
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
    pen = Pen(ImageDraw.Draw(words), fine)
    for i, text in enumerate(texts):
        shown = shorten(text, unit, width - 2 * pad)
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


def steps(values: Float32[np.ndarray, "height width"], low: Number, high: Number) -> UInt8[np.ndarray, "height width"]:
    """The place of each value in a colour table."""
    return np.rint((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def colour_table(colours: str) -> UInt8[np.ndarray, "256 3"]:
    """RGB of 256 steps of a colour map."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{colours.upper()}"))
    return np.ascontiguousarray(bgr[:, 0, ::-1])


__all__ = ["COLOUR_MAPS", "colour_table", "heatmap", "steps"]
