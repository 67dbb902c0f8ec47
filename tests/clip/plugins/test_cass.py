"""CASS: equal to the released program with exact vectors, and each step against its plain definition."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.cass import cass, distances, low_rank, mixed, ranged, spectrum
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput

MAKE = torch.Generator().manual_seed(3)
PIXELS = torch.randn(2, 3, 48, 80, generator=MAKE)  # 6 x 10 patches
KEYS = torch.randn(2, 48, 9, 13, generator=MAKE)  # 4 heads of 12
OWN = torch.randn(4, 30, 16, generator=MAKE) * torch.linspace(0.3, 2, 16)
GUIDE = torch.randn(4, 30, 12, generator=MAKE) * torch.tensor([0.2, 0.5, 1, 2])[:, None, None] ** torch.arange(12)


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
@pytest.mark.parametrize(("suffix", "stretch"), [("", True), (".no_rescale", False)])
def test_tokens_equal_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str, suffix: str, stretch: bool
) -> None:
    wanted = load_file(golden_dense / "outputs" / "cass.safetensors")
    keys = wanted[shape + ".keys"].float()
    got = cass(golden_walk, golden_inputs[shape], keys, stretch=stretch, compat=True)
    torch.testing.assert_close(got, wanted[shape + suffix], rtol=0, atol=1e-4)


def test_batch_of_two_is_two_of_one_on_a_grid_that_is_not_square() -> None:
    walk = Vit(tiny.model().visual)
    both = cass(walk, PIXELS, KEYS)
    assert both.shape == (2, 6, 10, tiny.DIM)
    for index in range(2):
        one = slice(index, index + 1)
        torch.testing.assert_close(both[one], cass(walk, PIXELS[one], KEYS[one]), rtol=0, atol=1e-5)


def test_spectra_are_the_largest_eigenvalues_of_the_graphs() -> None:
    graphs = OWN.double() @ OWN.double().mT
    values = torch.linalg.eigvalsh(graphs).flip(1)[:, :20].clamp(min=0)
    torch.testing.assert_close(spectrum(OWN), values / values.sum(1, keepdim=True), rtol=0, atol=1e-9)
    assert spectrum(OWN[:, :7]).shape == (4, 7)


def test_distance_is_between_sorted_spectra_guide_by_tower() -> None:
    got = distances(GUIDE, OWN)
    for row in range(4):
        for col in range(4):
            wanted = (spectrum(GUIDE)[row].sort()[0] - spectrum(OWN)[col].sort()[0]).abs().sum()
            assert got[row, col].item() == pytest.approx(wanted.item())


def test_pairs_have_the_greatest_total_distance_and_are_read_as_written() -> None:
    apart = distances(GUIDE, OWN)
    best = max(permutations(range(4)), key=lambda heads: sum(float(apart[i, j]) for i, j in enumerate(heads)))
    assert best != tuple(best.index(i) for i in range(4))  # else the released swap would change nothing
    graphs = OWN @ OWN.mT / 4
    got, swapped = mixed(OWN, GUIDE), mixed(OWN, GUIDE, compat=True)
    for theirs, ours in enumerate(best):
        weight = 10 * apart[theirs, ours].item()
        added = ranged(low_rank(GUIDE[theirs], 0.95, True), graphs[ours])
        torch.testing.assert_close(got[ours], (weight * added + graphs[ours]) / (weight + 1), rtol=0, atol=1e-4)
    assert (got - swapped).abs().max() > 1e-2


@pytest.mark.parametrize(("rule", "rank"), [(10, 10), (0.95, 4), (0.5, 2), (0.35, 1)])
def test_graph_keeps_as_many_vectors_as_asked_or_as_hold_the_energy(rule: float | int, rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(30, 12, generator=MAKE))[0]
    values = torch.tensor([4.0, 3.0, 2.0, 0.9, *(0.01 * i for i in range(8, 0, -1))])
    graph = low_rank(basis * values.sqrt(), rule, False)
    wanted = (basis[:, :rank] * values[:rank]) @ basis[:, :rank].mT
    torch.testing.assert_close(graph, wanted.fill_diagonal_(0), rtol=0, atol=1e-5)


def test_stretch_moves_the_kept_values_to_half_the_smallest_and_half_more_than_the_largest() -> None:
    basis = torch.linalg.qr(torch.randn(30, 12, generator=MAKE))[0]
    values = torch.tensor([4.0, 3.0, 2.0, *[0.0] * 9])
    wanted = (basis[:, :3] * torch.tensor([6.0, 3.5, 1.0])) @ basis[:, :3].mT
    torch.testing.assert_close(low_rank(basis * values.sqrt(), 3, True), wanted.fill_diagonal_(0), rtol=0, atol=1e-5)


def test_flat_guide_stays_finite() -> None:
    assert cass(Vit(tiny.model().visual), PIXELS, torch.ones_like(KEYS)).isfinite().all()


def test_keys_of_other_heads_and_less_than_a_patch_are_refused() -> None:
    walk = Vit(tiny.model().visual)
    with pytest.raises(BadInput, match="4 heads"):
        cass(walk, PIXELS, KEYS[:, :46])
    with pytest.raises(BadInput, match="2 pictures"):
        cass(walk, PIXELS, KEYS[:1])
    with pytest.raises(BadInput, match="at least one patch"):
        cass(walk, PIXELS[..., :7], KEYS)
