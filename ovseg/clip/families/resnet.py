"""open_clip's ModifiedResNet (RN50 to RN50x64): its attention pool is the one block there is.

The pool's tokens are the mean of the map, which stands for the image, and the map's cells, positions added to all of
them. It has no residual and no MLP, and its output matrix is the projection: a row that keeps a residual cannot be read
here. Each cell's own value through the output matrix (`maskclip-reduced`) is what MaskCLIP (arXiv:2112.01071,
chongzhou96/MaskCLIP@245d31f) does with a ResNet, except that it leaves the positions out of the values; CLIP Surgery
(xmed-lab/CLIP_Surgery@d4696d4) keeps them, as the pool was trained.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ovseg.clip.families import adapter
from ovseg.clip.walk import Tower, resampled
from ovseg.errors import UnsupportedTower

STRIDE = 32  # px: stem 4, then three stages of 2
NO_STREAM = (
    "the attention pool of a ResNet has no residual and no MLP: rows that drop both can be read (maskclip-reduced)"
)
ONE_BLOCK = "the attention pool of a ResNet is its only block: there is no earlier one to take anything from"


@dataclass(frozen=True, eq=False)
class ResNet:
    """A ModifiedResNet; `norm` and `project` do nothing, `out` ends in the space of the texts."""

    tower: Tower
    family: str = "ModifiedResNet"
    depth: int = 1
    own: int = 1
    patch: tuple[int, int] = (STRIDE, STRIDE)

    @property
    def heads(self) -> int:
        return int(self.tower.attnpool.num_heads)

    @property
    def width(self) -> int:
        return int(self.tower.attnpool.q_proj.in_features)

    @property
    def dim(self) -> int:
        return int(self.tower.attnpool.c_proj.out_features)

    @property
    def native(self) -> tuple[int, int]:
        side = math.isqrt(len(self.tower.attnpool.positional_embedding) - 1)
        return side, side

    @property
    def refuses(self) -> Mapping[str, str]:
        return {"residual": NO_STREAM, "mlp": NO_STREAM, "layers": ONE_BLOCK}

    def enter(self, pixels: Float[Tensor, "b 3 height width"], positions: str) -> Float[Tensor, "b n embed"]:
        tower = self.tower
        field = tower.stem(adapter.cut(pixels, self.patch).to(tower.conv1.weight.dtype))
        for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            field = layer(field)
        grid, cells = (field.shape[2], field.shape[3]), field.flatten(2).mT
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        place = resampled(tower.attnpool.positional_embedding, 1, self.native, grid, positions)
        entered: Tensor = tokens + place.to(tokens.dtype)
        return entered

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Every token as a query of the pool, (b, n, dim); upstream asks for the image's own alone."""
        return self._gathered(tokens, len(tokens[0]))

    def norm(self, number: int, tokens: Tensor) -> Tensor:
        return tokens

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        pool, (batch, count, width) = self.tower.attnpool, normed.shape
        matrices = {"q": pool.q_proj, "k": pool.k_proj, "v": pool.v_proj}
        shape = (batch, count, pool.num_heads, width // pool.num_heads)
        return {letter: matrices[letter](normed).view(shape).transpose(1, 2) for letter in letters}

    def out(self, number: int, mixed: Tensor) -> Tensor:
        projected: Tensor = self.tower.attnpool.c_proj(mixed)
        return projected

    def mlp(self, number: int, tokens: Tensor) -> Tensor:
        raise UnsupportedTower(f"{NO_STREAM}.")

    def project(self, tokens: Tensor) -> Float[Tensor, "b n dim"]:
        return tokens

    def whole(self, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b dim"]:
        return self._gathered(last, 1)[:, 0]

    def _gathered(self, tokens: Tensor, queries: int) -> Tensor:
        """The pool's answer to the first tokens' queries."""
        sides = self.sides(1, tokens, self.native)
        mixed = F.scaled_dot_product_attention(sides["q"][:, :, :queries], sides["k"], sides["v"])
        return self.out(1, mixed.transpose(1, 2).flatten(2))


def belongs(tower: Tower) -> bool:
    """Whether this is a ResNet of open_clip's making."""
    return hasattr(tower, "layer4") and not hasattr(tower, "trunk")


def lacks(tower: Tower) -> str:
    """Empty where `ResNet` is right; else what this tower is or lacks."""
    pool, parts = getattr(tower, "attnpool", None), ("positional_embedding", "q_proj", "k_proj", "v_proj", "c_proj")
    missing = [name for name in parts if not hasattr(pool, name)] + [
        name for name in ("stem",) if not hasattr(tower, name)
    ]
    if missing:
        return f"it has no attention pool with {', '.join(missing)}"
    count = len(tower.attnpool.positional_embedding) - 1
    return "" if math.isqrt(count) ** 2 == count else f"its pool has places for {count} cells, which is no square"


def walk(tower: Tower) -> ResNet:
    """The walk of such a tower."""
    return ResNet(tower)


__all__ = ["NO_STREAM", "ONE_BLOCK", "ResNet", "STRIDE", "belongs", "lacks", "walk"]
