"""Masks for prompts that somebody gave: boxes, points and masks, all prompts of a picture in one call.

What `SamPredictor.predict_torch` answers (facebookresearch/segment-anything@dca509f), with coordinates in pixels of
the picture. A single point is ambiguous: of its three masks (whole, part, part of the part) the best by predicted IoU
is the answer. A box, two points or more, or a mask leave no doubt: the decoder's one mask is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ovseg.errors import BadInput
from ovseg.sam.model import AT_ONCE, Embedding, MaskModel
from ovseg.sam.runs import Kept
from ovseg.types import Regions


@dataclass(frozen=True, eq=False)
class Prompted:
    """For each of n prompts its m masks: predicted IoU, logits at a quarter of the network's side, packed masks.

    Logits can be given back as the mask prompt of another call.
    """

    height: int
    width: int
    quality: Float32[np.ndarray, "n m"]
    logits: Float32[np.ndarray, "n m high wide"]
    kept: tuple[tuple[Kept, ...], ...]

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


def prompted(
    model: MaskModel,
    embedding: Embedding,
    *,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    points: Float[np.ndarray, "k p 2"] | None = None,
    labels: Int[np.ndarray, "k p"] | None = None,
    masks: Float32[np.ndarray, "m high wide"] | None = None,
    every: bool = False,
) -> Prompted:
    """The masks of n prompts; `every` gives three a prompt instead of the best.

    Boxes are XYXY pixel edges, points (x, y) in pixels with labels 1 (inside) and 0 (outside; -1 is no point), masks
    logits of `model.cells`. What is given together belongs together: the box, the points and the mask of prompt i.
    """
    model.fits(embedding, embedding.height, embedding.width)
    count = _count(model, embedding, boxes, points, labels, masks)
    single = not every and (boxes is not None or masks is not None or points is None or points.shape[1] > 1)
    quality: list[Float32[np.ndarray, "b m"]] = []
    logits: list[Float32[np.ndarray, "b m high wide"]] = []
    shared = model.shared(embedding) if masks is None else None
    for begin in range(0, count, AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        sparse, dense = _tokens(model, embedding, some, boxes, points, labels, masks)
        own = shared if shared is not None else model.shared(embedding, dense)
        for _, answer in model.answer(own, sparse, single=single):
            quality.append(answer.quality.cpu().numpy())
            logits.append(model.logits(answer, torch.arange(len(sparse)), single=single).cpu().numpy())
    number = 1 if single else int(model.sam.mask_decoder.num_mask_tokens) - 1
    found = np.concatenate([np.zeros((0, number), np.float32), *quality])
    maps = np.concatenate([np.zeros((0, number, *model.cells), np.float32), *logits])
    if not single and not every:  # the best of three
        best = found.argmax(axis=1)[:, None]
        found, maps = np.take_along_axis(found, best, 1), np.take_along_axis(maps, best[..., None, None], 1)
    way = model.stretch(embedding)
    kept = tuple(tuple(Kept.of(way.cut(low, model.threshold, 0.0)) for low in own) for own in maps)
    return Prompted(embedding.height, embedding.width, found, maps, kept)


def _tokens(
    model: MaskModel,
    embedding: Embedding,
    some: slice,
    boxes: Float[np.ndarray, "n 4"] | None,
    points: Float[np.ndarray, "k p 2"] | None,
    labels: Int[np.ndarray, "k p"] | None,
    masks: Float32[np.ndarray, "m high wide"] | None,
) -> tuple[Float[Tensor, "b tokens channels"], Float[Tensor, "b channels rows cols"]]:
    """The prompt encoder's answer to some of the prompts."""

    def tensor(numbers: Float[np.ndarray, "..."] | Int[np.ndarray, "..."], kind: torch.dtype) -> Tensor:
        return torch.as_tensor(numbers, device=model.device).to(kind)

    with torch.inference_mode():
        dots = None
        if points is not None and labels is not None:
            places = tensor(model.placed(points[some], embedding), torch.float32)
            dots = (places, tensor(labels[some], torch.int32))
        corners = None
        if boxes is not None:
            pairs = np.asarray(boxes[some], float).reshape(-1, 2, 2)
            corners = tensor(model.placed(pairs, embedding), torch.float32).reshape(-1, 4)
        maps = tensor(masks[some], torch.float32)[:, None] if masks is not None else None
        sparse: Tensor
        dense: Tensor
        sparse, dense = model.sam.prompt_encoder(points=dots, boxes=corners, masks=maps)
    return sparse, dense


def _count(
    model: MaskModel,
    embedding: Embedding,
    boxes: Float[np.ndarray, "n 4"] | None,
    points: Float[np.ndarray, "k p 2"] | None,
    labels: Int[np.ndarray, "k p"] | None,
    masks: Float32[np.ndarray, "m high wide"] | None,
) -> int:
    """How many prompts there are, or the error that says which one cannot be asked."""
    given = {"boxes": boxes, "points": points, "masks": masks}
    sizes = {name: len(part) for name, part in given.items() if part is not None}
    if not sizes or len(set(sizes.values())) > 1:
        came = ", ".join(f"{count} {name}" for name, count in sizes.items()) or "nothing"
        raise BadInput(f"boxes, points or masks are needed, as many of each as there are prompts: got {came}")
    frame = f"the picture is {embedding.height}x{embedding.width} (rows x cols)"
    if (points is None) != (labels is None) or (labels is not None and not np.isin(labels, (-1, 0, 1)).all()):
        raise BadInput("every point needs a label, 1 (inside), 0 (outside) or -1 (no point)")
    for name, part in (("box", boxes), ("point", points)):
        if part is None or not part.size:
            continue
        pairs = np.asarray(part, float).reshape(len(part), -1, 2)
        real = labels != -1 if name == "point" and labels is not None else np.ones(pairs.shape[:2], bool)
        if real.any() and pairs[real].max() <= 1 and min(embedding.height, embedding.width) > 2 and pairs[real].any():
            raise BadInput(f"pixels are wanted, {name} coordinates are all at most 1: {frame}; multiply by its size")
        edges = np.array([embedding.width, embedding.height])
        outside = (((pairs < 0) | (pairs > edges)).any(axis=2) & real).any(axis=1)
        if outside.any() or not np.isfinite(pairs[real]).all():
            number = int(outside.argmax())
            raise BadInput(f"{name} {number} is outside of the frame: got {part[number].tolist()}, {frame}")
    if boxes is not None:
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if flat.any():
            number = int(flat.argmax())
            raise BadInput(f"box {number} has no area: got {boxes[number].tolist()}; XYXY, right and below, is needed")
    if masks is not None and masks.shape[1:] != model.cells:
        raise BadInput(
            f"mask prompts are logits of {model.cells[0]}x{model.cells[1]}: got {masks.shape[1]}x{masks.shape[2]}"
        )
    return next(iter(sizes.values()))


__all__ = ["Prompted", "prompted"]
