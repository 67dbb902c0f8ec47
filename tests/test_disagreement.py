"""What several answers to one question part in, and the review that follows: on plans whose answer is seen by eye."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovseg.disagreement import DRAWINGS, MEASURES, Chances, Disagreement, chance, disagree, fitted
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import Segmentation
from tests.results import segmentation

NAMES = ["cat", "dog"]
PLAN = ["aaa..", "aaa.b", ".....", "....."]
OTHER = ["aaa..", "bbb.b", ".....", "bb..."]  # half of the cat is a dog's; another dog below


def asked(plan: list[str], names: list[str] = NAMES, sure: float | int = 1) -> Segmentation:
    """A plan as a recipe that is that sure of it answers it, on 48 x 80 px."""
    found = segmentation(plan, names, scale=1)
    assert found.evidence is not None
    rows = (found.evidence.rows * np.float32(sure)).repeat(12, axis=1).repeat(16, axis=2)
    changed = replace(found.evidence, height=48, width=80, rows=rows)
    return Segmentation.decide(found.names, changed, found.recipe)


def stored(found: Segmentation) -> Segmentation:
    return replace(found, evidence=None)


def test_values_are_one_where_certain_recipes_part_and_none_elsewhere() -> None:
    found = disagree([asked(PLAN), asked(OTHER)])
    differ = np.zeros((48, 80), bool)
    differ[12:24, :48], differ[36:, :32] = True, True
    assert np.array_equal(differ, found.contested)
    np.testing.assert_allclose(found.values, differ, atol=1e-3)
    assert (found.measure, found.recipes) == ("posteriors", 2)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_recipes_do_not_disagree_and_ask_for_nothing(measure: str) -> None:
    found = disagree([asked(PLAN)] * 3, measure=measure)
    assert not found.values.any() and not found.contested.any() and not len(found.missing)
    effort = found.effort()
    assert 0 == effort["contested_share"] and effort["touches"] < 0.01 and effort["changed_share"] < 0.01


def test_results_from_files_are_held_against_each_other_by_their_labels() -> None:
    whole = disagree([asked(PLAN), asked(OTHER)])
    found = disagree([stored(asked(PLAN)), asked(OTHER)])
    assert found.measure == "labels"
    np.testing.assert_allclose(found.values, whole.values, atol=1e-3)
    np.testing.assert_allclose(found.doubt, whole.doubt, atol=1e-3)
    assert found.effort()["touches"] == pytest.approx(whole.effort()["touches"], abs=0.01)
    with pytest.raises(BadUsage, match="posteriors are gone"):
        disagree([stored(asked(PLAN)), asked(OTHER)], measure="posteriors")


def test_another_threshold_parts_labels_and_no_posterior() -> None:
    unsure = asked(PLAN, sure=0.06)
    strict = unsure.with_threshold(0.95)
    assert (unsure.labels >= 0).any() and not (strict.labels >= 0).any()
    found = disagree([unsure, strict])
    assert not found.values.any() and np.array_equal(unsure.labels >= 0, found.contested)
    assert disagree([unsure, strict], measure="labels").values[found.contested] == pytest.approx(1)


def test_order_of_the_others_and_names_of_the_question_change_nothing() -> None:
    third = ["aa...", "bba.b", "..b..", "bb..a"]
    several = [asked(plan) for plan in (PLAN, OTHER, third)]
    found = disagree(several)
    turned = disagree([several[0], several[2], several[1]])
    np.testing.assert_allclose(turned.values, found.values, atol=1e-6)
    assert np.array_equal(turned.contested, found.contested) and turned.missing.rles == found.missing.rles
    np.testing.assert_allclose(turned.effort()["touches"], found.effort()["touches"], atol=1e-5)
    back = disagree(several[::-1])
    np.testing.assert_allclose(back.values, found.values, atol=1e-6)
    assert np.array_equal(back.contested, found.contested)
    swap = str.maketrans("ab", "ba")
    named = disagree([asked([row.translate(swap) for row in plan], NAMES[::-1]) for plan in (PLAN, OTHER, third)])
    np.testing.assert_allclose(named.values, found.values, atol=1e-6)
    np.testing.assert_allclose(named.effort()["touches"], found.effort()["touches"], atol=1e-4)


def test_regions_come_by_the_share_of_them_that_is_contested() -> None:
    plan = ["a..bb", "a..bb", ".....", "bbb.."]
    found = disagree([asked(plan), asked(["a..ab", "b..aa", ".....", "bbb.."])])
    regions = [
        (found.first.names[k], share) for k, share in zip(found.first.region_labels, found.region_shares, strict=True)
    ]
    assert [("cat", 0.5), ("dog", 0.75), ("dog", 0)] == regions
    assert [1, 0, 2] == found.ranking.tolist()
    assert (np.diff(found.touches[found.ranking]) < 0).all()
    rows = found.to_dict()["review"]
    assert [0.75, 0.5, 0.0] == [row["contested_share"] for row in rows]
    written = found.first.to_dict()["regions"]  # "region" is the place in that list, which is by area here
    assert [0, 2, 1] == [row["region"] for row in rows]
    assert [768, 384, 576] == [written[row["region"]]["area"] for row in rows]


def test_what_others_name_where_the_first_is_silent_is_missing() -> None:
    found = disagree([asked(PLAN), asked(OTHER)])
    ((left, top, right, bottom),) = found.missing.boxes.tolist()
    assert (0, 36, 32, 48) == (left, top, right, bottom) and found.missing_labels.tolist() == [1]
    (row,) = found.to_dict()["missing"]
    assert ("dog", 384) == (row["name"], row["area"]) and 0.5 < row["touch"] <= 1
    most = disagree([asked(PLAN), asked(OTHER), asked(["aaa..", "aaa.b", ".....", "aa..."]), asked(OTHER)])
    assert most.missing_labels.tolist() == [1]  # two dogs, one cat
    tie = disagree([asked(PLAN), asked(OTHER), asked(["aaa..", "aaa.b", ".....", "aa..."])])
    assert tie.missing_labels.tolist() == [0]
    assert not len(disagree([asked(OTHER), asked(PLAN)]).missing)  # the first says all that the other does


def test_a_wider_border_of_the_same_name_is_not_missing() -> None:
    wider = ["aaaa.", "aaa.b", "a....", "....."]
    found = disagree([asked(PLAN), asked(wider)])
    assert found.contested[30, 5] and found.contested[5, 50] and not len(found.missing)
    other_name = disagree([asked(PLAN), asked(["aaa..", "aaa.b", "b....", "....."])])
    assert other_name.missing_labels.tolist() == [1]


def test_specks_that_others_name_are_not_missing() -> None:
    specked = asked(PLAN)
    labels = specked.labels.copy()
    labels[40:42, 60:63] = 0  # 6 px of 3840: below 0.2 %
    found = disagree([specked, replace(specked, labels=labels)], measure="labels")
    assert found.contested.sum() == 6 and not len(found.missing)
    labels[40:43, 60:63] = 0
    assert len(disagree([specked, replace(specked, labels=labels)], measure="labels").missing) == 1


def test_more_disagreement_is_more_effort() -> None:
    """The other recipe goes over from the first one's answer to another, step by step."""
    first = asked(PLAN)
    efforts = []
    assert first.evidence is not None
    for share in np.linspace(0, 1, 6, dtype=np.float32):
        rows = first.evidence.rows.copy()
        rows[:, :12] = rows[:, :12] * (1 - share) + rows[::-1, :12] * share
        other = Segmentation.decide(NAMES, replace(first.evidence, rows=rows), first.recipe)
        efforts.append(disagree([first, other]).effort())
    for key in ("touches", "changed_share"):
        values = [effort[key] for effort in efforts]
        assert values[0] is not None and values[0] < 0.01 and (np.diff(np.array(values, float)) > 0).all(), key


