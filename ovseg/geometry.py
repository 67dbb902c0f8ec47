"""Sizes, windows, boxes and grids: arithmetic on numbers, before any pixel is touched.

Axes are (height, width) and (row, col); x and y only in boxes and points, x to the right and y down.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from ovseg.errors import BadUsage


def windows(length: int, crop: int, stride: int) -> Int[np.ndarray, " n"]:
    """Starts of the windows that cover one axis: every stride, the last one shifted inwards to end with the axis.

    An axis shorter than the crop has one window, used as it is. The layout of mmsegmentation's slide inference.

    >>> windows(80, 32, 16).tolist(), windows(50, 32, 16).tolist(), windows(20, 32, 16).tolist()
    ([0, 16, 32, 48], [0, 16, 18], [0])
    """
    if min(length, crop, stride) < 1:
        raise BadUsage(f"length, crop and stride must be at least 1: got {length}, {crop}, {stride}")
    last = max(length - crop, 0)
    count = -(-last // stride) + 1
    return np.minimum(np.arange(count) * stride, last)


def fit(height: int, width: int, short_side: int, multiple: int, long_side: int = 2048) -> tuple[int, int]:
    """Size whose short side is about `short_side`, both sides multiples of `multiple`, the long one within `long_side`.

    Sides are rounded each on its own, to at least one multiple, so the ratio may move by half a patch. A picture too
    long for `long_side` gets a smaller short side.

    >>> fit(480, 640, 336, 16), fit(640, 480, 336, 16), fit(1, 1, 336, 16), fit(10, 4000, 336, 16)
    ((336, 448), (448, 336), (336, 336), (16, 2048))
    """
    if multiple > min(short_side, long_side):
        raise BadUsage(f"a side must hold at least one patch of {multiple}: got {short_side} and {long_side}")
    scale = _scale(height, width, short_side, long_side)
    largest = long_side // multiple
    rows, cols = (min(largest, max(1, math.floor(side * scale / multiple + 0.5))) for side in (height, width))
    return rows * multiple, cols * multiple


def rescale(height: int, width: int, short_side: int, long_side: int = 2048) -> tuple[int, int]:
    """Size with the ratio kept: short side at most `short_side`, long side at most `long_side`, one of them met.

    Rounded as mmcv's `imrescale` does, for the papers' protocol; at least one pixel a side, where mmcv gives none.

    >>> rescale(375, 500, 336), rescale(100, 2000, 336), rescale(1, 9000, 336)
    ((336, 448), (102, 2048), (1, 2048))
    """
    scale = _scale(height, width, short_side, long_side)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def grid_points(per_side: int) -> Float[np.ndarray, "points 2"]:
    """Middles of `per_side` x `per_side` cells as (x, y) in [0, 1], in reading order: segment-anything's prompt grid.

    >>> grid_points(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    middle = (np.arange(per_side) + 0.5) / per_side
    return np.stack([np.tile(middle, per_side), np.repeat(middle, per_side)], axis=1)


def xywh_to_xyxy(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Corner and size to two corners, both at pixel edges.

    >>> xywh_to_xyxy(np.array([[2.0, 1, 3, 5]])).tolist()
    [[2.0, 1.0, 5.0, 6.0]]
    """
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Two corners to corner and size, both at pixel edges."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _scale(height: int, width: int, short_side: int, long_side: int) -> float:
    if min(height, width, short_side) < 1 or long_side < short_side:
        raise BadUsage(
            f"sizes must be at least 1 and long_side not below short_side: got a picture of {height}x{width}, "
            f"short_side {short_side}, long_side {long_side}"
        )
    return min(short_side / min(height, width), long_side / max(height, width))


__all__ = [
    "fit",
    "grid_points",
    "rescale",
    "windows",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]
