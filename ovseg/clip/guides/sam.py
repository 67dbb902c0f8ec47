"""segment-anything's image encoder as a guide: its map of a window, and the last attention of a whole picture.

Paper: Segment Anything (Kirillov et al. 2023, arXiv:2304.02643). The attention is what YuHengsss/Trident@a93b346 mixes
CLIP's cells with; that program keeps it on a changed copy of the encoder, here the last block is opened.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ovseg.clip.guides.pixels import fitted, normalised
from ovseg.clip.walk import packed, pair
from ovseg.errors import UnsupportedTower


def look(
    network: Any, pixels: Float[Tensor, "b 3 height width"], output: str = "tokens", positions: str = ""
) -> Float[Tensor, "b channels rows cols"]:
    """SAM's image embedding of pixels squeezed to its square, as mc-lan/ProxyCLIP@e7b767f takes it for windows."""
    encoder = encoder_of(network)
    out: Tensor = encoder(fitted(pixels, (encoder.img_size, encoder.img_size)))
    return out


def grid(network: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map, the same for pixels of any size."""
    encoder = encoder_of(network)
    down, across = pair(encoder.patch_embed.proj.kernel_size)
    return encoder.img_size // down, encoder.img_size // across


def last_attention(
    network: Any, pictures: UInt8[Tensor, "b 3 height width"], mean: Sequence[float], std: Sequence[float]
) -> tuple[Float[Tensor, "b heads n n"], Float[Tensor, "b heads rows cols d"]]:
    """SAM's last attention of whole pictures and its values, on the rows x cols = n cells that hold picture.

    The longer side becomes the network's side and the rest of the square is padding, as `SamPredictor` does it.
    """
    from segment_anything.utils.transforms import ResizeLongestSide

    encoder = encoder_of(network)
    shrink = ResizeLongestSide(encoder.img_size)
    resized = [torch.from_numpy(shrink.apply_image(one.permute(1, 2, 0).cpu().numpy())) for one in pictures]
    own = normalised(torch.stack(resized).permute(0, 3, 1, 2), mean, std).to(next(encoder.parameters()).device)
    height, width = own.shape[-2:]
    square = F.pad(own, (0, encoder.img_size - width, 0, encoder.img_size - height))
    patch = pair(encoder.patch_embed.proj.kernel_size)
    return attention(encoder, square, (max(1, height // patch[0]), max(1, width // patch[1])))


def attention(
    encoder: Any, pixels: Float[Tensor, "b 3 side side"], cells: tuple[int, int]
) -> tuple[Float[Tensor, "b heads n n"], Float[Tensor, "b heads rows cols d"]]:
    """Attention of the encoder's last block between its first `cells` (rows, cols), and their values.

    The softmax runs over all keys, then those outside are left out and rows are not stretched: Trident cuts so too.
    """
    from segment_anything.modeling.image_encoder import get_rel_pos

    tokens = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    for block in encoder.blocks[:-1]:
        tokens = block(tokens)
    last = encoder.blocks[-1]
    own = last.attn
    batch, high, wide, _ = tokens.shape
    rows, cols = cells
    sides = packed(last.norm1(tokens).flatten(1, 2), own.qkv.weight, own.qkv.bias, own.num_heads, "qkv")
    heads = own.num_heads
    query, value = (sides[letter].reshape(batch, heads, high, wide, -1)[:, :, :rows, :cols] for letter in "qv")
    scores = query.flatten(2, 3) * own.scale @ sides["k"].mT
    scores = scores.view(batch, heads, rows, cols, high, wide)
    if own.use_rel_pos:  # in place: the full matrix is the largest thing here
        down = get_rel_pos(high, high, own.rel_pos_h)[:rows]  # (rows, high, d)
        across = get_rel_pos(wide, wide, own.rel_pos_w)[:cols]
        scores += torch.einsum("bhrcd,rkd->bhrck", query, down)[..., None]
        scores += torch.einsum("bhrcd,ckd->bhrck", query, across)[..., None, :]
    whole = scores.flatten(4).softmax(dim=-1).view(scores.shape)
    return whole[..., :rows, :cols].flatten(4).flatten(2, 3), value


def encoder_of(sam: Any) -> Any:
    """The image encoder of a SAM, if it is the ViT whose last block sees the whole picture."""
    encoder = getattr(sam, "image_encoder", None)
    blocks = getattr(encoder, "blocks", None)
    if not blocks or getattr(blocks[-1], "window_size", 1) != 0:
        raise UnsupportedTower(
            f"guide sam needs segment-anything's ViT encoder (vit_b, vit_l, vit_h): got {type(encoder).__name__} of "
            f"{type(sam).__name__}"
        )
    return encoder


__all__ = ["attention", "encoder_of", "grid", "last_attention", "look"]
