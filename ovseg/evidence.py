"""`Evidence`: the scores that an answer was decided from, and their posteriors on the picture's pixels, band by band.

What is kept is small (scaled cosines on the grid); what is large (posteriors of all names on all pixels) is made in
bands of pixel rows and let go. Bilinear up-sampling of a band gives the bits of the whole; so does PAMR, because a band
is refined with a margin as wide as anything can reach.

Memory of `dense`, beside the rows, which are there twice: one `BAND_BYTES` a thread; with PAMR one `REFINED_BYTES`, and
with the margin the weights of all neighbours and `ROWS_TOGETHER` maps. Labelling takes as much again for a while. At
4000x3000 px and 150 rows everything stays under 2 GB (tests/test_memory.py). Too little memory is Python's own
MemoryError: no step is skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from ovseg.errors import BadInput, BadUsage
from ovseg.presence import Presence, check_cut, check_rate
from ovseg.raster import posterior, softmax, upsample
from ovseg.refine import DILATIONS, STEPS, affinity, reach, spread

BAND_BYTES = 2 << 20  # of an up-sampled band of all prompt rows: it stays in the cache
REFINED_BYTES = 512 << 20  # of a band that PAMR refines, without its margin: a margin costs most in a thin band
ROWS_TOGETHER = 4  # maps that PAMR refines at once
LOWEST = -80.0  # e to that is still a normal number in single precision
REFINERS = ("none", "pamr")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a `Segmentation` was decided from: enough to decide again at another threshold, exactly.

    `rows` are scaled cosines of every prompt row in every cell. `parts` gives each pixel the proposal that owns it (-1:
    none) and `part_rows` that proposal's scaled cosines; where a proposal owns a pixel, its scores decide. `uncovered`
    says who decides elsewhere: "dense" (the cells) or "none" (nobody: unlabelled).

    `refine` "pamr" lets the cells' scores follow the edges of `picture`. `area`: a name with at most that share of all
    pixels that a name wins is out (0: no name is). `vote` gives pixels to segments (-1: none), whose most frequent
    label all of them take. `closing` is the side in pixels of a grey closing of the label map (0: none). What each
    does, and in which order: `head`.

    Names that `presence` judges absent, at a rate of `alpha` or a `cut`, are struck: they leave the softmax, so that
    of the same rows everything else is to the bit what it were had they not been asked. (Who made the rows may have
    heard them: a negative steps back for a name that means the same, and stage "surgery" takes a mean over all rows.)
    `lead` and `entropy` say when a place is left alone: its best posterior leads the second by less, or the entropy of
    all is a larger share of its maximum.
    """

    height: int
    width: int
    owner: Int[np.ndarray, " rows"]
    rows: Float32[np.ndarray, "rows r c"]
    thresholds: Float32[np.ndarray, " names"]
    probability: str = "names"
    parts: Int32[np.ndarray, "height width"] | None = None
    part_rows: Float32[np.ndarray, "parts rows"] | None = None
    part_quality: Float32[np.ndarray, " parts"] | None = None
    uncovered: str = "dense"
    min_area: int = 0
    picture: UInt8[np.ndarray, "height width 3"] | None = None
    refine: str = "none"
    refine_steps: int = STEPS
    refine_dilations: tuple[int, ...] = DILATIONS
    area: float = 0.0
    vote: Int32[np.ndarray, "height width"] | None = None
    closing: int = 0
    presence: Presence | None = None
    alpha: float | int = 0.05
    cut: float | int | None = None
    lead: float | int = 0.0
    entropy: float | int = 1.0

    def __post_init__(self) -> None:
        if self.probability not in ("names", "rows"):
            raise BadUsage(f"probability must be names or rows: got {self.probability!r}")
        if self.uncovered not in ("dense", "none"):
            raise BadUsage(f"uncovered must be dense or none: got {self.uncovered!r}")
        if self.refine not in REFINERS:
            raise BadUsage(f"refine must be {' or '.join(REFINERS)}: got {self.refine!r}")
        if (self.parts is None) != (self.part_rows is None):
            raise BadInput("parts and part_rows come together")
        if not ((self.thresholds >= 0) & (self.thresholds <= 1)).all():
            raise BadUsage(f"a threshold is a posterior in [0, 1]: got {self.thresholds.tolist()}")
        if not 0 <= self.area <= 1:
            raise BadUsage(f"area is a share of the labelled pixels in [0, 1]: got {self.area}")
        if self.closing < 0 or (self.closing and self.closing % 2 == 0):
            raise BadUsage(f"closing is an odd number of pixels, or 0 for none: got {self.closing}")
        check_rate(self.alpha)
        check_cut(self.cut)
        if not 0 <= self.lead <= 1 or not 0 <= self.entropy <= 1:
            raise BadUsage(
                f"the least lead of a posterior and the most entropy are in [0, 1]: got {self.lead} and {self.entropy}"
            )
        if self.presence is not None and len(self.presence.odds) != self.names:
            raise BadInput(f"presence is of every name: {len(self.presence.odds)} for {self.names} names")
        if self.refine_steps < 0 or not self.refine_dilations or min(self.refine_dilations) < 1:
            raise BadUsage(
                f"refining takes 0 or more steps and dilations of 1 px or more: got {self.refine_steps} and "
                f"{self.refine_dilations}"
            )
        if self.refine != "none" and self.picture is None:
            raise BadInput(f"refine {self.refine!r} looks at the picture: give it as `picture`")
        for name, plane in (("parts", self.parts), ("picture", self.picture), ("vote", self.vote)):
            if plane is not None and plane.shape[:2] != (self.height, self.width):
                raise BadInput(
                    f"{name} must match the picture: {plane.shape[0]}x{plane.shape[1]} came, the picture is "
                    f"{self.height}x{self.width} (rows x cols). Swapped axes?"
                )
        if self.vote is not None and self.vote.min(initial=-1) < -1:
            raise BadInput(f"vote holds segments 0, 1, ... and -1 for none: got {self.vote.min()}")
        if self.parts is not None and self.part_rows is not None and self.parts.max(initial=-1) >= len(self.part_rows):
            raise BadInput(f"every part needs its row: part {self.parts.max()} of {len(self.part_rows)} rows")

    @property
    def names(self) -> int:
        """How many names were asked."""
        return len(self.thresholds)

    @cached_property
    def struck(self) -> Bool[np.ndarray, " names"]:
        """The names that were judged absent from the picture."""
        if self.presence is None:
            return np.zeros(self.names, bool)
        return ~self.presence.judge(self.alpha, self.cut)

    @property
    def rivals(self) -> int:
        """How many names and negatives share the posterior of a place."""
        return int((~self.struck).sum()) + int((self.owner < 0).sum())

    @property
    def margin(self) -> int:
        """Pixel rows above and below a band that its posteriors depend on."""
        return reach(self.refine_steps, self.refine_dilations) if self.refine == "pamr" else 0

    @property
    def bands(self) -> list[slice]:
        """Bands of pixel rows, in reading order, each small enough for the bounds of this module."""
        limit = BAND_BYTES if self.refine == "none" else REFINED_BYTES
        step = max(1, limit // (4 * max(1, len(self.owner)) * self.width))
        return [slice(top, min(self.height, top + step)) for top in range(0, self.height, step)]

    def dense(self, band: slice) -> Float32[np.ndarray, "slots h width"]:
        """Posteriors that the cells give the names (first K) and the negatives in a band of pixel rows."""
        if self.refine == "pamr" and self.picture is not None and self.refine_steps:
            maps = self._refined(band, self.picture)
        else:
            maps = upsample(self._level, self.height, self.width, band)
        made = posterior if self._level is self._rows else softmax
        _, owner, names = self._heard
        return self._every(made(np.ascontiguousarray(maps), owner, names, self.probability))

    def _refined(
        self, band: slice, picture: UInt8[np.ndarray, "height width 3"]
    ) -> Float32[np.ndarray, "rows h width"]:
        """All rows of a band after PAMR: a few at a time with the margin, and of each what lies in the band."""
        wide = slice(max(0, band.start - self.margin), min(self.height, band.stop + self.margin))
        weights = affinity(picture[wide], self.refine_dilations)
        refined = np.empty((len(self._level), band.stop - band.start, self.width), np.float32)
        for first in range(0, len(self._level), ROWS_TOGETHER):
            few = slice(first, first + ROWS_TOGETHER)
            maps = upsample(self._level[few], self.height, self.width, wide)
            spread(weights, maps, self.refine_steps, self.refine_dilations)
            refined[few] = maps[:, band.start - wide.start : band.stop - wide.start]
        return refined

    @cached_property
    def _level(self) -> Float32[np.ndarray, "rows r c"]:
        """The rows less the largest of their cell, so that e to their power needs no shift on the pixels.

        Up-sampling and PAMR take means of cells, alike for all rows: what every row of a cell loses cancels in the
        softmax. The largest row of a pixel lies between the lowest number here and 0. Where that is too low for single
        precision, these are the rows as they came.
        """
        if not len(self._rows):
            return self._rows
        level: Float32[np.ndarray, "rows r c"] = self._rows - self._rows.max(axis=0)
        return level if level.min() > LOWEST else self._rows

    @cached_property
    def _heard(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"], int]:
        """Rows that take part, whom each speaks for (struck names are not counted), and how many names that are."""
        return heard(self.owner, self.struck)

    @cached_property
    def _rows(self) -> Float32[np.ndarray, "rows r c"]:
        """The rows that take part; as they came where that is all."""
        return self.rows[self._heard[0]] if self.struck.any() else self.rows

    def _every(self, slots: Float32[np.ndarray, "heard ..."]) -> Float32[np.ndarray, "slots ..."]:
        """Posteriors of all names and negatives from those of the names that take part: 0 for the others."""
        if not self.struck.any():
            return slots
        _, _, names = self._heard
        every = np.zeros((self.names + len(slots) - names, *slots.shape[1:]), np.float32)
        every[: self.names][~self.struck] = slots[:names]
        every[self.names :] = slots[names:]
        return every

    @property
    def of_parts(self) -> Float32[np.ndarray, "slots parts"]:
        """Posteriors of every proposal; no columns where there are none."""
        rows = np.zeros((0, len(self.owner)), np.float32) if self.part_rows is None else self.part_rows
        kept, owner, names = self._heard
        return self._every(posterior(np.ascontiguousarray(rows.T[kept]), owner, names, self.probability))

    def tiles(self) -> Iterator[tuple[slice, Float32[np.ndarray, "slots h width"]]]:
        """Posteriors of the names (first K) and negatives as they decide, a band of pixel rows at a time."""
        of_parts = self.of_parts
        for band in self.bands:
            if self.uncovered == "dense":
                slots = self.dense(band)
            else:
                slots = np.zeros((len(of_parts), band.stop - band.start, self.width), np.float32)
            if self.parts is not None:
                parts = self.parts[band]
                covered = parts >= 0
                slots[:, covered] = of_parts[:, parts[covered]]
            yield band, slots


def heard(
    owner: Int[np.ndarray, " rows"], struck: Bool[np.ndarray, " names"]
) -> tuple[Int[np.ndarray, " heard"], Int[np.ndarray, " heard"], int]:
    """The rows that are left without some names, whom each speaks for when the others are counted anew, and how many
    names are left.

    >>> kept, owners, names = heard(np.array([0, 1, 1, 2, -1]), np.array([False, True, False]))
    >>> kept.tolist(), owners.tolist(), names
    ([0, 3, 4], [0, 1, -1], 2)
    """
    number = np.append(np.where(struck, -2, np.cumsum(~struck) - 1), -1)  # the last entry serves negatives
    owners = number[owner]
    kept = np.flatnonzero(owners > -2)
    return kept, owners[kept], int((~struck).sum())


__all__ = ["BAND_BYTES", "Evidence", "LOWEST", "REFINED_BYTES", "REFINERS", "ROWS_TOGETHER", "heard"]
