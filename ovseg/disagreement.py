"""Where several recipes answer one question differently, and how much of the answer somebody will have to touch.

`disagree` holds the answers of several recipes to one question against each other: a divergence a pixel
(`divergence`), the pixels whose labels differ, and the review of the first answer: which regions to look at first, what
others see where the first sees nothing, and the effort that this may cost.

The effort is a model, and a plain one. Something is wrong with a chance of 1 - exp(-(a * divergence + b * doubt)): two
causes that add up, neither of which can lower the chance, and none at all where recipes are certain of one answer.
Doubt is what the recipes' mean posterior leaves open of the first answer: it falls where others confirm, and on the
bundled model it foretells errors better than the first recipe's own posterior or divergence do, so that most of the
weight is its (weights/tiny/report_disagreement.py measures all of them). Chances are added up over pixels (how many
change), over regions (each is put right, or taken out, by one touch) and over what others name where the first answer
names nothing (one touch adds it). What no recipe sees costs a touch that nobody foretells. `DRAWINGS` are weights by
the bundled model's own errors on drawings; for other pictures and models `fitted` makes them from a few pictures that
were corrected. A recipe much worse than the first makes all of this worse: hold good ones against each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16, Shaped

from ovseg.divergence import divergence, parted, together
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.raster import rles_of, split
from ovseg.types import Regions, Segmentation

Maps = tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]  # values, doubt

LEAST_MISSING = 0.002  # of the picture: what others name on less of it asks for no touch


@dataclass(frozen=True)
class Chances:
    """Weights (of divergence, of doubt) of the chance that a pixel is wrong, that a region needs a touch, and that what
    others name where the first answer names nothing is to be added."""

    pixel: tuple[float, float]
    region: tuple[float, float]
    missing: tuple[float, float]

    def __post_init__(self) -> None:
        for pair in (self.pixel, self.region, self.missing):
            if not all(0 <= weight < np.inf for weight in pair):
                raise BadUsage(f"weights of a chance are 0 or more, so that none lowers it: got {pair}")


# The preset tiny against two-level and its own dense map, 120 drawings of every second held-out name.
DRAWINGS = Chances(pixel=(0.0, 4.3), region=(0.0, 3.0), missing=(3.61, 0.22))


@dataclass(frozen=True, eq=False)
class Disagreement:
    """How far several answers lie apart, pixel by pixel, and what reviewing the first of them may take.

    `values` are in [0, 1]: 0 where all recipes say the same, 1 where they are certain and as different as so many can
    be. `contested` are the pixels whose labels differ: a threshold may part labels that posteriors agree on, and
    posteriors may part that a threshold hides. `doubt` is 1 less the mean posterior of the first answer's label, or the
    best name's mean posterior where it has none. `missing` are parts of the picture that the first answer leaves
    unlabelled and most others give one name (`missing_labels`), where they do not border on a region of that name.
    """

    first: Segmentation
    values: Float32[np.ndarray, "height width"]
    doubt: Float32[np.ndarray, "height width"]
    contested: Bool[np.ndarray, "height width"]
    missing: Regions
    missing_labels: Int[np.ndarray, " missing"]
    missing_means: Float32[np.ndarray, "missing 2"]
    measure: str
    recipes: int
    chances: Chances = DRAWINGS

    def __post_init__(self) -> None:
        if not self.values.shape == self.doubt.shape == self.contested.shape == self.labels.shape:
            raise BadInput("values, doubt, contested pixels and the first answer must be of one picture")

    @property
    def labels(self) -> Int16[np.ndarray, "height width"]:
        """The first answer's labels: what is reviewed."""
        return self.first.labels

    @property
    def wrong(self) -> Float32[np.ndarray, "height width"]:
        """The chance of every pixel that its label, or its lack of one, is wrong."""
        return chance(self.chances.pixel, self.values, self.doubt)

    @cached_property
    def region_means(self) -> Float32[np.ndarray, "n 3"]:
        """Mean divergence, mean doubt and contested share of each region of the first answer."""
        return _means(self.first.owners, len(self.first.regions), self.values, self.doubt, self.contested)

    @property
    def region_shares(self) -> Float32[np.ndarray, " n"]:
        """The share of each region's pixels that are contested."""
        return self.region_means[:, 2]

    @property
    def touches(self) -> Float32[np.ndarray, " n"]:
        """The chance of each region that it has to be put right or taken out."""
        return chance(self.chances.region, self.region_means[:, 0], self.region_means[:, 1])

    @property
    def missing_touches(self) -> Float32[np.ndarray, " missing"]:
        """The chance of each missing part that it has to be added."""
        return chance(self.chances.missing, self.missing_means[:, 0], self.missing_means[:, 1])

    @property
    def ranking(self) -> Int[np.ndarray, " n"]:
        """Regions in the order to look at them: by contested share, then by chance of a touch, both falling."""
        return np.lexsort((-self.touches, -self.region_shares))

    def effort(self, seconds_a_touch: float | int | None = None) -> dict[str, float | None]:
        """What reviewing the first answer may take: expected touches, share of the pixels that change, contested share.

        "seconds" are there where you say how long one touch takes you; nothing is assumed about that.
        """
        if seconds_a_touch is not None and not 0 <= seconds_a_touch < np.inf:
            raise BadUsage(f"a touch takes 0 seconds or more: got {seconds_a_touch}")
        touches = float(self.touches.sum(dtype=float) + self.missing_touches.sum(dtype=float))
        return {
            "touches": touches,
            "changed_share": float(self.wrong.mean(dtype=float)),
            "contested_share": float(self.contested.mean()),
            "seconds": None if seconds_a_touch is None else touches * seconds_a_touch,
        }

    def to_dict(self, seconds_a_touch: float | int | None = None) -> dict[str, Any]:
        """The "effort" object of `segment --json`: the effort, and regions in the order in which to look at them."""
        rounded = {
            key: None if value is None else round(value, 4) for key, value in self.effort(seconds_a_touch).items()
        }
        place = np.argsort(self.first.falling)  # regions stand in a file in that order
        regions = [
            {"region": int(place[i]), "contested_share": round(float(share), 4), "touch": round(float(touch), 4)}
            for i in self.ranking
            for share, touch in [(self.region_shares[i], self.touches[i])]
        ]
        missing = [
            {"name": self.first.names[kind], "area": int(area), "touch": round(float(touch), 4)}
            for kind, area, touch in zip(self.missing_labels, self.missing.area, self.missing_touches, strict=True)
        ]
        return {**rounded, "measure": self.measure, "recipes": self.recipes, "review": regions, "missing": missing}

    def __repr__(self) -> str:
        height, width = self.values.shape
        effort = self.effort()
        return (
            f"Disagreement({self.recipes} recipes, {height}x{width}: {effort['contested_share']:.1%} contested, about "
            f"{effort['touches']:.1f} touches)"
        )


