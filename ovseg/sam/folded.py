"""The mask decoder with another order of products: half the multiplications and no large projections, up to rounding.

A prompt has T tokens (7 to 9), its picture N cells (4,096). The decoder projects every cell to keys, values and queries
for each prompt; here the tokens carry those matrices instead, of H heads each:

    token to image   softmax((X + P) (Q_h K_h)^T) X, then V_h and the output matrix; the keys' bias adds the same to all
                     cells, so softmax drops it, and the values' bias goes through as it is, for weights sum to one
    image to token   softmax((X + P) (K_h Q_h)^T + the queries' bias) (V_h O_h): the output matrix meets T values, not N

X, P: (N, channels). So N x channels x H T multiplications stand for N x channels x width. Layer 0 of a picture is
shared as in `decoder`; up-scaling by 2 x 2 without overlap is a linear layer whose norm reads channels last. Results
differ from `decoder`'s by 1e-6 of the largest value; attention takes 0.9 GFLOP a prompt for 2.0.

Weights and steps as in facebookresearch/segment-anything@dca509f (arXiv:2304.02643); the algebra is ours.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FoldedAttend(nn.Module):
    """What `decoder.Attend` gives for what it takes, in float32 up to rounding.

    `together` multiplies all prompts in one call, as a graph wants it; else each has its own, which oneDNN computes.
    """

    def __init__(self, decoder: Any, *, together: bool) -> None:
        super().__init__()
        self.decoder, self.together = decoder, together

    def forward(
        self,
        prompts: Float[Tensor, "b m channels"],
        image: Float[Tensor, "n cells channels"],
        positions: Float[Tensor, "1 cells channels"],
        key: Float[Tensor, "n heads cells d"],
        value: Float[Tensor, "n heads cells d"],
        query: Float[Tensor, "n heads cells d"],
    ) -> tuple[Float[Tensor, "b masks"], Float[Tensor, "b masks channels"], Float[Tensor, "b cells channels"]]:
        decoder = self.decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        places = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)
        tokens, placed = places, image
        for number, layer in enumerate(decoder.transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                asked = tokens + places
                tokens = tokens + layer.self_attn(asked, asked, tokens)
            tokens = layer.norm1(tokens)
            down, up = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            if number:
                placed = image + positions
                tokens = tokens + self._seen(down, tokens + places, image, placed)
            else:
                asked = _split(down.q_proj(tokens + places), down.num_heads)
                mixed = (asked @ key.transpose(-1, -2)).softmax(dim=-1) @ value
                tokens = tokens + down.out_proj(mixed.transpose(1, 2).flatten(2))
            tokens = layer.norm2(tokens)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            given = _split(up.k_proj(tokens + places), up.num_heads)
            if number:
                bias = given @ up.q_proj.bias.view(up.num_heads, -1, 1)
                columns = self._product(_folded(given, up.q_proj), placed.transpose(-1, -2))
                scores = columns.view(*given.shape[:3], -1) + bias
            else:
                scores = given @ query.transpose(-1, -2)
            image = layer.norm4(self._told(up, scores.softmax(dim=2), tokens, image))
        last = decoder.transformer.final_attn_token_to_image
        tokens = tokens + self._seen(last, tokens + places, image, image + positions)
        tokens = decoder.transformer.norm_final_attn(tokens)
        return decoder.iou_prediction_head(tokens[:, 0]), tokens[:, 1 : 1 + decoder.num_mask_tokens], image

    def _seen(
        self,
        layer: Any,
        tokens: Float[Tensor, "b t channels"],
        image: Float[Tensor, "b cells channels"],
        placed: Float[Tensor, "b cells channels"],
    ) -> Float[Tensor, "b t channels"]:
        """What tokens take from the image."""
        asked = _split(layer.q_proj(tokens), layer.num_heads)
        weights = self._product(_folded(asked, layer.k_proj), placed.transpose(-1, -2)).softmax(dim=-1)
        mixed = self._product(weights, image).view(*asked.shape[:3], -1)
        matrix = layer.v_proj.weight.view(layer.num_heads, -1, layer.v_proj.weight.shape[1])
        values = (mixed @ matrix.transpose(-1, -2)).transpose(1, 2).flatten(2)
        out: Tensor = layer.out_proj(values + layer.v_proj.bias)
        return out

    def _told(
        self,
        layer: Any,
        weights: Float[Tensor, "b heads t cells"],
        tokens: Float[Tensor, "b t channels"],
        image: Float[Tensor, "n cells channels"],
    ) -> Float[Tensor, "b cells channels"]:
        """The image with what it takes from tokens."""
        values = _heads(layer.v_proj(tokens), layer.num_heads)
        matrix = layer.out_proj.weight.view(layer.out_proj.weight.shape[0], layer.num_heads, -1).permute(1, 2, 0)
        rows = (values @ matrix).flatten(1, 2)
        change = self._product(weights.flatten(1, 2).transpose(-1, -2), rows, layer.out_proj.bias)
        return change.add_(image) if not torch.is_grad_enabled() else change + image

    def _product(
        self, left: Float[Tensor, "b n k"], right: Float[Tensor, "b k m"], bias: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, "b n m"]:
        """left right of each prompt, plus a bias a column."""
        if self.together:
            out = left @ right
            return out if bias is None else out + bias
        parts = [F.linear(one, two.t(), bias) for one, two in zip(left, right, strict=True)]
        return torch.stack(parts) if len(parts) > 1 else parts[0][None]


class FoldedUpscale(nn.Module):
    """What `decoder.Upscale` gives for what it takes, in float32 up to rounding."""

    def __init__(self, decoder: Any, first: int, last: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.first, self.last, self.grid = decoder, first, last, grid

    def forward(
        self, image: Float[Tensor, "b cells channels"], tokens: Float[Tensor, "b masks channels"]
    ) -> tuple[Float[Tensor, "b picked high wide"]]:
        decoder, (rows, cols) = self.decoder, self.grid
        first, norm, active, second, active_again = decoder.output_upscaling
        cells = _doubled(first, image)  # (b, rows cols, 4, channels): the four parts of a cell, channels last
        cells = active(F.layer_norm(cells, cells.shape[-1:], norm.weight, norm.bias, norm.eps))
        cells = active_again(_doubled(second, cells)).flatten(1, 3)
        networks = decoder.output_hypernetworks_mlps
        filters = torch.stack([networks[i](tokens[:, i]) for i in range(self.first, self.last)], dim=1)
        parts = (filters @ cells.transpose(-1, -2)).view(image.shape[0], -1, rows, cols, 2, 2, 2, 2)
        logits: Tensor = parts.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
        return (logits,)


def _split(tokens: Float[Tensor, "b t width"], heads: int) -> Float[Tensor, "b heads t d"]:
    """Heads of queries or keys, with the square root that scores are divided by."""
    split = _heads(tokens, heads)
    return split / math.sqrt(split.shape[-1])


def _heads(tokens: Float[Tensor, "b t width"], heads: int) -> Float[Tensor, "b heads t d"]:
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _folded(tokens: Float[Tensor, "b heads t d"], projection: Any) -> Float[Tensor, "b columns channels"]:
    """Tokens of each head through the matrix that the image's side would have met."""
    matrix = projection.weight.view(tokens.shape[1], -1, projection.weight.shape[1])
    columns: Tensor = (tokens @ matrix).flatten(1, 2)
    return columns


def _doubled(layer: Any, cells: Float[Tensor, "b *parts channels"]) -> Float[Tensor, "b *parts 4 fewer"]:
    """A transposed convolution of 2 x 2 with stride 2, as the linear layer that it is."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(cells, weight, layer.bias.repeat(4)).view(*cells.shape[:-1], 4, -1)


__all__ = ["FoldedAttend", "FoldedUpscale"]
