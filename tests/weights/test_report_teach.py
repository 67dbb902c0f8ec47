"""The report on teaching: its pairs, its scenes, and its tables on a network that knows nothing."""

import importlib
import re
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("report_teach")


@pytest.fixture
def composer(report: ModuleType) -> Any:
    """Draws sprites of four names where they are told to be."""
    sprites, names = report.held_out(TINY)
    kept = [k for k, name in enumerate(names) if name in {"taco", "car", "bus", "apple"}]
    rng = np.random.default_rng(0)
    bank = report.texture_bank(list(report.GROUND), seed=1, each=1)
    return report.Composer(sprites[kept], [names[k] for k in kept], {}, bank, rng, style=0.0)


def test_pairs_are_the_closest_names_each_taken_once_and_none_includes_the_other(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = np.deg2rad([0, 30, 35, 90, 100, 101])  # the last two are nearer than TOO_CLOSE
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pipe = SimpleNamespace(vocabulary=lambda words, negatives: SimpleNamespace(vectors=rows))
    words = ["a", "b", "c", "d", "e", "f"]
    monkeypatch.setattr(report, "overlaps", lambda: {"a": {"b"}})
    assert report.look_alikes(pipe, words, 9) == [("a", "c"), ("b", "d")]
    assert report.look_alikes(pipe, words, 1) == [("a", "c")]


def test_scenes_show_every_name_often_enough_with_its_own_mask(report: ModuleType, composer: Any) -> None:
    found = report.scenes(composer, np.random.default_rng(1), composer.words, 2)
    seen = Counter(word for _, masks in found for word in masks)
    assert set(seen) == set(composer.words) and min(seen.values()) >= 2
    for picture, masks in found:
        assert picture.shape == (report.SIDE, report.SIDE, 3)
        assert all(mask.shape == picture.shape[:2] and mask.sum() >= report.LEAST for mask in masks.values())
        assert sum(mask.astype(int) for mask in masks.values()).max() <= 1 if masks else True


def test_tables_of_teaching_and_examples_are_printed_and_no_pin_flips(
    report: ModuleType, composer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(name="test", model="tiny", templates="bare", negatives="word", short_side=48)
    pipe = Pipeline(recipe, tiny.clip())
    names = sorted(composer.words)
    report.teach(pipe, composer, np.random.default_rng(2), [(names[0], names[1]), (names[2], names[3])], 1)
    told = capsys.readouterr().out
    numbers = [float(number) for number in re.findall(r"\| (\d+\.\d)", told)]
    assert len(numbers) == 6 and all(0 <= number <= 100 for number in numbers)
    assert "pinned that changed name: 0 of 10" in told
    assert numbers[1] > numbers[0] and numbers[1] > 70  # what was taught is known, even on random vectors
    report.examples(pipe, composer, np.random.default_rng(3), names, 3)
    assert len(re.findall(r"\| (?:words|\d examples?, t \S+) \| \d", capsys.readouterr().out)) == 5
