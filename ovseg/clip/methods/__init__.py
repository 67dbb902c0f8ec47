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
| a guide, and regions or SAM besides | `corrclip`, `trident`, `cass` (`PICTURES`) | the strongest with code |
| five passes to spend | `itaclip-views` (`PICTURES`) | the last points |
| a paper's baseline | `vanilla`, `maskclip`, `sclip`, `cliptrase`, `itaclip`, `cliper`, `pearl` | as published |
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.methods import guided, layers, likeness, mended, own, streams, value, variants
from ovseg.clip.methods.pictures import PICTURES
from ovseg.clip.program import LastBlock
from ovseg.errors import BadUsage, UnknownName

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
    if key in PICTURES:
        raise BadUsage(
            f"method {key} is no row of LAST_BLOCKS but reads whole pictures, and needs {PICTURES[key].wants}: take "
            f"Pipeline.open(..., method={key!r}) or ovseg.clip.pictures"
        )
    return LAST_BLOCKS[key] if key in LAST_BLOCKS else VARIANTS[key]


def canonical(name: str) -> str:
    """The key of a method in `LAST_BLOCKS`, `VARIANTS` or `PICTURES`."""
    key = name.lower().replace("_", "-")
    if key not in LAST_BLOCKS and key not in VARIANTS and key not in PICTURES:
        raise UnknownName.of("method", name, [*LAST_BLOCKS, *PICTURES])
    return key


def needs(name: str) -> frozenset[str]:
    """What a method cannot do without: of `walk.FEATURES` or "guide" for a row, of `pictures.NEEDS` for a picture's."""
    key = canonical(name)
    return frozenset(PICTURES[key].needs if key in PICTURES else last_block(key).needs)


__all__ = ["FAMILIES", "LAST_BLOCKS", "PICTURES", "VARIANTS", "canonical", "last_block", "needs"]
