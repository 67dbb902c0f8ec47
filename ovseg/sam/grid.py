"""Everything in a picture, asked by a grid of points: `AutomaticMaskGenerator`, in three modes.

exact     the records of segment-anything's `SamAutomaticMaskGenerator` (facebookresearch/segment-anything@dca509f;
          Kirillov et al. 2023, arXiv:2304.02643): its options, filters and order, the same masks. Theirs makes every
          mask at full size, three times, before it drops most of them; here qualities come first, masks are made at
          the size that their own part of the frame needs, and run lengths are written for those that stay.
coarse    8 x 8 points and one mask each: enough for naming regions (CorrCLIP, arXiv:2411.10086, loses 0.6 to 0.7 mIoU
          by it), not for counting objects.
adaptive  the points of `exact` in four passes, those skipped that lie under what is found: other masks, fewer decodes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.runs import Kept, compress, without_specks
from ovseg.sam.stretch import Cut, Stretch
from ovseg.types import Regions

EDGE = 20  # px: a mask this near to the edge of a crop, but not of the picture, belongs to a neighbour
OUTPUTS = ("binary_mask", "uncompressed_rle", "coco_rle")
QUALITIES = ("predicted_iou", "stability_score")
RECALLS: Mapping[str, tuple[int, float]] = MappingProxyType(
    {  # a later point is skipped under so many accepted masks, or under one of at most this share of the frame
        "objects": (3, 0.05),
        "parts": (2, 0.0),
    }
)
ALIKE, STEPS = 4, 2  # so many decoded points within so many steps, all with the same masks, speak for those between
PASSES = (((1, 1),), ((3, 3),), ((1, 3), (3, 1)))  # (row, col) modulo 4; the last pass is the rest

# segment-anything's options with its defaults, and what a mode changes of them; then ours. A threshold of 0 is none.
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "points_per_side": 32,
        "points_per_batch": 64,  # no effect on masks here: the decoder takes four at once
        "pred_iou_thresh": 0.88,
        "stability_score_thresh": 0.95,
        "stability_score_offset": 1.0,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_nms_thresh": 0.7,
        "crop_overlap_ratio": 512 / 1500,
        "crop_n_points_downscale_factor": 1,
        "point_grids": None,
        "min_mask_region_area": 0,  # px
        "output_mode": "binary_mask",
        "multimask": True,  # three masks a point, the whole and parts; False: the one
        "quality": "predicted_iou",  # which number wins where boxes overlap
        "keep_logits": False,  # records hold `low_res_logits` as well
        "recall": "objects",  # of adaptive
    }
)
MODES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "exact": {},
        "coarse": {"points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4, "multimask": False},
        "adaptive": {},
    }
)


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


@dataclass(frozen=True)
class Asked:
    """What was done for an answer: points on the grids, points decoded, and candidates whose mask was made."""

    points: int
    decoded: int
    raised: int


@dataclass(frozen=True, eq=False)
class _View:
    """A crop of the picture as the decoder needs it."""

    image: Any
    stretch: Stretch
    embedding: Embedding
    box: tuple[int, int, int, int]
    frame: tuple[int, int]  # height, width of the picture


class AutomaticMaskGenerator:
    """Masks of everything in a picture: segment-anything's generator with `mode` and the options under `OPTIONS`.

    `model` is a `MaskModel` or any network with segment-anything's parts. One generator may serve many threads.
    """

    def __init__(self, model: Any, *, mode: str = "exact", **options: Any) -> None:
        if mode not in MODES:
            raise UnknownName.of("mode", mode, MODES)
        for name in options:
            if name not in OPTIONS:
                raise UnknownName.of("option of AutomaticMaskGenerator", name, OPTIONS)
        self.model = model if isinstance(model, MaskModel) else MaskModel(model)
        self.mode = mode
        self.options: Mapping[str, Any] = MappingProxyType({**OPTIONS, **MODES[mode], **options})
        for name, known in (("output_mode", OUTPUTS), ("quality", QUALITIES), ("recall", RECALLS)):
            if self.options[name] not in known:
                raise UnknownName.of(name, str(self.options[name]), known)
        if (self.options["points_per_side"] is None) == (self.options["point_grids"] is None):
            raise BadUsage("points_per_side or point_grids is needed, and not both: set the other to None")
        if mode == "adaptive" and self.options["point_grids"] is not None:
            raise BadUsage("mode adaptive walks a square grid: give points_per_side, not point_grids")
        self.grids = self._grids()

    def generate(
        self, image: UInt8[np.ndarray, "height width 3"], embedding: Embedding | None = None
    ) -> list[dict[str, Any]]:
        """segment-anything's records of an RGB picture, best first; `embedding` is the picture's, if it is at hand."""
        found, _, floats = self._find(image, embedding)
        height, width = image.shape[:2]
        return [self._record(one, height, width, floats) for one in found]

    def regions(
        self, image: UInt8[np.ndarray, "height width 3"], embedding: Embedding | None = None, column: str = ""
    ) -> tuple[Regions, Asked]:
        """The same masks as regions whose quality is `column` (as a rule the one that sorts), and what they cost."""
        found, asked, _ = self._find(image, embedding)
        height, width = image.shape[:2]
        quality = np.array([getattr(one, column or self.options["quality"]) for one in found], np.float32)
        rles = tuple(one.kept.rle(height, width) for one in found)
        return Regions(height, width, rles, np.nan_to_num(quality).clip(0, 1)), asked

    def _grids(self) -> list[Float[np.ndarray, "n 2"]]:
        """Points (x, y) in [0, 1], one array a layer of crops."""
        from segment_anything.utils.amg import build_all_layer_point_grids

        given = self.options
        if given["point_grids"] is not None:
            return list(given["point_grids"])
        layers, shrink = given["crop_n_layers"], given["crop_n_points_downscale_factor"]
        return list(build_all_layer_point_grids(given["points_per_side"], layers, shrink))

    def _find(self, image: Any, embedding: Embedding | None) -> tuple[list[Found], Asked, tuple[bool, bool]]:
        """What is in a picture, the work, and whether segment-anything would give boxes and crops as floats."""
        from segment_anything.utils.amg import generate_crop_boxes

        _check(image, embedding, self.model)
        given = self.options
        height, width = image.shape[:2]
        crops, layers = generate_crop_boxes((height, width), given["crop_n_layers"], given["crop_overlap_ratio"])
        found: list[Found] = []
        asked, float_boxes, float_crops = Asked(0, 0, 0), False, False
        for (left, top, right, bottom), layer in zip(crops, layers, strict=True):
            own = embedding if embedding is not None and not layer else self.model.encode(image[top:bottom, left:right])
            shared = self.model.shared(own)
            view = _View(shared, self.model.stretch(own), own, (left, top, right, bottom), (height, width))
            points = self.grids[layer] * np.array([right - left, bottom - top])
            walk = self._adaptive if self.mode == "adaptive" else self._all
            some, work, dry = walk(view, points)
            float_boxes, float_crops = float_boxes or dry, float_crops or not some
            asked = Asked(asked.points + work.points, asked.decoded + work.decoded, asked.raised + work.raised)
            found += some
        if len(crops) > 1:  # small crops first
            small = [1 / ((one.crop[2] - one.crop[0]) * (one.crop[3] - one.crop[1])) for one in found]
            found = [found[i] for i in _suppress(found, small, given["crop_nms_thresh"])]
        if given["min_mask_region_area"] > 0:
            worst = max(given["box_nms_thresh"], given["crop_nms_thresh"])
            found = _tidied(found, given["min_mask_region_area"], worst, height, width)
        return found, asked, (float_boxes, float_crops)

    def _all(self, view: _View, points: Float[np.ndarray, "n 2"]) -> tuple[list[Found], Asked, bool]:
        """Every point of a crop; boxes that overlap are thinned by quality."""
        found: list[Found] = []
        raised, batch = 0, self.options["points_per_batch"]
        stable = np.zeros(-(-len(points) // batch), bool)
        for number, some, made, passed in self._decode(view, points):
            found += some
            raised += made
            stable[number // batch] |= passed
        return self._thinned(found), Asked(len(points), len(points), raised), not bool(stable.all())

    def _adaptive(self, view: _View, points: Float[np.ndarray, "n 2"]) -> tuple[list[Found], Asked, bool]:
        """Points in four passes, without those that what is accepted by then already explains."""
        side = round(len(points) ** 0.5)
        row, col = np.divmod(np.arange(len(points)), side)
        phase = np.full(len(points), len(PASSES))
        for number, places in enumerate(PASSES):
            for place in places:
                phase[(row % 4 == place[0]) & (col % 4 == place[1])] = number
        enough, share = RECALLS[self.options["recall"]]
        small = share * (view.box[2] - view.box[0]) * (view.box[3] - view.box[1])
        decoded, raised = np.zeros(len(points), bool), 0
        found: list[Found] = []
        owners: list[int] = []  # the point of each candidate
        for number in range(len(PASSES) + 1):
            turn = np.flatnonzero(phase == number)
            if number:
                accepted = self._thinned(found)
                pixels = (points[turn] + view.box[:2]).astype(np.int64)
                above, under_small = _covered(accepted, pixels, small)
                skip = under_small | (above >= enough)
                if self.options["recall"] == "objects":
                    skip |= _explained(turn, side, decoded, _signatures(found, owners, accepted))
                turn = turn[~skip]
            decoded[turn] = True
            for at, some, made, _ in self._decode(view, points[turn]):
                found += some
                owners += [int(turn[at])] * len(some)
                raised += made
        return self._thinned(found), Asked(len(points), int(decoded.sum()), raised), False

    def _decode(self, view: _View, points: Float[np.ndarray, "n 2"]) -> Iterator[tuple[int, list[Found], int, bool]]:
        """For each point its number, what passed the filters, how many masks were made, whether one was stable."""
        given, model, single = self.options, self.model, not self.options["multimask"]
        labels = np.ones((len(points), 1), np.int64)
        prompts = model.points(points[:, None], labels, view.embedding)
        for picked, answer in model.answer(view.image, prompts, single=single):
            quality = answer.quality.cpu()
            good = quality > given["pred_iou_thresh"] if given["pred_iou_thresh"] > 0 else torch.ones_like(quality) > 0
            wanted = torch.nonzero(good.any(dim=1)).flatten()
            logits = model.logits(answer, wanted, single=single).cpu().numpy() if len(wanted) else None
            place = {int(prompt): at for at, prompt in enumerate(wanted)}
            for prompt, number in enumerate(range(picked.start, picked.stop)):
                some, made, stable = [], 0, False
                for mask in torch.nonzero(good[prompt]).flatten().tolist():
                    assert logits is not None, "a wanted prompt has logits"
                    made += 1
                    low = logits[place[prompt], mask]
                    cut = view.stretch.cut(low, model.threshold, given["stability_score_offset"])
                    score = np.float32(cut.high) / np.float32(cut.low) if cut.low else np.float32("nan")
                    if given["stability_score_thresh"] > 0 and not score >= np.float32(given["stability_score_thresh"]):
                        continue
                    stable = True
                    box = _moved(cut.box, view.box[:2])
                    if _near_edge(box, view.box, view.frame):
                        continue
                    x, y = points[number]
                    some.append(
                        Found(
                            Kept.of(cut, view.box[:2]),
                            box,
                            float(quality[prompt, mask]),
                            float(score),
                            (float(x) + view.box[0], float(y) + view.box[1]),
                            view.box,
                            low.copy() if given["keep_logits"] else None,
                        )
                    )
                yield number, some, made, stable

    def _thinned(self, found: Sequence[Found]) -> list[Found]:
        scores = [getattr(one, self.options["quality"]) for one in found]
        return [found[i] for i in _suppress(found, scores, self.options["box_nms_thresh"])]

    def _record(self, found: Found, height: int, width: int, floats: tuple[bool, bool]) -> dict[str, Any]:
        """segment-anything's record; its boxes are XYWH of inclusive pixels."""
        mode = self.options["output_mode"]
        if mode == "binary_mask":
            segmentation: Any = found.kept.mask(height, width)
        else:
            counts = found.kept.counts(height, width)
            plain = {"size": [height, width], "counts": counts}
            segmentation = plain if mode == "uncompressed_rle" else compress(counts, height, width)
        record = {
            "segmentation": segmentation,
            "area": found.kept.area,
            "bbox": _xywh(found.box, floats[0]),
            "predicted_iou": found.predicted_iou,
            "point_coords": [list(found.point)],
            "stability_score": found.stability_score,
            "crop_box": _xywh(found.crop, floats[1]),
        }
        return {**record, "low_res_logits": found.logits} if self.options["keep_logits"] else record


