"""What a tower is shown and asked: two pictures, taps in double precision, upstream's own answers, and its first state.

Sizes are chosen to tell mistakes apart: two pictures, rows and columns that differ, more patches than a head is wide.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovseg.clip.attention import read, taps_of
from ovseg.clip.program import LastBlock
from ovseg.clip.sight import Sight
from ovseg.clip.tower import prefix
from ovseg.clip.walk import Tower, Walk, pair
from ovseg.conformance.results import Result

BEYOND = 1.1  # patches for each channel of a head: fewer, and PEARL's turn of the keys is not defined
SAME = 1e-5  # of the spread: q, k, v of the same token in another order

Taps = Mapping[int, Tensor]


@dataclass(frozen=True, eq=False)
class Bench:
    """A tower, a copy of it in double precision, their walks, and the pictures they are shown."""

    tower: Tower
    walk: Walk
    exact_tower: Tower
    exact: Walk
    rows: Mapping[str, LastBlock]
    seed: int = 0
    _kept: dict[LastBlock, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """More patches than a head is wide, more columns than rows."""
        walk, (rows, cols) = self.walk, (5, 9)
        while walk.heads and rows * cols < BEYOND * walk.width / walk.heads:
            rows, cols = rows + 1, cols + 2
        return rows, cols

    @cached_property
    def pixels(self) -> Float[Tensor, "b 3 height width"]:
        """Two pictures of noise."""
        return self.noise(2, 3, self.grid[0] * self.walk.patch[0], self.grid[1] * self.walk.patch[1])

    @cached_property
    def guide(self) -> Float[Tensor, "b channels r c"]:
        """Another network's map, on a grid of its own."""
        return self.noise(2, 9, self.grid[0] + 2, self.grid[1] + 1)

    def noise(self, *shape: int) -> Tensor:
        """The same normal numbers whenever the same shape is asked, in double precision."""
        random = torch.Generator().manual_seed(self.seed + 7)
        return torch.randn(*shape, generator=random).double().to(first(self.tower).device)

    @cached_property
    def numbers(self) -> list[int]:
        """Every block whose tap some row looks at."""
        return sorted({number for row in self.rows.values() for number in taps_of(row, self.walk.depth)})

    @cached_property
    def both(self) -> Taps:
        """Taps of the two pictures, in double precision."""
        return self.taps(self.exact, self.pixels)

    @cached_property
    def alone(self) -> list[Taps]:
        """Taps of each picture by itself, in double precision."""
        return [self.taps(self.exact, self.pixels[i : i + 1]) for i in range(2)]

    @cached_property
    def twice(self) -> list[Taps]:
        """Taps of the two pictures from the tower itself, computed two times."""
        return [self.taps(self.walk, self.pixels) for _ in range(2)]

    @cached_property
    def flat(self) -> Taps:
        """Taps of two pictures without content, from the tower itself."""
        return self.taps(self.walk, torch.full_like(self.pixels, 0.3))

    def answer(self, row: LastBlock) -> Tensor:
        """A row's answer for the two pictures, in double precision; computed once."""
        if row not in self._kept:
            self._kept[row] = self.cells(self.exact, row, self.both)
        return self._kept[row]

    def taps(self, walk: Walk, pixels: Tensor) -> Taps:
        """Every tap that some row looks at, for pixels in the precision of the walk's tower."""
        return prefix(walk, pixels.to(first(walk.tower)), self.numbers)

    def cells(
        self,
        walk: Walk,
        row: LastBlock,
        taps: Taps,
        *,
        guide: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b rows cols dim"]:
        """A row's answer; the bench's own guide unless another is given."""
        given = {"guide": self.guide if guide is None else guide} if "guide" in row.needs else {}
        return read(Sight(walk, taps, grid or self.grid, given), row).cells


class Found:
    """A tower as it was found: its state, its hooks, its switches and its answer."""

    def __init__(self, tower: nn.Module, walk: Walk) -> None:
        self.tower = tower
        random = torch.Generator().manual_seed(5)
        self.pixels = torch.randn(1, 3, *size_of(tower, walk), generator=random).to(first(tower))

    def __enter__(self) -> "Found":
        self.state = {key: value.clone() for key, value in self.tower.state_dict().items()}
        self.around = _around(self.tower)
        self.answer = embedding(self.tower, self.pixels)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def changes(self) -> list[str]:
        """What is not as it was."""
        now = self.tower.state_dict()
        out = [key for key in sorted({*now, *self.state}) if not _same(now.get(key), self.state.get(key))]
        return out + (["hooks or switches"] if _around(self.tower) != self.around else [])

    def result(self, name: str, method: str) -> Result:
        """Whether state, hooks and switches are as found; what has changed is taken as found from here on."""
        changed = self.changes()
        if changed:
            self.state = {key: value.clone() for key, value in self.tower.state_dict().items()}
            self.around = _around(self.tower)
        said = f"the tower was changed: {', '.join(changed[:3])}" if changed else "the tower is left as it was found"
        return Result(name, method, "untouched", "failed" if changed else "ok", float(len(changed)), 0.0, said)

    def forward(self, name: str) -> Result:
        """Whether the tower's own answer is what it was, bit by bit, after all methods."""
        apart = float((embedding(self.tower, self.pixels) - self.answer).abs().max())
        said = "the tower's own embedding is bit-identical after all methods"
        broken = "the tower's own embedding is another one after all methods"
        return Result(name, "vanilla", "untouched", "failed" if apart else "ok", apart, 0.0, broken if apart else said)


def knows_places(bench: Bench) -> bool:
    """Whether q, k, v of a token depend on its place: told by giving the same tokens in another order."""
    walk = bench.exact
    normed = walk.norm(walk.depth, bench.both[walk.depth])
    count = normed.shape[1]
    order = torch.cat([torch.arange(walk.own), torch.arange(walk.own, count).flip(0)])
    sides, moved = walk.sides(walk.depth, normed, bench.grid), walk.sides(walk.depth, normed[:, order], bench.grid)
    return any(apart(moved[letter], sides[letter][:, :, order]) > SAME for letter in sides)


def _whole_tokens(tower: Tower, pixels: Tensor) -> Tensor:
    """open_clip's own tokens, and their image token's exit for each: (b, n, dim)."""
    before, tower.output_tokens = tower.output_tokens, True
    try:
        _, tokens = tower(pixels)
    finally:
        tower.output_tokens = before
    tokens = tower.ln_post(tokens) if tower.final_ln_after_pool else tokens
    projected: Tensor = tokens @ tower.proj
    return projected


def _trunk_tokens(tower: Tower, pixels: Tensor) -> Tensor:
    """timm's own tokens or cells, each through the tower's own pool and head as if it were the only one."""
    given = tower.trunk.forward_features(pixels)
    tokens = given.flatten(2).mT if given.ndim == 4 else given  # a map, or tokens
    each = tokens.flatten(0, 1)
    alone = each[:, :, None, None] if given.ndim == 4 else each[:, None]
    out: Tensor = tower.head(tower.trunk.forward_head(alone))
    return out.reshape(*tokens.shape[:2], -1)


# by a part that a tower of the kind has: upstream's own way to every token, independent of any walk
UPSTREAM: Mapping[str, Callable[[Tower, Tensor], Tensor]] = MappingProxyType(
    {"output_tokens": _whole_tokens, "trunk": _trunk_tokens}
)


def embedding(tower: Tower, pixels: Tensor) -> Tensor:
    """The tower's own image embedding; the first of what it gives if it gives tokens too."""
    out = tower(pixels)
    first_of: Tensor = out[0] if isinstance(out, tuple) else out
    return first_of


def turned(tokens: Tensor, grid: tuple[int, int], own: int) -> Tensor:
    """Tokens in the order of the transposed picture."""
    patches = tokens[:, own:].reshape(len(tokens), *grid, -1).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :own], patches], dim=1)


