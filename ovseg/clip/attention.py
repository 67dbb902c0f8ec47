"""The attention program: how the last block of a ViT is read to get one useful vector for every patch, as data.

A method is a row of `LAST_BLOCKS`. A row's groups are weight matrices (tokens x tokens): the terms of one group are
added *before* the softmax, groups are added *after* it, so each row of the sum adds up to the groups' weights. Then
come the attention's own output matrix with its bias, the block's residual and MLP if the method keeps them, the
tower's last norm and its projection. Row sums of 1, 2 and 3 are different methods, because the bias and the residual
do not scale with them.

How a group runs follows from its data, never from its name: an identity group is the value path alone, and a softmax
group is one fused attention call (several q/k/v terms are concatenated along the head width), so that no
heads x tokens x tokens matrix is ever kept.

Papers: MaskCLIP (Zhou et al. 2022, arXiv:2112.01071), SCLIP (Wang et al. 2023, arXiv:2312.01597), ClearCLIP (Lan et al.
2024, arXiv:2407.12442), NACLIP (Hajimiri et al. 2025, arXiv:2404.08181). Each row equals its authors' released program.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ovseg.errors import BadUsage, UnknownName

SOURCES = ("qk", "qq", "kk", "vv", "gauss")
NORMALISERS = ("softmax", "identity")


@dataclass(frozen=True)
class Term:
    """One (tokens x tokens) score: likeness of two of q, k, v (over the root of the head width), or nearness.

    `std` is for "gauss" alone: a Gaussian of the distance between patches, in patches, peak 1, zero to and from the
    image's own token.
    """

    source: str
    weight: float = 1.0
    std: float = 0.0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UnknownName.of("source of a term", self.source, SOURCES)
        if self.weight == 0 or (self.weight < 0 and self.source != "gauss"):
            raise BadUsage(f"a term needs a positive weight: {self.source} has {self.weight}")
        if (self.std > 0) != (self.source == "gauss"):
            raise BadUsage(f"std is for gauss, and gauss needs one: {self.source} has std {self.std}")


@dataclass(frozen=True)
class Group:
    """Terms that are added, normalised over the keys, then weighted. "identity": each token keeps its own value."""

    terms: tuple[Term, ...] = ()
    weight: float = 1.0
    normaliser: str = "softmax"

    def __post_init__(self) -> None:
        if self.normaliser not in NORMALISERS:
            raise UnknownName.of("normaliser", self.normaliser, NORMALISERS)
        if self.weight == 0:
            raise BadUsage("a group of weight 0 does nothing: leave it out")
        if bool(self.terms) != (self.normaliser == "softmax"):
            raise BadUsage("a softmax group needs terms, and an identity group has none")


@dataclass(frozen=True)
class LastBlock:
    """One dense method: the groups of the last block, what stays of the block around them, and where it comes from.

    `positions` is how the authors' program resamples the position embedding; it is used by `protocol="paper"` alone.
    """

    groups: tuple[Group, ...]
    residual: bool = True
    mlp: bool = True
    positions: str = "bicubic"
    source: str = ""

    def __post_init__(self) -> None:
        if not self.groups:
            raise BadUsage("a last block needs at least one group")

    @property
    def row_sum(self) -> float:
        """What every row of the attention adds up to."""
        return sum(group.weight for group in self.groups)


QK, QQ, KK, VV = (Term(source) for source in ("qk", "qq", "kk", "vv"))
IDENTITY = Group(normaliser="identity")
NEAR = Term("gauss", std=5.0)  # patches: NACLIP's own default

LAST_BLOCKS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "vanilla": LastBlock((Group((QK,)),), source="CLIP (arXiv:2103.00020); equals open_clip's own forward"),
        "maskclip": LastBlock((IDENTITY,), source="chongzhou96/MaskCLIP@245d31f"),
        "maskclip-reduced": LastBlock(
            (IDENTITY,), residual=False, mlp=False, positions="scale01", source="mc-lan/ClearCLIP@ad68a40"
        ),
        "sclip": LastBlock((Group((QQ,)), Group((KK,))), positions="scale01", source="wangf3014/SCLIP@b56bd30"),
        "clearclip": LastBlock(
            (Group((QQ,)),), residual=False, mlp=False, positions="scale01", source="mc-lan/ClearCLIP@ad68a40"
        ),
        "naclip": LastBlock(
            (Group((KK, NEAR)),), residual=False, mlp=False, positions="scale01", source="sinahmr/NACLIP@0cac3a6"
        ),
    }
)


def last_block(name: str) -> LastBlock:
    """The row of a method, whatever its case and with `_` read as `-`.

    >>> last_block("NACLIP").row_sum
    1.0
    """
    key = name.lower().replace("_", "-")
    if key not in LAST_BLOCKS:
        raise UnknownName.of("method", name, LAST_BLOCKS)
    return LAST_BLOCKS[key]


def run_block(
    block: Any, tokens: Float[Tensor, "b n embed"], row: LastBlock, grid: tuple[int, int]
) -> Float[Tensor, "b n embed"]:
    """The block's output with the row's attention in place of its own; token 0 is the image's own, the rest `grid`.

    The parameters are read where they are. LayerScale is applied where the block has it.
    """
    normed = block.ln_1(tokens)
    mixed = block.ls_1(attend(block.attn, normed, row.groups, grid))
    out: Tensor = tokens + mixed if row.residual else mixed
    if row.mlp:
        out = out + block.ls_2(block.mlp(block.ln_2(out)))
    return out


def attend(
    attention: nn.MultiheadAttention,
    normed: Float[Tensor, "b n embed"],
    groups: tuple[Group, ...],
    grid: tuple[int, int],
) -> Float[Tensor, "b n embed"]:
    """Weighted values of all groups, through the attention's own output matrix and bias (added once)."""
    batch, count, width = normed.shape
    heads: int = attention.num_heads
    needed = {letter for group in groups for term in group.terms for letter in term.source if len(term.source) == 2}
    sides = {
        letter: _project(attention, normed, place).view(batch, count, heads, width // heads).transpose(1, 2)
        for place, letter in enumerate("qkv")
        if letter in needed or letter == "v"
    }  # each (b, heads, n, d)
    mixed = torch.zeros_like(sides["v"])
    for group in groups:
        if group.normaliser == "identity":
            mixed = mixed + group.weight * sides["v"]
        else:
            mixed = mixed + group.weight * _softmax(sides, group.terms, grid)
    flat = mixed.transpose(1, 2).reshape(batch, count, width)
    return F.linear(flat, attention.out_proj.weight, attention.out_proj.bias)


def nearness(grid: tuple[int, int], std: float) -> Float[Tensor, "n n"]:
    """exp(-distance^2 / 2 std^2) between patches of a (rows, cols) grid; 0 to and from the image's own token (first).

    >>> nearness((1, 2), 1.0)[1, 2].item() == torch.tensor(-0.5).exp().item()
    True
    """
    rows, cols = grid
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float()
    squared = (place[:, None] - place[None]).square().sum(dim=-1)
    out = torch.zeros(rows * cols + 1, rows * cols + 1)
    out[1:, 1:] = torch.exp(-squared / (2 * std**2))
    return out


def _project(attention: nn.MultiheadAttention, normed: Tensor, place: int) -> Tensor:
    width = normed.shape[-1]
    part = slice(place * width, (place + 1) * width)
    bias = attention.in_proj_bias
    return F.linear(normed, attention.in_proj_weight[part], None if bias is None else bias[part])


def _softmax(sides: Mapping[str, Tensor], terms: tuple[Term, ...], grid: tuple[int, int]) -> Tensor:
    """One fused call: likeness terms are concatenated along the head width, nearness is the additive mask."""
    values = sides["v"]
    depth = values.shape[-1]
    alike = [term for term in terms if term.source != "gauss"]
    near = [term.weight * nearness(grid, term.std) for term in terms if term.source == "gauss"]
    mask = torch.stack(near).sum(dim=0).to(values) if near else None
    if not alike:
        assert mask is not None, "a softmax group has at least one term"
        return mask.softmax(dim=-1) @ values
    left = torch.cat([sides[term.source[0]] * term.weight**0.5 for term in alike], dim=-1)
    right = torch.cat([sides[term.source[1]] * term.weight**0.5 for term in alike], dim=-1)
    padded = F.pad(values, (0, depth * (len(alike) - 1)))  # equal widths keep the call on the fused kernel
    out = F.scaled_dot_product_attention(left, right, padded, attn_mask=mask, scale=depth**-0.5)
    return out[..., :depth]


__all__ = [
    "Group",
    "IDENTITY",
    "KK",
    "LAST_BLOCKS",
    "LastBlock",
    "NEAR",
    "NORMALISERS",
    "QK",
    "QQ",
    "SOURCES",
    "Term",
    "VV",
    "attend",
    "last_block",
    "nearness",
    "run_block",
]
