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


def roi(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The box of each region in the dense map, averaged by torchvision's `roi_align` to one cell.

    What CLIPSelf (arXiv:2310.01403) teaches to agree with the image vector of the box, and how RegionCLIP
    (arXiv:2112.09106) reads boxes, there on the map before the pool. The mask within the box does not count.
    """
    import torch
    from torchvision.ops import roi_align

    cell = np.array([view.features.cell[1], view.features.cell[0]] * 2)
    boxes = torch.from_numpy(np.asarray(regions.boxes / cell, np.float32))
    cells = torch.from_numpy(view.features.vectors)[None]
    found = roi_align(cells, [boxes], output_size=1, spatial_scale=1.0, sampling_ratio=-1, aligned=True)
    return np.asarray(found[:, :, 0, 0].numpy(), np.float32)


__all__ = ["pool", "roi"]
