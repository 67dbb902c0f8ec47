"""Scores against the truth, from counts.

Label maps hold class numbers from 0; `ignore` in the truth (255, as in most data sets) counts nowhere. Panoptic answers
are those of `Segmentation.panoptic`: a map of segment ids, 0 void, and a record a segment.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from ovseg.errors import BadInput

Panoptic = tuple[Integer[np.ndarray, "_ _"], Sequence[Mapping[str, Any]]]  # ids, and {id, name, isthing, ...} each


def confusion(
    predicted: Integer[np.ndarray, "..."], truth: Integer[np.ndarray, "..."], classes: int, ignore: int = 255
) -> Int[np.ndarray, "classes columns"]:
    """Pixels by truth (rows) and prediction (columns); the last column counts what was left unlabelled (-1).

    Matrices of several pictures add up.

    >>> confusion(np.array([0, 1, 1, -1]), np.array([0, 0, 1, 1]), 2).tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    if predicted.shape != truth.shape:
        raise BadInput(f"prediction and truth must be of one picture: got {predicted.shape} and {truth.shape}")
    counted = truth != ignore
    here, there = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for what, values, low in (("truth", here, 0), ("prediction", there, -1)):
        if len(values) and not low <= values.min() <= values.max() < classes:
            raise BadInput(f"{what} must hold classes {low}..{classes - 1}: got {values.min()}..{values.max()}")
    there[there < 0] = classes
    counts = np.bincount(here * (classes + 1) + there, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def iou(counts: Int[np.ndarray, "classes columns"]) -> Float[np.ndarray, " classes"]:
    """Intersection over union of each class, in [0, 1], from a confusion matrix; NaN for one that occurs nowhere.

    >>> iou(confusion(np.array([0, 1, 1, -1]), np.array([0, 0, 1, 1]), 3)).tolist()
    [0.5, 0.3333333333333333, nan]
    """
    classes = len(counts)
    shared = counts[np.arange(classes), np.arange(classes)]
    union = counts.sum(axis=1) + counts[:, :classes].sum(axis=0) - shared
    return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


def ece(sure: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 15) -> float:
    """Expected calibration error: how far posteriors lie from the share that is right, over bins of equal mass.

    NaN of nothing. (Guo et al. 2017; equal mass as Nixon et al. 2019.)

    >>> ece(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, True, False, True]), bins=2)
    0.25
    """
    if len(sure) != len(right):
        raise BadInput(f"every posterior is right or wrong: {len(sure)} posteriors, {len(right)} answers")
    if not len(sure):
        return float("nan")
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(float(sure[part].mean(dtype=float)) - float(right[part].mean())) for part in parts]
    return float(sum(gaps) / len(sure))


