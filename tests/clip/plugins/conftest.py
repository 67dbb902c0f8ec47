"""The stored parity data, as a walk and as tensors by name."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.walk import Vit


@pytest.fixture(scope="session")
def golden_walk(golden_dense: Path) -> Vit:
    config = json.loads((golden_dense / "model.json").read_text())
    clip = open_clip.CLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"]
    )
    clip.visual.load_state_dict(load_file(golden_dense / "model.safetensors"))
    return Vit(clip.visual.eval().requires_grad_(False))


@pytest.fixture(scope="session")
def golden_inputs(golden_dense: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_dense / "inputs.safetensors")
