"""Arithmetic on rasters that the nouns themselves need: run lengths, grids to pixels, scores to labels, colours.

Everything else on arrays lives in `geometry` and `masks`, above the nouns. Run lengths are COCO's, made and read by
pycocotools.
"""

import colorsys
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

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


def checked_rle(segmentation: Any) -> Rle:
    """COCO's run lengths as a file holds them, compressed or not, as the compressed ones; `ValueError` if counts and
    size do not agree: pycocotools takes what lies in memory for pixels that no count speaks of.

    >>> checked_rle({"size": [2, 3], "counts": [1, 2, 3]})
    {'size': [2, 3], 'counts': '123'}
    """
    size, given = [_whole(side) for side in segmentation["size"]], segmentation["counts"]
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"size is rows and columns: got {size}")
    listed = isinstance(given, list)
    counts = np.array([_whole(count) for count in given], np.int64) if listed else counts_of(str(given))
    if counts.sum() != size[0] * size[1] or counts.min(initial=0) < 0:
        raise ValueError(f"its counts add up to {counts.sum()}, its size is {size[0]}x{size[1]}")
    return {"size": size, "counts": _texts(counts, np.array([len(counts)]))[0] if listed else str(given)}


def _whole(number: Any) -> int:
    if int(number) != number:
        raise ValueError(f"sizes and counts are whole numbers: got {number}")
    return int(number)


def counts_of(text: str) -> Int[np.ndarray, " counts"]:
    """The counts of a text, as `_texts` writes it."""
    signs = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(signs) and (signs.min() < 0 or signs.max() > 63 or signs[-1] & 32):
        raise ValueError(f"run lengths are written in signs from 0 to o, the last below P: got ...{text[-12:]!r}")
    last = signs < 32
    starts = np.append(0, np.flatnonzero(last)[:-1] + 1)[: np.count_nonzero(last)]
    place = np.arange(len(signs)) - np.repeat(starts, np.diff(starts, append=len(signs)))
    if place.max(initial=0) > 6:
        raise ValueError(f"a run length has seven signs at most: got {place.max() + 1}")
    counts: Int[np.ndarray, " counts"] = (
        np.add.reduceat((signs & 31) << (5 * place), starts) if len(starts) else np.zeros(0, np.int64)
    )
    ends = np.flatnonzero(last)
    counts -= (signs[ends] & 16) << (5 * place[ends] + 1)  # the highest bit is a sign
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts


def areas(rles: Sequence[Rle]) -> Int[np.ndarray, " n"]:
    """Pixels in each mask. One call a mask: pycocotools 2.0.11 overflows on a list of more than 255 under numpy 2."""
    from pycocotools import mask as coco

    return np.array([int(coco.area(rle)) for rle in rles], np.int64)


