"""What mask networks of transformers are made of, hung into segment-anything's tree: HQ-SAM, SAM 2, SAM 3's clicks.

Their decoders are segment-anything's two-way transformer with one token more: HQ-SAM's makes finer masks that are added
to the usual ones (Ke et al. 2023, arXiv:2306.01567), SAM 2's tells whether an object is there (Ravi et al. 2024,
arXiv:2408.00714). A token's place among the others means nothing to attention, so their layers are walked by `decoder`:
what prompts share is done once, and qualities come before masks. What masks are made from is theirs: finer maps of the
picture join on the way up.

SAM 2 and 3 answer as transformers' own classes do. HQ-SAM answers as its authors' program does (SysCV/sam-hq@221aa31):
`SamHQModel` of transformers 5.23 makes masks from the picture as it was before the decoder, its axes swapped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn

from ovseg.errors import BadUsage
from ovseg.sam.model import Answer
from ovseg.sam.networks import CUTS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, spread of pixels in [0, 1]
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, eq=False)
class Parts:
    """What differs between families: pixels to maps, tokens and maps to masks, and the tokens (n, channels) they add.

    Added mask tokens come after segment-anything's four, added prompt tokens before those of every prompt.
    """

    encoder: nn.Module
    upscale: nn.Module
    mask_tokens: Tensor
    prompt_tokens: Tensor


@dataclass(frozen=True)
class Family:
    """How networks of one sort are run: `network` is their class in transformers, `parts` makes what `Foreign` holds.

    `squeezed` networks see the whole picture in their square, others pad it right and below. `cuts` as in `SamShape`;
    0.8 is what SAM 2's own generator asks for.
    """

    network: str
    parts: Callable[[Any], "Parts"]
    squeezed: bool
    pixels: tuple[tuple[float, float, float], tuple[float, float, float]]
    cuts: tuple[float, float] = CUTS


@dataclass(frozen=True, eq=False)
class AnswerMaps(Answer):
    """With the finer maps of the picture, the order of masks by quality, or masks that are made already."""

    maps: tuple[Tensor, ...] = ()
    order: Tensor | None = None
    ready: Tensor | None = None


class Foreign(nn.Module):
    """A network of transformers in three parts, as segment-anything's are: what `MaskModel` takes."""

    mask_threshold = 0.0

    def __init__(self, network: Any, family: Family) -> None:
        super().__init__()
        parts = family.parts(network)
        self.image_encoder, self.upscale = parts.encoder, parts.upscale
        self.prompt_encoder = _Prompts(network, parts.prompt_tokens)
        self.mask_decoder = _Decoder(network, parts.mask_tokens)


class _Prompts(nn.Module):
    """transformers' prompt encoder, called as segment-anything's; `extra` tokens go before those of every prompt."""

    places: Tensor

    def __init__(self, network: Any, extra: Float[Tensor, "n channels"]) -> None:
        super().__init__()
        self.encoder, self.extra = network.prompt_encoder, nn.Parameter(extra, requires_grad=False)
        self.image_embedding_size: tuple[int, int] = tuple(self.encoder.image_embedding_size)
        self.register_buffer("places", network.get_image_wide_positional_embeddings().detach(), persistent=False)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Float[Tensor, "b 4"] | None,
        masks: Float[Tensor, "b 1 high wide"] | None,
    ) -> tuple[Float[Tensor, "b tokens channels"], Float[Tensor, "n channels rows cols"]]:
        if (
            points is None and boxes is None and len(self.extra)
        ):  # SAM 2 is never asked without a point: it has no place
            count = 1 if masks is None else len(masks)
            points = (self.extra.new_zeros(count, 1, 2), torch.full((count, 1), -1, device=self.extra.device))
        place, label = (None, None) if points is None else (points[0][None], points[1][None])
        sparse, dense = self.encoder(
            input_points=place,
            input_labels=label,
            input_boxes=None if boxes is None else boxes[None],
            input_masks=masks,
        )
        tokens = self.places.new_zeros(len(dense), 0, self.places.shape[1]) if sparse is None else sparse[0]
        return torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], dim=1), dense

    def get_dense_pe(self) -> Float[Tensor, "1 channels rows cols"]:
        return self.places


