"""torch's functions, computed by kernels that are faster on this machine and equal up to rounding.

On a CPU torch multiplies float32 matrices with MKL, which on AMD leaves half of the machine idle; the same wheel holds
oneDNN, which does not. `with Kernels():` sends `F.linear` there, and attention to one product for q, k, v and one fused
call. It is a torch function mode: it belongs to the thread that enters it and ends with the block, so no module is
replaced, no parameter copied and no global switch turned.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Linear: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_ATTENTION = inspect.signature(F.multi_head_attention_forward)
_ABSENT = ("key_padding_mask", "bias_k", "bias_v", "add_zero_attn", "need_weights", "static_k", "static_v")


def uses_onednn() -> bool:
    """Whether this torch can hand a linear layer to oneDNN (the wheels for Linux and Windows can, macOS cannot)."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN where it can (float32 on a CPU, no gradient asked), by torch elsewhere.

    2.1 times MKL's speed on two cores of a Zen 5 (197 x 768 by 768 x 3072: 416 for 179 GFLOP/s), equal to it on Intel.
    The weights are read where they are. The operation is what torch's own compiler emits for a linear layer.
    """
    given = [part for part in (tokens, weight, bias) if part is not None]
    plain = all(part.dtype == torch.float32 and part.device.type == "cpu" for part in given)
    graded = torch.is_grad_enabled() and any(part.requires_grad for part in given)
    if not plain or graded or weight.ndim != 2 or not tokens.numel() or not uses_onednn():
        return F.linear(tokens, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "none", [], "")
    return out


def half_linear(halves: Mapping[int, Tensor]) -> Linear:
    """`F.linear` in bfloat16, of whatever comes in; `halves` are weights cast beforehand, by the id of the original."""

    def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        cast = [halves.get(id(part), part).to(torch.bfloat16) for part in (weight, bias) if part is not None]
        return F.linear(tokens.to(torch.bfloat16), cast[0], cast[1] if len(cast) > 1 else None)

    return linear


class Kernels(TorchFunctionMode):
    """While it is entered, linear layers of this thread are computed by `linear` and self-attention is fused.

    Attention with masked keys, with weights asked back, with dropout or with added keys is left to torch.
    """

    def __init__(self, linear: Linear = onednn_linear) -> None:
        super().__init__()
        self.linear = linear

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self.linear(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            given = _ATTENTION.bind(*args, **kwargs).arguments
            if _is_plain(given):
                return _attention(self.linear, given), None
        return func(*args, **kwargs)


def _is_plain(given: Mapping[str, Any]) -> bool:
    asked = {"need_weights": True, "training": True} | dict(given)  # torch's own defaults
    separate = asked.get("use_separate_proj_weight", False) or asked.get("in_proj_weight") is None
    dropped = asked["training"] and asked.get("dropout_p", 0.0) > 0
    graded = torch.is_grad_enabled() and asked["need_weights"]
    absent = not any(asked.get(name) is not None and asked.get(name) is not False for name in _ABSENT)
    mask = asked.get("attn_mask")
    added = mask is None or (mask.ndim == 2 and mask.is_floating_point())  # torch reads booleans the other way round
    return absent and added and not separate and not dropped and not graded and given["query"].ndim == 3


def _attention(linear: Linear, given: Mapping[str, Any]) -> Tensor:
    """softmax(q k) v through the output matrix, as `F.multi_head_attention_forward`: tokens first, then the batch."""
    query, key, value = (given[name].transpose(0, 1) for name in ("query", "key", "value"))  # (b, n, width)
    weight, bias, heads = given["in_proj_weight"], given["in_proj_bias"], given["num_heads"]
    width = query.shape[-1]
    if given["query"] is given["key"] and given["key"] is given["value"]:
        sides = linear(query, weight, bias).view(*query.shape[:2], 3, heads, -1).unbind(2)
    else:
        sides = tuple(
            linear(tokens, weight[part], None if bias is None else bias[part]).view(*tokens.shape[:2], heads, -1)
            for place, tokens in enumerate((query, key, value))
            for part in [slice(place * width, (place + 1) * width)]
        )
    q, k, v = (side.transpose(1, 2) for side in sides)  # each (b, heads, n, d)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=given.get("attn_mask"))
    out = linear(mixed.transpose(1, 2).flatten(2), given["out_proj_weight"], given["out_proj_bias"])
    return out.transpose(0, 1)


__all__ = ["Kernels", "Linear", "half_linear", "onednn_linear", "uses_onednn"]
