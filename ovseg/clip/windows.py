"""How a picture is read: resized, cut into windows, and their cells put together again on one grid.

Two protocols. "fast" (ours) rounds both sides to the patch, so windows lie on the patch grid: unit features of all
windows are averaged there and made unit again, which keeps every cell's arg-max of averaged scores. "paper" is what the
released programs do (mmsegmentation's slide inference): ratio kept, windows anywhere, the last one shifted inwards,
scores of each window up-sampled to its pixels and averaged there; its windows are kept apart for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, Shaped, UInt8
from torch import Tensor

from ovseg import geometry, images, runtime
from ovseg.clip.load import Clip
from ovseg.clip.methods import PICTURES, canonical
from ovseg.clip.methods.pictures import options_of
from ovseg.clip.walk import Walk
from ovseg.errors import BadUsage, UnknownName
from ovseg.raster import upsample
from ovseg.types import DenseFeatures, Windows

PROTOCOLS = ("fast", "paper")
SHORTEST_SIDE = 16  # px: smaller pictures hold nothing that a patch could show


@dataclass(frozen=True)
class Reading:
    """How a picture is read: all sizes in pixels.

    `crop` 0 is the tower's own size, -1 the whole picture in one window; `stride` 0 is half a crop. Under "fast" crop
    and stride are rounded to the patch, and the picture is read at each of `scales` times the short side: unit features
    of all of them are averaged on the finest grid and made unit again. `runtime` computes the unchanged blocks, at
    `precision`; the entrance, the changed block and the exit are torch's, in the network's own. `options`
    are those of a method of whole pictures (`PICTURES`).
    """

    method: str = "maskclip-reduced"
    protocol: str = "fast"
    short_side: int = 336
    crop: int = 0
    stride: int = 0
    long_side: int = 2048
    scales: tuple[float, ...] = (1.0,)
    runtime: str = "torch"
    precision: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = canonical(self.method)
        options_of(key, self.options)
        runtime.check(self.runtime, self.precision)
        if key in PICTURES and (self.runtime, self.precision) != ("torch", "float32"):
            raise BadUsage(
                f"method {key} runs in torch at float32 alone: got {self.runtime} at {self.precision}; leave them out"
            )
        if not self.scales or min(self.scales) <= 0 or (self.protocol == "paper" and self.scales != (1.0,)):
            raise BadUsage(f"scales are positive numbers, and 1 alone under the paper protocol: got {self.scales}")
        if self.protocol not in PROTOCOLS:
            raise UnknownName.of("protocol", self.protocol, PROTOCOLS)
        if key in PICTURES and self.protocol not in PICTURES[key].protocols:
            raise BadUsage(
                f"method {key} lays its windows on the patch grid: protocol {' or '.join(PICTURES[key].protocols)} is "
                f"needed, got {self.protocol}"
            )
        if self.short_side < SHORTEST_SIDE or self.long_side < self.short_side:
            raise BadUsage(
                f"short_side must be at least {SHORTEST_SIDE} px and at most long_side: got {self.short_side}, "
                f"{self.long_side}"
            )
        if self.crop < -1 or self.stride < 0:
            raise BadUsage(f"crop is -1, 0 or pixels and stride is 0 or pixels: got {self.crop}, {self.stride}")


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the windows of one picture lie on its canvas, in pixels."""

    pixels: Float32[Tensor, "3 height width"]
    tops: Int[np.ndarray, " n"]
    lefts: Int[np.ndarray, " n"]
    crop: tuple[int, int]


