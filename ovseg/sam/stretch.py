"""From a low-resolution mask to the frame: only the part that matters, in one step, and the same pixels as in two.

segment-anything stretches every mask twice (to the network's square, then, the padding cut off, to the picture) and
compares full frames with three thresholds. Both stretches are linear and separable, so they are one small matrix an
axis, of three taps a pixel; and a pixel lies in the hull of its taps, so all that is outside of the cells above the
lowest threshold is below it. What is left is rounding: a pixel that is nearer to a threshold than rounding can tell is
decided by its own taps in double precision, or, if those cannot either, by torch's two steps for this mask. So counts
and masks are torch's, not almost torch's.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.sparse import csr_array

TAPS = 3  # neighbours in the square lie under one or two cells each, of three in a row
UNIT = 2.0**-24  # the rounding of one float32 operation, relative
SCREEN = 48 * UNIT  # of the largest logit: one step of ours and two of torch's, with room
TIGHT = 10 * UNIT  # of what a pixel's own taps add up to without signs: eight operations a tap in torch's two steps
FEW = 64  # pixels worth deciding one by one
CHUNK = 2**26  # bytes of pixels held at once

Cuts: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of both steps: the weights of each pixel's `TAPS` cells from `base` on, of which some may be 0.

    `first` and `last` are the cells whose weight is not.
    """

    weights: Float64[np.ndarray, "pixels taps"]
    base: Int[np.ndarray, " pixels"]
    first: Int[np.ndarray, " pixels"]
    last: Int[np.ndarray, " pixels"]

    @classmethod
    def of(cls, cells: int, side: int, kept: int, pixels: int) -> "Axis":
        """From `cells` to `side`, whose first `kept` become `pixels`; torch's own weights, read off its steps."""
        one = _steps(cells, side)[:, :kept].double()
        both = (one @ _steps(kept, pixels).double()).T.numpy()
        there = both > 0
        first = there.argmax(axis=1)
        last = cells - 1 - there[:, ::-1].argmax(axis=1)
        base = np.minimum(first, cells - TAPS)
        weights = np.take_along_axis(both, base[:, None] + np.arange(TAPS), axis=1)
        return cls(weights, base, first, last)

    def reach(self, low: int, high: int) -> tuple[int, int]:
        """The pixels (end exclusive) that have a tap in cells `low` to `high` (inclusive)."""
        return int(np.searchsorted(self.last, low)), int(np.searchsorted(self.first, high, side="right"))

    def under(self, begin: int, end: int) -> tuple[int, int]:
        """The cells (end exclusive) under the pixels from `begin` to `end` (exclusive)."""
        return int(self.base[begin]), int(self.base[end - 1]) + TAPS

    def matrix(self, begin: int, end: int, low: int, high: int) -> csr_array:
        """Weights of the pixels from `begin` to `end` over the cells from `low` to `high`, `TAPS` a pixel."""
        taps = (self.base[begin:end, None] - low + np.arange(TAPS)).astype(np.int32)
        ends = np.arange(0, taps.size + 1, TAPS, dtype=np.int32)
        weights = self.weights[begin:end].astype(np.float32)
        return csr_array((weights.ravel(), taps.ravel(), ends), shape=(end - begin, high - low), copy=False)


@dataclass(frozen=True, eq=False)
class Cut:
    """A mask in the part of the frame that can hold it: `bits` is column by column, its corner at (`left`, `top`).

    `high` and `low` count pixels above the two thresholds of the stability.
    """

    bits: Bool[np.ndarray, "cols rows"]
    left: int
    top: int
    high: int
    low: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """XYXY of the first and last pixel, inclusive; zeros for an empty mask: segment-anything's convention."""
        across, down = np.flatnonzero(self.bits.any(axis=1)), np.flatnonzero(self.bits.any(axis=0))
        if not len(across):
            return 0, 0, 0, 0
        left, top = self.left + int(across[0]), self.top + int(down[0])
        return left, top, self.left + int(across[-1]), self.top + int(down[-1])