def apart(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the spread of what is wanted; infinite for another shape."""
    if got.shape != wanted.shape:
        return math.inf
    return float((got - wanted).abs().max() / wanted.std().clamp(min=1e-30))


def first(tower: Tower) -> Tensor:
    """A parameter of the network, for its precision and its device."""
    parameter: Tensor = next(tower.parameters())
    return parameter


def size_of(tower: Tower, walk: Walk) -> tuple[int, int]:
    """Height and width of the pictures that upstream's own forward takes."""
    size = getattr(tower, "image_size", None)
    if size is None:
        return walk.native[0] * walk.patch[0], walk.native[1] * walk.patch[1]
    return pair(size)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _around(tower: nn.Module) -> list[tuple[int, ...]]:
    """Hooks, mode and gradients of every part."""
    return [tuple(_counts(part)) for part in tower.modules()]


def _counts(part: nn.Module) -> Iterator[int]:
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        yield len(getattr(part, kind))
    yield int(part.training)
    yield sum(parameter.requires_grad for parameter in part.parameters(recurse=False))
    yield hash(type(part).__name__)
    yield id(part.__dict__.get("forward"))


__all__ = [
    "BEYOND",
    "Bench",
    "Found",
    "SAME",
    "Taps",
    "UPSTREAM",
    "apart",
    "embedding",
    "first",
    "knows_places",
    "size_of",
    "turned",
]