def lay_out(clip: Clip, walk: Walk, picture: UInt8[np.ndarray, "h w 3"], reading: Reading) -> Layout:
    """A picture at the size it is read at, normalised, and where its windows lie."""
    height, width = picture.shape[:2]
    patch = walk.patch
    crops = clip.image_size if reading.crop == 0 else (reading.crop, reading.crop)
    if reading.protocol == "fast":
        if patch[0] != patch[1]:
            raise BadUsage(f"the fast protocol needs square patches: this tower has {patch[0]}x{patch[1]}; take paper")
        unit, size = patch[0], geometry.fit(height, width, reading.short_side, patch[0], reading.long_side)
        resized = images.resize(picture, *size)
    else:
        unit, size = 1, geometry.rescale(height, width, reading.short_side, reading.long_side)
        resized = images.resize(picture, *size, kind="bilinear")
    starts, crop = [], []
    for side, wanted in zip(size, crops, strict=True):
        long = side if reading.crop == -1 else min(side, max(unit, wanted // unit * unit))
        step = max(unit, (reading.stride or long // 2) // unit * unit)
        starts.append(geometry.windows(side // unit, long // unit, step // unit) * unit)
        crop.append(long)
    tops, lefts = np.repeat(starts[0], len(starts[1])), np.tile(starts[1], len(starts[0]))
    return Layout(normalised(clip, resized), tops, lefts, (crop[0], crop[1]))


def cut(whole: Shaped[Tensor, "k height width"], layout: Layout) -> Shaped[Tensor, "n k crop_height crop_width"]:
    """The windows of something that lies on the canvas, in their order."""
    high, wide = layout.crop
    corners = zip(layout.tops.tolist(), layout.lefts.tolist(), strict=True)
    return torch.stack([whole[:, top : top + high, left : left + wide] for top, left in corners])


def join(
    size: tuple[int, ...],
    layout: Layout,
    cells: Float32[Tensor, "n dim rows cols"],
    own: Float32[Tensor, "n dim"],
    reading: Reading,
) -> DenseFeatures:
    """One picture's windows put together on its grid; `size` is the picture's own, `own` the windows' vectors."""
    height, width = size[0], size[1]
    canvas = (layout.pixels.shape[1], layout.pixels.shape[2])
    cell = (layout.crop[0] / cells.shape[2], layout.crop[1] / cells.shape[3])
    rows, cols = max(1, round(canvas[0] / cell[0])), max(1, round(canvas[1] / cell[1]))
    total = torch.zeros(cells.shape[1], rows, cols)
    for vectors, top, left in zip(cells, layout.tops.tolist(), layout.lefts.tolist(), strict=True):
        down, where_down = _onto(top, layout.crop[0], cells.shape[2], canvas[0], rows)
        across, where_across = _onto(left, layout.crop[1], cells.shape[3], canvas[1], cols)
        total[:, where_down, where_across] += down @ vectors @ across.T
    unit = F.normalize(total, dim=0).numpy()
    whole = F.normalize(own.mean(dim=0), dim=0).numpy()
    kept = None
    if reading.protocol == "paper":
        kept = Windows(cells.numpy(), layout.tops, layout.lefts, layout.crop, canvas)
    return DenseFeatures(unit, whole, height, width, kept)


def by_scale(reading: Reading) -> list[Reading]:
    """One reading for each of its scales; its sizes then are what is read."""
    out = []
    for scale in reading.scales:
        short = max(SHORTEST_SIDE, round(reading.short_side * scale))
        long = max(short, round(reading.long_side * scale))
        out.append(replace(reading, short_side=short, long_side=long, scales=(1.0,)))
    return out


def merged(several: Sequence[DenseFeatures]) -> DenseFeatures:
    """Unit features of one picture at several scales, averaged on the finest grid and made unit again; one as it is."""
    if len(several) == 1:
        return several[0]
    rows, cols = max(features.grid for features in several)
    total = np.sum([upsample(features.vectors, rows, cols) for features in several], axis=0)
    whole = np.sum([features.whole for features in several], axis=0)
    unit = total / np.linalg.norm(total, axis=0).clip(1e-12)
    own = whole / max(float(np.linalg.norm(whole)), 1e-12)
    return replace(several[0], vectors=unit.astype(np.float32), whole=own.astype(np.float32))


def _onto(start: int, crop: int, cells: int, side: int, count: int) -> tuple[Float32[Tensor, "m cells"], slice]:
    """Weights from a window's cells to those cells of the picture's axis whose middles it covers, and which these are.

    On the patch grid the weights are the identity; elsewhere they are bilinear. The sum over windows is made unit
    afterwards, so it needs no count.
    """
    middles = (np.arange(count) + 0.5) * side / count
    inside = np.flatnonzero((middles >= start) & (middles < start + crop))
    place = ((middles[inside] - start) * cells / crop - 0.5).clip(0, cells - 1)
    low = np.floor(place + 1e-6).astype(np.int64)
    share = (place - low).clip(0, 1)
    share[share < 1e-6] = 0
    weights = np.zeros((len(inside), cells), np.float32)
    weights[np.arange(len(inside)), low] += 1 - share
    weights[np.arange(len(inside)), np.minimum(low + 1, cells - 1)] += share
    return torch.from_numpy(weights), slice(int(inside[0]), int(inside[-1]) + 1)


def normalised(clip: Clip, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "3 h w"]:
    """RGB bytes as this network takes them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.mean, clip.std))
    return (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - mean) / std


__all__ = [
    "Layout",
    "PROTOCOLS",
    "Reading",
    "SHORTEST_SIDE",
    "by_scale",
    "cut",
    "join",
    "lay_out",
    "merged",
    "normalised",
]
