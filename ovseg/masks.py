"""Arithmetic on masks: outlines at pixel edges, boxes, overlaps, and how much of a cell a mask covers.

Run lengths are COCO's and made by pycocotools (`types.encode_rle`); areas, boxes and overlaps are read off them without
decoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ovseg.raster import Rle, areas, decode_rle
from ovseg.types import Regions


@dataclass(frozen=True, eq=False)
class Polygon:
    """One part of a mask: its outer ring and the rings of its holes, (x, y) of pixel edges, not closed by repetition.

    Every side is upright or level. The mask is to the right of the way along a ring: outer rings run clockwise as seen
    on the screen, holes the other way. Parts are 4-connected: a contact in a corner parts two polygons, and a pocket
    that meets the outside in a corner is no hole.
    """

    outer: Int[np.ndarray, "corners 2"]
    holes: tuple[Int[np.ndarray, "_ 2"], ...] = ()


def polygons(mask: Bool[np.ndarray, "height width"]) -> list[Polygon]:
    """The exact outline of a mask, a polygon for each of its 4-connected parts, in reading order.

    Filling the rings by the even-odd rule gives the mask back, pixel for pixel; so does pycocotools with outer rings
    alone where there is no hole.

    >>> mask = np.zeros((6, 8), bool); mask[1:4, 1:5] = True
    >>> polygons(mask)[0].outer.tolist(), polygons(mask)[0].holes
    ([[1, 1], [5, 1], [5, 4], [1, 4]], ())
    """
    import cv2
    from skimage.measure import find_contours

    if not mask.any():
        return []
    left, top, right, bottom = boxes(mask[None])[0]
    crop = mask[top:bottom, left:right]
    padded = np.pad(crop, 1)
    _, parts = cv2.connectedComponents(padded.astype(np.uint8), connectivity=4)
    outers: dict[int, Int[np.ndarray, "corners 2"]] = {}
    holes: dict[int, list[Int[np.ndarray, "corners 2"]]] = {}
    for line in find_contours(padded.astype(np.float32), 0.5, fully_connected="low", positive_orientation="low"):
        ring = _square(line)
        if ring[0][0] == ring[1][0]:
            ring = np.roll(ring, 1, axis=0)  # the first side is level
        part, area = int(parts[_inside(ring)]), _signed_area(ring)
        if area < 0:
            holes.setdefault(part, []).append(ring)
        else:
            outers[part] = ring
    shift = np.array([left - 1, top - 1])
    found = []
    for part, ring in outers.items():
        inner = sorted((_from_first(hole) + shift for hole in holes.get(part, [])), key=_reading)
        found.append(Polygon(_from_first(ring) + shift, tuple(inner)))
    return sorted(found, key=lambda polygon: _reading(polygon.outer))


def boxes(masks: Bool[np.ndarray, "n height width"]) -> Int[np.ndarray, "n 4"]:
    """XYXY pixel edges (max + 1) of each mask; zeros for an empty one.

    >>> boxes(np.array([[[0, 0, 0], [0, 1, 1]]], bool)).tolist()
    [[1, 1, 3, 2]]
    """
    height, width = masks.shape[1:]
    down: Bool[np.ndarray, "n height"] = np.any(masks, axis=2)
    across: Bool[np.ndarray, "n width"] = np.any(masks, axis=1)
    found = np.stack(
        [
            across.argmax(axis=1),
            down.argmax(axis=1),
            width - across[:, ::-1].argmax(axis=1),
            height - down[:, ::-1].argmax(axis=1),
        ],
        axis=1,
    )
    found[~np.any(masks, axis=(1, 2))] = 0
    return found


def intersections(ones: Sequence[Rle], others: Sequence[Rle]) -> Int[np.ndarray, "n m"]:
    """Pixels that each pair of masks shares."""
    from pycocotools import mask as coco

    if not ones or not others:
        return np.zeros((len(ones), len(others)), np.int64)
    # With `iscrowd` the quotient is intersection / area of the first, so one product gives whole pixels back.
    shared = np.asarray(coco.iou(list(ones), list(others), [1] * len(others)), float)
    return np.asarray(np.rint(shared * areas(ones)[:, None]), np.int64)


def iou(ones: Sequence[Rle], others: Sequence[Rle]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each pair of masks, in [0, 1]; 0 where both are empty."""
    shared = intersections(ones, others)
    union = areas(ones)[:, None] + areas(others)[None] - shared
    return np.asarray(shared / np.maximum(union, 1), float)


