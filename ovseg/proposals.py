"""Masks without names: where things might be in a picture, as `Regions`. A proposer is a row of `PROPOSERS`.

none          no region: the dense map decides.
felzenszwalb  nested segments without any weights: Felzenszwalb and Huttenlocher's graph segmentation (IJCV 2004) at
              the leaves, then neighbours merged by colour, by the edge between them and by what CLIP sees in them.
              Sharp borders and nested scales; it is no object proposer (Selective Search segments reach AR@100 of 9.5
              on COCO where SAM reaches 44.8: MobileSAMv2, arXiv:2312.09579, tables 2 and 3).
files         masks on disk, found by the picture's file name: `maskfiles`. A recipe with it holds the folder's path.
sam           the masks of segment-anything's automatic mask generator (arXiv:2304.02643), exactly, sooner: `ovseg.sam`.
sam-coarse    8 x 8 points and one mask each: enough for naming regions, not for counting objects.
sam-adaptive  the points of `sam` without those that lie under what was found: other masks, fewer decodes.
from-map      one mask for every part of the coarse map of the names asked (Trident: `sam.guided`), so regions are made
              when names are asked. Trident takes the largest refined score of a pixel; here a mask is a region as any
              other: its vector names it, `overlap` decides, and where no mask was accepted the coarse label stays.
prompted      one mask for every prompt: boxes and points in pixels of this picture.

What is kept of a proposal, which vector it gets and which pixels it owns is decided in `encoders` and `labels`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.evidence import Evidence
from ovseg.segments import nested_segments
from ovseg.types import DenseFeatures, Regions


@dataclass(frozen=True, eq=False)
class Seen:
    """What a segment-anything model has to do with a picture: the `sam.MaskModel`, and the picture's embedding.

    `coarse` is what the cells alone say to the names that are asked, `source` the picture's path, if it came by one.
    """

    model: Any = None
    embedding: Any = None
    coarse: Evidence | None = None
    source: str = ""


@dataclass(frozen=True)
class Proposer:
    """One way to propose regions: what it computes, the options it knows with their defaults, and what it needs.

    `run` gets every option, merged with the defaults, and must leave the picture as it is. With `needs_names` regions
    belong to a question: they are made from its coarse map, when it is asked. `requires` is an option that has no
    default. `what` says in a line what comes out.
    """

    run: Callable[[UInt8[np.ndarray, "height width 3"], DenseFeatures, "Seen", Mapping[str, Any]], Regions]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_sam: bool = False
    needs_names: bool = False
    requires: str = ""
    what: str = ""
    source: str = ""


def propose(
    name: str,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    *,
    model: Any = None,
    embedding: Any = None,
    coarse: Evidence | None = None,
    source: str = "",
    **options: Any,
) -> Regions:
    """Regions of a picture by the proposer of that name; the picture is RGB and the one that `features` are of.

    `model` is a `sam.MaskModel` (or a network with segment-anything's parts) for rows that need one, `embedding`
    what it made of this picture, if that is at hand. `coarse` is the evidence of the cells for the names asked,
    `source` the picture's path, for rows that look for its masks by name.

    >>> image = np.zeros((48, 80, 3), np.uint8)
    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> len(propose("none", image, features))
    0
    >>> propose("felzenszwalb", image, features, min_sise=5)
    Traceback (most recent call last):
    ...
    ovseg.errors.UnknownName: option of proposer felzenszwalb must be one of keep, long_side, max_area, min_area, \
min_size, scale, sigma: got 'min_sise'. Did you mean 'min_size'?
    """
    row = proposer(name)
    for option in options:
        if option not in row.options:
            raise UnknownName.of(f"option of proposer {name}", option, row.options)
    if image.shape[:2] != (features.height, features.width):
        raise BadInput(
            f"picture and features must match: the picture is {image.shape[0]}x{image.shape[1]}, the features are of "
            f"{features.height}x{features.width} (rows x cols). Swapped axes?"
        )
    if row.needs_sam and model is None:
        free = ", ".join(other for other, candidate in PROPOSERS.items() if not candidate.needs_sam)
        raise BadUsage(
            f"proposer {name} needs a SAM-type network: none was given; open a preset that has one (base, large), pass "
            f"model=ovseg.sam.load.load(PATH) in Python, or choose one that needs none ({free})"
        )
    if row.requires and not options.get(row.requires):
        raise BadUsage(f"proposer {name} needs the option {row.requires}: none was given; add {row.requires}=...")
    if row.needs_names and coarse is None:
        raise BadUsage(
            f"proposer {name} reads the coarse map of the names that are asked: none was given; ask a pipeline "
            "(Pipeline.segment), which makes regions then"
        )
    return row.run(image, features, Seen(model, embedding, coarse, source), {**row.options, **options})


def proposer(name: str) -> Proposer:
    """The row of a proposer, whatever its case and with `_` read as `-`."""
    key = name.lower().replace("_", "-")
    if key not in PROPOSERS:
        raise UnknownName.of("proposer", name, PROPOSERS)
    return PROPOSERS[key]


def _none(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    return Regions.empty(features.height, features.width)


def _felzenszwalb(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    return nested_segments(image, features, **options)


def _files(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    from ovseg.maskfiles import read_regions

    if not seen.source:
        raise BadInput(
            "proposer files looks for masks by the picture's file name: this picture came without one; give its path"
        )
    return read_regions(options["folder"], seen.source, features.height, features.width)


def _sam(
    mode: str,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    """What a grid of points finds, in its order; `quality` is the column named, clipped to [0, 1]."""
    from ovseg.sam.grid import QUALITIES, AutomaticMaskGenerator

    settings = dict(options)
    column = settings.pop("quality")
    if column not in QUALITIES:
        raise UnknownName.of("quality of a proposer", str(column), QUALITIES)
    generator = AutomaticMaskGenerator(seen.model, mode=mode, **settings)
    regions, _ = generator.regions(image, seen.embedding, column=column)
    return regions


def _from_map(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    from ovseg.sam.guided import Coarse, refine

    assert seen.coarse is not None, "a row that needs names gets their coarse map"
    model, embedding = _embedded(image, seen)
    return refine(model, embedding, Coarse.of_evidence(seen.coarse), **options).regions


def _prompted(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    seen: Seen,
    options: Mapping[str, Any],
) -> Regions:
    """One mask a prompt, in their order; all prompts go to the decoder together."""
    from ovseg.sam.prompted import prompted

    boxes, points, labels = options["boxes"], options["points"], options["labels"]
    if not len(boxes) and not len(points):
        raise BadUsage(
            "proposer prompted needs boxes [[left, top, right, bottom], ...] or points [[[x, y], ...], ...] of this "
            "picture, in pixels: none came; give them as proposer_options"
        )
    asked: dict[str, Any] = {}
    if len(boxes):
        asked["boxes"] = _numbers("boxes", boxes, 2)
    if len(points):
        asked["points"] = _numbers("points", points, 3)
        asked["labels"] = np.ones(asked["points"].shape[:2], np.int64)
    if len(labels):
        asked["labels"] = _numbers("labels", labels, 2).astype(np.int64)
    model, embedding = _embedded(image, seen)
    found = prompted(model, embedding, **asked)
    if found.problems:  # a recipe is no annotator at work: nobody would see which region is lacking
        raise BadInput("; ".join(found.problems.values()))
    return found.regions


def _numbers(what: str, given: Any, axes: int) -> Float[np.ndarray, "..."]:
    """Lists of numbers as an array of so many axes."""
    try:
        array = np.asarray(given, float)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if what == "labels" and (array != array.round()).any():
        raise BadUsage(f"labels of proposer prompted are 1 (inside), 0 (outside) or -1 (no point): got {given!r}")
    if array.ndim != axes or (what != "labels" and array.shape[-1] != (4 if what == "boxes" else 2)):
        shape = {"boxes": "[[left, top, right, bottom], ...]", "points": "[[[x, y], ...], ...]", "labels": "[[1], ...]"}
        raise BadUsage(f"{what} of proposer prompted are {shape[what]}, an entry a prompt: got {given!r}")
    return array


def _embedded(image: UInt8[np.ndarray, "height width 3"], seen: Seen) -> tuple[Any, Any]:
    """The face of the network, and what it makes of the picture."""
    from torch.nn import Module

    from ovseg.sam.model import MaskModel

    model: Any = MaskModel(seen.model) if isinstance(seen.model, Module) else seen.model
    return model, model.encode(image) if seen.embedding is None else seen.embedding


# segment-anything's own, but for the batch
GRID: Mapping[str, Any] = MappingProxyType(
    {
        "points_per_side": 32,
        "points_per_batch": 16,
        "pred_iou_thresh": None,  # the network's own: 0.88 of segment-anything's
        "stability_score_thresh": None,  # the same: 0.95
        "stability_score_offset": 1.0,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_nms_thresh": 0.7,
        "crop_overlap_ratio": 512 / 1500,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0,  # px
        "quality": "predicted_iou",
    }
)

PROPOSERS: Mapping[str, Proposer] = MappingProxyType(
    {
        "none": Proposer(_none, what="no region: the dense map decides"),
        "felzenszwalb": Proposer(
            _felzenszwalb,
            {
                "long_side": 640,  # px
                "scale": 300,
                "sigma": 0.8,  # px
                "min_size": 50,  # px
                "min_area": 0.0005,  # of the picture
                "max_area": 0.95,
                "keep": 100,
            },
            what="nested segments, no weights needed",
            source="skimage.segmentation.felzenszwalb; the tree is ours",
        ),
        "files": Proposer(
            _files,
            {"folder": ""},
            requires="folder",
            what="masks on disk: files@FOLDER",
            source="anybody's; their forms are in maskfiles",
        ),
        "sam": Proposer(
            partial(_sam, "exact"),
            GRID,
            needs_sam=True,
            what="segment-anything's masks, 32 x 32 points",
            source="facebookresearch/segment-anything@dca509f; all defaults are its own, but for the batch",
        ),
        "sam-coarse": Proposer(
            partial(_sam, "coarse"),
            {**GRID, "points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4},
            needs_sam=True,
            what="8 x 8 points, a mask each",
            source="CorrCLIP (arXiv:2411.10086), its table on the number of points",
        ),
        "sam-adaptive": Proposer(
            partial(_sam, "adaptive"),
            {**GRID, "recall": "objects"},
            needs_sam=True,
            what="32 x 32 points less those explained",
            source="ours, after a note in Curt-Park/segment-anything-with-clip@c6ae7c4",
        ),
        "from-map": Proposer(
            _from_map,
            {
                "coarse_thresh": 0.10,  # of the posterior; 0.05 to 0.25 in its configurations
                "min_part_px": 225,  # at half the picture's resolution
                "mask_factor": 0.005,
                "min_iou": 0.9,  # predicted; 0.8 in its configurations
            },
            needs_sam=True,
            needs_names=True,
            what="a mask a part of the names' map",
            source="YuHengsss/Trident@a93b346 (ICCV 2025)",
        ),
        "prompted": Proposer(
            _prompted,
            {"boxes": (), "points": (), "labels": ()},
            needs_sam=True,
            what="a mask a box or point of the options",
            source="SamPredictor of facebookresearch/segment-anything@dca509f",
        ),
    }
)


__all__ = [
    "GRID",
    "PROPOSERS",
    "Proposer",
    "Seen",
    "propose",
    "proposer",
]
