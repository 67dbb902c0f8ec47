"""Trident, stages 1 and 2: windows read as ProxyCLIP does, joined before the block ends, then spread as SAM attends.

    1. each window: s(cut 3 (G - 1.2 mean G)) v on the guide's grid, through Wo; G is the cosine between the guide's
       cells (the paper: DINO ViT-B/16, last tokens), its mean taken over the windows of the picture
       each result bilinear to the next whole multiple of the window's tokens; averaged where windows overlap
    2. the joined map bilinear to SAM's grid; there F <- rn(mean over heads of A_h [cos(V_h) > t]) F, with A_h, V_h the
       weights and values of SAM's last global attention, and for each cell i
       t_i = min(.9, factor * mean over heads and cells of cos(V_h)_i); `negative` stands in for a t_i below 0
    result: LNp and projection of that, on SAM's grid; neither residual nor MLP

`factor` is 1.2; Cityscapes 3 (the picture's halves go through SAM apart: call `spread` on each), VOC20 0. `negative` is
None except .6 on ADE and Cityscapes. Use it for large pictures, when SAM runs anyway: it sees the whole of it. Costs
one (cells x cells) product a head over SAM's grid, two such matrices at a time. Stage 3, SAM's prompts, is a matter of
proposals.

The released program takes rows for columns when it folds values into a grid, so it is right for square windows alone;
this is right on any. A cell that is linked to nothing keeps its own value.

Shi et al. 2024 (arXiv:2411.09219), YuHengsss/Trident@a93b346.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.groups import attend
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.sight import Sight
from ovseg.clip.tower import grid_of, prefix, why_not
from ovseg.clip.walk import Walk
from ovseg.errors import BadInput, UnsupportedTower

MOST = 0.9  # a threshold never asks for more likeness than this, so that a cell always keeps itself

Place = tuple[int, int, int, int]  # top, left, bottom, right of a window, in tokens of the whole picture


def trident(
    walk: Walk,
    windows: Float[Tensor, "w 3 height width"],
    guide: Float[Tensor, "w channels r c"],
    places: Sequence[Place],
    attention: Float[Tensor, "heads m m"],
    values: Float[Tensor, "heads rows cols d"],
    *,
    factor: float = 1.2,
    negative: float | None = None,
    positions: str = "bicubic",
) -> Float[Tensor, "rows cols dim"]:
    """Projected vectors of one picture on SAM's grid, not normalised."""
    joined = stitch(read(walk, windows, guide, positions), places)
    rows, cols = values.shape[1:3]
    field = F.interpolate(joined[None], size=(rows, cols), mode="bilinear", align_corners=False)[0]
    return walk.project(spread(field, attention, values, factor=factor, negative=negative)[None])[0].reshape(
        rows, cols, -1
    )


def read(
    walk: Walk,
    windows: Float[Tensor, "w 3 height width"],
    guide: Float[Tensor, "w channels r c"],
    positions: str = "bicubic",
) -> Float[Tensor, "w embed r2 c2"]:
    """Stage 1 of every window of one picture, on the next whole multiple of its tokens that holds the guide's grid."""
    row = LAST_BLOCKS["proxyclip"]
    if why := why_not(walk, row):
        raise UnsupportedTower(f"trident cannot read this {walk.family}: {why}.")
    grid, cells = grid_of(walk, windows), (guide.shape[2], guide.shape[3])
    taps = prefix(walk, windows, (), positions)
    patches = walk.norm(walk.depth, taps[walk.depth][:, walk.own :])
    together = Sight(walk, taps, grid, {"guide": guide}, compat=True)  # one mean for all windows of the picture
    mixed = walk.out(walk.depth, attend(together, walk.depth, patches, row.groups))
    times = max(-(-cells[0] // grid[0]), -(-cells[1] // grid[1]))
    wide = mixed.mT.reshape(len(windows), -1, *cells)
    return F.interpolate(wide, size=(times * grid[0], times * grid[1]), mode="bilinear", align_corners=False)


def stitch(fields: Float[Tensor, "w embed r c"], places: Sequence[Place]) -> Float[Tensor, "embed rows cols"]:
    """The windows' fields on the picture's grid, averaged where they overlap; each a whole multiple of its place."""
    if len(places) != len(fields):
        raise BadInput(f"every window needs its place: {len(fields)} windows, {len(places)} places")
    height, width = places[0][2] - places[0][0], places[0][3] - places[0][1]
    times = fields.shape[2] // height if height else 0
    if any((bottom - top, right - left) != (height, width) for top, left, bottom, right in places) or (
        fields.shape[2:] != (times * height, times * width)
    ):
        raise BadInput(
            f"places must be of one size that fields are a multiple of: {height}x{width} for {list(fields.shape[2:])}"
        )
    rows, cols = times * max(place[2] for place in places), times * max(place[3] for place in places)
    total, seen = fields.new_zeros(fields.shape[1], rows, cols), fields.new_zeros(rows, cols)
    for field, place in zip(fields, places, strict=True):
        top, left, bottom, right = (times * edge for edge in place)
        total[:, top:bottom, left:right] += field
        seen[top:bottom, left:right] += 1
    if not seen.all():
        raise BadInput("the windows must cover the picture: some of its cells lie in none")
    return total / seen


def spread(
    field: Float[Tensor, "embed rows cols"],
    attention: Float[Tensor, "heads m m"],
    values: Float[Tensor, "heads rows cols d"],
    *,
    factor: float = 1.2,
    negative: float | None = None,
) -> Float[Tensor, "m embed"]:
    """Stage 2: each cell becomes a mean of the cells that SAM attends to and whose SAM values are alike."""
    unit = F.normalize(values.flatten(1, 2), dim=-1)  # (heads, m, d)
    mean = torch.einsum("hmd,hd->m", unit, unit.mean(dim=1)) / len(unit)  # of every row of the Gram matrices
    threshold = factor * mean
    if negative is not None:
        threshold = torch.where(threshold < 0, negative, threshold)
    threshold = threshold.clamp(max=MOST)[:, None]
    weights = attention.new_zeros(attention.shape[1:])
    for looks, mine in zip(attention, unit, strict=True):  # one head at a time: SAM's grid has up to 4096 cells
        weights += looks * (mine @ mine.mT > threshold)
    sums = weights.sum(dim=-1, keepdim=True)
    cells = field.flatten(1).mT
    return torch.where(sums > 0, weights / sums.clamp(min=torch.finfo(sums.dtype).tiny) @ cells, cells)


__all__ = ["MOST", "Place", "read", "spread", "stitch", "trident"]
