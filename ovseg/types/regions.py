"""Masks of one picture, with what sorts them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from ovseg.errors import BadInput
from ovseg.raster import Rle, areas, decode_rle, encode_rle


@dataclass(frozen=True, eq=False)
class Regions:
    """N masks of one picture as COCO run lengths, each with a `quality` in [0, 1] that sorts and breaks ties.

    >>> mask = np.zeros((1, 4, 6), bool); mask[0, 1:3, 2:5] = True
    >>> Regions.from_masks(mask).boxes.tolist(), Regions.from_masks(mask).area.tolist()
    ([[2.0, 1.0, 5.0, 3.0]], [6])
    """

    height: int
    width: int
    rles: tuple[Rle, ...]
    quality: Float32[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if len(self.rles) != len(self.quality):
            raise BadInput(f"every region needs a quality: {len(self.rles)} masks, {len(self.quality)} numbers")
        for rle in self.rles:
            if list(rle["size"]) != [self.height, self.width]:
                raise BadInput(
                    f"regions must match the picture: a mask is {rle['size'][0]}x{rle['size'][1]}, the picture is "
                    f"{self.height}x{self.width} (rows x cols). Swapped axes?"
                )

    @classmethod
    def empty(cls, height: int, width: int) -> "Regions":
        """No region at all in a picture of this size."""
        return cls(height, width, (), np.zeros(0, np.float32))

    @classmethod
    def from_masks(
        cls, masks: Bool[np.ndarray, "n height width"], quality: Float[np.ndarray, " n"] | None = None
    ) -> "Regions":
        """Regions of full-frame masks; quality 1 where none is given."""
        count, height, width = masks.shape
        quality = np.ones(count, np.float32) if quality is None else quality.astype(np.float32)
        return cls(height, width, tuple(encode_rle(mask) for mask in masks), quality)

    @property
    def masks(self) -> Bool[np.ndarray, "n height width"]:
        """All masks decoded: N * H * W bytes, so ask for `regions[keep].masks` where N is large."""
        masks = np.zeros((len(self), self.height, self.width), bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            mask[:] = decode_rle(rle)
        return masks

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """XYXY pixel edges; zeros for an empty mask."""
        from pycocotools import mask as coco

        if not self.rles:
            return np.zeros((0, 4))
        xywh = np.asarray(coco.toBbox(list(self.rles)), float).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)

    @property
    def area(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return areas(self.rles)

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, keep: Shaped[np.ndarray, " m"] | slice | Sequence[int]) -> "Regions":
        """The regions that a boolean mask, an index array or a slice picks, in that order."""
        if not isinstance(keep, slice):
            keep = np.asarray(keep) if len(keep) else np.zeros(0, np.int64)  # an empty list would be floats
        index = np.arange(len(self))[keep]
        return replace(self, rles=tuple(self.rles[i] for i in index), quality=self.quality[index])


__all__ = ["Regions"]
