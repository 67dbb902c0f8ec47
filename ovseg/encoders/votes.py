"""Score, then pool: a region's score is the mean of its cells' posteriors, not the posterior of its mean.

As Semantic-Segment-Anything lets pixels vote in a mask (fudan-zvg/Semantic-Segment-Anything@4bc7581, hard) and EdaDet
pools scores (arXiv:2309.01151, soft). What one name wins by a little everywhere it wins here by a lot or by a little
as its cells say; the mean vector would be sure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped

from ovseg.encoders.described import Described, unit
from ovseg.encoders.pool import pool
from ovseg.encoders.rows import View
from ovseg.masks import cell_fractions
from ovseg.raster import posterior
from ovseg.types import Regions, Vocabulary

AT_ONCE = 32 << 20  # bytes of scores of cells that are held at a time
LEAST = 1e-30  # of a posterior before its logarithm: what no cell voted for


@dataclass(frozen=True, eq=False)
class Votes:
    """The share of each cell that each region covers, the cells' unit vectors, and whether only winners count."""

    shares: Float32[np.ndarray, "n cells"]
    cells: Float32[np.ndarray, "cells dim"]
    hard: bool = False

    def rows(self, vocabulary: Vocabulary, scale: float, probability: str) -> Float32[np.ndarray, "n rows"]:
        """Logarithms of mean posteriors, so that `raster.posterior` gives the means themselves back.

        Rows of one name share its posterior. Under "rows", where a name with synonyms has no more than its best row,
        the j-th row of a name gets the mean of each cell's j-th best: the best is the mean of the best.
        """
        owner, names = vocabulary.owner, len(vocabulary)
        if not len(owner) or not len(self.shares):
            return np.zeros((len(self.shares), len(owner)), np.float32)
        means = np.zeros((len(self.shares), len(owner)), np.float32)
        step = max(1, AT_ONCE // (4 * len(owner)))
        for start in range(0, len(self.cells), step):  # 20,000 names of all cells would be gigabytes
            some = slice(start, start + step)
            scored = np.ascontiguousarray(vocabulary.scores(self.cells[some], scale, cells=True).T)  # (rows, cells)
            means += self.shares[:, some] @ self._voted(scored, owner, names, probability).T
        total = self.shares.sum(axis=1, keepdims=True)
        means /= np.where(total > 0, total, 1)
        return np.asarray(np.where(total > 0, np.log(np.maximum(means, LEAST)), 0), np.float32)

    def _voted(
        self, scored: Float32[np.ndarray, "rows cells"], owner: Int[np.ndarray, " rows"], names: int, probability: str
    ) -> Float32[np.ndarray, "rows cells"]:
        """What each cell says to every prompt row."""
        place = slot_of(owner, names)
        if self.hard:
            winner = posterior(scored, owner, names, probability).argmax(axis=0)
            cells = np.zeros((int(place.max()) + 1, len(winner)), np.float32)
            cells[winner, np.arange(len(winner))] = 1
            voted = cells[place]
            if probability == "rows":  # the others of a name may hold nothing
                voted[np.isin(np.arange(len(place)), np.unique(place, return_index=True)[1], invert=True)] = 0
        elif probability == "rows":
            single = np.arange(len(owner))
            voted = posterior(scored, single, len(single), "names")
            for slot in np.flatnonzero(np.bincount(place) > 1):
                voted[place == slot] = -np.sort(-voted[place == slot], axis=0)
        else:
            voted = posterior(scored, owner, names, probability)[place]
        return np.asarray(voted, np.float32)

    def pick(self, keep: Shaped[np.ndarray, " m"]) -> "Votes":
        """The same of the regions that a boolean mask or an index array picks."""
        return replace(self, shares=self.shares[keep])

    def spread(self, places: Int[np.ndarray, " n"], count: int) -> "Votes":
        """The same of `count` regions, of which these stand at `places` and all others are empty."""
        shares = np.zeros((count, self.shares.shape[1]), np.float32)
        shares[places] = self.shares
        return replace(self, shares=shares)


def vote(view: View, regions: Regions, options: Mapping[str, Any]) -> Described:
    """What the cells in each mask would be called, averaged by the share that the mask covers of each.

    `hard` counts the cells that each name (or negative) wins. The vectors are those of `pool`. Stages change cells
    after encoding: votes are of the cells as they were encoded.
    """
    shares = cell_fractions(regions, *view.features.grid).reshape(len(regions), -1)
    cells = np.ascontiguousarray(view.features.vectors.reshape(len(view.features.vectors), -1).T)
    return Described(unit(pool(view, regions, {})), Votes(shares, cells, bool(options["hard"])))


def slot_of(owner: Int[np.ndarray, " rows"], names: int) -> Int[np.ndarray, " rows"]:
    """Of every prompt row its place among posteriors: its name's, and for negatives their own after the names'.

    >>> slot_of(np.array([0, 1, 1, -1, -1]), 2).tolist()
    [0, 1, 1, 2, 3]
    """
    return np.where(owner >= 0, owner, names + np.cumsum(owner < 0) - 1)


__all__ = ["AT_ONCE", "LEAST", "Votes", "slot_of", "vote"]