def bilinear(cells: int, pixels: int) -> Float32[np.ndarray, "pixels cells"]:
    """Weights that carry `cells` samples to `pixels` (half-pixel centres, edges repeated, no antialias). Rows sum to 1.

    >>> bilinear(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    low, high, share = _between(cells, pixels)
    weights = np.zeros((pixels, cells), np.float32)
    weights[np.arange(pixels), low] += 1 - share
    weights[np.arange(pixels), high] += share
    return weights


def _between(
    cells: int, pixels: int
) -> tuple[Int[np.ndarray, " pixels"], Int[np.ndarray, " pixels"], Float32[np.ndarray, " pixels"]]:
    """The two samples that a pixel lies between, and the share of the second."""
    centre = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
    low = np.floor(centre).astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), (centre - low).astype(np.float32)


def upsample(
    maps: Float32[np.ndarray, "k rows cols"], height: int, width: int, band: slice | None = None
) -> Float32[np.ndarray, "k h width"]:
    """Maps on the grid, bilinear to `height` x `width` pixels (torch's align_corners=False), or a band of pixel rows.

    A band made alone holds the same bits as the same rows of the whole: pixel rows are mixed on the grid's columns, and
    then all of them are stretched at once.
    """
    import cv2

    count, rows, cols = maps.shape
    low, high, share = (part[band or slice(None)] for part in _between(rows, height))
    lines: Float32[np.ndarray, "k h cols"] = maps[:, low] * (1 - share)[:, None] + maps[:, high] * share[:, None]
    if not lines.size:
        return np.zeros((count, len(low), width), np.float32)
    if cols == width:
        return np.asarray(lines)
    flat = cv2.resize(lines.reshape(count * len(low), cols), (width, count * len(low)), interpolation=cv2.INTER_LINEAR)
    out: Float32[np.ndarray, "k h width"] = flat.reshape(count, len(low), width)
    return out


def slots_of(
    rows: Float32[np.ndarray, "rows ..."], owner: Int[np.ndarray, " rows"], names: int
) -> Float32[np.ndarray, "slots ..."]:
    """The best row of each of `names` names, then every negative; `rows` itself where there is no choice."""
    negatives = np.flatnonzero(owner < 0)
    if len(owner) == names + len(negatives) and (owner[:names] == np.arange(names)).all():
        return rows
    slots = np.empty((names + len(negatives), *rows.shape[1:]), np.float32)
    for name in range(names):
        own = np.flatnonzero(owner == name)
        np.copyto(slots[name], rows[own[0]])
        for other in own[1:]:
            np.maximum(slots[name], rows[other], out=slots[name])
    for slot, negative in enumerate(negatives, names):
        np.copyto(slots[slot], rows[negative])
    return slots


def posterior(
    rows: Float32[np.ndarray, "rows ..."], owner: Int[np.ndarray, " rows"], names: int, probability: str
) -> Float32[np.ndarray, "slots ..."]:
    """Posteriors of `names` names and then of every negative, from scaled cosines of prompt rows.

    "names" (ours): a name's best row first, softmax over names and negatives. "rows" (the papers'): softmax over all
    rows, then a name's best row, so that adding a synonym lowers everybody. Both have the same arg-max.
    """
    if not len(rows):
        return np.zeros((names, *rows.shape[1:]), np.float32)
    return softmax(rows - rows.max(axis=0), owner, names, probability)


def softmax(
    rows: Float32[np.ndarray, "rows ..."], owner: Int[np.ndarray, " rows"], names: int, probability: str
) -> Float32[np.ndarray, "slots ..."]:
    """What `posterior` gives, from rows whose largest is near 0 in every place. The rows given are used up."""
    if probability == "rows":
        np.exp(rows, out=rows)
        total = rows.sum(axis=0)
        slots = slots_of(rows, owner, names)
    else:
        slots = slots_of(rows, owner, names)
        np.exp(slots, out=slots)
        total = slots.sum(axis=0)
    slots /= total
    return slots


def pick(
    slots: Float32[np.ndarray, "slots ..."], thresholds: Float32[np.ndarray, " names"]
) -> tuple[Int16[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
    """Label (-1: none) and posterior of each place: names below their own threshold struck, then the largest wins."""
    count, shape = len(thresholds), slots.shape[1:]
    if not count:
        return np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
    names = slots[:count]
    best = names.max(axis=0)
    label, won = _first(names, best), best
    if (thresholds != thresholds[0]).any():  # a name that is struck gives way to another
        alive = np.where(names < thresholds.reshape(-1, *[1] * len(shape)), np.float32(-1), names)
        won = alive.max(axis=0)
        label = _first(alive, won)
    lost = (won <= 0) | (won < thresholds[label])
    if len(slots) > count:
        lost |= slots[count:].max(axis=0) > won
    label[lost] = -1
    return label, np.where(lost, best, won)


def doubtful(
    slots: Float32[np.ndarray, "slots ..."], rivals: int, lead: float | int, entropy: float | int
) -> tuple[Bool[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Places whose best posterior leads the second by less than `lead`, and those whose entropy is more than `entropy`
    of what `rivals` equal posteriors have (never, with one).

    >>> slots = np.array([[0.5, 0.9], [0.4, 0.05], [0.1, 0.05]], np.float32)
    >>> [places.tolist() for places in doubtful(slots, 3, 0.2, 0.8)]
    [[True, False], [True, False]]
    """
    close, wide = np.zeros(slots.shape[1:], bool), np.zeros(slots.shape[1:], bool)
    if lead > 0 and len(slots) > 1:
        best = np.partition(slots, len(slots) - 2, axis=0)[-2:]
        close = best[1] - best[0] < lead
    if entropy < 1 and rivals > 1:
        surprise = np.zeros(slots.shape[1:], np.float32)
        for slot in slots:
            surprise -= slot * np.log(np.maximum(slot, np.finfo(np.float32).tiny))
        wide = surprise > entropy * math.log(rivals)
    return close, wide


