"""Terms: from a row's data to scores between tokens, before any normaliser.

A likeness term is a pair of sides whose product is the score, so that no (tokens x tokens) matrix need exist; nearness,
guide, block and feedback are matrices that all heads share. Adaptive scales and PEARL's turning are float32.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.mend import Mended, likeness
from ovseg.clip.program import Term
from ovseg.clip.sight import Sight, given_of, guide_of

KEPT_PATCHES = 2048  # of a grid whose nearness is kept: 17 MB each
NEWTON_STEPS = 5  # PEARL's own: not converged, and that is part of the method


def nearness(grid: tuple[int, int], std: float, own: int = 1) -> Float[Tensor, "n n"]:
    """exp(-distance^2 / 2 std^2) between patches of a (rows, cols) grid; 0 to and from `own` leading tokens.

    Kept for the last small grids asked: change a copy, never the tensor itself. A large one is made anew, since sixteen
    of a whole picture's would fill the memory.

    >>> nearness((1, 2), 1.0)[1, 2].item() == torch.tensor(-0.5).exp().item()
    True
    """
    make = _nearness if grid[0] * grid[1] > KEPT_PATCHES else _kept_nearness
    return make(grid, std, own)


def _nearness(grid: tuple[int, int], std: float, own: int) -> Float[Tensor, "n n"]:
    rows, cols = grid
    with torch.inference_mode(False):  # what is kept must serve callers who want gradients as well
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float()
        out = torch.zeros(rows * cols + own, rows * cols + own)
        out[own:, own:] = torch.cdist(place, place).square_().div_(-2 * std**2).exp_()
    return out


_kept_nearness = lru_cache(maxsize=16)(_nearness)


def pair_of(sight: Sight, term: Term, sides: Mapping[str, Tensor], normed: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of a likeness term, so that their product over sqrt(head width) is the weighted score."""
    left, right = sides[term.source[0]], sides[term.source[1]]
    depth = left.shape[-1]
    factor: Tensor | float = term.weight
    if term.scale == "norm":
        factor = term.weight * normed.float().norm(dim=-1).mean(dim=-1)[:, None, None, None].to(left)
    elif isinstance(term.scale, float | int):
        factor = term.weight * term.scale * depth**0.5
    if term.centre or term.align:
        left, right = _turned(term, sides, left, right, normed.shape[1] - sight.grid[0] * sight.grid[1])
    if term.unit:
        left = right = _rounds(left, term, factor) if term.rounds else F.normalize(left, dim=-1)
        if term.source[0] != term.source[1]:
            right = F.normalize(sides[term.source[1]], dim=-1)
    if isinstance(factor, float | int) and factor > 0:
        return left * factor**0.5, right * factor**0.5
    return left * factor, right


def _rounds(side: Tensor, term: Term, factor: Tensor | float) -> Tensor:
    """x <- unit(softmax(scale x xT) x), from unit rows."""
    side, scale = F.normalize(side, dim=-1), side.shape[-1] ** -0.5
    for _ in range(term.rounds):
        side = F.normalize(F.scaled_dot_product_attention(side * factor, side, side, scale=scale), dim=-1)
    return side


def _turned(term: Term, sides: Mapping[str, Tensor], left: Tensor, right: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """Sides minus their |q|-weighted patch mean, or keys turned onto queries (PEARL), head by head in float32."""
    weight = sides["q"].float().norm(dim=-1, keepdim=True)
    weight[:, :, :own] = 0
    total = weight.sum(dim=2, keepdim=True).clamp(min=1e-12)

    def centred(side: Tensor) -> Tensor:
        mean: Tensor = (weight * side.float()).sum(dim=2, keepdim=True) / total
        return side.float() - mean

    if term.centre:
        return centred(left).to(left), centred(right).to(right)
    cross = centred(right).mT @ centred(left)  # (b, heads, d, d): the image token counts here
    return left, (right.float() @ _ALIGN[term.align](cross)).to(right)


def _newton(cross: Tensor) -> Tensor:
    """cross (crossT cross)^-1/2 by Newton-Schulz steps from crossT cross over its norm."""
    gram = cross.mT @ cross
    norm = gram.flatten(2).norm(dim=-1)[..., None, None].clamp(min=1e-12)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    root, inverse = gram / norm + 1e-6 * eye, eye.expand_as(gram)
    for _ in range(NEWTON_STEPS):
        step = 0.5 * (3 * eye - inverse @ root)
        root, inverse = root @ step, step @ inverse
    turned: Tensor = cross @ inverse / norm.sqrt()
    return turned


def _exact(cross: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(cross)
    turned: Tensor = left @ right
    return turned


_ALIGN: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"polar5": _newton, "svd": _exact})


def mask_of(
    sight: Sight, terms: list[Term], sides: Mapping[str, Tensor], normed: Tensor, mended: Mended | None
) -> Tensor:
    """The sum of nearness and shared scores: (n, n) or (b, 1, n, n), with no row all -inf."""
    own = normed.shape[1] - sight.grid[0] * sight.grid[1]
    total: Tensor | None = None
    for term in terms:
        if term.source == "gauss":
            score = term.weight * nearness(sight.grid, term.std, own).to(normed)
            if term.scale == "norms":
                lengths = sides["q"].norm(dim=-1).mean(dim=2) * sides["k"].norm(dim=-1).mean(dim=2)  # (b, heads)
                score = score * lengths.mean(dim=1)[:, None, None, None] * sides["q"].shape[-1] ** -0.5
            elif isinstance(term.scale, float | int):
                score = score * term.scale
        else:
            score = term.weight * shared_score(sight, term, mended)[:, None]
        total = score if total is None else total + score
    assert total is not None
    return self_linked(total)


def shared_score(sight: Sight, term: Term, mended: Mended | None) -> Tensor:
    """(b, n, n) of a guide, block or feedback term, through floor, shift, scale and cut."""
    if term.source == "feedback":
        score = given_of(sight, "feedback")
    elif term.source == "guide":
        score = likeness(guide_of(sight).flatten(2).mT)
    else:
        patches = sight.patches(sight.numbers((term.layer,))[0])
        score = likeness(mended(patches) if mended else patches)
    if term.floor is not None:
        score = score * (score >= term.floor)
    if term.shift:
        mean = score.mean() if sight.compat else score.mean(dim=(1, 2), keepdim=True)
        score = score - term.shift * mean
    if isinstance(term.scale, float | int):
        score = score * term.scale
    return score.masked_fill(score < 0, -torch.inf) if term.cut else score


def self_linked(score: Tensor) -> Tensor:
    """A row that is all -inf is linked to itself; other rows stay as they are, bit by bit."""
    empty = torch.isneginf(score).all(dim=-1, keepdim=True)
    eye = torch.eye(score.shape[-1], dtype=torch.bool, device=score.device)
    return torch.where(empty & eye, torch.zeros_like(score), score)


__all__ = ["KEPT_PATCHES", "NEWTON_STEPS", "mask_of", "nearness", "pair_of", "self_linked", "shared_score"]
