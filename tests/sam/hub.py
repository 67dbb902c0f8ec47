"""Networks of transformers' mask families with random numbers in every parameter: narrow ones, and published sizes."""

from collections.abc import Callable
from typing import Any

import torch

DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}


def narrow_hq() -> Any:
    from transformers import SamHQConfig, SamHQModel

    return SamHQModel(
        SamHQConfig(
            vision_config={
                "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "global_attn_indexes": [1, 2],
                "image_size": 256, "window_size": 8, "output_channels": 32, "mlp_dim": 96, "num_pos_feats": 16,
                "scale": 2,
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": 256, "image_embedding_size": 16},
            mask_decoder_config={**DECODER, "vit_dim": 24},
        )
    )  # fmt: skip


def narrow_sam2() -> Any:
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "hidden_size": 8, "image_size": [256, 256], "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [8, 4, 7, 7], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "global_attention_blocks": [3],
        "model_type": "sam2_hiera_det_model",
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]], "model_type": "sam2_vision_model",
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": 256}
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER))


def narrow_sam3() -> Any:
    from transformers import Sam3TrackerConfig, Sam3TrackerModel

    backbone = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 112,
        "pretrain_image_size": 56, "window_size": 4, "global_attn_indexes": [1], "model_type": "sam3_vit_model",
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "model_type": "sam3_vision_model",
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": 112}
    config = Sam3TrackerConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    return Sam3TrackerModel(config)


def published_hq() -> Any:
    """sam-hq-vit-base with 3 of its 12 blocks, the third being its first that sees all."""
    from transformers import SamHQConfig, SamHQModel

    config = SamHQConfig()
    config.vision_config.num_hidden_layers = 3
    return SamHQModel(config)


def published_sam2() -> Any:
    """sam2.1-hiera-tiny, whole."""
    from transformers import Sam2Config, Sam2Model

    return Sam2Model(Sam2Config())


def published_sam3() -> Any:
    """SAM 3's clicks with 2 of the 32 blocks of its image encoder, one in windows and one that sees all."""
    from transformers import Sam3TrackerConfig, Sam3TrackerModel

    config = Sam3TrackerConfig()
    config.vision_config.backbone_config.num_hidden_layers = 2
    config.vision_config.backbone_config.global_attn_indexes = [1]
    return Sam3TrackerModel(config)


NARROW: dict[str, Callable[[], Any]] = {"sam_hq": narrow_hq, "sam2": narrow_sam2, "sam3_tracker": narrow_sam3}
PUBLISHED: dict[str, Callable[[], Any]] = {
    "sam_hq": published_hq,
    "sam2": published_sam2,
    "sam3_tracker": published_sam3,
}


def perturbed(make: Callable[[], Any], seed: int = 0, by: float = 0.1) -> Any:
    """The network, with no parameter left at a value that makes it do nothing."""
    torch.manual_seed(seed)
    network = make().eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(by * torch.randn_like(parameter))
    return network
