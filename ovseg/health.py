"""Whether a network's dense map says of a box what its image vector says of that box alone: fit for pooling, or not.

The cosine between both is what CLIPSelf (arXiv:2310.01403) and DeCLIP (arXiv:2505.04410) train for, and the cheapest
question to ask of a checkpoint before pooling is trusted: no labels, no words. A plain CLIP ViT agrees little.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from ovseg import encoders
from ovseg.encoders import View
from ovseg.errors import BadInput
from ovseg.types import Regions


@dataclass(frozen=True, eq=False)
class Agreement:
    """For each region the cosine of two encoders' vectors (NaN for an empty mask), and how well each finds its own.

    `recall` is the share of regions whose pooled vector is nearest to their own crop among all regions' crops: 1 / n
    where vectors tell nothing apart, however large the cosines.
    """

    cosines: Float32[np.ndarray, " n"]
    mean: float
    recall: float

    def __repr__(self) -> str:
        return f"Agreement({len(self.cosines)} regions: mean cosine {self.mean:.3f}, recall {self.recall:.2f})"


def agreement(view: View, regions: Regions, *, dense: str = "roi", alone: str = "crop") -> Agreement:
    """How alike regions are to the dense map and to the network looking at each alone.

    `dense` and `alone` are rows of `ENCODERS`: "roi" and "crop" are CLIPSelf's, "pool" and "masked-crop" their masks'.
    `alone` costs one pass of the network a region.

    >>> from ovseg.types import DenseFeatures
    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    >>> agreement(view, Regions.from_masks(np.ones((1, 48, 80), bool)), alone="pool")
    Agreement(1 regions: mean cosine 1.000, recall 1.00)
    """
    filled = regions.area > 0
    if not filled.any():
        raise BadInput("agreement needs regions to look at: all masks are empty, or there is none")
    pooled = encoders.describe(dense, view, regions).vectors
    seen = encoders.describe(alone, view, regions).vectors
    cosines = np.where(filled, (pooled * seen).sum(axis=1), np.nan).astype(np.float32)
    nearest = (pooled[filled] @ seen[filled].T).argmax(axis=1)
    recall = float((nearest == np.arange(len(nearest))).mean())
    return Agreement(cosines, float(np.nanmean(cosines)), recall)


__all__ = ["Agreement", "agreement"]
