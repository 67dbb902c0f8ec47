"""The attention program's engine: runs a row of `LAST_BLOCKS` over a walked tower, from taps to cells.

`scores` makes terms, `groups` normalises them and gathers values, `mend` repairs and pools tokens; here they become the
last block (or the second stream of the last n), and the tower's exit. How anything runs follows from the row's data,
never from its name. Every mean is taken per picture.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.groups import attend, kind_of
from ovseg.clip.mend import Mended, detect, pool
from ovseg.clip.methods import LAST_BLOCKS, last_block
from ovseg.clip.program import LIKENESS, Group, LastBlock, Pool
from ovseg.clip.sight import Sight, guide_of, scaled
from ovseg.errors import BadInput, UnsupportedTower

MOST_BYTES = 8 << 30  # of (tokens x tokens) matrices at once: beyond it a sentence, not the system's killer


@dataclass(frozen=True, eq=False)
class Read:
    """What a row made of a picture: every cell, and the changed block's own image token where it took part.

    Projected, not normalised. A guided row answers on the guide's grid.
    """

    cells: Float[Tensor, "b rows cols dim"]
    own: Float[Tensor, "b dim"] | None = None


def taps_of(row: LastBlock, depth: int, as_released: bool = False) -> tuple[int, ...]:
    """The blocks whose taps a row looks at, rising; the last is always among them.

    >>> taps_of(last_block("naclip"), 12), taps_of(last_block("resclip"), 12)
    ((12,), (6, 7, 8, 9, 12))
    """
    groups = (*row.groups, *row.extra_groups)
    wanted = {depth, *range(max(1, depth - row.dual + 1), depth + 1)}
    for group in groups:
        wanted.update(scaled(group.layers, depth, as_released))
        for term in group.terms:
            wanted.update(number + 1 for number in scaled((term.layer,) if term.layer else (), depth, as_released))
    for pooled in (row.before, row.after):
        if pooled:
            wanted.update(number + 1 for number in scaled((pooled.layer,), depth, as_released))
    wanted.update(number + 1 for number in scaled(row.extra, depth, as_released))
    if row.repair and row.repair.detector == "som":
        wanted.add(depth - 1)
    return tuple(sorted(wanted))


def read(sight: Sight, row: LastBlock) -> Read:
    """A row's answer for every cell, through the tower's exit."""
    tokens, grid = run(sight, row)
    own = sight.walk.own if row.cls else 0
    out = sight.walk.project(tokens)
    return Read(_on(out[:, own:], grid), out[:, 0] if own and not row.dual else None)


def run(sight: Sight, row: LastBlock) -> tuple[Float[Tensor, "b n embed"], tuple[int, int]]:
    """The tokens that leave the last block as the row reads it, and their grid; the image token first if it took
    part."""
    batch, count, _ = sight.taps[sight.last].shape
    needed = matrix_bytes(row, sight.walk.heads, batch, count)
    if needed > MOST_BYTES:
        raise BadInput(
            f"a window of {sight.grid[0]}x{sight.grid[1]} patches makes this method hold about {needed / 1e9:.0f} GB "
            "at once: read the picture smaller (short_side) or in windows (crop=0 is the tower's own size)"
        )
    walk, last = sight.walk, sight.last
    entering = sight.taps[last]
    lacks = sorted(row.needs & set(walk.refuses))
    if lacks and row.groups == LAST_BLOCKS["vanilla"].groups and row.residual and row.mlp:
        return walk.block(last, entering, sight.grid), sight.grid  # the tower as it is
    if lacks:
        raise UnsupportedTower(f"{walk.refuses[lacks[0]] or f'this tower lacks {lacks[0]}'}.")
    if row.dual:
        return _second_stream(sight, row), sight.grid
    own = entering[:, : walk.own]
    tokens = entering if row.cls else entering[:, walk.own :]
    outliers = detect(sight, row.repair) if row.repair else None
    mended = Mended(sight, row.repair, outliers)
    tokens = mended(tokens)
    if row.before:
        tokens = pool(tokens, mended(sight.patches(sight.numbers((row.before.layer,))[0])), row.before.floor)
    out = _block(sight, row, row.groups, tokens, mended)
    if row.cls_add:
        out = out + row.cls_add * own
    out = _after(sight, row.after, out)
    if len(row.extra):
        summed = torch.stack([sight.taps[number + 1] for number in sight.numbers(row.extra)]).sum(dim=0)
        second = _block(sight, row, row.extra_groups or row.groups, summed[:, 0 if row.cls else walk.own :], mended)
        if row.cls_add:
            second = second + row.cls_add * summed[:, : walk.own]
        out = out + _after(sight, row.after, second)
    if not row.groups[0].guided:
        return out, sight.grid
    rows, cols = guide_of(sight).shape[2:]
    return out, (rows, cols)


def matrix_bytes(row: LastBlock, heads: int, batch: int, tokens: int) -> int:
    """About how many bytes a row's (tokens x tokens) matrices take at once, in single precision.

    >>> matrix_bytes(last_block("clearclip"), 12, 1, 4096), matrix_bytes(last_block("cliper"), 12, 1, 4096) >> 20
    (0, 2304)
    """
    kinds = {"identity": 0, "softmax": 0, "shared": 3, "guided": 3, "layers": 3 * heads, "balance": 3 * heads}
    groups = (*row.groups, *row.extra_groups)
    most = max(kinds[kind_of(group)] for group in groups)
    if any(term.source not in LIKENESS for group in groups for term in group.terms):
        most = max(most, 2)
    if row.before or row.after:
        most = max(most, 3)
    if row.repair and row.repair.detector == "lof":
        most = max(most, 6)  # in double
    if row.repair and row.repair.detector == "som":
        most = max(most, 2 * heads)
    return 4 * most * batch * tokens**2


def _block(sight: Sight, row: LastBlock, groups: tuple[Group, ...], tokens: Tensor, mended: Mended) -> Tensor:
    """The last block with the row's attention in place of its own."""
    walk, last = sight.walk, sight.last
    mixed = walk.out(last, attend(sight, last, walk.norm(last, tokens), groups, mended))
    out = tokens + mixed if row.residual else mixed
    return out + walk.mlp(last, out) if row.mlp else out


def _on(tokens: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b rows cols dim"]:
    return tokens.reshape(len(tokens), *grid, tokens.shape[-1])


def _after(sight: Sight, after: Pool | None, tokens: Tensor) -> Tensor:
    return pool(tokens, sight.patches(sight.numbers((after.layer,))[0]), after.floor) if after else tokens


def _second_stream(sight: Sight, row: LastBlock) -> Tensor:
    walk, first = sight.walk, max(1, sight.last - row.dual + 1)
    stream = sight.taps[first] if row.residual else torch.zeros_like(sight.taps[first])
    for number in range(first, sight.last + 1):
        normed = walk.norm(number, sight.taps[number])
        stream = stream + walk.out(number, attend(sight, number, normed, row.groups))
    return stream


__all__ = ["LAST_BLOCKS", "MOST_BYTES", "Read", "last_block", "matrix_bytes", "read", "run", "taps_of"]
