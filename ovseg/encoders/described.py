"""What encoders said about regions, and how it is held against words."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped

from ovseg.errors import BadInput
from ovseg.evidence import heard
from ovseg.types import Vocabulary


@runtime_checkable
class Mix(Protocol):
    """What was said about n regions that one vector each cannot hold: several encoders' words, or the cells' votes."""

    def rows(self, vocabulary: Vocabulary, scale: float, probability: str) -> Float32[np.ndarray, "n rows"]:
        """A number for every region and prompt row, as scaled cosines are read; all 0 for an empty region."""
        ...

    def pick(self, keep: Shaped[np.ndarray, " m"]) -> "Mix":
        """The same of the regions that a boolean mask or an index array picks."""
        ...

    def spread(self, places: Int[np.ndarray, " n"], count: int) -> "Mix":
        """The same of `count` regions, of which these stand at `places` and all others are empty."""
        ...


@dataclass(frozen=True, eq=False)
class Described:
    """A unit vector for each of n regions; zeros for an empty one, which likes every name the same.

    Where there is a `mix`, it is what speaks to words, and the vectors are for all else: merging, examples, teaching.

    >>> Described(np.eye(2, 3, dtype=np.float32))[np.array([1])].vectors.tolist()
    [[0.0, 1.0, 0.0]]
    """

    vectors: Float32[np.ndarray, "n dim"]
    mix: Mix | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.vectors).all():
            raise BadInput("region vectors are not finite: try dtype float32, or check the checkpoint")

    def rows(
        self,
        vocabulary: Vocabulary,
        scale: float,
        probability: str = "names",
        struck: Bool[np.ndarray, " names"] | None = None,
    ) -> Float32[np.ndarray, "n rows"]:
        """Scaled cosine of every region with every prompt row, or what the mix says; all 0 for an empty region.

        `probability` is how the rows will become posteriors (`raster.posterior`): a mix may depend on it. `struck`
        names were judged absent: a mix is asked without them, so that the rows of all others are what they were had
        they not been asked.
        """
        if self.mix is None:
            return region_rows(self.vectors, vocabulary, scale)
        plain = replace(vocabulary, head=None)
        said = self.mix.rows(plain, scale, probability)
        if struck is not None and struck.any() and not struck.all():
            kept, owner, _ = heard(plain.owner, struck)
            names = tuple(name for name, gone in zip(plain.names, struck, strict=True) if not gone)
            levels = None if plain.levels is None else plain.levels[kept]
            others = Vocabulary(names, plain.vectors[kept], owner, levels=levels)
            said = said.copy()
            said[:, kept] = self.mix.rows(others, scale, probability)
        return vocabulary.taught(said, self.vectors)  # the head was taught on these

    def spread(self, places: Int[np.ndarray, " n"], count: int) -> "Described":
        """The same of `count` regions, of which these stand at `places` and all others are empty.

        >>> Described(np.ones((1, 1), np.float32)).spread(np.array([1]), 3).vectors.tolist()
        [[0.0], [1.0], [0.0]]
        """
        vectors = np.zeros((count, self.vectors.shape[1]), np.float32)
        vectors[places] = self.vectors
        return Described(vectors, None if self.mix is None else self.mix.spread(places, count))

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, keep: Shaped[np.ndarray, " m"]) -> "Described":
        """The regions that a boolean mask or an index array picks, in that order."""
        return Described(self.vectors[keep], None if self.mix is None else self.mix.pick(keep))


def region_rows(
    vectors: Float32[np.ndarray, "n dim"], vocabulary: Vocabulary, scale: float
) -> Float32[np.ndarray, "n rows"]:
    """Scaled cosine of every region with every prompt row, and what the vocabulary's head adds; all 0 for the zero
    vector of an empty region."""
    return vocabulary.scores(vectors, scale)


def unit(vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


__all__ = ["Described", "Mix", "region_rows", "unit"]
