"""`LAST_BLOCKS`: the published dense methods and one of ours, each a row of data, by family; each file is its family's
page.

| you have | take | why |
|---|---|---|
| any CLIP ViT, words, little time | `naclip` | one pass; nearness keeps labels together |
| the bundled model | `maskclip-reduced` | it was trained on its value path |
| the bundled model, one block more | `two-level` (ours) | 1 to 2 mIoU more there; unknown elsewhere |
| things that repeat across the picture | `clearclip` | likeness without nearness |
| pictures from above | `segearth` | takes the scene's colour out |
| 5 % more time | `resclip` | where-information of middle layers |
| large pictures, large towers, spots of nonsense | `sc-clip`, `sfp` | outlier patches are mended |
| DINO weights beside CLIP's | `proxyclip` | outlines of another network |
| one phrase, a heat map | `gem`, `clip-surgery` | second stream without MLPs |
| a paper's baseline | `vanilla`, `maskclip`, `sclip`, `cliptrase`, `itaclip`, `cliper`, `pearl` | as published |
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.methods import guided, layers, likeness, mended, own, streams, value, variants
from ovseg.clip.program import LastBlock
from ovseg.errors import UnknownName

FAMILIES: Mapping[str, Mapping[str, LastBlock]] = MappingProxyType(
    {
        "value": value.ROWS,
        "likeness": likeness.ROWS,
        "layers": layers.ROWS,
        "streams": streams.ROWS,
        "mended": mended.ROWS,
        "guided": guided.ROWS,
        "own": own.ROWS,
    }
)

LAST_BLOCKS: Mapping[str, LastBlock] = MappingProxyType(
    {name: row for rows in FAMILIES.values() for name, row in rows.items()}
)


VARIANTS: Mapping[str, LastBlock] = variants.ROWS


def last_block(name: str) -> LastBlock:
    """The row of a method or of a published variant, whatever its case and with `_` read as `-`.

    >>> last_block("NACLIP").row_sum, last_block("sclip_drop").residual
    (1.0, False)
    """
    key = canonical(name)
    return LAST_BLOCKS[key] if key in LAST_BLOCKS else VARIANTS[key]


def canonical(name: str) -> str:
    """The key of a method in `LAST_BLOCKS` or `VARIANTS`."""
    key = name.lower().replace("_", "-")
    if key not in LAST_BLOCKS and key not in VARIANTS:
        raise UnknownName.of("method", name, LAST_BLOCKS)
    return key


__all__ = ["FAMILIES", "LAST_BLOCKS", "VARIANTS", "canonical", "last_block"]
