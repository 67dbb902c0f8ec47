"""Arithmetic on rasters that the nouns themselves need: run lengths, grids to pixels, scores to labels, colours.

Everything else on arrays lives in `geometry` and `masks`, above the nouns. Run lengths are COCO's, made and read by
pycocotools.
"""

import colorsys
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Int32, UInt8


class Rle(TypedDict):
    """COCO's compressed run lengths of one full-frame mask: `size` is [height, width], `counts` is text."""

    size: list[int]
    counts: str


def encode_rle(mask: Bool[np.ndarray, "height width"]) -> Rle:
    """COCO run lengths of one mask."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: Rle) -> Bool[np.ndarray, "height width"]:
    """The mask of COCO run lengths."""
    from pycocotools import mask as coco

    return np.ascontiguousarray(coco.decode(rle)).astype(bool)


def areas(rles: Sequence[Rle]) -> Int[np.ndarray, " n"]:
    """Pixels in each mask. One call a mask: pycocotools 2.0.11 overflows on a list of more than 255 under numpy 2."""
    from pycocotools import mask as coco

    return np.array([int(coco.area(rle)) for rle in rles], np.int64)


def bilinear(cells: int, pixels: int) -> Float32[np.ndarray, "pixels cells"]:
    """Weights that carry `cells` samples to `pixels` (half-pixel centres, edges repeated, no antialias). Rows sum to 1.

    >>> bilinear(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    centre = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
    low = np.floor(centre).astype(np.int64).clip(0, cells - 1)
    high = np.minimum(low + 1, cells - 1)
    share = (centre - low).astype(np.float32)
    weights = np.zeros((pixels, cells), np.float32)
    weights[np.arange(pixels), low] += 1 - share
    weights[np.arange(pixels), high] += share
    return weights


def upsample(
    maps: Float32[np.ndarray, "k rows cols"], height: int, width: int, band: slice | None = None
) -> Float32[np.ndarray, "k h width"]:
    """Maps on the grid, bilinear to `height` x `width` pixels (torch's align_corners=False), or a band of pixel rows.

    Two small matrices, so a band made alone holds the same numbers as the same rows of the whole, up to the order of
    additions.
    """
    _, rows, cols = maps.shape
    down, across = bilinear(rows, height)[band or slice(None)], bilinear(cols, width)
    out: Float32[np.ndarray, "k h width"] = np.matmul(np.matmul(down, maps), across.T)
    return out


def posterior(
    rows: Float32[np.ndarray, "rows ..."], owner: Int[np.ndarray, " rows"], names: int, probability: str
) -> Float32[np.ndarray, "slots ..."]:
    """Posteriors of `names` names and then of every negative, from scaled cosines of prompt rows.

    "names" (ours): a name's best row first, softmax over names and negatives. "rows" (the papers'): softmax over all
    rows, then a name's best row, so that adding a synonym lowers everybody. Both have the same arg-max.
    """
    negatives = np.flatnonzero(owner < 0)
    slots = np.empty((names + len(negatives), *rows.shape[1:]), np.float32)
    for name in range(names):
        slots[name] = rows[owner == name].max(axis=0)
    slots[names:] = rows[negatives]
    if not len(slots):
        return slots
    top = slots.max(axis=0)
    if probability == "rows":
        shared: Float32[np.ndarray, "slots ..."] = np.exp(slots - top) / np.exp(rows - top).sum(axis=0)
        return shared
    slots -= top
    np.exp(slots, out=slots)
    slots /= slots.sum(axis=0)
    return slots


def pick(
    slots: Float32[np.ndarray, "slots ..."], thresholds: Float32[np.ndarray, " names"]
) -> tuple[Int16[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
    """Label (-1: none) and posterior of each place: names below their own threshold struck, then the largest wins."""
    count, shape = len(thresholds), slots.shape[1:]
    if not count:
        return np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
    names = slots[:count]
    struck = names < thresholds.reshape(-1, *[1] * len(shape))
    alive = np.where(struck, -1, names)
    label, best = alive.argmax(axis=0), alive.max(axis=0)
    rival = slots[count:].max(axis=0) if len(slots) > count else np.zeros(shape, np.float32)
    lost = (best <= 0) | (rival > best)
    confidence = np.where(lost, names.max(axis=0), best)
    return np.where(lost, -1, label).astype(np.int16), confidence.astype(np.float32)


def split(
    labels: Int16[np.ndarray, "height width"], parts: Int32[np.ndarray, "height width"] | None, names: int
) -> tuple[Int[np.ndarray, "height width"], Int[np.ndarray, " n"]]:
    """The region that owns each pixel (-1: none) and each region's label.

    A labelled pixel of a proposal belongs to it; elsewhere 8-connected pixels of one label are a region.
    """
    import cv2

    owners = np.full(labels.shape, -1, np.int64)
    kinds: list[int] = []
    free = labels >= 0
    if parts is not None:
        owned = free & (parts >= 0)
        ids, first, inverse = np.unique(parts[owned], return_index=True, return_inverse=True)
        owners[owned] = inverse.reshape(-1)
        kinds += labels[owned][first].tolist()
        free &= ~owned
    for name in range(names):
        here = free & (labels == name)
        if here.any():
            count, found = cv2.connectedComponents(here.astype(np.uint8), connectivity=8)
            owners[here] = found[here] - 1 + len(kinds)
            kinds += [name] * (count - 1)
    return owners, np.asarray(kinds, np.int64)


def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """RGB colours that tell `count` names apart, also for colour-blind eyes where few are asked.

    The first eight are Okabe and Ito's (black last, grey instead), the next seven Tol's muted set, then hues at the
    golden angle.
    """
    fixed = (
        "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 999999 "  # Okabe-Ito
        "332288 88CCEE 44AA99 117733 999933 DDCC77 882255"  # Tol, muted
    ).split()
    colours = [tuple(bytes.fromhex(code)) for code in fixed[:count]]
    for i in range(len(fixed), count):
        hue, light = (i * 0.61803398875) % 1, 0.38 + 0.24 * (i % 3) / 2
        colours.append(tuple(round(255 * v) for v in colorsys.hls_to_rgb(hue, light, 0.65)))
    return np.array(colours, np.uint8).reshape(-1, 3)


def rles_of(owners: Int[np.ndarray, "height width"], count: int) -> Iterator[Rle]:
    """Run lengths of regions 0..count-1 in a map of owners, each cut from its own box."""
    if not count:
        return
    from pycocotools import mask as coco

    rows, cols = np.nonzero(owners >= 0)
    ids = owners[rows, cols]
    low = np.full((count, 2), np.iinfo(np.int64).max)
    high = np.zeros((count, 2), np.int64)
    place = np.stack([rows, cols], axis=1)
    np.minimum.at(low, ids, place)
    np.maximum.at(high, ids, place + 1)
    frame = np.zeros(owners.shape, np.uint8, order="F")
    for i in range(count):
        box = (slice(low[i, 0], high[i, 0]), slice(low[i, 1], high[i, 1]))
        frame[box] = owners[box] == i
        rle = coco.encode(frame)
        frame[box] = 0
        yield {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


__all__ = [
    "Rle",
    "areas",
    "bilinear",
    "decode_rle",
    "encode_rle",
    "palette",
    "pick",
    "posterior",
    "rles_of",
    "split",
    "upsample",
]
