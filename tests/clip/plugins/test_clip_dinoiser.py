"""Pooling by a learned correlation: equal to the published program's, and what it must do to planted patches."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.clip_dinoiser import Head, correlation, dinoise, nothing, pool, probability
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, BadWeights, UnsupportedTower

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


def state(width: int = 64, out: int = 20) -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(5)
    shapes = {
        "obj_proj.weight": (out, width, 3, 3),
        "obj_proj.bias": (out,),
        "bkg_decoder.weight": (1, width, 1, 1),
        "bkg_decoder.bias": (1,),
    }
    return {name: 0.1 * torch.randn(shape, generator=make) for name, shape in shapes.items()}


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_pooling_equals_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "clip_dinoiser.safetensors")
    head = Head.read({name.removeprefix("head."): value for name, value in wanted.items()}, golden_walk.width)
    got = dinoise(golden_walk, golden_inputs[shape], head)
    torch.testing.assert_close(got.tokens, wanted[shape], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.background, wanted[shape + ".background"], rtol=0, atol=1e-4)
    probabilities = probability(got.tokens, golden_inputs["text"])
    torch.testing.assert_close(probabilities, wanted[shape + ".probability"], rtol=0, atol=1e-4)
    if shape != "native":
        torch.testing.assert_close(got.correlation, wanted[shape + ".correlation"], rtol=0, atol=1e-4)


def test_batch_of_two_is_two_of_one_on_a_grid_that_is_not_square() -> None:
    walk, head = Vit(tiny.model().visual), Head.read(state(), 64)
    both = dinoise(walk, PIXELS, head)
    assert both.tokens.shape == (2, 6, 10, tiny.DIM)
    for index in range(2):
        alone = dinoise(walk, PIXELS[index : index + 1], head)
        torch.testing.assert_close(both.tokens[index : index + 1], alone.tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(both.background[index : index + 1], alone.background, rtol=0, atol=1e-5)


def test_flat_tokens_belong_together_up_to_the_edge() -> None:
    """The edge is repeated, so that a picture of one kind is one thing."""
    middle = torch.randn(2, 64, 1, 1, generator=torch.Generator().manual_seed(2)).expand(2, 64, 5, 9)
    together = correlation(Head.read(state(), 64), middle)
    torch.testing.assert_close(together, torch.ones(2, 45, 45), rtol=0, atol=1e-5)


def test_a_spoilt_patch_takes_the_mean_of_those_it_belongs_with() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 8.0], [1.0, 0.0], [0.0, 1.0]]])  # the second should be like the first
    together = torch.tensor([[[1, 1, 1, 0.1], [1, 1, 1, 0.1], [1, 1, 1, 0.1], [0.1, 0.1, 0.1, 1]]])
    got = pool(features, together, 0.2)
    torch.testing.assert_close(got[0, 1], torch.tensor([2 / 3, 8 / 3]), rtol=0, atol=1e-5)
    torch.testing.assert_close(got[0, 3], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)
    above = pool(features, together, 1.5)
    torch.testing.assert_close(above, torch.zeros_like(above), rtol=0, atol=0)


def test_pooling_with_itself_alone_changes_nothing() -> None:
    features = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    got = pool(features, torch.eye(5).expand(2, 5, 5), 0.2)
    torch.testing.assert_close(got, features, rtol=0, atol=1e-5)


def test_cell_holds_nothing_where_it_is_background_and_no_name_is_sure() -> None:
    probabilities = torch.tensor([[[[0.999, 0.001], [0.6, 0.4], [0.6, 0.4]]]])
    seen = torch.tensor([[[-3.0, -3.0, 3.0]]])
    assert nothing(probabilities, seen).tolist() == [[[False, True, False]]]


@pytest.mark.parametrize("name", ["obj_proj.weight", "obj_proj.bias", "bkg_decoder.weight", "bkg_decoder.bias"])
def test_wrong_or_missing_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadWeights, match=f"{name} is not there"):
        Head.read({key: value for key, value in state().items() if key != name}, 64)
    with pytest.raises(BadWeights, match=f"{name} must be .* got"):
        Head.read({**state(), name: torch.zeros(2, 2)}, 64)
    with pytest.raises(BadWeights, match=r"obj_proj.weight must be \(20, 48, 3, 3\)"):
        Head.read(state(), 48)


def test_short_tower_and_less_than_a_patch_are_refused() -> None:
    head = Head.read(state(), 64)
    with pytest.raises(UnsupportedTower, match="third block from the end"):
        dinoise(Vit(tiny.model(layers=2).visual), PIXELS, head)
    with pytest.raises(BadInput, match="at least one patch"):
        dinoise(Vit(tiny.model().visual), PIXELS[..., :7], head)