def iom(ones: Sequence[Rle], others: Sequence[Rle]) -> Float[np.ndarray, "n m"]:
    """Intersection over the smaller area of each pair of masks, in [0, 1]: 1 where one lies in the other; 0 with an
    empty one."""
    smaller = np.minimum(areas(ones)[:, None], areas(others)[None])
    return np.asarray(intersections(ones, others) / np.maximum(smaller, 1), float)


def cell_fractions(regions: Regions, rows: int, cols: int) -> Float32[np.ndarray, "n rows cols"]:
    """The share of each cell of a rows x cols grid over the picture that each region covers, in [0, 1].

    A box filter, exact also where a cell is no whole number of pixels: a pixel on a border counts to both sides by its
    parts, and a mask of one pixel has a share somewhere. One mask is decoded at a time.
    """
    down, across = _shares(regions.height, rows), _shares(regions.width, cols)
    found = np.zeros((len(regions), rows, cols), np.float32)
    for i, (rle, (left, top, right, bottom)) in enumerate(zip(regions.rles, regions.boxes.astype(int), strict=True)):
        inside = decode_rle(rle)[top:bottom, left:right].astype(np.float32)
        found[i] = down[:, top:bottom] @ (inside @ across[:, left:right].T)
    return found.clip(0, 1)


def _shares(pixels: int, cells: int) -> Float32[np.ndarray, "cells pixels"]:
    """How much of each cell each pixel fills along one axis; rows sum to 1."""
    edges = np.arange(cells + 1) * (pixels / cells)
    low = np.maximum(edges[:-1, None], np.arange(pixels))
    high = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return np.asarray(np.maximum(high - low, 0) * (cells / pixels), np.float32)


def _square(line: Float[np.ndarray, "points 2"]) -> Int[np.ndarray, "corners 2"]:
    """Corners (x, y) of a marching-squares ring (row, col) of a padded mask: its cut corners made square again.

    A point of the ring is the middle of a pixel's side: one coordinate is whole, the other ends in a half. Where two
    neighbours are half across and half along, the corner that was cut between them has both halves.
    """
    here, there = line[:-1], line[1:]
    cut = (here != there).all(axis=1)
    here, there = here[cut], there[cut]
    corner = np.where(here % 1 == 0.5, here, there)
    return np.asarray(corner[:, ::-1] + 0.5, np.int64)


def _inside(ring: Int[np.ndarray, "corners 2"]) -> tuple[int, int]:
    """A pixel (row, col) of the mask that lies along the ring's first, level side."""
    (x, y), (to, _) = ring[0], ring[1]
    return (int(y), int(x)) if to > x else (int(y) - 1, int(x) - 1)


def _signed_area(ring: Int[np.ndarray, "corners 2"]) -> int:
    """Pixels in a ring that runs clockwise on the screen; negative for one that runs the other way."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def _from_first(ring: Int[np.ndarray, "corners 2"]) -> Int[np.ndarray, "corners 2"]:
    """The same ring, begun at its highest and then leftmost corner."""
    return np.roll(ring, -int(np.lexsort((ring[:, 0], ring[:, 1]))[0]), axis=0)


def _reading(ring: Int[np.ndarray, "corners 2"]) -> tuple[int, int]:
    return int(ring[0, 1]), int(ring[0, 0])


__all__ = [
    "Polygon",
    "boxes",
    "cell_fractions",
    "intersections",
    "iom",
    "iou",
    "polygons",
]
