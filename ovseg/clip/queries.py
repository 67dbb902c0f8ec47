"""Region vectors from the network's own last blocks: more image tokens beside the one there is, each with a bias.

Everything here is for one window, in walks' pieces: upstream's matrices and norms, no module of its own. Patches never
look at a region's token, so the network sees its picture as it was trained to.

`ask`      tokens that start as the image's own and look at themselves and the patches (SAN: MendelXu/SAN@e19262d,
           arXiv:2302.12242; CorrCLIP's region tokens, arXiv:2411.10086, start at the first block).
`refocus`  the image's own token with more weight on some patches, patches following (FALIP: pumpkin805/FALIP@8c5fda9,
           arXiv:2407.05578).
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from ovseg.clip.walk import OF, Walk, layer
from ovseg.errors import BadUsage

TOKENS_AT_ONCE = 8192  # of all regions' own copies of a window: about 40 kB a token in ViT-B while it runs
EPSILON = 1e-6  # FALIP's, which makes a constant box the whole of v


def first_block(start: int, depth: int) -> int:
    """The block that comes after `start` of 12 blocks, in a tower of another depth; block 1 for 0.

    >>> [first_block(start, 12) for start in (0, 9, 11)], first_block(9, 24), first_block(8, 3)
    ([1, 10, 12], 19, 3)
    """
    if not 0 <= start < OF:
        raise BadUsage(f"start counts blocks of {OF} before a region's token is its own: 0 to {OF - 1}, got {start}")
    return 1 if start == 0 else min(depth, layer(start, depth) + 1)


def ask(
    walk: Walk,
    tokens: Mapping[int, Float[Tensor, "m embed"]],
    grid: tuple[int, int],
    bias: Float[Tensor, "_ _ n cells"],
    first: int,
) -> Float[Tensor, "n dim"]:
    """The exit of n tokens that enter block `first` as the image's own does; projected, not normalised.

    `tokens` are those that enter the blocks from `first` to the last. `bias` is added to each token's logits for the
    patches; its first axis is the block (or 1 for all), its second the head (or 1). A bias of -inf hides a patch, and a
    token always sees itself: no row may be hidden from everything. The image's own token is not looked at, so a bias of
    zeros gives the image's vector. Tokens are independent of one another; memory is heads * n * cells.
    """
    own, count = walk.own, bias.shape[2]
    asking = tokens[first][:own].expand(count, -1)
    for number in range(first, walk.depth + 1):
        stream = torch.cat([asking, tokens[number]])[None]  # patches last: rotation counts from the end
        sides = walk.sides(number, walk.norm(number, stream), grid)
        query, key, value = (sides[letter][0] for letter in "qkv")  # (heads, n + 1 + cells, d)
        query = query[:, :count] * query.shape[2] ** -0.5
        seen = query @ key[:, count + own :].mT + bias[min(number - first, len(bias) - 1)]
        itself = (query * key[:, :count]).sum(dim=2, keepdim=True)
        weights = torch.cat([seen, itself], dim=2).softmax(dim=2)
        mixed = weights[:, :, :-1] @ value[:, count + own :] + weights[:, :, -1:] * value[:, :count]
        asking = _finished(walk, number, asking[None], mixed.transpose(0, 1).flatten(1)[None])[0]
    return walk.project(asking[None])[0]


def refocus(
    walk: Walk,
    tokens: Mapping[int, Float[Tensor, "m embed"]],
    grid: tuple[int, int],
    rows: Float[Tensor, "n m"],
    first: int,
) -> Float[Tensor, "n dim"]:
    """The image's vector n times, with a row added to its own token's logits in each block from `first` on.

    A row is the own token's logit, then the patches'. `tokens` are those that enter `first` and, if there is one, the
    block after it: patches leave block `first` alike for every row, so a region costs the blocks after it alone, and of
    the last the own token's share.
    """
    step = max(1, TOKENS_AT_ONCE // rows.shape[1])
    return torch.cat([_refocused(walk, tokens, grid, some, first) for some in torch.split(rows, step)])


def spans(low: float, high: float, released: bool = False) -> tuple[int, int]:
    """First and last cell that a stretch of an axis, in cells, lies on; as FALIP cuts them if `released`.

    There a stretch that begins on a border takes the cell before it as well.

    >>> spans(1.0, 2.0), spans(1.0, 2.0, released=True), spans(1.5, 2.25), spans(0.0, 0.0)
    ((1, 1), (0, 1), (1, 2), (0, 0))
    """
    if released:
        return max(math.ceil(low), 1) - 1, max(math.ceil(high), 1) - 1
    first = math.floor(low + EPSILON)
    return first, max(first, math.ceil(high - EPSILON) - 1)


def fovea(rows: int, cols: int, strength: float, sigma: float) -> Float32[np.ndarray, "rows cols"]:
    """A Gaussian about the middle of a box of cells, stretched to [0, strength]; `strength` where it is flat.

    `sigma` is in cells. FALIP's under numpy 1, as its authors pin it: under numpy 2 it divides flat boxes by a rounded
    number and is up to 5 % off.

    >>> int(fovea(3, 5, 0.2, 100.0).argmax()), fovea(1, 2, 0.5, 100.0).tolist()
    (7, [[0.5, 0.5]])
    """
    down, across = (np.arange(count) - (count - 1) / 2 for count in (rows, cols))
    gauss = np.exp(-0.5 * (np.hypot(down[:, None], across) / sigma) ** 2).astype(np.float32)
    low, high = float(gauss.min()), float(gauss.max())
    return np.asarray((gauss - low + EPSILON) / (high - low + EPSILON) * strength, np.float32)


def _refocused(
    walk: Walk, tokens: Mapping[int, Tensor], grid: tuple[int, int], rows: Float[Tensor, "n m"], first: int
) -> Float[Tensor, "n dim"]:
    stream = tokens[first][None]  # alike for every row
    for number in range(first, walk.depth + 1):
        sides = walk.sides(number, walk.norm(number, stream), grid)
        looking = sides["q"][:, :, :1] * sides["q"].shape[3] ** -0.5
        weights = (looking @ sides["k"].mT + rows[:, None, None]).softmax(dim=3)
        mixed = (weights @ sides["v"]).transpose(1, 2).flatten(2)  # (n, 1, width)
        own = _finished(walk, number, stream[:, :1].expand(len(rows), -1, -1), mixed)
        if number == walk.depth:
            break
        if number == first:
            patches = tokens[number + 1][None, 1:].expand(len(rows), -1, -1)
        else:
            mixed = F.scaled_dot_product_attention(sides["q"][:, :, 1:], sides["k"], sides["v"])
            patches = _finished(walk, number, stream[:, 1:], mixed.transpose(1, 2).flatten(2))
        stream = torch.cat([own, patches], dim=1)
    return walk.project(own)[:, 0]


def _finished(walk: Walk, number: int, tokens: Tensor, mixed: Tensor) -> Tensor:
    """Tokens after a block whose attention gathered `mixed` for them."""
    out = tokens + walk.out(number, mixed)
    return out + walk.mlp(number, out)


__all__ = ["EPSILON", "TOKENS_AT_ONCE", "ask", "first_block", "fovea", "refocus", "spans"]
