"""The contract of every row: batches, grids, depths, flat pictures, and that each of its settings matters."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip import tower
from ovseg.clip.attention import matrix_bytes, read, run, taps_of
from ovseg.clip.mend import likeness
from ovseg.clip.methods import FAMILIES, LAST_BLOCKS, VARIANTS, canonical, last_block
from ovseg.clip.program import EARLIER, Group, LastBlock, Term
from ovseg.clip.sight import Sight
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, UnknownName

ALL = {**LAST_BLOCKS, **VARIANTS}
PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(7))
GUIDE = torch.randn(2, 9, 7, 12, generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tiny.model(layers=12).visual


def tokens_of(visual: nn.Module, row: LastBlock, pixels: Tensor = PIXELS, guide: Tensor = GUIDE) -> Tensor:
    walk = Vit(visual)
    taps = tower.prefix(walk, pixels, taps_of(row, walk.depth))
    given = {"guide": guide} if "guide" in row.needs else {}
    return read(Sight(walk, taps, tower.grid_of(walk, pixels), given), row).cells


def turned(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (b, 1 + rows * cols, ...) in the order of the transposed picture."""
    patches = tokens[:, 1:].unflatten(1, grid).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


@pytest.mark.parametrize("method", ALL)
def test_batch_of_two_is_two_batches_of_one(visual: nn.Module, method: str) -> None:
    both = tokens_of(visual, ALL[method])
    alone = [tokens_of(visual, ALL[method], PIXELS[i : i + 1], GUIDE[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("grid", [(5, 9), (10, 6)])
def test_transposed_grid_gives_the_transposed_answer(visual: nn.Module, method: str, grid: tuple[int, int]) -> None:
    """At the blocks that a row looks at: what enters them, and the guide, are transposed."""
    row, walk, (rows, cols) = ALL[method], Vit(visual), grid
    random = torch.Generator().manual_seed(3)
    taps = {n: torch.randn(2, 1 + rows * cols, 64, generator=random) for n in taps_of(row, 12)}
    other = {n: turned(tokens, grid) for n, tokens in taps.items()}
    given = {"guide": GUIDE} if "guide" in row.needs else {}
    turned_given = {"guide": GUIDE.mT.contiguous()} if "guide" in row.needs else {}
    straight = read(Sight(walk, taps, grid, given), row).cells
    got = read(Sight(walk, other, (cols, rows), turned_given), row).cells
    torch.testing.assert_close(got.transpose(1, 2), straight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("depth", [6, 12, 24])
def test_row_runs_at_every_depth_with_layers_in_proportion(method: str, depth: int) -> None:
    row, deep = ALL[method], tiny.model(layers=depth).visual
    taps = taps_of(row, depth)
    assert taps[-1] == depth and taps[0] >= 1
    out = tokens_of(deep, row)
    assert out.shape == (2, *((7, 12) if "guide" in row.needs else (6, 10)), tiny.DIM) and torch.isfinite(out).all()


@pytest.mark.parametrize("method", ALL)
def test_flat_picture_stays_finite(visual: nn.Module, method: str) -> None:
    flat = torch.full((2, 3, 48, 80), 0.3)
    out = tokens_of(visual, ALL[method], flat, torch.ones(2, 9, 7, 12))
    assert torch.isfinite(out).all()


def changes(row: LastBlock) -> Iterator[tuple[str, LastBlock]]:
    """The row with one of its settings changed, for each setting that it has."""
    if not row.dual or row.residual:
        moved = replace(row, mlp=True) if not (row.mlp or row.dual or row.groups[0].guided) else None
        if moved:
            yield "mlp", moved
    if row.mlp:
        yield "mlp", replace(row, mlp=False)
    if row.residual and not row.dual:
        yield "residual", replace(row, residual=False)
    elif not (row.repair or row.before or row.groups[0].guided or row.dual):
        yield "residual", replace(row, residual=True)
    if row.dual > 1:
        yield "dual", replace(row, dual=row.dual - 1)
    if row.cls_add:
        yield "cls_add", replace(row, cls_add=2 * row.cls_add)
    if row.repair:
        yield "repair", replace(row, repair=None)
        yield "limit", replace(row, repair=replace(row.repair, limit=0.5 if row.repair.detector == "lof" else 1))
    for name in ("before", "after"):
        pooled = getattr(row, name)
        if pooled:
            yield name, replace(row, **{name: None})
            yield f"{name} layer", replace(row, **{name: replace(pooled, layer=pooled.layer - 2)})
            yield f"{name} floor", replace(row, **{name: replace(pooled, floor=0.8)})
    if len(row.extra):
        yield "extra", replace(row, extra=range(4, 8))
    for name in ("groups", "extra_groups"):
        for i, group in enumerate(getattr(row, name)):
            for what, other in group_changes(group):
                groups = getattr(row, name)
                yield f"{name} {i} {what}", replace(row, **{name: (*groups[:i], other, *groups[i + 1 :])})


def group_changes(group: Group) -> Iterator[tuple[str, Group]]:
    yield "weight", replace(group, weight=1.5 * group.weight)
    if group.layers and group.layers != EARLIER:
        yield "layers", replace(group, layers=(3, 4))
    for i, term in enumerate(group.terms):
        for what, other in term_changes(term, alone=len(group.terms) == 1):
            yield f"{term.source} {what}", replace(group, terms=(*group.terms[:i], other, *group.terms[i + 1 :]))


def term_changes(term: Term, alone: bool) -> Iterator[tuple[str, Term]]:
    if not alone:
        yield "weight", replace(term, weight=3 * term.weight)
    if term.source in ("qq", "kk", "vv"):
        yield "source", replace(term, source={"qq": "kk", "kk": "vv", "vv": "qq"}[term.source])
    if term.std:
        yield "std", replace(term, std=term.std / 4)
    if term.unit:
        yield "rounds", replace(term, rounds=term.rounds + 1)
        yield "unit", replace(term, unit=False, rounds=0)
    if term.scale != "default":
        yield "scale", replace(term, scale="default")
    if term.centre:
        yield "centre", replace(term, centre=False)
    if term.align:
        yield "align", replace(term, align="")
    if term.layer:
        yield "layer", replace(term, layer=term.layer - 4)
    if term.floor is not None:
        yield "floor", replace(term, floor=None)
    if term.shift:
        yield "shift", replace(term, shift=3 * term.shift)
    if term.cut:
        yield "cut", replace(term, cut=False)


@pytest.mark.parametrize("method", ALL)
def test_every_setting_of_a_row_changes_its_answer(visual: nn.Module, method: str) -> None:
    row, alike = ALL[method], []
    usual = tokens_of(visual, row)
    for what, other in changes(row):
        got = tokens_of(visual, other)
        if (got - usual).abs().max() < 1e-4:
            alike.append(what)
    assert alike == []
    if not (row.residual or row.mlp) and method != "maskclip-reduced":
        assert len(list(changes(row))) > 2


def test_no_two_methods_give_the_same_answer(visual: nn.Module) -> None:
    answers = {name: tokens_of(visual, row) for name, row in ALL.items() if "guide" not in row.needs}
    same = [
        (one, other)
        for i, one in enumerate(answers)
        for other in list(answers)[i + 1 :]
        if (answers[one] - answers[other]).abs().max() < 1e-4
    ]
    assert same == []


def test_names_of_families_and_variants_are_told_apart_and_misspelt_ones_are_refused() -> None:
    assert sum(len(rows) for rows in FAMILIES.values()) == len(LAST_BLOCKS)
    assert not set(LAST_BLOCKS) & set(VARIANTS)
    assert canonical("SC_CLIP") == "sc-clip" and last_block("sclip_drop") is VARIANTS["sclip-drop"]
    with pytest.raises(UnknownName, match="Did you mean 'segearth'"):
        last_block("segearht")


def test_cell_that_is_linked_to_nothing_keeps_its_own_value(visual: nn.Module) -> None:
    """A guide that is the same everywhere: 1 - 1.2 < 0 for every pair, so each cell sees itself alone."""
    same = torch.ones(2, 9, 6, 10)
    got = tokens_of(visual, LAST_BLOCKS["proxyclip"], guide=same)
    wanted = tokens_of(visual, LAST_BLOCKS["maskclip-reduced"])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_only_rows_without_any_link_are_changed_by_the_guard(visual: nn.Module) -> None:
    """One stray cell in a guide of two halves: with and without it, the others' answers differ by its link alone."""
    guide = torch.zeros(1, 3, 6, 10)
    guide[:, 0, :, :5], guide[:, 1, :, 5:] = 1, 1
    got = tokens_of(visual, LAST_BLOCKS["proxyclip"], PIXELS[:1], guide)
    walk = Vit(visual)
    taps = tower.prefix(walk, PIXELS[:1])
    values = walk.sides(12, walk.norm(12, taps[12][:, 1:]), (6, 10), "v")["v"].transpose(1, 2).flatten(2)
    means = values.clone().unflatten(1, (6, 10))
    for half in (slice(0, 5), slice(5, 10)):
        means[:, :, half] = means[:, :, half].mean(dim=(1, 2), keepdim=True)
    wanted = walk.project(walk.out(12, means.flatten(1, 2))).unflatten(1, (6, 10))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_guide_that_lacks_or_does_not_fit_is_refused(visual: nn.Module) -> None:
    with pytest.raises(BadInput, match="needs a guide, another network's"):
        tower.dense_tokens(visual, PIXELS, "proxyclip")
    with pytest.raises(BadInput, match="one guide for each picture: got 1 for 2"):
        tower.dense_tokens(visual, PIXELS, "proxyclip", guide=GUIDE[:1])
    with pytest.raises(BadInput, match=r"a guide is \(batch, channels, rows, cols\)"):
        tower.dense_tokens(visual, PIXELS, "proxyclip", guide=GUIDE[:, 0])


def test_guided_weights_brought_to_the_values_grid_equal_values_brought_to_the_guides(visual: nn.Module) -> None:
    walk, row = Vit(visual), LAST_BLOCKS["proxyclip"]
    taps = tower.prefix(walk, PIXELS)
    got, grid = run(Sight(walk, taps, (6, 10), {"guide": GUIDE}), row)
    assert grid == (7, 12)
    values = walk.sides(12, walk.norm(12, taps[12][:, 1:]), (6, 10), "v")["v"].transpose(1, 2).flatten(2)
    spread = nn.functional.interpolate(values.mT.unflatten(2, (6, 10)), (7, 12), mode="bilinear").flatten(2).mT
    score = likeness(GUIDE.flatten(2).mT)
    score = 3 * (score - 1.2 * score.mean(dim=(1, 2), keepdim=True))
    weights = score.masked_fill(score < 0, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(got, walk.out(12, weights @ spread), rtol=0, atol=1e-5)


def test_window_whose_matrices_no_machine_holds_is_refused_before_it_runs(visual: nn.Module) -> None:
    walk = Vit(visual)
    taps = {n: torch.zeros(1, 1, 64).expand(1, 1 + 187 * 250, 64) for n in taps_of(LAST_BLOCKS["cliper"], 12)}
    with pytest.raises(BadInput, match="a window of 187x250 patches makes this method hold about .* GB"):
        run(Sight(walk, taps, (187, 250)), LAST_BLOCKS["cliper"])
    assert matrix_bytes(LAST_BLOCKS["maskclip-reduced"], 12, 1, 100_000) == 0
