"""Views of a picture: the released program's logits, and what each view is."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as vision
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.itaclip import blurred, grey, views, with_definitions
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, BadUsage

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_logits_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "itaclip_views.safetensors")[shape + ".logits"]
    pixels = golden_inputs[shape]
    logits = (views(golden_walk, pixels) @ golden_inputs["text"].mT).permute(0, 3, 1, 2)
    full = F.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(full[..., ::4, ::4], wanted, rtol=0, atol=1e-4)


def test_grey_and_blur_are_torchvisions() -> None:
    torch.testing.assert_close(grey(PIXELS), vision.rgb_to_grayscale(PIXELS, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(blurred(PIXELS), vision.gaussian_blur(PIXELS, [11, 11], [5.0, 5.0]), rtol=0, atol=1e-5)


def test_batch_of_two_is_two_of_one_on_a_grid_that_is_not_square() -> None:
    walk = Vit(tiny.model(layers=4).visual)
    both = views(walk, PIXELS)
    assert both.shape == (2, 6, 10, tiny.DIM)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(both[one], views(walk, PIXELS[one]), rtol=0, atol=1e-5)


def test_flipped_reading_of_a_flipped_picture_is_the_flipped_reading() -> None:
    """Upside down swaps nothing but the two halves of the blend: with flips alone, one of them is put back."""
    walk = Vit(tiny.model(layers=4).visual)
    flips = views(walk, PIXELS, keep=0.0)
    upright = views(walk, PIXELS, keep=1.0)
    torch.testing.assert_close(views(walk, PIXELS, keep=0.4), 0.4 * upright + 0.6 * flips, rtol=0, atol=1e-6)
    turned = views(walk, PIXELS.flip(2).flip(3), keep=0.0).flip(1).flip(2)  # the two flips of it are the flips of ours
    torch.testing.assert_close(turned, flips, rtol=0, atol=1e-5)
    assert (flips - upright).abs().max() > 1e-2


def test_any_row_can_be_read_by_views() -> None:
    walk = Vit(tiny.model().visual)
    assert (views(walk, PIXELS, method="naclip") - views(walk, PIXELS, method="sclip")).abs().max() > 1e-2


def test_definitions_move_names_but_not_the_background() -> None:
    names, definitions = torch.eye(3), torch.full((3, 3), 0.5)
    got = with_definitions(names, definitions, 0.2, torch.tensor([True, False, False]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0, 0], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]]), rtol=0, atol=1e-6)
    assert with_definitions(names, definitions, 0.2)[0, 0].item() == pytest.approx(0.9)


def test_part_outside_one_and_tiny_pictures_are_refused() -> None:
    walk = Vit(tiny.model().visual)
    with pytest.raises(BadUsage, match="from 0 to 1"):
        views(walk, PIXELS, keep=1.5)
    with pytest.raises(BadInput, match="more than 5 px"):
        blurred(PIXELS[..., :5])
