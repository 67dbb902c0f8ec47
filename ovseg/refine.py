"""PAMR: maps of scores that follow the edges of the picture (pixel-adaptive mask refinement).

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020, arXiv:2005.08104), in the form
that NACLIP and SCLIP run after their heads (sinahmr/NACLIP@0cac3a6, `pamr.py`): ten steps, dilations 8 and 16, on the
cosines of prompt rows at the picture's own size. The program holds one copy of every map for each of the 16 neighbours;
here one running sum a map is kept, so the memory is that of the weights (4 bytes a pixel and neighbour) and the maps.

A pixel depends on no pixel further than steps * largest dilation in rows or columns: `reach`. A band of rows refined
with that margin equals the same rows of the whole.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ovseg.errors import BadInput, BadUsage

STEPS = 10
DILATIONS = (8, 16)
SHARPNESS = 0.1  # of the local deviation: a colour difference of that size weighs 1/e
SMALLEST = 1e-8  # added to the deviation, so that flat colours divide by more than 0
ROWS_AT_ONCE = 32  # rows of all neighbours' weights that a step walks before the next rows: they stay in the cache

Picture = UInt8[np.ndarray, "height width channels"] | Float[np.ndarray, "height width channels"]


def reach(steps: int, dilations: Sequence[int]) -> int:
    """Pixels beyond which nothing changes a refined value.

    >>> reach(10, (8, 16))
    160
    """
    return steps * max(dilations)


def neighbours(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Offsets (down, right) of the eight neighbours of every dilation.

    >>> neighbours((2,))
    [(-2, -2), (-2, 0), (-2, 2), (0, -2), (0, 2), (2, -2), (2, 0), (2, 2)]
    """
    signs = (-1, 0, 1)
    return [(far * down, far * right) for far in dilations for down in signs for right in signs if down or right]


def affinity(picture: Picture, dilations: Sequence[int] = DILATIONS) -> Float32[np.ndarray, "neighbours height width"]:
    """Weights of every pixel's neighbours (order of `neighbours`); they sum to 1 in each pixel.

    softmax over all neighbours j of mean over channels of -|I_i - I_j| / (1e-8 + 0.1 s), where s is the unbiased
    deviation of the 9 values (neighbours and the pixel itself) of each dilation taken together, and edges are repeated.
    The released programs see the normalised picture; an offset and a scale of a channel cancel, so 0..255 will do.
    """
    import cv2

    _check(dilations)
    height, width, channels = picture.shape
    offsets = neighbours(dilations)
    pad, count = max(dilations), 9 * len(dilations)
    weights = np.zeros((len(offsets), height, width), np.float32)
    for channel in range(channels):
        plane = np.ascontiguousarray(picture[..., channel], np.float32)
        padded = cv2.copyMakeBorder(plane, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        total, squares = np.zeros_like(plane), np.zeros_like(plane)
        for near in _shifted(padded, offsets, pad):
            step = near - plane
            total += step
            squares += step * step
        variance = (squares - total * total / count) / (count - 1)
        unit = 1 / (channels * (SMALLEST + SHARPNESS * np.sqrt(variance.clip(min=0))))
        for weight, near in zip(weights, _shifted(padded, offsets, pad), strict=True):
            weight -= np.abs(near - plane) * unit
    weights -= weights.max(axis=0)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=0)
    return weights


def pamr(
    picture: Picture,
    maps: Float32[np.ndarray, "k rows cols"],
    steps: int = STEPS,
    dilations: Sequence[int] = DILATIONS,
) -> Float32[np.ndarray, "k rows cols"]:
    """The maps after `steps` rounds in which every pixel takes the weighted mean of its neighbours (not of itself).

    Edges are repeated. A flat map stays as it is; on a flat picture each round is the plain mean of the neighbours.
    """
    _check(dilations)
    if picture.shape[:2] != maps.shape[1:]:
        raise BadInput(
            f"maps must lie on the picture's pixels: they are {maps.shape[1]}x{maps.shape[2]}, the picture is "
            f"{picture.shape[0]}x{picture.shape[1]} (rows x cols). Swapped axes?"
        )
    if steps < 0:
        raise BadUsage(f"refining takes 0 or more steps: got {steps}")
    out = np.array(maps, np.float32)
    if steps and out.size:
        spread(affinity(picture, dilations), out, steps, dilations)
    return out


def spread(
    weights: Float32[np.ndarray, "neighbours height width"],
    maps: Float32[np.ndarray, "k height width"],
    steps: int,
    dilations: Sequence[int],
) -> None:
    """The rounds of `pamr` with weights that are there already. The maps are changed in place, one in each thread."""
    offsets = neighbours(dilations)
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        list(pool.map(lambda one: _refine(one, weights, offsets, steps), maps))


def _refine(
    plane: Float32[np.ndarray, "height width"],
    weights: Float32[np.ndarray, "neighbours height width"],
    offsets: Sequence[tuple[int, int]],
    steps: int,
) -> None:
    """One map, changed in place."""
    import cv2

    height, width = plane.shape
    pad = max(max(offset) for offset in offsets)
    padded = np.empty((height + 2 * pad, width + 2 * pad), np.float32)
    for _ in range(steps):
        cv2.copyMakeBorder(plane, pad, pad, pad, pad, cv2.BORDER_REPLICATE, dst=padded)
        plane[:] = 0
        for top in range(0, height, ROWS_AT_ONCE):
            rows = slice(top, min(height, top + ROWS_AT_ONCE))
            for weight, (down, right) in zip(weights, offsets, strict=True):
                near = padded[pad + down + rows.start : pad + down + rows.stop, pad + right : pad + right + width]
                cv2.accumulateProduct(weight[rows], near, plane[rows])


def _shifted(
    padded: Float32[np.ndarray, "high wide"], offsets: Sequence[tuple[int, int]], pad: int
) -> Iterator[Float32[np.ndarray, "height width"]]:
    """Views of a padded plane, one a neighbour."""
    height, width = padded.shape[0] - 2 * pad, padded.shape[1] - 2 * pad
    for down, right in offsets:
        yield padded[pad + down : pad + down + height, pad + right : pad + right + width]


def _check(dilations: Sequence[int]) -> None:
    if not len(dilations) or min(dilations) < 1:
        raise BadUsage(f"refining needs dilations of 1 px or more: got {tuple(dilations)}")


__all__ = [
    "DILATIONS",
    "Picture",
    "ROWS_AT_ONCE",
    "SHARPNESS",
    "SMALLEST",
    "STEPS",
    "affinity",
    "neighbours",
    "pamr",
    "reach",
    "spread",
]
