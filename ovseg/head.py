"""From evidence to an answer: which name owns a pixel, which pixels make a region, what each region scores.

The order of the steps, over the names that presence has not struck (`evidence`: the others are nowhere):

1. `area`: over the arg-max of all pixels, a name that wins at most that share of the pixels that any name wins is out:
   its posterior counts as 0 everywhere from here on. (SCLIP, ITACLIP: wangf3014/SCLIP@b56bd30; their class 0 is our
   negatives, so a pixel that a negative wins belongs to no name's area.)
2. Thresholds: names below their own are struck, the next best wins; a negative that is likelier, or nobody left, gives
   -1. With one threshold for all this is the papers' rule that pixels whose best name is below it become background.
   So does a lead of the best posterior below `lead`, or an entropy above `entropy`: the place is left alone.
3. `vote`: the most frequent label of a segment becomes the label of all its pixels; -1 votes like any other, the
   smaller label wins a tie. (CorrCLIP's regions, zdk258/CorrCLIP@103bc18; CLIPtrase's clusters.)
4. `closing`: grey closing (dilation, then erosion) of the label map with -1 as the lowest label, as ITACLIP does with
   3 px (m-arda-aydn/ITACLIP@521a33c). Where labels meet, the later name wins: that is the published rule.
5. Regions, `min_area`, mean posteriors, all of the final labels.

Posteriors are made in bands and let go. While a band is labelled they are summed over its runs (equal labels side by
side), because which region a run belongs to is known only when the last pixel has its label. Where steps 3 and 4 change
labels, or there are more runs than `RUNS_BYTES` hold, a second walk makes them again. Bands run in threads. Neither
their number nor their size changes a bit of labels and confidence; means differ in the order of their sums (1e-6).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count
from threading import Lock
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Int32

from ovseg.evidence import Evidence
from ovseg.raster import doubtful, pick, runs_of, split

KEPT_BYTES = 32 << 20  # of posteriors that are asked more than once
PIECE_BYTES = 1 << 20  # of sums over runs that are joined to one piece
RUNS_BYTES = 128 << 20  # of sums over runs that wait for their regions
MOST_THREADS = 4  # each holds a band
REASONS = ("entropy", "margin", "threshold", "absent")  # why a place is unknown, the first that holds
ENTROPY, MARGIN, THRESHOLD, ABSENT = np.arange(len(REASONS), dtype=np.int16)

Found = TypeVar("Found")
Runs = tuple[Int[np.ndarray, " _runs"], Float32[np.ndarray, "names _runs"]]
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
    dense = _kept(evidence)
    labels, confidence, runs, out = _decided(evidence, dense, sums=True)
    owners, region_labels = split(labels, evidence.parts, evidence.names)
    keep = np.bincount(owners[owners >= 0], minlength=len(region_labels)) >= max(1, evidence.min_area)
    if not keep.all():
        renumber = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last entry serves index -1
        owners, region_labels = renumber[owners], region_labels[keep]
        labels = np.where(owners < 0, np.int16(-1), labels)
    sums = _summed(evidence, dense, owners) if runs is None else _let_go(runs)
    scores = _means(evidence, sums, owners, len(region_labels))
    scores[:, out] = 0
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


def pixels(evidence: Evidence) -> tuple[Int16[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Label (-1: none) and posterior of every pixel: `answer` without regions, so without `min_area` and means."""
    labels, confidence, _, _ = _decided(evidence, _kept(evidence), sums=False)
    return labels, confidence


def close(labels: Int16[np.ndarray, "height width"], side: int) -> Int16[np.ndarray, "height width"]:
    """Grey closing of the label map with a square of `side` pixels; nothing beyond the edges takes part.

    >>> close(np.array([[0, 0, 0], [0, -1, 0], [0, 0, 0]], np.int16), 3).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    """
    import cv2

    square = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    return np.asarray(cv2.morphologyEx(labels, cv2.MORPH_CLOSE, square), np.int16)


def _decided(
    evidence: Evidence, dense: Posteriors, sums: bool
) -> tuple[
    Int16[np.ndarray, "height width"],
    Float32[np.ndarray, "height width"],
    list[Runs] | None,
    Bool[np.ndarray, " names"],
]:
    """Labels and posteriors after area, thresholds, vote, closing; sums over runs if asked; the names that are out."""
    out = np.zeros(evidence.names, bool)
    if evidence.area > 0:
        free = replace(evidence, thresholds=np.zeros_like(evidence.thresholds), lead=0.0, entropy=1.0)
        wins, _, _ = _label(free, dense, out, sums=False)
        counts = np.bincount(wins[wins >= 0], minlength=evidence.names)
        out = counts <= evidence.area * counts.sum()
    moving = evidence.vote is not None or evidence.closing > 1
    labels, confidence, runs = _label(evidence, dense, out, sums=sums and not moving)
    if moving:
        picked = labels
        labels = labels if evidence.vote is None else vote(labels, evidence.vote)
        labels = labels if evidence.closing < 3 else close(labels, evidence.closing)
        confidence = _reread(evidence, dense, out, labels, labels != picked, confidence)
    return labels, confidence, runs, out


