"""The program that orders the methods on the bundled model: its features, its sums and its intervals."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tiny
from ovseg.clip import dense
from ovseg.clip.guides import load_guide
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.pipeline import Pipeline

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"


@pytest.fixture(scope="module")
def order() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("order")


@pytest.fixture(scope="module")
def report() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("report")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline.open("tiny", cache=None, proposer="none", proposer_options={})


def test_shared_taps_give_every_method_what_the_pipeline_gives_it(order: ModuleType, pipe: Pipeline) -> None:
    pictures = [tiny.picture(48, 80, seed) for seed in (1, 2)]
    rows = {name: LAST_BLOCKS[name] for name in ("vanilla", "segearth", "sc-clip", "gem", "proxyclip")}
    found = order.cells(pipe.clip, pictures, rows, pipe.recipe)
    guide = load_guide("self", clip=pipe.clip)
    for name in rows:
        guided = {"guide": "self"} if "guide" in rows[name].needs else {}
        reading = pipe.recipe.replace(method=name, **guided).reading
        wanted = dense.encode(pipe.clip, pictures, reading, guide=guide)
        np.testing.assert_allclose(found[name], [features.vectors for features in wanted], rtol=0, atol=1e-5)


def test_numbers_are_those_of_the_report(order: ModuleType, report: ModuleType, pipe: Pipeline) -> None:
    """The same compositions, asked through `Pipeline` picture by picture."""
    scenes = order.compositions(3, 4, 0.0)
    words = sorted({name for _, _, names, _ in scenes for name in names})
    rows = {"maskclip-reduced": LAST_BLOCKS["maskclip-reduced"]}
    (features,) = order.cells(pipe.clip, [picture for picture, *_ in scenes], rows, pipe.recipe).values()
    got = order.tally(pipe, scenes, features, words).numbers(np.ones((1, 3), np.int64))[:, 0]
    right, present, crowded, _ = report.measure(pipe, scenes)
    np.testing.assert_allclose(got, [100 * right, 100 * present, 100 * crowded], atol=0.05)


def test_mean_iou_is_over_the_words_that_occur_and_counts_each_composition_as_often_as_it_is_drawn(
    order: ModuleType,
) -> None:
    truth = [np.array([[0, 0, -1, 1]]), np.array([[0, 0, 0, 0]])]
    found = [np.array([[0, -1, 0, 1]], np.int16), np.array([[0, 0, 0, 2]], np.int16)]  # 2 is an absent name
    counts = order.count([(["ant", "bee"], found[0], truth[0]), (["bee"], found[1], truth[1])], ["ant", "bee", "cow"])
    times = np.array([[1, 1], [1, 0], [0, 1], [2, 1]])
    wanted = [(1 / 3 + 4 / 5) / 2, (1 / 3 + 1) / 2, 3 / 4, (1 / 3 + 5 / 6) / 2]
    np.testing.assert_allclose(counts.miou(times), wanted)


def test_resamples_begin_with_all_compositions_once_and_keep_their_number(order: ModuleType) -> None:
    times = order.resamples(7, 3)
    assert times.shape == (1 + order.RESAMPLES, 7) and (times[0] == 1).all() and (times.sum(axis=1) == 7).all()
    assert (times[1:].max(axis=1) > 1).any() and (times == order.resamples(7, 3)).all()


def test_table_begins_with_the_best_and_pairs_the_others_with_it(order: ModuleType) -> None:
    noise = 5 * np.random.default_rng(0).standard_normal((2, 3, 101))
    lines = order.table({"worse": 40 + noise, "twin": 50 + noise, "best": 50.5 + noise})
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| best", "| twin", "| worse"]
    assert [line.split(" | ")[3] for line in lines[2:]] == ["-", "0.5 [0.5, 0.5]", "10.5 [10.5, 10.5]"]
    low, high = lines[2].split(" | ")[1].split("[")[1].rstrip("]").split(", ")
    assert float(high) - float(low) > 5


def test_halves_of_the_held_out_names_share_none_and_leave_none_out(order: ModuleType, report: ModuleType) -> None:
    sprites, names = report.held_out(TINY)
    halves = {part: report.part_of(sprites, names, part) for part in report.PARTS[1:]}
    ours, theirs = (set(found) for _, found in halves.values())
    assert not ours & theirs and ours | theirs == set(names) and abs(len(ours) - len(theirs)) <= 1
    assert all(len(some) == len(found) for some, found in halves.values())
    scenes: list[Any] = order.compositions(2, 5, 0.0, "confirmation")
    assert all({*present, *absent} <= theirs for _, _, present, absent in scenes)
