"""What a stage may look at, besides the scores that it is given."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8

from ovseg.errors import BadInput
from ovseg.types import DenseFeatures, Vocabulary


@dataclass(frozen=True, eq=False)
class Scene:
    """One question about one picture, as the stages see it. `scale` is what cosines were multiplied with.

    `parts` gives each pixel the proposal that owns it (-1: none). What else the image side says is in
    `features.extras`; any of it may be absent.
    """

    picture: UInt8[np.ndarray, "height width 3"]
    features: DenseFeatures
    vocabulary: Vocabulary
    scale: float
    parts: Int32[np.ndarray, "height width"] | None = None

    def __post_init__(self) -> None:
        if self.picture.shape[:2] != (self.features.height, self.features.width):
            raise BadInput(
                f"picture and features must be of one size: {self.picture.shape[0]}x{self.picture.shape[1]} and "
                f"{self.features.height}x{self.features.width} (rows x cols). Swapped axes?"
            )


__all__ = ["Scene"]
