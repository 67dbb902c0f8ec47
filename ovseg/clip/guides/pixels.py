"""Pixels as another network wants them: its own mean and deviation, a size that its grid covers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from ovseg.errors import BadInput, BadUsage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(
    pixels: Shaped[Tensor, "b 3 height width"],
    to_mean: Sequence[float],
    to_std: Sequence[float],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Float[Tensor, "b 3 height width"]:
    """Bytes, or floats that were normalised with `mean` and `std`, as another network wants them.

    >>> grey = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalised(grey, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    if not len(pixels) or not (pixels.is_floating_point() or pixels.dtype == torch.uint8):
        raise BadInput(
            f"a guide needs pixels as bytes or normalised floats: got {list(pixels.shape)} of "
            f"{str(pixels.dtype).removeprefix('torch.')}"
        )
    if (mean is None) != (std is None) or (mean is not None and pixels.dtype == torch.uint8):
        raise BadUsage("mean and std go together, and with floats alone: bytes were not normalised yet")
    if pixels.dtype == torch.uint8:
        pixels, mean, std = pixels.float() / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if mean is None or std is None or (tuple(mean), tuple(std)) == (tuple(to_mean), tuple(to_std)):
        return pixels
    had, want, per, unit = (pixels.new_tensor(tuple(value))[:, None, None] for value in (mean, to_mean, std, to_std))
    return (pixels * per + had - want) / unit


def fitted(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels at this size; the very same where they have it."""
    if size == tuple(pixels.shape[-2:]):
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)


__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "fitted", "normalised"]
