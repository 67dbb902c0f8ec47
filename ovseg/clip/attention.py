"""The attention program's engine: runs a row of `LAST_BLOCKS` over a walked tower.

How a group runs follows from its data, never from its name:

| what the group holds | run as | N x N matrices |
|---|---|---|
| nothing (identity) | the value path alone | 0 |
| q, k, v terms | one fused attention call; several terms lie side by side along the head width | 0 |
| ... with nearness, feedback | the same; these are its additive mask | 1 |
| guide, block, feedback | one softmax that all heads share, one product with all channels | 1 |
| terms over other layers, balance | explicit softmaxes, one running sum | heads |

A key row that is all -inf (nothing is linked to it) attends to itself; only such rows change. Every mean is taken per
picture. Scores are float32 or what the tower runs in; adaptive scales are float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg.clip.methods import LAST_BLOCKS, last_block
from ovseg.clip.program import LIKENESS, Group, LastBlock, Layers, Pool, Repair, Term
from ovseg.clip.walk import Walk, layer
from ovseg.errors import BadInput, UnsupportedTower
from ovseg.raster import bilinear

KEPT_PATCHES = 2048  # of a grid whose nearness is kept: 17 MB each
NEIGHBOURS = 30  # of the outlier score, SC-CLIP's own
NEWTON_STEPS = 5  # PEARL's own: not converged, and that is part of the method
MOST_BYTES = 8 << 30  # of (tokens x tokens) matrices at once: beyond it a sentence, not the system's killer
SOM_SCALE = 1.5  # SFP scales the image token's row by 0.3 * 5 before it compares


@dataclass(frozen=True, eq=False)
class Sight:
    """What a row can look at: the walk, its taps by block number, the token grid, and what came from outside.

    `given` holds "guide" (b, channels, rows', cols') and "feedback" (b, n, n). `compat` reproduces what is wrong in a
    released program; `as_released` takes published block numbers as they are, in towers of any depth.
    """

    walk: Walk
    taps: Mapping[int, Tensor]
    grid: tuple[int, int]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    compat: bool = False
    as_released: bool = False

    def numbers(self, layers: Layers) -> list[int]:
        """Published block numbers in this tower; each at most once."""
        return scaled(layers, self.walk.depth, self.as_released)

    def patches(self, number: int) -> Float[Tensor, "b n embed"]:
        """The output patches of a block."""
        return self.taps[number + 1][:, self.walk.own :]

    @property
    def last(self) -> int:
        """The number of the last block."""
        return self.walk.depth


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
    for pool in (row.before, row.after):
        if pool:
            wanted.update(number + 1 for number in scaled((pool.layer,), depth, as_released))
    wanted.update(number + 1 for number in scaled(row.extra, depth, as_released))
    if row.repair and row.repair.detector == "som":
        wanted.add(depth - 1)
    return tuple(sorted(wanted))


def scaled(layers: Layers, depth: int, as_released: bool = False) -> list[int]:
    """Published block numbers in a tower of `depth` blocks: each scaled, of a range its ends; none twice.

    >>> scaled((7, 8, 10), 12), scaled((7, 8, 10), 6), scaled(range(6, 10), 24)
    ([7, 8, 10], [4, 5], [12, 13, 14, 15, 16, 17, 18])
    """
    if isinstance(layers, str):
        return list(range(1, depth))
    if not len(layers):
        return []
    if as_released:
        if max(layers) >= depth:
            raise BadInput(
                f"the method names block {max(layers)} as it was released, and this tower has {depth} blocks; the fast "
                'protocol (layers="scaled") takes them in proportion'
            )
        return list(layers)
    if isinstance(layers, range):
        return list(range(layer(layers[0], depth), layer(layers[-1], depth) + 1))
    return list(dict.fromkeys(layer(number, depth) for number in layers))


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
    if row.dual:
        return _second_stream(sight, row), sight.grid
    walk, last = sight.walk, sight.last
    entering = sight.taps[last]
    lacks = sorted(row.needs & set(walk.refuses))
    if lacks and row.groups == LAST_BLOCKS["vanilla"].groups and row.residual and row.mlp:
        return walk.block(last, entering, sight.grid), sight.grid  # the tower as it is
    if lacks:
        raise UnsupportedTower(f"{walk.refuses[lacks[0]] or f'this tower lacks {lacks[0]}'}.")
    own = entering[:, : walk.own]
    tokens = entering if row.cls else entering[:, walk.own :]
    outliers = detect(sight, row.repair) if row.repair else None
    mended = _Mended(sight, row.repair, outliers)
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
    guided = row.groups[0].guided
    return out, _guide(sight).shape[2:] if guided else sight.grid  # type: ignore[return-value]


def matrix_bytes(row: LastBlock, heads: int, batch: int, tokens: int) -> int:
    """About how many bytes a row's (tokens x tokens) matrices take at once, in single precision.

    >>> matrix_bytes(last_block("clearclip"), 12, 1, 4096), matrix_bytes(last_block("cliper"), 12, 1, 4096) >> 20
    (0, 2304)
    """
    kinds = {"identity": 0, "softmax": 0, "shared": 3, "guided": 3, "layers": 3 * heads, "balance": 3 * heads}
    groups = (*row.groups, *row.extra_groups)
    most = max(kinds[_kind(group)] for group in groups)
    if any(term.source not in LIKENESS for group in groups for term in group.terms):
        most = max(most, 2)
    if row.before or row.after:
        most = max(most, 3)
    if row.repair and row.repair.detector == "lof":
        most = max(most, 6)  # in double
    if row.repair and row.repair.detector == "som":
        most = max(most, 2 * heads)
    return 4 * most * batch * tokens**2


def attend(
    sight: Sight,
    number: int,
    normed: Float[Tensor, "b n embed"],
    groups: tuple[Group, ...],
    mended: "_Mended | None" = None,
) -> Float[Tensor, "b m embed"]:
    """Weighted values of all groups in block `number`, before its output matrix; m is n but for a guided row."""
    needed = {letter for group in groups for term in group.terms if term.source in LIKENESS for letter in term.source}
    if any(term.scale == "norms" for group in groups for term in group.terms):
        needed |= {"q", "k"}
    if any(term.centre or term.align for group in groups for term in group.terms):
        needed.add("q")
    sides = sight.walk.sides(number, normed, sight.grid, "".join(sorted({*needed, "v"})))
    mixed: Tensor | None = None
    for group in groups:
        part = group.weight * _RUNS[_kind(group)](sight, group, sides, normed, mended)
        mixed = part if mixed is None else mixed + part
    assert mixed is not None, "a last block has at least one group"
    return mixed.transpose(1, 2).flatten(2)


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


def likeness(tokens: Float[Tensor, "b n embed"]) -> Float[Tensor, "b n n"]:
    """Cosine between the tokens of each picture."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.mT


