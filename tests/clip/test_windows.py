"""Laying out, cutting and joining: what is cut from a canvas and put together again is what lay there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from ovseg.clip import tower
from ovseg.clip.load import Clip
from ovseg.clip.windows import PROTOCOLS, Reading, cut, join, lay_out, normalised

WIDE = tiny.picture(64, 104, seed=3)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_windows_are_pieces_of_the_canvas_and_cover_it(clip: Clip, protocol: str) -> None:
    layout = lay_out(clip, tower.check(clip.visual, "sclip"), WIDE, Reading(protocol=protocol, short_side=61))
    windows, seen = cut(layout.pixels, layout), torch.zeros(layout.pixels.shape[1:])
    assert windows.shape == (len(layout.tops), 3, *layout.crop)
    for window, top, left in zip(windows, layout.tops.tolist(), layout.lefts.tolist(), strict=True):
        assert torch.equal(window, layout.pixels[:, top : top + layout.crop[0], left : left + layout.crop[1]])
        seen[top : top + layout.crop[0], left : left + layout.crop[1]] += 1
    assert (seen > 0).all() and (seen > 1).any()
    assert tuple(seen.shape) == ((64, 96) if protocol == "fast" else (61, 99))  # whole patches; the ratio


def test_cells_that_agree_where_windows_overlap_come_back_as_they_were(clip: Clip) -> None:
    reading = Reading(short_side=64)
    layout = lay_out(clip, tower.check(clip.visual, "sclip"), WIDE, reading)
    field = F.normalize(torch.randn(tiny.DIM, 8, 13, generator=torch.Generator().manual_seed(0)), dim=0)
    pixels = field.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    cells = cut(pixels, layout)[:, :, ::8, ::8].contiguous()
    own = torch.randn(len(cells), tiny.DIM, generator=torch.Generator().manual_seed(1))
    got = join((64, 104), layout, cells, own, reading)
    np.testing.assert_allclose(got.vectors, field, atol=1e-6)
    np.testing.assert_allclose(got.whole, F.normalize(own.mean(dim=0), dim=0), atol=1e-6)
    kept = join((64, 104), layout, cells, own, Reading(protocol="paper", short_side=64)).windows
    assert got.windows is None and kept is not None and np.array_equal(kept.vectors, cells)


def test_pixels_are_those_of_the_networks_own_preprocessing(clip: Clip) -> None:
    from torchvision.transforms.functional import normalize, to_tensor

    torch.testing.assert_close(normalised(clip, WIDE), normalize(to_tensor(WIDE), clip.mean, clip.std))
