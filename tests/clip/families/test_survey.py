"""Every architecture of open_clip's list, built on the meta device: shapes without numbers."""

from collections import Counter
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower

from ovseg.clip import families
from ovseg.errors import UnsupportedTower

FAMILIES = {  # open_clip 3.3.0
    "VisionTransformer": 54,
    "TimmModel/VisionTransformer": 47,
    "TimmModel/Eva": 12,
    "TimmModel/ConvNeXt": 11,
    "ModifiedResNet": 10,
    "TimmModel/FastVit": 6,
}
REFUSED = {
    "coca_ViT-B-32": "head of another width",
    "coca_ViT-L-14": "head of another width",
    "swin_base_patch4_window7_224": "TimmModel around SwinTransformer is of no family",
    "vit_relpos_medium_patch16_cls_224": "TimmModel around VisionTransformerRelPos is of no family",
}


def on_meta(name: str) -> tuple[Any, int]:
    """The vision tower of an architecture without memory, and the length of its embedding."""
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    with torch.device("meta"):
        return _build_vision_tower(config["embed_dim"], vision).eval(), config["embed_dim"]


@pytest.mark.slow
def test_every_architecture_is_walked_on_any_grid_or_refused() -> None:
    found: Counter[str] = Counter()
    for name in open_clip.list_models():
        tower, dim = on_meta(name)
        if name in REFUSED:
            with pytest.raises(UnsupportedTower, match=REFUSED[name]):
                families.find(tower)
            continue
        walk = families.find(tower)
        found[walk.family] += 1
        grid = (walk.native[0], walk.native[1] + 1)
        pixels = torch.empty(2, 3, grid[0] * walk.patch[0], grid[1] * walk.patch[1], device="meta")
        tokens, count = walk.enter(pixels, "bicubic"), walk.own + grid[0] * grid[1]
        assert tokens.shape == (2, count, walk.width), name
        assert walk.project(walk.block(walk.depth, tokens, grid)).shape == (2, count, dim), name
        assert walk.whole(tokens, grid).shape == (2, dim) and walk.dim == dim, name
        if "attention" not in walk.refuses:
            for number in {1, walk.depth}:
                sides = walk.sides(number, walk.norm(number, tokens), grid)
                assert {side.shape for side in sides.values()} == {(2, walk.heads, count, walk.width // walk.heads)}, (
                    name
                )
    if open_clip.__version__ == "3.3.0":
        assert found == FAMILIES
    assert found.keys() == FAMILIES.keys()
