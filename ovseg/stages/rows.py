"""Stages that change scores cell by cell: feature surgery."""

import numpy as np
from jaxtyping import Float32

from ovseg.errors import BadUsage
from ovseg.stages.scene import Scene


def surgery(
    scene: Scene, rows: Float32[np.ndarray, "rows r c"], *, temperature: float = 2.0
) -> Float32[np.ndarray, "rows r c"]:
    """Scores without what all prompt rows share: see `without_redundancy`. `temperature` 0 weights all rows alike."""
    return np.asarray(
        without_redundancy(rows, scene.features.whole, scene.vocabulary.vectors, temperature=temperature), np.float32
    )


def without_redundancy(
    cosines: Float32[np.ndarray, "rows ..."],
    whole: Float32[np.ndarray, " dim"],
    text: Float32[np.ndarray, "rows dim"],
    *,
    temperature: float = 2.0,
) -> Float32[np.ndarray, "rows ..."]:
    """w_c l_c minus the mean over rows of w l, with w = softmax over rows of (temperature whole . text) over its mean.

    l are cosines, scaled or not: the rule is linear in them. The subtraction keeps every cell's arg-max; the weights,
    which hold back rows that the whole picture does not show, do not. A single row becomes 0.

    CLIP Surgery's feature surgery (Li et al. 2023, arXiv:2304.05653; xmed-lab/CLIP_Surgery@d4696d4), whose sum over
    channels of f (t_c w_c) is w_c l_c.
    """
    if temperature < 0:
        raise BadUsage(f"surgery needs a temperature of 0 or more: got {temperature}")
    if not len(cosines):
        return cosines
    likeness = temperature * (text @ whole)
    weight = np.exp(likeness - likeness.max())
    weight /= weight.mean()
    weighted = weight.astype(np.float32).reshape(-1, *[1] * (cosines.ndim - 1)) * cosines
    return np.asarray(weighted - weighted.mean(axis=0), np.float32)


__all__ = ["surgery", "without_redundancy"]
