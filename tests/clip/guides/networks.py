"""Narrow networks of timm's own class, every parameter moved, and what a walk must leave as it was."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from ovseg.clip.guides import Guide, GuideRow

SIZES = {
    "dino": {"patch_size": 8, "img_size": 56, "qkv_bias": True},
    "dinov2 with registers": {
        "patch_size": 14,
        "img_size": 70,
        "qkv_bias": True,
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 1e-5,
    },
    "normed before, native wide": {"patch_size": 8, "img_size": (40, 56), "pre_norm": True},
}


def shaken(network: Any, seed: int = 0) -> Any:
    """The same network with every parameter moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.requires_grad_(False).eval()


def vit(kind: str = "dino", **options: Any) -> Any:
    """A narrow network of timm's own class."""
    torch.manual_seed(1)
    sizes = {**SIZES[kind], "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, **options}
    return shaken(VisionTransformer(**sizes))


def guide(network: Any, output: str = "tokens", positions: str = "antialias") -> Guide:
    return Guide("own", GuideRow("vit", "own", output, positions=positions), network)


def fingerprint(network: torch.nn.Module) -> tuple[Any, ...]:
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules()]
    return (
        sum(hooks),
        [type(part) for part in network.modules()],
        [value.sum() for value in network.state_dict().values()],
    )
