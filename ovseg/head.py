"""From evidence to an answer: which name owns a pixel, which pixels make a region, what each region scores.

The order of the steps:

1. `area`: over the arg-max of all pixels, a name that wins at most that share of the pixels that any name wins is out:
   its posterior counts as 0 everywhere from here on. (SCLIP, ITACLIP: wangf3014/SCLIP@b56bd30; their class 0 is our
   negatives, so a pixel that a negative wins belongs to no name's area.)
2. Thresholds: names below their own are struck, the next best wins; a negative that is likelier, or nobody left, gives
   -1. With one threshold for all this is the papers' rule that pixels whose best name is below it become background.
3. `vote`: the most frequent label of a segment becomes the label of all its pixels; -1 votes like any other, the
   smaller label wins a tie. (CorrCLIP's regions, zdk258/CorrCLIP@103bc18; CLIPtrase's clusters.)
4. `closing`: grey closing (dilation, then erosion) of the label map with -1 as the lowest label, as ITACLIP does with
   3 px (m-arda-aydn/ITACLIP@521a33c). Where labels meet, the later name wins: that is the published rule.
5. Regions, `min_area`, mean posteriors, all of the final labels.

Posteriors are made in bands and let go, twice: once to label, once for the means of the regions, which are known only
when the last pixel has its label. Where they are small (`KEPT_BYTES`) they are kept instead. Bands run in threads, and
neither their number nor their size changes a bit of the labels; sums of the means differ in their order (1e-6).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Int32

from ovseg.evidence import Evidence
from ovseg.raster import pick, split

KEPT_BYTES = 32 << 20  # of posteriors kept between the two walks
MOST_THREADS = 4  # each holds a band

Found = TypeVar("Found")
Posteriors = Callable[[slice], Float32[np.ndarray, "slots h width"]]


@dataclass(frozen=True, eq=False)
class Answer:
    """What `Segmentation` is made of: the label, posterior and region of each pixel (-1: none), and of each region its
    label and the mean posterior of every name."""

    labels: Int16[np.ndarray, "height width"]
    confidence: Float32[np.ndarray, "height width"]
    owners: Int[np.ndarray, "height width"]
    region_labels: Int[np.ndarray, " n"]
    scores: Float32[np.ndarray, "n names"]


def answer(evidence: Evidence) -> Answer:
    """The evidence decided at its thresholds, in the order that stands above."""
    dense, out = _kept(evidence), np.zeros(evidence.names, bool)
    if evidence.area > 0:
        wins, _ = _label(evidence, dense, np.zeros_like(evidence.thresholds), out)
        pixels = np.bincount(wins[wins >= 0], minlength=evidence.names)
        out = pixels <= evidence.area * pixels.sum()
    picked, confidence = _label(evidence, dense, evidence.thresholds, out)
    labels = picked
    if evidence.vote is not None:
        labels = vote(labels, evidence.vote)
    if evidence.closing > 1:
        labels = close(labels, evidence.closing)
    if labels is not picked:
        confidence = _reread(evidence, dense, out, labels, labels != picked, confidence)
    owners, region_labels = split(labels, evidence.parts, evidence.names)
    keep = np.bincount(owners[owners >= 0], minlength=len(region_labels)) >= max(1, evidence.min_area)
    if not keep.all():
        renumber = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last entry serves index -1
        owners, region_labels = renumber[owners], region_labels[keep]
        labels = np.where(owners < 0, np.int16(-1), labels)
    scores = _means(evidence, dense, out, owners, len(region_labels))
    return Answer(labels, confidence, owners, region_labels, scores)


def vote(
    labels: Int16[np.ndarray, "height width"], segments: Int32[np.ndarray, "height width"]
) -> Int16[np.ndarray, "height width"]:
    """Each segment's most frequent label in all of its pixels (-1 counts; ties to the smaller); others as they were.

    >>> vote(np.array([[0, 0, 1, -1, 1]], np.int16), np.array([[5, 5, 5, -1, -1]], np.int32)).tolist()
    [[0, 0, 0, -1, 1]]
    """
    inside = segments >= 0
    ids, ballots = segments[inside], labels[inside]
    count = int(ids.max(initial=-1)) + 1
    most, winner = np.zeros(count, np.int64), np.full(count, -1, np.int16)
    for label in np.flatnonzero(np.bincount(ballots + 1)) - 1:
        votes = np.bincount(ids[ballots == label], minlength=count)
        better = votes > most
        most[better], winner[better] = votes[better], label
    voted = labels.copy()
    voted[inside] = winner[ids]
    return voted


def close(labels: Int16[np.ndarray, "height width"], side: int) -> Int16[np.ndarray, "height width"]:
    """Grey closing of the label map with a square of `side` pixels; nothing beyond the edges takes part.

    >>> close(np.array([[0, 0, 0], [0, -1, 0], [0, 0, 0]], np.int16), 3).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    """
    import cv2

    square = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    return np.asarray(cv2.morphologyEx(labels, cv2.MORPH_CLOSE, square), np.int16)


def _kept(evidence: Evidence) -> Posteriors:
    """The evidence's posteriors, remembered where all of them are small, or where they are one band of PAMR's."""
    bands = evidence.bands
    slots = evidence.names + int((evidence.owner < 0).sum())
    small = 4 * slots * evidence.height * evidence.width <= KEPT_BYTES
    if not small and (evidence.refine == "none" or len(bands) > 1):
        return evidence.dense
    kept: dict[int, Float32[np.ndarray, "slots h width"]] = {}

    def remembered(band: slice) -> Float32[np.ndarray, "slots h width"]:
        if band.start not in kept:
            kept[band.start] = evidence.dense(band)
        return kept[band.start]

    return remembered


def _each(evidence: Evidence, walk: Callable[[slice], Found]) -> Iterator[Found]:
    """What a walk finds in each band, in reading order, several bands at a time; PAMR has one in hand and threads of
    its own."""
    threads = 1 if evidence.refine != "none" else min(cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(walk, evidence.bands)


def _label(
    evidence: Evidence, dense: Posteriors, thresholds: Float32[np.ndarray, " names"], out: Bool[np.ndarray, " names"]
) -> tuple[Int16[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Label (-1: none) and posterior of every pixel, with the names that are `out` at posterior 0."""
    shape = (evidence.height, evidence.width)
    labels, confidence = np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
    of_parts = pick(_without(evidence.of_parts, out), thresholds)

    def walk(band: slice) -> None:
        covered = None if evidence.parts is None else evidence.parts[band] >= 0
        if evidence.uncovered == "dense" and (covered is None or not covered.all()):
            labels[band], confidence[band] = pick(_without(dense(band), out), thresholds)
        if covered is not None and evidence.parts is not None:
            parts = evidence.parts[band][covered]
            labels[band][covered], confidence[band][covered] = of_parts[0][parts], of_parts[1][parts]

    list(_each(evidence, walk))
    return labels, confidence


