from typing import Any

import pytest
import torch

from ovseg.clip import families
from ovseg.clip.families.conv import NO_ATTENTION
from ovseg.clip.walk import FEATURES
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers

BUILD = {
    "convnext": towers.convnext,
    "convnext-d": lambda: towers.convnext(proj="mlp"),
    "fastvit": towers.fastvit,
    "fastvit-5": lambda: towers.fastvit(128, stages=5),
}
EVERY = pytest.mark.parametrize("build", BUILD.values(), ids=list(BUILD))


@EVERY
def test_mask_of_the_whole_picture_pools_to_the_towers_own_embedding(build: Any) -> None:
    """FC-CLIP's pooling: mean of the map under the mask, then the head. Also where the picture is not square."""
    walk = families.find(build())
    for cols in (walk.native[1], walk.native[1] + 1):
        images = towers.pixels(walk.native[0] * walk.patch[0], cols * walk.patch[1])
        cells = walk.enter(images, "bicubic")
        mask = torch.ones(1, cells.shape[1])
        pooled = walk.project((mask @ cells) / mask.sum())
        torch.testing.assert_close(pooled[:, 0], walk.tower(images), rtol=0, atol=1e-5)


@EVERY
def test_head_on_a_cell_is_the_head_on_a_map_of_that_cell_everywhere(build: Any) -> None:
    walk = families.find(build())
    cells = walk.enter(towers.pixels(walk.native[0] * walk.patch[0], walk.native[1] * walk.patch[1]), "bicubic")
    everywhere = cells[:, 3:4].expand_as(cells)
    torch.testing.assert_close(walk.whole(everywhere, walk.native), walk.project(cells)[:, 3], rtol=0, atol=1e-5)


def test_mean_of_projected_cells_is_the_embedding_where_the_head_is_one_matrix() -> None:
    images = towers.pixels(96, 96)
    fast = families.find(towers.fastvit())
    torch.testing.assert_close(towers.exits(fast, images).mean(dim=(1, 2)), fast.tower(images), rtol=0, atol=1e-5)
    normed = families.find(towers.convnext(96))
    assert (towers.exits(normed, images).mean(dim=(1, 2)) - normed.tower(images)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "patch"), [("convnext", 32), ("fastvit", 32), ("fastvit-5", 64)])
def test_patch_is_the_total_stride(name: str, patch: int) -> None:
    walk = families.find(BUILD[name]())
    assert walk.patch == (patch, patch)
    assert walk.enter(torch.zeros(1, 3, 2 * patch, 3 * patch), "bicubic").shape == (1, 6, walk.width)


def test_methods_that_change_attention_are_refused() -> None:
    walk = families.find(towers.convnext())
    assert dict(walk.refuses) == dict.fromkeys(FEATURES, NO_ATTENTION)
    tokens = walk.enter(towers.pixels(64, 64), "bicubic")
    for ask in (
        lambda: walk.norm(1, tokens),
        lambda: walk.sides(1, tokens, (2, 2)),
        lambda: walk.out(1, tokens),
        lambda: walk.mlp(1, tokens),
    ):
        with pytest.raises(UnsupportedTower, match="no attention is left to change"):
            ask()


def test_pool_that_is_no_mean_is_refused() -> None:
    tower = towers.timm_tower("fastvit_mci1", pool="max", layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 32))
    with pytest.raises(UnsupportedTower, match="its trunk pools by 'max' and not by the mean"):
        families.find(tower)
