"""From scores to pixels: the evidence for every name, which region owns a pixel, and the `Segmentation` they make.

Scores are scaled cosines of prompt rows. They become posteriors, and posteriors become labels, in `types` (`posterior`,
`pick`, `Segmentation.decide`), so that a result can be asked again at another threshold. Ownership is decided here,
once, and does not depend on any threshold. A region speaks with the posterior of its best *name*: where a negative is
likelier the region's pixels stay unlabelled, but a region that has a name goes first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped, UInt8

from ovseg import stages
from ovseg.errors import BadInput, UnknownName
from ovseg.masks import iom
from ovseg.raster import decode_rle, posterior
from ovseg.stages import canvas
from ovseg.types import (
    DenseFeatures,
    Evidence,
    RecipeLike,
    Regions,
    Segmentation,
    Vocabulary,
    Windows,
)

MOST_SHARED = 0.3  # of the smaller region, under "iom": above it the lesser region goes (SAM 3's agent uses the same)


class Choices(RecipeLike, Protocol):
    """The choices of a recipe that asking depends on; `threshold` where a name has none of its own.

    `min_area` is a share of the picture.
    """

    @property
    def scale(self) -> float: ...
    @property
    def probability(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def overlap(self) -> str: ...
    @property
    def uncovered(self) -> str: ...
    @property
    def min_area(self) -> float: ...
    @property
    def stages(self) -> Sequence[Any]: ...
    @property
    def refine(self) -> str: ...
    @property
    def area(self) -> float: ...
    @property
    def closing(self) -> int: ...


def cell_rows(features: DenseFeatures, vocabulary: Vocabulary, scale: float) -> Float32[np.ndarray, "rows r c"]:
    """Scaled cosine of every prompt row in every cell; on every pixel of the canvas where windows were kept apart."""
    _check_dim(features, vocabulary)
    if features.windows is not None:
        return scale * stitch(features.windows, vocabulary)
    cosines = vocabulary.vectors @ features.vectors.reshape(len(features.vectors), -1)
    return np.asarray(scale * cosines, np.float32).reshape(-1, *features.grid)


def stitch(windows: Windows, vocabulary: Vocabulary) -> Float32[np.ndarray, "rows height width"]:
    """Cosines of every prompt row on the canvas, as the papers' programs put windows together.

    Each window's cosines go bilinear to its own pixels and are averaged where windows overlap (`stages.canvas.join`).
    """
    return canvas.join(windows, canvas.cosines(windows, vocabulary))


def region_rows(
    vectors: Float32[np.ndarray, "n dim"], vocabulary: Vocabulary, scale: float
) -> Float32[np.ndarray, "n rows"]:
    """Scaled cosine of every region with every prompt row; all 0 for the zero vector of an empty region."""
    return np.asarray(scale * (vectors @ vocabulary.matrix), np.float32)


def own(
    regions: Regions, posteriors: Float[np.ndarray, " n"], policy: str = "score"
) -> Int32[np.ndarray, "height width"]:
    """The region that owns each pixel (-1: none), where `posteriors` hold each region's best name.

    The policies are in `OVERLAPS`. Of equal regions the smaller wins, and neither their order nor a second copy of one
    changes which mask a pixel goes to. One region is decoded at a time.

    >>> own(Regions.empty(2, 3), np.zeros(0)).tolist()
    [[-1, -1, -1], [-1, -1, -1]]
    """
    if policy not in OVERLAPS:
        raise UnknownName.of("overlap", policy, OVERLAPS)
    if len(regions) != len(posteriors):
        raise BadInput(f"every region needs a posterior: {len(regions)} regions, {len(posteriors)} posteriors")
    winners_first = OVERLAPS[policy](regions, posteriors * regions.quality)
    boxes = regions.boxes.astype(np.int64)
    parts = np.full((regions.width, regions.height), -1, np.int32).T  # columns together, as run lengths are
    for i in reversed(winners_first):
        left, top, right, bottom = boxes[i]
        if right > left:
            inside = decode_rle(regions.rles[i])[top:bottom, left:right]
            np.copyto(parts[top:bottom, left:right], i, where=inside)
    return np.ascontiguousarray(parts)


def _by_score(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Highest claim first, then the smaller."""
    return _ranked(regions, -claims, regions.area)


