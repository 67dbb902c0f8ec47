import pytest
import torch

import tiny
from ovseg.clip.walk import Prefix, Vit, Walk, layer

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(7))
GRID = (6, 10)


def test_walk_through_all_blocks_is_the_towers_own_forward() -> None:
    visual = tiny.model(ls_init_value=0.3).visual
    walk = Vit(visual)
    assert isinstance(walk, Walk)
    square = PIXELS[..., :48]
    (last,) = Prefix(walk, (walk.depth,), (6, 6))(walk.enter(square, "bicubic"))
    torch.testing.assert_close(walk.whole(last, (6, 6)), visual(square), rtol=0, atol=1e-5)


def test_tower_that_pools_its_patches_keeps_its_own_image_embedding() -> None:
    visual = tiny.model(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True).visual
    walk = Vit(visual)
    square = PIXELS[..., :48]
    (last,) = Prefix(walk, (walk.depth,), (6, 6))(walk.enter(square, "bicubic"))
    torch.testing.assert_close(walk.whole(last, (6, 6)), visual(square), rtol=0, atol=1e-5)


def test_parts_of_a_block_put_together_are_the_block() -> None:
    walk = Vit(tiny.model(ls_init_value=0.3).visual)
    tokens = walk.enter(PIXELS, "bicubic")
    sides = walk.sides(2, walk.norm(2, tokens), GRID)
    mixed = torch.nn.functional.scaled_dot_product_attention(sides["q"], sides["k"], sides["v"])
    between = tokens + walk.out(2, mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(between + walk.mlp(2, between), walk.block(2, tokens, GRID), rtol=0, atol=1e-5)


def test_prefix_gives_what_enters_each_asked_block() -> None:
    walk = Vit(tiny.model().visual)
    tokens = walk.enter(PIXELS, "bicubic")
    first, third = Prefix(walk, (3, 1), GRID)(tokens)
    assert torch.equal(first, tokens)
    torch.testing.assert_close(third, walk.block(2, walk.block(1, tokens, GRID), GRID), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [(6, [3, 5, 5, 5]), (12, [6, 9, 10, 11]), (24, [12, 18, 20, 23]), (2, [1, 1, 1, 1])],
)
def test_published_layers_scale_to_the_depth_and_never_reach_the_last(depth: int, wanted: list[int]) -> None:
    assert [layer(block, depth) for block in (6, 9, 10, 12)] == wanted
