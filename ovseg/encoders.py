"""One vector for each region: from the dense map, or from the network looking at it again. A row of `ENCODERS`.

pool   the mean of the cells' vectors, each by the share of it that the mask covers: no further pass of the network, the
       whole picture as context (as in FC-CLIP, arXiv:2308.02487, and CorrCLIP, arXiv:2411.10086).
crop   the network's own image vector of the region's box: one pass a region, no context, and the background inside the
       box counts too.

Vectors are unit rows; an empty mask gives a zero row, which likes every name the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.masks import cell_fractions
from ovseg.types import DenseFeatures, Regions

if TYPE_CHECKING:
    from ovseg.clip.load import Clip

Run = Callable[
    [Any, UInt8[np.ndarray, "height width 3"], DenseFeatures, Regions, Mapping[str, Any]],
    Float32[np.ndarray, "n dim"],
]


@dataclass(frozen=True)
class Encoder:
    """One way to give regions vectors: what it computes, the options it knows with their defaults, what it needs.

    `run` gets (clip, picture, features, regions without empty ones, every option) and may return rows of any length.
    """

    run: Run
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_clip: bool = False
    source: str = ""


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
    row = encoder(name)
    for option in options:
        if option not in row.options:
            raise UnknownName.of(f"option of encoder {name}", option, row.options)
    sizes = {(features.height, features.width), (regions.height, regions.width), image.shape[:2]}
    if len(sizes) > 1:
        raise BadInput(
            f"picture, features and regions must be of one size: {image.shape[0]}x{image.shape[1]}, "
            f"{features.height}x{features.width} and {regions.height}x{regions.width} (rows x cols). Swapped axes?"
        )
    if row.needs_clip and clip is None:
        raise BadUsage(f"encoder {name} looks at the picture again: it needs the CLIP network, and none was given")
    filled = np.flatnonzero(regions.area > 0)
    vectors = np.zeros((len(regions), len(features.whole)), np.float32)
    if len(filled):
        found = row.run(clip, image, features, regions[filled], {**row.options, **options})
        vectors[filled] = _unit(found)
    return vectors


def encoder(name: str) -> Encoder:
    """The row of an encoder, whatever its case and with `_` read as `-`."""
    key = name.lower().replace("_", "-")
    if key not in ENCODERS:
        raise UnknownName.of("encoder", name, ENCODERS)
    return ENCODERS[key]


def _pool(
    clip: Any,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    regions: Regions,
    options: Mapping[str, Any],
) -> Float32[np.ndarray, "n dim"]:
    """Sum of m_p f_p over cells p, with m_p the covered share of the cell: linear, made unit only afterwards."""
    shares = cell_fractions(regions, *features.grid).reshape(len(regions), -1)
    return np.asarray(shares @ features.vectors.reshape(len(features.vectors), -1).T, np.float32)


def _crop(
    clip: Any,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    regions: Regions,
    options: Mapping[str, Any],
) -> Float32[np.ndarray, "n dim"]:
    """The image vector of each box, grown by `expand` within the picture and padded to a square with CLIP's mean."""
    from ovseg.clip.dense import encode_images

    expand = float(options["expand"])
    if not expand > 0:
        raise BadUsage(f"expand must be above 0 (1 is the box itself): got {expand}")
    colour = np.round(255 * np.asarray(clip.mean)).astype(np.uint8)
    views = [_square(_window(image, box, expand), colour) for box in regions.boxes]
    return encode_images(clip, views)


ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "pool": Encoder(_pool, source="FC-CLIP (arXiv:2308.02487)"),
        "crop": Encoder(_crop, {"expand": 1.0}, needs_clip=True, source="the usual baseline"),
    }
)


def _window(
    image: UInt8[np.ndarray, "height width 3"], box: Float[np.ndarray, " 4"], expand: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a picture in an XYXY box that has grown about its middle, cut at the frame; at least one pixel."""
    spans = []
    for low, high, limit in ((box[1], box[3], image.shape[0]), (box[0], box[2], image.shape[1])):
        middle, half = (low + high) / 2, (high - low) * expand / 2
        start = min(max(0, math.floor(middle - half + 1e-6)), limit - 1)
        spans.append(slice(start, max(start + 1, min(limit, math.ceil(middle + half - 1e-6)))))
    return image[spans[0], spans[1]]


def _square(image: UInt8[np.ndarray, "h w 3"], colour: UInt8[np.ndarray, "3"]) -> UInt8[np.ndarray, "side side 3"]:
    """The picture in the middle of a square of one colour."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.empty((side, side, 3), np.uint8)
    out[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def _unit(vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


__all__ = ["ENCODERS", "Encoder", "Run", "encode", "encoder"]
