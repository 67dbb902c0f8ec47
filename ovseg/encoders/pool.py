"""Region vectors from the dense map alone: no further pass of the network, the whole picture as context."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from ovseg.encoders.rows import View
from ovseg.masks import cell_fractions
from ovseg.types import Regions


def pool(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """Sum of m_p f_p over cells p, with m_p the covered share of the cell: linear, made unit only afterwards.

    As in FC-CLIP (arXiv:2308.02487) and CorrCLIP (arXiv:2411.10086).
    """
    vectors = view.features.vectors
    shares = cell_fractions(regions, *view.features.grid).reshape(len(regions), -1)
    return np.asarray(shares @ vectors.reshape(len(vectors), -1).T, np.float32)


__all__ = ["pool"]
