"""Trident's first two stages: equal to the released program, right off the square, and each step by itself."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.trident import read, spread, stitch, trident
from ovseg.clip.walk import Prefix, Vit
from ovseg.errors import BadInput

MAKE = torch.Generator().manual_seed(3)
WINDOWS = torch.randn(2, 3, 48, 80, generator=MAKE)  # 6 x 10 tokens
GUIDE = torch.randn(2, 7, 9, 15, generator=MAKE)
PLACES = [(0, 0, 6, 10), (2, 3, 8, 13)]


@pytest.mark.parametrize(("name", "factor", "negative"), [("native", 1.2, None), ("native.cos3_noneg", 3.0, 0.6)])
def test_tokens_equal_the_published_program(
    golden_dense: Path,
    golden_walk: Vit,
    golden_inputs: dict[str, torch.Tensor],
    name: str,
    factor: float,
    negative: float,
) -> None:
    wanted = load_file(golden_dense / "outputs" / "trident.safetensors")
    attention, values = wanted["sam_attention"][0].float(), wanted["sam_value"][0].float()
    places = [(0, 0, 7, 7), (0, 4, 7, 11)]
    windows, guide = golden_inputs["native"], golden_inputs["guide"]
    got = trident(golden_walk, windows, guide, places, attention, values, factor=factor, negative=negative)
    torch.testing.assert_close(got[None], wanted[name], rtol=0, atol=1e-4)


def slow_read(walk: Vit, window: torch.Tensor, guide: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """One window, cell by cell, rows and columns written out."""
    (last,) = Prefix(walk, (walk.depth,), (6, 10))(walk.enter(window[None], "bicubic"))
    value = walk.sides(walk.depth, walk.norm(walk.depth, last), (6, 10), "v")["v"][0, :, 1:]  # (heads, n, d)
    flat = value.transpose(0, 1).flatten(1).reshape(6, 10, -1).permute(2, 0, 1)
    field = torch.nn.functional.interpolate(flat[None], size=(9, 15), mode="bilinear", align_corners=False)[0]
    out = torch.zeros(9, 15, walk.width)
    for row in range(9):
        for col in range(15):
            scores = 3 * (torch.cosine_similarity(guide, guide[:, row, col, None, None], dim=0) - 1.2 * mean)
            weights = scores.masked_fill(scores < 0, float("-inf")).flatten().softmax(0).reshape(9, 15)
            out[row, col] = (field * weights).sum((1, 2))
    return walk.out(walk.depth, out.reshape(1, 135, -1))[0].reshape(9, 15, -1).permute(2, 0, 1)


def test_reading_off_the_square_equals_a_slow_reference() -> None:
    walk = Vit(tiny.model().visual)
    unit = torch.nn.functional.normalize(GUIDE, dim=1).flatten(2)
    mean = (unit.mT @ unit).mean()
    slow = torch.stack([slow_read(walk, WINDOWS[i], GUIDE[i], mean) for i in range(2)])
    wanted = torch.nn.functional.interpolate(slow, size=(12, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(read(walk, WINDOWS, GUIDE), wanted, rtol=0, atol=1e-5)


def test_windows_are_averaged_where_they_overlap() -> None:
    fields = torch.stack([torch.full((1, 4, 6), 1.0), torch.full((1, 4, 6), 3.0)])  # twice their 2 x 3 tokens
    got = stitch(fields, [(0, 0, 2, 3), (0, 1, 2, 4)])
    assert got.shape == (1, 4, 8)
    assert got[0, 3].tolist() == [1, 1, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ([(0, 0, 2, 3)], "every window needs its place"),
        ([(0, 0, 2, 3), (0, 4, 2, 7)], "must cover the picture"),
        ([(0, 0, 2, 3), (0, 1, 2, 5)], "one size"),
        ([(0, 0, 3, 2), (1, 0, 4, 2)], "one size"),
    ],
)
def test_places_that_do_not_fit_are_refused(places: list[tuple[int, int, int, int]], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        stitch(torch.zeros(2, 1, 4, 6), places)


def test_spreading_takes_only_cells_with_alike_values() -> None:
    """Two heads, two cells of one value and two of another: no weight crosses."""
    values = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.1]]).reshape(1, 1, 4, 2).expand(2, 1, 4, 2)
    field = torch.tensor([[[1.0, 3.0, 10.0, 20.0]]])
    flat = torch.full((2, 4, 4), 0.25)
    assert spread(field, flat, values).flatten().tolist() == pytest.approx([2, 2, 15, 15])
    assert spread(field, flat, values, factor=0.0).flatten().tolist() == pytest.approx([2, 2, 15, 15])


def test_negative_stands_in_for_a_threshold_below_zero() -> None:
    values = torch.tensor([[1.0, 0.0], [0.9, 0.35], [-1.0, 0.0], [-1.0, -0.1]]).reshape(1, 2, 2, 2)
    field, flat = torch.tensor([[[1.0, 3.0], [10.0, 20.0]]]), torch.full((1, 4, 4), 0.25)
    unit = torch.nn.functional.normalize(values.flatten(1, 2)[0], dim=-1)
    assert (unit @ unit.mT).mean(1)[0] < 0
    assert spread(field, flat, values, negative=0.95)[0].item() == pytest.approx(2)  # never above .9: two are alike
    assert spread(field, flat, values, negative=None)[0].item() == pytest.approx(2)
    assert spread(field, flat, values, factor=3.0, negative=-2.0)[0].item() == pytest.approx(8.5)


def test_flat_picture_keeps_its_own_values() -> None:
    walk = Vit(tiny.model().visual)
    out = read(walk, WINDOWS, torch.ones(2, 7, 6, 10))
    (last,) = Prefix(walk, (walk.depth,), (6, 10))(walk.enter(WINDOWS, "bicubic"))
    value = walk.sides(walk.depth, walk.norm(walk.depth, last), (6, 10), "v")["v"][:, :, 1:]
    wanted = walk.out(walk.depth, value.transpose(1, 2).flatten(2)).mT.reshape(2, -1, 6, 10)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-6)


def test_a_picture_of_two_windows_off_the_square_lies_on_sams_grid() -> None:
    walk = Vit(tiny.model().visual)
    attention = torch.randn(3, 77, 77, generator=MAKE).softmax(-1)
    values = torch.randn(3, 7, 11, 4, generator=MAKE)
    out = trident(walk, WINDOWS, GUIDE, PLACES[:1] + [(0, 3, 6, 13)], attention, values)
    assert out.shape == (7, 11, tiny.DIM) and out.isfinite().all()


def test_less_than_a_patch_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one patch"):
        read(Vit(tiny.model().visual), WINDOWS[..., :7], GUIDE)


def test_cell_that_sam_links_to_nothing_keeps_its_own_features() -> None:
    field, values = torch.randn(5, 2, 3), torch.ones(2, 2, 3, 4)
    attention = torch.full((2, 6, 6), 1 / 6)
    attention[:, 0] = 0
    got = spread(field, attention, values, factor=0.5)
    assert torch.equal(got[0], field.flatten(1)[:, 0]) and torch.isfinite(got).all()
