"""Pictures in flat tiles and the features that belong to them, for the tests of regions."""

import numpy as np
from numpy.random import Generator

from ovseg.types import DenseFeatures


def features_of(height: int, width: int, vectors: np.ndarray | None = None) -> DenseFeatures:
    """Features of a picture; one constant vector where none are given."""
    if vectors is None:
        vectors = np.zeros((4, 6, 10), np.float32)
        vectors[0] = 1
    return DenseFeatures(vectors.astype(np.float32), vectors.mean(axis=(1, 2)).astype(np.float32), height, width)


def random_features(rng: Generator, height: int = 48, width: int = 80) -> DenseFeatures:
    vectors = rng.normal(size=(8, 6, 10))
    return features_of(height, width, vectors / np.linalg.norm(vectors, axis=0))


def tiles(noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """48x80 px in six flat tiles, 24 x (20, 35, 25) px, and the number of each pixel's tile."""
    number = np.arange(2).repeat(24)[:, None] * 3 + np.arange(3).repeat([20, 35, 25])
    colours = np.array(
        [[200, 30, 40], [30, 190, 60], [40, 60, 210], [230, 220, 40], [20, 20, 20], [240, 240, 240]], np.uint8
    )
    return colours[number], number