def test_doubt_is_what_the_mean_posterior_leaves_open() -> None:
    first, other = asked(PLAN, sure=0.1), asked(OTHER, sure=0.2)
    found = disagree([first, other])
    slots = [np.concatenate([made for _, made in one.evidence.tiles()], axis=1) for one in (first, other)]
    mean = (slots[0].astype(float) + slots[1]) / 2
    for row, col in ((5, 5), (20, 10), (40, 10), (45, 70)):
        label = first.labels[row, col]
        wanted = 1 - mean[label, row, col] if label >= 0 else mean[:2, row, col].max()
        assert found.doubt[row, col] == pytest.approx(wanted, abs=1e-5)


def test_touches_take_the_time_that_you_say() -> None:
    found = disagree([asked(PLAN), asked(OTHER)])
    assert found.effort()["seconds"] is None
    effort = found.effort(12)
    assert effort["seconds"] == pytest.approx(12 * effort["touches"])
    assert effort["contested_share"] == pytest.approx((12 * 48 + 12 * 32) / 3840)
    with pytest.raises(BadUsage, match="0 seconds or more: got -1"):
        found.effort(-1)


def test_chances_add_up_two_causes_of_which_none_lowers() -> None:
    values, doubt = np.float32([0, 0.2, 0.2, 1]), np.float32([0, 0, 0.5, 1])
    np.testing.assert_allclose(chance((2.0, 3.0), values, doubt), 1 - np.exp([0, -0.4, -1.9, -5]), rtol=1e-5)
    with pytest.raises(BadUsage, match="0 or more"):
        Chances((1.0, -0.1), (1.0, 1.0), (1.0, 1.0))


