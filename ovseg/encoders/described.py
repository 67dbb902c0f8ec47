"""What encoders said about regions, and how it is held against words."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Shaped

from ovseg.errors import BadInput
from ovseg.types import Vocabulary


@dataclass(frozen=True, eq=False)
class Described:
    """A unit vector for each of n regions; zeros for an empty one, which likes every name the same.

    >>> Described(np.eye(2, 3, dtype=np.float32))[np.array([1])].vectors.tolist()
    [[0.0, 1.0, 0.0]]
    """

    vectors: Float32[np.ndarray, "n dim"]

    def __post_init__(self) -> None:
        if not np.isfinite(self.vectors).all():
            raise BadInput("region vectors are not finite: try dtype float32, or check the checkpoint")

    def rows(self, vocabulary: Vocabulary, scale: float) -> Float32[np.ndarray, "n rows"]:
        """Scaled cosine of every region with every prompt row; all 0 for the zero vector of an empty region."""
        return region_rows(self.vectors, vocabulary, scale)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, keep: Shaped[np.ndarray, " m"]) -> "Described":
        """The regions that a boolean mask or an index array picks, in that order."""
        return Described(self.vectors[keep])


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


__all__ = ["Described", "region_rows", "unit"]
