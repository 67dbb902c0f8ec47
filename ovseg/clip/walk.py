"""Walking a vision tower that somebody else built, block by block: the one face that every family shows the methods.

A walk reads upstream's modules where they are and calls them in upstream's order: no module is replaced, no hook is
left, no parameter is written. Blocks count from 1 to `depth`; tokens are (batch, own + rows * cols, width) with the
image's own token, if the family has one, first and patches in reading order. The *tap* of block b is what enters it:
everything a method wants of an earlier block (its attention, its output) is made again from taps, so that whoever
computes the unchanged blocks (`Prefix`) needs to give tokens and nothing else.

`Vit` is the walk of open_clip's own VisionTransformer (OpenAI, LAION, DataComp, MetaCLIP, DFN; CLIPA with its mean of
patches). The other families are drawn beside this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ovseg.errors import UnknownName

Tower: TypeAlias = Any  # an nn.Module of upstream's, whose parts are read by name

POSITIONS = ("bicubic", "scale01", "antialias", "bilinear")
POOLED = "its image vector is pooled from other tokens than the image's own, which alone says nothing here"
OF = 12  # blocks of the towers that published layer numbers speak of

# What a row may need and a tower may lack (`Walk.refuses`)
FEATURES = {
    "attention": "the last block's attention can be changed; without it the tower's own forward (vanilla) is all",
    "residual": "the last block adds to its input",
    "mlp": "the last block ends in an MLP",
    "own": "token 0 is the image's own",
    "token": "the tower's image vector is what its own token, if there is one, becomes",
    "layers": "there are blocks of the same kind before the last one",
    "linear": "a sum over heads goes through `out` as the sum of its parts, so that they can be told apart",
}


@runtime_checkable
class Walk(Protocol):
    """One vision tower as an entrance, numbered blocks and an exit.

    `own` is 1 where token 0 is the image's own and 0 where the family pools its patches; `native` is the grid of its
    position embedding.
    """

    @property
    def family(self) -> str: ...
    @property
    def tower(self) -> Tower: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def own(self) -> int: ...
    @property
    def patch(self) -> tuple[int, int]: ...
    @property
    def native(self) -> tuple[int, int]: ...
    @property
    def refuses(self) -> Mapping[str, str]:
        """What this tower lacks of `FEATURES`, each with the sentence that says why; empty where all is there."""
        ...

    def enter(self, pixels: Float[Tensor, "b 3 height width"], positions: str) -> Float[Tensor, "b n embed"]:
        """The tokens that enter block 1."""
        ...

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Upstream's own block, as it is."""
        ...

    def norm(self, number: int, tokens: Tensor) -> Tensor:
        """The norm before a block's attention."""
        ...

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        """Those of q, k, v that `letters` names, each (b, heads, n, d), bias and rotation included.

        `normed` may lack the image's own token: patches alone are n = rows * cols.
        """
        ...

    def out(self, number: int, mixed: Tensor) -> Tensor:
        """Weighted values (b, n, width) through the attention's output matrix with its bias, and LayerScale."""
        ...

    def mlp(self, number: int, tokens: Tensor) -> Tensor:
        """What a block's MLP adds to these tokens, norm before it and LayerScale included."""
        ...

    def project(self, tokens: Tensor) -> Float[Tensor, "b n dim"]:
        """The exit for every token: last norm and projection into the space of the texts, not normalised."""
        ...

    def whole(self, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b dim"]:
        """The tower's own image embedding, from the tap of the last block."""
        ...


@dataclass(frozen=True, eq=False)
class Vit:
    """open_clip's VisionTransformer: image token, learned positions, packed attention, `proj`.

    CLIPA pools the mean of its patches (and may norm after it): every patch goes through norm and projection here, and
    `whole` pools as the tower does.
    """

    tower: Tower
    family: str = "VisionTransformer"
    own: int = 1

    @property
    def depth(self) -> int:
        return len(self.tower.transformer.resblocks)

    @property
    def heads(self) -> int:
        return int(self.tower.transformer.resblocks[-1].attn.num_heads)

    @property
    def width(self) -> int:
        return int(self.tower.class_embedding.shape[0])

    @property
    def dim(self) -> int:
        return int(self.tower.proj.shape[1])

    @property
    def patch(self) -> tuple[int, int]:
        return pair(self.tower.patch_size)

    @property
    def native(self) -> tuple[int, int]:
        return pair(self.tower.grid_size)

    @property
    def refuses(self) -> Mapping[str, str]:
        return {} if self.tower.pool_type == "tok" else {"token": POOLED}

    def enter(self, pixels: Float[Tensor, "b 3 height width"], positions: str) -> Float[Tensor, "b n embed"]:
        tower = self.tower
        patches = tower.conv1(pixels.to(tower.conv1.weight.dtype))
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).mT  # (b, rows*cols, width)
        own = tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        place = resampled(tower.positional_embedding, 1, self.native, grid, positions)
        tokens: Tensor = tower.ln_pre(torch.cat([own, patches], dim=1) + place.to(patches.dtype))
        return tokens

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        out: Tensor = self.tower.transformer.resblocks[number - 1](tokens)
        return out

    def norm(self, number: int, tokens: Tensor) -> Tensor:
        out: Tensor = self.tower.transformer.resblocks[number - 1].ln_1(tokens)
        return out

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        attention = self.tower.transformer.resblocks[number - 1].attn
        return packed(normed, attention.in_proj_weight, attention.in_proj_bias, attention.num_heads, letters)

    def out(self, number: int, mixed: Tensor) -> Tensor:
        block = self.tower.transformer.resblocks[number - 1]
        scaled: Tensor = block.ls_1(F.linear(mixed, block.attn.out_proj.weight, block.attn.out_proj.bias))
        return scaled

    def mlp(self, number: int, tokens: Tensor) -> Tensor:
        block = self.tower.transformer.resblocks[number - 1]
        added: Tensor = block.ls_2(block.mlp(block.ln_2(tokens)))
        return added

    def project(self, tokens: Tensor) -> Float[Tensor, "b n dim"]:
        projected: Tensor = self.tower.ln_post(tokens) @ self.tower.proj
        return projected

    def whole(self, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b dim"]:
        tower = self.tower
        if tower.pool_type == "tok":
            return self.project(_own_alone(self, last))[:, 0]
        pooled, _ = tower._pool(self.block(self.depth, last, grid))
        projected: Tensor = pooled @ tower.proj
        return projected


class Prefix(nn.Module):
    """The unchanged blocks as one network: entered tokens in, the taps of the asked blocks out (numbers rising).

    Upstream's blocks are called, not copied. This is what a runtime may compile: it holds no choice of a method.
    """

    def __init__(self, walk: Walk, taps: Sequence[int], grid: tuple[int, int]) -> None:
        super().__init__()
        self.walk, self.taps, self.grid = walk, tuple(sorted(set(taps))), grid
        self.tower = walk.tower

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        out = []
        for number in range(1, self.taps[-1] + 1):
            if number in self.taps:
                out.append(tokens)
            if number < self.taps[-1]:
                tokens = self.walk.block(number, tokens, self.grid)
        return tuple(out)


def layer(block: int, depth: int) -> int:
    """A published block number (of 12) in a tower of another depth, never the last block where there is another.

    >>> [layer(block, 24) for block in (6, 9, 10)], [layer(block, 6) for block in (6, 9, 10)]
    ([12, 18, 20], [3, 5, 5])
    """
    return max(1, min(depth - 1, (2 * block * depth + OF) // (2 * OF)))


def packed(normed: Tensor, weight: Tensor, bias: Tensor | None, heads: int, letters: str) -> dict[str, Tensor]:
    """Those of q, k, v that `letters` names from one packed matrix (3 width, width): each (b, heads, n, d)."""
    batch, count, width = normed.shape
    sides = {}
    for place, letter in enumerate("qkv"):
        if letter in letters:
            part = slice(place * width, (place + 1) * width)
            side = F.linear(normed, weight[part], None if bias is None else bias[part])
            sides[letter] = side.view(batch, count, heads, width // heads).transpose(1, 2)
    return sides


def resampled(
    stored: Float[Tensor, "m embed"], own: int, native: tuple[int, int], grid: tuple[int, int], mode: str = "bicubic"
) -> Float[Tensor, "n embed"]:
    """A position embedding on another grid; the parameter itself on its own grid, bit by bit.

    The first `own` rows belong to no patch and stay. Modes: "bicubic" to the exact size (default), "scale01" by the
    factor (n + 0.1) / side as in SCLIP's family, "antialias" bicubic with antialias (open_clip, GEM), "bilinear"
    (CLIPer, CLIP Surgery).
    """
    if mode not in POSITIONS:
        raise UnknownName.of("positions", mode, POSITIONS)
    if grid == native:
        return stored
    field = stored[own:].float().mT.reshape(1, -1, *native)  # (1, width, rows, cols)
    if mode == "scale01":
        factor = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        moved = F.interpolate(field, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        kind = "bilinear" if mode == "bilinear" else "bicubic"
        moved = F.interpolate(field, size=grid, mode=kind, align_corners=False, antialias=mode == "antialias")
    return torch.cat([stored[:own], moved[0].flatten(1).mT.to(stored.dtype)])


def pair(value: int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    """Rows and columns of a size that may be one number."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _own_alone(walk: Vit, last: Tensor) -> Tensor:
    """The image token after the last block; no other token is finished."""
    block = walk.tower.transformer.resblocks[-1]
    normed = block.ln_1(last)
    own = last[:, :1] + block.ls_1(block.attn(normed[:, :1], normed, normed, need_weights=False)[0])
    finished: Tensor = own + block.ls_2(block.mlp(block.ln_2(own)))
    return finished


__all__ = [
    "FEATURES",
    "OF",
    "POOLED",
    "POSITIONS",
    "Prefix",
    "Tower",
    "Vit",
    "Walk",
    "layer",
    "packed",
    "pair",
    "resampled",
]
