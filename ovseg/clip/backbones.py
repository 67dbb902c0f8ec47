"""The CLIP networks that ovseg knows by a short name: which open_clip architecture, and which weight file.

Any other open_clip network opens too: `ARCHITECTURE/TAG` (a pair of open_clip's own list, its file in the Hugging Face
cache), `ARCHITECTURE@FILE`, or a network that a caller built. The activation is part of the row because it is part of
the weights: OpenAI's were trained with QuickGELU, and plain GELU lowers every number without any error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Backbone:
    """`architecture` is open_clip's name, empty where a bundled JSON describes the network; `weights` are rows of
    `weights.MANIFEST`, the first that is here is taken."""

    architecture: str
    weights: tuple[str, ...]
    what: str = ""


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "tiny": Backbone("", ("tiny-clip",), "bundled; 144 px, patch 12; drawings and renders of everyday things"),
        "ViT-B-16/openai": Backbone("ViT-B-16-quickgelu", ("clip-vit-b16-openai", "clip-vit-b16-openai-pt")),
        "ViT-B-32/openai": Backbone("ViT-B-32-quickgelu", ("clip-vit-b32-openai", "clip-vit-b32-openai-pt")),
        "ViT-L-14/openai": Backbone("ViT-L-14-quickgelu", ("clip-vit-l14-openai", "clip-vit-l14-openai-pt")),
        "ViT-L-14-336/openai": Backbone(
            "ViT-L-14-336-quickgelu", ("clip-vit-l14-336-openai", "clip-vit-l14-336-openai-pt")
        ),
        "ViT-B-16/laion2b_s34b_b88k": Backbone("ViT-B-16", ("clip-vit-b16-laion2b",)),
    }
)


__all__ = ["BACKBONES", "Backbone"]
