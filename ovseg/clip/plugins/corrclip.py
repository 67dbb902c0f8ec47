"""CorrCLIP: regions decide who may look at whom, another network's features how much, and three readings are added.

With G the cosines of the other network's cells (the paper: DINO ViT-B/8, queries plus keys of its last layer):

    regions       means of unit features, made unit; regions within `merge` of the best pair's likeness become one
    scope         a cell looks at cells of its own region; a cell of no region (0), and whoever looks at one, at cells
                  with G above the picture's mean
    weights       softmax(4 G) inside the scope, one for all heads, on the other network's grid
    main          Wo weights v, v of the last block's input, brought to that grid
    spatial       the same of the mean output of middle blocks (6 to 10 of 12, 11 to 22 of 24, 3 to L-2 else)
    semantic      one copy of the image token a region, through all blocks, looking at the image token and its region
    result        LNp(main) + 1.0 LNp(spatial) + 0.5 LNp(semantic), projected; neither residual nor MLP

Use it where regions are good (SAM 2, EntitySeg): the strongest training-free road published with code. Costs one
(cells x cells) softmax a picture and a few tokens more in every block; the regions cost most. A majority vote per
region follows in the paper (labels, not features). The released program takes the smallest number of a window for "no
region" even where every cell has one, and one picture at a time; `compat=True` keeps the first.

Zhang et al. 2025 (arXiv:2411.10086), zdk258/CorrCLIP@103bc18 (CorrCLIPv1).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ovseg.clip.mend import likeness
from ovseg.clip.tower import grid_of
from ovseg.clip.walk import Vit, Walk
from ovseg.errors import UnsupportedTower

TEMPERATURE = 4.0
SPATIAL = {12: (6, 10), 24: (11, 22)}  # first and last block averaged, by depth; other towers: 3 to L-2
FRESH = 10_000  # merged regions are numbered from here on, past the caller's numbers


def corrclip(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    guide: Float[Tensor, "b channels rows cols"],
    regions: Int[Tensor, "b height width"],
    *,
    spatial: float = 1.0,
    semantic: float = 0.5,
    merge: float = 0.2,
    positions: str = "bicubic",
    compat: bool = False,
) -> Float[Tensor, "b rows cols dim"]:
    """Projected vectors on the guide's grid, not normalised. `regions` counts from 1; 0 belongs to no region."""
    if not isinstance(walk, Vit) or walk.own != 1 or walk.tower.pool_type != "tok" or walk.depth < 2:
        raise UnsupportedTower(
            f"corrclip copies the image token that a standard ViT ends in: {walk.family} has none that can be copied."
        )
    grid, cells = grid_of(walk, pixels), (guide.shape[2], guide.shape[3])
    unit = F.normalize(guide, dim=1).flatten(2).mT  # (b, cells, channels)
    alike = likeness(unit)
    at_cells = F.interpolate(regions[:, None].float(), size=cells, mode="nearest")[:, 0].long()
    at_cells = torch.stack([merged(one, mine, merge, compat) for one, mine in zip(at_cells, unit, strict=True)])
    scopes = [scope(one.flatten(), mine, compat).logical_not() for one, mine in zip(at_cells, alike, strict=True)]
    weights = (TEMPERATURE * alike).masked_fill(torch.stack(scopes), float("-inf")).softmax(dim=-1)
    at_patches = F.interpolate(at_cells[:, None].float(), size=grid, mode="nearest")[:, 0].long()

    last, middle, named = _streams(walk, walk.enter(pixels, positions), at_patches)
    out = walk.project(_read(walk, last, weights, grid, cells))
    if spatial:
        out = out + spatial * walk.project(_read(walk, middle, weights, grid, cells))
    if semantic:
        spread = [
            own[F.interpolate(where[None, None].float(), size=cells, mode="nearest").long().flatten()]
            for own, where in named
        ]
        out = out + semantic * walk.project(torch.stack(spread))
    return out.reshape(len(pixels), *cells, -1)


