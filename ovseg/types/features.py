"""A picture as vectors: one for every cell, one for the whole of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int

from ovseg.errors import BadInput
from ovseg.raster import upsample


@dataclass(frozen=True, eq=False)
class Windows:
    """Unit vectors of the cells of n windows on one canvas (the resized picture), kept apart as the papers do.

    All windows are `crop` pixels high and wide; `tops` and `lefts` are their first pixels on the canvas.
    """

    vectors: Float32[np.ndarray, "n dim rows cols"]
    tops: Int[np.ndarray, " n"]
    lefts: Int[np.ndarray, " n"]
    crop: tuple[int, int]
    canvas: tuple[int, int]


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """One unit vector for every cell of a picture, and one for the whole of it.

    `windows` are there under `protocol="paper"` alone, where scores are stitched pixel by pixel. `extras` is what else
    the image side says, for the stages: "affinity" (cells, cells), how alike cells are inside the network; "layers"
    (blocks, dim, rows, cols), what each block's tokens say; "attention" (cells, cells), who looks at whom; "guide"
    (channels, its rows, its cols), another network's map of the whole picture. Cells are in reading order.
    """

    vectors: Float32[np.ndarray, "dim rows cols"]
    whole: Float32[np.ndarray, " dim"]
    height: int
    width: int
    windows: Windows | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or 0 in self.vectors.shape:
            raise BadInput(f"features need cells and a picture: {self.vectors.shape}, {self.height}x{self.width} px")
        rows, cols = self.grid
        for name, shape in (("affinity", (rows * cols,) * 2), ("attention", (rows * cols,) * 2), ("layers", self.grid)):
            if name in self.extras and self.extras[name].shape[-2:] != shape:
                raise BadInput(
                    f"{name} must be of the same cells: {list(self.extras[name].shape)} for {rows}x{cols} cells"
                )
        if not np.isfinite(self.vectors).all():
            raise BadInput("features are not finite: try dtype float32, or check the checkpoint")

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns."""
        return self.vectors.shape[1], self.vectors.shape[2]

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of one cell in pixels of the picture."""
        return self.height / self.grid[0], self.width / self.grid[1]

    def upsample(self, maps: Float32[np.ndarray, "k rows cols"]) -> Float32[np.ndarray, "k height width"]:
        """Maps on the grid, bilinear to the picture's own pixels."""
        return upsample(maps, self.height, self.width)


__all__ = ["DenseFeatures", "Windows"]
