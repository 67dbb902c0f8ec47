"""CLIPer's readings: every block's tokens through the last block's values, mixed by the attention of all blocks before.

With M the sum over blocks 1 .. L-1 of s(qk), head by head, and value layer l:

    A_l  M with columns, then rows divided by their sums, l times; symmetric; minus the column mean; negatives 0; rows
         over their sums. The program divides in place each time it reads a layer, so layer l sees l rounds
    v_l  Wv of LN1_last of LN1_l(what enters block l) for l < L (normed twice), of what enters it for l = L
    f_l  P LNp Wo A_l v_l, no residual, no MLP; the last of them is what the row `cliper` gives

Class maps from these and from the last A, its heads averaged, are a stage (`ovseg.stages.cliper`): the mean over l of
softmax(scale cos) plus A times the thresholded map of one layer.

Use it for its even maps without a choice of layers. Costs an explicit (heads x tokens x tokens) sum, L rounds and L
products; keeps L vectors a patch.

Sun et al. 2024 (arXiv:2411.13836), linsun449/cliper.code@c05fa41.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.groups import balanced
from ovseg.clip.tower import grid_of, prefix
from ovseg.clip.walk import Walk
from ovseg.errors import UnsupportedTower


@dataclass(frozen=True, eq=False)
class Layers:
    """What every block's tokens say, projected and not normalised, and who looks at whom: the last attention, its heads
    averaged, patches alone (rows need not sum to 1 where the image token had a part)."""

    tokens: Float[Tensor, "b depth rows cols dim"]
    attention: Float[Tensor, "b n n"]


def layers(walk: Walk, pixels: Float[Tensor, "b 3 height width"], positions: str = "bicubic") -> Layers:
    """All of CLIPer's readings of these pictures."""
    lacks = walk.refuses.get("attention") or walk.refuses.get("layers")
    if lacks or walk.depth < 2:
        why = lacks or "there are none"
        raise UnsupportedTower(f"cliper sums the attention of all blocks before the last of {walk.family}: {why}.")
    grid, own, last = grid_of(walk, pixels), walk.own, walk.depth
    taps = prefix(walk, pixels, range(1, last + 1), positions)
    total: Tensor | None = None
    for number in range(1, last):
        sides = walk.sides(number, walk.norm(number, taps[number]), grid, "qk")
        scale: float = sides["q"].shape[-1] ** -0.5
        weights = (sides["q"] * scale @ sides["k"].mT).softmax(dim=-1)
        total = weights if total is None else total + weights
    assert total is not None, "there are at least two blocks"
    out, weights = [], total
    for number in range(1, last + 1):
        total = total / total.sum(dim=-2, keepdim=True)
        total = total / total.sum(dim=-1, keepdim=True)
        weights = balanced(total, 0)
        tokens = taps[number] if number == last else walk.norm(number, taps[number])
        values = walk.sides(last, walk.norm(last, tokens), grid, "v")["v"]
        mixed = walk.out(last, (weights @ values).transpose(1, 2).flatten(2))
        out.append(walk.project(mixed)[:, own:])
    tokens = torch.stack(out, dim=1)
    return Layers(tokens.reshape(*tokens.shape[:2], *grid, -1), weights.mean(dim=1)[:, own:, own:])


__all__ = ["Layers", "layers"]
