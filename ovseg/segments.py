"""Nested segments of a picture as regions, with no weights: a graph segmentation, and the merge tree upon it.

The leaves are Felzenszwalb and Huttenlocher's (IJCV 2004, scikit-image's), their joints are `mergetree`'s.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from ovseg.mergetree import MergeTree, merge_tree
from ovseg.raster import Rle
from ovseg.types import DenseFeatures, Regions

NOTHING = 1e-6  # a quality that rounding alone can give to a node that dies where it is born


def nested_segments(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    *,
    long_side: int,
    scale: float | int,
    sigma: float | int,
    min_size: int,
    min_area: float | int,
    max_area: float | int,
    keep: int,
) -> Regions:
    """The nodes of the merge tree that are neither specks nor everything, best `quality * sqrt(area)` first.

    The picture is segmented with at most `long_side` px on its longer side; `scale`, `sigma` and `min_size` are
    scikit-image's. Areas are shares of the picture; at most `keep` regions come back.
    """
    import cv2
    from skimage.segmentation import felzenszwalb

    height, width = image.shape[:2]
    shrink = min(1.0, long_side / max(height, width))
    small = image
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if min(small.shape[:2]) < 2:  # skimage's graph needs two rows and two columns
        return Regions.empty(height, width)
    segments = felzenszwalb(small, scale=scale, sigma=sigma, min_size=min_size)
    tree = merge_tree(small, segments, features)
    share = tree.area / tree.leaves.size
    kept = np.flatnonzero((share >= min_area) & (share <= max_area) & (tree.quality > NOTHING))
    order = np.argsort(-tree.quality[kept] * np.sqrt(share[kept]), kind="stable")
    kept = kept[order[:keep]]
    return Regions(height, width, tuple(_rles(tree, kept, height, width)), tree.quality[kept])


def _rles(tree: MergeTree, nodes: Int[np.ndarray, " m"], height: int, width: int) -> Iterator[Rle]:
    """Run lengths of nodes in a frame of another size, where a pixel takes the leaf that its centre falls in."""
    row_edges, col_edges = _edges(tree.leaves.shape[0], height), _edges(tree.leaves.shape[1], width)
    tops, bottoms = _extent(tree.leaves)
    lefts, rights = _extent(tree.leaves.T)
    for node in nodes:
        span = slice(tree.first[node], tree.last[node])
        top, bottom, left, right = tops[span].min(), bottoms[span].max(), lefts[span].min(), rights[span].max()
        inside = tree.leaves[top:bottom, left:right]
        mask = (inside >= span.start) & (inside < span.stop)
        yield _stretched_rle(mask, row_edges[top : bottom + 1], col_edges[left : right + 1], height, width)


def _edges(cells: int, pixels: int) -> Int[np.ndarray, " n"]:
    """Where each of `cells` begins, in pixels, when a pixel goes to the cell that its centre is in; the end comes last.

    >>> _edges(2, 5).tolist()
    [0, 2, 5]
    """
    return np.searchsorted(((np.arange(pixels) + 0.5) * cells / pixels).astype(np.int64), np.arange(cells + 1))


def _extent(leaves: Int32[np.ndarray, "along across"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First and last (exclusive) index along the first axis that each leaf occupies."""
    count, along = int(leaves.max()) + 1, len(leaves)
    seen = np.zeros((count, along), bool)
    seen[leaves, np.arange(along)[:, None]] = True
    return seen.argmax(axis=1), along - seen[:, ::-1].argmax(axis=1)


def _stretched_rle(
    mask: Bool[np.ndarray, "h w"],
    row_edges: Int[np.ndarray, " h+1"],
    col_edges: Int[np.ndarray, " w+1"],
    height: int,
    width: int,
) -> Rle:
    """Run lengths of a mask whose cells each fill the pixels between their edges in the frame; no pixel is touched."""
    from pycocotools import mask as coco

    step = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (column, begin), (_, end) = np.nonzero(step == 1), np.nonzero(step == -1)  # as many, in the same order
    repeats = np.diff(col_edges)[column]
    run = np.repeat(np.arange(len(column)), repeats)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    offset = (col_edges[column[run]] + nth) * height
    starts, ends = offset + row_edges[begin[run]], offset + row_edges[end[run]]
    starts, ends = np.setdiff1d(starts, ends), np.setdiff1d(ends, starts)  # in order; columns of full height are joined
    runs = np.diff(np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])).tolist()
    counts = runs if runs[-1] else runs[:-1]
    return _rle_of(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _rle_of(rle: Mapping[str, Any]) -> Rle:
    """Run lengths as pycocotools gives them, the counts as text."""
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(n) for n in rle["size"]], "counts": text}


__all__ = ["NOTHING", "nested_segments"]
