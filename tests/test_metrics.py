import math
from typing import Any

import numpy as np
import pytest

from ovseg.errors import BadInput
from ovseg.metrics import PanopticQuality, Tally, confusion, iou, miou, panoptic_quality


def test_counts_and_scores_equal_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 255], (48, 80)), rng.integers(-1, 4, (48, 80))
    counts = confusion(predicted, truth, 5)
    valid = truth != 255
    assert valid.sum() == counts.sum()
    for k in range(5):
        is_k, said_k = valid & (truth == k), valid & (predicted == k)
        union = (is_k | said_k).sum()
        for j in range(5):
            assert (is_k & (predicted == j)).sum() == counts[k, j]
        if union:
            assert (is_k & said_k).sum() / union == pytest.approx(iou(counts)[k])
        else:
            assert math.isnan(iou(counts)[k])
    assert np.nanmean(iou(counts)) == pytest.approx(miou(counts))


def test_matrices_of_pictures_add_up_to_that_of_all_pixels() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, (2, 48, 80)), rng.integers(-1, 3, (2, 48, 80))
    parts = [confusion(one, other, 3) for one, other in zip(predicted, truth, strict=True)]
    assert confusion(predicted, truth, 3).tolist() == sum(parts).tolist()


def test_unlabelled_pixels_count_as_missed() -> None:
    counts = confusion(np.array([-1, -1, 0, 1]), np.array([0, 0, 0, 1]), 2)
    assert [1 / 3, 1] == iou(counts).tolist()
    assert 2 / 3 == pytest.approx(miou(counts))


def test_nothing_to_count_has_no_score() -> None:
    counts = confusion(np.zeros((0, 80), int), np.zeros((0, 80), int), 2)
    assert math.isnan(miou(counts))
    assert math.isnan(miou(confusion(np.array([0]), np.array([255]), 2)))


def test_numbers_that_are_no_class_are_refused() -> None:
    with pytest.raises(BadInput, match=r"truth must hold classes 0..1: got 0..2"):
        confusion(np.array([0, 0]), np.array([0, 2]), 2)
    with pytest.raises(BadInput, match="prediction must hold classes -1..1: got -2..0"):
        confusion(np.array([-2, 0]), np.array([0, 1]), 2)
    with pytest.raises(BadInput, match="of one picture"):
        confusion(np.zeros((48, 80), int), np.zeros((80, 48), int), 2)


STUFF = ("grass", "sky")
Answer = tuple[np.ndarray, list[dict[str, Any]]]


def blocks(rng: np.random.Generator, names: tuple[str, ...], tops: np.ndarray, lefts: np.ndarray) -> Answer:
    """48x80 px in blocks between given lines; a block is void or a segment of its own with a random name and id."""
    number = np.searchsorted(tops, np.arange(48), side="right")[:, None] * (len(lefts) + 1)
    number = number + np.searchsorted(lefts, np.arange(80), side="right")
    ids = np.append(0, rng.choice(np.arange(1, 900), number.max(), replace=False))
    rng.shuffle(ids)
    ids = np.where(rng.random(len(ids)) < 0.15, 0, ids)
    found = [
        {"id": int(one), "name": (name := str(rng.choice(names))), "isthing": name not in STUFF}
        for one in rng.permutation(np.setdiff1d(ids[np.unique(number)], 0))
    ]
    return ids[number], found


def slow(predicted: Answer, truth: Answer) -> dict[str, list[float]]:
    """COCO's rules mask by mask: matches first, then what is left of the truth, then what is left of the answer."""
    tallies: dict[str, list[float]] = {}
    (said, answers), (here, truths) = predicted, truth
    matched_truths, matched_answers = set(), set()
    for one in truths:
        for other in answers:
            if one["name"] != other["name"] or one.get("iscrowd"):
                continue
            mask, answer = here == one["id"], (said == other["id"]) & (here != 0)
            fit = (mask & answer).sum() / (mask | answer).sum()
            if fit > 0.5:
                tally = tallies.setdefault(one["name"], [0, 0, 0, 0])
                tally[0] += fit
                tally[1] += 1
                matched_truths.add(one["id"])
                matched_answers.add(other["id"])
    for one in truths:
        if one["id"] not in matched_truths and not one.get("iscrowd"):
            tallies.setdefault(one["name"], [0, 0, 0, 0])[3] += 1
    for other in answers:
        mask = said == other["id"]
        excused = here == 0
        for one in truths:
            if one.get("iscrowd") and one["name"] == other["name"]:
                excused = excused | (here == one["id"])
        if other["id"] not in matched_answers and (mask & excused).sum() / mask.sum() <= 0.5:
            tallies.setdefault(other["name"], [0, 0, 0, 0])[2] += 1
    return tallies


