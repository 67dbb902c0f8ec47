"""Small towers of every family, built through open_clip's and timm's own classes, with every parameter moved.

No two sizes are equal: native pictures are square, the tests ask another grid; batches are of two.
"""

from functools import partial
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from ovseg.clip.walk import Prefix, Walk

SMALL = {"embed_dim": 48, "num_heads": 3, "patch_size": 8}


def timm_tower(
    name: str, size: int = 48, pool: str = "token", proj: str = "", dim: int = 32, **smaller: Any
) -> TimmModel:
    """open_clip's `TimmModel` around timm's model `name`, made small by arguments of that model's own class."""
    with mock.patch.object(timm, "create_model", partial(timm.create_model, **smaller)):
        tower = TimmModel(name, dim, size, pool=pool, proj=proj)
    return moved(tower)


def moved(tower: nn.Module, seed: int = 0, by: float = 0.05) -> Any:
    """The tower with every parameter and every statistic of a batch norm off its first value, in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=random))
        for part in tower.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.add_(0.2 * torch.randn(part.running_mean.shape, generator=random))
                part.running_var.mul_(0.7 + 0.6 * torch.rand(part.running_var.shape, generator=random))
    return tower.eval().requires_grad_(False)


def eva02(depth: int = 3, size: int = 48, **options: Any) -> TimmModel:
    """EVA02-B's kind: rotation, norms inside attention and MLP, separate matrices."""
    return timm_tower("eva02_base_patch16_clip_224", size, img_size=size, depth=depth, **SMALL, **options)


def eva01(depth: int = 3, size: int = 48) -> TimmModel:
    """EVA01's kind: a packed matrix without a bias for the keys, no rotation; here with LayerScale."""
    return timm_tower("eva_giant_patch14_224", size, img_size=size, depth=depth, init_values=0.3, **SMALL)


def eva02_post(depth: int = 3, size: int = 48) -> TimmModel:
    """EVA02-E's kind: norms after attention and MLP."""
    return timm_tower("eva02_enormous_patch14_clip_224", size, img_size=size, depth=depth, mlp_ratio=3.0, **SMALL)


def perception(depth: int = 3, size: int = 48) -> TimmModel:
    """PE Core: rotation counted (x, y) from 1, image token, attention pool."""
    small = {"attn_pool_num_heads": 4, "img_size": size, "depth": depth, **SMALL}
    return timm_tower("vit_pe_core_base_patch16_224", size, pool="map", **small)


def siglip(depth: int = 3, size: int = 48) -> TimmModel:
    """SigLIP and SigLIP2: no image token, attention pool, no projection."""
    return timm_tower("vit_base_patch16_siglip_224", size, pool="map", proj="none", img_size=size, depth=depth, **SMALL)


def vitamin(depth: int = 3, size: int = 64, pos_embed: str = "learn") -> TimmModel:
    """ViTamin: two stages of convolutions, then a transformer with gated MLPs; XL has no learned positions."""
    from timm.models.vitamin import VitCfg, VitConvCfg

    shape = VitCfg(embed_dim=(8, 16, 48), depths=(1, 2, 1), stem_width=8, conv_cfg=VitConvCfg(), head_type="1d")
    small = {"embed_cfg": shape, "embed_dim": 48, "num_heads": 3, "depth": depth, "pos_embed": pos_embed}
    return timm_tower("vitamin_small_224", size, pool="", proj="linear", img_size=size, **small)


def mobile_b(depth: int = 2, size: int = 48) -> TimmModel:
    """MobileCLIP-B: a convolutional stem, positions for the patches alone. Its width is fixed."""
    return timm_tower("vit_base_mci_224", size, img_size=size, depth=depth)


def convnext(size: int = 64, proj: str = "linear") -> TimmModel:
    """ConvNeXt-CLIP: the pooled vector is normed, then projected by one layer or two."""
    return timm_tower("convnext_tiny", size, pool="", proj=proj, depths=(1, 2, 1, 1), dims=(8, 16, 24, 40))


def fastvit(size: int = 96, stages: int = 4) -> TimmModel:
    """MobileCLIP-S's kind: four stages, or five in S3 and S4; the last ones mix by attention."""
    if stages == 4:
        small = {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 32)}
        return timm_tower("fastvit_mci1", size, pool="avg", **small)
    return timm_tower("fastvit_mci3", size, pool="avg", layers=(1, 1, 1, 1, 1), embed_dims=(8, 16, 32, 32, 64))


def resnet(size: int = 96) -> Any:
    """open_clip's ModifiedResNet with one block a stage."""
    return moved(ModifiedResNet([1, 1, 1, 1], output_dim=20, heads=4, image_size=size, width=8))


def pixels(height: int, width: int, seed: int = 7) -> Tensor:
    """Two normalised pictures."""
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def rebuilt(walk: Walk, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """A block put together from the walk's own parts."""
    sides = walk.sides(number, walk.norm(number, tokens), grid)
    mixed = F.scaled_dot_product_attention(sides["q"], sides["k"], sides["v"])
    between = tokens + walk.out(number, mixed.transpose(1, 2).flatten(2))
    return between + walk.mlp(number, between)


def last(walk: Walk, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What enters the last block, and the grid."""
    grid = (images.shape[2] // walk.patch[0], images.shape[3] // walk.patch[1])
    return Prefix(walk, (walk.depth,), grid)(walk.enter(images, "bicubic"))[-1], grid


def exits(walk: Walk, images: Tensor) -> Tensor:
    """Every patch through the tower's own blocks and the exit: (b, rows, cols, dim)."""
    tap, grid = last(walk, images)
    tokens = walk.project(walk.block(walk.depth, tap, grid))
    return tokens[:, walk.own :].reshape(len(images), *grid, walk.dim)
