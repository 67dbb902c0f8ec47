"""The measure against sums done one place at a time, and its bounds, invariants and bands."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from ovseg import evidence as bands
from ovseg.divergence import answers_of, divergence, furthest, parted, together
from ovseg.evidence import Evidence
from tests.tiny import picture

OWNER = np.array([0, 0, 1, 2, -1, -1])  # three names, the first with a synonym; two negatives


def posteriors(count: int, answers: int = 4, seed: int = 0) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed).dirichlet([0.3] * answers, (count, 6, 10))
    return list(np.moveaxis(drawn, -1, 1).astype(np.float32))


def evidence(seed: int = 0, **changes: Any) -> Evidence:
    rows = np.random.default_rng(seed).normal(0, 3, (6, 6, 10)).astype(np.float32)
    fields: dict[str, Any] = {"owner": OWNER, "rows": rows, "thresholds": np.full(3, 0.4, np.float32)}
    return Evidence(48, 80, **{**fields, **changes})


@pytest.mark.parametrize("count", [2, 3, 7])
def test_divergence_is_entropy_of_the_mean_less_mean_entropy(count: int) -> None:
    several = posteriors(count)
    wanted = np.empty((6, 10))
    for row, col in np.ndindex(6, 10):
        here = [one[:, row, col].astype(float) for one in several]
        wanted[row, col] = entropy(np.mean(here, axis=0)) - np.mean([entropy(one) for one in here])
    np.testing.assert_allclose(divergence(several), wanted / furthest(count, 4), atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7])
def test_equal_answers_have_exactly_none(count: int) -> None:
    (one,) = posteriors(1)
    assert not divergence([one] * count).any()
    assert not parted([np.array([[0, 2, -1]])] * count, 3).any()


def test_certain_answers_as_different_as_can_be_have_one() -> None:
    """Of five recipes and three answers at most two, two and one can differ; of four answers two, one, one, one."""
    for count, answers in ((2, 4), (3, 3), (5, 3), (5, 4), (4, 2)):
        labels = [np.array([number % answers]) for number in range(count)]
        sure = [np.eye(answers, dtype=np.float32)[:, label] for label in labels]
        assert divergence(sure)[0] == pytest.approx(1)
        assert parted([label - 1 for label in labels], answers - 1)[0] == pytest.approx(1)
        splits = [np.array(split) / count for split in np.ndindex(*[count + 1] * answers) if sum(split) == count]
        assert max(entropy(split) for split in splits) == pytest.approx(furthest(count, answers))


def test_one_answer_alone_and_one_that_is_all_there_is_cannot_part() -> None:
    assert not divergence(posteriors(1)).any() and not divergence([np.ones((1, 6, 10), np.float32)] * 2).any()
    assert not parted([np.array([-1, -1])] * 2, 0).any()


def test_order_of_recipes_and_of_names_changes_nothing() -> None:
    several = posteriors(3)
    wanted = divergence(several)
    np.testing.assert_allclose(divergence([several[number] for number in (2, 0, 1)]), wanted, atol=1e-7)
    np.testing.assert_allclose(divergence([one[[1, 3, 0, 2]] for one in several]), wanted, atol=1e-7)
    labels = [one.argmax(axis=0) - 1 for one in several]
    np.testing.assert_allclose(parted(labels[::-1], 3), parted(labels, 3), atol=1e-7)
    other = np.array([2, 0, 1, -1])  # the last serves -1
    np.testing.assert_allclose(parted([other[one] for one in labels], 3), parted(labels, 3), atol=1e-7)


def test_labels_part_as_the_posteriors_of_certain_recipes_do() -> None:
    labels = [one.argmax(axis=0) - 1 for one in posteriors(3)]
    sure = [np.stack([(label == k).astype(np.float32) for k in (0, 1, 2, -1)]) for label in labels]
    np.testing.assert_allclose(parted(labels, 3), divergence(sure), atol=1e-6)
    assert len(np.unique(parted(labels, 3).round(4))) == 3  # all alike, two to one, all apart


def test_both_being_unsure_alike_is_no_disagreement_and_drifting_apart_is_more_and_more() -> None:
    flat = np.full((3, 1), 1 / 3, np.float32)
    assert not divergence([flat, flat]).any()
    start, end = np.array([[0.8], [0.2]], np.float32), np.array([[0.1], [0.9]], np.float32)
    steps = [
        float(divergence([start, (1 - share) * start + share * end])[0]) for share in np.linspace(0, 1, 6, dtype="f")
    ]
    assert steps[0] == 0 and (np.diff(steps) > 0).all()


def test_negatives_are_one_answer_and_answers_sum_to_one() -> None:
    slots = np.array([[0.2, 0.0], [0.3, 0.0], [0.1, 0.0], [0.4, 0.0]], np.float32)
    found = answers_of(slots, 2)
    np.testing.assert_allclose(found, [[0.2, 0], [0.3, 0], [0.5, 1]], atol=1e-6)
    synonyms = evidence(probability="rows")  # what a lesser synonym holds is in no slot
    assert synonyms.dense(synonyms.bands[0]).sum(axis=0).min() < 0.99
    for probability in ("rows", "names"):
        (_, (made,)) = next(together([evidence(probability=probability)]))
        np.testing.assert_allclose(made.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("rows_in_band", [1, 7, 48])
def test_bands_of_different_heights_meet(monkeypatch: pytest.MonkeyPatch, rows_in_band: int) -> None:
    """The second recipe asks fewer rows, so its bands are higher; the third refines, in bands of another bound."""
    fewer = evidence(1, owner=np.array([0, 1, 2]), rows=evidence(1).rows[:3])
    several = [evidence(), fewer, evidence(2, picture=picture(48, 80), refine="pamr", refine_steps=2)]
    wanted = [np.concatenate([answers_of(slots, 3) for _, slots in one.tiles()], axis=1) for one in several]
    monkeypatch.setattr(bands, "BAND_BYTES", 4 * 6 * 80 * rows_in_band)
    monkeypatch.setattr(bands, "REFINED_BYTES", 4 * 6 * 80 * 20)
    met = list(together(several))
    assert [band.start for band, _ in met[1:]] == [band.stop for band, _ in met[:-1]] and met[-1][0].stop == 48
    assert len({len(one.bands) for one in several}) == (3 if rows_in_band < 48 else 2)
    for number, whole in enumerate(wanted):
        np.testing.assert_allclose(np.concatenate([made[number] for _, made in met], axis=1), whole, atol=1e-6)


def test_pixels_that_nobody_speaks_for_are_none_of_the_names() -> None:
    (_, (made,)) = next(together([evidence(uncovered="none")]))
    assert (made[3] == 1).all() and not made[:3].any()
    assert math.isclose(float(divergence([made, made]).max()), 0)
