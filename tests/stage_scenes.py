"""Scenes for the stages' tests: 48 x 80 px, 6 x 10 cells, vectors of 32, five prompt rows of three names."""

import numpy as np

import tiny
from ovseg.stages import Scene
from ovseg.types import DenseFeatures, Vocabulary, Windows

GRID, SIZE, DIM, SCALE = (6, 10), (48, 80), 32, 40.0


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def vocabulary(seed: int = 3) -> Vocabulary:
    rows = unit(np.random.default_rng(seed).normal(size=(5, DIM)))
    return Vocabulary(("cat", "dog", "car"), rows, np.array([0, 1, 1, 2, -1]))


def scene(vectors: np.ndarray | None = None, picture: np.ndarray | None = None, **more: np.ndarray) -> Scene:
    """Random unit vectors in the cells (or those given, (rows, cols, dim)) on a picture of flat rectangles.

    `more` are extras of the image side.
    """
    rng = np.random.default_rng(5)
    vectors = unit(rng.normal(size=(*GRID, DIM)) + 0.5 * rng.normal(size=DIM)) if vectors is None else vectors
    picture = tiny.picture(*SIZE) if picture is None else picture
    whole = unit(vectors.mean(axis=(0, 1)))
    features = DenseFeatures(np.ascontiguousarray(vectors.transpose(2, 0, 1)), whole, *picture.shape[:2], extras=more)
    return Scene(picture, features, vocabulary(), SCALE)


def layered(**more: np.ndarray) -> Scene:
    """The same with what stages cannot do without: vectors of three layers, and an attention whose rows sum to 1."""
    rng = np.random.default_rng(6)
    attention = rng.random((60, 60)).astype(np.float32) ** 4
    layers = (rng.normal(size=(3, DIM, *GRID)) + 0.5 * rng.normal(size=(DIM, 1, 1))).astype(np.float32)
    return scene(layers=layers, attention=attention / attention.sum(axis=1, keepdims=True), **more)


def rows_of(given: Scene) -> np.ndarray:
    """Scaled cosines of every prompt row in every cell."""
    features = given.features.vectors
    cosines = given.vocabulary.vectors @ features.reshape(len(features), -1)
    return (given.scale * cosines).astype(np.float32).reshape(-1, *given.features.grid)


def windowed(given: Scene) -> Scene:
    """The same question where four windows of 3 x 4 cells, 24 x 32 px, are kept apart on a canvas of 40 x 50 px."""
    from dataclasses import replace

    vectors = unit(np.random.default_rng(8).normal(size=(4, 3, 4, DIM))).transpose(0, 3, 1, 2)
    windows = Windows(
        np.ascontiguousarray(vectors), np.array([0, 0, 16, 16]), np.array([0, 18, 0, 18]), (24, 32), (40, 50)
    )
    return replace(given, features=replace(given.features, windows=windows))
