import copy

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import families
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers


def test_each_cells_own_value_is_maskclips_pair_of_convolutions() -> None:
    """MaskCLIP reads a ResNet by v_proj and c_proj as 1x1 convolutions on the map, without positions."""
    tower = towers.resnet()
    with torch.no_grad():
        tower.attnpool.positional_embedding.zero_()
    walk, images = families.find(tower), towers.pixels(96, 160)
    tokens = walk.enter(images, "bicubic")
    value = walk.sides(1, walk.norm(1, tokens), (3, 5), "v")["v"].transpose(1, 2).flatten(2)
    ours = walk.project(walk.out(1, value))[:, 1:].mT.unflatten(2, (3, 5))
    pool, field = tower.attnpool, tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
    for part in (pool.v_proj, pool.c_proj):
        field = F.conv2d(field, part.weight[:, :, None, None], part.bias)
    torch.testing.assert_close(ours, field, rtol=0, atol=1e-5)


def test_block_asks_the_pool_with_every_token_as_its_image_token_asks() -> None:
    walk = families.find(towers.resnet())
    tokens = walk.enter(towers.pixels(96, 96), "bicubic")
    out = walk.block(1, tokens, (3, 3))
    assert out.shape == (2, 10, 20)
    torch.testing.assert_close(out[:, 0], walk.whole(tokens, (3, 3)), rtol=0, atol=1e-6)
    swapped = torch.cat([tokens[:, 4:5], tokens[:, 1:4], tokens[:, :1], tokens[:, 5:]], dim=1)  # a set has no order
    torch.testing.assert_close(out[:, 4], walk.whole(swapped, (3, 3)), rtol=0, atol=1e-5)


def test_weights_of_the_pool_are_those_of_its_sides() -> None:
    walk = families.find(towers.resnet())
    tokens = walk.enter(towers.pixels(96, 160), "bicubic")
    sides = walk.sides(1, tokens, (3, 5))
    weights = (sides["q"] @ sides["k"].mT / (walk.width // walk.heads) ** 0.5).softmax(dim=-1)
    mixed = (weights @ sides["v"]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(walk.out(1, mixed), walk.block(1, tokens, (3, 5)), rtol=0, atol=1e-5)


def test_places_of_other_grids_are_resampled() -> None:
    tower = towers.resnet()
    walk, flat = families.find(tower), torch.zeros(1, 3, 96, 160)
    native, other = walk.enter(flat[..., :96], "bicubic"), walk.enter(flat, "bilinear")
    place = tower.attnpool.positional_embedding
    field = F.interpolate(place[1:].T.reshape(1, -1, 3, 3), size=(3, 5), mode="bilinear")
    bare = copy.deepcopy(tower)
    with torch.no_grad():
        bare.attnpool.positional_embedding.zero_()
    cells = families.find(bare).enter(flat, "bicubic")
    torch.testing.assert_close(other[0, 1:] - cells[0, 1:], field[0].flatten(1).T, rtol=0, atol=1e-5)
    assert native.shape == (1, 10, walk.width)


def test_rows_that_keep_a_residual_or_an_mlp_are_refused() -> None:
    walk = families.find(towers.resnet())
    assert walk.refuses.keys() == {"residual", "mlp", "layers"}
    with pytest.raises(UnsupportedTower, match="has no residual and no MLP"):
        walk.mlp(1, torch.zeros(1, 10, walk.width))


def test_resnet_without_the_pool_is_refused() -> None:
    tower = towers.resnet()
    tower.attnpool = torch.nn.Identity()
    with pytest.raises(
        UnsupportedTower, match="this ModifiedResNet cannot be walked: it has no attention pool with pos"
    ):
        families.find(tower)
    tower = towers.resnet()
    tower.attnpool.positional_embedding = torch.nn.Parameter(torch.zeros(13, 256))
    with pytest.raises(UnsupportedTower, match="places for 12 cells, which is no square"):
        families.find(tower)
