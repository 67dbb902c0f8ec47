"""CASS: each head of the last block borrows the low-rank likeness graph of another network's head.

Per picture, with k the last block's keys (patches alone) and g the other network's keys (the paper: DINO ViT-B/8),
bilinear to the patches' grid and moved to the range of k:

    graphs    K_h = k kT / sqrt(d), G_h = g gT / sqrt(d), by head
    spectra   20 largest eigenvalues of each, divided by their sum; W_hi = sum |sorted spectrum h - sorted spectrum i|
    pairs     the assignment of heads with the *largest* total of W: graphs that say different things
    G         the fewest eigenvectors that hold `energy` of the eigenvalues' sum; with `stretch` those eigenvalues are
              moved to [.5 smallest, 1.5 largest]; diagonal 0; moved to the range of K_h
    weights   s((10 W G + K) / (10 W + 1) + w5), rows sum to 1; image token, residual and MLP take no part

`stretch` is off on VOC20 and Cityscapes. A graph is the Gram matrix of N x d keys, so its eigenvalues and vectors come
exactly from a thin SVD of the keys: no N x N decomposition runs.

The released program writes guide's row and CLIP's column of the assignment and reads them the other way round; its
randomised SVD makes the answer differ from run to run; its energy rule compares with the sum of what was found, so that
rank 10 is always taken. `compat=True` has the swap and rank 10, with exact vectors. It also squeezes the picture to a
square for DINO; any grid does here.

Use it with ViT-B/16 and DINO ViT-B/8 at hand; ProxyCLIP with the same guide is simpler and about as good. The text side
(clusters of names, picture-wide logits) is not here. Costs an explicit (heads x N x N) attention.

Kim et al. 2025 (arXiv:2411.17150), MICV-yonsei/CASS@228ecdd.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.scores import nearness
from ovseg.clip.tower import grid_of, prefix, why_not
from ovseg.clip.walk import Walk
from ovseg.errors import BadInput, UnsupportedTower

EIGENVALUES = 20  # compared of each graph
STRENGTH = 10.0  # of the guide's graph, times the distance of the spectra
RANK = 10  # of the released program, whatever its energy rule says
STD = 5.0  # of the nearness, in patches


def cass(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    keys: Float[Tensor, "guides channels r c"],
    *,
    stretch: bool = True,
    energy: float = 0.95,
    positions: str = "bicubic",
    compat: bool = False,
) -> Float[Tensor, "b rows cols dim"]:
    """Projected patch vectors, not normalised. `keys` are the guide's, head by head, of as many heads as the tower."""
    if why := why_not(walk, LAST_BLOCKS["naclip"]):  # the same sides of the same block
        raise UnsupportedTower(f"cass cannot read this {walk.family}: {why}.")
    rows, cols = grid = grid_of(walk, pixels)
    if len(keys) != len(pixels) or keys.shape[1] % walk.heads:
        raise BadInput(
            f"keys must be (batch, channels, rows, cols) with the tower's {walk.heads} heads in the channels: got "
            f"{list(keys.shape)} for {len(pixels)} pictures"
        )
    entering = prefix(walk, pixels, (), positions)[walk.depth][:, walk.own :]
    sides = walk.sides(walk.depth, walk.norm(walk.depth, entering), grid, "kv")
    moved = F.interpolate(keys, size=grid, mode="bilinear", align_corners=False)
    by_head = moved.reshape(len(keys), walk.heads, -1, rows * cols).mT
    near = nearness(grid, STD, own=0).to(sides["k"])
    out = []
    for own, guide, value in zip(sides["k"], by_head, sides["v"], strict=True):
        scores = mixed(own, ranged(guide, own), stretch=stretch, energy=energy, compat=compat)
        out.append(((scores + near).softmax(dim=-1) @ value).transpose(0, 1).flatten(1))
    return walk.project(walk.out(walk.depth, torch.stack(out))).reshape(len(pixels), rows, cols, -1)


def mixed(
    own: Float[Tensor, "heads n d"],
    guide: Float[Tensor, "heads n e"],
    *,
    stretch: bool = True,
    energy: float = 0.95,
    compat: bool = False,
) -> Float[Tensor, "heads n n"]:
    """Graphs of the tower's heads, each with the graph of the guide's head that is paired with it mixed in."""
    graphs = own @ own.mT * own.shape[-1] ** -0.5
    apart = distances(guide, own)
    # the greatest total of distances; float32 as in the released program, where ties could else fall otherwise
    rows, cols = linear_sum_assignment((1 - apart.float()).cpu().numpy())
    out = torch.empty_like(graphs)
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        weight = STRENGTH * float(apart[row, col])
        ours, theirs = (row, col) if compat else (col, row)
        added = ranged(low_rank(guide[theirs], RANK if compat else energy, stretch), graphs[ours])
        out[ours] = (weight * added + graphs[ours]) / (weight + 1)
    return out


def distances(guide: Float[Tensor, "heads n e"], own: Float[Tensor, "heads n d"]) -> Float[Tensor, "heads heads"]:
    """How unlike the spectra of every two graphs are: rows are the guide's heads, columns the tower's."""
    theirs, ours = spectrum(guide), spectrum(own)
    return (theirs[:, None] - ours[None]).abs().sum(dim=-1)


def spectrum(keys: Float[Tensor, "heads n d"]) -> Float[Tensor, "heads count"]:
    """The largest eigenvalues of each head's graph as parts of their sum, falling; zeros where it has no more."""
    values = torch.linalg.svdvals(keys.double()).square()
    count = min(EIGENVALUES, keys.shape[1])
    values = F.pad(values[:, :count], (0, max(0, count - values.shape[1])))
    return values / values.sum(dim=-1, keepdim=True)


def low_rank(keys: Float[Tensor, "n e"], rule: float | int, stretch: bool) -> Float[Tensor, "n n"]:
    """A head's graph (up to a factor) from few eigenvectors, diagonal 0: so many, or those that hold so much of it.

    `rule` is a count if it is whole, else the part of the eigenvalues' sum.
    """
    vectors, roots, _ = torch.linalg.svd(keys.double(), full_matrices=False)
    values = roots.square()
    held = values.cumsum(dim=0) / values.sum()
    rank = rule if isinstance(rule, int) else int((held < rule).sum()) + 1
    vectors, values = vectors[:, :rank], values[:rank]
    if stretch and values[0] > values[-1]:
        low, high = 0.5 * values[-1], 1.5 * values[0]
        values = (values - values[-1]) / (values[0] - values[-1]) * (high - low) + low
    graph: Tensor = ((vectors * values) @ vectors.mT).fill_diagonal_(0)
    return graph.to(keys.dtype)


def ranged(tensor: Float[Tensor, "*shape"], like: Float[Tensor, "*other"]) -> Float[Tensor, "*shape"]:
    """The tensor moved and scaled to the smallest and largest value of the other."""
    low, high = like.min(), like.max()
    unit = (tensor - tensor.min()) / (tensor.max() - tensor.min()).clamp(min=1e-12)
    return unit * (high - low) + low


__all__ = [
    "EIGENVALUES",
    "RANK",
    "STD",
    "STRENGTH",
    "cass",
    "distances",
    "low_rank",
    "mixed",
    "ranged",
    "spectrum",
]
