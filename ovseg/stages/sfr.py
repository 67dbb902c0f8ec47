"""ResCLIP's semantic feedback: labels of a first pass become an attention for a second.

Yang et al. 2025 (CVPR, arXiv:2411.15851; yvhangyang/ResCLIP@0e085f7). The second pass mixes the feedback F into the
scores of the last block; that is the engine's.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from ovseg.errors import BadInput, BadUsage
from ovseg.raster import upsample
from ovseg.refine import pamr

TAPS_PER_STD = 6
BLOCK = 256  # cells whose lines to all others are walked at a time


def patch_labels(
    picture: UInt8[np.ndarray, "height width 3"] | Float32[np.ndarray, "height width 3"],
    cosines: Float32[np.ndarray, "rows r c"],
    *,
    least: float = 0.5,
    scale: float = 40.0,
    steps: int = 10,
    dilations: tuple[int, ...] = (8, 16),
) -> Int32[np.ndarray, "r c"]:
    """The most frequent label of each cell's pixels: bilinear to pixels, PAMR, softmax, arg-max.

    Pixels whose best probability is below `least` take label 0. Equal counts go to the smaller label. `steps` 0 leaves
    PAMR out. The picture's sides must be whole multiples of the grid's.
    """
    (height, width), (rows, cols) = picture.shape[:2], cosines.shape[1:]
    if height % rows or width % cols:
        raise BadInput(f"a picture of whole cells is needed: {height}x{width} px for {rows}x{cols} cells")
    maps = upsample(cosines, height, width)
    if steps:
        maps = pamr(picture, maps, steps=steps, dilations=dilations)
    maps = scale * maps
    share = np.exp(maps - maps.max(axis=0))
    share /= share.sum(axis=0)
    labels = np.where(share.max(axis=0) < least, 0, share.argmax(axis=0))
    cells = labels.reshape(rows, height // rows, cols, width // cols).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    counts = np.stack([(cells == label).sum(axis=2) for label in range(len(cosines))])
    return np.asarray(counts.argmax(axis=0), np.int32)


def feedback(
    labels: Int32[np.ndarray, "rows cols"], *, std: float = 5.0, compat: bool = False
) -> Float32[np.ndarray, "cells cells"]:
    """Feedback attention between cells, row-major; rows sum to 1.

    F_ij = [same label] (1 if every cell on the line from i to j has that label, else exp(-s / m)), with s the number of
    steps (Chebyshev distance) and m its largest value in the grid; then a Gaussian of that `std` in cells along the
    *flattened* index of j (as released: it runs on into the next row), zeros outside; then rows are made to sum to 1.

    The line is sampled at its s + 1 points, rounded half to even. `compat` samples as released: at t = 0, 1/m .. s/m,
    which looks at the first s/m of the line alone.
    """
    if std <= 0:
        raise BadUsage(f"std is in cells and above 0: got {std}")
    rows, cols = labels.shape
    flat = labels.ravel()
    if not len(flat):
        return np.zeros((0, 0), np.float32)
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.abs(place[:, None] - place[None]).max(axis=2)
    longest = int(apart.max())
    whole = np.concatenate(
        [_whole(labels, place, slice(start, start + BLOCK), longest, compat) for start in range(0, len(flat), BLOCK)]
    )
    faded = np.exp(-apart / np.float32(max(longest, 1))).astype(np.float32)
    same = flat[:, None] == flat[None]
    return _smooth(np.where(same, np.where(whole, np.float32(1), faded), np.float32(0)), std)


def _whole(
    labels: Int32[np.ndarray, "rows cols"], place: np.ndarray, block: slice, longest: int, compat: bool
) -> Bool[np.ndarray, "some cells"]:
    """Whether the tested points of the line from each cell of a block to every cell have the first one's label."""
    start, end = place[block][:, None].astype(np.float32), place[None].astype(np.float32)
    steps = np.abs(end - start).max(axis=2)
    own = labels[place[block][:, 0], place[block][:, 1]][:, None]
    whole = np.ones(steps.shape, bool)
    for point in range(longest + 1):
        parts = np.full_like(steps, max(longest, 1)) if compat else np.maximum(steps, 1)
        along = np.minimum(np.float32(point) / parts, 1)[..., None]
        at = np.rint(start * (1 - along) + end * along).astype(np.int64)
        whole &= (labels[at[..., 0], at[..., 1]] == own) | (point > steps)
    return whole


def _smooth(feedback: Float32[np.ndarray, "cells cells"], std: float) -> Float32[np.ndarray, "cells cells"]:
    """A Gaussian along the second axis (zeros outside), then rows that sum to 1."""
    from scipy.ndimage import convolve1d

    taps = min(len(feedback), int(TAPS_PER_STD * std + 1))
    taps += 1 - taps % 2  # odd
    offset = np.arange(taps) - taps // 2
    kernel = np.exp(-(offset**2) / (2 * std**2)).astype(np.float32)
    blurred = convolve1d(feedback, kernel / kernel.sum(), axis=1, mode="constant")
    return np.asarray(blurred / (blurred.sum(axis=1, keepdims=True) + 1e-8), np.float32)


__all__ = ["BLOCK", "TAPS_PER_STD", "feedback", "patch_labels"]
