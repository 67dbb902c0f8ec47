"""The second pass of ResCLIP: equal to the released program, and what feedback does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.resclip import resclip, second_row
from ovseg.clip.scores import nearness
from ovseg.clip.walk import Prefix, Vit
from ovseg.errors import BadInput, BadUsage
from ovseg.stages.sfr import feedback, patch_labels

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))
TEXT = torch.nn.functional.normalize(torch.randn(3, tiny.DIM, generator=torch.Generator().manual_seed(4)), dim=-1)


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_tokens_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "resclip.safetensors")
    labels: list[np.ndarray] = []
    links: list[np.ndarray] = []

    def feed(picture: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        labels.append(patch_labels(picture, cosines, least=0.5))
        links.append(feedback(labels[-1], compat=True))
        return links[-1]

    got = resclip(golden_walk, golden_inputs[shape], golden_inputs["text"], feed)
    np.testing.assert_array_equal(np.stack(labels), wanted[shape + ".patch_labels"].numpy())
    torch.testing.assert_close(got, wanted[shape], rtol=0, atol=1e-4)
    if shape == "native":
        torch.testing.assert_close(got, wanted["native.half_step"], rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(
            torch.from_numpy(np.stack(links)), wanted[shape + ".sfr"][:, 1:, 1:], rtol=0, atol=1e-4
        )


def by_half(picture: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Left and right halves of a 6 x 10 grid are linked within themselves."""
    assert picture.shape == (48, 80, 3) and cosines.shape == (3, 6, 10) and picture.dtype == np.float32
    side = np.tile(np.arange(10) < 5, 6)
    return (side[:, None] == side[None]) * 3.0


def shapes() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((48, 80, 3), np.float32), np.zeros((3, 6, 10), np.float32)


def test_batch_of_two_is_two_of_one_on_a_grid_that_is_not_square() -> None:
    walk = Vit(tiny.model(layers=4).visual)
    both = resclip(walk, PIXELS, TEXT, by_half)
    assert both.shape == (2, 6, 10, tiny.DIM)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(both[one], resclip(walk, PIXELS[one], TEXT, by_half), rtol=0, atol=1e-5)


def test_second_pass_is_its_formula_written_out() -> None:
    walk, grid = Vit(tiny.model(layers=4).visual), (6, 10)
    links = torch.nn.functional.pad(torch.from_numpy(by_half(*shapes())).float() / 3, (1, 0, 1, 0))
    taps = dict(zip((2, 3, 4), Prefix(walk, (2, 3, 4), grid)(walk.enter(PIXELS, "bicubic")), strict=True))
    sides = walk.sides(4, walk.norm(4, taps[4]), grid)
    scores = 1.8 * (0.4 * sides["k"] @ sides["k"].mT / 4 + 0.6 * links) + nearness(grid, 5.0)
    earlier = [walk.sides(number, walk.norm(number, taps[number]), grid) for number in (2, 3)]
    mean = sum((side["q"] @ side["k"].mT / 4).softmax(-1) for side in earlier) / 2
    weights = 1.4 * scores.softmax(-1) + 0.6 * mean
    wanted = walk.project(walk.out(4, (weights @ sides["v"]).transpose(1, 2).flatten(2)))[:, 1:].unflatten(1, grid)
    got = resclip(walk, PIXELS, TEXT, by_half, strength=1.8, share=0.6)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_only_the_proportions_of_the_links_count() -> None:
    walk = Vit(tiny.model(layers=4).visual)
    once = resclip(walk, PIXELS, TEXT, by_half)
    tenfold = resclip(walk, PIXELS, TEXT, lambda picture, cosines: 10 * by_half(picture, cosines))
    torch.testing.assert_close(once, tenfold, rtol=0, atol=1e-6)
    none = resclip(walk, PIXELS, TEXT, lambda picture, cosines: np.zeros((60, 60)))
    assert none.isfinite().all() and (once - none).abs().max() > 1e-3


def test_second_pass_keeps_the_row_sums() -> None:
    assert second_row(2.2, 0.7).row_sum == pytest.approx(2)
    with pytest.raises(BadUsage, match="share lies between"):
        second_row(2.2, 0.0)


def test_links_of_another_grid_are_refused() -> None:
    with pytest.raises(BadInput, match="60 cells"):
        resclip(Vit(tiny.model(layers=4).visual), PIXELS, TEXT, lambda picture, cosines: np.ones((50, 60)))
