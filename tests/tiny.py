"""Small networks with every parameter moved, and flat pictures: what the tests look at the code with.

A fresh network has zero attention biases and identity norms, and would hide a dropped one. No two sizes are equal.
"""

from typing import Any

import numpy as np
import open_clip
import torch

from ovseg.clip.load import Clip, wrap

PATCH, GRID, DIM = 8, 6, 32  # native picture 48 x 48; the tests ask 48 x 80


def model(
    *, seed: int = 0, layers: int = 3, quick_gelu: bool = True, context: int = 16, **vision: Any
) -> torch.nn.Module:
    """An open_clip CLIP of 64-wide towers whose parameters are all off their initial values."""
    torch.manual_seed(seed)
    vision_cfg = {"layers": layers, "width": 64, "head_width": 16, "patch_size": PATCH, "image_size": PATCH * GRID}
    text_cfg = {"context_length": context, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2}
    network = open_clip.CLIP(DIM, {**vision_cfg, **vision}, text_cfg, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.requires_grad_(False)


def clip(**options: Any) -> Clip:
    """The small network with open_clip's own tokenizer."""
    network: Any = model(**options)
    return wrap(network, open_clip.tokenizer.SimpleTokenizer(context_length=network.context_length), name="test")


def picture(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    """Flat rectangles of a few colours on grey."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + height // 2, left : left + width // 3] = rng.integers(0, 256, 3)
    return image
