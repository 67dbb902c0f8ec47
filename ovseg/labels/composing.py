"""The walk from features and regions to a `Segmentation`; no network is asked here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from ovseg import stages
from ovseg.encoders.described import Described
from ovseg.errors import BadInput
from ovseg.labels.ownership import own
from ovseg.labels.scoring import cell_rows
from ovseg.raster import posterior
from ovseg.stuff import stuff_among, stuff_words
from ovseg.types import DenseFeatures, Evidence, RecipeLike, Regions, Segmentation, Vocabulary


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
    def stuff(self) -> str | Sequence[str]: ...
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


Propose = Callable[[Evidence], tuple[Regions, Described]]


def compose(
    features: DenseFeatures,
    vocabulary: Vocabulary,
    *,
    regions: Regions,
    described: Described,
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
    parts, of_parts, quality = _claims(regions, described, vocabulary, recipe)
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
    stuff = stuff_among(vocabulary.names, stuff_words(recipe.stuff), vocabulary.spoken)
    found = replace(Segmentation.decide(vocabulary.names, evidence, recipe, told), stuff=stuff)
    if len(found.regions) or not len(vocabulary):
        return found
    best = float(found.confidence.max())
    why = f"nothing was found: no name reaches more than {best:.2f} of 1 anywhere, and the threshold or a negative wins"
    return replace(found, notes=(*told, why))


def _claims(
    regions: Regions, described: Described, vocabulary: Vocabulary, recipe: Choices
) -> tuple[
    Int32[np.ndarray, "height width"] | None, Float32[np.ndarray, "n rows"] | None, Float32[np.ndarray, " n"] | None
]:
    """The region that owns each pixel, and the rows and qualities of all; nothing where there is no region."""
    if not len(regions):
        return None, None, None
    rows = described.rows(vocabulary, float(recipe.scale))
    slots = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, len(vocabulary), recipe.probability)
    parts = own(regions, slots[: len(vocabulary)].max(axis=0, initial=0), recipe.overlap)
    return parts, rows, regions.quality


__all__ = ["Choices", "Propose", "compose"]
