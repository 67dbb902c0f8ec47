"""Segments of a picture from the one map of who owns a pixel: things one by one, stuff of one name together.

Semantic, instance and panoptic views are read off the same owners, so they cannot disagree. Everything is counted on
runs of equal pixels, never mask by mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from ovseg.raster import Rle, decode_rle, rles_of, runs_of


@dataclass(frozen=True)
class Instance:
    """One thing: the pixels that it owns, as COCO run lengths and as a box (XYXY pixel edges).

    `id` is its number in the panoptic map, `regions` are the regions of the result that it is made of.
    """

    id: int
    name: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    rle: Rle
    regions: tuple[int, ...]

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """Its pixels in the whole picture."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a picture, counted from 1 by their first pixel in reading order; `ids` is 0 where there is none.

    `kinds` holds the name's number of each, `of_regions` the segment of each region (0: it owns no pixel), `boxes` XYXY
    pixel edges.
    """

    ids: Int32[np.ndarray, "height width"]
    kinds: Int[np.ndarray, " s"]
    things: Bool[np.ndarray, " s"]
    areas: Int[np.ndarray, " s"]
    boxes: Int[np.ndarray, "s 4"]
    scores: Float[np.ndarray, " s"]
    of_regions: Int[np.ndarray, " n"]

    def records(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A record a segment, as COCO's panoptic files have them (bbox: left, top, width, height), with score, name and
        the regions that it is made of."""
        found = []
        for i, (left, top, right, bottom) in enumerate(self.boxes.tolist()):
            found.append(
                {
                    "id": i + 1,
                    "name": names[self.kinds[i]],
                    "isthing": bool(self.things[i]),
                    "score": round(float(self.scores[i]), 6),
                    "area": int(self.areas[i]),
                    "bbox": [left, top, right - left, bottom - top],
                    "regions": np.flatnonzero(self.of_regions == i + 1).tolist(),
                }
            )
        return found

    def instances(self, names: Sequence[str]) -> list[Instance]:
        """The things, by score (six digits), then area, both falling."""
        rles = list(rles_of(self.ids - 1, len(self.kinds)))
        order = np.lexsort((-self.areas, -self.scores.round(6)))
        return [
            Instance(
                i + 1,
                names[self.kinds[i]],
                float(self.scores[i]),
                int(self.areas[i]),
                tuple(self.boxes[i].tolist()),
                rles[i],
                tuple(np.flatnonzero(self.of_regions == i + 1).tolist()),
            )
            for i in order[self.things[order]].tolist()
        ]


def segments_of(
    owners: Int[np.ndarray, "height width"],
    kinds: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    stuff: Bool[np.ndarray, " names"],
) -> Segments:
    """Segments of regions 0..n-1 that own pixels (-1: nobody's): a thing is a region, stuff all regions of its name.

    `kinds` holds the name's number of each region. A segment's score is the mean over its pixels of their regions'.

    >>> owners = np.array([[2, 2, -1], [0, 1, 1]])
    >>> found = segments_of(owners, np.array([1, 0, 1]), np.array([0.5, 0.75, 1.0]), np.array([False, True]))
    >>> found.ids.tolist(), found.things.tolist(), found.scores.round(4).tolist()
    ([[1, 1, 0], [1, 2, 2]], [False, True], [0.8333, 0.75])
    """
    width, count = owners.shape[1], len(kinds)
    starts, ends = runs_of(owners)
    runs = owners.reshape(-1)[starts]
    starts, ends, runs = starts[runs >= 0], ends[runs >= 0], runs[runs >= 0]
    keys = np.where(stuff[kinds], count + kinds, np.arange(count))  # one key a segment
    found, heads = np.unique(keys[runs], return_index=True)  # runs stand in reading order
    order = np.argsort(heads)
    number = np.zeros(count + len(stuff), np.int32)
    number[found[order]] = np.arange(len(found)) + 1
    of_regions = np.where(np.bincount(runs, minlength=count) > 0, number[keys], 0)
    place, lengths = number[keys][runs] - 1, ends - starts
    areas = np.bincount(place, lengths, len(found)).astype(np.int64)
    boxes = np.empty((len(found), 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int64).max, 0
    tops, lefts = starts // width, starts % width
    for column, values in enumerate((lefts, tops)):
        np.minimum.at(boxes[:, column], place, values)
    for column, values in enumerate((lefts + lengths, tops + 1), 2):
        np.maximum.at(boxes[:, column], place, values)
    kept = kinds[runs[heads[order]]]
    mean = np.bincount(place, lengths * scores[runs], len(found)) / np.maximum(areas, 1)
    ids = np.append(number[keys], np.int32(0))[owners]  # the last entry serves index -1
    return Segments(ids, kept, ~stuff[kept], areas, boxes, mean, of_regions)


__all__ = ["Instance", "Segments", "segments_of"]
