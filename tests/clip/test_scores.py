import pytest
import torch
from torch import nn

import tiny
from ovseg.clip import scores, tower


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tiny.model().visual


def test_nearness_that_was_kept_by_an_inference_run_still_serves_a_gradient(visual: nn.Module) -> None:
    pixels = torch.randn(1, 3, 40, 88, requires_grad=True)
    with torch.inference_mode():
        tower.dense_tokens(visual, pixels, "naclip")
    tower.dense_tokens(visual, pixels, "naclip").sum().backward()
    assert pixels.grad is not None


def test_nearness_of_a_small_grid_is_kept_and_of_a_large_one_made_anew_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = scores.nearness((3, 5), 2.0)
    assert scores.nearness((3, 5), 2.0) is kept
    monkeypatch.setattr(scores, "KEPT_PATCHES", 14)
    anew = scores.nearness((3, 5), 2.0)
    assert anew is not kept and anew is not scores.nearness((3, 5), 2.0) and torch.equal(anew, kept)
    apart = (torch.tensor([0.0, 0.0]) - torch.tensor([2.0, 1.0])).square().sum()
    assert torch.allclose(anew[1, 1 + 2 * 5 + 1], torch.exp(-apart / 8)) and not anew[0].any()
