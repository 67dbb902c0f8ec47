"""Pictures become features: resized, cut into windows, read by one method, put together again.

`windows` says how a picture is resized and cut, by two protocols. Under "paper" block numbers and the resampling of
positions are the released program's as well.

Windows of several pictures run in one batch, bounded by tokens. A picture is encoded once; any number of names,
thresholds and policies are asked of the result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from ovseg import geometry, images, runtime
from ovseg.clip import tower
from ovseg.clip.attention import read, taps_of
from ovseg.clip.families.timm_vit import TimmVit
from ovseg.clip.guides import GUIDES, Guide
from ovseg.clip.guides import own as itself
from ovseg.clip.load import Clip
from ovseg.clip.methods import last_block
from ovseg.clip.sight import Sight
from ovseg.clip.taps import Taps, of_layout
from ovseg.clip.tower import Compute
from ovseg.clip.walk import Prefix, Vit, Walk
from ovseg.clip.windows import PROTOCOLS, SHORTEST_SIDE, Layout, Reading, by_scale, join, lay_out, merged, normalised
from ovseg.errors import BadUsage
from ovseg.types import DenseFeatures

TOKENS_PER_BATCH = 8192  # bounds memory: ViT-B keeps about 40 kB a token while it runs
ANY_GRID = (Vit, TimmVit)  # walks whose blocks do not ask for the grid: what is prepared for one serves all

Progress = Callable[[int, int], None]


def encode(
    clip: Clip,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    reading: Reading | None = None,
    *,
    guide: Guide | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[DenseFeatures]:
    """Dense features of every picture; `whole` is the unit mean of its windows' own image vectors.

    Pictures may differ in size. The answer for a picture does not depend on the others. A guided method shows `guide`
    every window and answers on its grid. A runtime keeps in `cache` what is dear to make. Raises `UnsupportedTower`
    where the method cannot read this network, and `BadUsage` where it lacks its guide.
    """
    several = encode_methods(clip, pictures, [reading or Reading()], guide=guide, cache=cache, progress=progress)
    return [features for (features,) in several]


def encode_tapped(
    clip: Clip,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    reading: Reading,
    blocks: Sequence[int],
    *,
    guide: Guide | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[DenseFeatures, Taps]]:
    """What `encode` gives, and with it what entered those blocks in every window (and scale) of the same pass."""
    several, taps = _encode(clip, pictures, [reading], blocks, guide, cache, progress)
    return [(features, kept) for (features,), kept in zip(several, taps, strict=True)]


def encode_methods(
    clip: Clip,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    readings: Sequence[Reading],
    *,
    guide: Guide | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[list[DenseFeatures]]:
    """Of every picture what each reading's method makes of it; the blocks before the methods are computed once.

    The readings differ in their method and in nothing else. In torch each answer has the bits that `encode` gives for
    its reading alone. Methods with a guide take one pass and those without another; so does, under the paper protocol,
    each way of resampling positions.
    """
    return _encode(clip, pictures, readings, (), guide, cache, progress)[0]


def _encode(
    clip: Clip,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    readings: Sequence[Reading],
    blocks: Sequence[int],
    guide: Guide | None,
    cache: Path | None,
    progress: Progress | None,
) -> tuple[list[list[DenseFeatures]], list[Taps]]:
    """Of every picture the features of each reading, and what entered `blocks` in the first pass."""
    walks = [tower.check(clip.visual, reading.method) for reading in readings]
    _alike(readings)
    guides = [_needed(reading.method, guide) for reading in readings]
    first = readings[0]
    runtime.check(first.runtime, first.precision, clip.device)
    if len(first.scales) > 1 or first.scales[0] != 1:
        return _at_scales(clip, pictures, readings, blocks, guide, cache, progress)
    passes: dict[Any, list[int]] = {}
    for number, reading in enumerate(readings):
        passes.setdefault((_positions(reading), guides[number] is not None), []).append(number)
    layouts = [lay_out(clip, walks[0], picture, first) for picture in pictures]
    tokens: list[list[list[Tensor]]] = [[[] for _ in readings] for _ in pictures]
    wholes: list[list[list[Tensor]]] = [[[] for _ in readings] for _ in pictures]
    kept: list[list[dict[int, Tensor]]] = [[] for _ in pictures]
    total, done = len(passes) * sum(len(layout.tops) for layout in layouts), 0
    for place, numbers in enumerate(passes.values()):
        given = guides[numbers[0]]
        for owners, batch in _batches(layouts, walks[0].patch, given):
            with runtime.kernels(clip.device):
                alike = [readings[number] for number in numbers]
                cells, own, tapped = _read(clip, walks[0], batch, alike, () if place else blocks, given, cache)
            for owner, window in zip(owners, () if place else tapped, strict=not place):
                kept[owner].append(window)
            for number, of_method in zip(numbers, cells, strict=True):
                for owner, cell, one in zip(owners, of_method, own, strict=True):
                    tokens[owner][number].append(cell)
                    wholes[owner][number].append(one)
            done += len(batch)
            if progress:
                progress(done, total)
    features = [
        [
            join(picture.shape[:2], layout, torch.stack(cells), torch.stack(own), reading)
            for reading, cells, own in zip(readings, of_picture, its_own, strict=True)
        ]
        for picture, layout, of_picture, its_own in zip(pictures, layouts, tokens, wholes, strict=True)
    ]
    patch = walks[0].patch
    grids = [(layout.crop[0] // patch[0], layout.crop[1] // patch[1]) for layout in layouts]
    return features, [of_layout(*one) for one in zip(layouts, grids, kept, strict=True)]


@torch.inference_mode()
def guide_map(
    guide: Guide, picture: UInt8[np.ndarray, "height width 3"], reading: Reading
) -> Float32[np.ndarray, "channels rows cols"]:
    """What a guide sees in the whole picture at the size it is read at (the largest of `scales`), for the stages."""
    long, short = (round(side * max(reading.scales)) for side in (reading.long_side, reading.short_side))
    resized = images.resize(picture, *geometry.rescale(picture.shape[0], picture.shape[1], short, max(long, short)))
    found = guide.features(torch.from_numpy(resized).permute(2, 0, 1)[None])
    out: Float32[np.ndarray, "channels rows cols"] = found[0].float().cpu().numpy()
    return out


def encode_images(clip: Clip, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n dim"]:
    """The network's own unit vector of each picture, squeezed to its square (CLIP's view of crops and thumbnails)."""
    height, width = clip.image_size
    rows = []
    step = max(1, TOKENS_PER_BATCH // (height * width // 256))
    for start in range(0, len(pictures), step):
        some = pictures[start : start + step]
        batch = torch.stack([normalised(clip, images.resize(picture, height, width)) for picture in some])
        with torch.inference_mode(), runtime.kernels(clip.device):
            vectors = clip.model.encode_image(batch.to(clip.device))
            rows.append(F.normalize(vectors.float(), dim=-1).cpu().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, clip.dim), np.float32)


def _alike(readings: Sequence[Reading]) -> None:
    """An error unless there are readings and all of them differ in their method alone."""
    if not readings:
        raise BadUsage("reading a picture needs a method: none came")
    for reading in readings[1:]:
        if replace(reading, method=readings[0].method) != readings[0]:
            raise BadUsage(
                "methods of one pass read pictures alike: protocol, sizes, scales, runtime, precision or options "
                f"of {readings[0].method} and {reading.method} differ; encode them apart"
            )


def _positions(reading: Reading) -> str:
    """How the position embedding is resampled: under the paper protocol as the method's authors do."""
    return last_block(reading.method).positions if reading.protocol == "paper" else "bicubic"


