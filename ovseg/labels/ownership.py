"""Which region owns a pixel: the policies for places that several regions cover.

Decided once, from the posterior of each region's best *name* and its quality, so it depends on no threshold.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int32, Shaped

from ovseg.errors import BadInput, UnknownName
from ovseg.masks import iom
from ovseg.raster import decode_rle
from ovseg.types import Regions

MOST_SHARED = 0.3  # of the smaller region, under "iom": above it the lesser region goes (SAM 3's agent uses the same)


def own(
    regions: Regions, posteriors: Float[np.ndarray, " n"], policy: str = "score"
) -> Int32[np.ndarray, "height width"]:
    """The region that owns each pixel (-1: none), where `posteriors` hold each region's best name.

    The policies are in `OVERLAPS`. Of equal regions the smaller wins, and neither their order nor a second copy of one
    changes which mask a pixel goes to. One region is decoded at a time.

    >>> own(Regions.empty(2, 3), np.zeros(0)).tolist()
    [[-1, -1, -1], [-1, -1, -1]]
    """
    if policy not in OVERLAPS:
        raise UnknownName.of("overlap", policy, OVERLAPS)
    if len(regions) != len(posteriors):
        raise BadInput(f"every region needs a posterior: {len(regions)} regions, {len(posteriors)} posteriors")
    winners_first = OVERLAPS[policy](regions, posteriors * regions.quality)
    boxes = regions.boxes.astype(np.int64)
    parts = np.full((regions.width, regions.height), -1, np.int32).T  # columns together, as run lengths are
    for i in reversed(winners_first):
        left, top, right, bottom = boxes[i]
        if right > left:
            inside = decode_rle(regions.rles[i])[top:bottom, left:right]
            np.copyto(parts[top:bottom, left:right], i, where=inside)
    return np.ascontiguousarray(parts)


def _by_score(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Highest claim first, then the smaller."""
    return _ranked(regions, -claims, regions.area)


def _smallest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Smallest first, then the higher claim: parts over wholes (Semantic-Segment-Anything)."""
    return _ranked(regions, regions.area, -claims)


def _largest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Largest first, then the higher claim: wholes over parts (CorrCLIP)."""
    return _ranked(regions, -regions.area, -claims)


def _without_rivals(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """As "score", without the regions that share more than `MOST_SHARED` of the smaller with a better one."""
    shared = iom(regions.rles, regions.rles) > MOST_SHARED
    kept: list[int] = []
    for i in _by_score(regions, claims):
        if not shared[i, kept].any():
            kept.append(i)
    return kept


Policy = Callable[[Regions, Float[np.ndarray, " n"]], list[int]]  # claims in, the best region first

OVERLAPS: Mapping[str, Policy] = MappingProxyType(
    {"score": _by_score, "smallest": _smallest, "largest": _largest, "iom": _without_rivals}
)


def _ranked(regions: Regions, first: Shaped[np.ndarray, " n"], then: Shaped[np.ndarray, " n"]) -> list[int]:
    """Regions by two rising keys; the mask itself breaks ties, so that nothing hangs on the order given."""
    keys = list(zip(first.tolist(), then.tolist(), (rle["counts"] for rle in regions.rles), strict=True))
    return sorted(range(len(regions)), key=keys.__getitem__)


__all__ = ["MOST_SHARED", "OVERLAPS", "Policy", "own"]
