import copy
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from ovseg.clip import families
from ovseg.errors import UnsupportedTower


@pytest.mark.parametrize(
    ("vision", "why"),
    [
        ({"attentional_pool": True, "attn_pooler_heads": 4}, r"it pools by a head of another width \(CoCa\)"),
        ({"pool_type": "none"}, "it pools by 'none'"),
        ({"block_type": "custom", "qk_norm": True}, "its attention is Attention and not one packed"),
    ],
)
def test_open_clips_other_kinds_are_refused(vision: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedTower, match=f"^this VisionTransformer cannot be walked: {why}"):
        families.find(tiny.model(**vision).visual)


def test_what_is_missing_is_named() -> None:
    tower = copy.deepcopy(tiny.model().visual)
    tower.proj = None
    with pytest.raises(UnsupportedTower, match="it has no proj; towers of VisionTransformer"):
        families.find(tower)
    tower = copy.deepcopy(tiny.model().visual)
    del tower.transformer.resblocks[1].ls_1
    with pytest.raises(UnsupportedTower, match="its blocks have no ls_1"):
        families.find(tower)
    tower = copy.deepcopy(tiny.model().visual)
    tower.transformer.batch_first = False
    with pytest.raises(UnsupportedTower, match="it runs with the batch second"):
        families.find(tower)


def test_coca_without_its_pooler_is_a_plain_tower() -> None:
    tower = tiny.model(output_tokens=True).visual
    walk = families.find(tower)
    images = torch.randn(2, 3, 48, 48)
    tokens = walk.enter(images, "bicubic")
    for number in (1, 2):
        tokens = walk.block(number, tokens, (6, 6))
    torch.testing.assert_close(walk.whole(tokens, (6, 6)), tower(images)[0], rtol=0, atol=1e-5)


def test_attention_that_is_not_packed_is_refused() -> None:
    tower = copy.deepcopy(tiny.model().visual)
    tower.transformer.resblocks[0].attn = nn.MultiheadAttention(64, 4, kdim=32, batch_first=True)
    with pytest.raises(UnsupportedTower, match="not one packed nn.MultiheadAttention"):
        families.find(tower)
