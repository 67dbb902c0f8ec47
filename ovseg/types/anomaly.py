"""How strange each pixel is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from ovseg.errors import BadInput, BadUsage
from ovseg.raster import rles_of, split
from ovseg.types.choices import RecipeLike
from ovseg.types.regions import Regions


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """How strange each pixel is, in `unit`: higher is stranger; `score` is the number of the whole picture."""

    values: Float32[np.ndarray, "height width"]
    score: float
    unit: str
    recipe: RecipeLike
    threshold: float | None = None
    object: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not np.isfinite(self.values).all() or not np.isfinite(self.score):
            raise BadInput("anomaly values are not finite: try dtype float32, or check the checkpoint")

    def mask(self, threshold: float | None = None) -> Bool[np.ndarray, "height width"]:
        """Pixels at or above a threshold (the map's own unless one is given)."""
        cut = self.threshold if threshold is None else threshold
        if cut is None:
            raise BadUsage("this map has no threshold: give one, or calibrate on normal pictures")
        return self.values >= cut

    def regions(self, threshold: float | None = None) -> Regions:
        """8-connected parts at or above the threshold; `quality` is the largest value inside, clipped to [0, 1]."""
        owners, peaks = self._parts(threshold)
        height, width = owners.shape
        return Regions(height, width, tuple(rles_of(owners, len(peaks))), peaks.clip(0, 1))

    def _parts(self, threshold: float | None) -> tuple[Int[np.ndarray, "height width"], Float32[np.ndarray, " n"]]:
        """The part that owns each pixel (-1: none) and the largest value in each, in the map's unit."""
        owners, kinds = split(np.where(self.mask(threshold), 0, -1).astype(np.int16), None, 1)
        peaks = np.full(len(kinds), -np.inf, np.float32)
        np.maximum.at(peaks, owners[owners >= 0], self.values[owners >= 0])
        return owners, peaks

    def to_dict(self) -> dict[str, Any]:
        """The `anomaly --json` object of a picture, without its path and seconds."""
        regions: list[dict[str, Any]] = []
        if self.threshold is not None:
            found, (_, peaks) = self.regions(), self._parts(None)
            for box, area, score, rle in zip(found.boxes, found.area, peaks, found.rles, strict=True):
                bbox = [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]
                regions.append(
                    {"score": round(float(score), 6), "area": int(area), "bbox": bbox, "segmentation": dict(rle)}
                )
        return {
            "height": self.values.shape[0],
            "width": self.values.shape[1],
            "object": self.object,
            "score": round(float(self.score), 6),
            "threshold": self.threshold,
            "unit": self.unit,
            "regions": sorted(regions, key=lambda region: -region["score"]),
            "recipe": self.recipe.to_dict(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"AnomalyMap({height}x{width}, score {self.score:.3f} ({self.unit}), object {self.object!r})"


__all__ = ["AnomalyMap"]
