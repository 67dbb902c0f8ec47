"""Numbers of a recipe from a person's own pictures: when a name counts as present, how sure is sure, where to cut.

Without labels, only what words alone can tell: the cut of the odds at which everyday nouns, which nobody asked for and
most of which are not there, pass at a rate of alpha over these pictures (`presence`). One cut for all pictures
separates better than each picture's own quantile, which things that are there shift. The temperature cannot be found
without labels: nothing in unlabelled pictures says how often a posterior is right, so it stays.

With label maps besides: the scale (inverse temperature) by likelihood of the labels, then the least threshold from
which labels are right at the precision asked. Everything is fitted on one half of the pictures and reported on the
other; which half a picture is in hangs on its content alone. The order: cut, scale, threshold; the odds do not depend
on the scale.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Integer

from ovseg import metrics
from ovseg.errors import BadInput, BadUsage
from ovseg.evidence import Evidence, heard
from ovseg.presence import presence
from ovseg.raster import posterior, upsample
from ovseg.recipe import Recipe
from ovseg.types import Segmentation, Vocabulary

NONE, UNCOUNTED = -1, -2  # in label maps: none of the names; nobody knows
SIDE = 64  # pixels that are looked at along the longer side of a picture
WIDEST = 8.0  # the scale is sought between an eighth and eight times the recipe's
FEWEST = 50  # pixels that a threshold rests on
KEPT_BYTES = 1 << 30  # of labelled pictures whose encodings wait until they are asked


@dataclass(frozen=True)
class Calibration:
    """A recipe with its numbers fitted, and what they do on pictures that they were not fitted on.

    `pictures` are digests of the pictures' pixels. `before` and `after` hold "noun_rate" (share of everyday nouns that
    pass as present), and with labels "ece" (expected calibration error, 15 bins of equal mass), "precision" and
    "recall" of labelled pixels; NaN where nothing was labelled. Open it with `Pipeline.open(calibration.recipe)`.
    """

    recipe: Recipe
    names: tuple[str, ...]
    pictures: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON; a figure that is not there is null."""
        figures = {what: {k: _number(v) for k, v in getattr(self, what).items()} for what in ("before", "after")}
        rest = {"names": self.names, "pictures": self.pictures, "notes": self.notes}
        return json.dumps({"recipe": self.recipe.to_dict(), **rest, **figures})

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """The calibration that `to_json` wrote."""
        try:
            values = json.loads(text)
            names, pictures, notes = (tuple(values[what]) for what in ("names", "pictures", "notes"))
            before, after = (
                {figure: math.nan if value is None else float(value) for figure, value in values[what].items()}
                for what in ("before", "after")
            )
            recipe = values["recipe"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise BadUsage(f"a calibration is the JSON that to_json wrote: {error}") from None
        return cls(Recipe.from_dict(recipe), names, pictures, before, after, notes)


@dataclass(frozen=True, eq=False)
class Sample:
    """Some pixels of a picture: scaled cosines of the rows that decide there, and what they are in truth."""

    rows: Float32[np.ndarray, "pixels rows"]
    truth: Int[np.ndarray, " pixels"]
    owner: Int[np.ndarray, " rows"]
    names: Int[np.ndarray, " names"]  # which names the owners stand for: those that were not struck
    probability: str

    def slots(self, factor: float = 1.0) -> Float32[np.ndarray, "slots pixels"]:
        """Posteriors with the scale times `factor`."""
        rows = np.ascontiguousarray(self.rows.T * np.float32(factor))
        return posterior(rows, self.owner, len(self.names), self.probability)


def calibrate(
    pipe: Any,
    pictures: Sequence[Any],
    names: Any,
    labels: Sequence[Integer[np.ndarray, "_ _"]] | None = None,
    *,
    alpha: float | None = None,
    precision: float = 0.9,
) -> Calibration:
    """The pipeline's recipe, fitted to pictures like these and to these names.

    `labels` are maps of the pictures' sizes: the name's index, -1 for none of them, -2 where nobody knows. `alpha` is
    the rate at which absent names may pass (the recipe's own unless given).
    """
    if len(pictures) < 2:
        raise BadUsage(
            f"calibrating takes two pictures or more, one half to fit and one to report: got {len(pictures)}"
        )
    if labels is not None and len(labels) != len(pictures):
        raise BadInput(f"every picture needs its label map: {len(pictures)} pictures, {len(labels)} maps")
    if not 0 < precision <= 1:
        raise BadUsage(f"precision is a share of labelled pixels in (0, 1]: got {precision}")
    rate = float(pipe.recipe.alpha if alpha is None else alpha)
    if not 0 < rate < 1:
        raise BadUsage(f"alpha is the share of absent names that may pass, between 0 and 1: got {rate}")
    vocabulary: Vocabulary = pipe.vocabulary(names, absent="presence")
    crowd = vocabulary.crowd
    if crowd is None:
        raise BadUsage("calibrating needs names in words: this vocabulary brings no crowd to hold them against")
    digests: list[str] = []
    null: list[Float32[np.ndarray, " nouns"]] = []
    kept: dict[int, Any] = {}  # where they are asked again; the rest of a large folder is encoded a second time
    room = KEPT_BYTES
    for number, picture in enumerate(pictures):
        encoding = pipe.encode(picture)
        if labels is not None:
            height, width = encoding.image.shape[:2]
            _check_map(labels[number], height, width, len(vocabulary), f"label map {number}")
            room -= encoding.image.nbytes
            if room >= 0:
                kept[number] = encoding
        digests.append(digest_of(encoding.image))
        seen = presence(encoding.features.vectors, crowd.asked, crowd.owner, len(vocabulary), crowd)
        null.append(seen.null)
    del encoding
    fit, rest = halves(digests)
    cut = cut_of(np.concatenate([null[i] for i in fit]), rate)
    fitted: Recipe = pipe.recipe.replace(absent="presence", alpha=rate, presence_cut=cut)
    held = np.concatenate([null[i] for i in rest])
    own = pipe.recipe.presence_cut
    gated = pipe.recipe.absent == "presence"
    first = 1.0 if not gated else float(pipe.recipe.alpha) if own is None else float((held >= own).mean())
    before, after = {"noun_rate": first}, {"noun_rate": float((held >= cut).mean())}
    notes: list[str] = []
    if labels is not None:
        maps = labels

        def ask(numbers: Sequence[int], recipe: Recipe) -> list[Sample]:
            asked = {what: getattr(recipe, what) for what in ("absent", "alpha", "presence_cut", "scale")}
            found: list[Sample] = []
            for number in numbers:
                one = kept[number] if number in kept else pictures[number]
                answer: Segmentation = pipe.segment(one, vocabulary, threshold=0.0, **asked)
                assert answer.evidence is not None, "an answer that was just made keeps its evidence"
                found.append(sample(answer.evidence, maps[number]))
            return found

        known = ask(fit, fitted)
        factor = factor_of(known)
        threshold, told = threshold_of(known, factor, precision)
        fitted = fitted.replace(scale=float(pipe.recipe.scale) * factor)
        if threshold is not None:
            fitted = fitted.replace(threshold=threshold)
        notes += [told] if told else []
        # asked anew: stages, votes of cells and who owns a pixel may hang on the scale in their own ways
        for told_of, recipe in ((before, pipe.recipe), (after, fitted)):
            told_of |= figures(ask(rest, recipe), 1.0, recipe.threshold)
    return Calibration(fitted, vocabulary.names, tuple(digests), before, after, tuple(notes))


def cut_of(null: Float[np.ndarray, " nouns"], alpha: float) -> float:
    """The odds that a share of `alpha` of the nouns reaches.

    >>> cut_of(np.arange(100.0), 0.05)
    95.0
    """
    if not len(null):
        raise BadInput("a cut needs the odds of some nouns: got none")
    reach = max(1, math.floor(alpha * len(null)))
    return float(np.partition(null, len(null) - reach)[len(null) - reach])


def digest_of(picture: Integer[np.ndarray, "_ _ 3"]) -> str:
    """Sixteen hex digits of a picture's pixels and shape."""
    head = f"{picture.shape} {picture.dtype}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(picture).tobytes()).hexdigest()[:16]


def halves(digests: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which pictures are fitted on and which reported on: every second by digest, so that no order of files matters.

    The same picture twice is in one half.

    >>> halves(["b", "a", "c", "a"])
    ([1, 2, 3], [0])
    """
    place = {digest: number for number, digest in enumerate(sorted(set(digests)))}
    if len(place) < 2:
        raise BadUsage("calibrating takes two different pictures or more, one half to fit and one to report")
    sides: tuple[list[int], list[int]] = ([], [])
    for number, digest in enumerate(digests):
        sides[place[digest] % 2].append(number)
    return sides


def sample(evidence: Evidence, truth: Integer[np.ndarray, "_ _"]) -> Sample:
    """Pixels on a lattice of at most `SIDE` along the longer side, with the rows that decide there.

    Proposals decide where they own a pixel. Stages are in the rows; PAMR, votes and closing are not looked at.
    """
    _check_map(truth, evidence.height, evidence.width, evidence.names)
    step = max(1, math.ceil(max(truth.shape) / SIDE))
    ys, xs = np.arange(step // 2, evidence.height, step), np.arange(step // 2, evidence.width, step)
    kept, owner, _ = heard(evidence.owner, evidence.struck)
    rows = np.empty((len(ys), len(xs), len(kept)), np.float32)
    for line, y in enumerate(ys.tolist()):
        rows[line] = upsample(evidence.rows[kept], evidence.height, evidence.width, slice(y, y + 1))[:, 0, xs].T
    counted = np.ones((len(ys), len(xs)), bool)
    if evidence.parts is not None and evidence.part_rows is not None:
        parts = evidence.parts[np.ix_(ys, xs)]
        rows[parts >= 0] = evidence.part_rows[:, kept][parts[parts >= 0]]
        counted = (parts >= 0) | (evidence.uncovered == "dense")
    what = truth[np.ix_(ys, xs)].astype(np.int64)
    counted &= what != UNCOUNTED
    alive = np.flatnonzero(~evidence.struck)
    return Sample(rows[counted], what[counted], owner, alive, evidence.probability)


def _check_map(
    truth: Integer[np.ndarray, "_ _"], height: int, width: int, names: int, what: str = "a label map"
) -> None:
    """An error unless a label map is of its picture's size and of these names."""
    if truth.shape != (height, width):
        raise BadInput(
            f"{what} must match its picture: it is {truth.shape[0]}x{truth.shape[1]}, the picture "
            f"{height}x{width} (rows x cols). Swapped axes?"
        )
    low, high = int(truth.min(initial=0)), int(truth.max(initial=0))
    if low < UNCOUNTED or high >= names:
        raise BadInput(f"{what} holds -2, -1 and names 0..{names - 1}: got {low}..{high}")


def factor_of(samples: Sequence[Sample]) -> float:
    """What the scale must be multiplied by for the labels to be likeliest; 1 where no label can tell.

    A pixel of a name that was judged absent cannot, nor can one of none of the names where no negative was asked.
    """
    from scipy.optimize import minimize_scalar

    def loss(log: float) -> float:
        total, count = 0.0, 0
        for one in samples:
            right = chance(one, float(math.exp(log)))
            told = ~np.isnan(right)
            total -= float(np.log(np.maximum(right[told], 1e-12)).sum())
            count += int(told.sum())
        return total / max(1, count)

    if not any((~np.isnan(chance(one))).any() for one in samples):
        return 1.0
    edge = math.log(WIDEST)
    found = minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-3})
    return float(math.exp(found.x))


