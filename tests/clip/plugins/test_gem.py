"""Heat maps, and the image embedding that stays the tower's own beside a second stream."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.plugins.gem import heat
from ovseg.clip.tower import dense_tokens, grid_of, prefix
from ovseg.clip.walk import Vit


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_heat_equals_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted, pixels = load_file(golden_dense / "outputs" / "gem.safetensors"), golden_inputs[shape]
    cells = dense_tokens(golden_walk.tower, pixels, "gem")
    maps = heat(cells, golden_inputs["text"], (pixels.shape[2], pixels.shape[3]))
    torch.testing.assert_close(maps[..., ::4, ::4], wanted[shape + ".heat"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_surgery_keeps_the_towers_own_image_embedding(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted, pixels = load_file(golden_dense / "outputs" / "clip_surgery.safetensors"), golden_inputs[shape]
    taps = prefix(golden_walk, pixels)
    whole = golden_walk.whole(taps[golden_walk.depth], grid_of(golden_walk, pixels))
    torch.testing.assert_close(whole, wanted[shape + ".cls"], rtol=0, atol=1e-4)


def test_every_map_is_stretched_by_itself() -> None:
    cells = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    maps = heat(cells, torch.eye(4)[:3], (24, 40))
    assert maps.shape == (2, 3, 24, 40)
    torch.testing.assert_close(maps.amin((2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(maps.amax((2, 3)), torch.ones(2, 3))


def test_scale_of_a_phrase_does_not_matter_and_a_flat_map_is_zero() -> None:
    cells = torch.randn(1, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    text = torch.eye(4)[:2]
    torch.testing.assert_close(heat(cells, 7 * text, (6, 10)), heat(cells, text, (6, 10)))
    assert not heat(torch.ones(1, 3, 5, 4), text, (6, 10)).any()
