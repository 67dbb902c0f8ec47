"""Regions and another network's features: equal to the published program, and what regions must do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.corrclip import FRESH, corrclip, merged, scope, spatial_blocks
from ovseg.clip.walk import Prefix, Vit
from ovseg.errors import BadInput, UnsupportedTower

MAKE = torch.Generator().manual_seed(3)
PIXELS = torch.randn(2, 3, 48, 80, generator=MAKE)
GUIDE = torch.randn(2, 7, 12, 20, generator=MAKE)
REGIONS = torch.zeros(2, 48, 80, dtype=torch.long)
REGIONS[:, :24, :30], REGIONS[0, 24:, 40:], REGIONS[1, 10:20, 50:], REGIONS[1, 40:, 50:] = 1, 2, 3, 5


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
@pytest.mark.parametrize("compat", [False, True])
def test_tokens_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str, compat: bool
) -> None:
    wanted = load_file(golden_dense / "outputs" / "corrclip.safetensors")
    cells = wanted[shape].shape[1:3]
    guide = wanted[shape + ".features"].float().mT.reshape(len(wanted[shape]), -1, *cells)
    regions = wanted[shape + ".regions"].long()
    got = corrclip(golden_walk, golden_inputs[shape], guide, regions, compat=compat)
    torch.testing.assert_close(got, wanted[shape], rtol=0, atol=1e-4)


def test_batch_of_two_is_two_of_one_though_each_has_its_own_regions() -> None:
    walk = Vit(tiny.model().visual)
    both = corrclip(walk, PIXELS, GUIDE, REGIONS)
    assert both.shape == (2, 12, 20, tiny.DIM)
    for index in range(2):
        one = slice(index, index + 1)
        alone = corrclip(walk, PIXELS[one], GUIDE[one], REGIONS[one])
        torch.testing.assert_close(both[one], alone, rtol=0, atol=1e-5)


def test_region_sees_nothing_of_another() -> None:
    walk = Vit(tiny.model().visual)
    regions = torch.ones_like(REGIONS)
    regions[:, :, 40:] = 2
    changed = GUIDE.clone()
    changed[..., 10:] = torch.randn(2, 7, 12, 10, generator=MAKE)
    options = {"spatial": 0.0, "semantic": 0.0, "merge": -1.0}  # the region tokens and the values see no guide
    before, after = (
        corrclip(walk, PIXELS, GUIDE, regions, **options),
        corrclip(walk, PIXELS, changed, regions, **options),
    )
    torch.testing.assert_close(before[:, :, :10], after[:, :, :10], rtol=0, atol=0)
    assert (before[:, :, 10:] - after[:, :, 10:]).abs().max() > 1e-3


def test_token_of_one_region_that_is_everything_is_the_image_token() -> None:
    """A copy that looks at all the image token looks at goes the image token's own way."""
    walk = Vit(tiny.model().visual)
    regions = torch.ones_like(REGIONS)
    without = corrclip(walk, PIXELS, GUIDE, regions, semantic=0.0)
    with_it = corrclip(walk, PIXELS, GUIDE, regions, semantic=1.0)
    (last,) = Prefix(walk, (walk.depth,), (6, 10))(walk.enter(PIXELS, "bicubic"))
    wanted = walk.whole(last, (6, 10))[:, None, None].expand_as(without)
    torch.testing.assert_close(with_it - without, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", ["spatial", "semantic"])
def test_each_branch_is_added_by_its_weight(part: str) -> None:
    walk = Vit(tiny.model(layers=4).visual)
    off, half, full = (corrclip(walk, PIXELS, GUIDE, REGIONS, **{part: weight}) for weight in (0.0, 0.5, 1.0))
    assert (full - off).abs().max() > 1e-2
    torch.testing.assert_close(half - off, (full - off) / 2, rtol=0, atol=1e-5)


def test_regions_that_look_alike_become_one_and_chains_join() -> None:
    regions = torch.tensor([[0, 1, 2], [3, 4, 4]])
    unit = torch.nn.functional.normalize(
        torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0], [-1.0, 0.0], [-1.0, 0.1]]), dim=1
    )  # 1 near 2, 2 near 3, 1 not near 3, 4 far
    assert merged(regions, unit, 0.2).tolist() == [[0, FRESH, FRESH], [FRESH, FRESH + 1, FRESH + 1]]
    assert merged(regions, unit, 0.01).unique().tolist() == [0, FRESH, FRESH + 1, FRESH + 2, FRESH + 3]


def test_released_program_takes_the_smallest_number_for_no_region() -> None:
    alike = torch.tensor([[1.0, -0.5, 0.9], [-0.5, 1.0, -0.9], [0.9, -0.9, 1.0]])
    regions = torch.tensor([4, 4, 7])
    assert scope(regions, alike).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert scope(regions, alike, compat=True).tolist() == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]


def test_flat_picture_without_regions_stays_finite() -> None:
    flat = torch.ones(2, 7, 12, 20)
    out = corrclip(Vit(tiny.model().visual), PIXELS, flat, torch.zeros_like(REGIONS))
    assert out.isfinite().all()
    lone = scope(torch.zeros(3, dtype=torch.long), torch.full((3, 3), 0.5))
    assert lone.tolist() == torch.eye(3, dtype=torch.bool).tolist()


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 24, 32])
def test_spatial_blocks_are_there_at_every_depth(depth: int) -> None:
    first, last = spatial_blocks(depth)
    assert 1 <= first <= last <= max(1, depth - 1)


def test_tower_without_image_token_and_less_than_a_patch_are_refused() -> None:
    with pytest.raises(UnsupportedTower, match="copies the image token"):
        corrclip(Vit(tiny.model(layers=1).visual), PIXELS, GUIDE, REGIONS)
    with pytest.raises(UnsupportedTower, match="copies the image token"):
        corrclip(Vit(tiny.model(pool_type="avg").visual), PIXELS, GUIDE, REGIONS)
    with pytest.raises(BadInput, match="at least one patch"):
        corrclip(Vit(tiny.model().visual), PIXELS[..., :7], GUIDE, REGIONS[..., :7])