def auroc(scores: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC: how often what is true scores higher than what is not (ties half); NaN if either is missing.

    >>> auroc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    if truth.all() or not truth.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def miou(counts: Int[np.ndarray, "classes columns"]) -> float:
    """Mean intersection over union of the classes that occur in truth or prediction; NaN if none does."""
    each = iou(counts)
    each = each[~np.isnan(each)]
    return float(each.mean()) if len(each) else float("nan")


class Quality(NamedTuple):
    """Panoptic quality and its factors, in [0, 1]: how well matched segments fit, how many are matched.

    `pq` is `sq` times `rq` for one class alone, not for means over `classes` of them. NaN where no class occurs.
    """

    pq: float
    sq: float
    rq: float
    classes: int


class Tally(NamedTuple):
    """Of one class: matched segments and the sum of their IoUs, answers without truth, truths without answer."""

    iou: float = 0.0
    matched: int = 0
    spurious: int = 0
    missed: int = 0


@dataclass(frozen=True)
class PanopticQuality:
    """Tallies of every class that occurs in a truth or in an answer; those of several pictures add up.

    >>> none = PanopticQuality()
    >>> one = PanopticQuality({"cat": Tally(0.8, 1, 1, 0)}, frozenset({"cat"}))
    >>> (none + one + one)["cat"]
    Quality(pq=0.5333..., sq=0.8, rq=0.6666..., classes=1)
    """

    tallies: Mapping[str, Tally] = field(default_factory=lambda: MappingProxyType({}))
    thing_names: frozenset[str] = frozenset()

    @property
    def all(self) -> Quality:
        """The mean over classes that occur, as COCO's own program takes it."""
        return self.of(self.tallies)

    @property
    def things(self) -> Quality:
        """The mean over the things that occur."""
        return self.of(self.thing_names)

    @property
    def stuff(self) -> Quality:
        """The mean over the stuff that occurs."""
        return self.of(set(self.tallies) - self.thing_names)

    @property
    def pooled(self) -> Quality:
        """All segments as if of one class (matched within their own all the same): steadier where classes are many."""
        return _quality(_sum(self.tallies.values()))

    def of(self, names: Iterable[str]) -> Quality:
        """The mean over those of the names that occur."""
        each = [self[name] for name in sorted(set(names)) if name in self.tallies]
        if not each:
            return Quality(math.nan, math.nan, math.nan, 0)
        pq, sq, rq, _ = np.mean(each, axis=0).tolist()
        return Quality(pq, sq, rq, len(each))

    def __getitem__(self, name: str) -> Quality:
        return _quality(self.tallies.get(name, Tally()))

    def __add__(self, other: "PanopticQuality") -> "PanopticQuality":
        added = dict(self.tallies)
        for name, tally in other.tallies.items():
            if name in added and (name in self.thing_names) != (name in other.thing_names):
                raise BadInput(f"{name!r} must be a thing in every picture or in none: it is one in some alone")
            added[name] = _sum((added.get(name, Tally()), tally))
        return PanopticQuality(added, self.thing_names | other.thing_names)


def panoptic_quality(predicted: Panoptic, truth: Panoptic) -> PanopticQuality:
    """The tallies of one picture, by COCO's rules (Kirillov et al. 2019, arXiv:1801.00868; cocodataset/panopticapi).

    Segments match where their names are equal and their IoU is above 0.5; pixels that are void in the truth (id 0) do
    not count to an answer's area. Truth with `iscrowd` is nobody's miss. An answer without match is no mistake where
    more than half of it lies on void and on crowd of its name. (With several crowds of one name panopticapi looks at
    the last; here all count.)

    >>> ids = np.array([[1, 1, 2]])
    >>> cat, dog = {"id": 1, "name": "cat", "isthing": True}, {"id": 2, "name": "dog", "isthing": True}
    >>> panoptic_quality((ids, [cat, dog]), (ids, [cat, {**dog, "name": "sheep"}])).all
    Quality(pq=0.333..., sq=0.333..., rq=0.333..., classes=3)
    """
    (said, answers), (here, truths) = predicted, truth
    if said.shape != here.shape:
        raise BadInput(f"prediction and truth must be of one picture: got {said.shape} and {here.shape}")
    rows, cols = len(truths) + 1, len(answers) + 1
    pairs = _places(here, truths, "truth") * cols + _places(said, answers, "prediction")
    shared = np.bincount(pairs.reshape(-1), minlength=rows * cols).reshape(rows, cols)
    areas, sizes, void, shared = shared[1:].sum(axis=1), shared[:, 1:].sum(axis=0), shared[0, 1:], shared[1:, 1:]
    of_truths, of_answers = _names(truths), _names(answers)
    same = of_truths[:, None] == of_answers[None]
    crowd = np.array([bool(one.get("iscrowd", False)) for one in truths], bool)
    fits = np.where(same & ~crowd[:, None], shared / (areas[:, None] + (sizes - void)[None] - shared), 0)
    matched = fits > 0.5  # at most one a row and a column, since segments do not overlap
    excused = void + np.where(same & crowd[:, None], shared, 0).sum(axis=0)
    spurious = ~matched.any(axis=0) & (excused <= 0.5 * sizes)
    missed = ~matched.any(axis=1) & ~crowd
    kinds = {str(one["name"]): bool(one["isthing"]) for one in (*truths, *answers)}
    tallies = {}
    for name in sorted(kinds):
        own, given = of_truths == name, of_answers == name
        tally = Tally(
            float(fits[own][matched[own]].sum()),
            int(matched[own].sum()),
            int(spurious[given].sum()),
            int(missed[own].sum()),
        )
        if any(tally):
            tallies[name] = tally
    for one in (*truths, *answers):
        if bool(one["isthing"]) != kinds[str(one["name"])]:
            raise BadInput(f"{one['name']!r} must be a thing or stuff, in truth and prediction alike: it is both")
    return PanopticQuality(tallies, frozenset(name for name in tallies if kinds[name]))


def _sum(tallies: Iterable[Tally]) -> Tally:
    iou, matched, spurious, missed = (sum(column) for column in zip(Tally(), *tallies, strict=True))
    return Tally(float(iou), int(matched), int(spurious), int(missed))


def _quality(tally: Tally) -> Quality:
    """The numbers of one class."""
    iou, matched, spurious, missed = tally
    if not matched + spurious + missed:
        return Quality(math.nan, math.nan, math.nan, 0)
    whole = matched + (spurious + missed) / 2
    return Quality(iou / whole, iou / matched if matched else 0.0, matched / whole, 1)


def _places(
    ids: Integer[np.ndarray, "height width"], segments: Sequence[Mapping[str, Any]], what: str
) -> Int[np.ndarray, "height width"]:
    """Each pixel's segment by its place in the list, from 1; 0 for void."""
    listed = np.array([0, *(int(one["id"]) for one in segments)], np.int64)
    found, place = np.unique(ids, return_inverse=True)
    if len(set(listed.tolist())) < len(listed):
        raise BadInput(f"ids of {what} must differ and not be 0: got {listed[1:].tolist()}")
    alone = set(found.tolist()) ^ set(listed.tolist()) - {0}
    if alone - {0}:
        raise BadInput(f"the map and the list of {what} must hold the same ids: {sorted(alone - {0})} are in one alone")
    order = np.argsort(listed)
    return order[np.searchsorted(listed, found, sorter=order)][place.reshape(ids.shape)]


def _names(segments: Sequence[Mapping[str, Any]]) -> Shaped[np.ndarray, " n"]:
    """The name of each segment, compared as a whole."""
    return np.array([str(one["name"]) for one in segments], object)


__all__ = [
    "Panoptic",
    "PanopticQuality",
    "Quality",
    "Tally",
    "auroc",
    "confusion",
    "ece",
    "iou",
    "miou",
    "panoptic_quality",
]
