"""Dense features become a map of strangeness. A scorer is a row of `SCORERS`: what it needs, and what it computes.

dense   words alone: in every cell, is this the object *damaged* rather than *flawless*?
memory  normal pictures alone: how far is a cell from the nearest cell of all of them?
mixed   both, their plain mean.

A scorer sees cells only; `score` carries its answer to the picture's own pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float32

from ovseg.anomaly.words import state_vocabulary
from ovseg.clip.load import Clip
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import AnomalyMap, DenseFeatures, RecipeLike, Vocabulary

TEMPERATURE = 0.07  # of the softmax over the two states: CLIP's own at the start of its training
TOP = 0.01  # of the cells: their mean distance is the picture's
FALSE_ALARMS = 0.05  # share of normal pictures that a threshold from normal pictures may cost
CHUNK_BYTES = 64 << 20  # a block of cosines between cells stays below this


@dataclass(frozen=True, eq=False)
class Case:
    """What a scorer may look at: the picture's cells, and the states or the normal pictures to hold them against."""

    features: DenseFeatures
    states: Vocabulary | None = None
    normal: tuple[DenseFeatures, ...] = ()
    temperature: float = TEMPERATURE


@dataclass(frozen=True)
class Scorer:
    """One way to score: `run` gives a value for each cell and one for the picture, both in `unit`, higher is stranger.

    `needs` holds "states" or "normal", or both; what is missing is refused by name, never replaced.
    """

    run: Callable[[Case], tuple[Float32[np.ndarray, "rows cols"], float]]
    needs: tuple[str, ...]
    unit: str


def score(
    clip: Clip,
    features: DenseFeatures,
    object: str = "",
    *,
    normal: Sequence[DenseFeatures] = (),
    recipe: RecipeLike,
    cache: Path | None = None,
    scorer: str | None = None,
    threshold: float | None = None,
    templates: str = "few",
    temperature: float = TEMPERATURE,
) -> AnomalyMap:
    """The strangeness of every pixel of a picture of `object`, at the picture's own size.

    Without a `scorer`: words alone ("dense"), or "mixed" where there are normal pictures too, or "memory" where there
    is no object name; the map's unit says which. Without a `threshold`, two normal pictures or more give one: each is
    held against the others, and all but one in twenty of them (with few pictures: all) must stay below it.
    """
    chosen = scorer or (("mixed" if object.strip() else "memory") if normal else "dense")
    if chosen not in SCORERS:
        raise UnknownName.of("scorer", chosen, SCORERS)
    row = SCORERS[chosen]
    if temperature <= 0:
        raise BadUsage(f"temperature must be positive: got {temperature}")
    if "normal" in row.needs and not normal:
        raise BadUsage(f"scorer {chosen} needs normal pictures: got none; give some (normal=[...]), or take dense")
    if "states" in row.needs and not object.strip():
        raise BadUsage(
            f"scorer {chosen} needs the name of the object: got none; say what the picture shows, such as 'ceramic "
            "tile', or give normal pictures"
        )
    for other in normal:
        if other.vectors.shape[0] != features.vectors.shape[0]:
            raise BadInput(
                f"normal pictures must be read by the same network: their cells have {other.vectors.shape[0]} numbers, "
                f"this picture's have {features.vectors.shape[0]}"
            )
    states = None
    if "states" in row.needs:
        states = state_vocabulary(clip, object, templates=templates, cache=cache)
    references = tuple(normal) if "normal" in row.needs else ()
    case = Case(features, states, references, temperature)
    cells, image = row.run(case)
    notes = [f"scorer {chosen}", *(states.notes if states else ())]
    if threshold is None and len(references) > 1:
        threshold, chance = _threshold(row, case)
        notes.append(
            f"threshold from {len(references)} normal pictures, each held against the others: another normal picture "
            f"reaches it with a chance of at most {chance:.0%}"
        )
    values = features.upsample(cells[None])[0].clip(cells.min(), cells.max())
    return AnomalyMap(values, image, row.unit, recipe, threshold, object, tuple(notes))


def prototypes(states: Vocabulary) -> Float[np.ndarray, "2 dim"]:
    """The unit mean of the rows of each of the two states, *normal* first (float64)."""
    means = np.stack([states.vectors[states.owner == name].mean(axis=0, dtype=float) for name in range(2)])
    unit: Float[np.ndarray, "2 dim"] = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return unit


def _by_words(case: Case) -> tuple[Float32[np.ndarray, "rows cols"], float]:
    """Posterior of *anomalous* over the two states, in [0, 1]; the picture's is that of its whole vector."""
    assert case.states is not None, "score() gives states to a row that needs them"
    usual, odd = prototypes(case.states)
    lean = (odd - usual) / case.temperature
    cells = 1 / (1 + np.exp(-np.einsum("d,drc->rc", lean, case.features.vectors)))
    return cells.astype(np.float32), float(1 / (1 + np.exp(-lean @ case.features.whole)))


def _by_memory(case: Case) -> tuple[Float32[np.ndarray, "rows cols"], float]:
    """One minus the cosine to the nearest normal cell, in [0, 2]; the picture's is the mean of its top 1 % of cells.

    The normal pictures are held against the cells one by one, so that another one can only lower a value, to the bit.
    """
    cells = _unit_cells(case.features)
    nearest = np.full(len(cells), -1.0)
    for picture in case.normal:
        bank = _unit_cells(picture)
        step = max(1, CHUNK_BYTES // (8 * len(bank)))
        for start in range(0, len(cells), step):
            some = slice(start, start + step)
            np.maximum(nearest[some], (cells[some] @ bank.T).max(axis=1), out=nearest[some])
    distance = (1 - nearest).clip(0, 2).astype(np.float32)
    count = max(1, round(TOP * len(distance)))
    return distance.reshape(case.features.grid), float(np.sort(distance)[-count:].mean())


def _mixed(case: Case) -> tuple[Float32[np.ndarray, "rows cols"], float]:
    by_words, by_memory = _by_words(case), _by_memory(case)
    return (by_words[0] + by_memory[0]) / np.float32(2), (by_words[1] + by_memory[1]) / 2


SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        "dense": Scorer(_by_words, ("states",), "probability"),
        "memory": Scorer(_by_memory, ("normal",), "cosine distance"),
        "mixed": Scorer(_mixed, ("states", "normal"), "mixed"),
    }
)


def _threshold(row: Scorer, case: Case) -> tuple[float, float]:
    """A cut that an unseen normal picture stays below, and the chance that it does not.

    The conformal quantile of the largest values of the k normal pictures, each scored without itself. The next number
    above is taken, since a pixel at its threshold counts as strange.
    """
    peaks = []
    for index, picture in enumerate(case.normal):
        others = case.normal[:index] + case.normal[index + 1 :]
        peaks.append(float(row.run(replace(case, features=picture, normal=others))[0].max()))
    count = len(peaks)
    rank = min(count, ceil((count + 1) * (1 - FALSE_ALARMS)))
    cut = np.nextafter(np.float32(sorted(peaks)[rank - 1]), np.float32(np.inf))
    return float(cut), max(FALSE_ALARMS, 1 / (count + 1))


def _unit_cells(features: DenseFeatures) -> Float[np.ndarray, "cells dim"]:
    """The cells as unit rows in float64, where a vector's cosine with itself is 1 to the last digits."""
    cells = features.vectors.reshape(len(features.vectors), -1).T.astype(float)
    unit: Float[np.ndarray, "cells dim"] = cells / np.linalg.norm(cells, axis=1, keepdims=True).clip(1e-12)
    return unit


__all__ = ["Case", "SCORERS", "Scorer", "prototypes", "score"]
