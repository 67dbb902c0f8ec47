"""What a pass through the network left on its way: the tokens that entered some blocks, window by window.

Region encoders inside the network go on from there, so that any number of regions costs no further pass of the picture.
`dense.encode_tapped` keeps taps of the pass that it makes anyway; `look` makes them of a whole picture where there was
none. Tokens stay on the network's device, float32: width * 4 bytes for each token and kept block, 1.4 MB a block for a
window of 336 px of ViT-B/16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from ovseg import images, runtime
from ovseg.clip import tower
from ovseg.clip.families import find
from ovseg.clip.load import Clip
from ovseg.clip.windows import Layout, normalised
from ovseg.raster import decode_rle
from ovseg.types import Regions

Place = tuple[float, float, float, float]
WHOLE: Place = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Tapped:
    """One window: what entered each kept block (the image's own token first, if there is one), and where it lies.

    `place` is top, left, bottom, right in shares of the picture's sides.
    """

    tokens: Mapping[int, Float[Tensor, "_ _"]]
    grid: tuple[int, int]
    place: Place = WHOLE

    @property
    def cell_area(self) -> float:
        """One cell's share of the picture."""
        top, left, bottom, right = self.place
        return (bottom - top) * (right - left) / (self.grid[0] * self.grid[1])


@dataclass(frozen=True, eq=False)
class Taps:
    """All windows of a picture, those of several scales after one another."""

    windows: tuple[Tapped, ...]

    @property
    def nbytes(self) -> int:
        """Memory that the tokens take."""
        return sum(kept.nbytes for window in self.windows for kept in window.tokens.values())

    def __add__(self, others: "Taps") -> "Taps":
        return Taps(self.windows + others.windows)


def of_layout(layout: Layout, grid: tuple[int, int], tokens: Sequence[Mapping[int, Float[Tensor, "_ _"]]]) -> Taps:
    """Taps of a picture's windows in their order. Cells fill their window, as where `windows.join` puts them."""
    _, height, width = layout.pixels.shape
    places = [
        (top / height, left / width, (top + layout.crop[0]) / height, (left + layout.crop[1]) / width)
        for top, left in zip(layout.tops.tolist(), layout.lefts.tolist(), strict=True)
    ]
    return Taps(tuple(Tapped(kept, grid, place) for kept, place in zip(tokens, places, strict=True)))


@torch.inference_mode()
def look(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], blocks: Sequence[int]
) -> Taps:
    """Taps of one pass of the whole picture, squeezed to that many cells, as one window."""
    walk = find(clip.visual)
    pixels = normalised(clip, images.resize(picture, grid[0] * walk.patch[0], grid[1] * walk.patch[1]))
    with runtime.kernels(clip.device):
        taps = tower.prefix(walk, pixels[None].to(clip.device), blocks)
    return Taps((Tapped({number: taps[number][0] for number in blocks}, grid),))


def shares(regions: Regions, windows: Sequence[Tapped]) -> list[Float32[np.ndarray, "n _ _"]]:
    """For each window the share of each of its cells that each region covers, in [0, 1]; as `masks.cell_fractions`.

    A box filter: a mask of one pixel has a share in every window that it lies in. One mask is decoded at a time.

    >>> mask = np.zeros((1, 4, 6), bool); mask[0, :2, :3] = True
    >>> shares(Regions.from_masks(mask), [Tapped({}, (2, 3))])[0].tolist()
    [[[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]]
    """
    found = [np.zeros((len(regions), *window.grid), np.float32) for window in windows]
    down = {key: _axis(regions.height, *key) for key in {_down(window) for window in windows}}
    across = {key: _axis(regions.width, *key) for key in {_across(window) for window in windows}}
    for i, (rle, (left, top, right, bottom)) in enumerate(zip(regions.rles, regions.boxes.astype(int), strict=True)):
        inside = decode_rle(rle)[top:bottom, left:right].astype(np.float32)
        narrowed = {key: inside @ weights[:, left:right].T for key, weights in across.items()}
        for share, window in zip(found, windows, strict=True):
            share[i] = down[_down(window)][:, top:bottom] @ narrowed[_across(window)]
    return [share.clip(0, 1) for share in found]


def _down(window: Tapped) -> tuple[float, float, int]:
    return window.place[0], window.place[2], window.grid[0]


def _across(window: Tapped) -> tuple[float, float, int]:
    return window.place[1], window.place[3], window.grid[1]


def _axis(pixels: int, start: float, stop: float, cells: int) -> Float32[np.ndarray, "cells pixels"]:
    """How much of each cell between two shares of an axis each pixel fills; rows sum to 1."""
    edges = (start + (stop - start) * np.arange(cells + 1) / cells) * pixels
    low = np.maximum(edges[:-1, None], np.arange(pixels))
    high = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return np.asarray(np.maximum(high - low, 0) / np.diff(edges)[:, None], np.float32)


__all__ = ["Place", "Tapped", "Taps", "WHOLE", "look", "of_layout", "shares"]
