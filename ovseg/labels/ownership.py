"""Which region owns a pixel: the policies for places that several regions cover.

Decided once, from the posterior of each region's best *name* and its quality, so it depends on no threshold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int32, Shaped

from ovseg.errors import BadInput, UnknownName
from ovseg.masks import iom
from ovseg.raster import counts_of
from ovseg.types import Regions

MOST_SHARED = 0.3  # of the smaller region, under "iom": above it the lesser region goes (SAM 3's agent uses the same)

Policy = Callable[[Regions, Float[np.ndarray, " n"]], list[int]]  # claims in, the best region first


@dataclass(frozen=True)
class Overlap:
    """An order of regions, the best first: who owns what several cover.

    Where it `votes` the owner's scores say nothing, but the cells' labels in its part do, by majority.
    """

    order: Policy
    votes: bool = False
    source: str = ""


def own(
    regions: Regions, posteriors: Float[np.ndarray, " n"], policy: str = "score"
) -> Int32[np.ndarray, "height width"]:
    """The region that owns each pixel (-1: none), where `posteriors` hold each region's best name.

    The policies are in `OVERLAPS`. Of equal regions the smaller wins, and neither their order nor a second copy of one
    changes which mask a pixel goes to. No mask is decoded as a whole: what is written is the columns of its box.

    >>> own(Regions.empty(2, 3), np.zeros(0)).tolist()
    [[-1, -1, -1], [-1, -1, -1]]
    """
    if policy not in OVERLAPS:
        raise UnknownName.of("overlap", policy, OVERLAPS)
    if len(regions) != len(posteriors):
        raise BadInput(f"every region needs a posterior: {len(regions)} regions, {len(posteriors)} posteriors")
    winners_first = OVERLAPS[policy].order(regions, posteriors * regions.quality)
    boxes, height = regions.boxes.astype(np.int64), regions.height
    columns = np.full((regions.width, height), -1, np.int32)  # as run lengths go
    for i in reversed(winners_first):
        left, top, right, bottom = boxes[i]
        if right > left:
            edges = np.cumsum(counts_of(regions.rles[i]["counts"])).clip(left * height, right * height)
            runs = np.diff(edges, prepend=left * height, append=right * height)
            strip = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(right - left, height)
            np.copyto(columns[left:right, top:bottom], i, where=strip[:, top:bottom])
    return np.ascontiguousarray(columns.T)


def _by_score(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Highest claim first, then the smaller."""
    return _ranked(regions, -claims, regions.area)


def _smallest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Smallest first, then the higher claim: parts over wholes."""
    return _ranked(regions, regions.area, -claims)


def _largest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Largest first, then the higher claim: wholes over parts."""
    return _ranked(regions, -regions.area, -claims)


def _without_rivals(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """As "score", without the regions that share more than `MOST_SHARED` of the smaller with a better one."""
    shared = iom(regions.rles, regions.rles) > MOST_SHARED
    kept: list[int] = []
    for i in _by_score(regions, claims):
        if not shared[i, kept].any():
            kept.append(i)
    return kept


OVERLAPS: Mapping[str, Overlap] = MappingProxyType(
    {
        "score": Overlap(_by_score),
        "smallest": Overlap(_smallest, source="Semantic-Segment-Anything@4bc7581"),
        "largest": Overlap(_largest, source="CorrCLIP (zdk258/CorrCLIP@103bc18)"),
        "iom": Overlap(_without_rivals, source="SAM 3's agent"),
        "vote": Overlap(_smallest, votes=True, source="Semantic-Segment-Anything@4bc7581"),
    }
)


def _ranked(regions: Regions, first: Shaped[np.ndarray, " n"], then: Shaped[np.ndarray, " n"]) -> list[int]:
    """Regions by two rising keys; the mask itself breaks ties, so that nothing hangs on the order given."""
    keys = list(zip(first.tolist(), then.tolist(), (rle["counts"] for rle in regions.rles), strict=True))
    return sorted(range(len(regions)), key=keys.__getitem__)


__all__ = ["MOST_SHARED", "OVERLAPS", "Overlap", "Policy", "own"]
