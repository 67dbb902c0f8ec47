"""segment-anything's mask decoder, one picture and many prompts: the same numbers with what prompts share done once.

The prompts of a picture differ in a few tokens; its image tokens are equal until the first image update. So keys and
values of the first token-to-image attention and queries of the first image-to-token attention are computed once a
picture (`share`), not once a prompt. Qualities come before masks (`attend`), so that masks are made only where one is
wanted (`upscale`). In the order of operations of facebookresearch/segment-anything@dca509f (Kirillov et al. 2023,
arXiv:2304.02643); any network whose decoder has that module tree will do (MobileSAM's has).

`Encode`, `Attend` and `Upscale` are modules from tensors to tuples of tensors: what `ovseg.runtime.prepare` takes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Shared:
    """What all prompts of a picture have in common: image tokens, their positions, and layer 0's projections of them.

    Tokens and positions keep the strides of the maps that they are views of: on others the last bits are not
    segment-anything's. The first axis is 1, or one a prompt where every prompt brings a mask of its own.
    """

    tokens: Float[Tensor, "n cells channels"]
    positions: Float[Tensor, "1 cells channels"]
    key: Float[Tensor, "n heads cells d"]
    value: Float[Tensor, "n heads cells d"]
    query: Float[Tensor, "n heads cells d"]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors, in the order that `Attend` takes them."""
        return self.tokens, self.positions, self.key, self.value, self.query


def share(
    decoder: Any,
    features: Float[Tensor, "1 channels rows cols"],
    dense: Float[Tensor, "n channels rows cols"],
    positions: Float[Tensor, "1 channels rows cols"],
) -> Shared:
    """The shared part of a picture; `dense` is the prompt encoder's map of masks (or of their absence)."""
    layer = decoder.transformer.layers[0]
    tokens = (features + dense).flatten(2).permute(0, 2, 1)
    places = positions.flatten(2).permute(0, 2, 1)
    placed = tokens + places
    down, up = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    return Shared(
        tokens,
        places,
        _heads(down.k_proj(placed), down.num_heads),
        _heads(down.v_proj(tokens), down.num_heads),
        _heads(up.q_proj(placed), up.num_heads),
    )


class Encode(nn.Module):
    """A picture's normalised pixels in, its features out."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Float[Tensor, "1 3 side side"]) -> tuple[Float[Tensor, "1 channels rows cols"]]:
        return (self.encoder(pixels),)


class Attend(nn.Module):
    """Prompt tokens and a picture's shared part in; qualities, mask tokens and image tokens of each prompt out."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        prompts: Float[Tensor, "b m channels"],
        image: Float[Tensor, "n cells channels"],
        positions: Float[Tensor, "1 cells channels"],
        key: Float[Tensor, "n heads cells d"],
        value: Float[Tensor, "n heads cells d"],
        query: Float[Tensor, "n heads cells d"],
    ) -> tuple[Float[Tensor, "b masks"], Float[Tensor, "b all channels"], Float[Tensor, "b cells channels"]]:
        decoder = self.decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        places = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)  # the tokens are their own positions
        tokens = places
        for number, layer in enumerate(decoder.transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                placed = tokens + places
                tokens = tokens + layer.self_attn(placed, placed, tokens)
            tokens = layer.norm1(tokens)
            down, up = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            if number:
                seen = image + positions
                key, value = _heads(down.k_proj(seen), down.num_heads), _heads(down.v_proj(image), down.num_heads)
                query = _heads(up.q_proj(seen), up.num_heads)
                del seen
            tokens = tokens + _mix(down, _heads(down.q_proj(tokens + places), down.num_heads), key, value)
            tokens = layer.norm2(tokens)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            ask = _heads(up.k_proj(tokens + places), up.num_heads)
            change = _mix(up, query, ask, _heads(up.v_proj(tokens), up.num_heads))
            image = layer.norm4(change.add_(image) if not torch.is_grad_enabled() else change + image)
        last = decoder.transformer.final_attn_token_to_image
        key = _heads(last.k_proj(image + positions), last.num_heads)
        value = _heads(last.v_proj(image), last.num_heads)
        tokens = tokens + _mix(last, _heads(last.q_proj(tokens + places), last.num_heads), key, value)
        tokens = decoder.transformer.norm_final_attn(tokens)
        return decoder.iou_prediction_head(tokens[:, 0]), tokens[:, 1 : 1 + decoder.num_mask_tokens], image


class Upscale(nn.Module):
    """Image tokens and mask tokens of each prompt in; mask logits at a quarter of the network's side out.

    `first` and `last` (exclusive) pick the masks: 0 is the answer to a prompt that leaves no doubt, 1 to 3 are the
    whole, the part and the part of the part.
    """

    def __init__(self, decoder: Any, first: int, last: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.first, self.last, self.grid = decoder, first, last, grid

    def forward(
        self, image: Float[Tensor, "b cells channels"], tokens: Float[Tensor, "b masks channels"]
    ) -> tuple[Float[Tensor, "b picked high wide"]]:
        decoder = self.decoder
        maps = decoder.output_upscaling(image.transpose(1, 2).view(image.shape[0], -1, *self.grid))
        # All filters, though some are not wanted: the product of fewer rows has other last bits.
        filters = torch.stack([own(tokens[:, i]) for i, own in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
        logits = (filters @ maps.flatten(2)).view(maps.shape[0], -1, *maps.shape[2:])
        return (logits[:, self.first : self.last],)


def _heads(tokens: Float[Tensor, "b n width"], heads: int) -> Float[Tensor, "b heads n d"]:
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _mix(
    layer: Any,
    query: Float[Tensor, "a heads n d"],
    key: Float[Tensor, "b heads m d"],
    value: Float[Tensor, "b heads m d"],
) -> Float[Tensor, "c n width"]:
    """softmax(q k / sqrt(d)) v through the output matrix; either side may be one for all prompts."""
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    mixed = scores.softmax(dim=-1) @ value
    out: Tensor = layer.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


__all__ = ["Attend", "Encode", "Shared", "Upscale", "share"]
