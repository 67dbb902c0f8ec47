"""ITACLIP's views: a picture is read as it is, grey, blurred and flipped both ways, and the readings are averaged.

    F = m mean(u(f), u(f of grey), u(f of blurred)) + (1 - m) mean(u(f of upside down), u(f of mirrored), both put back)

The means are not made unit again. Grey and blur (11 px, std 5) act on the *normalised* pixels, as released. The program
blends cosines at picture size; bilinear resizing and flips commute and cosines are linear, so that blending the vectors
is the same, and other words can be asked of them later: logits are F times the texts. Grey is the same in all three
channels.

The text side: each name's vector is (1 - share) name + share definition, not made unit again; background rows keep
their own. m and the share are .70, .05 (VOC21, Cityscapes), .75, .15 (C60), .75, .10 (Object), .75, .20 (Stuff).

Use it for the last points: five passes of the tower for one. Any row can be read this way.

Aydin et al. 2024 (arXiv:2411.12044), m-arda-aydn/ITACLIP@521a33c.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg.clip.attention import read, taps_of
from ovseg.clip.methods import last_block
from ovseg.clip.sight import Sight
from ovseg.clip.tower import grid_of, prefix, why_not
from ovseg.clip.walk import Walk
from ovseg.errors import BadInput, BadUsage, UnsupportedTower

GREY = (0.2989, 0.587, 0.114)  # of red, green, blue: ITU-R 601, as torchvision rounds it
BLUR_PX, BLUR_STD = 11, 5.0


def views(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    *,
    keep: float = 0.75,
    method: str = "itaclip",
    positions: str = "bicubic",
) -> Float[Tensor, "b rows cols dim"]:
    """Blended patch vectors, shorter than 1: their products with unit texts are the method's logits."""
    if not 0 <= keep <= 1:
        raise BadUsage(f"keep is the unflipped views' part of the blend, from 0 to 1: got {keep}")
    row = last_block(method)
    if why := why_not(walk, row):
        raise UnsupportedTower(f"method {method} cannot read this {walk.family}: {why}.")
    numbers, grid = taps_of(row, walk.depth), grid_of(walk, pixels)

    def unit(view: Tensor) -> Tensor:
        taps = prefix(walk, view, numbers, positions)
        return F.normalize(read(Sight(walk, taps, grid), row).cells, dim=-1)

    upright = (unit(pixels) + unit(grey(pixels)) + unit(blurred(pixels))) / 3
    if keep == 1:
        return upright
    flipped = (unit(pixels.flip(2)).flip(1) + unit(pixels.flip(3)).flip(2)) / 2
    return keep * upright + (1 - keep) * flipped


def grey(pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 3 height width"]:
    """Luminance in all three channels."""
    weights = pixels.new_tensor(GREY)[:, None, None]
    return (pixels * weights).sum(dim=1, keepdim=True).expand_as(pixels)


def blurred(pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 3 height width"]:
    """A Gaussian of 11 px and std 5, the picture mirrored at its edges."""
    reach = BLUR_PX // 2
    if min(pixels.shape[2:]) <= reach:
        raise BadInput(f"blurring needs more than {reach} px a side: got {list(pixels.shape[2:])}")
    offset = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-(offset**2) / (2 * BLUR_STD**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    out = F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])
    return out.reshape(pixels.shape)


def with_definitions(
    names: Float[Tensor, "rows dim"],
    definitions: Float[Tensor, "rows dim"],
    share: float,
    background: Bool[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows dim"]:
    """Names' vectors moved towards their definitions', not made unit again; background rows keep their own."""
    moved = (1 - share) * names + share * definitions
    return moved if background is None else torch.where(background[:, None], names, moved)


__all__ = ["BLUR_PX", "BLUR_STD", "GREY", "blurred", "grey", "views", "with_definitions"]
