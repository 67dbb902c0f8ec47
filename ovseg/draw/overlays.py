"""What was found, laid over the picture: colours, outlines, names where they have room."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from ovseg.draw.legend import with_legend
from ovseg.draw.paint import blend, enlarge, enlargement, outline, same_size
from ovseg.draw.sheet import INK, PAPER, fineness, text_size
from ovseg.draw.text import Number, clean, measure, put, shorten
from ovseg.types import Segmentation


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

    Lines go round the panoptic segments: things of one name that touch are told apart, stuff is in one piece.
    The legend has a row a name: colour, share of the picture, mean posterior over the name's pixels; names without a
    pixel stand last, greyed, as "not found". Without the legend the result has the picture's size; with it a picture
    below 320 px is enlarged by a whole number.
    """
    same_size(image, segmentation.labels.shape)
    factor = enlargement(image) if legend else 1
    unit = text_size(image.shape[0] * factor, image.shape[1] * factor)
    ids, segments = segmentation.panoptic()
    owners = enlarge(ids - 1, factor)
    found = enlarge(segmentation.labels, factor)
    canvas = _tint(enlarge(image, factor), found, segmentation.colours, opacity)
    if outlines:
        canvas = outline(canvas, owners, max(1.0, unit / 12))
    picture = Image.fromarray(canvas)
    if labels:
        _chips(picture, segmentation, owners, [segment["name"] for segment in segments], unit)
    if not legend:
        return np.array(picture)
    return np.array(with_legend(picture, segmentation, unit))


def _tint(
    image: UInt8[np.ndarray, "height width 3"],
    labels: Int[np.ndarray, "height width"],
    colours: UInt8[np.ndarray, "names 3"],
    opacity: Number,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with labelled pixels moved towards their colour."""
    tinted = image.copy()
    inside = labels >= 0
    tinted[inside] = blend(image[inside], colours[labels[inside]], opacity)
    return tinted


def with_prompts(
    drawn: UInt8[np.ndarray, "rows cols 3"],
    image: UInt8[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "p 2"],
    labels: Int[np.ndarray, " p"],
    boxes: Float[np.ndarray, "n 4"],
) -> UInt8[np.ndarray, "rows cols 3"]:
    """An overlay of `image` with what was asked: a plus where inside was pointed at, a minus outside, boxes."""
    import cv2

    canvas, factor = drawn.copy(), enlargement(image)
    radius = max(6, round(0.012 * factor * max(image.shape[:2])))
    fine = max(1, radius // 4)
    for left, top, right, bottom in np.rint(boxes * factor).astype(int).tolist():
        for colour, thick in ((INK, 3 * fine), (PAPER, fine)):
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, thick, cv2.LINE_AA)
    for (x, y), inside in zip(np.floor(points * factor).astype(int).tolist(), labels.tolist(), strict=True):
        cv2.circle(canvas, (x, y), radius + fine, PAPER, -1, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), radius, INK, -1, cv2.LINE_AA)
        arm = round(0.6 * radius)
        cv2.line(canvas, (x - arm, y), (x + arm, y), PAPER, fine, cv2.LINE_AA)
        if inside:
            cv2.line(canvas, (x, y - arm), (x, y + arm), PAPER, fine, cv2.LINE_AA)
    return canvas


def _chips(
    picture: Image.Image,
    segmentation: Segmentation,
    owners: Int[np.ndarray, "height width"],
    names: Sequence[str],
    unit: int,
) -> None:
    """Names on dark chips, at the deepest place of each segment that has room for one, the largest segments first."""
    import cv2

    colours = dict(zip(segmentation.names, segmentation.colours.tolist(), strict=True))
    sizes = np.bincount(owners[owners >= 0], minlength=len(names))
    margin = round(unit * 0.4)
    taken = Image.new("1", picture.size)
    for segment in np.argsort(-sizes, kind="stable")[:40].tolist():
        here = owners == segment
        rows, cols = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        chip = _chip(names[segment], tuple(colours[names[segment]]), unit)
        tall, wide = int(rows[-1] - rows[0]), int(cols[-1] - cols[0])
        if chip.width > 0.9 * wide or chip.height > 0.6 * tall or chip.width * chip.height > 0.4 * sizes[segment]:
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
    text = shorten(clean(name), size, 13 * size)
    pad, dot, height, fine = round(size * 0.45), round(size * 0.7), round(size * 1.5), fineness(unit)
    width = measure(text, size) + dot + round(pad * 2.6)
    chip = Image.new("RGBA", (width * fine, height * fine), (*INK, 0))
    pen = ImageDraw.Draw(chip)
    pen.rounded_rectangle((0, 0, width * fine - 1, height * fine - 1), height * fine * 0.28, (*INK, 215))
    box = [side * fine for side in (pad, (height - dot) / 2, pad + dot, (height + dot) / 2)]
    pen.ellipse(box, (*colour, 255), (*PAPER, 255), max(1, size * fine // 16))
    put(pen, ((pad * 1.6 + dot) * fine, height * fine / 2), text, size * fine, (*PAPER, 255), "lm")
    return chip.resize((width, height), Image.Resampling.BOX)


__all__ = ["overlay", "with_prompts"]
