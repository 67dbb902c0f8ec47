"""Checkpoints of other programs under the names of open_clip: what their keys are called there.

| program | its keys | here |
|---|---|---|
| Alpha-CLIP (SunzeY/AlphaCLIP@e5676c9) | `.attn.in_proj.weight` | `.attn.in_proj_weight` |
| CLIPSelf (wusize/CLIPSelf@115d571), DeCLIP | `visual.blocks.0.mlp.w1` | `visual.trunk.blocks.0.mlp.fc1_g` |
| OVSeg (facebookresearch/ov-seg@27900fa) | `clip_adapter.clip_model.visual.proj` | `visual.proj` |
| RegionCLIP (microsoft/RegionCLIP@7bab55c) | `backbone.layer1`, `lang_encoder.ln_final` | `visual.layer1`, `ln_final` |

Names alone change. The second are written by EVA-CLIP's own code. OVSeg's files hold a proposer besides, RegionCLIP's a
detector and a teacher: they are left out. RegionCLIP's have no `logit_scale`, which nothing here is computed from: they
get OpenAI's 100. Say the architecture as for the original: EVA02-B-16, ViT-L-14-quickgelu, RN50-quickgelu. CLIPSelf's
towers read dense features by the value path of the last block: method `maskclip`.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

EVA = MappingProxyType(  # parts of a block, in the order of renaming
    {
        ".attn.inner_attn_ln.": ".attn.norm.",
        ".mlp.ffn_ln.": ".mlp.norm.",
        ".mlp.w1.": ".mlp.fc1_g.",
        ".mlp.w2.": ".mlp.fc1_x.",
        ".mlp.w3.": ".mlp.fc2.",
    }
)

IN_OVSEG = "clip_adapter.clip_model."


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint under open_clip's names, whichever of the programs above wrote it; any other as it is."""
    found = dict(state)
    for written, rename in KEYMAPS.values():
        if any(written(key) for key in found):
            found = rename(found)
    return found


def openai_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a packed attention matrix that was kept as a layer of its own (`in_proj.weight`), as torch names them.

    >>> list(openai_attention({"resblocks.0.attn.in_proj.bias": torch.zeros(3), "proj": torch.zeros(2)}))
    ['resblocks.0.attn.in_proj_bias', 'proj']
    """
    return {key.replace(".attn.in_proj.", ".attn.in_proj_"): value for key, value in state.items()}


def eva_trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of EVA-CLIP's own vision tower as open_clip's timm trunk names them; rotations are made anew, not read.

    >>> list(eva_trunk({"visual.blocks.0.mlp.w3.weight": torch.zeros(2), "visual.rope.freqs_cos": torch.zeros(1)}))
    ['visual.trunk.blocks.0.mlp.fc2.weight']
    """
    out = {}
    for key, value in state.items():
        if not key.startswith("visual."):
            out[key] = value
            continue
        name = key.removeprefix("visual.")
        if "rope." in name:
            continue
        for theirs, ours in EVA.items():
            name = name.replace(theirs, ours)
        for letter in "qv":  # beside separate matrices the biases belong to them; beside a packed one they stand alone
            if name.endswith(f".attn.{letter}_bias") and f"visual.{name[:-5]}_proj.weight" in state:
                name = f"{name[:-5]}_proj.bias"
        out[f"visual.trunk.{name}"] = value
    return out


def ovseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mask-adapted CLIP of an OVSeg checkpoint, its learned tokens for blank patches with it.

    >>> list(ovseg({"clip_adapter.clip_model.visual.mask_embedding": torch.zeros(1), "backbone.norm": torch.zeros(1)}))
    ['visual.mask_embedding']
    """
    return {key.removeprefix(IN_OVSEG): value for key, value in state.items() if key.startswith(IN_OVSEG)}


def regionclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vision and text tower of a RegionCLIP checkpoint; the detector, its proposals and the teacher are left out.

    >>> sorted(regionclip({"backbone.conv1.weight": torch.zeros(1), "offline_backbone.conv1.weight": torch.zeros(1)}))
    ['logit_scale', 'visual.conv1.weight']
    """
    out = {"logit_scale": torch.tensor(math.log(100.0))}
    for key, value in state.items():
        tower, _, name = key.partition(".")
        if tower == "backbone":
            out[f"visual.{name}"] = value
        elif tower == "lang_encoder":
            out[name] = value
    return out


Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
KEYMAPS: Mapping[str, tuple[Callable[[str], bool], Rename]] = MappingProxyType(
    {
        "Alpha-CLIP": (lambda key: ".attn.in_proj." in key, openai_attention),
        "EVA-CLIP": (lambda key: key.startswith("visual.blocks."), eva_trunk),
        "OVSeg": (lambda key: key.startswith(IN_OVSEG), ovseg),
        "RegionCLIP": (lambda key: key.startswith("lang_encoder."), regionclip),
    }
)

__all__ = [
    "EVA",
    "IN_OVSEG",
    "KEYMAPS",
    "Rename",
    "eva_trunk",
    "openai_attention",
    "ovseg",
    "regionclip",
    "translated",
]