def _means(
    evidence: Evidence,
    dense: Posteriors,
    out: Bool[np.ndarray, " names"],
    owners: Int[np.ndarray, "height width"],
    count: int,
) -> Float32[np.ndarray, "n names"]:
    """Mean posterior of every name over each region."""
    names, parts = evidence.names, evidence.parts
    sums = np.zeros((count, names))
    free = owners if parts is None else np.where(parts >= 0, -1, owners)
    pixels = np.bincount(free[free >= 0], minlength=count)

    def walk(band: slice) -> tuple[Int[np.ndarray, " some"], Float32[np.ndarray, "names some"]] | None:
        flat = free[band].reshape(-1)
        if evidence.uncovered == "none" or (flat < 0).all():
            return None
        starts = np.flatnonzero(np.diff(flat, prepend=-2))
        ids = flat[starts]
        order = np.argsort(ids, kind="stable")[np.count_nonzero(ids < 0) :]
        runs = np.add.reduceat(dense(band)[:names].reshape(names, -1), starts, axis=1)[:, order]
        heads = np.flatnonzero(np.diff(ids[order], prepend=-2))
        return ids[order][heads], np.add.reduceat(runs, heads, axis=1)

    for found in _each(evidence, walk):
        if found is not None:
            sums[found[0]] += found[1].T
    means: Float32[np.ndarray, "n names"] = (sums / np.maximum(pixels, 1)[:, None]).astype(np.float32)
    if parts is not None:  # all pixels of a proposal's region have the proposal's posteriors
        of_region = np.full(count, -1)
        covered = (parts >= 0) & (owners >= 0)
        of_region[owners[covered]] = parts[covered]
        means[of_region >= 0] = evidence.of_parts[:names].T[of_region[of_region >= 0]]
    means[:, out] = 0
    return means


def _reread(
    evidence: Evidence,
    dense: Posteriors,
    out: Bool[np.ndarray, " names"],
    labels: Int16[np.ndarray, "height width"],
    changed: Bool[np.ndarray, "height width"],
    confidence: Float32[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """The confidence with the posterior of the new label where neighbours changed a pixel's label (-1: the best)."""
    again = confidence.copy()
    of_parts = _without(evidence.of_parts, out)[: evidence.names]

    def walk(band: slice) -> None:
        moved = changed[band]
        if not moved.any():
            return
        if evidence.uncovered == "dense":
            names = _without(dense(band), out)[: evidence.names]
            again[band][moved] = _of_label(names[:, moved], labels[band][moved])
        if evidence.parts is not None:
            inside = moved & (evidence.parts[band] >= 0)
            again[band][inside] = _of_label(of_parts[:, evidence.parts[band][inside]], labels[band][inside])

    list(_each(evidence, walk))
    return again


def _of_label(
    names: Float32[np.ndarray, "names some"], labels: Int16[np.ndarray, " some"]
) -> Float32[np.ndarray, " some"]:
    """The posterior of a label in each place; the best there is for -1."""
    chosen = names[labels, np.arange(len(labels))]
    return np.asarray(np.where(labels < 0, names.max(axis=0), chosen), np.float32)


def _without(
    slots: Float32[np.ndarray, "slots ..."], out: Bool[np.ndarray, " names"]
) -> Float32[np.ndarray, "slots ..."]:
    """Posteriors with those of some names at 0."""
    if not out.any():
        return slots
    slots = slots.copy()
    slots[: len(out)][out] = 0
    return slots


__all__ = ["Answer", "KEPT_BYTES", "MOST_THREADS", "Posteriors", "answer", "close", "vote"]
