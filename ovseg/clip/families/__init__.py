"""Which family a vision tower is of, and its walk: read from the module itself, never from a model's name.

| family | towers | image token | route of a patch to the space of the texts |
|---|---|---|---|
| `VisionTransformer` | OpenAI, LAION, DataComp, MetaCLIP, DFN; CLIPA | yes | last norm, projection |
| `TimmModel/Eva` | EVA01, EVA02; PE Core | yes | last norm, projection; PE: value path through its pool |
| `TimmModel/VisionTransformer` | SigLIP, SigLIP2; ViTamin; MobileCLIP-B | MobileCLIP-B alone | SigLIP: value path |
| `TimmModel/ConvNeXt`, `TimmModel/FastVit` | ConvNeXt-CLIP, MobileCLIP-S | no | the tower's own head, cell by cell |
| `ModifiedResNet` | RN50 ... RN50x64 | the pool's mean | values and output matrix of the attention pool |

What a tower of a known family lacks is in its walk's `refuses`; a tower of no family, or one that computes something
else with the family's parts, is an `UnsupportedTower`. No answer ever comes from a tower that was read wrongly.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ovseg.clip.families import conv, eva, plain, resnet, timm_vit
from ovseg.clip.walk import Tower, Walk
from ovseg.errors import UnsupportedTower


@dataclass(frozen=True)
class Family:
    """How a family is recognised, what keeps a tower of it from being walked (a sentence or nothing), and its walk."""

    belongs: Callable[[Tower], bool]
    lacks: Callable[[Tower], str]
    walk: Callable[[Tower], Walk]


FAMILIES: dict[str, Family] = {  # in the order of asking
    "VisionTransformer": Family(plain.belongs, plain.lacks, plain.walk),
    "TimmModel/Eva": Family(eva.belongs, eva.lacks, eva.walk),
    "TimmModel/VisionTransformer": Family(timm_vit.belongs, timm_vit.lacks, timm_vit.walk),
    "TimmModel/ConvNeXt, TimmModel/FastVit": Family(conv.belongs, conv.lacks, conv.walk),
    "ModifiedResNet": Family(resnet.belongs, resnet.lacks, resnet.walk),
}


def find(tower: Tower) -> Walk:
    """The walk of a vision tower (or of a model that has one as `.visual`); `UnsupportedTower` where none is right."""
    tower = getattr(tower, "visual", tower)
    for name, family in FAMILIES.items():
        if family.belongs(tower):
            why = family.lacks(tower)
            if why:
                raise UnsupportedTower(f"this {name} cannot be walked: {why}; {_walked()}.")
            return family.walk(tower)
    trunk = getattr(tower, "trunk", None)
    name = type(tower).__name__ + ("" if trunk is None else f" around {type(trunk).__name__}")
    raise UnsupportedTower(f"{name} is of no family that ovseg walks; {_walked()}.")


def _walked() -> str:
    return f"towers of {', '.join(FAMILIES)} are walked (OpenAI, LAION, EVA, SigLIP, MobileCLIP, ViTamin, ConvNeXt ...)"


__all__ = ["FAMILIES", "Family", "find"]