def _check(image: Any, embedding: Embedding | None, model: MaskModel) -> None:
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if getattr(image, "dtype", None) != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise BadInput(
            "an RGB picture of bytes (height x width x 3, uint8) is needed: got "
            f"{getattr(image, 'dtype', type(image))} of shape {tuple(shape)}"
        )
    if embedding is not None:
        model.fits(embedding, shape[0], shape[1])


def _suppress(found: Sequence[Found], scores: Sequence[float], worst: float | int) -> list[int]:
    """Indices that box NMS keeps, best first: torchvision's, as segment-anything calls it, so that ties fall alike."""
    from torchvision.ops.boxes import batched_nms

    if not found:
        return []
    boxes = torch.tensor([one.box for one in found], dtype=torch.float32)
    numbers = torch.tensor(np.nan_to_num(np.array(scores, np.float32)))
    kept: list[int] = batched_nms(boxes, numbers, torch.zeros(len(boxes)), iou_threshold=worst).tolist()
    return kept


def _tidied(found: Sequence[Found], smallest: float | int, worst: float | int, height: int, width: int) -> list[Found]:
    """Masks without small holes and islands; where boxes overlap then, those that needed no change win."""
    new, scores = [], []
    for one in found:
        mask, changed = without_specks(one.kept.mask(height, width), smallest)
        if changed:
            cut = Cut(np.ascontiguousarray(mask.T), 0, 0, 0, 0)
            one = replace(one, kept=Kept.of(cut), box=cut.box)
        new.append(one)
        scores.append(float(not changed))
    return [new[i] for i in _suppress(new, scores, worst)]


