"""Everything in a picture, asked by a grid of points: `AutomaticMaskGenerator`, in three modes.

exact     the records of segment-anything's `SamAutomaticMaskGenerator` (facebookresearch/segment-anything@dca509f;
          Kirillov et al. 2023, arXiv:2304.02643): its options, filters and order, the same masks. Theirs makes every
          mask at full size, three times, before it drops most of them; here qualities come first, masks are made at
          the size that their own part of the frame needs, and run lengths are written for those that stay.
coarse    8 x 8 points and one mask each: enough for naming regions (CorrCLIP, arXiv:2411.10086, loses 0.6 to 0.7 mIoU
          by it), not for counting objects.
adaptive  the points of `exact` in four passes, those skipped that what is found by then explains (`adaptive`): other
          masks, for a third to a half of the decodes. recall="objects" finds 95 % and more of the whole objects that
          `exact` finds, and four of five of all masks (tests/bench/adaptive.py); "parts" spends more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.sam.adaptive import RECALLS, explained, passes, under_large
from ovseg.sam.found import QUALITIES, RULES, Found, Quality, scores, thinned
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.networks import CUTS
from ovseg.sam.runs import Kept, compress, without_specks
from ovseg.sam.stretch import Cut, Stretch
from ovseg.types import Regions

EDGE = 20  # px: a mask this near to the edge of a crop, but not of the picture, belongs to a neighbour
OUTPUTS = ("binary_mask", "uncompressed_rle", "coco_rle")
FACE = ("answer", "encode", "fits", "logits", "placed", "points", "shared", "stretch")  # what makes a mask model

# segment-anything's options with its defaults, and what a mode changes of them; then ours. A threshold of 0 is none.
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "points_per_side": 32,
        "points_per_batch": 64,  # no effect on masks here: the decoder takes four at once
        "pred_iou_thresh": None,  # the model's own: 0.88 of segment-anything, `cuts` of others
        "stability_score_thresh": None,  # the same: 0.95
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
        "quality": "predicted_iou",  # which number wins where masks overlap: a name, or a function of `Found`
        "nms": "box",  # what overlaps: boxes, or masks
        "max_regions": 10_000,  # in one picture; more are refused
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


@dataclass(frozen=True, eq=False)
class _Told:
    """What one point gave: its number, masks that passed, how many were made, whether one was stable.

    `under` says which cells that were asked for lie in its large masks, passed or not.
    """

    number: int
    found: list[Found]
    raised: int
    stable: bool
    under: Bool[np.ndarray, " cells"]


class AutomaticMaskGenerator:
    """Masks of everything in a picture: segment-anything's generator with `mode` and the options under `OPTIONS`.

    `model` is a `MaskModel`, anything with its face, or any network with segment-anything's parts. One generator may
    serve many threads.
    """

    def __init__(self, model: Any, *, mode: str = "exact", **options: Any) -> None:
        if mode not in MODES:
            raise UnknownName.of("mode", mode, MODES)
        for name in options:
            if name not in OPTIONS:
                raise UnknownName.of("option of AutomaticMaskGenerator", name, OPTIONS)
        self.model = model if all(hasattr(model, name) for name in FACE) else MaskModel(model)
        self.mode = mode
        own = dict(zip(("pred_iou_thresh", "stability_score_thresh"), getattr(self.model, "cuts", CUTS), strict=True))
        given = {**OPTIONS, **MODES[mode], **options}
        self.options: Mapping[str, Any] = MappingProxyType(
            {name: own.get(name) if value is None else value for name, value in given.items()}
        )
        self._check_options()
        self.grids = self._grids()

    def generate(
        self, image: UInt8[np.ndarray, "height width 3"], embedding: Embedding | None = None
    ) -> list[dict[str, Any]]:
        """segment-anything's records of an RGB picture, best first; `embedding` is the picture's, if it is at hand."""
        found, _, floats = self._find(image, embedding)
        height, width = image.shape[:2]
        return [self._record(one, height, width, floats) for one in found]

    def regions(
        self, image: UInt8[np.ndarray, "height width 3"], embedding: Embedding | None = None, column: Quality = ""
    ) -> tuple[Regions, Asked]:
        """The same masks as regions whose quality is `column` (as a rule the one that sorts), and what they cost."""
        found, asked, _ = self._find(image, embedding)
        height, width = image.shape[:2]
        quality = scores(found, column or self.options["quality"]).clip(0, 1)
        rles = tuple(one.kept.rle(height, width) for one in found)
        return Regions(height, width, rles, quality), asked

    def _check_options(self) -> None:
        given = self.options
        names = {"output_mode": OUTPUTS, "nms": RULES, "recall": RECALLS}
        if not callable(given["quality"]):
            names["quality"] = QUALITIES
        for name, known in names.items():
            if given[name] not in known:
                raise UnknownName.of(name, str(given[name]), known)
        layers, side, grids = given["crop_n_layers"], given["points_per_side"], given["point_grids"]
        if (side is None) == (grids is None):
            raise BadUsage("points_per_side or point_grids is needed, and not both: set the other to None")
        if self.mode == "adaptive" and grids is not None:
            raise BadUsage("mode adaptive walks a square grid: give points_per_side, not point_grids")
        counts = {"points_per_batch": 1, "max_regions": 0, "crop_n_points_downscale_factor": 1, "crop_n_layers": 0}
        for name, least in (counts | ({} if side is None else {"points_per_side": 1})).items():
            if given[name] < least:
                raise BadUsage(f"{name} must be {least} or more: got {given[name]}")
        shapes = [np.shape(grid) for grid in grids or ()]
        if grids is not None and (len(grids) != layers + 1 or any(len(one) != 2 or one[1] != 2 for one in shapes)):
            raise BadUsage(
                f"point_grids needs {layers + 1} arrays of (x, y) in [0, 1], one a layer of crops and one for the "
                f"picture: got shapes {', '.join(map(str, shapes)) or 'none'}"
            )

    def _grids(self) -> list[Float[np.ndarray, "n 2"]]:
        """Points (x, y) in [0, 1], one array a layer of crops."""
        from segment_anything.utils.amg import build_all_layer_point_grids

        given = self.options
        if given["point_grids"] is not None:
            return [np.asarray(grid, float) for grid in given["point_grids"]]
        layers, shrink = given["crop_n_layers"], given["crop_n_points_downscale_factor"]
        if given["points_per_side"] < shrink**layers:
            raise BadUsage(
                f"points_per_side must be {shrink**layers} or more with {layers} layers of crops that have {shrink} "
                f"times fewer each: got {given['points_per_side']}"
            )
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
            if left >= right or top >= bottom:  # a picture of few pixels has crops of none
                continue
            own = embedding if embedding is not None and not layer else self.model.encode(image[top:bottom, left:right])
            shared = self.model.shared(own)
            view = _View(shared, self.model.stretch(own), own, (left, top, right, bottom), (height, width))
            points = self.grids[layer] * np.array([right - left, bottom - top])
            walk = self._adaptive if self.mode == "adaptive" else self._all
            some, work, dry = walk(view, points)
            float_boxes, float_crops = float_boxes or dry, float_crops or not some
            asked = Asked(asked.points + work.points, asked.decoded + work.decoded, asked.raised + work.raised)
            found += some
            _bounded(found, given["max_regions"], height, width)
        if len(crops) > 1:  # small crops first
            small = [1 / ((one.crop[2] - one.crop[0]) * (one.crop[3] - one.crop[1])) for one in found]
            found = thinned(found, np.array(small, np.float32), given["crop_nms_thresh"], given["nms"], (height, width))
        if given["min_mask_region_area"] > 0:
            worst = max(given["box_nms_thresh"], given["crop_nms_thresh"])
            found = _tidied(found, given["min_mask_region_area"], worst, given["nms"], (height, width))
        return found, asked, (float_boxes, float_crops)

    def _all(self, view: _View, points: Float[np.ndarray, "n 2"]) -> tuple[list[Found], Asked, bool]:
        """Every point of a crop; what overlaps is thinned by quality."""
        found: list[Found] = []
        raised, batch = 0, self.options["points_per_batch"]
        stable = np.zeros(-(-len(points) // batch), bool)
        for told in self._decode(view, points):
            found += told.found
            raised += told.raised
            stable[told.number // batch] |= told.stable
        return self._thinned(found, view), Asked(len(points), len(points), raised), not bool(stable.all())

    def _adaptive(self, view: _View, points: Float[np.ndarray, "n 2"]) -> tuple[list[Found], Asked, bool]:
        """Points in passes, without those that what is found by then explains."""
        recall = RECALLS[self.options["recall"]]
        cells = self._cells(points, view.embedding) if recall.grounds else None
        pixels = (points + view.box[:2]).astype(np.int64)
        decoded, refused, raised = np.zeros(len(points), bool), np.zeros(len(points), np.int64), 0
        found: list[Found] = []
        for number, turn in enumerate(passes(round(len(points) ** 0.5))):
            if number:
                turn = turn[~explained(self._thinned(found, view), pixels, decoded, refused, recall)[turn]]
            decoded[turn] = True
            for told in self._decode(view, points[turn], cells):
                found += told.found
                raised += told.raised
                if cells is not None:
                    refused += told.under
        return self._thinned(found, view), Asked(len(points), int(decoded.sum()), raised), False

    def _cells(self, points: Float[np.ndarray, "n 2"], embedding: Embedding) -> Int[np.ndarray, "n 2"]:
        """The cell (row, col) of the low-resolution masks that each point of a crop lies in."""
        cells = self.model.placed(points, embedding)[:, ::-1] * self._scale()
        return np.asarray(np.minimum(cells.astype(np.int64), np.array(self.model.cells) - 1))

    def _scale(self) -> Float[np.ndarray, " 2"]:
        return np.array(self.model.cells) / self.model.side

    def _decode(
        self, view: _View, points: Float[np.ndarray, "n 2"], cells: Int[np.ndarray, "cells 2"] | None = None
    ) -> Iterator[_Told]:
        """What each point gives; masks are made at low resolution where one is wanted, or for all if cells are."""
        given, model, single = self.options, self.model, not self.options["multimask"]
        labels = np.ones((len(points), 1), np.int64)
        held = np.ceil(np.array(view.embedding.kept) * self._scale()).astype(int)
        prompts = model.points(points[:, None], labels, view.embedding)
        for picked, answer in model.answer(view.image, prompts, single=single):
            quality = answer.quality.cpu()
            if not torch.isfinite(quality).all():  # they would pass no cut, and look like an empty picture
                raise BadInput("predicted IoUs are not finite: try float32, or check the checkpoint")
            good = quality > given["pred_iou_thresh"] if given["pred_iou_thresh"] > 0 else torch.ones_like(quality) > 0
            wanted = torch.nonzero(good.any(dim=1) | (cells is not None)).flatten()
            logits = model.logits(answer, wanted, single=single).cpu().numpy() if len(wanted) else None
            place = {int(prompt): at for at, prompt in enumerate(wanted)}
            for prompt, number in enumerate(range(picked.start, picked.stop)):
                some, made, stable, under = [], 0, False, np.zeros(0, bool)
                if cells is not None:
                    assert logits is not None, "all prompts are wanted"
                    under = under_large(logits[place[prompt]], model.threshold, (int(held[0]), int(held[1])), cells)
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
                yield _Told(number, some, made, stable, under)

    def _thinned(self, found: Sequence[Found], view: _View) -> list[Found]:
        given = self.options
        return thinned(found, scores(found, given["quality"]), given["box_nms_thresh"], given["nms"], view.frame)

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


def _bounded(found: Sequence[Found], most: int, height: int, width: int) -> None:
    if len(found) > most:
        packed = sum(part.nbytes for one in found for part in (one.kept.changes, one.kept.packed) if part is not None)
        raise BadUsage(
            f"max_regions is {most}: {len(found)} masks passed the filters, {packed / 1e6:.1f} MB as run lengths and "
            f"{len(found) * height * width / 1e9:.1f} GB as masks of the frame; raise the cuts (pred_iou_thresh, "
            "stability_score_thresh) or max_regions"
        )


def _tidied(
    found: Sequence[Found], smallest: float | int, worst: float | int, rule: str, frame: tuple[int, int]
) -> list[Found]:
    """Masks without small holes and islands; where they overlap then, those that needed no change win."""
    new, unchanged = [], []
    for one in found:
        mask, changed = without_specks(one.kept.mask(*frame), smallest)
        if changed:
            cut = Cut(np.ascontiguousarray(mask.T), 0, 0, 0, 0)
            one = replace(one, kept=Kept.of(cut), box=cut.box)
        new.append(one)
        unchanged.append(float(not changed))
    return thinned(new, np.array(unchanged, np.float32), worst, rule, frame)


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


__all__ = ["Asked", "AutomaticMaskGenerator", "FACE", "Found", "MODES", "OPTIONS", "OUTPUTS", "QUALITIES", "RECALLS"]
