"""CLIPer's readings of every block: the released program's, and the row's own answer as the last of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.tower import dense_tokens
from ovseg.clip.walk import Vit
from ovseg.errors import UnsupportedTower
from ovseg.stages.cliper import cliper_maps

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_readings_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "cliper.safetensors")
    got = layers(golden_walk, golden_inputs[shape])
    torch.testing.assert_close(got.tokens[:, -1], wanted[shape], rtol=0, atol=1e-4)
    if shape == "wide":
        torch.testing.assert_close(got.tokens, wanted["wide.layers"], rtol=0, atol=1e-4)
    if shape != "native":
        torch.testing.assert_close(got.attention, wanted[shape + ".attention"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_class_maps_of_the_readings_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "cliper.safetensors")[shape + ".scores"]
    got, text = layers(golden_walk, golden_inputs[shape]), golden_inputs["text"].numpy()
    for index in range(len(wanted)):
        tokens = got.tokens[index].permute(0, 3, 1, 2).contiguous().numpy()
        maps = cliper_maps(tokens, got.attention[index].numpy(), text[:4], text[4:])
        torch.testing.assert_close(torch.from_numpy(maps), wanted[index], rtol=0, atol=1e-4)


def test_last_reading_is_the_rows_own_and_batches_are_apart() -> None:
    visual = tiny.model(layers=4).visual
    both = layers(Vit(visual), PIXELS)
    assert both.tokens.shape == (2, 4, 6, 10, tiny.DIM) and both.attention.shape == (2, 60, 60)
    torch.testing.assert_close(both.tokens[:, -1], dense_tokens(visual, PIXELS, "cliper"), rtol=0, atol=1e-5)
    for index in range(2):
        alone = layers(Vit(visual), PIXELS[index : index + 1])
        torch.testing.assert_close(both.tokens[index : index + 1], alone.tokens, rtol=0, atol=1e-5)


def test_first_reading_sees_one_round_and_norms_twice() -> None:
    """Of a tower of two blocks, written out: one attention, one round for the first layer."""
    walk = Vit(tiny.model(layers=2).visual)
    entering = walk.enter(PIXELS, "bicubic")
    normed = walk.norm(1, entering)
    sides = walk.sides(1, normed, (6, 10))
    total = (sides["q"] @ sides["k"].mT / 4).softmax(-1)
    total = total / total.sum(2, keepdim=True)
    total = total / total.sum(3, keepdim=True)
    even = (total + total.mT) / 2
    even = (even - even.mean(2, keepdim=True)).clamp(min=0)
    values = walk.sides(2, walk.norm(2, normed), (6, 10))["v"]
    mixed = even / even.sum(3, keepdim=True) @ values
    wanted = walk.project(walk.out(2, mixed.transpose(1, 2).flatten(2)))[:, 1:].unflatten(1, (6, 10))
    torch.testing.assert_close(layers(walk, PIXELS).tokens[:, 0], wanted, rtol=0, atol=1e-5)


def test_tower_of_one_block_is_refused() -> None:
    with pytest.raises(UnsupportedTower, match="there are none"):
        layers(Vit(tiny.model(layers=1).visual), PIXELS)
