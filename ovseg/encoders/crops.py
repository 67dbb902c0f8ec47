"""Region vectors from pixels: the network looks at the box of each region again, as a picture of its own."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ovseg import images
from ovseg.encoders.rows import View
from ovseg.errors import BadUsage, UnknownName
from ovseg.types import Regions

if TYPE_CHECKING:
    from ovseg.clip.load import Clip

AT_ONCE = 256  # views of regions that are held at a time: bounds memory whatever their number
SHAPES = ("pad", "squeeze")  # how a box becomes the network's square


def crop(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image vector of each box, grown by `expand` within the picture and padded to a square with CLIP's mean.

    One pass a region, batched; no context, and the background inside the box counts too. `shape` "squeeze" stretches
    the box to the square in place of padding it, as OVSeg and CLIP's own transforms without a crop do.
    """
    clip, shape = _clip(view), shape_of(options)
    expand = expand_of(options)
    return encoded(clip, (fitted(clip, window(view.image, box, expand), shape) for box in regions.boxes))


def guided(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The mean of unit image vectors of each box at several `margins`, so that what stands around a thing counts too.

    A margin is the share of the way from the box (0) to the picture's frame (1) that each side goes out. One pass a
    region and margin. After GC-CLIP (arXiv:2309.06581), which averages crops of several margins round a detector's box;
    no program of theirs is public, and that the way is straight and each side goes alone is ours.
    """
    clip, shape = _clip(view), shape_of(options)
    margins = margins_of(options)
    frame = np.array([0, 0, view.image.shape[1], view.image.shape[0]], float)
    views = (
        fitted(clip, window(view.image, box + margin * (frame - box), 1.0), shape)
        for box in regions.boxes
        for margin in margins
    )
    rows = encoded(clip, views)
    return np.asarray(rows.reshape(len(regions), len(margins), rows.shape[1]).mean(axis=1), np.float32)


def encoded(clip: "Clip", views: Iterable[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n dim"]:
    """The network's own vector of each picture; no more than `AT_ONCE` of them are made before they are looked at."""
    from ovseg.clip.dense import encode_images

    left, rows = iter(views), []
    while some := list(islice(left, AT_ONCE)):
        rows.append(encode_images(clip, some))
    return np.concatenate(rows)


def fitted(clip: "Clip", image: UInt8[np.ndarray, "_ _ 3"], shape: str) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture at the network's own size: padded to a square with its mean colour first, or squeezed."""
    return images.resize(square(image, mean_colour(clip)) if shape == "pad" else image, *clip.image_size)


def mean_colour(clip: "Clip") -> UInt8[np.ndarray, "3"]:
    """The network's mean of pixels as bytes: a place of this colour is next to nothing to it."""
    return np.round(255 * np.asarray(clip.mean)).astype(np.uint8)


def window(
    image: UInt8[np.ndarray, "height width 3"], box: Float[np.ndarray, " 4"], expand: float | int
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a picture in an XYXY box that has grown about its middle, cut at the frame; at least one pixel."""
    return image[spans(box, expand, image.shape[0], image.shape[1])]


def spans(box: Float[np.ndarray, " 4"], expand: float | int, height: int, width: int) -> tuple[slice, slice]:
    """The pixel rows and columns of an XYXY box that has grown about its middle, outwards to whole pixels.

    >>> spans(np.array([20, 10, 46, 20.0]), 2.0, 48, 80)
    (slice(5, 25, None), slice(7, 59, None))
    """
    found = []
    for low, high, limit in ((box[1], box[3], height), (box[0], box[2], width)):
        middle, half = (low + high) / 2, (high - low) * expand / 2
        start = min(max(0, math.floor(middle - half + 1e-6)), limit - 1)
        found.append(slice(start, max(start + 1, min(limit, math.ceil(middle + half - 1e-6)))))
    return found[0], found[1]


def square(image: UInt8[np.ndarray, "h w 3"], colour: UInt8[np.ndarray, "3"]) -> UInt8[np.ndarray, "side side 3"]:
    """The picture in the middle of a square of one colour."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.empty((side, side, 3), np.uint8)
    out[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def expand_of(options: Mapping[str, Any]) -> float:
    """The option `expand`, checked: 1 is the box itself."""
    expand = float(options["expand"])
    if not 0 < expand < math.inf:
        raise BadUsage(f"expand must be above 0 (1 is the box itself): got {expand}")
    return expand


def margins_of(options: Mapping[str, Any]) -> list[float]:
    """The option `margins`, checked."""
    margins = options["margins"]
    if isinstance(margins, str | bytes) or not isinstance(margins, Sequence) or not margins:
        raise BadUsage(f"margins is a list of shares from 0 (the box) to 1 (the picture): got {margins!r}")
    for margin in margins:
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin <= 1:
            raise BadUsage(f"a margin goes from 0 (the box itself) to 1 (the whole picture): got {margin!r}")
    return [float(margin) for margin in margins]


def check_boxes(options: Mapping[str, Any]) -> None:
    """What every row that cuts boxes out checks: `expand`, `margins` and `shape`, where it has them."""
    for option, checked in (("expand", expand_of), ("margins", margins_of), ("shape", shape_of)):
        if option in options:
            checked(options)


def shape_of(options: Mapping[str, Any]) -> str:
    """The option `shape`, checked."""
    return chosen("shape", options["shape"], SHAPES)


def chosen(what: str, value: Any, known: Iterable[str]) -> str:
    """A choice by name, or an error that lists the known."""
    if value not in known:
        raise UnknownName.of(what, str(value), known)
    return str(value)


def _clip(view: View) -> "Clip":
    assert view.clip is not None, "a row that needs the network gets it"
    return view.clip


__all__ = [
    "AT_ONCE",
    "SHAPES",
    "check_boxes",
    "chosen",
    "crop",
    "encoded",
    "expand_of",
    "fitted",
    "guided",
    "margins_of",
    "mean_colour",
    "shape_of",
    "spans",
    "square",
    "window",
]
