"""One vector for each region: from the dense map, or from the network looking at it again. A row of `ENCODERS`.

pool   the mean of the cells' vectors, each by the share of it that the mask covers: no further pass of the network, the
       whole picture as context (as in FC-CLIP, arXiv:2308.02487, and CorrCLIP, arXiv:2411.10086).
crop   the network's own image vector of the region's box: one pass a region, no context, and the background inside the
       box counts too.

Vectors are unit rows; an empty mask gives a zero row, which likes every name the same.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from ovseg.encoders.crops import crop
from ovseg.encoders.described import Described, region_rows, unit
from ovseg.encoders.pool import pool
from ovseg.encoders.rows import Encoder, View
from ovseg.errors import BadInput, BadUsage, UnknownName, UnsupportedTower
from ovseg.types import DenseFeatures, Regions

if TYPE_CHECKING:
    from ovseg.clip.load import Clip

ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "pool": Encoder(pool, source="FC-CLIP (arXiv:2308.02487)"),
        "crop": Encoder(crop, {"expand": 1.0}, needs_clip=True, source="the usual baseline"),
    }
)


def describe(name: str, view: View, regions: Regions, **options: Any) -> Described:
    """What the encoder of that name says about each region; a zero vector for an empty mask.

    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    >>> describe("pool", view, Regions.from_masks(np.ones((1, 48, 80), bool))).vectors.tolist()
    [[1.0]]
    """
    row = encoder(name)
    for option in options:
        if option not in row.options:
            raise UnknownName.of(f"option of encoder {name}", option, row.options)
    if (regions.height, regions.width) != view.image.shape[:2]:
        raise BadInput(
            f"regions and picture must be of one size: {regions.height}x{regions.width} and "
            f"{view.image.shape[0]}x{view.image.shape[1]} (rows x cols). Swapped axes?"
        )
    if row.needs_clip and view.clip is None:
        raise BadUsage(f"encoder {name} looks at the picture again: it needs the CLIP network, and none was given")
    if view.clip is not None:
        _check(name, view.clip)
    filled = np.flatnonzero(regions.area > 0)
    vectors = np.zeros((len(regions), len(view.features.whole)), np.float32)
    if len(filled):
        vectors[filled] = unit(row.run(view, regions[filled], {**row.options, **options}))
    return Described(vectors)


def encode(
    name: str,
    clip: "Clip | None",
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    regions: Regions,
    **options: Any,
) -> Float32[np.ndarray, "n dim"]:
    """A unit vector for each region by the encoder of that name; zeros for an empty mask.

    >>> image = np.zeros((48, 80, 3), np.uint8)
    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> encode("pool", None, image, features, Regions.from_masks(np.zeros((2, 48, 80), bool))).tolist()
    [[0.0], [0.0]]
    """
    return describe(name, View(clip, image, features), regions, **options).vectors


def blocks(name: str, clip: "Clip", options: Mapping[str, Any]) -> tuple[int, ...]:
    """The blocks whose input the dense pass has to keep for an encoder; none for most.

    Raises `UnsupportedTower` where the encoder cannot read this network.
    """
    from ovseg.clip.families import find

    row = encoder(name)
    _check(name, clip)
    return () if row.blocks is None else row.blocks(find(clip.visual), {**row.options, **options})


def encoder(name: str) -> Encoder:
    """The row of an encoder, whatever its case and with `_` read as `-`."""
    key = name.lower().replace("_", "-")
    if key not in ENCODERS:
        raise UnknownName.of("encoder", name, ENCODERS)
    return ENCODERS[key]


def _check(name: str, clip: "Clip") -> None:
    """An error where the encoder of that name cannot read this network."""
    from ovseg.clip.families import find

    refuses = encoder(name).refuses
    if refuses is None:
        return
    walk = find(clip.visual)
    why = refuses(walk)
    if why:
        able = ", ".join(other for other, row in ENCODERS.items() if row.refuses is None or not row.refuses(walk))
        raise UnsupportedTower(f"encoder {name} cannot read this {walk.family}: {why}. Encoders that can: {able}.")


__all__ = ["Described", "ENCODERS", "Encoder", "View", "blocks", "describe", "encode", "encoder", "region_rows"]
