"""MobileSAM's image encoder: TinyViT of timm's parts, for the tensors that MobileSAM publishes.

Papers: Faster Segment Anything (Zhang et al. 2023, arXiv:2306.14289) and TinyViT (Wu et al. 2022, arXiv:2207.10666);
program: ChaoningZhang/MobileSAM@34bbbfd. Only the encoder differs from segment-anything: preprocessing, prompt encoder
and decoder are its own. TinyViT is the one of 5 M parameters at 1024 px, with two changes: the last merging keeps its
resolution, so that the map is 64 x 64, and segment-anything's neck takes the place of the classifier.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
MARK = "image_encoder.patch_embed.seq.0.c.weight"  # a tensor that only MobileSAM's files have

# MobileSAM's names into timm's. There a stage ends with the merging into the next one, here it begins with it.
NAMES = (
    (re.compile(r"^image_encoder\.patch_embed\.seq\.0\."), "image_encoder.patch_embed.conv1."),
    (re.compile(r"^image_encoder\.patch_embed\.seq\.2\."), "image_encoder.patch_embed.conv2."),
    (re.compile(r"^(image_encoder\..*)\.c\."), r"\1.conv."),
    (re.compile(r"^image_encoder\.layers\.0\.downsample\."), "image_encoder.stages.1.downsample."),
    (re.compile(r"^image_encoder\.layers\.1\.downsample\."), "image_encoder.stages.2.downsample."),
    (re.compile(r"^image_encoder\.layers\.2\.downsample\."), "image_encoder.stages.3.downsample."),
    (re.compile(r"^image_encoder\.layers\."), "image_encoder.stages."),
)
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")  # of the classifier, never run


class TinyViTEncoder(nn.Module):
    """Normalised squares of `img_size` px to maps of `channels` at a sixteenth."""

    def __init__(self, img_size: int = 1024, channels: int = 256) -> None:
        super().__init__()
        self.img_size = img_size
        # The class itself: MobileSAM's package puts its own networks under timm's registered names.
        network: Any = TinyVit(
            embed_dims=WIDTHS, depths=DEPTHS, num_heads=HEADS, window_sizes=WINDOWS, drop_path_rate=0.0
        )
        network.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.patch_embed, self.stages = network.patch_embed, network.stages
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], channels, 1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def forward(self, pixels: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b channels rows cols"]:
        out: Tensor = self.neck(self.stages(self.patch_embed(pixels)))
        return out


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MobileSAM's tensors under our names; those of its unused classifier are left out.

    >>> list(renamed({"image_encoder.layers.0.downsample.conv1.c.bias": Tensor(), "image_encoder.head.bias": Tensor()}))
    ['image_encoder.stages.1.downsample.conv1.conv.bias']
    """
    out = {}
    for key, value in state.items():
        if key.startswith(UNUSED):
            continue
        for pattern, own in NAMES:
            key = pattern.sub(own, key)
        out[key] = value
    return out


__all__ = ["DEPTHS", "HEADS", "MARK", "NAMES", "TinyViTEncoder", "UNUSED", "WIDTHS", "WINDOWS", "renamed"]