@dataclass(frozen=True, eq=False)
class Stretch:
    """The way from logits to a frame of `height` x `width`, when the picture filled `kept` (rows, cols) of `side`²."""

    rows: Axis
    cols: Axis
    side: int
    kept: tuple[int, int]

    def cut(
        self, logits: Float32[np.ndarray, "high wide"], threshold: float | int, offset: float | int, chunk: int = CHUNK
    ) -> Cut:
        """The mask at `threshold` and the counts at `offset` above and below it, as two steps and three compares give.

        Pixels are made in columns of at most `chunk` bytes; the size changes nothing.
        """
        cuts = (float(threshold), float(threshold + offset), float(threshold - offset))
        window = self._window(logits, min(cuts))
        if window is None:
            return Cut(np.zeros((0, 0), bool), 0, 0, 0, 0)
        top, bottom, left, right = window
        high_cell, deep_cell = self.rows.under(top, bottom)
        low_cell, wide_cell = self.cols.under(left, right)
        cells = np.ascontiguousarray(logits[high_cell:deep_cell, low_cell:wide_cell])
        lines = self.rows.matrix(top, bottom, high_cell, deep_cell) @ cells  # (rows, cells across)
        flat = np.ascontiguousarray(lines.T)
        near = SCREEN * float(np.abs(cells).max())
        step = max(1, chunk // (4 * (bottom - top)))
        bits, counts = [], np.zeros(3, np.int64)
        for begin in range(left, right, step):
            end = min(right, begin + step)
            values = self.cols.matrix(begin, end, low_cell, wide_cell) @ flat
            for place, cut in enumerate(cuts):
                above = values > np.float32(cut - near)
                sure = values > np.float32(cut + near)
                total = int(np.count_nonzero(sure))
                if np.count_nonzero(above) != total:
                    doubtful = np.argwhere(above & ~sure)
                    found = self._decide(logits, doubtful + (begin, top), cut) if len(doubtful) <= FEW else None
                    if found is None:
                        return self._two_steps(logits, cuts)
                    sure[tuple(doubtful.T)] = found
                    total += int(np.count_nonzero(found))
                counts[place] += total
                if not place:
                    bits.append(sure)
        return Cut(bits[0] if len(bits) == 1 else np.concatenate(bits), left, top, int(counts[1]), int(counts[2]))

    def _window(self, logits: Float32[np.ndarray, "high wide"], lowest: float) -> tuple[int, int, int, int] | None:
        """Pixels (top, bottom, left, right; ends exclusive) that may be above the lowest threshold."""
        held = logits[: self.rows.last[-1] + 1, : self.cols.last[-1] + 1]
        above = held > np.float32(lowest - SCREEN * float(np.abs(held).max()))
        down, across = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not len(down):
            return None
        top, bottom = self.rows.reach(int(down[0]), int(down[-1]))
        left, right = self.cols.reach(int(across[0]), int(across[-1]))
        return (top, bottom, left, right) if top < bottom and left < right else None  # fewer pixels than cells

    def _decide(
        self, logits: Float32[np.ndarray, "high wide"], pixels: Int[np.ndarray, "n 2"], cut: float
    ) -> Bool[np.ndarray, " n"] | None:
        """Whether each pixel (col, row) is above `cut`, or None where torch's rounding might decide."""
        found = np.zeros(len(pixels), bool)
        cut = float(np.float32(cut))  # torch compares in float32
        for place, (col, row) in enumerate(pixels):
            down = slice(self.rows.base[row], self.rows.base[row] + TAPS)
            across = slice(self.cols.base[col], self.cols.base[col] + TAPS)
            taps = logits[down, across].astype(np.float64)
            value = float(self.rows.weights[row] @ taps @ self.cols.weights[col])
            if abs(value - cut) <= TIGHT * float(self.rows.weights[row] @ np.abs(taps) @ self.cols.weights[col]):
                return None
            found[place] = value > cut
        return found

    def _two_steps(self, logits: Float32[np.ndarray, "high wide"], cuts: Cuts) -> Cut:
        """The same by torch's own two steps over the whole frame."""
        # Three masks as of one prompt: with one or two channels torch takes a kernel with other last bits.
        low = torch.from_numpy(np.broadcast_to(logits, (1, 3, *logits.shape)).copy())
        square = F.interpolate(low, (self.side, self.side), mode="bilinear", align_corners=False)
        size = (len(self.rows.first), len(self.cols.first))
        frame = F.interpolate(
            square[..., : self.kept[0], : self.kept[1]], size, mode="bilinear", align_corners=False
        ).numpy()[0, 0]
        bits, high, low_count = (frame > np.float32(cut) for cut in cuts)
        return Cut(np.ascontiguousarray(bits.T), 0, 0, int(high.sum()), int(low_count.sum()))


@lru_cache(16)
def stretch(cells: tuple[int, int], side: int, kept: tuple[int, int], height: int, width: int) -> Stretch:
    """The way from `cells` (rows, cols) of logits to a picture; kept for the next picture of that size."""
    return Stretch(Axis.of(cells[0], side, kept[0], height), Axis.of(cells[1], side, kept[1], width), side, kept)


def _steps(cells: int, pixels: int) -> Float[torch.Tensor, "cells pixels"]:
    """torch's weights of one step along one axis."""
    return F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0]


__all__ = ["Axis", "Cut", "Stretch", "stretch"]
