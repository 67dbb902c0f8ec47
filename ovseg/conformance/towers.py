"""Towers to check without anybody's weights: narrow ones of every family, and any architecture with random numbers.

A narrow tower has its published sibling's blocks, patch and picture size and is a few channels wide, so that all of
them together take seconds. It is built of upstream's own classes. Every parameter and every statistic of a batch norm
is moved off its first value, by a seed: fresh biases are 0 and fresh norms the identity, and would hide a lost one.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ovseg.clip.walk import Tower
from ovseg.errors import UnknownName

DIM = 32  # of the narrow towers' embedding
NARROW = MappingProxyType({"embed_dim": 48, "num_heads": 3})


def architecture(name: str, *, seed: int = 0) -> Tower:
    """The vision tower of one of open_clip's architectures, its numbers random; nothing is downloaded."""
    import open_clip

    if name not in open_clip.list_models():
        raise UnknownName.of("architecture", name, open_clip.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = open_clip.create_model(name, pretrained=None, load_weights=False).visual
    return moved(tower, seed)


def narrow(name: str, *, seed: int = 0) -> Tower:
    """One of `STAND_INS`."""
    if name not in STAND_INS:
        raise UnknownName.of("stand-in", name, STAND_INS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = STAND_INS[name]()
    return moved(tower, seed)


def moved(tower: nn.Module, seed: int = 0) -> Tower:
    """The tower, changed in place: each parameter off its first value, in evaluation mode, without gradients.

    Matrices move by 1 / sqrt(inputs), so that what goes through keeps its size in a deep tower and attention is not
    flat; everything else by 0.05.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            by = parameter[0].numel() ** -0.5 if parameter.ndim in (2, 4) else 0.05
            parameter.add_(by * torch.randn(parameter.shape, generator=random).to(parameter))
        for part in tower.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.add_(0.2 * torch.randn(part.running_mean.shape, generator=random))
                part.running_var.mul_(0.7 + 0.6 * torch.rand(part.running_var.shape, generator=random))
    return tower.eval().requires_grad_(False)


def _open_clip(**vision: Any) -> Tower:
    import open_clip

    shape = {"layers": 12, "width": 48, "head_width": 16, "patch_size": 16, "image_size": 224, **vision}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(DIM, shape, text, quick_gelu=True).visual


def _timm(name: str, *, pool: str, size: int = 224, proj: str = "", smaller: Mapping[str, Any] = NARROW) -> Tower:
    """open_clip's `TimmModel` around a trunk of timm's that is narrower than open_clip would make it."""
    import timm
    from open_clip.timm_model import TimmModel

    tower = TimmModel.__new__(TimmModel)  # its own constructor takes no widths
    nn.Module.__init__(tower)
    tower.image_size = (size, size)
    options: dict[str, Any] = {"num_classes": 0 if proj else DIM} | ({"global_pool": pool} if pool else {})
    tower.trunk = timm.create_model(name, pretrained=False, **options, **smaller)
    tower.head = nn.Sequential()
    if proj == "linear":
        tower.head.add_module("proj", nn.Linear(tower.trunk.num_features, DIM, bias=False))
    return tower


def _vitamin() -> Tower:
    from timm.models.vitamin import VitCfg, VitConvCfg

    shape = VitCfg(embed_dim=(8, 16, 48), depths=(2, 4, 1), stem_width=8, conv_cfg=VitConvCfg(), head_type="1d")
    smaller = {"embed_cfg": shape, "depth": 14, "img_size": 224, **NARROW}
    return _timm("vitamin_small_224", pool="", proj="linear", smaller=smaller)


def _resnet() -> Tower:
    from open_clip.modified_resnet import ModifiedResNet

    return ModifiedResNet([3, 4, 6, 3], output_dim=DIM, heads=4, image_size=224, width=8)


STAND_INS: Mapping[str, Callable[[], Tower]] = MappingProxyType(
    {
        "ViT-B-16": _open_clip,
        "ViT-L-14-CLIPA": lambda: _open_clip(
            layers=24, patch_size=14, no_ln_pre=True, pool_type="avg", final_ln_after_pool=True
        ),
        "EVA02-B-16": lambda: _timm("eva02_base_patch16_clip_224", pool="token"),
        "PE-Core-B-16": lambda: _timm(
            "vit_pe_core_base_patch16_224", pool="map", smaller={"attn_pool_num_heads": 4, **NARROW}
        ),
        "ViT-B-16-SigLIP": lambda: _timm("vit_base_patch16_siglip_224", pool="map", proj="none"),
        "ViTamin-S": _vitamin,
        "MobileCLIP-B": lambda: _timm("vit_base_mci_224", pool="token", smaller={"depth": 3}),  # its width is fixed
        "MobileCLIP-S1": lambda: _timm(
            "fastvit_mci1", pool="avg", size=256, smaller={"layers": (1, 2, 2, 1), "embed_dims": (8, 16, 32, 32)}
        ),
        "convnext_base": lambda: _timm(
            "convnext_base", pool="", proj="linear", smaller={"depths": (1, 1, 3, 1), "dims": (8, 16, 24, 40)}
        ),
        "RN50": _resnet,
    }
)

__all__ = ["DIM", "NARROW", "STAND_INS", "architecture", "moved", "narrow"]
