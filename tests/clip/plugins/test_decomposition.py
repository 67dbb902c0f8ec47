"""Shares of the image embedding: equal to the published program's, and an exact sum."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.decomposition import decompose
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, UnsupportedTower

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_shares_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "decomposition.safetensors")
    got = decompose(golden_walk, golden_inputs[shape])
    for name, tensor in {"": got.patches, ".cls_token": got.own, ".layer_head": got.heads, ".mlp": got.mlps}.items():
        torch.testing.assert_close(tensor, wanted[shape + name], rtol=0, atol=1e-6)
    torch.testing.assert_close(got.whole, wanted[shape + ".embedding"], rtol=0, atol=1e-5)


def test_shares_add_up_to_the_towers_own_embedding() -> None:
    visual = tiny.model(ls_init_value=0.3).visual
    square = PIXELS[..., :48]
    got, whole = decompose(Vit(visual), square), visual(square)
    torch.testing.assert_close(got.whole, whole, rtol=0, atol=1e-5)
    unit = whole / whole.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(got.patches.sum((1, 2)) + got.own + got.mlps.sum(1), unit, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.heads.sum((1, 2)) + got.mlps.sum(1), unit, rtol=0, atol=1e-5)


def test_batch_of_two_is_two_of_one_and_the_map_is_rows_by_cols() -> None:
    walk = Vit(tiny.model().visual)
    both = decompose(walk, PIXELS)
    assert both.patches.shape == (2, 6, 10, tiny.DIM)
    for index in range(2):
        alone = decompose(walk, PIXELS[index : index + 1])
        torch.testing.assert_close(both.patches[index : index + 1], alone.patches, rtol=0, atol=1e-6)
        torch.testing.assert_close(both.heads[index : index + 1], alone.heads, rtol=0, atol=1e-6)


def test_maps_of_a_text_are_its_shares_less_the_mean_over_texts() -> None:
    got = decompose(Vit(tiny.model().visual), PIXELS)
    text = torch.nn.functional.normalize(torch.randn(3, tiny.DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    maps = got.maps(text)
    assert maps.shape == (2, 3, 6, 10)
    raw = torch.stack([got.patches @ row for row in text], dim=1)
    torch.testing.assert_close(maps, raw - raw.mean(1, keepdim=True), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.maps(text[:1]), raw[:, :1], rtol=0, atol=1e-6)


def test_tower_that_pools_patches_is_refused() -> None:
    with pytest.raises(UnsupportedTower, match="pools its patches"):
        decompose(Vit(tiny.model(pool_type="avg").visual), PIXELS)


def test_less_than_a_patch_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one patch"):
        decompose(Vit(tiny.model().visual), PIXELS[..., :7])