def _kept(evidence: Evidence) -> Posteriors:
    """The evidence's posteriors; remembered where they are asked more than once and one band of PAMR's, or small."""
    slots = evidence.names + int((evidence.owner < 0).sum())
    small = 4 * slots * evidence.height * evidence.width <= KEPT_BYTES
    again = evidence.area > 0 or evidence.vote is not None or evidence.closing > 1
    if not again or not (small or (evidence.refine != "none" and len(evidence.bands) == 1)):
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
    evidence: Evidence,
    dense: Posteriors,
    out: Bool[np.ndarray, " names"],
    sums: bool,
) -> tuple[Int16[np.ndarray, "height width"], Float32[np.ndarray, "height width"], list[Runs] | None]:
    """Label (-1: none) and posterior of every pixel, with the names that are `out` at posterior 0.

    With `sums`: also the posteriors summed over the runs of each band, unless they became too many.
    """
    shape = (evidence.height, evidence.width)
    labels, confidence = np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
    of_parts = _picked(evidence, _without(evidence.of_parts, out))
    room, skipped, lock = RUNS_BYTES if sums else 0, False, Lock()

    def walk(band: slice) -> Runs | None:
        nonlocal room, skipped
        covered = None if evidence.parts is None else evidence.parts[band] >= 0
        runs = None
        if evidence.uncovered == "dense" and (covered is None or not covered.all()):
            slots = dense(band)
            labels[band], confidence[band] = _picked(evidence, _without(slots, out))
            if room > 0:
                free = labels[band] if covered is None else np.where(covered, np.int16(-1), labels[band])
                runs = _run_sums(slots[: evidence.names], free, band)
                with lock:
                    room -= runs[1].nbytes
            else:
                skipped = True
        if covered is not None and evidence.parts is not None:
            parts = evidence.parts[band][covered]
            labels[band][covered], confidence[band][covered] = of_parts[0][parts], of_parts[1][parts]
        return runs

    found = [runs for runs in _each(evidence, walk) if runs is not None]
    return labels, confidence, found if sums and not skipped else None