def test_weights_come_back_from_errors_that_they_made() -> None:
    rng = np.random.default_rng(4)
    values, doubt = rng.random(40_000), rng.random(40_000)
    wrong = rng.random(40_000) < 1 - np.exp(-(0.5 * values + 2.0 * doubt))
    np.testing.assert_allclose(fitted(values, doubt, wrong), (0.5, 2.0), atol=0.08)
    unrelated = rng.random(40_000) < 1 - np.exp(-2.0 * doubt)
    assert fitted(values, doubt, unrelated)[0] < 0.06
    assert fitted(values, doubt, np.zeros(40_000, bool)) == pytest.approx((0, 0), abs=1e-3)
    with pytest.raises(BadUsage, match="nothing came"):
        fitted(values[:0], doubt[:0], wrong[:0])


def test_other_chances_give_other_efforts() -> None:
    several = [asked(PLAN), asked(OTHER)]
    never = Chances((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    assert disagree(several, chances=never).effort()["touches"] == 0
    assert disagree(several).chances == DRAWINGS


def test_one_name_and_no_region_at_all_have_an_answer() -> None:
    empty = ["....."] * 4
    found = disagree([asked(empty, ["cat"]), asked(empty, ["cat"])])
    assert not found.values.any() and found.ranking.shape == found.touches.shape == (0,)
    assert found.to_dict()["review"] == found.to_dict()["missing"] == [] and found.effort()["touches"] == 0
    found = disagree([asked(["a...."] * 4, ["cat"]), asked(empty, ["cat"])])
    assert found.values[:, :16] == pytest.approx(1) and not found.values[:, 17:].round(3).any()
    assert "2 recipes, 48x80: 20.0% contested" in repr(found)


def test_questions_and_pictures_that_differ_are_refused() -> None:
    with pytest.raises(BadUsage, match="two answers or more: got 1; ask another recipe"):
        disagree([asked(PLAN)])
    with pytest.raises(BadUsage, match="same names in the same order, got cat, dog and dog, cat"):
        disagree([asked(PLAN), asked(PLAN, NAMES[::-1])])
    with pytest.raises(BadInput, match="of 48x80 px and 4x5 px"):
        disagree([asked(PLAN), segmentation(PLAN, NAMES)])
    with pytest.raises(UnknownName, match="measure must be one of labels, posteriors"):
        disagree([asked(PLAN), asked(OTHER)], measure="votes")
    found = disagree([asked(PLAN), asked(OTHER)])
    with pytest.raises(BadInput, match="of one picture"):
        replace(found, first=segmentation(PLAN, NAMES))


def test_nothing_that_came_is_changed() -> None:
    several = [asked(PLAN), asked(OTHER)]
    before = [(one.labels.copy(), one.confidence.copy()) for one in several]
    found = disagree(several)
    assert isinstance(found, Disagreement) and found.labels is several[0].labels
    for one, (labels, confidence) in zip(several, before, strict=True):
        assert np.array_equal(labels, one.labels) and np.array_equal(confidence, one.confidence)


def tell_peak() -> None:
    """Print by how much comparing three recipes of a large picture raises the peak of this process."""
    from tests.results import NoRecipe
    from tests.test_memory import evidence, resident

    first = evidence(20, 30, with_parts=False, refined=False)
    rng = np.random.default_rng(3)
    several = [first] + [
        replace(first, rows=first.rows + rng.normal(0, 2, first.rows.shape).astype(np.float32)) for _ in range(2)
    ]
    found = [Segmentation.decide([str(name) for name in range(20)], one, NoRecipe()) for one in several]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    effort = disagree(found).effort()
    print(resident("VmHWM") - before, effort["contested_share"], effort["touches"])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to tell a peak")
def test_three_recipes_of_twelve_megapixels_are_compared_in_bounded_memory() -> None:
    """Posteriors of 20 names on all pixels are 1 GB a recipe."""
    code = "from tests.test_disagreement import tell_peak; tell_peak()"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    peak, contested, touches = (float(number) for number in done.stdout.split())
    assert 0.1 < contested < 1 and touches > 10
    assert peak < 1e9
