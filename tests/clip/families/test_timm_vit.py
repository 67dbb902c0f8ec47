from typing import Any

import pytest
import torch

from ovseg.clip import families
from ovseg.clip.families.timm_vit import NO_OWN, pool_end, pool_values
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers

POOLED = pytest.mark.parametrize("build", [towers.siglip, towers.perception], ids=["siglip", "pe"])


@POOLED
def test_equal_tokens_are_pooled_to_what_each_of_them_exits_as(build: Any) -> None:
    """The pool's weights sum to 1, so what it gathers of equal values is that value: the value path is the tower's."""
    walk = families.find(build())
    one = torch.randn(2, 1, 48, generator=torch.Generator().manual_seed(2))
    tokens, trunk = one.expand(2, 15, 48), walk.tower.trunk
    pooled = walk.tower.head(trunk.forward_head(trunk.norm(tokens)))
    exits = walk.project(tokens)
    assert exits.shape == (2, 15, walk.dim) and pooled.std() > 1e-2
    torch.testing.assert_close(exits, pooled[:, None].expand_as(exits), rtol=0, atol=1e-5)


@POOLED
def test_before_its_mlp_the_pool_is_a_weighted_mean_of_the_patches_values(build: Any) -> None:
    pool = families.find(build()).tower.trunk.attn_pool
    tokens = torch.randn(2, 15, 48, generator=torch.Generator().manual_seed(2))
    heads, wide = pool.num_heads, 48 // pool.num_heads
    query = pool.q(pool.latent).view(1, 1, heads, wide).transpose(1, 2)
    key, value = pool.kv(tokens).view(2, 15, 2, heads, wide).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT / wide**0.5).softmax(dim=-1)  # (b, heads, 1, n)
    parts = torch.zeros(2, 1, 48) + pool.proj.bias
    for head in range(heads):  # a token's value in one head alone, bias of the output matrix taken off
        only = torch.zeros(2, 15, heads, wide).index_copy(2, torch.tensor([head]), value[:, head, :, None])
        parts = parts + weights[:, head] @ (only.flatten(2) @ pool.proj.weight.T)
    torch.testing.assert_close(pool_end(pool, parts)[:, 0], pool(tokens), rtol=0, atol=1e-5)
    with torch.no_grad():  # a query of zeros weighs all alike
        pool.q.weight.zero_()
        pool.q.bias.zero_()
    gathered = pool_values(pool, tokens).mean(dim=1, keepdim=True)
    torch.testing.assert_close(pool_end(pool, gathered)[:, 0], pool(tokens), rtol=0, atol=1e-5)


def test_vitamin_norms_after_the_mean_so_the_exit_of_the_mean_is_its_embedding() -> None:
    walk = families.find(towers.vitamin())
    images = towers.pixels(64, 64)
    tap, grid = towers.last(walk, images)
    mean = walk.block(walk.depth, tap, grid).mean(dim=1, keepdim=True)
    torch.testing.assert_close(walk.project(mean)[:, 0], walk.tower(images), rtol=0, atol=1e-5)
    assert (walk.patch, walk.native) == ((16, 16), (4, 4))


def test_tower_that_norms_before_the_mean_is_the_mean_of_its_exits() -> None:
    small = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "depth": 2, "img_size": 48, "init_values": 0.3}
    walk = families.find(towers.timm_tower("vit_medium_patch16_gap_256", pool="", proj="linear", **small))
    images = towers.pixels(48, 48)
    torch.testing.assert_close(towers.exits(walk, images).mean(dim=(1, 2)), walk.tower(images), rtol=0, atol=1e-5)
    assert walk.sides(1, torch.zeros(2, 36, 48), (6, 6))["q"].abs().max() == 0  # it has no bias at all


@pytest.mark.parametrize(("build", "own"), [(towers.siglip, 0), (towers.vitamin, 0), (towers.mobile_b, 1)])
def test_only_towers_with_an_image_token_say_so(build: Any, own: int) -> None:
    walk = families.find(build())
    assert walk.own == own and dict(walk.refuses) == ({} if own else {"own": NO_OWN})


def test_head_of_two_layers_is_read_token_by_token() -> None:
    small = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "depth": 2, "img_size": 48}
    walk = families.find(towers.timm_tower("vit_small_patch16_224", pool="token", proj="mlp", **small))
    images = towers.pixels(48, 48)
    tap, grid = towers.last(walk, images)
    assert walk.dim == 32
    torch.testing.assert_close(walk.whole(tap, grid), walk.tower(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"reg_tokens": 3}, "it has 3 register tokens beside its patches"),
        ({"global_pool": "avgmax"}, "it pools by 'avgmax'"),
        ({"global_pool": "prr"}, "it pools by 'prr'"),
        ({"attn_layer": "diff"}, "its blocks are Block with DiffAttention"),
    ],
)
def test_kinds_that_compute_something_else_are_refused(options: dict[str, Any], why: str) -> None:
    small = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "depth": 1, "img_size": 48, **options}
    tower = towers.timm_tower("vit_small_patch16_224", pool="", proj="linear", **small)
    with pytest.raises(UnsupportedTower, match=f"^this TimmModel/VisionTransformer cannot be walked: {why}"):
        families.find(tower)


def test_blocks_of_another_class_are_refused() -> None:
    small = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "depth": 1, "img_size": 48}
    tower = towers.timm_tower("vit_base_patch16_rpn_224", pool="", proj="linear", class_token=True, **small)
    with pytest.raises(UnsupportedTower, match="its blocks are ResPostBlock with Attention"):
        families.find(tower)


@pytest.mark.parametrize("option", [{"qk_norm": True}, {"init_values": 0.3}, {"scale_attn_norm": True}])
def test_norms_and_scales_that_published_towers_do_without_are_applied(option: dict[str, Any]) -> None:
    small = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "depth": 1, "img_size": 48, **option}
    walk = families.find(towers.timm_tower("vit_small_patch16_224", pool="", proj="linear", **small))
    tokens = walk.enter(towers.pixels(48, 48), "bicubic")
    torch.testing.assert_close(
        towers.rebuilt(walk, 1, tokens, (6, 6)), walk.block(1, tokens, (6, 6)), rtol=0, atol=1e-5
    )
