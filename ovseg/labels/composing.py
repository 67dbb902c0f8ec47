"""The walk from features and regions to a `Segmentation`; no network is asked here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, UInt8

from ovseg import stages
from ovseg.encoders.described import Described
from ovseg.errors import BadInput
from ovseg.evidence import heard
from ovseg.labels.joining import joined, merge, suppress
from ovseg.labels.ownership import OVERLAPS, own
from ovseg.labels.scoring import cell_rows
from ovseg.presence import Presence, presence
from ovseg.raster import pick, posterior
from ovseg.stuff import stuff_among, stuff_words
from ovseg.types import NOTHING_FOUND, DenseFeatures, Evidence, RecipeLike, Regions, Segmentation, Vocabulary


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
    def suppress(self) -> float: ...
    @property
    def merge(self) -> float: ...
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
    @property
    def absent(self) -> str: ...
    @property
    def alpha(self) -> float: ...
    @property
    def presence_cut(self) -> float | None: ...
    @property
    def margin(self) -> float: ...
    @property
    def entropy(self) -> float: ...


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
    seen = _seen(features, vocabulary) if recipe.absent == "presence" else None
    struck = np.zeros(len(vocabulary), bool) if seen is None else ~seen.judge(recipe.alpha, recipe.presence_cut)
    claims = _claims(regions, described, vocabulary, recipe, struck)
    if picture is None and (recipe.stages or recipe.refine != "none"):
        raise BadInput(
            f"stages and refine look at the picture: give it, or leave {recipe.stages!r} and {recipe.refine!r} out"
        )
    segments = None
    if picture is not None and recipe.stages:
        voters = claims.get("parts") if claims.get("vote") is None else claims["vote"]
        scene = stages.Scene(picture, features, vocabulary, scale, voters)
        of_cells, segments = stages.apply(recipe.stages, scene, of_cells)
    if segments is not None:
        claims = {"vote": segments}
    thresholds = [vocabulary.thresholds.get(name, recipe.threshold) for name in vocabulary.names]
    evidence = Evidence(
        features.height,
        features.width,
        vocabulary.owner,
        of_cells,
        np.asarray(thresholds, np.float32),
        probability=recipe.probability,
        uncovered=recipe.uncovered,
        min_area=math.ceil(recipe.min_area * features.height * features.width),
        picture=picture if recipe.refine != "none" else None,
        refine=recipe.refine,
        area=float(recipe.area),
        closing=recipe.closing,
        presence=seen,
        alpha=recipe.alpha,
        cut=recipe.presence_cut,
        lead=recipe.margin,
        entropy=recipe.entropy,
        **claims,
    )
    if propose is not None and (not struck.all() or not len(vocabulary)):
        evidence = replace(evidence, **_claims(*propose(evidence), vocabulary, recipe, struck))
    told = (*vocabulary.notes, *notes)
    if recipe.absent == "presence" and seen is None and len(vocabulary):
        told = (
            *told,
            "presence was not judged: this vocabulary brings no crowd (Pipeline.vocabulary makes one that does)",
        )
    stuff = stuff_among(vocabulary.names, stuff_words(recipe.stuff), vocabulary.spoken)
    found = replace(Segmentation.decide(vocabulary.names, evidence, recipe, told), stuff=stuff)
    if len(found.regions) or not len(vocabulary):
        return found
    best = float(found.confidence.max())
    why = f"no name reaches more than {best:.2f} of 1 anywhere, and the threshold or a negative wins"
    if struck.all():
        why = "every name was judged absent; absent='off' (--absent off), or a larger alpha, asks all the same"
    return replace(found, notes=(*found.notes, NOTHING_FOUND + why))


def _seen(features: DenseFeatures, vocabulary: Vocabulary) -> Presence | None:
    """How sure it is that each name is there; None where the vocabulary brings no crowd. Names with examples pass: what
    they look like is known, and the crowd is words."""
    crowd = vocabulary.crowd
    if crowd is None or not len(vocabulary):
        return None
    found = presence(features.vectors, crowd.asked, crowd.owner, len(vocabulary), crowd)
    shown = np.zeros(len(vocabulary), bool)
    if vocabulary.levels is not None:
        shown[vocabulary.owner[(vocabulary.owner >= 0) & (vocabulary.levels != (1, 0)).any(axis=1)]] = True
    if vocabulary.head is not None:
        cells = np.ascontiguousarray(features.vectors.reshape(len(features.vectors), -1).T)
        shown |= (vocabulary.head.logits(cells) != 0).any(axis=0)
    return found.sparing(shown) if shown.any() else found


def _claims(
    regions: Regions,
    described: Described,
    vocabulary: Vocabulary,
    recipe: Choices,
    struck: Bool[np.ndarray, " names"],
) -> dict[str, Any]:
    """What regions add to the evidence: owners of pixels with rows and qualities, or voters; nothing without any.

    Names that were judged absent have no say in who owns what. Parts go before pixels are given away, neighbours are
    merged by what they own then.
    """
    if not len(regions):
        return {}
    overlap = OVERLAPS[recipe.overlap]
    if overlap.votes:
        return {"vote": own(regions, np.ones(len(regions), np.float32), recipe.overlap)}
    rows = described.rows(vocabulary, float(recipe.scale), recipe.probability, struck)
    voices, owner, count = heard(vocabulary.owner, struck)
    slots = posterior(np.ascontiguousarray(rows.T[voices]), owner, count, recipe.probability)
    kinds, best = pick(slots, np.zeros(count, np.float32))  # -1 where a negative is likelier
    kept = suppress(regions, kinds, best * regions.quality, recipe.suppress)
    regions, rows, best, kinds, vectors = regions[kept], rows[kept], best[kept], kinds[kept], described.vectors[kept]
    parts, quality = own(regions, best, recipe.overlap), regions.quality
    groups = merge(parts, kinds, vectors, recipe.merge)
    if len(set(groups.tolist())) < len(groups):
        parts, means = joined(parts, np.column_stack([rows, quality]), groups)
        rows, quality = np.ascontiguousarray(means[:, :-1]), means[:, -1]
    return {"parts": parts, "part_rows": rows, "part_quality": quality}


__all__ = ["Choices", "Propose", "compose"]