def pool(
    tokens: Float[Tensor, "b n embed"], by: Float[Tensor, "b n other"], floor: float
) -> Float[Tensor, "b n embed"]:
    """Means of the tokens whose `by` are alike: cosines of at least `floor`, rows over their sum."""
    alike = likeness(by)
    alike = alike * (alike >= floor)
    pooled: Tensor = alike @ tokens / (alike.sum(dim=-1, keepdim=True) + 1e-6)
    return pooled


def detect(sight: Sight, repair: Repair) -> Bool[Tensor, "b n"]:
    """Which patches entering the last block are outliers."""
    return _DETECTORS[repair.detector](sight, repair.limit)


def outlier_score(tokens: Float[Tensor, "b n embed"], neighbours: int = NEIGHBOURS) -> Float[Tensor, "b n"]:
    """D_i times the mean of 1 / D_j over the neighbours j of i, D the squared distance to the farthest neighbour.

    SC-CLIP's score, not the textbook local outlier factor. Through a Gram matrix in double: no (n, n, embed) tensor.
    """
    x = tokens.double()
    squared = x.square().sum(dim=-1)
    distance = (squared[:, :, None] + squared[:, None, :] - 2 * x @ x.mT).clamp(min=0)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    count = min(neighbours, tokens.shape[1] - 1)
    if count < 1:
        return torch.ones(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
    near, who = distance.topk(count, largest=False)
    far = near[:, :, -1].clamp(min=1e-12)  # equal patches: none is stranger than another
    inverse = (1 / far)[:, None, :].expand(-1, tokens.shape[1], -1).gather(2, who)
    return (far * inverse.mean(dim=-1)).to(tokens.dtype)


def mend(
    tokens: Float[Tensor, "b n embed"], outliers: Bool[Tensor, "b n"], grid: tuple[int, int], lonely: str = "keep"
) -> Float[Tensor, "b n embed"]:
    """Outliers become the mean of their sound 3 x 3 neighbours; one that has none stays ("keep") or becomes 0."""
    sound = (~outliers).to(tokens.dtype).reshape(-1, 1, *grid)
    cells = tokens.mT.reshape(len(tokens), -1, *grid)
    around = F.avg_pool2d(cells * sound, 3, 1, 1, divisor_override=1)
    count = F.avg_pool2d(sound, 3, 1, 1, divisor_override=1)
    mean = around / count.clamp(min=1)
    change = (1 - sound) * (count > 0 if lonely == "keep" else torch.ones_like(count))
    return torch.where(change > 0, mean, cells).flatten(2).mT


def balanced(total: Float[Tensor, "*lead n n"], rounds: int) -> Float[Tensor, "*lead n n"]:
    """CLIPer's normaliser, `rounds` times columns then rows over their sums; then symmetric, minus the column mean,
    negatives 0, rows over their sums. A row of zeros keeps its own token."""
    for _ in range(rounds):
        total = total / total.sum(dim=-2, keepdim=True)
        total = total / total.sum(dim=-1, keepdim=True)
    even = (total + total.mT) / 2
    even = (even - even.mean(dim=-2, keepdim=True)).clamp(min=0)
    sums = even.sum(dim=-1, keepdim=True)
    eye = torch.eye(even.shape[-1], dtype=even.dtype, device=even.device)
    return torch.where(sums > 0, even / sums.clamp(min=1e-30), eye)


class _Mended:
    """Patches with the row's outliers repaired; everything as it is where the row repairs nothing."""

    def __init__(self, sight: Sight, repair: Repair | None, outliers: Tensor | None) -> None:
        self.grid, self.repair, self.outliers = sight.grid, repair, outliers

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.repair is None or self.outliers is None:
            return tokens
        return mend(tokens, self.outliers, self.grid, self.repair.lonely)


def _block(sight: Sight, row: LastBlock, groups: tuple[Group, ...], tokens: Tensor, mended: _Mended) -> Tensor:
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


def _kind(group: Group) -> str:
    if group.normaliser == "softmax" and len(group.layers):
        return "layers"
    if group.normaliser == "softmax" and not any(term.source in LIKENESS for term in group.terms):
        return "guided" if group.guided else "shared"
    return group.normaliser


def _identity(
    sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None
) -> Tensor:
    return sides["v"]


def _fused(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None) -> Tensor:
    """One fused call: likeness terms are concatenated along the head width, everything else is the additive mask."""
    values = sides["v"]
    depth = values.shape[-1]
    alike = [term for term in group.terms if term.source in LIKENESS]
    others = [term for term in group.terms if term.source not in LIKENESS]
    mask = _mask(sight, others, sides, normed, mended) if others else None
    lefts, rights = zip(*(_pair_of(sight, term, sides, normed) for term in alike), strict=True)
    left, right = torch.cat(lefts, dim=-1), torch.cat(rights, dim=-1)
    padded = F.pad(values, (0, depth * (len(alike) - 1)))  # equal widths keep the call on the fused kernel
    out = F.scaled_dot_product_attention(left, right, padded, attn_mask=mask, scale=depth**-0.5)
    return out[..., :depth]


def _pair_of(sight: Sight, term: Term, sides: Mapping[str, Tensor], normed: Tensor) -> tuple[Tensor, Tensor]:
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


def _mask(
    sight: Sight, terms: list[Term], sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None
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
            score = term.weight * _shared_score(sight, term, mended)[:, None]
        total = score if total is None else total + score
    assert total is not None
    return _self_linked(total)


def _shared_score(sight: Sight, term: Term, mended: _Mended | None) -> Tensor:
    """(b, n, n) of a guide, block or feedback term, through floor, shift, scale and cut."""
    if term.source == "feedback":
        score = _given(sight, "feedback")
    elif term.source == "guide":
        score = likeness(_guide(sight).flatten(2).mT)
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


def _self_linked(score: Tensor) -> Tensor:
    """A row that is all -inf is linked to itself; other rows stay as they are, bit by bit."""
    empty = torch.isneginf(score).all(dim=-1, keepdim=True)
    eye = torch.eye(score.shape[-1], dtype=torch.bool, device=score.device)
    return torch.where(empty & eye, torch.zeros_like(score), score)


def _shared(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None) -> Tensor:
    """One softmax for all heads."""
    weights = _mask(sight, list(group.terms), sides, normed, mended).softmax(dim=-1)
    return _all_heads(weights.squeeze(1) if weights.ndim == 4 else weights, sides["v"])


def _guided(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None) -> Tensor:
    """A guide's affinity on its own grid. A (U v) = (A U) v: the weights come to the values' grid."""
    weights = _self_linked(_shared_score(sight, group.terms[0], None)).softmax(dim=-1)  # (b, m, m)
    rows, cols = _guide(sight).shape[2:]
    if (rows, cols) != sight.grid:
        down = torch.from_numpy(bilinear(sight.grid[0], rows)).to(weights)
        across = torch.from_numpy(bilinear(sight.grid[1], cols)).to(weights)
        spread = weights.reshape(*weights.shape[:2], rows, cols)
        weights = torch.einsum("bmrc,rp,cq->bmpq", spread, down, across).flatten(2)
    return _all_heads(weights, sides["v"])


def _all_heads(weights: Tensor, values: Tensor) -> Tensor:
    """One (m, n) weight matrix a picture times the values of all heads at once: (b, heads, m, d)."""
    heads, depth = values.shape[1], values.shape[3]
    flat: Tensor = weights @ values.transpose(1, 2).flatten(2)
    return flat.view(*flat.shape[:2], heads, depth).transpose(1, 2)


def _layers(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None) -> Tensor:
    """The mean over other blocks of their softmax, times this block's values."""
    numbers = sight.numbers(group.layers)
    return _weights_of(sight, group, numbers) / len(numbers) @ sides["v"]


def _balance(sight: Sight, group: Group, sides: Mapping[str, Tensor], normed: Tensor, mended: _Mended | None) -> Tensor:
    """The balanced sum of other blocks' softmaxes, times this block's values."""
    total = _weights_of(sight, group, sight.numbers(group.layers))
    return balanced(total, sight.last) @ sides["v"]


def _weights_of(sight: Sight, group: Group, numbers: list[int]) -> Float[Tensor, "b heads n n"]:
    """The sum over blocks of the softmax of a group's terms there."""
    letters = "".join(sorted({letter for term in group.terms for letter in term.source}))
    total: Tensor | None = None
    for number in numbers:
        normed = sight.walk.norm(number, sight.taps[number])
        sides = sight.walk.sides(number, normed, sight.grid, letters)
        score: Tensor | None = None
        for term in group.terms:
            left, right = _pair_of(sight, term, sides, normed)
            part = left @ (right * left.shape[-1] ** -0.5).mT
            score = part if score is None else score + part
        assert score is not None
        weights = score.softmax(dim=-1)
        total = weights if total is None else total + weights
    assert total is not None, "layers name at least one block"
    return total


Run = Callable[[Sight, Group, Mapping[str, Tensor], Tensor, "_Mended | None"], Tensor]
_RUNS: Mapping[str, Run] = MappingProxyType(
    {
        "identity": _identity,
        "softmax": _fused,
        "shared": _shared,
        "guided": _guided,
        "layers": _layers,
        "balance": _balance,
    }
)


def _by_density(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    score = outlier_score(sight.taps[sight.last][:, sight.walk.own :])
    return score > torch.quantile(score.float(), limit, dim=1, keepdim=True)


def _by_image_token(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    """Patches that the image token of the block before looks at more than they look at themselves; the strongest."""
    before = sight.last - 1
    normed = sight.walk.norm(before, sight.taps[before])
    sides = sight.walk.sides(before, normed, sight.grid, "qk")
    scale: float = sides["q"].shape[-1] ** -0.5
    weights = (sides["q"] * scale @ sides["k"].mT).softmax(dim=-1).mean(dim=1)
    seen, itself = SOM_SCALE * weights[:, 0, 1:], weights.diagonal(dim1=1, dim2=2)[:, 1:]
    return (seen > itself) & _largest(seen.masked_fill(seen <= itself, -torch.inf), limit)


def _by_length(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    return _largest(sight.taps[sight.last][:, sight.walk.own :].norm(dim=-1), limit)


def _largest(score: Tensor, limit: float | int) -> Bool[Tensor, "b n"]:
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter(1, score.topk(min(int(limit), score.shape[1]), dim=1).indices, True)


_DETECTORS: Mapping[str, Callable[[Sight, float | int], Tensor]] = MappingProxyType(
    {"lof": _by_density, "som": _by_image_token, "norm": _by_length}
)


def _guide(sight: Sight) -> Float[Tensor, "b channels guiderows guidecols"]:
    guide = _given(sight, "guide")
    if guide.ndim != 4:
        raise BadInput(f"a guide is (batch, channels, rows, cols): got {list(guide.shape)}")
    return guide


def _given(sight: Sight, what: str) -> Tensor:
    if what not in sight.given:
        raise BadInput(f"this method needs a {what}, another network's or an earlier pass's map, and none was given")
    given, batch = sight.given[what], len(sight.taps[sight.last])
    if len(given) != batch:
        raise BadInput(f"one {what} for each picture: got {len(given)} for {batch}")
    return given.to(sight.taps[sight.last])


__all__ = [
    "KEPT_PATCHES",
    "LAST_BLOCKS",
    "MOST_BYTES",
    "NEIGHBOURS",
    "NEWTON_STEPS",
    "Read",
    "Run",
    "SOM_SCALE",
    "Sight",
    "attend",
    "balanced",
    "detect",
    "last_block",
    "likeness",
    "matrix_bytes",
    "mend",
    "nearness",
    "outlier_score",
    "pool",
    "read",
    "run",
    "scaled",
    "taps_of",
]
