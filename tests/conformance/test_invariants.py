"""The kit says what is wrong with a walk: one broken on purpose for each claim, and whole ones that pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from ovseg.clip.attention import read
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.walk import Vit
from ovseg.conformance import CHECKS, STAND_INS, Result, bench, failed, invariants, moved, narrow
from ovseg.conformance.plugins import PLUGINS

FEW = ("vanilla", "maskclip-reduced", "naclip", "sc-clip", "proxyclip")


@dataclass(frozen=True, eq=False)
class WithoutBias(Vit):
    def out(self, number: int, mixed: Tensor) -> Tensor:
        return F.linear(mixed, self.tower.transformer.resblocks[number - 1].attn.out_proj.weight)


@dataclass(frozen=True, eq=False)
class Swapped(Vit):
    """Patches and their places, columns first: the image embedding does not notice."""

    def enter(self, pixels: Tensor, positions: str) -> Tensor:
        tokens = super().enter(pixels, positions)
        grid = (pixels.shape[2] // self.patch[0], pixels.shape[3] // self.patch[1])
        return torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, grid).transpose(1, 2).flatten(1, 2)], dim=1)


@dataclass(frozen=True, eq=False)
class OfItsBatch(Vit):
    def enter(self, pixels: Tensor, positions: str) -> Tensor:
        return super().enter(pixels - pixels.mean(dim=0), positions)


@dataclass(frozen=True, eq=False)
class Random(Vit):
    def enter(self, pixels: Tensor, positions: str) -> Tensor:
        return super().enter(pixels + 1e-3 * torch.rand_like(pixels), positions)


@dataclass(frozen=True, eq=False)
class Writing(Vit):
    def project(self, tokens: Tensor) -> Tensor:
        self.tower.ln_post.bias.add_(1e-6)
        return super().project(tokens)


@dataclass(frozen=True, eq=False)
class Hooking(Vit):
    def norm(self, number: int, tokens: Tensor) -> Tensor:
        self.tower.ln_post.register_forward_hook(lambda *_: None)
        return super().norm(number, tokens)


@dataclass(frozen=True, eq=False)
class Square(Vit):
    """Takes the side of the grid as the root of the number of patches."""

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        side = math.isqrt(normed.shape[1] - 1)
        normed[:, 1:].unflatten(1, (side, side))
        return super().sides(number, normed, grid, letters)


@dataclass(frozen=True, eq=False)
class Dividing(Vit):
    """Stretches every picture by its own contrast."""

    def enter(self, pixels: Tensor, positions: str) -> Tensor:
        return super().enter(pixels / (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)).abs().amax(), positions)


@dataclass(frozen=True, eq=False)
class Rotated(Vit):
    """Swaps what the grid's first row and first column say to queries."""

    def sides(self, number: int, normed: Tensor, grid: tuple[int, int], letters: str = "qkv") -> dict[str, Tensor]:
        found = super().sides(number, normed, grid, letters)
        place = torch.arange(normed.shape[1]).to(normed) / normed.shape[1]
        return {key: side * (1 + place[:, None]) if key != "v" else side for key, side in found.items()}


def wrong(walk: Callable[[nn.Module], Vit], methods: tuple[str, ...] = FEW) -> dict[str, set[str]]:
    """Checks that fail, each with the methods they fail for."""
    out: dict[str, set[str]] = {}
    for result in failed(invariants(tiny.model().visual, find=walk, methods=methods)):
        out.setdefault(result.check, set()).add(result.method)
    return out


def sentence(results: list[Result], check: str) -> str:
    return next(result.sentence for result in results if result.check == check)


def test_tower_that_is_walked_rightly_passes_every_check_of_every_method() -> None:
    results = invariants(tiny.model().visual, name="small")
    assert {result.verdict for result in results} == {"ok"}
    assert {result.method for result in results} == {*LAST_BLOCKS, *PLUGINS, "plug-ins"}
    assert {result.check for result in results if result.method in LAST_BLOCKS} == {*CHECKS, "untouched"}
    assert {result.tower for result in results} == {"small"}
    equal = [r.measured for r in results if r.check in ("forward", "tokens", "parts", "batch")]
    assert max(equal) < 1e-9  # in double precision a difference is a mistake


def test_lost_bias_is_found_by_parts() -> None:
    results = failed(invariants(tiny.model().visual, find=WithoutBias, methods=FEW))
    assert {result.check for result in results} >= {"parts", "tokens"}
    assert "a bias, a scale or a norm is lost" in sentence(results, "parts")


