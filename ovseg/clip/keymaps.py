"""Checkpoints of other programs under the names of open_clip: what their keys are called there.

| program | its keys | here |
|---|---|---|
| Alpha-CLIP (SunzeY/AlphaCLIP@e5676c9) | `attn.in_proj.weight` | `attn.in_proj_weight` |
"""

from collections.abc import Mapping

from torch import Tensor


def openai_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a packed attention matrix that was kept as a layer of its own (`in_proj.weight`), as torch names them.

    >>> import torch
    >>> list(openai_attention({"resblocks.0.attn.in_proj.bias": torch.zeros(3), "proj": torch.zeros(2)}))
    ['resblocks.0.attn.in_proj_bias', 'proj']
    """
    return {key.replace(".attn.in_proj.", ".attn.in_proj_"): value for key, value in state.items()}


__all__ = ["openai_attention"]
