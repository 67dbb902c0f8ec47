"""What the image side says besides vectors, for the stages: brought by the methods whose papers' stages ask for it.

A method that has a row in `EXTRAS` brings them with every picture, so that a stage can be asked of an encoding later.
They are of the whole picture, seen at the size that gives the grid of its features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from ovseg import images
from ovseg.clip import tower
from ovseg.clip.load import Clip
from ovseg.clip.methods import canonical, last_block
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.plugins.cliptrase import affinity_map, has_affinity
from ovseg.clip.windows import normalised
from ovseg.stages.cliptrase import denoised
from ovseg.types import DenseFeatures


@dataclass(frozen=True)
class Extra:
    """`run(clip, picture, grid, positions)` gives arrays by the names in `gives`, or none where the tower has none."""

    run: Callable[[Clip, UInt8[np.ndarray, "height width 3"], tuple[int, int], str], dict[str, np.ndarray]]
    gives: tuple[str, ...]


def gives(method: str) -> tuple[str, ...]:
    """Names of what a method brings (where its tower can).

    >>> gives("CLIPer"), gives("naclip")
    (('layers', 'attention'), ())
    """
    key = canonical(method)
    return EXTRAS[key].gives if key in EXTRAS else ()


def bring(
    method: str, clip: Clip, picture: UInt8[np.ndarray, "height width 3"], features: DenseFeatures
) -> DenseFeatures:
    """The features with all that this method brings; positions as its authors resample where windows are theirs."""
    key = canonical(method)
    if key not in EXTRAS:
        return features
    positions = "bicubic" if features.windows is None else last_block(key).positions
    return replace(features, extras={**features.extras, **EXTRAS[key].run(clip, picture, features.grid, positions)})


def _affinity(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], positions: str
) -> dict[str, Float32[np.ndarray, "cells cells"]]:
    """CLIPtrase's; a tower without an image token, or of one block, has none."""
    return {"affinity": denoised(affinity_map(clip, picture, grid, positions))} if has_affinity(clip) else {}


@torch.inference_mode()
def _layers(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], positions: str
) -> dict[str, np.ndarray]:
    """CLIPer's: (blocks, dim, rows, cols) as projected, not unit, and the last attention (cells, cells)."""
    walk = tower.check(clip.visual, "cliper")
    resized = images.resize(picture, grid[0] * walk.patch[0], grid[1] * walk.patch[1])
    found = layers(walk, normalised(clip, resized)[None].to(clip.device), positions)
    tokens = found.tokens[0].permute(0, 3, 1, 2).float().cpu().contiguous()
    return {"layers": tokens.numpy(), "attention": found.attention[0].float().cpu().numpy()}


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "cliptrase": Extra(_affinity, ("affinity",)),
        "cliper": Extra(_layers, ("layers", "attention")),
    }
)


__all__ = ["EXTRAS", "Extra", "bring", "gives"]
