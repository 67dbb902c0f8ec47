"""timm's VisionTransformer inside open_clip: SigLIP and SigLIP2, ViTamin, MobileCLIP-B.

SigLIP and ViTamin have no image token. ViTamin pools the mean of its patches: each patch goes through the same norm and
projection alone. SigLIP pools by attention: one learned query gathers the values of all patches, so what a patch gives
is its value, and the exit of a patch is the pool's answer where that patch is the only one (`pool_values`, then
`pool_end`). Before the pool's MLP the tower's own embedding is a weighted mean of exactly these vectors, head by head.

ViTamin and MobileCLIP-B see pixels through convolutions with a total stride of 16: that is their patch. Read in timm
1.0.31 and open_clip 3.3.0; SigLIP: arXiv:2303.15343, ViTamin: arXiv:2404.02132, MobileCLIP: arXiv:2311.17049.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.families import adapter
from ovseg.clip.walk import POOLED, Tower, Walk, packed, pair, resampled

POOLS = ("token", "avg", "map")
NO_OWN = "this tower has no image token: its embedding is pooled from the patches"


@dataclass(frozen=True, eq=False)
class TimmVit:
    """A `TimmModel` around timm's VisionTransformer, with blocks of the plain kind."""

    tower: Tower

    @property
    def family(self) -> str:
        return f"TimmModel/{adapter.kind(self.tower)}"

    @property
    def depth(self) -> int:
        return len(self.tower.trunk.blocks)

    @property
    def heads(self) -> int:
        return int(self.tower.trunk.blocks[-1].attn.num_heads)

    @property
    def width(self) -> int:
        return int(self.tower.trunk.embed_dim)

    @property
    def dim(self) -> int:
        return adapter.width(self.tower)

    @property
    def own(self) -> int:
        return int(self.tower.trunk.cls_token is not None)

    @property
    def patch(self) -> tuple[int, int]:
        return pair(self.tower.trunk.patch_embed.feat_ratio(as_scalar=False))

    @property
    def native(self) -> tuple[int, int]:
        return pair(self.tower.trunk.patch_embed.grid_size)

    @property
    def refuses(self) -> Mapping[str, str]:
        refused = {} if self.own else {"own": NO_OWN}
        if self.own and (self.tower.trunk.attn_pool is not None or self.tower.trunk.global_pool != "token"):
            refused["token"] = POOLED
        return refused | (
            {} if self._parts_add_up else {"linear": "its attention's output is normed over all heads together"}
        )

    @property
    def _parts_add_up(self) -> bool:
        return isinstance(self.tower.trunk.blocks[-1].attn.norm, torch.nn.Identity)

    def enter(self, pixels: Float[Tensor, "b 3 height width"], positions: str) -> Float[Tensor, "b n embed"]:
        trunk, embed = self.tower.trunk, self.tower.trunk.patch_embed
        field = adapter.cut(pixels, self.patch).to(next(trunk.parameters()).dtype)
        field = embed.proj(embed.backbone(field) if hasattr(embed, "backbone") else field)
        grid, patches = (field.shape[2], field.shape[3]), field.flatten(2).mT  # (b, rows*cols, width)
        patches = embed.norm(patches) if hasattr(embed, "norm") else patches
        own = (
            patches[:, :0]
            if trunk.cls_token is None
            else trunk.cls_token.to(patches.dtype).expand(len(patches), -1, -1)
        )
        tokens = torch.cat([own, patches], dim=1)
        if trunk.pos_embed is not None:
            placed = trunk.pos_embed.shape[1] - self.native[0] * self.native[1]  # whether the own token has a place
            place = resampled(trunk.pos_embed[0], placed, self.native, grid, positions).to(tokens.dtype)
            tokens = tokens + F.pad(place, (0, 0, self.own - placed, 0))
        entered: Tensor = trunk.norm_pre(tokens)
        return entered

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        out: Tensor = self.tower.trunk.blocks[number - 1](tokens)
        return out

    def norm(self, number: int, tokens: Tensor) -> Tensor:
        out: Tensor = self.tower.trunk.blocks[number - 1].norm1(tokens)
        return out

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        attention = self.tower.trunk.blocks[number - 1].attn
        sides = packed(normed, attention.qkv.weight, attention.qkv.bias, attention.num_heads, letters)
        return normed_sides(attention, sides)

    def out(self, number: int, mixed: Tensor) -> Tensor:
        block = self.tower.trunk.blocks[number - 1]
        scaled: Tensor = block.ls1(block.attn.proj(block.attn.norm(mixed)))
        return scaled

    def mlp(self, number: int, tokens: Tensor) -> Tensor:
        block = self.tower.trunk.blocks[number - 1]
        added: Tensor = block.ls2(block.mlp(block.norm2(tokens)))
        return added

    def project(self, tokens: Tensor) -> Float[Tensor, "b n dim"]:
        trunk = self.tower.trunk
        tokens = trunk.norm(tokens)
        if trunk.attn_pool is not None:
            tokens = pool_end(trunk.attn_pool, pool_values(trunk.attn_pool, tokens))
        projected: Tensor = self.tower.head(trunk.head(trunk.fc_norm(tokens)))
        return projected

    def whole(self, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b dim"]:
        trunk = self.tower.trunk
        if trunk.attn_pool is None and trunk.global_pool == "token":
            return self.project(own_alone(self, last, grid))[:, 0]
        embedding: Tensor = self.tower.head(trunk.forward_head(trunk.norm(self.block(self.depth, last, grid))))
        return embedding


def belongs(tower: Tower) -> bool:
    """Whether the trunk is timm's VisionTransformer, whatever its blocks."""
    return adapter.kind(tower) == "VisionTransformer"


def lacks(tower: Tower) -> str:
    """Empty where `TimmVit` is right; else what this tower is or lacks."""
    return adapter.lacks(tower) or lacks_of_trunk(tower.trunk, {"Block"}, {"Attention"})


def walk(tower: Tower) -> TimmVit:
    """The walk of such a tower."""
    return TimmVit(tower)


def lacks_of_trunk(trunk: Tower, blocks: set[str], attentions: set[str]) -> str:
    """Empty where a transformer of timm's has the blocks, the attention and the pool that are read here.

    Classes are compared, not parts: a subclass may compute something else with the same parts.
    """
    if trunk.reg_token is not None:
        return f"it has {trunk.reg_token.shape[1]} register tokens beside its patches"
    if trunk.global_pool not in POOLS:
        return f"it pools by {trunk.global_pool!r}, not by {', '.join(POOLS)}"
    if trunk.attn_pool is not None and type(trunk.attn_pool).__name__ != "AttentionPoolLatent":
        return f"it pools by {type(trunk.attn_pool).__name__}"
    if trunk.attn_pool is not None and trunk.attn_pool.pos_embed is not None:
        return "its attention pool has positions of its own"
    for block in trunk.blocks:
        attention: Any = getattr(block, "attn", None)
        if type(block).__name__ not in blocks or type(attention).__name__ not in attentions:
            return f"its blocks are {type(block).__name__} with {type(attention).__name__}"
        if getattr(attention, "gate", None) is not None:
            return "its attention is gated by the tokens themselves"
        if getattr(attention, "num_kv_groups", 1) > 1 or attention.num_heads * attention.head_dim != trunk.embed_dim:
            return "its keys or values have fewer heads than its queries, or heads of another width"
    return ""


def normed_sides(attention: Tower, sides: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries and keys through the attention's norms of them (none in most towers)."""
    norms = {"q": attention.q_norm, "k": attention.k_norm}
    return {letter: norms[letter](side) if letter in norms else side for letter, side in sides.items()}


def own_alone(walk: Walk, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b 1 embed"]:
    """The image token after the last block; no other token is finished."""
    number, normed = walk.depth, walk.norm(walk.depth, last)
    sides = walk.sides(number, normed, grid)
    mixed = F.scaled_dot_product_attention(sides["q"][:, :, :1], sides["k"], sides["v"])
    own = last[:, :1] + walk.out(number, mixed.transpose(1, 2).flatten(2))
    return own + walk.mlp(number, own)


def pool_values(pool: Tower, tokens: Float[Tensor, "b n embed"]) -> Float[Tensor, "b n embed"]:
    """What each token gives to an attention pool: its value through the output matrix, bias included.

    The pool weights these, head by head, with weights that sum to 1.
    """
    width = tokens.shape[2]
    bias = None if pool.kv.bias is None else pool.kv.bias[width:]
    given: Tensor = pool.proj(F.linear(tokens, pool.kv.weight[width:], bias))
    return given


def pool_end(pool: Tower, gathered: Float[Tensor, "b n embed"]) -> Float[Tensor, "b n embed"]:
    """What an attention pool makes of gathered values: its MLP beside them."""
    return gathered if pool.mlp is None else gathered + pool.mlp(pool.norm(gathered))


__all__ = [
    "NO_OWN",
    "POOLS",
    "TimmVit",
    "belongs",
    "lacks",
    "lacks_of_trunk",
    "normed_sides",
    "own_alone",
    "pool_end",
    "pool_values",
    "walk",
]