def test_bias_of_a_fresh_tower_is_zero_so_that_moved_is_needed_to_find_it() -> None:
    torch.manual_seed(0)
    shape = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 48}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    fresh = tiny.open_clip.CLIP(32, shape, text).visual.eval().requires_grad_(False)
    assert failed(invariants(fresh, find=WithoutBias, methods=("vanilla",))) == []
    assert failed(invariants(moved(fresh), find=WithoutBias, methods=("vanilla",))) != []


def test_swapped_rows_and_columns_are_found_though_the_embedding_is_right() -> None:
    results = invariants(tiny.model().visual, find=Swapped, methods=FEW)
    found = {(result.check, result.verdict) for result in results if result.method == "vanilla"}
    assert {("forward", "ok"), ("place", "failed"), ("tokens", "failed")} <= found
    assert "row 2, column 7 is seen at row 4, column 1" in sentence(failed(results), "place")


def test_method_that_does_nothing_is_a_failure_and_not_a_silent_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers every row with the tower as it is."""
    monkeypatch.setattr(bench, "read", lambda sight, row: read(sight, LAST_BLOCKS["vanilla"]))
    results = invariants(tiny.model().visual, methods=("vanilla", "naclip", "gem", "sc-clip"))
    nothing = {result.method for result in failed(results) if result.check == "distinct"}
    assert nothing == {"naclip", "gem", "sc-clip"}
    assert "refuse it with a sentence instead" in sentence(failed(results), "distinct")


@pytest.mark.parametrize(
    ("walk", "check"),
    [
        (OfItsBatch, "batch"),
        (Random, "again"),
        (Writing, "untouched"),
        (Hooking, "untouched"),
        (Square, "shape"),
        (Dividing, "flat"),
    ],
)
def test_walk_broken_in_one_way_is_found_for_every_method(walk: Callable[[nn.Module], Vit], check: str) -> None:
    assert wrong(walk, ("vanilla", "naclip"))[check] == {"vanilla", "naclip"}


def test_what_a_walk_ends_in_is_said() -> None:
    results = failed(invariants(tiny.model().visual, find=Square, methods=("naclip",)))
    assert "it ends in RuntimeError" in sentence(results, "shape")


def test_places_inside_the_blocks_are_told_apart_and_a_bias_beside_them_is_still_found() -> None:
    results = invariants(tiny.model().visual, find=Rotated, methods=("vanilla", "naclip"))
    turned = [result for result in results if result.check == "transposed"]
    assert {result.verdict for result in turned} == {"not covered"} and "rotation" in turned[0].sentence
    assert "parts" in {result.check for result in failed(results)}


def test_tower_that_cannot_do_a_method_refuses_it_by_a_sentence_and_that_is_no_failure() -> None:
    results = invariants(narrow("convnext_base"), name="convnext", methods=FEW)
    assert failed(results) == []
    refused = {result.method: result.sentence for result in results if result.verdict == "refused"}
    assert set(refused) == set(FEW) - {"vanilla"} and "ends in convolutions" in refused["naclip"]


def test_tower_of_no_family_refuses_everything() -> None:
    results = invariants(nn.Linear(3, 2), methods=FEW)
    assert [(result.method, result.verdict) for result in results] == [(method, "refused") for method in FEW]
    assert "is of no family" in results[0].sentence


def test_tower_is_read_and_never_changed() -> None:
    visual = tiny.model().visual
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    pixels = torch.randn(1, 3, 48, 48)
    answer = visual(pixels)
    invariants(visual, methods=("vanilla", "gem"))
    assert all(torch.equal(value, before[key]) for key, value in visual.state_dict().items())
    assert torch.equal(visual(pixels), answer) and next(visual.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["EVA02-B-16", "ViT-B-16-SigLIP", "RN50"])
def test_networks_of_other_kinds_pass(name: str) -> None:
    results = invariants(narrow(name), name=name, methods=("vanilla", "maskclip-reduced", "clearclip"))
    assert failed(results) == []
    assert {result.method for result in results if result.verdict == "ok"} >= {"vanilla", "clearclip"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAND_INS)
def test_every_method_passes_on_every_kind_of_network(name: str) -> None:
    results = invariants(narrow(name), name=name)
    assert failed(results) == [] and {result.method for result in results} == {*LAST_BLOCKS, *PLUGINS, "plug-ins"}


def test_progress_counts_methods() -> None:
    told: list[tuple[str, int, int]] = []
    invariants(tiny.model().visual, methods=("vanilla", "kk"), progress=lambda *what: told.append(what))
    assert told == [("vanilla", 0, 2), ("kk", 1, 2), ("", 2, 2)]
