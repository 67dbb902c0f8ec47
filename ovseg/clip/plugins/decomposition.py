"""How much each patch, head and layer adds to the image embedding: an exact sum, read off one ordinary forward.

The image token at the end is what entered block 1 plus what every attention and every MLP added to it; an attention's
addition is itself a sum over heads and over the tokens looked at. The last norm is affine once its mean and standard
deviation are known, so each share goes through it and through the projection by itself:

    share(x, part) = ((x - part * mean) / std * weight + part * bias) P / |embedding|

where `part` is the share's part of 1: the mean and the bias are split evenly over the 2L + 1 pieces (entrance, L
attentions, L MLPs), an attention's again over heads and tokens, as is the bias of its output matrix. All shares add up
to the unit embedding. The map of a text is the patches' shares times the text, less the mean over the texts.

Use it to see what a picture's embedding rests on, and for maps of one text against others; it localises more coarsely
than the dense rows. Costs one forward and L rows of attention; no (heads, tokens, dim) array is ever kept.

Gandelsman, Efros, Steinhardt 2024 (arXiv:2310.05916), yossigandelsman/clip_prs@e122b8a.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.tower import grid_of
from ovseg.clip.walk import Vit, Walk
from ovseg.errors import UnsupportedTower


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Shares of the unit image embedding; `whole` is the embedding itself, not normalised.

    `patches.sum((1, 2)) + own + mlps.sum(1)` and `heads.sum((1, 2)) + mlps.sum(1)` are both `whole` over its length.
    `own` is what the image token took from itself; `mlps` begins with what entered block 1.
    """

    patches: Float[Tensor, "b rows cols dim"]
    own: Float[Tensor, "b dim"]
    heads: Float[Tensor, "b depth heads dim"]
    mlps: Float[Tensor, "b depth+1 dim"]
    whole: Float[Tensor, "b dim"]

    def maps(self, text: Float[Tensor, "texts dim"]) -> Float[Tensor, "b texts rows cols"]:
        """What each patch adds to the cosine of each text, less the mean over the texts (none taken off for one)."""
        shares = torch.einsum("brcd,td->btrc", self.patches, text)
        return shares - shares.mean(dim=1, keepdim=True) if len(text) > 1 else shares


def decompose(walk: Walk, pixels: Float[Tensor, "b 3 height width"], positions: str = "bicubic") -> Decomposition:
    """The shares of these pictures; towers without an image token, or that pool their patches, are refused."""
    tower = _standard(walk).tower
    rows, cols = grid = grid_of(walk, pixels)
    depth, heads, width = walk.depth, walk.heads, walk.width
    tokens = walk.enter(pixels, positions)
    batch, count, _ = tokens.shape
    head_width = width // heads

    by_token = tokens.new_zeros(batch, count, width)  # of all attentions so far, one residual vector a token looked at
    by_head = tokens.new_empty(batch, depth, heads, width)
    added = [tokens[:, 0]]  # the entrance, then each MLP
    for number in range(1, depth + 1):
        normed = walk.norm(number, tokens)
        query = walk.sides(number, normed[:, :1], grid, "q")["q"]
        sides = walk.sides(number, normed, grid, "kv")
        weights = (query * head_width**-0.5 @ sides["k"].mT).softmax(dim=-1)  # (b, heads, 1, n): the image token's row
        bias = walk.out(number, tokens.new_zeros(1, 1, width))
        looked = (weights.mT * sides["v"]).transpose(1, 2).reshape(batch, count, width)
        by_token += walk.out(number, looked) - bias * (1 - 1 / count)
        apart = torch.diag_embed((weights @ sides["v"])[:, :, 0].mT).permute(0, 2, 3, 1)  # (b, heads, heads, d)
        by_head[:, number - 1] = walk.out(number, apart.reshape(batch, heads, width)) - bias * (1 - 1 / heads)
        mixed = tokens[:, :1] + by_head[:, number - 1].sum(dim=1, keepdim=True)
        added.append(walk.mlp(number, mixed)[:, 0])
        tokens = walk.block(number, tokens, grid)

    last, norm = tokens[:, 0], tower.ln_post
    mean = last.mean(dim=-1)
    std = (last.var(dim=-1, correction=0) + norm.eps).sqrt()
    whole = walk.project(tokens[:, :1])[:, 0]
    length = whole.norm(dim=-1)

    def through(shares: Tensor, part: float) -> Tensor:
        """Shares (b, ..., width) through norm and projection, as parts of the unit embedding."""
        aside = (-1, *[1] * (shares.ndim - 1))
        scaled = (shares - part * mean.view(aside)) / std.view(aside) * norm.weight + part * norm.bias
        out: Tensor = scaled @ tower.proj / length.view(aside)
        return out

    piece = 1 / (2 * depth + 1)
    tokens_out = through(by_token, depth * piece / count)
    return Decomposition(
        patches=tokens_out[:, 1:].reshape(batch, rows, cols, -1),
        own=tokens_out[:, 0],
        heads=through(by_head, piece / heads),
        mlps=through(torch.stack(added, dim=1), piece),
        whole=whole,
    )


def _standard(walk: Walk) -> Vit:
    """The tower whose last norm and projection are read, or the sentence that says why it can't be taken apart."""
    if walk.own != 1 or not isinstance(walk, Vit) or walk.tower.pool_type != "tok":
        raise UnsupportedTower(
            "decomposition needs an image embedding that is the image token after the last block of a standard ViT: "
            f"{walk.family} pools its patches or ends another way; use a tower of OpenAI, LAION, DataComp or MetaCLIP."
        )
    return walk


__all__ = ["Decomposition", "decompose"]