class TestPanopticQuality:
    def test_equals_the_rules_taken_mask_by_mask(self) -> None:
        rng = np.random.default_rng(3)
        total, expected = PanopticQuality(), {}
        for _ in range(60):
            tops, lefts = np.sort(rng.integers(1, 47, 2)), np.sort(rng.integers(1, 79, 3))
            truth = blocks(rng, ("cat", "dog", "sky"), tops, lefts)
            for one in truth[1]:
                one["iscrowd"] = rng.random() < 0.2
            moved = blocks(rng, ("cat", "sky", "grass"), tops + rng.integers(0, 4), np.sort(lefts + rng.integers(0, 4)))
            total = total + panoptic_quality(moved, truth)
            for name, tally in slow(moved, truth).items():
                expected[name] = np.add(expected.get(name, 0), tally)
        assert sorted(expected) == sorted(total.tallies)
        for name, tally in expected.items():
            np.testing.assert_allclose(total.tallies[name], tally, rtol=1e-12)
        assert min(total.tallies["cat"]) > 0 and min(total.tallies["sky"]) > 0  # every rule was met
        sums = [row[0] / (row[1] + row[2] / 2 + row[3] / 2) for row in expected.values()]
        assert (np.mean(sums), 4) == (pytest.approx(total.all.pq), total.all.classes)

    def test_the_same_picture_is_perfect(self) -> None:
        rng = np.random.default_rng(4)
        truth = blocks(rng, ("cat", "sky"), np.array([9, 30]), np.array([20, 31, 50]))
        assert panoptic_quality(truth, truth).all == (1, 1, 1, 2)

    def test_things_and_stuff_have_means_of_their_own(self) -> None:
        quality = PanopticQuality(
            {"cat": Tally(0.9, 1, 0, 0), "dog": Tally(0, 0, 2, 0), "sky": Tally(1.2, 2, 1, 1)},
            frozenset({"cat", "dog"}),
        )
        assert (0.45, 0.45, 0.5, 2) == pytest.approx(quality.things)
        assert (0.4, 0.6, 2 / 3, 1) == pytest.approx(quality.stuff)
        assert quality.stuff == quality["sky"] == quality.of(["sky", "never seen"])
        assert (1.3 / 3, 1.5 / 3, (1 + 2 / 3) / 3, 3) == pytest.approx(quality.all)
        assert (2.1 / 5, 0.7, 3 / 5, 1) == pytest.approx(quality.pooled)

    def test_half_is_no_match(self) -> None:
        ids = np.repeat([[1, 2]], 40, axis=1)
        cat = {"id": 1, "name": "cat", "isthing": True}
        truth = (np.ones_like(ids), [cat])
        half = (ids, [cat, {**cat, "id": 2}])
        assert panoptic_quality(half, truth)["cat"].pq == 0
        ids[0, 40] = 1
        assert panoptic_quality(half, truth).tallies["cat"] == (41 / 80, 1, 1, 0)

    def test_nothing_anywhere_has_no_score(self) -> None:
        empty = panoptic_quality((np.zeros((48, 80), int), []), (np.zeros((48, 80), int), []))
        assert empty.all.classes == 0 and math.isnan(empty.all.pq) and math.isnan(empty.pooled.pq)
        assert math.isnan((empty + empty)["cat"].sq)

    @pytest.mark.parametrize(
        ("ids", "segments", "said"),
        [
            ([[0, 7]], [], r"prediction must hold the same ids: \[7\] are in one alone"),
            ([[0, 0]], [{"id": 7, "name": "cat", "isthing": True}], "same ids"),
            ([[0, 7]], 2 * [{"id": 7, "name": "cat", "isthing": True}], "must differ and not be 0"),
            ([[0, 7]], [{"id": 7, "name": "cat", "isthing": False}], "'cat' must be a thing or stuff"),
            ([[0], [7]], [{"id": 7, "name": "cat", "isthing": True}], "of one picture"),
        ],
    )
    def test_answers_that_contradict_themselves_are_refused(self, ids: Any, segments: Any, said: str) -> None:
        truth = (np.array([[1, 1]]), [{"id": 1, "name": "cat", "isthing": True}])
        with pytest.raises(BadInput, match=said):
            panoptic_quality((np.array(ids), segments), truth)

    def test_a_name_is_a_thing_in_all_pictures_or_in_none(self) -> None:
        one, other = ({"cat": Tally(0.8, 1, 0, 0)} for _ in range(2))
        with pytest.raises(BadInput, match="a thing in every picture or in none"):
            _ = PanopticQuality(one, frozenset({"cat"})) + PanopticQuality(other)
