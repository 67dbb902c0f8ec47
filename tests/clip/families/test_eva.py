from typing import Any

import pytest
import torch

from ovseg.clip import families
from ovseg.clip.families import eva
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers


def test_keys_have_no_bias_and_queries_and_values_have() -> None:
    for tower in (towers.eva01(), towers.eva02(), towers.eva02_post()):
        walk = families.find(tower)
        sides = walk.sides(1, torch.zeros(2, 36, 48), (4, 9))
        assert not sides["k"].any() and sides["q"].any() and sides["v"].any()


@pytest.mark.parametrize("build", [towers.eva02, towers.perception])
def test_rotated_scores_of_equal_patches_depend_on_their_distance_alone(build: Any) -> None:
    walk, grid = families.find(build()), (5, 9)
    one = torch.randn(48, generator=torch.Generator().manual_seed(3))
    sides = walk.sides(2, one.expand(1, 45, 48), grid, "qk")
    scores = (sides["q"] @ sides["k"].mT)[0].unflatten(2, grid).unflatten(1, grid)  # heads, row, col, row, col
    torch.testing.assert_close(scores[:, 1, 2, 3, 7], scores[:, 0, 1, 2, 6], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[:, 4, 8, 2, 5], scores[:, 3, 6, 1, 3], rtol=1e-4, atol=1e-5)
    assert (scores[:, 1, 2, 3, 7] - scores[:, 1, 2, 2, 7]).abs().max() > 1e-3  # rows count
    assert (scores[:, 1, 2, 3, 7] - scores[:, 1, 2, 3, 6]).abs().max() > 1e-3  # columns count


def test_rotation_on_the_native_grid_is_the_towers_own_bit_by_bit() -> None:
    trunk = towers.eva02().trunk
    kept = eva.rotation(trunk, (6, 6))
    assert kept is not None and kept.data_ptr() == trunk.rope.get_embed().data_ptr()
    moved = eva.rotation(trunk, (6, 10))
    assert moved is not None and moved.shape == (60, 2 * 16)  # sines and cosines of 16-wide heads
    assert eva.rotation(towers.eva01().trunk, (6, 10)) is None


def test_norms_over_all_heads_are_said_to_mix_them() -> None:
    assert families.find(towers.eva01()).refuses == {}
    for tower in (towers.eva02(), towers.eva02_post()):
        walk = families.find(tower)
        assert walk.refuses.keys() == {"linear"}
        one, other = torch.randn(2, 1, 4, 48, generator=torch.Generator().manual_seed(1))
        apart = walk.out(1, one) + walk.out(1, other) - walk.out(1, torch.zeros_like(one))
        assert (walk.out(1, one + other) - apart).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("vit_medium_patch16_rope_reg1_gap_256", {}, "it has 1 register tokens beside its patches"),
        ("vit_small_patch16_rope_mixed_224", {}, "it rotates by RotaryEmbeddingMixed"),
        ("eva02_base_patch16_clip_224", {"rope_rotate_half": True}, "rotates halves of a vector"),
        ("eva02_base_patch16_clip_224", {"rope_type": "dinov3"}, "it rotates by RotaryEmbeddingDinoV3"),
    ],
)
def test_kinds_that_compute_something_else_are_refused(name: str, options: dict[str, Any], why: str) -> None:
    tower = towers.timm_tower(name, pool="", proj="linear", img_size=48, depth=1, **towers.SMALL, **options)
    with pytest.raises(UnsupportedTower, match=f"^this TimmModel/Eva cannot be walked: .*({why})"):
        families.find(tower)
