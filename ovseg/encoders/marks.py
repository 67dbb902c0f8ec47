"""Region vectors from the whole picture with a mark in it: CLIP looks where a red circle is, or where it is sharp.

The red circle is Shtedritski et al.'s (arXiv:2304.06712); ellipse, line width and blur are as in the executor of
pumpkin805/FALIP@583df71. The caution of the first paper holds here: networks learned from the web what red circles are
drawn round for, police photographs and missing persons among it, so a circle round a person makes names of crime and
misfortune likelier. Do not use this row to describe people.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFilter

from ovseg import images
from ovseg.encoders.crops import chosen, encoded
from ovseg.encoders.rows import View
from ovseg.errors import BadUsage
from ovseg.raster import decode_rle
from ovseg.types import Regions

RED = (255, 0, 0)
LINE_SHARE = 200  # the longest side over this is the width of the line
SHARP = ("ellipse", "box", "mask")  # where the picture stays as it is; blurred elsewhere


def circle(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image vector of the whole picture, squeezed to the network's square, with each region marked in turn.

    `blur` is the standard deviation in pixels of the blur outside the mark (0: none), `sharp` where there is none:
    inside the "ellipse" that is inscribed in the box, in the "box", or in the "mask". `ring` draws the ellipse in red,
    on top. `compat` draws as published: a line of no width in pictures below 200 px, one pixel more to the right and
    below, and the edge of the sharp ellipse half blurred. One pass a region; the blur is made once a picture.
    """
    assert view.clip is not None, "a row that needs the network gets it"
    sharp, blur = read(options)
    soft, compat = blurred(view.image, blur), bool(options["compat"])
    size = view.clip.image_size

    def marked() -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
        for rle, box in zip(regions.rles, regions.boxes, strict=True):
            place = box if compat else box - np.array([0, 0, 1, 1])
            if sharp == "mask":
                inside = decode_rle(rle) * np.uint8(255)
            else:
                inside = drawn(sharp, place, *view.image.shape[:2], compat=compat)
            made = mixed(view.image, soft, inside)
            if options["ring"]:
                made = ring(made, place, line_width(*view.image.shape[:2], compat=compat))
            yield images.resize(made, *size)

    return encoded(view.clip, marked())


def read(options: Mapping[str, Any]) -> tuple[str, float]:
    """The options `sharp` and `blur`, checked."""
    return chosen("sharp", options["sharp"], SHARP), _deviation(options["blur"])


def blurred(image: UInt8[np.ndarray, "height width 3"], deviation: float | int) -> UInt8[np.ndarray, "height width 3"]:
    """The picture under Pillow's Gaussian blur; itself where the standard deviation is 0."""
    if _deviation(deviation) == 0:
        return image
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(deviation)), np.uint8)


def drawn(
    shape: str, box: Float[np.ndarray, " 4"], height: int, width: int, *, compat: bool = False
) -> UInt8[np.ndarray, "height width"]:
    """255 in the pixels of an ellipse or a box whose first and last pixels are `box` (XYXY, both inclusive).

    `compat` gives the ellipse the edge that is published: "red" on a grey picture, which is 76.

    >>> drawn("box", np.array([1, 0, 2, 0.0]), 2, 4).tolist()
    [[0, 255, 255, 0], [0, 0, 0, 0]]
    """
    canvas = Image.new("L", (width, height), 0)
    _FILLED[shape](ImageDraw.Draw(canvas), tuple(float(edge) for edge in box), "red" if compat else 255)
    return np.asarray(canvas, np.uint8)


def mixed(
    image: UInt8[np.ndarray, "height width 3"],
    soft: UInt8[np.ndarray, "height width 3"],
    inside: UInt8[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture where `inside` is 255, bit by bit, the other where it is 0, and between them in between."""
    return np.asarray(Image.composite(Image.fromarray(image), Image.fromarray(soft), Image.fromarray(inside)), np.uint8)


def ring(
    image: UInt8[np.ndarray, "height width 3"], box: Float[np.ndarray, " 4"], line: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with a red ellipse of `line` px that touches the first and last pixels of a box from inside."""
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).ellipse(tuple(float(edge) for edge in box), outline=RED, width=line)
    return np.asarray(canvas, np.uint8)


def line_width(height: int, width: int, *, compat: bool = False) -> int:
    """Pixels of the ring's line: the longest side over 200, at least one (as published: none below 200 px).

    >>> line_width(480, 640), line_width(48, 80), line_width(48, 80, compat=True)
    (3, 1, 0)
    """
    published = max(height, width) // LINE_SHARE
    return published if compat else max(1, published)


def _deviation(blur: float | int) -> float:
    if not 0 <= blur < math.inf:
        raise BadUsage(f"blur is a standard deviation of 0 px (none) or more: got {blur}")
    return float(blur)


_FILLED: Mapping[str, Any] = MappingProxyType(
    {
        "ellipse": lambda draw, box, edge: draw.ellipse(box, outline=edge, fill=255),
        "box": lambda draw, box, edge: draw.rectangle(box, fill=255),
    }
)

__all__ = ["LINE_SHARE", "RED", "SHARP", "blurred", "circle", "drawn", "line_width", "mixed", "read", "ring"]