def _smallest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Smallest first, then the higher claim: parts over wholes (Semantic-Segment-Anything)."""
    return _ranked(regions, regions.area, -claims)


def _largest(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """Largest first, then the higher claim: wholes over parts (CorrCLIP)."""
    return _ranked(regions, -regions.area, -claims)


def _without_rivals(regions: Regions, claims: Float[np.ndarray, " n"]) -> list[int]:
    """As "score", without the regions that share more than `MOST_SHARED` of the smaller with a better one."""
    shared = iom(regions.rles, regions.rles) > MOST_SHARED
    kept: list[int] = []
    for i in _by_score(regions, claims):
        if not shared[i, kept].any():
            kept.append(i)
    return kept


Policy = Callable[[Regions, Float[np.ndarray, " n"]], list[int]]  # claims in, the best region first

OVERLAPS: Mapping[str, Policy] = MappingProxyType(
    {"score": _by_score, "smallest": _smallest, "largest": _largest, "iom": _without_rivals}
)


Propose = Callable[[Evidence], tuple[Regions, Float32[np.ndarray, "n dim"]]]  # regions and their vectors


def compose(
    features: DenseFeatures,
    vocabulary: Vocabulary,
    *,
    regions: Regions,
    region_vectors: Float32[np.ndarray, "n dim"],
    recipe: Choices,
    picture: UInt8[np.ndarray, "height width 3"] | None = None,
    propose: Propose | None = None,
    notes: Sequence[str] = (),
) -> Segmentation:
    """The answer to a vocabulary: regions where there are some, cells elsewhere (as `recipe.uncovered` says).

    No network is asked here. Without regions the dense map decides alone, and so it does where a stage lets labels
    vote: regions are then no owners, but at most voters. Stages and refining look at the `picture`, stages at the
    features' extras as well. `propose` makes regions, in place of those given, of what the cells alone say to this
    question after all stages.
    """
    if (regions.height, regions.width) != (features.height, features.width):
        raise BadInput(
            f"regions and features must be of one picture: {regions.height}x{regions.width} and "
            f"{features.height}x{features.width} (rows x cols). Swapped axes?"
        )
    scale = float(recipe.scale)
    of_cells = cell_rows(features, vocabulary, scale)
    parts, of_parts, quality = _claims(regions, region_vectors, vocabulary, recipe)
    if picture is None and (recipe.stages or recipe.refine != "none"):
        raise BadInput(
            f"stages and refine look at the picture: give it, or leave {recipe.stages!r} and {recipe.refine!r} out"
        )
    segments = None
    if picture is not None and recipe.stages:
        scene = stages.Scene(picture, features, vocabulary, scale, parts)
        of_cells, segments = stages.apply(recipe.stages, scene, of_cells)
    if segments is not None:
        parts, of_parts, quality = None, None, None
    thresholds = [vocabulary.thresholds.get(name, recipe.threshold) for name in vocabulary.names]
    evidence = Evidence(
        features.height,
        features.width,
        vocabulary.owner,
        of_cells,
        np.asarray(thresholds, np.float32),
        probability=recipe.probability,
        parts=parts,
        part_rows=of_parts,
        part_quality=quality,
        uncovered=recipe.uncovered,
        min_area=math.ceil(recipe.min_area * features.height * features.width),
        picture=picture if recipe.refine != "none" else None,
        refine=recipe.refine,
        area=float(recipe.area),
        vote=segments,
        closing=recipe.closing,
    )
    if propose is not None:
        parts, of_parts, quality = _claims(*propose(evidence), vocabulary, recipe)
        evidence = replace(evidence, parts=parts, part_rows=of_parts, part_quality=quality)
    told = (*vocabulary.notes, *notes)
    found = Segmentation.decide(vocabulary.names, evidence, recipe, told)
    if len(found.regions) or not len(vocabulary):
        return found
    best = float(found.confidence.max())
    why = f"nothing was found: no name reaches more than {best:.2f} of 1 anywhere, and the threshold or a negative wins"
    return replace(found, notes=(*told, why))


def _claims(
    regions: Regions, vectors: Float32[np.ndarray, "n dim"], vocabulary: Vocabulary, recipe: Choices
) -> tuple[
    Int32[np.ndarray, "height width"] | None, Float32[np.ndarray, "n rows"] | None, Float32[np.ndarray, " n"] | None
]:
    """The region that owns each pixel, and the rows and qualities of all; nothing where there is no region."""
    if not len(regions):
        return None, None, None
    rows = region_rows(vectors, vocabulary, float(recipe.scale))
    slots = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, len(vocabulary), recipe.probability)
    parts = own(regions, slots[: len(vocabulary)].max(axis=0, initial=0), recipe.overlap)
    return parts, rows, regions.quality


def _ranked(regions: Regions, first: Shaped[np.ndarray, " n"], then: Shaped[np.ndarray, " n"]) -> list[int]:
    """Regions by two rising keys; the mask itself breaks ties, so that nothing hangs on the order given."""
    keys = list(zip(first.tolist(), then.tolist(), (rle["counts"] for rle in regions.rles), strict=True))
    return sorted(range(len(regions)), key=keys.__getitem__)


def _check_dim(features: DenseFeatures, vocabulary: Vocabulary) -> None:
    if vocabulary.vectors.shape[1] != len(features.vectors):
        raise BadInput(
            f"words and picture must come from one network: rows have {vocabulary.vectors.shape[1]} numbers, cells "
            f"have {len(features.vectors)}"
        )


__all__ = [
    "Choices",
    "MOST_SHARED",
    "OVERLAPS",
    "Policy",
    "Propose",
    "cell_rows",
    "compose",
    "own",
    "region_rows",
    "stitch",
]