def disagree(found: Sequence[Segmentation], *, measure: str | None = None, chances: Chances = DRAWINGS) -> Disagreement:
    """Several recipes' answers to one question held against each other; the first is the one under review.

    `measure` "posteriors" looks at all that the answers' evidence says, "labels" at the labels alone. Unless one is
    asked for it is "posteriors" where every answer keeps its evidence, else "labels" (results that were read from
    files). Neither the order of the recipes nor that of the names changes values or contested pixels.
    """
    if len(found) < 2:
        raise BadUsage(f"disagreement is between two answers or more: got {len(found)}; ask another recipe as well")
    first = found[0]
    for other in found[1:]:
        if other.names != first.names:
            raise BadUsage(
                "recipes disagree about one question: the answers must be to the same names in the same order, got "
                f"{', '.join(first.names)} and {', '.join(other.names)}"
            )
        if other.labels.shape != first.labels.shape:
            raise BadInput(
                "recipes disagree about one picture: answers are of "
                f"{' and '.join(f'{one.labels.shape[0]}x{one.labels.shape[1]} px' for one in (first, other))}"
            )
    kept = all(one.evidence is not None for one in found)
    measure = measure or ("posteriors" if kept else "labels")
    if measure not in MEASURES:
        raise UnknownName.of("measure", measure, MEASURES)
    if measure == "posteriors" and not kept:
        raise BadUsage(
            "posteriors are gone where a result was read from a file: take measure='labels', or segment again"
        )
    values, doubt = MEASURES[measure](found)
    contested = np.any([one.labels != first.labels for one in found[1:]], axis=0)
    named = _named_by_others(found)
    parts, kinds = split(np.where(named >= 0, named, first.labels), None, len(first.names))
    apart = np.bincount(parts[first.labels >= 0], minlength=len(kinds)) == 0  # what touches its own name is its border
    large = apart & (np.bincount(parts[parts >= 0], minlength=len(kinds)) >= max(1, LEAST_MISSING * parts.size))
    parts = np.append(np.where(large, np.cumsum(large) - 1, -1), -1)[parts]  # the last entry serves -1
    means = _means(parts, int(large.sum()), values, doubt)
    height, width = values.shape
    quality = means[:, 0].clip(0, 1)
    missing = Regions(height, width, tuple(rles_of(parts, len(quality))), quality)
    return Disagreement(first, values, doubt, contested, missing, kinds[large], means, measure, len(found), chances)


