"""Words as rows: what is asked of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ovseg.errors import BadInput
from ovseg.presence import Crowd
from ovseg.raster import palette


@runtime_checkable
class Head(Protocol):
    """What examples add to names (`ovseg.teaching`), on top of the scaled cosines of their rows."""

    @property
    def dense(self) -> bool:
        """Whether cells are vectors of the kind that it was taught on, or regions alone are."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that change when the head does."""

    def logits(self, vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n names"]:
        """For each vector what is added to each name; 0 for the zero vector and for a name without examples."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Prompt rows of K names: `owner[p]` is the name that row p speaks for, -1 for a negative (owned by no name).

    A name with synonyms owns several rows and scores as its best one; a negative wins pixels and leaves them
    unlabelled. `thresholds` holds the names that have their own. A `head` adds to all rows of a name what examples of
    it say. `levels` are gain and offset of each row's cosine: rows made of pictures live on another range than words.
    `crowd` is what the presence of names is judged by.
    """

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "rows dim"]
    owner: Int[np.ndarray, " rows"]
    phrases: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    head: Head | None = None
    levels: Float32[np.ndarray, "rows 2"] | None = None
    crowd: Crowd | None = None

    def __post_init__(self) -> None:
        if len(self.vectors) != len(self.owner):
            raise BadInput(f"every row needs an owner: {len(self.vectors)} rows, {len(self.owner)} owners")
        if self.phrases and len(self.phrases) != len(self.owner):
            raise BadInput(f"every row needs its phrase: {len(self.owner)} rows, {len(self.phrases)} phrases")
        if len(set(self.names)) != len(self.names):
            raise BadInput(f"names must differ: got {list(self.names)}")
        missing = set(range(len(self.names))) - set(self.owner.tolist())
        if missing or (len(self.owner) and not -1 <= self.owner.min() <= self.owner.max() < len(self.names)):
            raise BadInput(f"owners must be -1 or 0..{len(self.names) - 1}, each name with a row: got {self.owner}")
        if self.levels is not None and len(self.levels) != len(self.owner):
            raise BadInput(f"every row needs its level: {len(self.owner)} rows, {len(self.levels)} levels")
        if len(self.vectors) and not np.allclose(np.linalg.norm(self.vectors, axis=1), 1, atol=1e-3):
            raise BadInput("vocabulary rows must have length 1: normalise them first")
        stray = set(self.thresholds) - set(self.names)
        if stray:
            raise BadInput(f"thresholds are for names that are asked: {sorted(stray)} are not among {list(self.names)}")

    @property
    def spoken(self) -> list[tuple[str, ...]]:
        """The phrases of each name; none where the vocabulary was made without them."""
        found: list[list[str]] = [[] for _ in self.names]
        for owner, phrase in zip(self.owner.tolist(), self.phrases, strict=False):
            if owner >= 0:
                found[owner].append(phrase)
        return [tuple(phrases) for phrases in found]

    @property
    def matrix(self) -> Float32[np.ndarray, "dim rows"]:
        """The rows as columns: `features @ vocabulary.matrix` are cosines."""
        return self.vectors.T

    def scores(
        self, vectors: Float32[np.ndarray, "n dim"], scale: float, *, cells: bool = False
    ) -> Float32[np.ndarray, "n rows"]:
        """Scaled cosine of every unit vector with every row, and what the head adds (to `cells` if it knows them).

        All 0 for the zero vector.
        """
        found = np.asarray(scale * (vectors @ self.matrix), np.float32)
        if self.levels is not None:
            there = vectors.any(axis=1, keepdims=True)
            found = np.asarray(found * self.levels[:, 0] + there * (scale * self.levels[:, 1]), np.float32)
        return found if cells and self.head is not None and not self.head.dense else self.taught(found, vectors)

    def taught(
        self, rows: Float32[np.ndarray, "n rows"], vectors: Float32[np.ndarray, "n dim"]
    ) -> Float32[np.ndarray, "n rows"]:
        """Rows of scores with what the head adds to the names of these vectors; the rows themselves without a head."""
        if self.head is None:
            return rows
        mine, found = self.owner >= 0, rows.copy()
        found[:, mine] += self.head.logits(vectors)[:, self.owner[mine]]
        return found

    @property
    def colours(self) -> UInt8[np.ndarray, "names 3"]:
        """One RGB colour a name, the same in every picture and every export."""
        return palette(len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Vocabulary({', '.join(self.names[:8])}{' ...' if len(self) > 8 else ''}: {len(self.owner)} rows)"


__all__ = ["Head", "Vocabulary"]
