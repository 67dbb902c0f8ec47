"""ResCLIP with its feedback (SFR): what a first pass found, as one more term of a second.

    1. the row `resclip` gives patch vectors; their cosines with the texts go to `feed`, which gives F (cells x cells)
    2. 1.4 s(strength [(1 - share) kk + share F / max F] + w5) (+) 0.6 times the mean over blocks 6 to 9 of s(qk)

`feed` is a caller's: the paper's own labels the cells (PAMR, softmax, arg-max, most frequent in a cell) and links cells
of one label (`ovseg.stages.sfr`). `strength`, `share` are 2.2, .7 (VOC21, the default), 1.8, .7 (C60, Object, C59,
Stuff), 2.1, .6 (VOC20, Cityscapes), 2.1, .7 (ADE). The image token has no feedback.

Use it where objects are whole and names are few; the words are part of the second pass, so other words need it anew.
Costs one block more than `resclip`, and the feeding. The released program rounds F to half precision; here it stays.

Yang et al. 2025 (arXiv:2411.15851), yvhangyang/ResCLIP@0e085f7.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.attention import read, taps_of
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.program import Group, LastBlock, Term
from ovseg.clip.sight import Sight
from ovseg.clip.tower import grid_of, prefix, why_not
from ovseg.clip.walk import Walk
from ovseg.errors import BadInput, BadUsage, UnsupportedTower

# one picture (height, width, 3) and its cosines (rows, r, c), both float32, to its links (cells, cells), row-major
Feed = Callable[[np.ndarray, np.ndarray], np.ndarray]


def resclip(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    text: Float[Tensor, "names dim"],
    feed: Feed,
    *,
    strength: float = 2.2,
    share: float = 0.7,
    positions: str = "bicubic",
) -> Float[Tensor, "b rows cols dim"]:
    """Patch vectors of the second pass, projected and not normalised. `text` has unit rows."""
    first, second = LAST_BLOCKS["resclip"], second_row(strength, share)
    if why := why_not(walk, first):
        raise UnsupportedTower(f"resclip cannot read this {walk.family}: {why}.")
    grid = grid_of(walk, pixels)
    taps = prefix(walk, pixels, taps_of(first, walk.depth), positions)
    cosines = (F.normalize(read(Sight(walk, taps, grid), first).cells, dim=-1) @ text.mT).permute(0, 3, 1, 2)
    links = torch.stack([linked(feed, picture, rows) for picture, rows in zip(pixels, cosines, strict=True)])
    given = {"feedback": F.pad(links, (walk.own, 0, walk.own, 0)).to(cosines)}
    return read(Sight(walk, taps, grid, given), second).cells


def second_row(strength: float, share: float) -> LastBlock:
    """The row of the second pass: `resclip` with feedback in the scores of the last block."""
    if not 0 < share < 1 or strength <= 0:
        raise BadUsage(f"share lies between 0 and 1, strength above 0: got {share}, {strength}; `resclip` has neither")
    own, earlier = LAST_BLOCKS["resclip"].groups
    near = tuple(term for term in own.terms if term.source == "gauss")
    terms = (Term("kk", weight=strength * (1 - share)), Term("feedback", weight=strength * share), *near)
    return replace(LAST_BLOCKS["resclip"], groups=(Group(terms, weight=own.weight), earlier))


def linked(
    feed: Feed, picture: Float[Tensor, "3 height width"], cosines: Float[Tensor, "names rows cols"]
) -> Float[Tensor, "n n"]:
    """What `feed` says of one picture, over its largest value."""
    rows, cols = cosines.shape[1:]
    links = feed(
        np.ascontiguousarray(picture.detach().permute(1, 2, 0).float().cpu().numpy()),
        np.ascontiguousarray(cosines.detach().float().cpu().numpy()),
    )
    if links.shape != (rows * cols, rows * cols):
        raise BadInput(f"feed must link {rows * cols} cells with each other: got {list(links.shape)}")
    made = torch.from_numpy(np.asarray(links, np.float32))
    return made / made.max().clamp(min=1e-12)


__all__ = ["Feed", "linked", "resclip", "second_row"]
