"""Checkpoints as other programs save them open as the same network; their names are written out from those programs."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg.clip import load
from ovseg.clip.keymaps import openai_attention, translated
from tests.clip.families import towers
from tests.clip.families.towers import moved

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2}
THEIRS = {  # CLIPSelf's eva_vit_model.py, in its own words
    "norm1.weight",
    "norm1.bias",
    "attn.q_proj.weight",
    "attn.k_proj.weight",
    "attn.v_proj.weight",
    "attn.q_bias",
    "attn.v_bias",
    "attn.inner_attn_ln.weight",
    "attn.inner_attn_ln.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.w1.weight",
    "mlp.w1.bias",
    "mlp.w2.weight",
    "mlp.w2.bias",
    "mlp.ffn_ln.weight",
    "mlp.ffn_ln.bias",
    "mlp.w3.weight",
    "mlp.w3.bias",
}


@pytest.fixture(params=["EVA02-B-16", "RN50-quickgelu"])
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """An architecture of open_clip's list made small, and a network of it."""
    eva = {
        "timm_model_name": "eva02_base_patch16_clip_224",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 48,
        "timm_model_pretrained": False,
    }
    resnet = {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None, "image_size": 64}
    config = {"embed_dim": 48, "vision_cfg": eva, "text_cfg": TEXT, "custom_text": True}
    if request.param != "EVA02-B-16":
        config = {"embed_dim": 48, "vision_cfg": resnet, "text_cfg": TEXT, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, request.param, config)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, img_size=48, depth=2, **towers.SMALL))
    return request.param, moved(open_clip.create_model(request.param, load_weights=False))


def as_clipself(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """EVA-CLIP's own names, with the rotations that its blocks keep as buffers."""
    back = {"attn.norm.": "attn.inner_attn_ln.", "mlp.norm.": "mlp.ffn_ln."}
    back |= {"mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3."}
    back |= {"attn.q_proj.bias": "attn.q_bias", "attn.v_proj.bias": "attn.v_bias"}
    out = {"visual.rope.freqs_cos": torch.zeros(9, 4), "visual.blocks.0.attn.rope.freqs_sin": torch.zeros(9, 4)}
    for key, value in state.items():
        name = key.replace("visual.trunk.", "visual.")
        for ours, theirs in back.items():
            name = name.replace(ours, theirs)
        out[name] = value.contiguous()
    return out


def as_regionclip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """detectron2's names: a backbone and a text tower beside a teacher and a detector."""
    out = {"pixel_mean": torch.zeros(3), "offline_backbone.conv1.weight": torch.zeros(2)}
    out |= {
        "proposal_generator.rpn_head.conv.weight": torch.zeros(2),
        "roi_heads.box_predictor.cls_score.weight": out["pixel_mean"],
    }
    for key, value in state.items():
        if key == "logit_scale" or key.endswith("num_batches_tracked"):
            continue  # a frozen norm counts nothing, and the text tower's scale is commented out
        out[f"backbone.{key.removeprefix('visual.')}" if key.startswith("visual.") else f"lang_encoder.{key}"] = value
    return {key: value.clone().contiguous() for key, value in out.items()}


def test_opens_as_the_network_that_it_is_of(network: tuple[str, Any], tmp_path: Path) -> None:
    architecture, model = network
    written = (as_clipself if architecture == "EVA02-B-16" else as_regionclip)(model.state_dict())
    assert not set(written) >= set(model.state_dict())
    file = tmp_path / "theirs.safetensors"
    save_file(written, file)
    own = open_clip.tokenizer.SimpleTokenizer(context_length=16)
    clip = load.load(f"{architecture}@{file}", tokenizer=own)
    side = clip.image_size[0]
    pixels, words = torch.randn(2, 3, side, side), own(["a dog", "two cats"])
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_image(pixels), clip.model.encode_image(pixels), rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_text(words), clip.model.encode_text(words), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", ["EVA02-B-16"], indirect=True)
def test_names_are_clipselfs(network: tuple[str, Any]) -> None:
    written = as_clipself(network[1].state_dict())
    of_block = {re.sub(r"^visual\.blocks\.1\.", "", key) for key in written if key.startswith("visual.blocks.1.")}
    assert of_block == THEIRS
    assert {"visual.cls_token", "visual.pos_embed", "visual.norm.weight", "visual.head.weight"} <= set(written)


def test_checkpoint_of_open_clips_own_is_left_alone(network: tuple[str, Any]) -> None:
    state = network[1].state_dict()
    assert translated(state).keys() == state.keys()


def test_packed_attention_gets_torchs_names_and_nothing_else_changes() -> None:
    state = {"visual.transformer.resblocks.0.attn.in_proj.weight": torch.ones(2), "visual.proj": torch.zeros(1)}
    assert list(openai_attention(state)) == ["visual.transformer.resblocks.0.attn.in_proj_weight", "visual.proj"]
    named = {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(2)}
    assert openai_attention(named).keys() == named.keys()
