"""Region vectors from pixels: the network looks at each region again, as a picture of its own."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ovseg.encoders.rows import View
from ovseg.errors import BadUsage
from ovseg.types import Regions


def crop(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image vector of each box, grown by `expand` within the picture and padded to a square with CLIP's mean.

    One pass a region; no context, and the background inside the box counts too.
    """
    from ovseg.clip.dense import encode_images

    expand = float(options["expand"])
    if not expand > 0:
        raise BadUsage(f"expand must be above 0 (1 is the box itself): got {expand}")
    assert view.clip is not None, "a row that needs the network gets it"
    colour = np.round(255 * np.asarray(view.clip.mean)).astype(np.uint8)
    views = [square(window(view.image, box, expand), colour) for box in regions.boxes]
    return encode_images(view.clip, views)


def window(
    image: UInt8[np.ndarray, "height width 3"], box: Float[np.ndarray, " 4"], expand: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a picture in an XYXY box that has grown about its middle, cut at the frame; at least one pixel."""
    spans = []
    for low, high, limit in ((box[1], box[3], image.shape[0]), (box[0], box[2], image.shape[1])):
        middle, half = (low + high) / 2, (high - low) * expand / 2
        start = min(max(0, math.floor(middle - half + 1e-6)), limit - 1)
        spans.append(slice(start, max(start + 1, min(limit, math.ceil(middle + half - 1e-6)))))
    return image[spans[0], spans[1]]


def square(image: UInt8[np.ndarray, "h w 3"], colour: UInt8[np.ndarray, "3"]) -> UInt8[np.ndarray, "side side 3"]:
    """The picture in the middle of a square of one colour."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.empty((side, side, 3), np.uint8)
    out[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


__all__ = ["crop", "square", "window"]
