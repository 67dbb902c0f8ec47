"""Contract of every row of STAGES, and how a recipe's list of stages is read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stage_scenes import layered, rows_of, scene, windowed

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.stages import STAGES, Scene, apply, read, stage

QUICK: dict[str, dict[str, Any]] = {"lposs-plus": {"reach": 1}}


def one(name: str, given: Scene, rows: np.ndarray, **options: Any) -> np.ndarray:
    scores, segments = apply([{name: {**QUICK.get(name, {}), **options}}], given, rows)
    if STAGES[name].votes:
        assert segments is not None and scores is rows
        return segments
    assert segments is None
    return scores


@pytest.mark.parametrize("name", STAGES)
def test_stage_gives_finite_scores_or_segments_and_leaves_its_inputs_alone(name: str) -> None:
    for given, rows in ((layered(), rows_of(scene())), (windowed(layered()), np.ones((5, 40, 50), np.float32))):
        before = rows.copy(), given.picture.copy(), given.features.vectors.copy()
        made = one(name, given, rows)
        assert np.isfinite(made).all()
        if STAGES[name].votes:
            assert made.shape == (48, 80) and made.dtype == np.int32
        else:
            assert len(made) == 5 and made.dtype == np.float32
        for old, new in zip(before, (rows, given.picture, given.features.vectors), strict=True):
            assert np.array_equal(old, new)
        assert np.array_equal(made, one(name, given, rows))


@pytest.mark.parametrize("name", [name for name, row in STAGES.items() if not row.votes])
def test_order_of_rows_does_not_matter(name: str) -> None:
    given = layered()
    rows, order = rows_of(given), np.array([3, 0, 4, 2, 1])
    words = given.vocabulary
    turned = replace(given, vocabulary=replace(words, vectors=words.vectors[order], owner=words.owner[order]))
    np.testing.assert_allclose(one(name, turned, rows[order]), one(name, given, rows)[order], atol=2e-3)


@pytest.mark.parametrize("name", STAGES)
def test_every_option_changes_something(name: str) -> None:
    """Or it would be no option. The affinity holds two things, of 42 and of 18 cells, and some noise."""
    other = {
        "cells": 11, "steps": 2, "neighbours": 5, "alpha": 0.5, "power": 1.0, "decay": 0.1, "tau": 0.1, "reach": 2,
        "short_side": 24, "temperature": 9.0, "eps": 0.3, "least": 25,
        "floor": 0.4, "selected": 0,
    }  # fmt: skip
    left = np.arange(60) % 10 < 7
    noise = 0.045 * np.random.default_rng(0).normal(size=(60, 60))
    given = layered(affinity=((left[:, None] == left[None]) + noise).astype(np.float32))
    usual = one(name, given, rows_of(given))
    for option in STAGES[name].options:
        changed = one(name, given, rows_of(given), **{option: other[option]})
        assert changed.shape != usual.shape or np.abs(changed - usual).max() > 1e-4, option


def test_stages_run_in_the_order_given() -> None:
    given = scene()
    rows = rows_of(given)
    both = apply(["surgery", {"tlp": {"cells": 10}}], given, rows)[0]
    by_hand = one("tlp", given, one("surgery", given, rows), cells=10)
    assert np.array_equal(both, by_hand)
    assert np.abs(both - one("surgery", given, one("tlp", given, rows, cells=10))).max() > 1e-3
    assert apply([], given, rows) == (rows, None)


def test_vote_hands_on_the_proposals() -> None:
    given = scene()
    assert (one("vote", given, rows_of(given)) == -1).all()
    parts = np.zeros((48, 80), np.int32)
    assert one("vote", replace(given, parts=parts), rows_of(given)) is parts


def test_names_go_without_case_and_misspelt_ones_are_told() -> None:
    assert stage("LPOSS_Plus") is STAGES["lposs-plus"]
    assert set(stage("tlp").options) == {"cells", "steps"} and stage("vote").options == {}
    with pytest.raises(UnknownName, match="Did you mean 'lposs'"):
        read(["lpos"])
    with pytest.raises(UnknownName, match="option of stage tlp must be one of cells, steps: got 'step'"):
        read([{"tlp": {"step": 3}}])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("tlp", "a list of names"),
        ({"tlp": {}}, "a list of names"),
        ([{"tlp": {}, "lposs": {}}], "a stage is a name, or one"),
        ([{"tlp": 3}], "a stage is a name, or one"),
        ([3], "a stage is a name, or one"),
        ([{"tlp": {"steps": 2.5}}], "steps of stage tlp is int: got 2.5"),
        ([{"lposs": {"alpha": "much"}}], "alpha of stage lposs is float: got 'much'"),
        ([{"tlp": {"steps": True}}], "got True"),
        (["vote", "cliptrase"], "labels vote once: of cliptrase, vote name at most one"),
    ],
)
def test_lists_that_are_none_are_refused(asked: Any, sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        read(asked)


def test_whole_numbers_do_for_numbers() -> None:
    (_, options), *_ = read([{"surgery": {"temperature": 3}}])
    assert options == {"temperature": 3.0} and isinstance(options["temperature"], float)


def test_a_stage_says_what_it_lacks_of_the_image_side() -> None:
    with pytest.raises(BadInput, match="stage cliper needs layers and attention of the image side"):
        one("cliper", scene(), rows_of(scene()))


def test_scene_is_of_one_picture() -> None:
    with pytest.raises(BadInput, match="80x48 and 48x80"):
        replace(scene(), picture=np.zeros((80, 48, 3), np.uint8))
