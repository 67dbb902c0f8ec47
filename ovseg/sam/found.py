"""Masks that a grid of points has found, and which of them stay where they overlap: `thinned`, a row of `RULES`.

box   boxes that overlap: torchvision's non-maximum suppression, as segment-anything calls it.
mask  masks that overlap: the same rule and the same order by the exact IoU of masks, so that a ring and what it holds
      both stay. Only masks whose boxes meet and whose sizes are alike are ever compared, a row of pairs at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int

from ovseg.sam.runs import Kept


@dataclass(frozen=True, eq=False)
class Found:
    """One mask that passed the filters; `box` is XYXY of the frame's pixels, inclusive; `crop` is XYXY edges."""

    kept: Kept
    box: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]
    logits: Float32[np.ndarray, "high wide"] | None = None


Scores: TypeAlias = Float32[np.ndarray, " n"]
Quality: TypeAlias = str | Callable[[Found], float]  # a number that is a field of `Found`, or of one's own
QUALITIES = ("predicted_iou", "stability_score")


def scores(found: Sequence[Found], quality: Quality) -> Scores:
    """The number that sorts masks, of each; what is no number counts as 0."""
    numbers = [float(getattr(one, quality) if isinstance(quality, str) else quality(one)) for one in found]
    return np.nan_to_num(np.array(numbers, np.float32))


def thinned(found: Sequence[Found], by: Scores, worst: float | int, rule: str, frame: tuple[int, int]) -> list[Found]:
    """What stays, best first, when a mask that overlaps a better one by an IoU above `worst` goes.

    `frame` is (height, width) of the picture.
    """
    return [found[i] for i in RULES[rule](found, by, worst, frame)] if found else []


def _by_boxes(found: Sequence[Found], by: Scores, worst: float | int, frame: tuple[int, int]) -> list[int]:
    from torchvision.ops.boxes import batched_nms

    boxes = torch.tensor([one.box for one in found], dtype=torch.float32)
    kept: list[int] = batched_nms(boxes, torch.from_numpy(by), torch.zeros(len(boxes)), iou_threshold=worst).tolist()
    return kept


def _by_masks(found: Sequence[Found], by: Scores, worst: float | int, frame: tuple[int, int]) -> list[int]:
    from pycocotools import mask as coco

    rles = [one.kept.rle(*frame) for one in found]
    areas = np.array([one.kept.area for one in found], np.int64)
    boxes = np.array([one.box for one in found], np.int64)
    left: Int[np.ndarray, " n"] = np.argsort(-by, kind="stable")
    stay = []
    while len(left):
        best, left = int(left[0]), left[1:]
        stay.append(best)
        near = np.flatnonzero(_may_overlap(areas, boxes, best, left, worst))
        if len(near):
            ious = np.asarray(coco.iou([rles[best]], [rles[i] for i in left[near]], [0] * len(near)), float)[0]
            left = np.delete(left, near[ious > worst])
    return stay


def _may_overlap(
    areas: Int[np.ndarray, " n"],
    boxes: Int[np.ndarray, "n 4"],
    one: int,
    others: Int[np.ndarray, " m"],
    worst: float | int,
) -> np.ndarray:
    """Whether the IoU of masks can be above `worst` at all: it is at most that of their sizes, and boxes must meet."""
    small, large = np.minimum(areas[others], areas[one]), np.maximum(areas[others], areas[one])
    meet = (boxes[others, :2] <= boxes[one, 2:]) & (boxes[others, 2:] >= boxes[one, :2])
    return np.asarray((small > worst * large) & meet.all(axis=1))


RULES: Mapping[str, Callable[[Sequence[Found], Scores, float | int, tuple[int, int]], list[int]]] = MappingProxyType(
    {"box": _by_boxes, "mask": _by_masks}
)

__all__ = ["Found", "QUALITIES", "Quality", "RULES", "Scores", "scores", "thinned"]