def _first(slots: Float32[np.ndarray, "slots ..."], best: Float32[np.ndarray, "..."]) -> Int16[np.ndarray, "..."]:
    """The first slot that holds the best; a quarter of numpy's time for arg-max over the first axis."""
    least = np.uint8 if len(slots) < 256 else np.int16
    countdown = np.arange(len(slots), 0, -1, dtype=least).reshape(-1, *[1] * best.ndim)
    return np.asarray(len(slots) - ((slots == best) * countdown).max(axis=0).astype(np.int16), np.int16)


def split(
    labels: Int16[np.ndarray, "height width"], parts: Int32[np.ndarray, "height width"] | None, names: int
) -> tuple[Int[np.ndarray, "height width"], Int[np.ndarray, " n"]]:
    """The region that owns each pixel (-1: none) and each region's label.

    A labelled pixel of a proposal belongs to it; elsewhere 8-connected pixels of one label are a region, or join the
    proposal of that label which they touch (in most places, then the first in reading order): its mask just ends there.
    """
    owners = np.full(labels.shape, -1, np.int32)
    kinds = np.zeros(0, np.int64)
    free = labels
    if parts is not None:
        owned = (labels >= 0) & (parts >= 0)
        key = parts[owned].astype(np.int64) * names + labels[owned]  # one region a proposal and label
        seen = np.zeros((parts.max(initial=-1) + 1) * names, bool)
        seen[key] = True
        owners[owned] = (np.cumsum(seen) - 1)[key]
        kinds = np.flatnonzero(seen) % names if names else kinds
        free = np.where(owned, np.int16(-1), labels)
    found, more = _components(free)
    np.add(found, len(kinds), out=owners, where=found >= 0, casting="same_kind")
    if not len(kinds) or not len(more):
        return owners, np.concatenate([kinds, more])
    return _absorbed(owners, np.concatenate([kinds, more]), len(kinds))


def _absorbed(
    owners: Int32[np.ndarray, "height width"], kinds: Int[np.ndarray, " n"], proposals: int
) -> tuple[Int32[np.ndarray, "height width"], Int[np.ndarray, " m"]]:
    """Owners and labels where regions after the first `proposals` join the one of those that they touch most."""
    low, high, places = touching(owners)
    near = (low < proposals) & (high >= proposals) & (kinds[low] == kinds[high])
    low, high, places = low[near], high[near], places[near]
    starts, _ = runs_of(owners)
    runs = owners.reshape(-1)[starts]
    first = np.zeros(len(kinds), np.int64)
    first[runs[::-1]] = starts[::-1]  # the last to be written is the first pixel; -1 is overwritten or unused
    order = np.lexsort((first[low], -places, high))
    joining, at = np.unique(high[order], return_index=True)
    target = np.arange(len(kinds))
    target[joining] = low[order][at]
    kept = target == np.arange(len(kinds))
    number = np.append((np.cumsum(kept) - 1)[target], -1).astype(np.int32)
    return number[owners], kinds[kept]


