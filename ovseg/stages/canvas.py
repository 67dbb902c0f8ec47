"""Maps from one grid to another, and maps of windows put together on their canvas."""

import numpy as np
from jaxtyping import Float32

from ovseg.raster import bilinear, upsample
from ovseg.types import Vocabulary, Windows


def regrid(
    maps: Float32[np.ndarray, "k rows cols"], rows: int, cols: int
) -> Float32[np.ndarray, "k new_rows new_cols"]:
    """Maps on a grid of another size: means of what lies in a cell where an axis shrinks, bilinear where it grows."""
    down, across = _weights(maps.shape[1], rows), _weights(maps.shape[2], cols)
    out: Float32[np.ndarray, "k new_rows new_cols"] = np.matmul(np.matmul(down, maps), across.T)
    return out


def cosines(windows: Windows, vocabulary: Vocabulary) -> Float32[np.ndarray, "n prompts rows cols"]:
    """Cosine of every prompt row in every cell of every window."""
    n, dim, rows, cols = windows.vectors.shape
    found = vocabulary.vectors @ windows.vectors.reshape(n, dim, rows * cols)
    return np.asarray(found, np.float32).reshape(n, -1, rows, cols)


def join(windows: Windows, maps: Float32[np.ndarray, "n k rows cols"]) -> Float32[np.ndarray, "k height width"]:
    """Maps of windows on their canvas, as the papers' programs put windows together.

    Each window's maps go bilinear to its own pixels and are averaged where windows overlap (mmsegmentation's slide
    inference; slices are added in place, no padded canvas per window).
    """
    total = np.zeros((maps.shape[1], *windows.canvas), np.float32)
    count = np.zeros(windows.canvas, np.float32)
    for one, top, left in zip(maps, windows.tops.tolist(), windows.lefts.tolist(), strict=True):
        place = (slice(top, top + windows.crop[0]), slice(left, left + windows.crop[1]))
        total[:, *place] += upsample(one, *windows.crop)
        count[place] += 1
    total /= count
    return total


def _weights(cells: int, count: int) -> Float32[np.ndarray, "count cells"]:
    """Bilinear weights to a finer axis; shares of a cell that each old one fills on a coarser one. Rows sum to 1."""
    if count >= cells:
        return bilinear(cells, count)
    edges = np.arange(count + 1) * (cells / count)
    old = np.arange(cells)
    shared = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(shared.clip(0) * (count / cells), np.float32)


__all__ = ["cosines", "join", "regrid"]
