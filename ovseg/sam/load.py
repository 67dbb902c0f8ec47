"""Opening a Segment Anything checkpoint: the right network for the tensors in a file, every key matched, or a sentence.

The network is segment-anything's own `Sam` (Kirillov et al. 2023, arXiv:2304.02643), so whatever takes one takes ours.
Which sizes there are is data: `KINDS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ovseg.clip.load import pick_device
from ovseg.errors import BadUsage, BadWeights, UnknownName
from ovseg.weights import read_state

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of bytes, RGB: the same for all kinds
PIXEL_STD = (58.395, 57.12, 57.375)
SHOWN = 3  # keys that an error names, of each sort


@dataclass(frozen=True)
class SamShape:
    """The sizes that tell one SAM from another: encoder width, depth, heads; `channels` is the width of the decoder."""

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


KINDS: Mapping[str, SamShape] = MappingProxyType(
    {
        "vit_b": SamShape(768, 12, 12, (2, 5, 8, 11)),
        "vit_l": SamShape(1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": SamShape(1280, 32, 16, (7, 15, 23, 31)),
        "tiny": SamShape(96, 6, 3, (2, 5), 256, window=8, channels=64, decoder_mlp=256, decoder_heads=4),  # ours
    }
)


def load(path: str | Path, kind: str | None = None, *, device: str = "cpu", allow_pickle: bool = False) -> Sam:
    """The network of a checkpoint, in float32, on `device`, ready to run; `kind` is read off the tensors if not given.

    A file that lacks a tensor, has one too many or one of another shape is refused. Published SAM files are pickles:
    those whose digest the manifest knows are opened (as data alone), others only with `allow_pickle`.
    """
    place = pick_device(device)
    path = Path(path).expanduser()
    state = read_state(path, allow_pickle=allow_pickle)
    found = kind_of(state)
    wanted = found if kind is None else kind
    if wanted is None:
        raise BadWeights(
            f"a SAM checkpoint ({', '.join(KINDS)}) is needed: {path} holds {len(state)} tensors of something else "
            f"({_listed(list(state))})"
        )
    for name in (wanted, found):
        if name == "vit_t":
            raise BadWeights(
                f"a SAM checkpoint ({', '.join(KINDS)}) is needed: {path} is MobileSAM's vit_t, which this version "
                "cannot run yet; take vit_b"
            )
    if wanted not in KINDS:
        raise UnknownName.of("kind of SAM", wanted, KINDS)
    if found is not None and found != wanted:
        raise BadWeights(f"SAM {wanted} is needed: {path} holds {found}; leave the kind out, or give another file")
    with torch.device("meta"):  # no time and memory for numbers that are overwritten
        sam = build(KINDS[wanted])
    _match(sam, state, f"SAM {wanted}", path)
    sam.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)  # not in the file
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return sam.requires_grad_(False).eval().to(place)


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """The row of `KINDS` whose encoder these tensors are of, "vit_t" for MobileSAM's, None where it is neither."""
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
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
        image_encoder=ImageEncoderViT(
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
        ),
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


def _match(sam: Sam, state: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Nothing, or `BadWeights` that names the tensors in which a file and its network differ."""
    wanted = sam.state_dict()
    missing = [key for key in wanted if key not in state]
    stray = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [
        f"{len(keys)} {sort} ({_listed(keys)})"
        for sort, keys in (("missing", missing), ("unexpected", stray), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise BadWeights(
            f"{what} needs its own {len(wanted)} tensors: {path} has {', '.join(faults)}; fetch the file again, or "
            "give one of this kind"
        )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


__all__ = [
    "KINDS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "SamShape",
    "build",
    "kind_of",
    "load",
    "require_float32",
]
