"""Which points of a square grid need no answer, once their neighbours have given theirs.

The points are asked in four passes, each of them between those before it. After a pass a point is skipped that lies
under a mask which is known: accepted, with `LOOKED` answered points in it. Where no mask was accepted, what was refused
tells as much: a point is skipped under the large masks of `REFUSED` answered points, which are a ground that the
network is not sure of. Ours; the idea of skipping points under accepted masks is that of a note in
Curt-Park/segment-anything-with-clip@c6ae7c4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Int

from ovseg.sam.found import Found
from ovseg.sam.runs import Kept

PASSES = (((1, 1),), ((3, 3),), ((1, 3), (3, 1)))  # (row, col) modulo 4; the last pass is the rest
LOOKED = 5  # answered points in an accepted mask: then it is known
REFUSED, LARGE = 6, 0.05  # points whose masks, of more than this share of the frame, speak for a ground


@dataclass(frozen=True)
class Recall:
    """What an answer is to hold, by when a point is skipped: under so many known masks; on a refused ground or not."""

    masks: int
    grounds: bool


RECALLS: Mapping[str, Recall] = MappingProxyType({"objects": Recall(1, True), "parts": Recall(2, False)})


def passes(side: int) -> list[Int[np.ndarray, " _"]]:
    """The points (by their place in reading order) of a side x side grid, in the order in which they are asked."""
    row, col = np.divmod(np.arange(side * side), side)
    turn = np.full(side * side, len(PASSES))
    for number, places in enumerate(PASSES):
        for place in places:
            turn[(row % 4 == place[0]) & (col % 4 == place[1])] = number
    return [np.flatnonzero(turn == number) for number in range(len(PASSES) + 1)]


def explained(
    accepted: Sequence[Found],
    pixels: Int[np.ndarray, "n 2"],
    asked: Bool[np.ndarray, " n"],
    refused: Int[np.ndarray, " n"],
    recall: Recall,
) -> Bool[np.ndarray, " n"]:
    """Which points (at `pixels`, x and y) of the grid are to be skipped, given which were asked.

    `refused` counts the asked points with a large mask over each.
    """
    above, known = np.zeros(len(pixels), np.int64), np.zeros(len(pixels), np.int64)
    for one in accepted:
        inside = within(one.kept, pixels)
        above[inside] += 1
        if np.count_nonzero(asked[inside]) >= LOOKED:
            known[inside] += 1
    skip = known >= recall.masks
    return skip | ((above == 0) & (refused >= REFUSED)) if recall.grounds else skip


def within(kept: Kept, pixels: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " _"]:
    """The numbers of the pixels (x, y) that lie in a mask."""
    x, y = pixels[:, 0] - kept.left, pixels[:, 1] - kept.top
    inside = np.flatnonzero((x >= 0) & (x < kept.cols) & (y >= 0) & (y < kept.rows))
    return inside[kept.bits[x[inside], y[inside]]] if len(inside) else inside


def under_large(
    logits: Float32[np.ndarray, "masks high wide"],
    threshold: float,
    held: tuple[int, int],
    cells: Int[np.ndarray, "n 2"],
) -> Bool[np.ndarray, " n"]:
    """Which cells (row, col) lie in a large mask of one point; only the first `held` rows and columns hold picture."""
    above = logits[:, : held[0], : held[1]] > threshold
    large = above[above.mean(axis=(1, 2)) > LARGE]
    return np.asarray(large[:, cells[:, 0], cells[:, 1]].any(axis=0))


__all__ = ["LOOKED", "RECALLS", "Recall", "explained", "passes", "under_large", "within"]
