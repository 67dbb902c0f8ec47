import pytest
import torch

import tiny
from ovseg.clip import families
from ovseg.clip.families import adapter
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers


def test_length_of_the_embedding_is_read_wherever_the_projection_stands() -> None:
    assert adapter.width(towers.eva02()) == 32  # the trunk's classifier
    assert adapter.width(towers.vitamin()) == 32  # the head's projection
    assert adapter.width(towers.siglip()) == 48  # none: the trunk's own width


def test_only_a_timm_model_has_a_kind() -> None:
    assert adapter.kind(towers.siglip()) == "VisionTransformer" and adapter.kind(tiny.model().visual) == ""


def test_pixels_are_cut_to_whole_patches() -> None:
    pixels = torch.arange(2 * 3 * 37 * 55.0).view(2, 3, 37, 55)
    assert torch.equal(adapter.cut(pixels, (16, 8)), pixels[:, :, :32, :48])
    assert adapter.cut(pixels, (64, 8)).shape == (2, 3, 0, 48)


@pytest.mark.parametrize("pool", ["abs_attn", "rot_attn"])
def test_head_with_an_attention_pool_of_its_own_is_refused(pool: str) -> None:
    tower = towers.timm_tower("convnext_tiny", pool=pool, depths=(1, 1, 1, 1), dims=(8, 16, 24, 64))
    with pytest.raises(UnsupportedTower, match="its head pools by .*AttentionPool2d|RotAttentionPool2d"):
        families.find(tower)
