"""timm's VisionTransformer as a guide: DINO, DINOv2 and their kin.

The released programs hook the last `qkv` anew at every call and never let go (mc-lan/ProxyCLIP@e7b767f,
YuHengsss/Trident@a93b346, zdk258/CorrCLIP@103bc18); here the last block's projection is called outright.

Papers: DINO (Caron et al. 2021, arXiv:2104.14294), DINOv2 with registers (Darcet et al. 2024, arXiv:2309.16588).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.guides.pixels import fitted
from ovseg.clip.walk import packed, pair, resampled
from ovseg.errors import UnknownName, UnsupportedTower

OUTPUTS: Mapping[str, str] = MappingProxyType({"tokens": "", "q": "q", "k": "k", "v": "v", "q+k": "qk"})


def look(
    network: Any, pixels: Float[Tensor, "b 3 height width"], output: str = "tokens", positions: str = "antialias"
) -> Float[Tensor, "b channels rows cols"]:
    """A timm VisionTransformer's map: its own modules in its own order, at any size.

    With `positions` "antialias" the tokens equal timm's `forward_features` at dynamic size; DINO's authors resample by
    the factor (n + 0.1) / side ("scale01", facebookresearch/dino `interpolate_pos_encoding`).
    """
    embed = network.patch_embed
    (rows, cols), (down, across) = grid(network, pixels.shape[2], pixels.shape[3]), pair(embed.patch_size)
    patches = embed.proj(fitted(pixels, (rows * down, cols * across)))
    batch = len(patches)
    tokens: Tensor = embed.norm(patches.flatten(2).mT)  # (b, rows*cols, width)
    prefix = [part.expand(batch, -1, -1) for part in (network.cls_token, network.reg_token) if part is not None]
    own = 0 if network.no_embed_class else sum(part.shape[1] for part in prefix)
    place = resampled(network.pos_embed[0], own, pair(embed.grid_size), (rows, cols), positions)
    if network.no_embed_class:  # registers came later: image token and registers have no place
        tokens = torch.cat([*prefix, tokens + place], dim=1)
    else:
        tokens = torch.cat([*prefix, tokens], dim=1) + place
    tokens = network.norm_pre(tokens)
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    last, letters = network.blocks[-1], OUTPUTS[output]
    if letters:
        qkv = last.attn.qkv
        sides = packed(last.norm1(tokens), qkv.weight, qkv.bias, last.attn.num_heads, letters)
        tokens = torch.stack(list(sides.values())).sum(dim=0).transpose(1, 2).flatten(2)
    else:
        tokens = network.norm(last(tokens))
    return tokens[:, -rows * cols :].mT.reshape(batch, -1, rows, cols)


def grid(network: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map of such pixels: the nearest whole number of patches."""
    down, across = pair(network.patch_embed.patch_size)
    return max(1, round(height / down)), max(1, round(width / across))


def build(architecture: str) -> Any:
    """timm's network of that name with fresh random weights and no classifier; refused unless it is a plain ViT."""
    import timm

    if not timm.is_model(architecture):
        raise UnknownName.of("architecture of a guide", architecture, timm.list_models("vit*"))
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
    parts = ("patch_embed", "pos_embed", "norm_pre", "blocks", "norm")
    missing = [part for part in parts if getattr(network, part, None) is None]
    if missing or getattr(getattr(network.blocks[-1], "attn", None), "qkv", None) is None:
        raise UnsupportedTower(
            f"a guide must be one of timm's plain ViTs (learned places, one packed qkv): {architecture} is "
            f"{type(network).__name__} without {', '.join(missing) or 'a packed qkv'}"
        )
    return network


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of DINO's or DINOv2's authors by timm's names; one that has timm's names is only rid of its head.

    DINO's names are timm's. DINOv2 adds a mask token (of training alone), and with registers the image token's place
    is put into the token, since timm gives places to patches alone there.
    """
    out = {key: value for key, value in state.items() if key != "mask_token" and not key.startswith("head.")}
    if "register_tokens" in out:
        place = out["pos_embed"]
        out["reg_token"] = out.pop("register_tokens")
        out["cls_token"] = out["cls_token"] + place[:, :1]
        out["pos_embed"] = place[:, 1:]
    return out


__all__ = ["OUTPUTS", "build", "grid", "look", "timm_state"]