def chance(
    weights: tuple[float, float], values: Float32[np.ndarray, "..."], doubt: Float32[np.ndarray, "..."]
) -> Float32[np.ndarray, "..."]:
    """The chance of something being wrong, in [0, 1), from its divergence and its doubt.

    >>> chance((2.0, 1.0), np.array([0.0, 0.5], np.float32), np.array([0.0, 1.0], np.float32)).round(3).tolist()
    [0.0, 0.8650000095367432]
    """
    return np.asarray(-np.expm1(-(weights[0] * values + weights[1] * doubt)), np.float32)


def fitted(
    values: Float[np.ndarray, " n"], doubt: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]
) -> tuple[float, float]:
    """The weights under which what was found to be wrong is likeliest; neither is below 0.

    `n` pixels, regions or missing parts of pictures that somebody corrected. The likelihood has one peak.
    """
    from scipy.optimize import minimize

    signals = np.stack([values, doubt], axis=1).astype(np.float64)
    if not len(signals):
        raise BadUsage("weights are fitted to what was found right or wrong: nothing came")

    def loss(weights: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        hazard = signals @ weights
        chances = np.maximum(-np.expm1(-hazard), 1e-9)
        cost = hazard[~wrong].sum() - np.log(chances[wrong]).sum()
        slope = signals[~wrong].sum(axis=0) - (np.exp(-hazard[wrong]) / chances[wrong]) @ signals[wrong]
        return float(cost) / len(signals), slope / len(signals)

    best = minimize(loss, np.ones(2), jac=True, bounds=[(0, 50)] * 2, method="L-BFGS-B").x
    return float(best[0]), float(best[1])


def _of_posteriors(found: Sequence[Segmentation]) -> Maps:
    """Band by band, so that the posteriors of all names on all pixels are never there at once."""
    labels, names = found[0].labels, len(found[0].names)
    values, doubt = np.empty(labels.shape, np.float32), np.empty(labels.shape, np.float32)
    for band, several in together([one.evidence for one in found if one.evidence is not None]):
        values[band] = divergence(several)
        mean = np.mean(several, axis=0)
        own = np.take_along_axis(mean, np.maximum(labels[band], 0)[None].astype(np.int64), axis=0)[0]
        doubt[band] = np.where(labels[band] >= 0, 1 - own, mean[:names].max(axis=0, initial=0))
    return values, doubt.clip(0, 1)


def _of_labels(found: Sequence[Segmentation]) -> Maps:
    """A recipe that gives another label holds nothing for the first one's."""
    labels = found[0].labels
    held, rival = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    for one in found:
        held += np.where(one.labels == labels, one.confidence, 0)
        same = sum(np.where(one.labels == other.labels, other.confidence, np.float32(0)) for other in found)
        np.maximum(rival, np.where(one.labels >= 0, same, 0), out=rival)
    doubt = np.where(labels >= 0, 1 - held / len(found), rival / len(found))
    return parted([one.labels for one in found], len(found[0].names)), np.asarray(doubt.clip(0, 1), np.float32)


MEASURES: Mapping[str, Callable[[Sequence[Segmentation]], Maps]] = MappingProxyType(
    {"labels": _of_labels, "posteriors": _of_posteriors}
)


def _named_by_others(found: Sequence[Segmentation]) -> Int16[np.ndarray, "height width"]:
    """The name that most other recipes give where the first gives none (-1: none, or labelled); ties to the smaller."""
    others = [one.labels for one in found[1:]]
    free = found[0].labels < 0
    named = np.full(free.shape, -1, np.int16)
    most = np.zeros(free.shape, np.int16)
    for one in others:
        votes = np.stack([one == other for other in others]).sum(axis=0, dtype=np.int16)
        better = free & (one >= 0) & ((votes > most) | ((votes == most) & (one < named)))
        named[better], most[better] = one[better], votes[better]
    return named


def _means(
    owners: Int[np.ndarray, "height width"], count: int, *maps: Shaped[np.ndarray, "height width"]
) -> Float32[np.ndarray, "n maps"]:
    """The mean of every map over the pixels of each of `count` owners (-1: nobody's)."""
    ids = owners.reshape(-1) + 1
    pixels = np.bincount(ids, minlength=count + 1)[1:]
    sums = [np.bincount(ids, one.reshape(-1), minlength=count + 1)[1:] for one in maps]
    return (np.stack(sums, axis=1) / np.maximum(pixels, 1)[:, None]).astype(np.float32)


__all__ = [
    "Chances",
    "DRAWINGS",
    "Disagreement",
    "LEAST_MISSING",
    "MEASURES",
    "Maps",
    "chance",
    "disagree",
    "fitted",
]
