"""Conjugate gradients with a fixed number of steps: where a method stops early, their count is part of it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "n k"]


def conjugate_gradient(
    apply: Callable[[Values], Values],
    right: Float[np.ndarray, "n k"],
    start: Float[np.ndarray, "n k"] | None = None,
    *,
    steps: int,
    tolerance: float = 0.0,
    together: bool = False,
) -> Float[np.ndarray, "n k"]:
    """The `steps`-th iterate of A x = right, from `start` (zeros); A is symmetric and positive definite.

    Every column is a system of its own and stops when its residual is at most `tolerance` times its right side (as
    scipy.sparse.linalg.cg does). `together` makes all columns one long vector with one step length, which converges to
    the same answer by other iterates.

    >>> conjugate_gradient(lambda x: 2 * x, np.array([[4.0, 6.0]]), steps=1).tolist()
    [[2.0, 3.0]]
    """
    answer = np.zeros_like(right) if start is None else start.copy()
    residual = right - apply(answer)
    direction = residual.copy()
    size = _products(residual, residual, together)
    least = max(tolerance, float(np.finfo(right.dtype).eps))  # below it steps are noise, and grow
    limit = least**2 * _products(right, right, together)
    for _ in range(steps):
        open_ = size > limit
        if not open_.any():
            break
        moved = apply(direction)
        along = _products(direction, moved, together)
        step = np.divide(size, along, out=np.zeros_like(size), where=open_ & (along > 0)).astype(right.dtype)
        answer += step * direction
        residual -= step * moved
        shrunk = _products(residual, residual, together)
        ratio = np.divide(shrunk, size, out=np.zeros_like(size), where=open_).astype(right.dtype)
        direction = residual + ratio * direction
        size = np.where(open_, shrunk, size)
    return answer


def _products(one: Values, other: Values, together: bool) -> Float[np.ndarray, "1 columns"]:
    """Inner products of columns (1, k), or of everything (1, 1); added in float64."""
    return np.asarray(np.sum(one * other, axis=None if together else 0, dtype=np.float64)).reshape(1, -1)


__all__ = ["Values", "conjugate_gradient"]
