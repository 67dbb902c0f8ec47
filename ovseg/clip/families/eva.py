"""timm's Eva inside open_clip: EVA01-CLIP, EVA02-CLIP and Perception Encoder (PE Core).

EVA01 is a ViT whose keys have no bias. EVA02-B and L rotate queries and keys of the patches by their place, norm the
gathered values before the output matrix and have a gated MLP with a norm inside; EVA02-E norms *after* attention and
after MLP, so `norm` gives the tokens themselves there and `out` and `mlp` end in the norm. Because of those norms the
output is no sum over heads: `refuses["linear"]`.

On another grid the rotation runs over the same range as on the native one, as timm does when a tower is built for
another picture size; the learned positions are resampled beside it.

PE Core rotates too, keeps an image token and pools by attention over all tokens, image token included: the exit of a
token is the pool's answer where that token is alone, as for SigLIP (`timm_vit`). How good its patches are so has not
been measured.

EVA-CLIP: arXiv:2303.15389; PE: arXiv:2504.13181; read in timm 1.0.31.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.families import adapter
from ovseg.clip.families.timm_vit import TimmVit, lacks_of_trunk, normed_sides
from ovseg.clip.walk import Tower, packed


@dataclass(frozen=True, eq=False)
class Eva(TimmVit):
    """A `TimmModel` around timm's Eva, with or without rotation, norm before or after."""

    @property
    def _post(self) -> bool:
        return type(self.tower.trunk.blocks[-1]).__name__ == "EvaBlockPostNorm"

    @property
    def _parts_add_up(self) -> bool:
        return super()._parts_add_up and not self._post

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        out: Tensor = self.tower.trunk.blocks[number - 1](tokens, rope=rotation(self.tower.trunk, grid))
        return out

    def norm(self, number: int, tokens: Tensor) -> Tensor:
        return tokens if self._post else super().norm(number, tokens)

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        attention = self.tower.trunk.blocks[number - 1].attn
        sides = normed_sides(attention, _unturned(attention, normed, letters))
        angles = rotation(self.tower.trunk, grid)
        if angles is None:
            return sides
        return {letter: side if letter == "v" else turned(side, angles) for letter, side in sides.items()}

    def out(self, number: int, mixed: Tensor) -> Tensor:
        block = self.tower.trunk.blocks[number - 1]
        gathered: Tensor = block.attn.proj(block.attn.norm(mixed))
        if self._post:
            gathered = block.norm1(gathered)
            return gathered
        return gathered if block.gamma_1 is None else block.gamma_1 * gathered

    def mlp(self, number: int, tokens: Tensor) -> Tensor:
        block = self.tower.trunk.blocks[number - 1]
        if self._post:
            added: Tensor = block.norm2(block.mlp(tokens))
            return added
        added = block.mlp(block.norm2(tokens))
        return added if block.gamma_2 is None else block.gamma_2 * added


def belongs(tower: Tower) -> bool:
    """Whether the trunk is timm's Eva."""
    return adapter.kind(tower) == "Eva"


def lacks(tower: Tower) -> str:
    """Empty where `Eva` is right; else what this tower is or lacks."""
    trunk = tower.trunk
    rope = trunk.rope
    if rope is not None and (trunk.rope_mixed or type(rope).__name__ != "RotaryEmbeddingCat" or rope.in_pixels):
        return f"it rotates by {type(rope).__name__}, whose angles are not those of EVA02"
    if rope is not None and getattr(rope, "rotate_half", False):
        return "it rotates halves of a vector and not neighbouring pairs"
    kinds = {"EvaBlock", "EvaBlockPostNorm"}
    return adapter.lacks(tower) or lacks_of_trunk(trunk, kinds, {"EvaAttention", "AttentionRope"})


def walk(tower: Tower) -> Eva:
    """The walk of such a tower."""
    return Eva(tower)


def rotation(trunk: Tower, grid: tuple[int, int]) -> Float[Tensor, "n two_d"] | None:
    """Sines, then cosines of every patch's angles, the tower's own on its native grid; None without rotation."""
    rope = trunk.rope
    if rope is None:
        return None
    if grid == tuple(trunk.patch_embed.grid_size) and not trunk.dynamic_img_size:
        kept: Tensor = rope.get_embed()
        return kept
    from timm.layers.pos_embed_sincos import build_rotary_pos_embed

    sines, cosines = build_rotary_pos_embed(
        list(grid),
        bands=rope.bands,
        in_pixels=False,
        ref_feat_shape=None if rope.ref_feat_shape is None else list(rope.ref_feat_shape),
        grid_offset=rope.grid_offset,
        grid_indexing=rope.grid_indexing,
        device=rope.bands.device,
    )
    return torch.cat([sines, cosines], dim=-1)


def turned(side: Float[Tensor, "b h n d"], angles: Float[Tensor, "m two_d"]) -> Float[Tensor, "b h n d"]:
    """Queries or keys with the patches' neighbouring pairs rotated; what stands before the patches stays."""
    before = side.shape[2] - len(angles)
    sines, cosines = angles.chunk(2, dim=-1)
    patches = side[:, :, before:]
    crossed = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([side[:, :, :before], (patches * cosines + crossed * sines).to(side.dtype)], dim=2)


def _unturned(attention: Tower, normed: Tensor, letters: str) -> dict[str, Tensor]:
    """q, k, v as the matrices give them; EVA's keys have no bias."""
    if attention.qkv is None:
        batch, count, _ = normed.shape
        matrices = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}
        return {
            letter: matrices[letter](normed).view(batch, count, attention.num_heads, -1).transpose(1, 2)
            for letter in letters
        }
    bias = attention.qkv.bias
    if bias is None and getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return packed(normed, attention.qkv.weight, bias, attention.num_heads, letters)


__all__ = ["Eva", "belongs", "lacks", "rotation", "turned", "walk"]