def chance(one: Sample, factor: float = 1.0) -> Float[np.ndarray, " pixels"]:
    """The posterior of each pixel's truth (that of all negatives together for none); NaN where it cannot be had."""
    slots, count = one.slots(factor), len(one.names)
    out = np.full(len(one.truth), np.nan)
    if len(slots) > count:
        out[one.truth == NONE] = slots[count:, one.truth == NONE].sum(axis=0)
    for slot, name in enumerate(one.names):
        out[one.truth == name] = slots[slot, one.truth == name]
    return out


def claims(one: Sample, factor: float = 1.0) -> tuple[Float32[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The posterior of every pixel that a name wins, and whether the name is right."""
    slots, count = one.slots(factor), len(one.names)
    if not count:
        return np.zeros(0, np.float32), np.zeros(0, bool)
    best = slots[:count].max(axis=0)
    won = best >= slots[count:].max(axis=0, initial=0)
    label = one.names[slots[:count].argmax(axis=0)]
    return best[won], (label == one.truth)[won]


def threshold_of(samples: Sequence[Sample], factor: float, precision: float) -> tuple[float | None, str]:
    """The least threshold from which labels are right at least at this precision, and what to tell where none is."""
    sure, right = _together(samples, factor)
    order = np.argsort(-sure, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(np.diff(sure[order]) < 0, True)[: len(order)]  # equal posteriors go together
    fine = np.flatnonzero((share >= precision) & last & (np.arange(1, len(order) + 1) >= FEWEST))
    if not len(fine):
        return None, (
            f"no threshold reaches a precision of {precision:g} on at least {FEWEST} of the pixels looked at: the "
            "recipe's own stays"
        )
    return float(sure[order][fine[-1]]), ""


def figures(samples: Sequence[Sample], factor: float, threshold: float) -> dict[str, float]:
    """Calibration error of what names win, and precision and recall of what is labelled at a threshold."""
    sure, right = _together(samples, factor)
    kept = sure >= np.float32(threshold)
    named = sum(int((one.truth >= 0).sum()) for one in samples)
    return {
        "ece": metrics.ece(sure, right),
        "precision": float(right[kept].mean()) if kept.any() else math.nan,
        "recall": float(right[kept].sum() / named) if named else math.nan,
    }


def _together(samples: Sequence[Sample], factor: float) -> tuple[Float32[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The claims of several pictures."""
    pairs = [claims(one, factor) for one in samples]
    sure = np.concatenate([np.zeros(0, np.float32), *(found for found, _ in pairs)])
    return sure, np.concatenate([np.zeros(0, bool), *(right for _, right in pairs)])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


__all__ = [
    "Calibration",
    "FEWEST",
    "KEPT_BYTES",
    "NONE",
    "SIDE",
    "Sample",
    "UNCOUNTED",
    "WIDEST",
    "calibrate",
    "chance",
    "claims",
    "cut_of",
    "digest_of",
    "factor_of",
    "figures",
    "halves",
    "sample",
    "threshold_of",
]
