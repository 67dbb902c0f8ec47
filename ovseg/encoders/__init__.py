"""One vector for each region: from the dense map, or from the network looking at it again. A row of `ENCODERS`.

pool   the mean of the cells' vectors, each by the share of it that the mask covers: no further pass of the network, the
       whole picture as context (as in FC-CLIP, arXiv:2308.02487, and CorrCLIP, arXiv:2411.10086).
convnext  the same on the map of a convolutional tower, before its head (FC-CLIP).
bias   a token beside the image's own in the last blocks, which sees the region's patches alone (SAN, CorrCLIP).
foveal the image's own token with more weight on the region's cells: context stays (FALIP).
crop   the network's own image vector of the region's box: one pass a region, no context, and the background inside the
       box counts too.
roi    the box in the dense map, by torchvision's roi_align (CLIPSelf, arXiv:2310.01403).
guided crops at several margins, averaged (after GC-CLIP, arXiv:2309.06581).
masked-crop  the crop with everything outside the mask blanked (OVSeg, arXiv:2210.04150), best with its own checkpoint.
alpha  a network with the mask as its fourth channel (Alpha-CLIP, arXiv:2312.03818); needs its checkpoint.
circle the whole picture with a red circle round the region and a blur outside (arXiv:2304.06712): not for people, see
       `marks`.

vote   the cells' own posteriors, averaged in the mask: words decide before pooling.
ensemble, blend  several of these together: rows mixed with a weight per mask, or two posteriors blended name by name.

Vectors are unit rows; an empty mask gives a zero row, which likes every name the same.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from ovseg.encoders.alpha import alpha
from ovseg.encoders.alpha import read as read_alpha
from ovseg.encoders.alpha import refuses as refuses_alpha
from ovseg.encoders.crops import check_boxes, crop, guided
from ovseg.encoders.described import Described, region_rows, unit
from ovseg.encoders.ensemble import blend, check_blend, check_ensemble, ensemble, members_of
from ovseg.encoders.inside import (
    bias,
    bias_blocks,
    check_bias,
    check_foveal,
    convnext,
    convnext_blocks,
    foveal,
    foveal_blocks,
    no_map,
    no_own,
)
from ovseg.encoders.marks import circle
from ovseg.encoders.marks import read as read_marks
from ovseg.encoders.masked import masked_crop
from ovseg.encoders.pool import pool, roi
from ovseg.encoders.rows import Encoder, View
from ovseg.encoders.votes import vote
from ovseg.errors import BadInput, BadUsage, UnknownName, UnsupportedTower
from ovseg.types import DenseFeatures, Regions

if TYPE_CHECKING:
    from ovseg.clip.load import Clip

# One with the picture as context and one that sees nothing else: the pair that told most apart on the bundled model.
PAIR = ["pool", {"masked-crop": {"shape": "pad"}}]

ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "pool": Encoder(pool, what="mean of the dense map's cells in the mask", source="FC-CLIP (arXiv:2308.02487)"),
        "roi": Encoder(
            roi,
            what="mean of the dense map in the box, by roi_align",
            source="CLIPSelf (arXiv:2310.01403), RegionCLIP (arXiv:2112.09106)",
        ),
        "convnext": Encoder(
            convnext,
            needs_clip=True,
            blocks=convnext_blocks,
            refuses=no_map,
            what="the mean of the map's cells, then the tower's own head",
            source="FC-CLIP (arXiv:2308.02487)",
        ),
        "bias": Encoder(
            bias,
            {"start": 9, "edge": "share"},
            needs_clip=True,
            blocks=bias_blocks,
            refuses=no_own,
            check=check_bias,
            what="a copy of the image's token that sees the region's patches alone",
            cost="a token each in the last quarter of the blocks",
            source="SAN (arXiv:2302.12242), CorrCLIP (arXiv:2411.10086)",
        ),
        "foveal": Encoder(
            foveal,
            {"start": 8, "strength": 0.2, "sigma": 100.0, "where": "box"},
            needs_clip=True,
            blocks=foveal_blocks,
            refuses=no_own,
            check=check_foveal,
            what="the image's token, with more weight on the region's cells",
            cost="n times the last third of the blocks",
            source="FALIP (arXiv:2407.05578)",
        ),
        "crop": Encoder(
            crop,
            {"expand": 1.0, "shape": "pad"},
            needs_clip=True,
            check=check_boxes,
            what="the image vector of the box",
            cost="n passes, batched",
            source="the usual baseline",
        ),
        "guided": Encoder(
            guided,
            {"margins": [0.0, 0.25], "shape": "pad"},
            needs_clip=True,
            check=check_boxes,
            what="mean image vector of the box at several margins",
            cost="n passes a margin, batched",
            source="GC-CLIP (arXiv:2309.06581)",
        ),
        "masked-crop": Encoder(
            masked_crop,
            {"expand": 1.0, "shape": "squeeze", "checkpoint": "", "depth": None, "allow_pickle": False},
            needs_clip=True,
            check=check_boxes,
            what="the image vector of the box, blank outside the mask",
            cost="n passes, batched",
            source="OVSeg (arXiv:2210.04150), facebookresearch/ov-seg@27900fa",
        ),
        "alpha": Encoder(
            alpha,
            {"checkpoint": "", "look": "whole", "expand": 1.0, "allow_pickle": False},
            needs_clip=True,
            refuses=refuses_alpha,
            check=read_alpha,
            what="the image vector of a network with the mask as fourth channel, of a checkpoint that you name",
            cost="n passes, batched",
            source="Alpha-CLIP (arXiv:2312.03818), SunzeY/AlphaCLIP@e5676c9",
        ),
        "circle": Encoder(
            circle,
            {"blur": 100.0, "ring": True, "sharp": "ellipse", "compat": False},
            needs_clip=True,
            check=read_marks,
            what="the image vector of the picture with a red circle round the region",
            cost="n passes, batched",
            source="red circle (arXiv:2304.06712), pumpkin805/FALIP@583df71",
        ),
        "vote": Encoder(
            vote,
            {"hard": False},
            what="mean posterior of the cells in the mask",
            source="EdaDet (arXiv:2309.01151); hard: Semantic-Segment-Anything@4bc7581",
        ),
        "ensemble": Encoder(
            combine=ensemble,
            options={"members": PAIR, "weights": "entropy", "beta": 0.85},
            check=check_ensemble,
            what="rows of several encoders, mixed with a weight per mask",
            cost="its members'",
            source="after AutoCLIP (arXiv:2309.16414)",
        ),
        "blend": Encoder(
            combine=blend,
            options={"members": PAIR, "alpha": 0.4, "beta": 0.8, "seen": []},
            check=check_blend,
            what="posteriors of two encoders, blended name by name",
            cost="its members'",
            source="FC-CLIP (arXiv:2308.02487), bytedance/fc-clip@7791b83",
        ),
    }
)


# What an option may be, by the type of its usual value; a row says itself what its lists hold
KINDS: Mapping[type, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((float, int), "a number"),
        str: ((str,), "a text"),
        type(None): ((int, type(None)), "a whole number or None"),
    }
)


def describe(name: str, view: View, regions: Regions, **options: Any) -> Described:
    """What the encoder of that name says about each region; a zero vector for an empty mask.

    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    >>> describe("pool", view, Regions.from_masks(np.ones((1, 48, 80), bool))).vectors.tolist()
    [[1.0]]
    """
    row, options = encoder(name), check(name, options)
    if (regions.height, regions.width) != view.image.shape[:2]:
        raise BadInput(
            f"regions and picture must be of one size: {regions.height}x{regions.width} and "
            f"{view.image.shape[0]}x{view.image.shape[1]} (rows x cols). Swapped axes?"
        )
    if row.needs_clip and view.clip is None:
        raise BadUsage(f"encoder {name} looks at the picture again: it needs the CLIP network, and none was given")
    if view.clip is not None:
        _check(name, view.clip)
    every = {**row.options, **options}
    if row.combine is not None:
        return row.combine([describe(member, view, regions, **own) for member, own in members_of(every)], every)
    assert row.run is not None, "an encoder runs or combines"
    filled = np.flatnonzero(regions.area > 0)
    if not len(filled):
        return Described(np.zeros((len(regions), len(view.features.whole)), np.float32))
    said = row.run(view, regions[filled], every)
    return (said if isinstance(said, Described) else Described(unit(said))).spread(filled, len(regions))


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

    row, every = encoder(name), {**encoder(name).options, **options}
    _check(name, clip)
    if row.combine is not None:
        return tuple(sorted({block for member, own in members_of(every) for block in blocks(member, clip, own)}))
    return () if row.blocks is None else row.blocks(find(clip.visual), every)


def check(name: str, options: Any) -> dict[str, Any]:
    """The options as JSON will give them back; an error where one is unknown or its value makes no sense.

    Those of members too. No network and no torch is needed, so that a recipe is refused when it is made.

    >>> check("guided", {"margins": (0, 0.5)})
    {'margins': [0, 0.5]}
    """
    row = encoder(name)
    if not isinstance(options, Mapping):
        raise BadUsage(f"options of encoder {name} are {{option: value}}: got {options!r}")
    for option, value in options.items():
        if option not in row.options:
            raise UnknownName.of(f"option of encoder {name}", str(option), row.options)
        usual = row.options[option]
        types, kind = KINDS.get(type(usual), ((object,), ""))
        if not isinstance(value, types) or (isinstance(value, bool) and type(usual) is not bool):
            raise BadUsage(f"option {option} of encoder {name} is {kind}, usually {usual!r}: got {value!r}")
    every = {**row.options, **options}
    if row.check is not None:
        row.check(every)
    if row.combine is not None:
        for member, own in members_of(every):
            check(member, own)
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except TypeError as error:
        raise BadUsage(f"options of encoder {name} are texts, numbers and lists of them: {error}") from None
    return found


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


__all__ = [
    "Described",
    "ENCODERS",
    "Encoder",
    "KINDS",
    "PAIR",
    "View",
    "blocks",
    "check",
    "describe",
    "encode",
    "encoder",
    "region_rows",
]
