"""The tower guides itself by a middle block."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from ovseg.clip.dense import Reading, encode, normalised
from ovseg.clip.guides import load_guide
from ovseg.clip.tower import dense_tokens
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


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_a_tower_that_guides_itself_runs_its_first_blocks_once(protocol: str) -> None:
    """Under the paper protocol positions are resampled otherwise for the method, so that two passes are needed."""
    clip, picture, seen = tiny.clip(layers=6), tiny.picture(48, 80), 0
    guide = load_guide("self", clip=clip)

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    hook = clip.visual.conv1.register_forward_pre_hook(count)
    (got,) = encode(clip, [picture], Reading("proxyclip", protocol, short_side=48, crop=-1), guide=guide)
    hook.remove()
    assert seen == (1 if protocol == "fast" else 2)
    pixels, positions = normalised(clip, picture)[None], "bicubic" if protocol == "fast" else "scale01"
    looked = guide.features(pixels, mean=clip.mean, std=clip.std)
    layers = "scaled" if protocol == "fast" else "as-released"
    wanted = dense_tokens(clip.visual, pixels, "proxyclip", guide=looked, positions=positions, layers=layers)
    np.testing.assert_allclose(got.vectors, F.normalize(wanted[0], dim=-1).permute(2, 0, 1), atol=1e-6)


def test_a_tower_without_a_middle_block_is_refused() -> None:
    strange = replace(tiny.clip(), model=torch.nn.ModuleDict({"visual": torch.nn.Linear(2, 3)}))
    with pytest.raises(UnsupportedTower, match="of no family that ovseg walks"):
        load_guide("self", clip=strange).features(torch.zeros(1, 3, 48, 80))
    with pytest.raises(UnsupportedTower, match="reads a middle block: VisionTransformer has 1; take another guide"):
        load_guide("self", clip=tiny.clip(layers=1)).features(torch.zeros(1, 3, 48, 80))
