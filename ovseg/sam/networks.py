"""Which Segment Anything networks there are, as data, and how each is built: `KINDS`.

The network is segment-anything's own `Sam` (Kirillov et al. 2023, arXiv:2304.02643), so whatever takes one takes ours;
MobileSAM's differs in its encoder alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ovseg.errors import BadUsage
from ovseg.sam.mobile import MARK, TinyViTEncoder

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of bytes, RGB: the same for all kinds
PIXEL_STD = (58.395, 57.12, 57.375)

CUTS = (0.88, 0.95)  # predicted IoU and stability, of segment-anything's generator


@dataclass(frozen=True)
class SamShape:
    """The sizes that tell one SAM from another: encoder width, depth, heads; `channels` is the width of the decoder.

    `encoder` is a row of `ENCODERS`; a TinyViT has one shape only, of which the last stage stands here. `cuts` are the
    predicted IoU and the stability that a mask needs when everything is asked for, unless told otherwise.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    side: int = 1024  # px
    patch: int = 16  # px
    window: int = 14  # patches
    channels: int = 256
    decoder_mlp: int = 2048
    decoder_heads: int = 8
    encoder: str = "vit"
    cuts: tuple[float, float] = CUTS


KINDS: Mapping[str, SamShape] = MappingProxyType(
    {
        "vit_b": SamShape(768, 12, 12, (2, 5, 8, 11)),
        "vit_l": SamShape(1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": SamShape(1280, 32, 16, (7, 15, 23, 31)),
        "vit_t": SamShape(320, 12, 10, (), window=7, encoder="tiny-vit"),  # MobileSAM
        "tiny": SamShape(
            96, 6, 3, (2, 5), 256, window=8, channels=64, decoder_mlp=256, decoder_heads=4, cuts=(0.55, 0.0)
        ),  # ours
    }
)


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """The row of `KINDS` whose encoder these tensors are of, None where it is none."""
    if MARK in state or "image_encoder.patch_embed.conv1.conv.weight" in state:  # as published; as built here
        return "vit_t"
    positions = state.get("image_encoder.pos_embed")
    if positions is None or positions.ndim != 4:
        return None
    depth = len({key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")})
    for name, shape in KINDS.items():
        cells = shape.side // shape.patch
        if tuple(positions.shape) == (1, cells, cells, shape.width) and depth == shape.depth:
            return name
    return None


def build(shape: SamShape) -> Sam:
    """A `Sam` of this shape with fresh random weights."""
    cells = shape.side // shape.patch
    return Sam(
        image_encoder=ENCODERS[shape.encoder](shape),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.channels,
            image_embedding_size=(cells, cells),
            input_image_size=(shape.side, shape.side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=shape.channels,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=shape.channels, mlp_dim=shape.decoder_mlp, num_heads=shape.decoder_heads
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def _vit(shape: SamShape) -> nn.Module:
    encoder: nn.Module = ImageEncoderViT(
        img_size=shape.side,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=4,
        out_chans=shape.channels,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=shape.window,
        global_attn_indexes=shape.global_blocks,
    )
    return encoder


def _tiny_vit(shape: SamShape) -> nn.Module:
    with torch.device("cpu"):  # its table of offsets is in no checkpoint, so it is made even where the rest is not yet
        return TinyViTEncoder(shape.side, shape.channels)


ENCODERS: Mapping[str, Callable[[SamShape], nn.Module]] = MappingProxyType({"vit": _vit, "tiny-vit": _tiny_vit})


def require_float32(sam: Any) -> Any:
    """The network itself, if it has SAM's parts and runs in float32; a sentence otherwise.

    Any network with segment-anything's parts will do (MobileSAM's has them). In float16 vit_h returns garbage masks
    (segment-anything issue 540), and bfloat16 breaks on the way to numpy (issue 787).
    """
    parts = ("image_encoder", "prompt_encoder", "mask_decoder")
    if not isinstance(sam, nn.Module) or not all(hasattr(sam, part) for part in parts):
        raise BadUsage(f"a SAM-type network ({', '.join(parts)}) is needed: got {type(sam).__name__}")
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in sam.parameters()} - {"float32"})
    if kinds:
        raise BadUsage(f"SAM needs float32: this network is in {', '.join(kinds)}; call .float() on it")
    return sam


__all__ = [
    "CUTS",
    "ENCODERS",
    "KINDS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "SamShape",
    "build",
    "kind_of",
    "require_float32",
]
