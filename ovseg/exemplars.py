"""A region of a picture as the question: find what looks like this, in any picture, beside names that are words.

An exemplar is a row of a vocabulary as a phrase is: the unit mean of the vectors of the regions shown. But cosines
between pictures live on another range than cosines of words with pictures (on the bundled model 0.12 +- 0.22 for what
does not match and 0.59 for what does, where words have -0.01 +- 0.08 and 0.14), so side by side in one softmax the
exemplar would win everywhere. Each exemplar is therefore brought to the range of its own name's text, by what both say
about cells that are certainly not it, outside of the regions shown: same mean, same spread (`Vocabulary.levels`).
So an exemplar mixes with text, t from 0 (the text, bit for bit) to 1 (the picture alone), as CLIPSeg's queries do
(Lueddecke and Ecker, CVPR 2022, arXiv:2112.10003), and competes with names and negatives that are words.

On the bundled model, 40 compositions of held-out drawings, mIoU of one name among the words of the others: text 61; one
example as it is 40, with the mean matched 49, with the spread too 48; three examples 38, 48, 54; and half text 49, 58,
63. Where all names are examples: text 50; three examples 42, 49, 51, and half text 51, 58, 56.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from ovseg.errors import BadInput, BadUsage
from ovseg.masks import cell_fractions
from ovseg.types import DenseFeatures, Regions, Vocabulary

OUTSIDE = 0.5  # a cell that is covered less than this is not the thing shown


@dataclass(frozen=True, eq=False)
class Example:
    """A unit vector of what was shown, and the cells of that picture that are not it."""

    vector: Float32[np.ndarray, " dim"]
    others: Float32[np.ndarray, "cells dim"]


def shown(where: Any, height: int, width: int) -> Regions:
    """What a person points out in a picture: a mask of its size, several, a box (XYXY, pixels), or `Regions`.

    >>> shown([2, 1, 5, 3], 4, 6).area.tolist()
    [6]
    """
    if isinstance(where, Regions):
        regions = where
    else:
        try:
            array = np.asarray(where)
        except (TypeError, ValueError, RuntimeError):
            array = np.zeros(0)
        if array.dtype == bool and array.ndim in (2, 3):
            regions = Regions.from_masks(array if array.ndim == 3 else array[None])
        elif array.shape == (4,) and array.dtype.kind in "iuf":
            regions = Regions.from_masks(_box(array.astype(float), height, width)[None])
        else:
            came = f"{array.dtype} of {array.shape}" if array.size else type(where).__name__
            raise BadInput(f"what is shown is a boolean mask, a box (left, top, right, bottom) or Regions: got {came}")
    if (regions.height, regions.width) != (height, width):
        raise BadInput(
            f"what is shown must be of this picture: it is {regions.height}x{regions.width}, the picture is "
            f"{height}x{width} (rows x cols). Swapped axes?"
        )
    if not len(regions) or not regions.area.all():
        raise BadInput("what is shown has no pixel: give a mask, a box or regions with some")
    return regions


def examples(features: DenseFeatures, regions: Regions, vectors: Float32[np.ndarray, "n dim"]) -> list[Example]:
    """One for each region that is shown, with the cells that no region covers; all cells where none is left."""
    covered = cell_fractions(regions, *features.grid).reshape(len(regions), -1).max(axis=0)
    cells = features.vectors.reshape(len(features.vectors), -1).T
    outside = covered < OUTSIDE
    others = np.ascontiguousarray(cells[outside] if outside.any() else cells)
    return [Example(vector, others) for vector in vectors]


def vocabulary(text: Vocabulary, given: Mapping[str, Sequence[Example]], t: float | int = 1.0) -> Vocabulary:
    """The vocabulary with the rows of some names made of examples, or mixed: t = 0 is the text, 1 the examples.

    Other names and the negatives stay as they are, and so does the head.
    """
    if not 0 <= t <= 1:
        raise BadUsage(f"t is in [0, 1], 0 for the words and 1 for the examples: got {t}")
    if text.levels is not None:
        raise BadUsage("this vocabulary is made of examples already: start from words")
    stray = [name for name in given if name not in text.names]
    if stray:
        raise BadUsage(f"examples are of names that are asked: {stray[0]!r} is not among {', '.join(text.names)}")
    empty = [name for name, several in given.items() if not several]
    if empty:
        raise BadUsage(f"{empty[0]!r} has no example: show a region, or ask it as a word")
    if t == 0 or not given:
        return text
    phrases = text.phrases or ("",) * len(text.owner)
    rows: list[tuple[Float32[np.ndarray, " dim"], int, str, float, float]] = []
    for row, owner, phrase in zip(text.vectors, text.owner.tolist(), phrases, strict=True):
        name = text.names[owner] if owner >= 0 else ""
        if name not in given:
            rows.append((row, owner, phrase, 1.0, 0.0))
        elif t < 1 or all(owner != done for _, done, *_ in rows):  # pure examples are one row, whatever the synonyms
            own = text.vectors[text.owner == owner]
            mixed, gain, offset = _mixed(row, own, given[name], float(t))
            told = f"{len(given[name])} example" + ("s" if len(given[name]) > 1 else "")
            rows.append((mixed, owner, told if t == 1 else f"{phrase}, {told}", gain, offset))
    vectors, owners, said, gains, offsets = zip(*rows, strict=True)
    return replace(
        text,
        vectors=np.stack(vectors),
        owner=np.array(owners, np.int64),
        phrases=said,
        levels=np.stack([gains, offsets], axis=1).astype(np.float32),
    )


def _mixed(
    row: Float32[np.ndarray, " dim"],
    own: Float32[np.ndarray, "phrases dim"],
    several: Sequence[Example],
    t: float,
) -> tuple[Float32[np.ndarray, " dim"], float, float]:
    """(unit row, gain, offset) with gain * cosine + offset = (1 - t) * the text's + t * the examples' on its range."""
    mean = np.mean([one.vector for one in several], axis=0, dtype=float)
    length = np.linalg.norm(mean)
    if not length > 0:
        raise BadInput("examples of one name cancel each other, or have no pixels: show other ones")
    example = mean / length
    others = np.concatenate([one.others for one in several]).astype(float)
    seen, said = others @ example, others @ own.T.astype(float)
    spread, aim = float(seen.std()), float(np.sqrt(said.var(axis=0).mean()))
    gain = aim / spread if spread > 1e-6 and aim > 1e-6 else 1.0  # cells that are all alike have no spread
    offset = float(said.mean() - gain * seen.mean())
    mixed = (1 - t) * row.astype(float) + t * gain * example
    size = float(np.linalg.norm(mixed))
    if not size > 1e-6:
        raise BadInput(
            f"the words of a name and its examples cancel each other at t = {t}: show other ones, or take t = 1"
        )
    return np.asarray(mixed / size, np.float32), size, t * offset


def _box(box: Any, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels in a box, which must lie in the picture."""
    left, top, right, bottom = (float(side) for side in box)
    if not np.isfinite(box).all() or not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadInput(
            f"a box is left, top, right, bottom in pixels of the picture ({height}x{width}, rows x cols): got "
            f"{[left, top, right, bottom]}"
        )
    if right <= 1 and bottom <= 1 and any(not side.is_integer() for side in (left, top, right, bottom)):
        raise BadInput(
            f"a box is in pixels of the picture ({height}x{width}, rows x cols), not in shares of it: got "
            f"{[left, top, right, bottom]}"
        )
    mask = np.zeros((height, width), bool)
    mask[int(top) : max(int(top) + 1, round(bottom)), int(left) : max(int(left) + 1, round(right))] = True
    return mask


__all__ = ["Example", "OUTSIDE", "examples", "shown", "vocabulary"]
