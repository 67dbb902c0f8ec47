"""How far several answers to one question lie apart, pixel by pixel: 0 where all are alike, 1 where none could be.

The measure is the generalised Jensen-Shannon divergence (Lin 1991, doi:10.1109/18.61115) of the posteriors,
H(mean) - mean(H), in shares of the most that so many answers can reach. Why this one: it looks at whole posteriors, so
that two answers which are alike unsure do not disagree (the entropy of their mean would say so); it needs no answer to
be the reference, takes any number of them and bounds them; and of answers that are certain it is the entropy of their
votes, so that labels alone, where posteriors are gone, are measured by the same rule (`parted`).

All negatives count as one answer, "none of the names", since recipes may ask different ones.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Int

from ovseg.evidence import Evidence

Answers = list[Float32[np.ndarray, "answers h width"]]

TINY = np.finfo(np.float32).tiny  # in place of 0 under a logarithm, whose factor is 0 then


def divergence(several: Sequence[Float32[np.ndarray, "answers ..."]]) -> Float32[np.ndarray, "..."]:
    """Divergence in [0, 1] of several posteriors in every place; exactly 0 where they are equal.

    >>> sure, other = np.array([[1.0], [0.0]], np.float32), np.array([[0.0], [1.0]], np.float32)
    >>> [float(divergence([sure, one])[0]) for one in (sure, other)]
    [0.0, 1.0]
    """
    limit = furthest(len(several), len(several[0]))
    total = np.zeros(several[0].shape[1:])
    if limit:
        mean = np.stack(several).mean(axis=0, dtype=np.float64).astype(np.float32)  # exact where all are equal
        mean = np.maximum(mean, TINY)
        for one in several:
            total += (one * np.log(np.maximum(one, TINY) / mean)).sum(axis=0, dtype=np.float64)
        total /= limit * len(several)
    return np.asarray(total.clip(0, 1), np.float32)


def parted(several: Sequence[Int[np.ndarray, "..."]], names: int) -> Float32[np.ndarray, "..."]:
    """Divergence in [0, 1] of several labels in every place (-1: none of the names), each held for certain.

    >>> one, other = np.array([0, 1, 2]), np.array([0, 1, -1])
    >>> parted([one, other], 3).tolist(), round(float(parted([one, one, other], 3)[2]), 3)
    ([0.0, 0.0, 1.0], 0.579)
    """
    limit = furthest(len(several), names + 1)
    total = np.zeros(several[0].shape)
    for one in several if limit else ():
        alike = sum((one == other).astype(np.float32) for other in several)
        total -= np.log(alike / len(several))
    return np.asarray((total / (limit * len(several) or 1)).clip(0, 1), np.float32)


def furthest(recipes: int, answers: int) -> float:
    """The most that the divergence of so many recipes can be, in nats: all certain, spread evenly over the answers.

    >>> furthest(2, 5) == math.log(2), furthest(3, 5) == math.log(3), round(furthest(3, 2), 3)
    (True, True, 0.637)
    """
    kinds = min(recipes, answers)
    if kinds < 2:
        return 0.0
    if kinds == recipes:
        return math.log(recipes)
    shares = [(recipes // kinds + (number < recipes % kinds)) / recipes for number in range(kinds)]
    return -sum(share * math.log(share) for share in shares)


def answers_of(slots: Float32[np.ndarray, "slots ..."], names: int) -> Float32[np.ndarray, "answers ..."]:
    """Posteriors of the names and, last, of "none of them": what negatives hold, and all where nobody is asked.

    Sums to 1 in every place, whether synonyms hold a share of their own (`probability="rows"`) or not.
    """
    out = np.empty((names + 1, *slots.shape[1:]), np.float32)
    out[:names], out[names] = slots[:names], slots[names:].sum(axis=0)
    total = out.sum(axis=0)
    out[names][total <= 0] = 1
    return out / np.where(total > 0, total, 1)


def together(evidences: Sequence[Evidence]) -> Iterator[tuple[slice, Answers]]:
    """Posteriors of all evidences in one band of pixel rows after the other, of names and "none of them".

    The bands of each are as its own memory bound has them; what comes out are the places where all of them are at hand.
    """
    walks = [evidence.tiles() for evidence in evidences]
    here: list[tuple[slice, Float32[np.ndarray, "answers h width"]]] = [
        _next(*pair) for pair in zip(walks, evidences, strict=True)
    ]
    top = 0
    while True:
        stop = min(band.stop for band, _ in here)
        yield slice(top, stop), [made[:, top - band.start : stop - band.start] for band, made in here]
        if stop == evidences[0].height:
            return
        top = stop
        here = [
            _next(walk, evidence) if band.stop == stop else (band, made)
            for (band, made), walk, evidence in zip(here, walks, evidences, strict=True)
        ]


def _next(
    walk: Iterator[tuple[slice, Float32[np.ndarray, "slots h width"]]], evidence: Evidence
) -> tuple[slice, Float32[np.ndarray, "answers h width"]]:
    band, slots = next(walk)
    return band, answers_of(slots, evidence.names)


__all__ = ["Answers", "TINY", "answers_of", "divergence", "furthest", "parted", "together"]
