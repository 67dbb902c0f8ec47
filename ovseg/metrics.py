"""Scores against the truth, from counts.

Label maps hold class numbers from 0; `ignore` in the truth (255, as in most data sets) counts nowhere.
"""

import numpy as np
from jaxtyping import Float, Int, Integer

from ovseg.errors import BadInput


def confusion(
    predicted: Integer[np.ndarray, "..."], truth: Integer[np.ndarray, "..."], classes: int, ignore: int = 255
) -> Int[np.ndarray, "classes columns"]:
    """Pixels by truth (rows) and prediction (columns); the last column counts what was left unlabelled (-1).

    Matrices of several pictures add up.

    >>> confusion(np.array([0, 1, 1, -1]), np.array([0, 0, 1, 1]), 2).tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    if predicted.shape != truth.shape:
        raise BadInput(f"prediction and truth must be of one picture: got {predicted.shape} and {truth.shape}")
    counted = truth != ignore
    here, there = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for what, values, low in (("truth", here, 0), ("prediction", there, -1)):
        if len(values) and not low <= values.min() <= values.max() < classes:
            raise BadInput(f"{what} must hold classes {low}..{classes - 1}: got {values.min()}..{values.max()}")
    there[there < 0] = classes
    counts = np.bincount(here * (classes + 1) + there, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def iou(counts: Int[np.ndarray, "classes columns"]) -> Float[np.ndarray, " classes"]:
    """Intersection over union of each class, in [0, 1], from a confusion matrix; NaN for one that occurs nowhere.

    >>> iou(confusion(np.array([0, 1, 1, -1]), np.array([0, 0, 1, 1]), 3)).tolist()
    [0.5, 0.3333333333333333, nan]
    """
    classes = len(counts)
    shared = counts[np.arange(classes), np.arange(classes)]
    union = counts.sum(axis=1) + counts[:, :classes].sum(axis=0) - shared
    return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


def miou(counts: Int[np.ndarray, "classes columns"]) -> float:
    """Mean intersection over union of the classes that occur in truth or prediction; NaN if none does."""
    each = iou(counts)
    each = each[~np.isnan(each)]
    return float(each.mean()) if len(each) else float("nan")


__all__ = ["confusion", "iou", "miou"]