class _Decoder(nn.Module):
    """transformers' mask decoder in segment-anything's tree, without what makes masks; `extra` are more mask tokens."""

    def __init__(self, network: Any, extra: Float[Tensor, "n channels"]) -> None:
        super().__init__()
        theirs, config = network.mask_decoder, network.config.mask_decoder_config
        self.transformer_dim = int(theirs.hidden_size)
        self.iou_token = theirs.iou_token
        own = torch.cat([theirs.mask_tokens.weight, extra])
        self.mask_tokens = nn.Embedding(len(own), self.transformer_dim, _weight=own, _freeze=True)
        self.num_mask_tokens = len(own)
        self.iou_prediction_head = theirs.iou_prediction_head
        with torch.device("meta"):  # a frame for their layers
            self.transformer = TwoWayTransformer(
                config.num_hidden_layers, self.transformer_dim, config.num_attention_heads, config.mlp_dim
            )
        for layer, given in zip(self.transformer.layers, theirs.transformer.layers, strict=True):
            for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
                _hang(getattr(layer, name), getattr(given, name))
            for number in (1, 2, 3, 4):
                setattr(layer, f"norm{number}", getattr(given, f"layer_norm{number}"))
            layer.mlp = given.mlp
        _hang(self.transformer.final_attn_token_to_image, theirs.transformer.final_attn_token_to_image)
        self.transformer.norm_final_attn = theirs.transformer.layer_norm_final_attn


def _hang(ours: Any, theirs: Any) -> None:
    """Their four matrices in our attention."""
    ours.q_proj, ours.k_proj, ours.v_proj = theirs.q_proj, theirs.k_proj, theirs.v_proj
    ours.out_proj = theirs.o_proj if hasattr(theirs, "o_proj") else theirs.out_proj
    ours.internal_dim, ours.num_heads = theirs.q_proj.out_features, theirs.num_attention_heads


class _HQEncoder(nn.Module):
    """Pixels to HQ-SAM's embedding and its finer map: that of the embedding and of the first block that sees all."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = network.vision_encoder, network.mask_decoder
        self.img_size = int(network.config.vision_config.image_size)

    def forward(self, pixels: Float[Tensor, "b 3 side side"]) -> tuple[Tensor, Tensor]:
        seen, own = self.encoder(pixels), self.decoder
        early = seen.intermediate_embeddings[0].permute(0, 3, 1, 2).contiguous()
        first = own.encoder_conv2(own.activation(own.encoder_norm(own.encoder_conv1(seen.last_hidden_state))))
        second = own.compress_vit_conv2(own.activation(own.compress_vit_norm(own.compress_vit_conv1(early))))
        return seen.last_hidden_state, first + second


class _HQUpscale(nn.Module):
    """HQ-SAM's masks: each of the usual four plus the fine one."""

    maps = 1

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.decoder, self.grid = network.mask_decoder, tuple(network.prompt_encoder.image_embedding_size)

    def forward(
        self,
        image: Float[Tensor, "b cells channels"],
        tokens: Float[Tensor, "b masks channels"],
        fine: Float[Tensor, "1 few high wide"],
    ) -> Float[Tensor, "b picked high wide"]:
        own = self.decoder
        low = image.transpose(1, 2).reshape(len(image), -1, *self.grid)
        low = own.activation(own.upscale_layer_norm(own.upscale_conv1(low)))
        low = own.activation(own.upscale_conv2(low))
        high = own.mask_conv2(own.activation(own.mask_norm(own.mask_conv1(low)))) + fine
        filters = torch.stack([net(tokens[:, i]) for i, net in enumerate(own.output_hypernetworks_mlps)], dim=1)
        usual = filters @ low.flatten(2)
        finer = own.hq_mask_mlp(tokens[:, -1:]) @ high.flatten(2)
        out: Tensor = (usual + finer).view(len(image), -1, *low.shape[2:])
        return out

    def chosen(
        self, quality: Tensor, tokens: Tensor, image: Tensor, maps: tuple[Tensor, ...], single: bool
    ) -> AnswerMaps:
        """The one mask, or three, best first. (The fine mask was added to the order that quality had before.)"""
        if single:
            return AnswerMaps(quality[:, :1], tokens, image, maps)
        best, order = quality[:, 1:].sort(dim=1, descending=True)
        return AnswerMaps(best, tokens, image, maps, order)