def _moved(box: tuple[int, int, int, int], by: Sequence[int]) -> tuple[int, int, int, int]:
    return box[0] + by[0], box[1] + by[1], box[2] + by[0], box[3] + by[1]


def _near_edge(box: Sequence[int], crop: Sequence[int], frame: tuple[int, int]) -> bool:
    """Whether a box ends near an edge of its crop that is not an edge of the picture."""
    edges = (0, 0, frame[1], frame[0])
    sides = zip(box, crop, edges, strict=True)
    return any(abs(side - own) <= EDGE and abs(side - edge) > EDGE for side, own, edge in sides)


def _xywh(box: Sequence[int], floats: bool) -> list[Any]:
    """segment-anything's box; floats where some batch (or crop) of its run was left without a mask, as in torch."""
    numbers = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return [float(number) for number in numbers] if floats else numbers


def _covered(
    accepted: Sequence[Found], pixels: Int[np.ndarray, "n 2"], small: float | int
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Over each pixel (x, y): how many masks lie there, and whether a small one does."""
    above, under_small = np.zeros(len(pixels), np.int64), np.zeros(len(pixels), bool)
    for one in accepted:
        kept = one.kept
        x, y = pixels[:, 0] - kept.left, pixels[:, 1] - kept.top
        inside = np.flatnonzero((x >= 0) & (x < kept.cols) & (y >= 0) & (y < kept.rows))
        if len(inside):
            inside = inside[kept.bits[x[inside], y[inside]]]
            above[inside] += 1
            under_small[inside] |= kept.area <= small
    return above, under_small


def _signatures(found: Sequence[Found], owners: Sequence[int], accepted: Sequence[Found]) -> dict[int, frozenset[int]]:
    """For each point that gave something, which accepted masks its own became: those whose boxes overlap them most."""
    from torchvision.ops.boxes import box_iou

    out: dict[int, set[int]] = {}
    if found:
        boxes = [torch.tensor([one.box for one in some], dtype=torch.float32) for some in (found, accepted)]
        for owner, best in zip(owners, box_iou(*boxes).argmax(dim=1).tolist(), strict=True):
            out.setdefault(owner, set()).add(best)
    return {owner: frozenset(masks) for owner, masks in out.items()}


def _explained(
    turn: Int[np.ndarray, " n"], side: int, decoded: Bool[np.ndarray, " points"], gave: Mapping[int, frozenset[int]]
) -> Bool[np.ndarray, " n"]:
    """Whether enough decoded points around each point gave the same masks."""
    row, col = np.divmod(np.flatnonzero(decoded), side)
    out = np.zeros(len(turn), bool)
    for place, point in enumerate(turn.tolist()):
        own_row, own_col = divmod(point, side)
        near = (np.abs(row - own_row) <= STEPS) & (np.abs(col - own_col) <= STEPS)
        kinds = {gave.get(number, frozenset()) for number in (row[near] * side + col[near]).tolist()}
        out[place] = near.sum() >= ALIKE and len(kinds) == 1
    return out


__all__ = ["Asked", "AutomaticMaskGenerator", "Found", "MODES", "OPTIONS", "QUALITIES", "RECALLS"]
