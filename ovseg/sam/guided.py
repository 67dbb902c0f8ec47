"""Masks for the parts of a coarse map: every patch that CLIP gives to a name becomes one prompt of a SAM.

Trident's second half (Shi et al., ICCV 2025; YuHengsss/Trident@a93b346), in its five steps and with its numbers:

1. Labels at half resolution: the arg-max of the scores on the even pixels; a pixel whose best score there is below
   `coarse_thresh` (bilinear, no antialias) has no label.
2. Parts: 8-connected pixels of one name, `min_part_px` of them at least; a name whose best score anywhere stays below
   `coarse_thresh` has none.
3. Each part is one prompt: its tight box, the point of its highest score for its name, and as mask the name's whole
   score map, `mask_factor` times the score above `coarse_thresh` and 0 below.
4. The decoder's single mask is accepted if its predicted IoU is above `min_iou`.
5. The refined score of a name on a pixel is the largest sigmoid(logit) x score over the accepted masks of that name
   that hold the pixel; on pixels of a rejected part no score is below the coarse one. The largest wins; where all are 0
   the coarse label stays. Nothing accepted: everything stays as it was.

What differs from the released program, on purpose. Boxes end at the edge of the last pixel and points lie in the middle
of theirs (there: at indices, up to two pixels of the picture further up and left, and a part one pixel wide has a box
without area). Its label map never takes a rejected part's label back, since it compares scores that it has overwritten
by then; here step 5 holds for labels as well. And negatives are no names here: they win pixels in step 1 and have no
parts, where its background is a class as any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int16, Int32, UInt8

from ovseg.errors import BadInput
from ovseg.evidence import Evidence
from ovseg.head import Posteriors
from ovseg.raster import split, upsample
from ovseg.sam.model import Embedding
from ovseg.sam.prompted import prompted
from ovseg.sam.runs import Kept
from ovseg.types import Regions

BAND_BYTES = 32 << 20  # of scores on the picture's pixels, made at once
KEPT_BYTES = 64 << 20  # of scores that are kept rather than made again: they are looked at two or three times
PARTS_AT_ONCE = 64  # in one call, with a mask prompt each (17 MB); the decoder takes four at a time


@dataclass(frozen=True, eq=False)
class Coarse:
    """Scores in [0, 1] of `slots` on the pixels of a picture, made a band of pixel rows at a time.

    The first `names` slots may have parts; those after them (negatives) only win pixels.
    """

    height: int
    width: int
    slots: int
    names: int
    band: Posteriors
    step: int

    @classmethod
    def of(
        cls, scores: Float32[np.ndarray, "slots rows cols"], height: int, width: int, names: int | None = None
    ) -> "Coarse":
        """Scores on any grid, bilinear on the picture's pixels; every slot is a name unless `names` says fewer."""
        slots = len(scores)
        count = slots if names is None else names
        if not 0 <= count <= slots or 0 in scores.shape[1:]:
            raise BadInput(f"scores of {count} names on a grid are needed: got an array of {scores.shape}")
        if not np.isfinite(scores).all():
            raise BadInput("scores of names are not finite: try float32, or check the checkpoint")
        return cls(height, width, slots, count, lambda band: upsample(scores, height, width, band), _step(slots, width))

    @classmethod
    def of_evidence(cls, evidence: Evidence) -> "Coarse":
        """Posteriors that the cells give the names and the negatives; no proposal and no threshold has a say."""
        slots = evidence.names + int((evidence.owner < 0).sum())
        size = 4 * slots * evidence.height * evidence.width
        steps = {band.stop - band.start for band in evidence.bands}
        step = _step(slots, evidence.width) if evidence.refine == "none" else max(steps)  # PAMR's margins cost
        made = evidence.dense
        if size <= KEPT_BYTES:
            every = made(slice(0, evidence.height))
            made, step = lambda band: every[:, band], evidence.height
        return cls(evidence.height, evidence.width, slots, evidence.names, made, step)

    @property
    def half(self) -> tuple[int, int]:
        """Rows and columns at half resolution."""
        return max(1, self.height // 2), max(1, self.width // 2)

    @property
    def bands(self) -> Iterator[slice]:
        """All pixel rows, in reading order."""
        for top in range(0, self.height, self.step):
            yield slice(top, min(self.height, top + self.step))


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a coarse map by name and then in reading order, with their prompts in pixels of the picture.

    `number` is the part of each pixel at half resolution (-1: none), `boxes` are XYXY edges, `points` (x, y).
    """

    names: Int[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]
    points: Float64[np.ndarray, "n 2"]
    number: Int32[np.ndarray, "r c"]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Guided:
    """What a SAM said to the parts: accepted masks as `regions` (quality is predicted IoU), and the name of each.

    `accepted` and `quality` are of all parts; `scores` and `labels` are the refined map, made when asked.
    """

    coarse: Coarse
    parts: Parts
    quality: Float32[np.ndarray, " n"]
    accepted: Bool[np.ndarray, " n"]
    regions: Regions
    names: Int[np.ndarray, " m"]
    _kept: tuple[Kept, ...] = field(repr=False)
    _logits: Float32[np.ndarray, "m high wide"] = field(repr=False)
    _stretch: Any = field(repr=False)

    def scores(self, band: slice | None = None) -> Float32[np.ndarray, "names h width"]:
        """The refined scores of the names in a band of pixel rows (all of them: `names` pictures of floats)."""
        band = slice(0, self.coarse.height) if band is None else band
        return self._refined(band, self.coarse.band(band)[: self.coarse.names])

    @property
    def labels(self) -> Int16[np.ndarray, "height width"]:
        """The name of every pixel after refining; -1 where a negative wins the coarse map and nothing was accepted."""
        out = np.full((self.coarse.height, self.coarse.width), -1, np.int16)
        if not self.coarse.names:
            return out
        for band in self.coarse.bands:
            scores = self.coarse.band(band)
            label = scores.argmax(axis=0)
            label[label >= self.coarse.names] = -1
            refined = self._refined(band, scores[: self.coarse.names])
            if len(self.regions):
                label = np.where((refined > 0).any(axis=0), refined.argmax(axis=0), label)
            out[band] = label
        return out

    def _refined(
        self, band: slice, scores: Float32[np.ndarray, "names h width"]
    ) -> Float32[np.ndarray, "names h width"]:
        if not len(self.regions):
            return scores
        out = np.zeros_like(scores)
        for name, kept, low, bits in zip(self.names, self._kept, self._logits, self._rows, strict=True):
            top, bottom = max(band.start, kept.top), min(band.stop, kept.top + kept.rows)
            if top >= bottom:
                continue
            right = kept.left + kept.cols
            here = (slice(top - band.start, bottom - band.start), slice(kept.left, right))
            inside = np.unpackbits(bits[top - kept.top : bottom - kept.top], axis=1, count=kept.cols).astype(bool)
            raised = scores[name][here] * _sigmoid(self._values(low, top, bottom, kept.left, right))
            np.maximum(out[name][here], raised, out=out[name][here], where=inside)
        failed = self._failed(band)
        return np.where(failed & (scores > out), scores, out)

    @cached_property
    def _rows(self) -> list[UInt8[np.ndarray, "_ _"]]:
        """The accepted masks row by row, eight pixels a byte, since bands are rows and kept masks are columns."""
        return [np.packbits(kept.bits.T, axis=1) for kept in self._kept]

    def _values(
        self, low: Float32[np.ndarray, "high wide"], top: int, bottom: int, left: int, right: int
    ) -> Float32[np.ndarray, "h w"]:
        """Logits on pixels of the picture."""
        down, across = self._stretch.rows, self._stretch.cols
        upper, lower = down.under(top, bottom)
        first, last = across.under(left, right)
        lines = down.matrix(top, bottom, upper, lower) @ low[upper:lower, first:last]
        return np.asarray((across.matrix(left, right, first, last) @ lines.T).T, np.float32)

    def _failed(self, band: slice) -> Bool[np.ndarray, "h width"]:
        """Pixels of parts whose mask was not accepted."""
        rows = _nearest(self.parts.number.shape[0], self.coarse.height)[band]
        cols = _nearest(self.parts.number.shape[1], self.coarse.width)
        number = self.parts.number[rows[:, None], cols]
        out: Bool[np.ndarray, "h width"] = np.append(~self.accepted, False)[number]  # the last entry serves -1
        return out


def refine(
    model: Any,
    embedding: Embedding,
    scores: Coarse | Float32[np.ndarray, "slots rows cols"],
    *,
    coarse_thresh: float | int = 0.10,
    min_part_px: int = 225,
    mask_factor: float | int = 0.005,
    min_iou: float | int = 0.9,
) -> Guided:
    """What `model` makes of the parts of a coarse map, one prompt a part (the defaults are Trident's).

    `scores` are posteriors of names on any grid, or a `Coarse` map. `coarse_thresh` is 0.05 to 0.25 in its
    configurations, `min_iou` 0.8 or 0.9; `min_part_px` counts pixels at half resolution.
    """
    height, width = embedding.height, embedding.width
    coarse = scores if isinstance(scores, Coarse) else Coarse.of(scores, height, width)
    if (coarse.height, coarse.width) != (height, width):
        raise BadInput(
            f"coarse map and embedding must be of one picture: {coarse.height}x{coarse.width} and {height}x{width} "
            "(rows x cols). Swapped axes?"
        )
    parts = parts_of(coarse, coarse_thresh=coarse_thresh, min_part_px=min_part_px)
    wanted, place = np.unique(parts.names, return_inverse=True)
    filled = _filled(model, embedding)
    maps = prompt_maps(coarse, wanted, filled, model.cells, coarse_thresh=coarse_thresh, mask_factor=mask_factor)
    quality = np.zeros(len(parts), np.float32)
    kept: list[Kept] = []
    logits = [np.zeros((0, *model.cells), np.float32)]
    for begin in range(0, len(parts), PARTS_AT_ONCE):
        some = slice(begin, begin + PARTS_AT_ONCE)
        points = parts.points[some][:, None]
        found = prompted(
            model,
            embedding,
            boxes=parts.boxes[some],
            points=points,
            labels=np.ones(points.shape[:2], np.int64),
            masks=maps[place[some]],
        )
        quality[some] = found.quality[:, 0]
        good = np.flatnonzero(found.quality[:, 0] > min_iou)
        kept += [found.kept[i][0] for i in good]
        logits.append(found.logits[good, 0])
    accepted = quality > min_iou
    rles = tuple(one.rle(height, width) for one in kept)
    regions = Regions(height, width, rles, quality[accepted].clip(0, 1))
    return Guided(
        coarse,
        parts,
        quality,
        accepted,
        regions,
        parts.names[accepted],
        tuple(kept),
        np.concatenate(logits),
        model.stretch(embedding),
    )


def parts_of(coarse: Coarse, *, coarse_thresh: float | int, min_part_px: int) -> Parts:
    """The parts of a coarse map (steps 1 and 2) and where their boxes and points are (step 3)."""
    rows, cols = coarse.half
    near_rows, near_cols = _nearest(coarse.height, rows), _nearest(coarse.width, cols)
    down, across = _between(coarse.height, rows), _between(coarse.width, cols)
    labels = np.full((rows, cols), -1, np.int16)
    own = np.zeros((rows, cols), np.float32)  # the score of each pixel's label
    highest = np.zeros(coarse.names, np.float32)
    step = max(1, coarse.step // 2)
    for begin in range(0, rows if coarse.names else 0, step):
        some = slice(begin, min(rows, begin + step))
        band = slice(int(min(near_rows[begin], down.low[begin])), int(down.high[some.stop - 1]) + 1)
        scores = coarse.band(band)
        winner = scores[:, near_rows[some] - band.start][:, :, near_cols].argmax(axis=0)
        half = across.mix(down.mix(scores, 1, some, band.start), 2)
        own[some] = np.take_along_axis(half, winner[None], axis=0)[0]
        winner[(half.max(axis=0) < coarse_thresh) | (winner >= coarse.names)] = -1
        labels[some] = winner
        highest = np.maximum(highest, half[: coarse.names].max(axis=(1, 2), initial=0))
    number, names = split(labels, None, coarse.names)
    large = np.bincount(number[number >= 0], minlength=len(names)) >= max(1, min_part_px)
    large &= highest[names] >= coarse_thresh
    number = np.append(np.where(large, np.cumsum(large) - 1, -1), -1)[number].astype(np.int32)
    scale = np.array([coarse.width / cols, coarse.height / rows])
    boxes, points = _prompts(number, own, int(large.sum()))
    return Parts(names[large], boxes * np.tile(scale, 2), points * scale, number)


def prompt_maps(
    coarse: Coarse,
    wanted: Int[np.ndarray, " k"],
    filled: tuple[int, int],
    cells: tuple[int, int],
    *,
    coarse_thresh: float | int,
    mask_factor: float | int,
) -> Float32[np.ndarray, "k high wide"]:
    """Mask prompts of some names: their scores at half resolution on the `filled` (rows, cols) of the `cells`."""
    out = np.zeros((len(wanted), *cells), np.float32)
    rows, cols = coarse.half
    down, across = _between(coarse.height, rows), _between(coarse.width, cols)
    lower, aside = _between(rows, filled[0]), _between(cols, filled[1])
    begin = 0
    while begin < filled[0] and len(wanted):
        first = int(down.low[lower.low[begin]])
        reach = down.high[lower.high[begin:]] - first  # rows of the picture for ever more rows of the prompt
        end = begin + max(1, int(np.searchsorted(reach, coarse.step)))
        half = slice(int(lower.low[begin]), int(lower.high[end - 1]) + 1)
        band = slice(first, int(down.high[half.stop - 1]) + 1)
        made = across.mix(down.mix(coarse.band(band)[wanted], 1, half, band.start), 2)
        out[:, begin:end, : filled[1]] = aside.mix(lower.mix(made, 1, slice(begin, end), half.start), 2)
        begin = end
    return np.where(out > coarse_thresh, np.float32(mask_factor) * out, np.float32(0))


@dataclass(frozen=True, eq=False)
class _Between:
    """The two samples that each pixel of an axis lies between (half-pixel centres, no antialias), and the second's
    share."""

    low: Int[np.ndarray, " pixels"]
    high: Int[np.ndarray, " pixels"]
    share: Float32[np.ndarray, " pixels"]

    def mix(
        self, values: Float32[np.ndarray, "..."], axis: int, some: slice | None = None, first: int = 0
    ) -> Float32[np.ndarray, "..."]:
        """Some of the pixels along an axis of `values`, which begin with sample `first`."""
        some = slice(None) if some is None else some
        share = self.share[some].reshape(-1, *[1] * (values.ndim - 1 - axis))
        low, high = (np.take(values, index[some] - first, axis=axis) for index in (self.low, self.high))
        return np.asarray(low * (1 - share) + high * share, np.float32)


def _between(cells: int, pixels: int) -> _Between:
    centre = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
    low = np.floor(centre).astype(np.int64)
    return _Between(low, np.minimum(low + 1, cells - 1), (centre - low).astype(np.float32))


def _nearest(cells: int, pixels: int) -> Int[np.ndarray, " pixels"]:
    """torch's "nearest": the sample at or before each pixel's first edge."""
    scale = np.float32(cells) / np.float32(pixels)
    return np.minimum((np.arange(pixels, dtype=np.float32) * scale).astype(np.int64), cells - 1)


def _prompts(
    number: Int32[np.ndarray, "r c"], own: Float32[np.ndarray, "r c"], count: int
) -> tuple[Float64[np.ndarray, "n 4"], Float64[np.ndarray, "n 2"]]:
    """Tight boxes (XYXY edges) and the middle of the pixel with the highest score, the first in reading order."""
    from scipy import ndimage

    boxes, points = np.zeros((count, 4)), np.zeros((count, 2))
    for part, place in enumerate(ndimage.find_objects(number + 1, count)):
        rows, cols = place
        inside = np.where(number[place] == part, own[place], -np.inf)
        row, col = np.unravel_index(int(inside.argmax()), inside.shape)
        boxes[part] = cols.start, rows.start, cols.stop, rows.stop
        points[part] = cols.start + col + 0.5, rows.start + row + 0.5
    return boxes, points


def _filled(model: Any, embedding: Embedding) -> tuple[int, int]:
    """Rows and columns of a mask prompt that hold picture."""
    size = (embedding.height, embedding.width)
    filled = []
    for cells, kept, pixels in zip(model.cells, embedding.kept, size, strict=True):
        share, own = kept / model.side, pixels / max(size)
        exact = own if abs(own - share) * model.side <= 1 else share  # `kept` is rounded already, unless all is filled
        filled.append(max(1, int(cells * exact + 0.5)))
    return filled[0], filled[1]


def _sigmoid(logits: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    from scipy.special import expit

    return np.asarray(expit(logits), np.float32)


def _step(slots: int, width: int) -> int:
    """Pixel rows whose scores fit into a band."""
    return max(2, BAND_BYTES // (4 * max(1, slots) * width))


__all__ = ["Coarse", "Guided", "Parts", "parts_of", "prompt_maps", "refine"]