class _FineEncoder(nn.Module):
    """Pixels to SAM 2's embedding and its two finer maps, of twice and four times the cells."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.img_size = int(network.config.prompt_encoder_config.image_size)

    def forward(self, pixels: Float[Tensor, "b 3 side side"]) -> tuple[Tensor, Tensor, Tensor]:
        finest, finer, low = self.network.get_image_embeddings(pixels)
        return low, finer, finest


class _FineUpscale(nn.Module):
    """SAM 2's masks: finer maps of the picture join on the way up."""

    maps = 2

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.decoder, self.grid = network.mask_decoder, tuple(network.prompt_encoder.image_embedding_size)

    def forward(
        self,
        image: Float[Tensor, "b cells channels"],
        tokens: Float[Tensor, "b masks channels"],
        finer: Float[Tensor, "1 some rows cols"],
        finest: Float[Tensor, "1 few high wide"],
    ) -> Float[Tensor, "b masks high wide"]:
        own = self.decoder
        low = image.transpose(1, 2).reshape(len(image), -1, *self.grid)
        low = own.activation(own.upscale_layer_norm(own.upscale_conv1(low) + finer))
        low = own.activation(own.upscale_conv2(low) + finest)
        filters = torch.stack([net(tokens[:, i]) for i, net in enumerate(own.output_hypernetworks_mlps)], dim=1)
        out: Tensor = (filters @ low.flatten(2)).view(len(image), -1, *low.shape[2:])
        return out

    def chosen(
        self, quality: Tensor, tokens: Tensor, image: Tensor, maps: tuple[Tensor, ...], single: bool
    ) -> AnswerMaps:
        """Three masks; or one: the network's own if it is stable, else the best of the three."""
        own = self.decoder
        if not single:
            return AnswerMaps(quality[:, 1:], tokens, image, maps)
        if not own.dynamic_multimask_via_stability:
            return AnswerMaps(quality[:, :1], tokens, image, maps)
        every, delta = self(image, tokens, *maps), own.dynamic_multimask_stability_delta
        sure = (every[:, 0] > delta).sum(dim=(1, 2)).float()
        maybe = (every[:, 0] > -delta).sum(dim=(1, 2)).float()
        stable = torch.where(maybe > 0, sure / maybe, 1.0) >= own.dynamic_multimask_stability_thresh
        pick = torch.where(stable, 0, 1 + quality[:, 1:].argmax(dim=1))[:, None]
        ready = every.gather(1, pick[..., None, None].expand(-1, -1, *every.shape[2:]))
        return AnswerMaps(quality.gather(1, pick), tokens, image, maps, ready=ready)


def _hq(network: Any) -> Parts:
    token = network.mask_decoder.hq_token.weight.detach()
    return Parts(_HQEncoder(network), _HQUpscale(network), token, token[:0])


def _fine(network: Any) -> Parts:
    token = network.mask_decoder.obj_score_token.weight.detach()  # is an object there: only films ask
    return Parts(_FineEncoder(network), _FineUpscale(network), token[:0], token)


# By the model_type of a config; films' configs hold a picture's network.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "sam_hq": Family("SamHQModel", _hq, False, IMAGENET),
        "sam2": (_sam2 := Family("Sam2Model", _fine, True, IMAGENET, (0.8, 0.95))),
        "sam2_video": _sam2,
        "sam3_tracker": (_sam3 := Family("Sam3TrackerModel", _fine, True, HALF, (0.8, 0.95))),
        "sam3_tracker_video": _sam3,
        "sam3_video": _sam3,
    }
)


def family_of(network: Any) -> Family:
    """The row of `FAMILIES` whose class this network is of."""
    for family in FAMILIES.values():
        if type(network).__name__ == family.network:
            return family
    known = ", ".join(sorted({family.network for family in FAMILIES.values()}))
    raise BadUsage(f"a mask network of transformers ({known}) is needed: got {type(network).__name__}")


__all__ = ["AnswerMaps", "FAMILIES", "Family", "Foreign", "HALF", "IMAGENET", "Parts", "family_of"]
