import math

import numpy as np
import pytest

from ovseg.errors import BadInput
from ovseg.metrics import confusion, iou, miou


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
