"""What open_clip's `TimmModel` puts around a network of timm's: a trunk that gives features, and a head of its own.

The trunk may end in a classifier that is the projection (SigLIP, MobileCLIP, EVA), or the head projects (`proj`, `mlp`:
ViTamin, ConvNeXt). Both are read here, so that no family asks twice.
"""

from jaxtyping import Float
from torch import Tensor

from ovseg.clip.walk import Tower


def kind(tower: Tower) -> str:
    """Class of the trunk inside a `TimmModel`; empty for every other tower."""
    trunk = getattr(tower, "trunk", None)
    return "" if trunk is None or not hasattr(tower, "head") else type(trunk).__name__


def width(tower: Tower) -> int:
    """Length of the tower's image embedding."""
    head, classifier = tower.head, tower.trunk.get_classifier()
    last = getattr(head, "proj", None) or getattr(getattr(head, "mlp", None), "fc2", None) or classifier
    return int(getattr(last, "out_features", tower.trunk.num_features))


def lacks(tower: Tower) -> str:
    """Empty where the head can be read token by token; else what is in the way."""
    if hasattr(tower.head, "pool"):
        return f"its head pools by {type(tower.head.pool).__name__}, which has positions of its own"
    return ""


def cut(pixels: Float[Tensor, "b 3 height width"], patch: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Pixels without the rest that makes no whole patch: a convolution with padding would round up, not down."""
    height, width = pixels.shape[2] // patch[0] * patch[0], pixels.shape[3] // patch[1] * patch[1]
    return pixels[:, :, :height, :width]


__all__ = ["cut", "kind", "lacks", "width"]
