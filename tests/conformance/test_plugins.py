"""Methods that are no row, on every tower: refused by a sentence or right, and what is wrong with one is said."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tiny
from ovseg.clip.families import find
from ovseg.clip.walk import Walk
from ovseg.conformance import Result, narrow, plugins
from ovseg.conformance.bench import Bench
from ovseg.errors import BadInput, UnsupportedTower


def bench(tower: torch.nn.Module) -> Bench:
    exact = copy.deepcopy(tower).double()
    return Bench(tower, find(tower), exact, find(exact), {})


def checked(tower: torch.nn.Module) -> list[Result]:
    with torch.no_grad():
        return plugins.plugins(bench(tower), "small")


def test_every_plugin_passes_on_a_standard_tower() -> None:
    results = checked(tiny.model(layers=4).visual)
    assert {result.verdict for result in results} == {"ok"}
    assert {result.method for result in results} == set(plugins.PLUGINS)
    assert {result.check for result in results} == {"able", "batch", "flat", "again"}


def test_tower_without_attention_is_refused_by_all_in_a_sentence() -> None:
    results = checked(narrow("convnext_base"))
    assert [(r.method, r.verdict) for r in results] == [(name, "refused") for name in plugins.PLUGINS]
    assert all(len(result.sentence) > 40 for result in results)


def silent(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    return walk.project(walk.enter(pixels, "bicubic"))


def together(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    return silent(walk, pixels - pixels.mean(dim=0), guide)


def stretched(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    return silent(walk, pixels, guide) / (pixels - pixels[..., :1, :1]).abs().max()


def random(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    return silent(walk, pixels, guide) + 1e-9 * torch.rand(1)


def broken(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    raise RuntimeError("sizes do not fit")


def useless(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    raise BadInput("no picture at all")


@pytest.mark.parametrize(
    ("run", "check", "said"),
    [
        (silent, "able", "no attention is left to change"),
        (together, "batch", "pictures look at each other"),
        (stretched, "flat", "numbers are not finite"),
        (random, "again", "other bits"),
        (broken, "walk", "ends in RuntimeError instead of a sentence: sizes do not fit"),
        (useless, "walk", "ends in BadInput instead of a sentence"),
    ],
)
def test_plugin_that_is_wrong_in_one_way_is_found(
    run: Callable[..., Tensor], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "PLUGINS", {"new": plugins.Plugin(run)})
    found = {result.check: result for result in checked(narrow("convnext_base")) if result.verdict == "failed"}
    assert said in found[check].sentence


def test_plugin_that_refuses_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
        raise UnsupportedTower("it has no wheels")

    monkeypatch.setattr(plugins, "PLUGINS", {"new": plugins.Plugin(refusing)})
    (result,) = checked(tiny.model().visual)
    assert (result.verdict, result.sentence) == ("refused", "it has no wheels")
