"""CLIPtrase's affinity: how alike patches are inside the block before the last, for the clusters of its stage.

    mean over heads of (cos qq + cos kk + cos vv) / 3, the image token first

The stage (`ovseg.stages.cliptrase`) takes the image token's row away, clusters what is left and lets the clusters vote.
Costs one pass of the whole picture up to that block. Needs a tower with an image token.

Shao et al. 2024 (ECCV), leaves162/CLIPtrase@2b7de61.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from ovseg import images
from ovseg.clip.load import Clip
from ovseg.clip.tower import check, grid_of, prefix
from ovseg.clip.walk import Walk
from ovseg.errors import UnsupportedTower


def affinity(
    walk: Walk, pixels: Float[Tensor, "b 3 height width"], positions: str = "bicubic"
) -> Float[Tensor, "b n n"]:
    """Mean cosine of the queries, keys and values of the block before the last, in [-1, 1]; image token first.

    One head at a time: two (tokens x tokens) matrices a picture, whatever the heads.
    """
    if walk.depth < 2 or not walk.own:
        raise UnsupportedTower("cliptrase looks into the block before the last and at its image token: this has none")
    number, grid = walk.depth - 1, grid_of(walk, pixels)
    tokens = prefix(walk, pixels, (number,), positions)[number]
    units = [F.normalize(side, dim=-1) for side in walk.sides(number, walk.norm(number, tokens), grid).values()]
    total = torch.zeros(len(pixels), tokens.shape[1], tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
    for unit in units:
        for head in unit.unbind(dim=1):
            total += head @ head.mT
    return total / (len(units) * units[0].shape[1])


def has_affinity(clip: Clip) -> bool:
    """Whether this network has an image token and a block before the last."""
    walk = check(clip.visual, "cliptrase")
    return walk.own > 0 and walk.depth > 1


@torch.inference_mode()
def affinity_map(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], positions: str = "bicubic"
) -> Float32[np.ndarray, "tokens tokens"]:
    """The affinity of a whole picture, seen at the size that gives this grid of patches."""
    walk = check(clip.visual, "cliptrase")
    resized = images.resize(picture, grid[0] * walk.patch[0], grid[1] * walk.patch[1])
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.mean, clip.std))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - mean) / std
    found: Float32[np.ndarray, "tokens tokens"] = (
        affinity(walk, pixels[None].to(clip.device), positions)[0].float().cpu().numpy()
    )
    return found


__all__ = ["affinity", "affinity_map", "has_affinity"]
