"""Masks for prompts that somebody gave: boxes, points and masks, all prompts of a picture in one call.

What `SamPredictor.predict_torch` answers (facebookresearch/segment-anything@dca509f), with coordinates in pixels of
the picture. A single point is ambiguous: of its three masks (whole, part, part of the part) the best by predicted IoU
is the answer. A box, two points or more, or a mask leave no doubt: the decoder's one mask is.

A prompt's answer does not depend on its neighbours: those that cannot be asked are said one by one while the others
are answered, and points that pad a shorter prompt (label -1) are left out before the network is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.sparse import csr_array

from ovseg.errors import BadInput
from ovseg.raster import decode_rle
from ovseg.sam.model import AT_ONCE, Embedding, MaskModel
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import Cut
from ovseg.types import Regions

SEVERAL = 3  # masks of a prompt that leaves doubt
SURE = 0.999  # of a cell that a mask prompt fills: logit 6.9, as in computational-cell-analytics/micro-sam@83997ff


@dataclass(frozen=True, eq=False)
class Prompted:
    """For each of n prompts its m masks: predicted IoU, logits at a quarter of the network's side, packed masks.

    Logits can be given back as the mask prompt of another call. A prompt under `problems` could not be asked, for the
    reason given there: its masks are empty, its quality and logits 0.
    """

    height: int
    width: int
    quality: Float32[np.ndarray, "n m"]
    logits: Float32[np.ndarray, "n m high wide"]
    kept: tuple[tuple[Kept, ...], ...]
    problems: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def masks(self) -> Bool[np.ndarray, "n m height width"]:
        out = np.zeros((*self.quality.shape, self.height, self.width), bool)
        for number, own in enumerate(self.kept):
            for place, kept in enumerate(own):
                out[number, place] = kept.mask(self.height, self.width)
        return out

    @property
    def regions(self) -> Regions:
        """All masks in the order of the prompts."""
        rles = tuple(kept.rle(self.height, self.width) for own in self.kept for kept in own)
        return Regions(self.height, self.width, rles, self.quality.ravel().clip(0, 1))


@dataclass(frozen=True, eq=False)
class _Asked:
    """n prompts, each a box, points and a mask, or some of them."""

    boxes: Float[np.ndarray, "n 4"] | None
    points: Float[np.ndarray, "n p 2"] | None
    labels: Int[np.ndarray, "n p"] | None
    masks: Float32[np.ndarray, "n high wide"] | None

    def some(self, keep: Int[np.ndarray, " b"], size: int) -> "_Asked":
        """The prompts at `keep`, each of which has `size` points; those that pad are left out."""
        points = labels = None
        if size and self.points is not None and self.labels is not None:
            real = self.labels[keep] != -1
            points = self.points[keep][real].reshape(len(keep), size, 2)
            labels = self.labels[keep][real].reshape(len(keep), size)
        boxes, masks = (None if part is None else part[keep] for part in (self.boxes, self.masks))
        return _Asked(boxes, points, labels, masks)


def prompted(
    model: MaskModel,
    embedding: Embedding,
    *,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    points: Float[np.ndarray, "k p 2"] | None = None,
    labels: Int[np.ndarray, "l q"] | None = None,
    masks: Float32[np.ndarray, "m high wide"] | Regions | None = None,
    every: bool = False,
) -> Prompted:
    """The masks of n prompts; `every` gives three a prompt instead of the best.

    Boxes are XYXY pixel edges, points (x, y) in pixels with labels 1 (inside) and 0 (outside; -1 is no point), masks
    logits of `model.cells` or regions of the picture. What is given together belongs together: the box, the points and
    the mask of prompt i. Of several prompts those that cannot be asked are under `problems`; if none can, or the only
    one cannot, that is an error.
    """
    model.fits(embedding, embedding.height, embedding.width)
    maps = as_logits(model, embedding, masks) if isinstance(masks, Regions) else masks
    count = _count(model, boxes, points, labels, maps)
    asked = _Asked(boxes, points, labels, maps)
    problems = _problems(asked, count, embedding)
    if count and len(problems) == count:
        more = f" (none of the {count} prompts can be asked)" if count > 1 else ""
        raise BadInput(problems[0] + more)
    number = SEVERAL if every else 1
    quality = np.zeros((count, number), np.float32)
    logits = np.zeros((count, number, *model.cells), np.float32)
    sizes = (labels != -1).sum(axis=1) if labels is not None else np.zeros(count, np.int64)
    fine = np.array([one not in problems for one in range(count)], bool)
    for size in np.unique(sizes[fine]).tolist():
        keep = np.flatnonzero(fine & (sizes == size))
        quality[keep], logits[keep] = _answers(model, embedding, asked.some(keep, size), len(keep), every)
    way = model.stretch(embedding)
    none = Kept.of(Cut(np.zeros((0, 0), bool), 0, 0, 0, 0))
    kept = tuple(
        tuple(none if one in problems else Kept.of(way.cut(low, model.threshold, 0.0)) for low in own)
        for one, own in enumerate(logits)
    )
    return Prompted(embedding.height, embedding.width, quality, logits, kept, MappingProxyType(problems))


def as_logits(model: MaskModel, embedding: Embedding, regions: Regions) -> Float32[np.ndarray, "n high wide"]:
    """Regions of the picture as the mask prompts that the network was taught with: logits on `model.cells`.

    A cell's logit is that of the share of it that the region fills, from -6.9 to 6.9; padding is outside. A region
    smaller than a cell is as sure in its best cell as a large one is, or it would not be seen.
    """
    if (regions.height, regions.width) != (embedding.height, embedding.width):
        raise BadInput(
            f"mask prompts must be of the picture: they are {regions.height}x{regions.width}, the picture is "
            f"{embedding.height}x{embedding.width} (rows x cols). Swapped axes?"
        )
    down = _shares(embedding.height, embedding.kept[0], model.cells[0], model.side)
    across = _shares(embedding.width, embedding.kept[1], model.cells[1], model.side)
    shares = np.zeros((len(regions), *model.cells), np.float32)
    for i, (rle, box) in enumerate(zip(regions.rles, regions.boxes.astype(np.int64), strict=True)):
        left, top, right, bottom = box
        if right > left:
            inside = decode_rle(rle)[top:bottom, left:right].astype(np.float32)
            filled = (across[:, left:right] @ (down[:, top:bottom] @ inside).T).T
            shares[i] = filled / filled.max()
    shares = shares.clip(1 - SURE, SURE)
    return np.asarray(np.log(shares / (1 - shares)), np.float32)


def _shares(pixels: int, kept: int, cells: int, side: int) -> csr_array:
    """How much of each cell each pixel of the picture fills along one axis, when it was made `kept` of `side`."""
    edges = np.arange(cells + 1) * (side / cells) * (pixels / kept)
    first = np.minimum(np.floor(edges[:-1]).astype(np.int64), pixels)
    last = np.clip(np.ceil(edges[1:]).astype(np.int64), first, pixels)
    counts = last - first
    cell = np.repeat(np.arange(cells), counts)
    pixel = np.arange(len(cell)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    held = np.minimum(edges[cell + 1], pixel + 1) - np.maximum(edges[cell], pixel)
    shares = (held / (edges[1] - edges[0])).astype(np.float32)
    return csr_array((shares, (cell, pixel)), shape=(cells, pixels))


def _answers(
    model: MaskModel, embedding: Embedding, asked: _Asked, count: int, every: bool
) -> tuple[Float32[np.ndarray, "b m"], Float32[np.ndarray, "b m high wide"]]:
    """Qualities and logits of prompts that have equally many points."""
    single = not every and (
        asked.boxes is not None or asked.masks is not None or asked.points is None or asked.points.shape[1] > 1
    )
    quality: list[Float32[np.ndarray, "b m"]] = []
    logits: list[Float32[np.ndarray, "b m high wide"]] = []
    shared = model.shared(embedding) if asked.masks is None else None
    step = max(1, count) if shared is not None else AT_ONCE  # a mask prompt is a map as large as the embedding
    for begin in range(0, count, step):
        part = slice(begin, begin + step)
        boxes, points, labels, masks = (
            None if one is None else one[part] for one in (asked.boxes, asked.points, asked.labels, asked.masks)
        )
        tokens, dense = model.prompts(embedding, boxes=boxes, points=points, labels=labels, masks=masks)
        own = shared if shared is not None else model.shared(embedding, dense)
        for _, answer in model.answer(own, tokens, single=single):
            maps = model.logits(answer, torch.arange(len(answer.quality)), single=single).cpu().numpy()
            found = answer.quality.cpu().numpy()
            if not np.isfinite(found).all():
                raise BadInput("predicted IoU is not finite: try float32, or check the checkpoint")
            if not single and not every:  # the best of three
                best = found.argmax(axis=1)[:, None]
                found, maps = np.take_along_axis(found, best, 1), np.take_along_axis(maps, best[..., None, None], 1)
            quality.append(found)
            logits.append(maps)
    return np.concatenate(quality), np.concatenate(logits)


def _count(
    model: MaskModel,
    boxes: Float[np.ndarray, "n 4"] | None,
    points: Float[np.ndarray, "k p 2"] | None,
    labels: Int[np.ndarray, "l q"] | None,
    masks: Float32[np.ndarray, "m high wide"] | None,
) -> int:
    """How many prompts there are, or the error that says why they are no prompts at all."""
    given = {"boxes": boxes, "points": points, "masks": masks}
    sizes = {name: len(part) for name, part in given.items() if part is not None}
    if not sizes or len(set(sizes.values())) > 1:
        came = ", ".join(f"{count} {name}" for name, count in sizes.items()) or "nothing"
        raise BadInput(f"boxes, points or masks are needed, as many of each as there are prompts: got {came}")
    if (points is None) != (labels is None) or (
        points is not None and labels is not None and labels.shape != points.shape[:2]
    ):
        came = f"{points.shape[0]}x{points.shape[1]}" if points is not None else "no"
        told = f"{labels.shape[0]}x{labels.shape[1]}" if labels is not None else "no"
        raise BadInput(f"every point needs a label, 1 (inside) or 0 (outside): got {came} points and {told} labels")
    if masks is not None and masks.shape[1:] != model.cells:
        raise BadInput(
            f"mask prompts are logits of {model.cells[0]}x{model.cells[1]}, or regions of the picture: got "
            f"{masks.shape[1]}x{masks.shape[2]}"
        )
    return next(iter(sizes.values()))


def _problems(asked: _Asked, count: int, embedding: Embedding) -> dict[int, str]:
    """For each prompt that cannot be asked a sentence that says why."""
    frame = f"the picture is {embedding.height}x{embedding.width} (rows x cols)"
    edges = np.array([embedding.width, embedding.height], float)
    found: dict[int, str] = {}
    small = _looks_normalised(asked, edges)
    for number in range(count):
        told = _box_problem(asked, number, edges, frame, small) or _point_problem(asked, number, edges, frame, small)
        if not told and asked.masks is not None and not np.isfinite(asked.masks[number]).all():
            told = f"mask {number} is not finite: give logits that a network in float32 made"
        if not told and asked.boxes is None and asked.masks is None and not _real(asked, number).any():
            told = f"prompt {number} is empty: it needs a point, a box or a mask"
        if told:
            found[number] = told
    return found


def _looks_normalised(asked: _Asked, edges: Float[np.ndarray, "2"]) -> bool:
    """Whether all coordinates of a call are at most 1, though the picture is larger: shares of it, not pixels.

    Points of whole numbers are pixels all the same: somebody may point into the corner.
    """
    given = [] if asked.boxes is None else [asked.boxes.ravel()]
    if asked.points is not None:
        real = asked.labels != -1 if asked.labels is not None else np.zeros(asked.points.shape[:2], bool)
        given.append(asked.points[real].ravel())
    numbers = np.concatenate([np.zeros(0), *given])
    if not len(numbers) or edges.min() <= 2 or numbers.min() < 0 or not 0 < numbers.max() <= 1:
        return False
    return asked.boxes is not None or bool((numbers % 1 > 0).any())


def _real(asked: _Asked, number: int) -> Bool[np.ndarray, " p"]:
    """Which points of a prompt are points."""
    return asked.labels[number] != -1 if asked.labels is not None else np.zeros(0, bool)


def _box_problem(asked: _Asked, number: int, edges: Float[np.ndarray, "2"], frame: str, small: bool) -> str:
    if asked.boxes is None:
        return ""
    box = asked.boxes[number]
    shown = box.tolist()
    if not np.isfinite(box).all() or (box < 0).any() or (box.reshape(2, 2) > edges).any():
        return f"box {number} is outside of the frame: got {shown}, {frame}"
    if (box[2:] <= box[:2]).any():
        return f"box {number} has no area: got {shown}; XYXY, right and below, is needed, {frame}"
    return f"pixels are wanted: box {number} is {shown}, all at most 1, {frame}; multiply by its size" if small else ""


def _point_problem(asked: _Asked, number: int, edges: Float[np.ndarray, "2"], frame: str, small: bool) -> str:
    if asked.points is None or asked.labels is None:
        return ""
    for place in np.flatnonzero(_real(asked, number)).tolist():
        point, label = asked.points[number, place], int(asked.labels[number, place])
        which = f"point {place} of prompt {number}"
        if label not in (0, 1):
            return f"{which} has label {label}: 1 (inside) or 0 (outside) is needed"
        if not np.isfinite(point).all() or (point < 0).any() or (point > edges).any():
            return f"{which} is outside of the frame: got {point.tolist()}, {frame}"
        if small:
            return f"pixels are wanted: {which} is {point.tolist()}, all are at most 1, {frame}; multiply by its size"
    return ""


__all__ = ["Prompted", "SEVERAL", "SURE", "as_logits", "prompted"]
