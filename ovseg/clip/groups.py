"""Groups: terms normalised over the keys and multiplied into the values, each in the cheapest way that its data allows.

| what the group holds | run as | N x N matrices |
|---|---|---|
| nothing (identity) | the value path alone | 0 |
| q, k, v terms | one fused attention call; several terms lie side by side along the head width | 0 |
| ... with nearness, feedback | the same; these are its additive mask | 1 |
| guide, block, feedback | one softmax that all heads share, one product with all channels | 1 |
| terms over other layers, balance | explicit softmaxes, one running sum | heads |

A row of scores that is all -inf (nothing is linked to it) attends to itself; only such rows change.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.mend import Mended
from ovseg.clip.program import LIKENESS, Group
from ovseg.clip.scores import mask_of, pair_of, self_linked, shared_score
from ovseg.clip.sight import Sight, guide_of
from ovseg.raster import bilinear


def attend(
    sight: Sight,
    number: int,
    normed: Float[Tensor, "b n embed"],
    groups: tuple[Group, ...],
    mended: Mended | None = None,
) -> Float[Tensor, "b m embed"]:
    """Weighted values of all groups in block `number`, before its output matrix; m is n but for a guided row."""
    needed = {letter for group in groups for term in group.terms if term.source in LIKENESS for letter in term.source}
    if any(term.scale == "norms" for group in groups for term in group.terms):
        needed |= {"q", "k"}
    if any(term.centre or term.align for group in groups for term in group.terms):
        needed.add("q")
    sides = sight.walk.sides(number, normed, sight.grid, "".join(sorted({*needed, "v"})))
    mixed: Tensor | None = None
    for group in groups:
        part = group.weight * _RUNS[kind_of(group)](sight, group, sides, normed, mended)
        mixed = part if mixed is None else mixed + part
    assert mixed is not None, "a last block has at least one group"
    return mixed.transpose(1, 2).flatten(2)


def balanced(total: Float[Tensor, "*lead n n"], rounds: int) -> Float[Tensor, "*lead n n"]:
    """CLIPer's normaliser, `rounds` times columns then rows over their sums; then symmetric, minus the column mean,
    negatives 0, rows over their sums. A row of zeros keeps its own token."""
    for _ in range(rounds):
        total = total / total.sum(dim=-2, keepdim=True)
        total = total / total.sum(dim=-1, keepdim=True)
    even = (total + total.mT) / 2
    even = (even - even.mean(dim=-2, keepdim=True)).clamp(min=0)
    sums = even.sum(dim=-1, keepdim=True)
    eye = torch.eye(even.shape[-1], dtype=even.dtype, device=even.device)
    return torch.where(sums > 0, even / sums.clamp(min=1e-30), eye)


def kind_of(group: Group) -> str:
    """The way a group is run: a key of the table below."""
    if group.normaliser == "softmax" and len(group.layers):
        return "layers"
    if group.normaliser == "softmax" and not any(term.source in LIKENESS for term in group.terms):
        return "guided" if group.guided else "shared"
    return group.normaliser


def _identity(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    return sides["v"]


def _fused(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    """One fused call: likeness terms are concatenated along the head width, everything else is the additive mask."""
    values = sides["v"]
    depth = values.shape[-1]
    alike = [term for term in group.terms if term.source in LIKENESS]
    others = [term for term in group.terms if term.source not in LIKENESS]
    mask = mask_of(sight, others, sides, normed, mended) if others else None
    lefts, rights = zip(*(pair_of(sight, term, sides, normed) for term in alike), strict=True)
    left, right = torch.cat(lefts, dim=-1), torch.cat(rights, dim=-1)
    padded = F.pad(values, (0, depth * (len(alike) - 1)))  # equal widths keep the call on the fused kernel
    out = F.scaled_dot_product_attention(left, right, padded, attn_mask=mask, scale=depth**-0.5)
    return out[..., :depth]


def _shared(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    """One softmax for all heads."""
    weights = mask_of(sight, list(group.terms), sides, normed, mended).softmax(dim=-1)
    return _all_heads(weights.squeeze(1) if weights.ndim == 4 else weights, sides["v"])


def _guided(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    """A guide's affinity on its own grid. A (U v) = (A U) v: the weights come to the values' grid."""
    weights = self_linked(shared_score(sight, group.terms[0], None)).softmax(dim=-1)  # (b, m, m)
    rows, cols = guide_of(sight).shape[2:]
    if (rows, cols) != sight.grid:
        down = torch.from_numpy(bilinear(sight.grid[0], rows)).to(weights)
        across = torch.from_numpy(bilinear(sight.grid[1], cols)).to(weights)
        spread = weights.reshape(*weights.shape[:2], rows, cols)
        weights = torch.einsum("bmrc,rp,cq->bmpq", spread, down, across).flatten(2)
    return _all_heads(weights, sides["v"])


def _all_heads(weights: Tensor, values: Tensor) -> Tensor:
    """One (m, n) weight matrix a picture times the values of all heads at once: (b, heads, m, d)."""
    heads, depth = values.shape[1], values.shape[3]
    flat: Tensor = weights @ values.transpose(1, 2).flatten(2)
    return flat.view(*flat.shape[:2], heads, depth).transpose(1, 2)


def _layers(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    """The mean over other blocks of their softmax, times this block's values."""
    numbers = sight.numbers(group.layers)
    return _weights_of(sight, group, numbers) / len(numbers) @ sides["v"]


def _balance(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None) -> Tensor:
    """The balanced sum of other blocks' softmaxes, times this block's values."""
    total = _weights_of(sight, group, sight.numbers(group.layers))
    return balanced(total, sight.last) @ sides["v"]


def _weights_of(sight: Sight, group: Group, numbers: list[int]) -> Float[Tensor, "b heads n n"]:
    """The sum over blocks of the softmax of a group's terms there."""
    letters = "".join(sorted({letter for term in group.terms for letter in term.source}))
    total: Tensor | None = None
    for number in numbers:
        normed = sight.walk.norm(number, sight.taps[number])
        sides = sight.walk.sides(number, normed, sight.grid, letters)
        score: Tensor | None = None
        for term in group.terms:
            left, right = pair_of(sight, term, sides, normed)
            part = left @ (right * left.shape[-1] ** -0.5).mT
            score = part if score is None else score + part
        assert score is not None
        weights = score.softmax(dim=-1)
        total = weights if total is None else total + weights
    assert total is not None, "layers name at least one block"
    return total


Run = Callable[[Sight, Group, Mapping[str, Tensor], Tensor, Mended | None], Tensor]
_RUNS: Mapping[str, Run] = MappingProxyType(
    {
        "identity": _identity,
        "softmax": _fused,
        "shared": _shared,
        "guided": _guided,
        "layers": _layers,
        "balance": _balance,
    }
)


__all__ = ["Run", "attend", "balanced", "kind_of"]
