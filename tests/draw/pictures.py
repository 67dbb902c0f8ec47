"""Pictures and results made by hand, for tests that draw."""

import numpy as np
from jaxtyping import UInt8

from ovseg.types import AnomalyMap
from tests.results import NoRecipe

PLAN = ["aaa..", "aaa.b", ".....", "....."]


def photo(height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    return np.random.default_rng(0).integers(60, 190, (height, width, 3), np.uint8)


def strange(low: float | int, high: float | int, threshold: float | None = None, **words: str) -> AnomalyMap:
    values = np.linspace(low, high, 80, dtype=np.float32)[None].repeat(48, axis=0)
    return AnomalyMap(values, float(high), words.get("unit", "cosine"), NoRecipe(), threshold, words.get("object", ""))
