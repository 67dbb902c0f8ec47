"""Networks that end in a convolutional map: ConvNeXt-CLIP and MobileCLIP-S (timm's ConvNeXt and FastViT).

There is no last attention to change, so a method has nothing to say: what a cell gives is the tower's own head on that
cell alone. The walk has one block, which does nothing: its tap is the map, `project` is the head.

Pooling before the head is exact: `project` of the mean of all cells is the tower's own embedding, for every tower here.
Pooling after it is so only where nothing stands between pool and projection (FastViT); ConvNeXt has a norm there. A
region is therefore pooled on the map, then projected (FC-CLIP, arXiv:2308.02487).

FastViT has attention in its last stage, but a convolution and a squeeze over the whole map follow it. Read in timm
1.0.31.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from jaxtyping import Float
from torch import Tensor

from ovseg.clip.families import adapter
from ovseg.clip.walk import FEATURES, Tower, pair
from ovseg.errors import UnsupportedTower

TRUNKS = ("ConvNeXt", "FastVit")
NO_ATTENTION = (
    "this tower ends in convolutions: no attention is left to change, so it gives its own features (vanilla) alone"
)


@dataclass(frozen=True, eq=False)
class ConvMap:
    """A `TimmModel` whose trunk gives a map and whose head pools it; its patch is the trunk's total stride."""

    tower: Tower
    depth: int = 1
    heads: int = 0
    own: int = 0

    @property
    def family(self) -> str:
        return f"TimmModel/{adapter.kind(self.tower)}"

    @property
    def width(self) -> int:
        return int(self.tower.trunk.num_features)

    @property
    def dim(self) -> int:
        return adapter.width(self.tower)

    @property
    def patch(self) -> tuple[int, int]:
        return pair(int(self.tower.trunk.feature_info[-1]["reduction"]))

    @property
    def native(self) -> tuple[int, int]:
        height, width = pair(self.tower.image_size)
        return height // self.patch[0], width // self.patch[1]

    @property
    def refuses(self) -> Mapping[str, str]:
        return dict.fromkeys(FEATURES, NO_ATTENTION)

    def enter(self, pixels: Float[Tensor, "b 3 height width"], positions: str) -> Float[Tensor, "b n embed"]:
        """Cells of the map in reading order. There are no learned positions to resample."""
        trunk = self.tower.trunk
        cells: Tensor = trunk.forward_features(adapter.cut(pixels, self.patch).to(next(trunk.parameters()).dtype))
        return cells.flatten(2).mT

    def block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens

    def norm(self, number: int, tokens: Tensor) -> NoReturn:
        raise UnsupportedTower(f"{NO_ATTENTION}.")

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> NoReturn:
        raise UnsupportedTower(f"{NO_ATTENTION}.")

    def out(self, number: int, mixed: Tensor) -> NoReturn:
        raise UnsupportedTower(f"{NO_ATTENTION}.")

    def mlp(self, number: int, tokens: Tensor) -> NoReturn:
        raise UnsupportedTower(f"{NO_ATTENTION}.")

    def project(self, tokens: Tensor) -> Float[Tensor, "b n dim"]:
        """Each token through the head as a picture of one cell: cells of the map, or means of some of them."""
        alone = self.tower.trunk.forward_head(tokens.flatten(0, 1)[:, :, None, None])
        projected: Tensor = self.tower.head(alone)
        return projected.view(tokens.shape[0], tokens.shape[1], self.dim)

    def whole(self, last: Tensor, grid: tuple[int, int]) -> Float[Tensor, "b dim"]:
        embedding: Tensor = self.tower.head(
            self.tower.trunk.forward_head(last.mT.reshape(len(last), self.width, *grid))
        )
        return embedding


def belongs(tower: Tower) -> bool:
    """Whether the trunk is one of timm's that ends in a map of convolutions."""
    return adapter.kind(tower) in TRUNKS


def lacks(tower: Tower) -> str:
    """Empty where `ConvMap` is right; else what this tower is or lacks."""
    pool = getattr(getattr(tower.trunk.head, "global_pool", None), "pool_type", "")
    return adapter.lacks(tower) or ("" if pool == "avg" else f"its trunk pools by {pool!r} and not by the mean")


def walk(tower: Tower) -> ConvMap:
    """The walk of such a tower."""
    return ConvMap(tower)


__all__ = ["ConvMap", "NO_ATTENTION", "TRUNKS", "belongs", "lacks", "walk"]
