"""Methods that look past one window, from a picture's bytes to its features: Trident and CorrCLIP.

`plugins` holds their arithmetic on tensors. Here a picture is resized, cut and shown to the guides as `dense` does it
for the rows of `LAST_BLOCKS`, under the fast protocol: windows lie on the patch grid, so a window's place is exact.
What comes out is what `dense.encode` gives, and words are asked of it in the same way (`labels.compose`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from ovseg.clip import dense
from ovseg.clip.families import find
from ovseg.clip.guides import Guide
from ovseg.clip.load import Clip
from ovseg.clip.plugins import corrclip as corr
from ovseg.clip.plugins import trident as tri
from ovseg.clip.walk import Walk
from ovseg.clip.windows import Layout, Reading, cut, join, lay_out
from ovseg.errors import BadInput, BadUsage
from ovseg.types import DenseFeatures


@torch.inference_mode()
def trident(
    clip: Clip,
    picture: UInt8[np.ndarray, "height width 3"],
    reading: Reading,
    *,
    guide: Guide,
    sam: Guide,
    factor: float = 1.2,
    negative: float | None = None,
) -> DenseFeatures:
    """Features on SAM's grid: windows guided by `guide` (the paper: dino-b16), joined, then mixed as `sam` attends.

    All windows of a picture run in one batch, since the guide's mean likeness is taken over them. ViT-B's attention of
    a square picture is 12 x 4096 x 4096 numbers: 3.2 GB at the peak of SAM's own pass, 2.4 GB and more in stage 2.
    """
    walk, layout, pixels = _windows(clip, picture, reading)
    patch = walk.patch[0]
    places = [
        (top // patch, left // patch, (top + layout.crop[0]) // patch, (left + layout.crop[1]) // patch)
        for top, left in zip(layout.tops.tolist(), layout.lefts.tolist(), strict=True)
    ]
    seen = guide.features(pixels, mean=clip.mean, std=clip.std).to(clip.device)
    attention, values = sam.last_attention(torch.from_numpy(picture).permute(2, 0, 1)[None])
    cells = tri.trident(
        walk,
        pixels,
        seen,
        places,
        attention[0].to(clip.device),
        values[0].to(clip.device),
        factor=factor,
        negative=negative,
    )
    return _features(clip, picture, F.normalize(cells.float(), dim=-1).permute(2, 0, 1).cpu().numpy())


@torch.inference_mode()
def corrclip(
    clip: Clip,
    picture: UInt8[np.ndarray, "height width 3"],
    reading: Reading,
    *,
    guide: Guide,
    parts: Int32[np.ndarray, "_ _"],
    spatial: float = 1.0,
    semantic: float = 0.5,
    merge: float = 0.2,
) -> DenseFeatures:
    """Features on the guide's grid (the paper: dino-b8-qk), where `parts` say who may look at whom.

    `parts` gives every pixel of the picture the number of its region, from 0, or -1 for none, as `labels.own` does.
    """
    if parts.shape != picture.shape[:2]:
        raise BadInput(
            f"parts must be of the picture: {parts.shape[0]}x{parts.shape[1]} and {picture.shape[0]}x"
            f"{picture.shape[1]} (rows x cols). Swapped axes?"
        )
    walk, layout, pixels = _windows(clip, picture, reading)
    canvas = (layout.pixels.shape[1], layout.pixels.shape[2])
    whole = torch.from_numpy(parts + np.int32(1))[None, None].float()  # plugins count regions from 1, 0 is none
    regions = F.interpolate(whole, size=canvas, mode="nearest")[0, 0].int()
    found = []
    for pixel, region in zip(pixels, cut(regions[None], layout), strict=True):  # a window's answer is its own
        seen = guide.features(pixel[None], mean=clip.mean, std=clip.std).to(clip.device)
        cells = corr.corrclip(
            walk, pixel[None], seen, region.to(clip.device), spatial=spatial, semantic=semantic, merge=merge
        )
        found.append(F.normalize(cells[0].float(), dim=-1).permute(2, 0, 1).cpu())
    unit = torch.stack(found)
    unknown = torch.zeros(len(unit), unit.shape[1])  # windows have no vectors of their own here
    joined = join(picture.shape[:2], layout, unit, unknown, reading)
    return _features(clip, picture, joined.vectors)


def _windows(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], reading: Reading
) -> tuple[Walk, Layout, Float32[Tensor, "n 3 crop_height crop_width"]]:
    """The tower's walk, where the windows lie, and their pixels."""
    if reading.protocol != "fast" or reading.scales != (1.0,):
        raise BadUsage(
            f"windows that look past themselves lie on the patch grid: protocol fast and one scale are needed, got "
            f"{reading.protocol} and {reading.scales}"
        )
    walk = find(clip.visual)
    layout = lay_out(clip, walk, picture, reading)
    return walk, layout, cut(layout.pixels, layout).to(clip.device)


def _features(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], vectors: Float32[np.ndarray, "dim rows cols"]
) -> DenseFeatures:
    """Unit cells of a picture; `whole` is the network's own vector of the picture squeezed to its square."""
    return DenseFeatures(vectors, dense.encode_images(clip, [picture])[0], picture.shape[0], picture.shape[1])


__all__ = ["corrclip", "trident"]
