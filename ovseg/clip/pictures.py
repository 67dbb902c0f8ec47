"""Methods of whole pictures (`PICTURES`), from a picture's bytes to its features.

`plugins` holds their arithmetic on tensors. Here a picture is resized, cut and shown to the guides as `dense` does it
for the rows of `LAST_BLOCKS`. What comes out is what `dense.encode` gives, and words are asked of it in the same way
(`labels.compose`). `whole` is the network's own vector of the picture squeezed to its square.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from ovseg import runtime
from ovseg.clip import dense
from ovseg.clip.families import find
from ovseg.clip.guides import GUIDES, Guide
from ovseg.clip.load import Clip
from ovseg.clip.methods import PICTURES, canonical, last_block
from ovseg.clip.methods.pictures import NEEDS, options_of
from ovseg.clip.plugins import cass as head_graphs
from ovseg.clip.plugins import corrclip as corr
from ovseg.clip.plugins import itaclip
from ovseg.clip.plugins import trident as tri
from ovseg.clip.walk import Walk
from ovseg.clip.windows import Layout, Reading, by_scale, cut, join, lay_out, merged
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import DenseFeatures

# some windows, and which of the picture's they are, to cells (b, r, c, dim)
Read = Callable[[Walk, Tensor, slice], Tensor]


def encode(
    clip: Clip,
    picture: UInt8[np.ndarray, "height width 3"],
    reading: Reading,
    *,
    guide: Guide | None = None,
    sam: Guide | None = None,
    parts: Int32[np.ndarray, "_ _"] | None = None,
) -> DenseFeatures:
    """Features by `reading.method`, a name of `PICTURES`, with its options; scales as in `dense.encode`.

    What the method does not need is left alone; what it needs and is not given is an error.
    """
    name = canonical(reading.method)
    if name not in PICTURES:
        raise UnknownName.of("method of whole pictures", reading.method, PICTURES)
    given = {"guide": guide, "sam": sam, "parts": parts}
    lacking = [NEEDS[need] for need in PICTURES[name].needs if given[need] is None]
    if lacking:
        raise BadUsage(f"method {name} needs {' and '.join(lacking)}: give it (guides: {', '.join(GUIDES)})")
    needed: dict[str, Any] = {need: given[need] for need in PICTURES[name].needs}
    options = options_of(name, reading.options)
    return merged([READERS[name](clip, picture, one, **needed, **options) for one in by_scale(reading)])


def itaclip_views(
    clip: Clip, picture: UInt8[np.ndarray, "height width 3"], reading: Reading, *, keep: float = 0.75
) -> DenseFeatures:
    """Every window read five times. The blend is shorter than 1: as it is under "paper", made unit under "fast"."""
    positions = _positions(reading)

    def read(walk: Walk, pixels: Tensor, which: slice) -> Tensor:
        return itaclip.views(walk, pixels, keep=keep, positions=positions)

    return _by_windows(clip, picture, reading, read)


def cass(
    clip: Clip,
    picture: UInt8[np.ndarray, "height width 3"],
    reading: Reading,
    *,
    guide: Guide,
    stretch: bool = True,
    energy: float = 0.95,
) -> DenseFeatures:
    """Every window with the guide's keys of it (the paper: dino-b8-k), as many heads as the tower's."""
    positions = _positions(reading)

    def read(walk: Walk, pixels: Tensor, which: slice) -> Tensor:
        keys = guide.features(pixels, mean=clip.mean, std=clip.std).to(clip.device)
        cells = head_graphs.cass(walk, pixels, keys, stretch=stretch, energy=energy, positions=positions)
        return F.normalize(cells.float(), dim=-1)

    return _by_windows(clip, picture, reading, read, guide)


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
    layout = lay_out(clip, find(clip.visual), picture, reading)
    whole = torch.from_numpy(parts + np.int32(1))[None, None].float()  # plugins count regions from 1, 0 is none
    regions = F.interpolate(whole, size=layout.pixels.shape[1:], mode="nearest")[0].int()
    windows, positions = cut(regions, layout)[:, 0], _positions(reading)

    def read(walk: Walk, pixels: Tensor, which: slice) -> Tensor:
        seen = guide.features(pixels, mean=clip.mean, std=clip.std).to(clip.device)
        given = windows[which].to(clip.device)
        cells = corr.corrclip(
            walk, pixels, seen, given, spatial=spatial, semantic=semantic, merge=merge, positions=positions
        )
        return F.normalize(cells.float(), dim=-1)

    return _by_windows(clip, picture, reading, read, guide)


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

    Windows lie on the patch grid, so that their places are exact: protocol "fast" alone. All windows of a picture run
    in one batch, since the guide's mean likeness is taken over them. ViT-B's attention of a square picture is 12 x 4096
    x 4096 numbers: 3.2 GB at the peak of SAM's own pass, 2.4 GB and more in stage 2.
    """
    if reading.protocol != "fast":
        raise BadUsage(f"trident joins its windows on the patch grid: protocol fast is needed, got {reading.protocol}")
    walk, layout = _laid_out(clip, picture, reading)
    pixels, patch = cut(layout.pixels, layout).to(clip.device), walk.patch[0]
    places = [
        (top // patch, left // patch, (top + layout.crop[0]) // patch, (left + layout.crop[1]) // patch)
        for top, left in zip(layout.tops.tolist(), layout.lefts.tolist(), strict=True)
    ]
    attention, values = sam.last_attention(torch.from_numpy(picture).permute(2, 0, 1)[None])
    with runtime.kernels(clip.device):
        seen = guide.features(pixels, mean=clip.mean, std=clip.std).to(clip.device)
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
    vectors: Float32[np.ndarray, "dim rows cols"] = F.normalize(cells.float(), dim=-1).permute(2, 0, 1).cpu().numpy()
    return DenseFeatures(vectors, dense.encode_images(clip, [picture])[0], picture.shape[0], picture.shape[1])


READERS: Mapping[str, Callable[..., DenseFeatures]] = MappingProxyType(
    {"itaclip-views": itaclip_views, "cass": cass, "corrclip": corrclip, "trident": trident}
)


@torch.inference_mode()
def _by_windows(
    clip: Clip,
    picture: UInt8[np.ndarray, "height width 3"],
    reading: Reading,
    read: Read,
    guide: Guide | None = None,
) -> DenseFeatures:
    """Windows read on their own, as many at a time as `dense` takes, and joined as its are."""
    walk, layout = _laid_out(clip, picture, reading)
    rows, cols = guide.grid(*layout.crop) if guide else (0, 0)
    tokens = max(1, (layout.crop[0] // walk.patch[0]) * (layout.crop[1] // walk.patch[1]), rows * cols)
    room = max(1, dense.TOKENS_PER_BATCH // tokens)
    pixels, found = cut(layout.pixels, layout), []
    for start in range(0, len(pixels), room):
        which = slice(start, start + room)
        with runtime.kernels(clip.device):
            found.append(read(walk, pixels[which].to(clip.device), which).float().permute(0, 3, 1, 2).cpu())
    own = torch.from_numpy(dense.encode_images(clip, [picture]))
    return join(picture.shape[:2], layout, torch.cat(found), own.expand(len(pixels), -1), reading)


def _laid_out(clip: Clip, picture: UInt8[np.ndarray, "height width 3"], reading: Reading) -> tuple[Walk, Layout]:
    """The tower's walk and where the windows lie, at the one scale that is asked here."""
    if reading.scales != (1.0,):
        raise BadUsage(f"one scale is read at a time: got {reading.scales}; `encode` reads them all")
    walk = find(clip.visual)
    return walk, lay_out(clip, walk, picture, reading)


def _positions(reading: Reading) -> str:
    """How positions are resampled: these programs all do it as ProxyCLIP's."""
    return last_block("proxyclip").positions if reading.protocol == "paper" else "bicubic"


__all__ = ["READERS", "Read", "cass", "corrclip", "encode", "itaclip_views", "trident"]
