import pytest
import torch

import tiny
from ovseg.clip import tower
from ovseg.clip.program import EARLIER
from ovseg.clip.sight import scaled
from ovseg.errors import BadInput

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(7))


def test_published_numbers_scale_and_released_ones_stay() -> None:
    assert scaled(range(6, 10), 12) == [6, 7, 8, 9] and scaled(range(6, 10), 6) == [3, 4, 5]
    assert scaled((7, 8, 10), 24) == [14, 16, 20] and scaled((7, 8, 10), 24, as_released=True) == [7, 8, 10]
    assert scaled(EARLIER, 6) == [1, 2, 3, 4, 5]
    deep = tiny.model(layers=24).visual
    ours, theirs = (tower.dense_tokens(deep, PIXELS, "resclip", layers=mode) for mode in ("scaled", "as-released"))
    assert (ours - theirs).abs().max() > 1e-2
    with pytest.raises(BadInput, match="block 9 as it was released, and this tower has 6"):
        tower.dense_tokens(tiny.model(layers=6).visual, PIXELS, "resclip", layers="as-released")