def _picked(
    evidence: Evidence, slots: Float32[np.ndarray, "slots ..."]
) -> tuple[Int16[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
    """Label (-1: none) and posterior of each place: `pick`, and nothing where the best is in doubt."""
    label, won = pick(slots, evidence.thresholds)
    if evidence.lead > 0 or evidence.entropy < 1:
        close, wide = doubtful(slots, evidence.rivals, evidence.lead, evidence.entropy)
        lost = (close | wide) & (label >= 0)
        best = slots[: evidence.names].max(axis=0, initial=0)
        label, won = np.where(lost, np.int16(-1), label), np.where(lost, best, won)
    return label, won


def unknown(
    evidence: Evidence, labels: Int16[np.ndarray, "height width"]
) -> tuple[Int[np.ndarray, "height width"], Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """What was left alone, though no negative claims it: the unknown region of each pixel (-1: none), and of each
    region why (an index into `REASONS`) and the mean of its pixels' best posterior.

    A proposal is one region, elsewhere 8-connected pixels of one reason are; those below `min_area` are left out.
    `labels` are the answer's.
    """
    out = _decided(evidence, _kept(evidence), sums=False)[3] if evidence.area > 0 else np.zeros(evidence.names, bool)
    asked = replace(evidence, presence=None) if evidence.struck.any() else None
    codes, best = np.full(labels.shape, -1, np.int16), np.zeros(labels.shape, np.float32)

    def why(
        slots: Float32[np.ndarray, "slots ..."], every: Float32[np.ndarray, "slots ..."] | None
    ) -> tuple[Int16[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
        names = slots[: evidence.names].max(axis=0, initial=0)
        others = slots[evidence.names :].max(axis=0, initial=0)
        code = np.where((names > 0) & (names >= others), THRESHOLD, np.int16(-1))
        if asked is not None and every is not None:
            would, _ = _picked(asked, every)
            code[(would >= 0) & evidence.struck[would] & (code < 0)] = ABSENT
        close, wide = doubtful(slots, evidence.rivals, evidence.lead, evidence.entropy)
        code[close] = MARGIN
        code[wide] = ENTROPY
        code[_picked(evidence, slots)[0] >= 0] = -1
        return code, np.maximum(names, others)

    of_parts = why(_without(evidence.of_parts, out), None if asked is None else asked.of_parts)

    def walk(band: slice) -> None:
        if evidence.uncovered == "dense":
            every = None if asked is None else asked.dense(band)
            codes[band], best[band] = why(_without(evidence.dense(band), out), every)
        if evidence.parts is not None:
            covered = evidence.parts[band] >= 0
            parts = evidence.parts[band][covered]
            codes[band][covered], best[band][covered] = of_parts[0][parts], of_parts[1][parts]

    list(_each(evidence, walk))
    codes[labels >= 0] = -1
    owners, kinds = split(codes, evidence.parts, len(REASONS))
    sizes = np.bincount(owners[owners >= 0], minlength=len(kinds))
    keep = sizes >= max(1, evidence.min_area)
    sums = np.bincount(owners[owners >= 0], best[owners >= 0], minlength=len(kinds))
    means = np.asarray(sums[keep] / sizes[keep], np.float32)
    number = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last entry serves index -1
    return number[owners], kinds[keep], means


def _run_sums(names: Float32[np.ndarray, "names h width"], keys: Int[np.ndarray, "h width"], band: slice) -> Runs:
    """Flat first pixels of the runs of a band that have a key (not -1), and posteriors summed over each."""
    starts, _ = runs_of(keys)
    keyed = keys.reshape(-1)[starts] >= 0
    sums = np.add.reduceat(names.reshape(len(names), keys.size), starts, axis=1)
    if not keyed.all():
        starts, sums = starts[keyed], sums[:, keyed]
    return starts + band.start * keys.shape[1], sums


def _summed(evidence: Evidence, dense: Posteriors, owners: Int[np.ndarray, "height width"]) -> Iterator[Runs]:
    """Posteriors summed over the runs of each region's pixels that no proposal owns, made again band by band."""
    if evidence.uncovered == "none":
        return
    free = owners if evidence.parts is None else np.where(evidence.parts >= 0, -1, owners)

    def walk(band: slice) -> Runs | None:
        own = free[band]
        if (own < 0).all():
            return None
        starts, sums = _run_sums(dense(band)[: evidence.names], own, band)
        ids = free.reshape(-1)[starts]
        order = np.argsort(ids, kind="stable")  # to one run a region, so that few numbers wait for their turn
        heads = np.flatnonzero(np.diff(ids[order], prepend=-1))
        return starts[order][heads], np.add.reduceat(sums[:, order], heads, axis=1)

    for found in _each(evidence, walk):
        if found is not None:
            yield found


def _means(
    evidence: Evidence, runs: Iterable[Runs], owners: Int[np.ndarray, "height width"], count: int
) -> Float32[np.ndarray, "n names"]:
    """Mean posterior of every name over each region."""
    from scipy import sparse

    names, parts, flat = evidence.names, evidence.parts, owners.reshape(-1)
    sums, pixels = np.zeros((count, names)), np.bincount(flat[flat >= 0], minlength=count)
    for starts, found in _together(runs):
        ids = flat[starts]
        kept = np.flatnonzero(ids >= 0)  # a region that was too small has none
        here, place = np.unique(ids[kept], return_inverse=True)  # bands hold few of all regions
        of_region = sparse.csr_array((np.ones(len(kept)), (place, kept)), shape=(len(here), len(starts)))
        sums[here] += of_region @ found.T
    means: Float32[np.ndarray, "n names"] = (sums / np.maximum(pixels, 1)[:, None]).astype(np.float32)
    if parts is not None:  # all pixels of a proposal's region have the proposal's posteriors
        part = np.full(count, -1)
        covered = (parts >= 0) & (owners >= 0)
        part[owners[covered]] = parts[covered]
        means[part >= 0] = evidence.of_parts[:names].T[part[part >= 0]]
    return means


def _together(runs: Iterable[Runs]) -> Iterator[Runs]:
    """The same runs in fewer, longer pieces: a piece costs more than what is in it."""
    waiting: list[Runs] = []
    held = 0
    for one in runs:
        waiting.append(one)
        held += one[1].nbytes
        if held > PIECE_BYTES:
            yield _joined(waiting)
            waiting, held = [], 0
    if waiting:
        yield _joined(waiting)


def _let_go(runs: list[Runs]) -> Iterator[Runs]:
    """The runs of a list, which is empty in the end."""
    runs.reverse()
    while runs:
        yield runs.pop()


def _joined(runs: Sequence[Runs]) -> Runs:
    """Pieces as one."""
    return np.concatenate([starts for starts, _ in runs]), np.concatenate([sums for _, sums in runs], axis=1)


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


__all__ = [
    "ABSENT",
    "Answer",
    "ENTROPY",
    "KEPT_BYTES",
    "MARGIN",
    "MOST_THREADS",
    "PIECE_BYTES",
    "Posteriors",
    "REASONS",
    "RUNS_BYTES",
    "Runs",
    "THRESHOLD",
    "answer",
    "close",
    "pixels",
    "unknown",
    "vote",
]
