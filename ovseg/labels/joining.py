"""Regions that belong together: parts inside a whole of the same name, and neighbours that look alike.

Neither depends on the order in which regions came, on their copies, or on any threshold. Regions that a negative wins
(kind -1) stay as they are: whatever name comes second there says nothing about what they are.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from ovseg.masks import intersections
from ovseg.raster import touching
from ovseg.types import Regions


def suppress(
    regions: Regions, kinds: Int[np.ndarray, " n"], claims: Float[np.ndarray, " n"], share: float | int
) -> Bool[np.ndarray, " n"]:
    """The regions that stay: one goes if more than `share` of it lies in another of its name that claims more.

    `kinds` holds each region's name (-1: none), `claims` how sure it is of it. From 1 on nothing goes. The share is of
    the part's own area, not of the union, since a part is small beside its whole (BIRDet's rule).

    >>> masks = np.zeros((2, 4, 6), bool); masks[0], masks[1, :2, :3] = True, True
    >>> regions = Regions.from_masks(masks)
    >>> suppress(regions, np.array([3, 3]), np.array([0.9, 0.8]), 0.9).tolist()
    [True, False]
    >>> suppress(regions, np.array([3, 4]), np.array([0.9, 0.8]), 0.9).tolist()
    [True, True]
    """
    keep = np.ones(len(regions), bool)
    if share >= 1:
        return keep
    area = np.maximum(regions.area, 1)
    for kind in np.unique(kinds[kinds >= 0]):
        own = np.flatnonzero(kinds == kind)
        rles = [regions.rles[i] for i in own]
        inside = intersections(rles, rles) > share * area[own][:, None]
        keep[own] = ~(inside & (claims[own][None] > claims[own][:, None])).any(axis=1)
    return keep


def merge(
    parts: Int32[np.ndarray, "height width"],
    kinds: Int[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n dim"],
    above: float | int,
) -> Int[np.ndarray, " n"]:
    """The group of each region, numbered from 0: neighbours of one name whose unit vectors agree are one thing.

    Regions are neighbours where pixels that they own (`parts`, -1: nobody's) touch, corners included; they agree where
    the cosine is larger than `above`. From 1 on every region stays alone. What agrees by way of others is one group.

    >>> parts = np.array([[0, 0, 1, -1, 2]], np.int32)
    >>> merge(parts, np.array([5, 5, 5]), np.ones((3, 1), np.float32), 0.95).tolist()
    [0, 0, 1]
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    if above >= 1:
        return np.arange(len(kinds))
    one, other, _ = touching(parts)
    alike = (kinds[one] >= 0) & (kinds[one] == kinds[other]) & ((vectors[one] * vectors[other]).sum(axis=1) > above)
    links = sparse.coo_array((alike[alike], (one[alike], other[alike])), shape=(len(kinds), len(kinds)))
    return np.asarray(csgraph.connected_components(links, directed=False)[1], np.int64)


def joined(
    parts: Int32[np.ndarray, "height width"], columns: Float32[np.ndarray, "n k"], groups: Int[np.ndarray, " n"]
) -> tuple[Int32[np.ndarray, "height width"], Float32[np.ndarray, "g k"]]:
    """The group that owns each pixel, and numbers of each group: the mean of its regions' by the pixels that they own.

    The mean of scaled cosines is the scaled cosine of the mean vector. A group that owns nothing has the plain mean.
    """
    owned = np.bincount(parts[parts >= 0], minlength=len(groups)).astype(float)
    count = int(groups.max(initial=-1)) + 1
    hidden = np.bincount(groups, owned, count) == 0
    weights = np.where(hidden[groups], 1.0, owned)
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, groups, weights[:, None] * columns)
    means = sums / np.bincount(groups, weights, count)[:, None]
    return np.append(groups, -1).astype(np.int32)[parts], means.astype(np.float32)


__all__ = ["joined", "merge", "suppress"]
