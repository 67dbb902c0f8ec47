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


def narrow_concepts() -> Any:
    """SAM 3's text side for pictures of 112 px and a vocabulary of 512."""
    from transformers import Sam3Config, Sam3Model

    backbone = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 112,
        "pretrain_image_size": 56, "window_size": 4, "global_attn_indexes": [1], "model_type": "sam3_vit_model",
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "model_type": "sam3_vision_model",
    }  # fmt: skip
    text = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32, "hidden_act": "gelu", "bos_token_id": 0,
        "eos_token_id": 1, "model_type": "clip_text_model",
    }  # fmt: skip
    layer = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config={**layer, "num_layers": 1},
        detr_encoder_config={**layer, "num_layers": 2},
        detr_decoder_config={**layer, "num_layers": 2, "num_queries": 12},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    return Sam3Model(config)


def letters(folder: Any) -> Any:
    """A tokenizer of CLIP's kind with the letters for words, written to a folder and read back."""
    import json

    from transformers import CLIPTokenizer

    signs = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*signs, *(sign + "</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", "utf-8")
    vocabulary = {word: i for i, word in enumerate([*words, "ca", "cat</w>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.save_pretrained(folder)
    return tokenizer
