"""How well words fit cells: scaled cosines of prompt rows."""

import numpy as np
from jaxtyping import Float32

from ovseg.errors import BadInput
from ovseg.stages import canvas
from ovseg.types import DenseFeatures, Vocabulary, Windows


def cell_rows(features: DenseFeatures, vocabulary: Vocabulary, scale: float) -> Float32[np.ndarray, "rows r c"]:
    """Scaled cosine of every prompt row in every cell; on every pixel of the canvas where windows were kept apart."""
    check_dim(features, vocabulary)
    if features.windows is not None:
        return scale * stitch(features.windows, vocabulary)
    cosines = vocabulary.vectors @ features.vectors.reshape(len(features.vectors), -1)
    return np.asarray(scale * cosines, np.float32).reshape(-1, *features.grid)


def stitch(windows: Windows, vocabulary: Vocabulary) -> Float32[np.ndarray, "rows height width"]:
    """Cosines of every prompt row on the canvas, as the papers' programs put windows together.

    Each window's cosines go bilinear to its own pixels and are averaged where windows overlap (`stages.canvas.join`).
    """
    return canvas.join(windows, canvas.cosines(windows, vocabulary))


def check_dim(features: DenseFeatures, vocabulary: Vocabulary) -> None:
    """Words and picture of two networks are refused."""
    if vocabulary.vectors.shape[1] != len(features.vectors):
        raise BadInput(
            f"words and picture must come from one network: rows have {vocabulary.vectors.shape[1]} numbers, cells "
            f"have {len(features.vectors)}"
        )


__all__ = ["cell_rows", "check_dim", "stitch"]
