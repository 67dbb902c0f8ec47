"""Results made by hand, for tests that draw, write and read."""

from typing import Any

import numpy as np

from ovseg.types import Evidence, Segmentation


class NoRecipe:
    """The least that a result asks of a recipe."""

    fingerprint = "0123456789ab"

    def to_dict(self) -> dict[str, Any]:
        return {"model": "none"}


def segmentation(plan: list[str], names: list[str], scale: int = 1, **options: Any) -> Segmentation:
    """What a drawing of letters shows: a, b, ... are names 0, 1, ...; a dot is nobody's; each letter a square of px."""
    letters = np.array([[ord(sign) - ord("a") if sign != "." else -1 for sign in row] for row in plan])
    letters = letters.repeat(scale, axis=0).repeat(scale, axis=1)
    rows = np.stack([np.where(letters == k, 20.0, 0.0) for k in [*range(len(names)), -1]]).astype(np.float32)
    evidence = Evidence(
        height=letters.shape[0],
        width=letters.shape[1],
        owner=np.array([*range(len(names)), -1]),
        rows=rows,
        thresholds=np.full(len(names), 0.5, np.float32),
        **options,
    )
    return Segmentation.decide(names, evidence, NoRecipe())
