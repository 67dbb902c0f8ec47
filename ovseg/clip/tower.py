"""The door to a tower: what it can do, the taps that a method looks at, and one vector for every patch.

Any vision tower of open_clip may be given; `families` finds the walk that fits it, and a method that the tower cannot
do is refused by a sentence, never answered with an unchanged tower. The unchanged blocks run once (`prefix`); another
method on the same picture then costs one block more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from ovseg.clip.attention import read, taps_of
from ovseg.clip.families import find
from ovseg.clip.methods import LAST_BLOCKS, canonical, last_block
from ovseg.clip.program import LastBlock
from ovseg.clip.sight import Sight
from ovseg.clip.walk import Prefix, Tower, Walk
from ovseg.errors import BadInput, UnsupportedTower

Compute: TypeAlias = Callable[[Prefix, Tensor], tuple[Tensor, ...]]  # who computes the unchanged blocks

VANILLA = LAST_BLOCKS["vanilla"]


@dataclass(frozen=True)
class Capabilities:
    """What `probe` found: `refuses` maps a method to the sentence that says why this tower cannot do it."""

    family: str
    depth: int
    heads: int
    own: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    dim: int
    refuses: dict[str, str]


def probe(tower: Tower) -> Capabilities:
    """Family and sizes of a vision tower, read from the module itself, never from a name.

    Every method that the tower cannot do is in `refuses` with a sentence; `ovseg check --towers` prints them.
    """
    try:
        walk = find(visual_of(tower))
    except UnsupportedTower as error:
        family = type(getattr(tower, "trunk", tower)).__name__
        return Capabilities(family, 0, 0, 0, (0, 0), (0, 0), 0, dict.fromkeys(LAST_BLOCKS, str(error)))
    refuses = {name: why for name, row in LAST_BLOCKS.items() if (why := why_not(walk, row))}
    return Capabilities(walk.family, walk.depth, walk.heads, walk.own, walk.native, walk.patch, walk.dim, refuses)


def why_not(walk: Walk, row: LastBlock) -> str:
    """Empty where this tower can run the row; else the sentence that says what it lacks."""
    if row.groups == VANILLA.groups and row.residual and row.mlp:
        return ""  # the tower as it is
    lacks = dict(walk.refuses)
    if not walk.own:
        lacks.setdefault("own", "it reads the image's own token, and this tower pools its patches instead")
    if walk.depth < 3:
        lacks.setdefault("layers", f"it reads blocks before the last, and this tower has {walk.depth} in all")
    return next((lacks[need] for need in sorted(row.needs) if need in lacks), "")


def check(tower: Tower, method: str) -> Walk:
    """The walk of a tower that can run this method, or `UnsupportedTower` with the sentence that says why not."""
    name = canonical(method)
    walk = find(visual_of(tower))
    refusal = why_not(walk, last_block(name))
    if refusal:
        works = ", ".join(other for other, row in LAST_BLOCKS.items() if not why_not(walk, row)) or "none"
        raise UnsupportedTower(f"method {name} cannot read this {walk.family}: {refusal}. Methods that can: {works}.")
    return walk


def prefix(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    taps: Sequence[int] = (),
    positions: str = "bicubic",
    compute: Compute = Prefix.__call__,
) -> dict[int, Float[Tensor, "b n embed"]]:
    """The taps of the asked blocks and of the last: what enters them; the image's own token first if there is one.

    Sizes that are no multiple of the patch lose the rest, as in the convolution itself; `dense` never gives such.
    `compute` runs the unchanged blocks; without it they run as they are.
    """
    grid = grid_of(walk, pixels)
    wanted = tuple(sorted({*taps, walk.depth}))
    return dict(zip(wanted, compute(Prefix(walk, wanted, grid), walk.enter(pixels, positions)), strict=True))


def dense_tokens(
    tower: Tower,
    pixels: Tensor,
    method: str = "maskclip-reduced",
    *,
    guide: Tensor | None = None,
    positions: str = "bicubic",
    compat: bool = False,
    layers: str = "scaled",
) -> Float[Tensor, "b rows cols dim"]:
    """One vector a patch, projected into the space of the texts, not normalised.

    `tower` is an open_clip vision tower (or a model that has one as `.visual`); `pixels` are normalised with the
    tower's own mean and standard deviation. `guide` (batch, channels, rows', cols') is another network's map, which
    guided methods need and answer on the grid of. `compat` reproduces what is wrong in a released program;
    `layers="as-released"` takes published block numbers as they are in a tower of any depth, "scaled" (default) in
    proportion. Works under any grad mode. Raises `UnknownName` for a method that no row has, `UnsupportedTower` for a
    tower that cannot do it, `BadInput` for pixels of another shape or a guide that lacks.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point() or not len(pixels):
        raise BadInput(
            "pixels must be (batch, 3, height, width) and normalised floats: got "
            f"{list(pixels.shape)} of {str(pixels.dtype).removeprefix('torch.')}"
        )
    if layers not in ("scaled", "as-released"):
        raise BadInput(f'layers must be "scaled" or "as-released": got {layers!r}')
    walk, row = check(tower, method), last_block(method)
    as_released = layers == "as-released"
    taps = prefix(walk, pixels, taps_of(row, walk.depth, as_released), positions)
    given: Mapping[str, Tensor] = {} if guide is None else {"guide": guide}
    return read(Sight(walk, taps, grid_of(walk, pixels), given, compat, as_released), row).cells


def grid_of(walk: Walk, pixels: Float[Tensor, "b 3 height width"]) -> tuple[int, int]:
    """Token rows and columns that these pixels give."""
    height, width = pixels.shape[-2:]
    rows, cols = height // walk.patch[0], width // walk.patch[1]
    if not rows or not cols:
        raise BadInput(f"pixels must hold at least one patch of {walk.patch[0]}x{walk.patch[1]}: got {height}x{width}")
    return rows, cols


def visual_of(tower: Tower) -> Tower:
    """The vision tower of a whole model; a tower itself."""
    return tower.visual if isinstance(getattr(tower, "visual", None), nn.Module) else tower


__all__ = [
    "Capabilities",
    "Compute",
    "VANILLA",
    "check",
    "dense_tokens",
    "grid_of",
    "prefix",
    "probe",
    "visual_of",
    "why_not",
]
