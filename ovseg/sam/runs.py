"""Masks as the runs of their boxes: small while they wait, and COCO run lengths of the frame for those that stay.

Everything is column by column, COCO's order. Counts are those of segment-anything's `mask_to_rle_pytorch` and of
pycocotools, without either touching a full frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt, UInt8

from ovseg.raster import Rle
from ovseg.sam.stretch import Cut


@dataclass(frozen=True, eq=False)
class Kept:
    """A mask in a crop of the frame, packed: where it changes along its columns, or its bits where that is less.

    `cols` x `rows` pixels with the corner at (`left`, `top`) of the frame.
    """

    left: int
    top: int
    cols: int
    rows: int
    changes: UInt[np.ndarray, " n"] | None
    packed: UInt8[np.ndarray, " bytes"] | None

    @classmethod
    def of(cls, cut: Cut, corner: tuple[int, int] = (0, 0)) -> "Kept":
        """The mask of a cut; `corner` (left, top) is where the crop that was cut from stands in the frame."""
        cols, rows = cut.bits.shape
        flat = cut.bits.ravel()
        changes: Int[np.ndarray, " n"] = np.flatnonzero(flat[1:] ^ flat[:-1]) + 1
        if flat.size and flat[0]:
            changes = np.concatenate([[0], changes])
        small = changes.astype(np.uint32 if flat.size >= 2**16 else np.uint16)
        place = (cut.left + corner[0], cut.top + corner[1], cols, rows)
        if small.nbytes > flat.size // 8 + 1:
            return cls(*place, None, np.packbits(flat))
        return cls(*place, small, None)

    @property
    def bits(self) -> Bool[np.ndarray, "cols rows"]:
        """The crop, column by column."""
        size = self.cols * self.rows
        if self.packed is not None:
            return np.unpackbits(self.packed, count=size).astype(bool).reshape(self.cols, self.rows)
        assert self.changes is not None, "a kept mask has changes or bits"
        flips = np.zeros(size, bool)
        flips[self.changes] = True
        return np.logical_xor.accumulate(flips).reshape(self.cols, self.rows) if size else flips.reshape(0, 0)

    @property
    def area(self) -> int:
        edges = self._edges()
        return int((edges[1::2] - edges[0::2]).sum())

    def mask(self, height: int, width: int) -> Bool[np.ndarray, "height width"]:
        """The mask in its frame, columns contiguous as segment-anything's are."""
        frame = np.zeros((width, height), bool)
        frame[self.left : self.left + self.cols, self.top : self.top + self.rows] = self.bits
        return frame.T

    def counts(self, height: int, width: int) -> list[int]:
        """COCO's uncompressed run lengths in a frame: off, on, off ...; the last run is never empty."""
        edges = self._edges()
        if self.rows and self.rows < height:  # runs end where the crop's columns do
            starts, ends = edges[0::2], edges[1::2]
            first, last = starts // self.rows, (ends - 1) // self.rows
            more = last - first
            run = np.repeat(np.arange(len(starts)), more + 1)
            nth = np.arange(len(run)) - np.repeat(np.cumsum(more + 1) - (more + 1), more + 1)
            column = first[run] + nth
            begin = np.where(nth == 0, starts[run], column * self.rows)
            end = np.where(nth == more[run], ends[run], (column + 1) * self.rows)
            shift = (self.left + column) * height + self.top - column * self.rows
            edges = np.stack([begin + shift, end + shift], axis=1).ravel()
        else:
            edges = edges + self.left * height
        runs: list[int] = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
        return runs if runs[-1] or len(runs) == 1 else runs[:-1]

    def rle(self, height: int, width: int) -> Rle:
        """COCO's compressed run lengths in a frame."""
        return compress(self.counts(height, width), height, width)

    def _edges(self) -> Int[np.ndarray, " n"]:
        """Starts and ends (exclusive) of the runs in the crop, in turn."""
        if self.changes is None:
            flat = self.bits.ravel()
            edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]])))
            return edges.astype(np.int64)
        edges = self.changes.astype(np.int64)
        return np.concatenate([edges, [self.cols * self.rows]]) if len(edges) % 2 else edges


def compress(counts: list[int], height: int, width: int) -> Rle:
    """Uncompressed run lengths as COCO's text."""
    from pycocotools import mask as coco

    rle = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def without_specks(
    mask: Bool[np.ndarray, "height width"], smallest: float | int
) -> tuple[Bool[np.ndarray, "height width"], bool]:
    """A mask without holes and then without islands smaller than so many pixels (8-connected), and whether it changed.

    The largest island stays though all are small, as in segment-anything's `remove_small_regions`.
    """
    import cv2

    changed = False
    _, parts, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), 8)
    small = np.flatnonzero(stats[1:, -1] < smallest) + 1
    if len(small):
        mask, changed = np.isin(parts, [0, *small]), True
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), 8)
    sizes = stats[1:, -1]
    if (sizes < smallest).any():
        large = np.flatnonzero(sizes >= smallest)
        stay = large if len(large) else sizes.argmax(keepdims=True)
        mask, changed = np.isin(parts, stay + 1), True
    return mask, changed


__all__ = ["Kept", "compress", "without_specks"]