def merged(
    regions: Int[Tensor, "rows cols"], unit: Float[Tensor, "n channels"], merge: float, compat: bool = False
) -> Int[Tensor, "rows cols"]:
    """Region numbers of one picture's cells after those that look alike became one; cells of no region stay.

    Two regions are near if their likeness is at most `merge` below the largest there is; chains of near regions become
    one (DBSCAN with one point to a cluster is just that).
    """
    bare = int(regions.min()) if compat else 0
    flat = regions.flatten()
    numbers = torch.unique(flat)
    numbers = numbers[numbers != bare]
    if len(numbers) < 2:
        return regions
    means = F.normalize(torch.stack([unit[flat == number].mean(dim=0) for number in numbers]), dim=1)
    alike = means @ means.mT
    near = (alike.max() - alike <= merge).cpu().numpy()
    _, group = connected_components(near, directed=False)
    out = flat.clone()
    for number, joined in zip(numbers, group, strict=True):
        out[flat == number] = FRESH + int(joined)
    return out.view_as(regions)


def scope(regions: Int[Tensor, " n"], likeness: Float[Tensor, "n n"], compat: bool = False) -> Bool[Tensor, "n n"]:
    """Who may look at whom in one picture. A cell may always look at itself, so that no row is empty."""
    covered = regions != (int(regions.min()) if compat else 0)
    both = covered[:, None] & covered[None]
    inside = both & (regions[:, None] == regions[None])
    loose = ~both & (likeness > likeness.mean())
    allowed: Tensor = inside | loose
    lost = ~allowed.any(dim=1)  # a flat picture: no likeness is above the mean
    return allowed | torch.diag(lost)


def spatial_blocks(depth: int) -> tuple[int, int]:
    """First and last block whose outputs the spatial reading averages.

    >>> [spatial_blocks(depth) for depth in (3, 6, 12, 24, 32)]
    [(1, 1), (3, 4), (6, 10), (11, 22), (3, 30)]
    """
    last = max(1, depth - 2)
    return SPATIAL.get(depth, (min(3, last), last))


def _streams(
    walk: Vit, tokens: Tensor, regions: Int[Tensor, "b rows cols"]
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """What enters the last block; the middle blocks' mean output; each picture's region tokens and who has which."""
    grid = (regions.shape[1], regions.shape[2])
    first, final = spatial_blocks(walk.depth)
    index = [torch.unique(one, return_inverse=True)[1] for one in regions]  # (rows, cols) into the picture's own tokens
    allowed = [
        F.pad(where.flatten() == torch.arange(int(where.max()) + 1, device=where.device)[:, None], (1, 0), value=True)
        for where in index
    ]  # (its regions, 1 + patches): the image's own token and the region's patches
    copies = [tokens[i, :1].expand(len(mask), -1) for i, mask in enumerate(allowed)]
    total, last = torch.zeros_like(tokens), tokens
    for number in range(1, walk.depth + 1):
        last = tokens
        sides = walk.sides(number, walk.norm(number, tokens), grid, "kv")
        for i, mask in enumerate(allowed):
            own = copies[i][None]
            query = walk.sides(number, walk.norm(number, own), grid, "q")["q"]
            key, value = sides["k"][i : i + 1], sides["v"][i : i + 1]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            own = own + walk.out(number, mixed.transpose(1, 2).flatten(2))
            copies[i] = (own + walk.mlp(number, own))[0]
        if number < walk.depth:
            tokens = walk.block(number, tokens, grid)
        if first <= number <= final:
            total = total + tokens
    return last, total / (final - first + 1), list(zip(copies, index, strict=True))


def _read(
    walk: Vit, tokens: Tensor, weights: Float[Tensor, "b m m"], grid: tuple[int, int], cells: tuple[int, int]
) -> Float[Tensor, "b m embed"]:
    """Values of the last block, brought to the guide's grid and mixed by the weights."""
    value = walk.sides(walk.depth, walk.norm(walk.depth, tokens[:, 1:]), grid, "v")["v"]
    field = value.transpose(2, 3).reshape(len(tokens), -1, *grid)  # (b, width, rows, cols)
    field = F.interpolate(field, size=cells, mode="bilinear", align_corners=False)
    return walk.out(walk.depth, weights @ field.flatten(2).mT)


__all__ = ["FRESH", "SPATIAL", "TEMPERATURE", "corrclip", "merged", "scope", "spatial_blocks"]
