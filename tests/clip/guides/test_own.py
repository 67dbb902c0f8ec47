"""The tower guides itself by a middle block."""

from dataclasses import replace

import pytest
import torch

import tiny
from ovseg.clip.guides import load_guide
from ovseg.clip.walk import Vit
from ovseg.errors import UnsupportedTower


def test_self_is_what_leaves_a_middle_block_of_the_tower() -> None:
    """9 of 12 blocks is 5 of 6."""
    clip = tiny.clip(layers=6)
    visual, pixels = clip.visual, torch.randn(2, 3, 48, 80)
    wanted = Vit(visual).enter(pixels, "bicubic")
    for block in visual.transformer.resblocks[:5]:
        wanted = block(wanted)
    came = load_guide("self", clip=clip).features(pixels, mean=clip.mean, std=clip.std)
    assert torch.equal(came, wanted[:, 1:].mT.reshape(2, 64, 6, 10))


def test_a_tower_without_a_middle_block_is_refused() -> None:
    strange = replace(tiny.clip(), model=torch.nn.ModuleDict({"visual": torch.nn.Linear(2, 3)}))
    with pytest.raises(UnsupportedTower, match="of no family that ovseg walks"):
        load_guide("self", clip=strange).features(torch.zeros(1, 3, 48, 80))
    with pytest.raises(UnsupportedTower, match="reads a middle block: VisionTransformer has 1; take another guide"):
        load_guide("self", clip=tiny.clip(layers=1)).features(torch.zeros(1, 3, 48, 80))
