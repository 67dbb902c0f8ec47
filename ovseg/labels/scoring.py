"""How well words fit cells: scaled cosines of prompt rows."""

import numpy as np
from jaxtyping import Float32

from ovseg.errors import BadInput
from ovseg.stages import canvas
from ovseg.types import DenseFeatures, Vocabulary, Windows


def cell_rows(features: DenseFeatures, vocabulary: Vocabulary, scale: float) -> Float32[np.ndarray, "rows r c"]:
    """Scaled cosine of every prompt row in every cell; on every pixel of the canvas where windows were kept apart.

    On the rows' levels, and with what the vocabulary's head adds, if the head knows cells.
    """
    check_dim(features, vocabulary)
    plain = vocabulary.levels is None and (vocabulary.head is None or not vocabulary.head.dense)
    if features.windows is not None:
        if plain:
            return scale * stitch(features.windows, vocabulary)
        return canvas.join(features.windows, _taught(features.windows, vocabulary, scale))
    if not plain:
        cells = np.ascontiguousarray(features.vectors.reshape(len(features.vectors), -1).T)
        rows = vocabulary.scores(cells, scale, cells=True)
        return np.ascontiguousarray(rows.T).reshape(-1, *features.grid)
    cosines = vocabulary.vectors @ features.vectors.reshape(len(features.vectors), -1)
    return np.asarray(scale * cosines, np.float32).reshape(-1, *features.grid)


def stitch(windows: Windows, vocabulary: Vocabulary) -> Float32[np.ndarray, "rows height width"]:
    """Cosines of every prompt row on the canvas, as the papers' programs put windows together.

    Each window's cosines go bilinear to its own pixels and are averaged where windows overlap (`stages.canvas.join`).
    """
    return canvas.join(windows, canvas.cosines(windows, vocabulary))


def _taught(windows: Windows, vocabulary: Vocabulary, scale: float) -> Float32[np.ndarray, "n rows r c"]:
    """Scores of every cell of every window, on their levels and with what the head adds to cells."""
    n, dim, rows, cols = windows.vectors.shape
    cells = np.ascontiguousarray(windows.vectors.reshape(n, dim, -1).transpose(0, 2, 1)).reshape(-1, dim)
    found = vocabulary.scores(cells, scale, cells=True).reshape(n, rows * cols, -1)
    return np.ascontiguousarray(found.transpose(0, 2, 1)).reshape(n, -1, rows, cols)


def check_dim(features: DenseFeatures, vocabulary: Vocabulary) -> None:
    """Words and picture of two networks are refused."""
    if vocabulary.vectors.shape[1] != len(features.vectors):
        raise BadInput(
            f"words and picture must come from one network: rows have {vocabulary.vectors.shape[1]} numbers, cells "
            f"have {len(features.vectors)}"
        )


__all__ = ["cell_rows", "check_dim", "stitch"]