def touching(
    owners: Int32[np.ndarray, "height width"],
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Every pair of owners (-1: nobody) whose pixels touch, the lesser number first, and in how many places: a place is
    a pixel of one with a neighbour of the other on one of its eight sides.

    >>> [column.tolist() for column in touching(np.array([[0, 0, -1], [2, 1, -1]], np.int32))]
    [[0, 0, 1], [1, 2, 2], [2, 2, 1]]
    """
    count = int(owners.max(initial=-1)) + 1
    keys, counts = [], []
    for here, there in (
        (owners[:, :-1], owners[:, 1:]),
        (owners[:-1], owners[1:]),
        (owners[:-1, :-1], owners[1:, 1:]),
        (owners[:-1, 1:], owners[1:, :-1]),
    ):
        edge = here != there
        low, high = here[edge], there[edge]
        low, high = np.minimum(low, high), np.maximum(low, high)
        key, times = np.unique(low[low >= 0].astype(np.int64) * count + high[low >= 0], return_counts=True)
        keys.append(key)
        counts.append(times)
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    places = np.bincount(place, np.concatenate(counts), len(pairs)).astype(np.int64)
    return pairs // max(count, 1), pairs % max(count, 1), places


def _components(
    labels: Int16[np.ndarray, "height width"],
) -> tuple[Int32[np.ndarray, "height width"], Int[np.ndarray, " n"]]:
    """8-connected parts of one label (-1: none), by label and then in reading order, and the label of each.

    Runs of equal pixels along the rows are linked to those they touch in the row above, so the cost is that of the
    runs and not of labels times pixels.
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    height, width = labels.shape
    starts, ends = runs_of(labels)
    kinds = labels.reshape(-1)[starts].astype(np.int64)
    below = np.flatnonzero((kinds >= 0) & (starts >= width))
    row = starts[below] // width
    first = np.maximum(starts[below] - width - 1, (row - 1) * width)
    last = np.minimum(ends[below] - width, row * width - 1)
    low = np.searchsorted(starts, first, side="right") - 1
    touching = np.searchsorted(starts, last, side="right") - low
    one = np.repeat(below, touching)
    step = np.arange(len(one)) - np.repeat(np.cumsum(touching) - touching, touching)
    other = np.repeat(low, touching) + step
    same = kinds[one] == kinds[other]
    links = sparse.coo_array((np.ones(same.sum(), np.int8), (one[same], other[same])), shape=(len(starts), len(starts)))
    part = csgraph.connected_components(links, directed=False)[1]
    _, heads, inverse = np.unique(part, return_index=True, return_inverse=True)  # a part's first run
    order = np.lexsort((heads, kinds[heads]))
    order = order[kinds[heads][order] >= 0]
    number = np.full(len(heads), -1, np.int32)
    number[order] = np.arange(len(order))
    owners = np.repeat(number[inverse], ends - starts).reshape(height, width)
    return owners, kinds[heads][order]


def runs_of(values: Int[np.ndarray, "height width"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First and past-the-last flat index of every run of equal pixels within a row."""
    height, width = values.shape
    edge = np.ones((height, width), bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=edge[:, 1:])
    starts = np.flatnonzero(edge)
    return starts, np.append(starts[1:], height * width)


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
    """Run lengths of regions 0..count-1 in a map of owners (-1: nobody's), all read off one list of runs."""
    height, width = owners.shape
    down = np.ascontiguousarray(owners.T).reshape(1, -1)  # COCO counts down the columns
    starts, ends = runs_of(down)
    ids = down[0, starts]
    order = np.argsort(ids, kind="stable")[np.count_nonzero(ids < 0) :]
    ids, starts, ends = ids[order], starts[order], ends[order]
    every = np.arange(count)
    first, past = np.searchsorted(ids, every), np.searchsorted(ids, every, side="right")
    before = np.where(np.diff(ids, prepend=-1) == 0, np.roll(ends, 1), 0)
    rest = np.append(height * width - ends, height * width)[np.where(past > first, past - 1, -1)]
    pairs = np.stack([starts - before, ends - starts], axis=1).reshape(-1)
    counts = np.insert(pairs, 2 * past, rest)  # what follows the last run of a region
    counts = np.delete(counts, (2 * past + every)[rest == 0])  # nothing follows the picture's last pixel
    for text in _texts(counts, 2 * past + every + 1 - np.cumsum(rest == 0)):
        yield {"size": [height, width], "counts": text}


def _texts(counts: Int[np.ndarray, " counts"], past: Int[np.ndarray, " regions"]) -> list[str]:
    """COCO's text of the counts of every region, which end before `past`.

    From the fourth on, a count is written less the one before the last. Five bits a sign, the lowest first, a sixth
    where more follow; sign-extended; from "0" up (pycocotools' rleToString).
    """
    place = np.arange(len(counts)) - np.repeat(np.append(0, past)[:-1], np.diff(past, prepend=0))
    left = counts - np.where(place > 2, np.roll(counts, 2), 0)
    signs = np.zeros((len(counts), 13), np.uint8)
    going = np.ones(len(counts), bool)
    for sign in signs.T:
        low = left & 31
        left = left >> 5
        more = left != np.where(low & 16, -1, 0)
        sign[going] = (low + 32 * more + 48)[going]
        going = going & more
    used = signs > 0
    text = signs[used].tobytes().decode("ascii")
    ends = np.append(0, np.cumsum(used.sum(axis=1)))[np.append(0, past)].tolist()
    return [text[one:other] for one, other in zip(ends[:-1], ends[1:], strict=True)]


__all__ = [
    "Rle",
    "areas",
    "bilinear",
    "checked_rle",
    "counts_of",
    "decode_rle",
    "doubtful",
    "encode_rle",
    "palette",
    "pick",
    "posterior",
    "rles_of",
    "runs_of",
    "slots_of",
    "softmax",
    "split",
    "touching",
    "upsample",
]