def _at_scales(
    clip: Clip,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    readings: Sequence[Reading],
    blocks: Sequence[int],
    guide: Guide | None,
    cache: Path | None,
    progress: Progress | None,
) -> tuple[list[list[DenseFeatures]], list[Taps]]:
    """Each scale on its own, then unit features averaged on the grid of the largest."""
    several = [
        _encode(clip, pictures, alike, blocks, guide, cache, progress)
        for alike in zip(*(by_scale(reading) for reading in readings), strict=True)
    ]
    features, taps = zip(*several, strict=True)
    return (
        [[merged(found) for found in zip(*scales, strict=True)] for scales in zip(*features, strict=True)],
        [Taps(tuple(window for at in scales for window in at.windows)) for scales in zip(*taps, strict=True)],
    )


def _needed(method: str, guide: Guide | None) -> Guide | None:
    """The guide where the method takes one (an error if there is none), nothing where it does not."""
    if "guide" not in last_block(method).needs:
        return None
    if guide is None:
        raise BadUsage(f"method {method} takes its attention from another network: give a guide ({', '.join(GUIDES)})")
    return guide


def _batches(
    layouts: Sequence[Layout], patch: tuple[int, int], guide: Guide | None
) -> Iterator[tuple[list[int], Tensor]]:
    """Windows of equal size from all pictures, as many at a time as the token bound allows, in order."""
    shapes = dict.fromkeys(layout.crop for layout in layouts)
    for height, width in shapes:
        rows, cols = guide.grid(height, width) if guide else (0, 0)
        tokens = max(1, (height // patch[0]) * (width // patch[1]), rows * cols)
        room = max(1, TOKENS_PER_BATCH // tokens)
        places = [
            (owner, top, left)
            for owner, layout in enumerate(layouts)
            if layout.crop == (height, width)
            for top, left in zip(layout.tops.tolist(), layout.lefts.tolist(), strict=True)
        ]
        for start in range(0, len(places), room):
            some = places[start : start + room]
            cut = [layouts[owner].pixels[:, top : top + height, left : left + width] for owner, top, left in some]
            yield [owner for owner, _, _ in some], torch.stack(cut)


@torch.inference_mode()
def _read(
    clip: Clip,
    walk: Walk,
    batch: Float32[Tensor, "b 3 h w"],
    readings: Sequence[Reading],
    blocks: Sequence[int],
    guide: Guide | None,
    cache: Path | None,
) -> tuple[list[Tensor], Tensor, list[dict[int, Tensor]]]:
    """Of each reading the cells' vectors (b, dim, rows, cols), and unit ones of the windows themselves (b, dim), on
    the CPU; and what entered `blocks` in each window, where the network is; from one pass through the blocks.

    Cells are unit vectors, plus the method's share of the changed block's unit image token where it has one: the
    product with a text is then what the method's authors take.
    """
    pixels = batch.to(clip.device)
    as_released, positions = readings[0].protocol == "paper", _positions(readings[0])
    rows = [last_block(reading.method) for reading in readings]
    grid = tower.grid_of(walk, pixels)
    compute = _computing(clip, readings[0], cache)
    wanted, given = {*blocks, *(tap for row in rows for tap in taps_of(row, walk.depth, as_released))}, {}
    by_itself = guide is not None and guide.network is clip and guide.row.positions == positions
    if by_itself:
        wanted.add(itself.tap(walk))
    taps = tower.prefix(walk, pixels, sorted(wanted), positions, compute)
    if by_itself:  # what guide "self" looks at was on the way
        given["guide"] = itself.of_tap(walk, taps[itself.tap(walk)], grid)
    elif guide is not None:
        given["guide"] = guide.features(pixels, mean=clip.mean, std=clip.std).to(clip.device)
    whole = walk.whole(taps[walk.depth], grid)
    out = []
    for row in rows:
        seen = read(Sight(walk, taps, grid, given, as_released=as_released), row)
        cells = F.normalize(seen.cells.float(), dim=-1)
        if row.cls_logits and seen.own is not None:
            cells = cells + row.cls_logits * F.normalize(seen.own.float(), dim=-1)[:, None, None]
        out.append(cells.permute(0, 3, 1, 2).cpu())
    kept = [{number: taps[number][i].clone() for number in blocks} for i in range(len(batch))]
    return out, F.normalize(whole.float(), dim=-1).cpu(), kept


def _computing(clip: Clip, reading: Reading, cache: Path | None) -> Compute:
    """The reading's runtime for the unchanged blocks, prepared once for the network."""

    def compute(prefix: Prefix, tokens: Tensor) -> tuple[Tensor, ...]:
        if prefix.taps[-1] == 1:  # nothing comes before the only block
            return (tokens,)
        grid = () if type(prefix.walk) in ANY_GRID else prefix.grid
        key = (reading.runtime, reading.precision, prefix.taps, grid)

        def make() -> runtime.Run:
            free = (0,) if grid else (0, 1)
            return runtime.prepare(
                prefix, (tokens,), runtime=key[0], precision=key[1], free=free, cache=cache, key=repr(key)
            )

        return clip.prepared.get(clip.visual, key, make)(tokens)

    return compute


__all__ = [
    "PROTOCOLS",
    "Progress",
    "Reading",
    "SHORTEST_SIDE",
    "TOKENS_PER_BATCH",
    "encode",
    "encode_images",
    "encode_methods",
    "encode_tapped",
    "guide_map",
]
