"""The steps from posteriors to an answer, each against the papers' arithmetic done by hand on whole arrays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ovseg import evidence as bands
from ovseg import head
from ovseg.evidence import Evidence
from ovseg.head import MARGIN, REASONS, THRESHOLD, answer, close, pixels, unknown, vote
from ovseg.presence import Presence
from ovseg.types import Segmentation
from tests.results import NoRecipe
from tests.tiny import picture

OWNER = np.array([0, 0, 1, 2, -1])  # three names, five rows: two of the first name, one negative


def evidence(seed: int = 0, **changes: Any) -> Evidence:
    rows = np.random.default_rng(seed).normal(0, 3, (5, 6, 10)).astype(np.float32)
    rows[3, :, 3:] -= 4  # the third name is small
    fields: dict[str, Any] = {"owner": OWNER, "rows": rows, "thresholds": np.full(3, 0.4, np.float32)}
    return Evidence(48, 80, **{**fields, **changes})


def parts() -> dict[str, Any]:
    owners = np.full((48, 80), -1, np.int32)
    owners[:20, :30], owners[10:30, 25:50], owners[30:40, 60:70] = 0, 1, 2
    part_rows = np.array([[9, 0, 0, 0, 0], [0, 0, 1, 9, 0], [0, 0, 0, 0, 9]], np.float32)
    return {"parts": owners, "part_rows": part_rows}


def posteriors(given: Evidence) -> np.ndarray:
    return np.concatenate([slots for _, slots in given.tiles()], axis=1)


def published(slots: np.ndarray, share: float, threshold: float) -> np.ndarray:
    """The papers' rule with class 0 as background: area, arg-max, threshold; classes minus one."""
    classes = np.concatenate([slots[3:].max(axis=0, keepdims=True), slots[:3]])
    won = classes.argmax(axis=0)
    pixels = np.array([(won == label).sum() for label in (1, 2, 3)])
    classes[1:] *= (pixels > share * pixels.sum())[:, None, None]
    labels = classes.argmax(axis=0)
    labels[classes.max(axis=0) < threshold] = 0
    return labels - 1


@pytest.mark.parametrize("probability", ["names", "rows"])
@pytest.mark.parametrize(("share", "threshold"), [(0.2, 0.0), (0.2, 0.5), (0.5, 0.3), (1.0, 0.0)])
def test_names_of_little_area_give_way_as_in_the_papers(share: float, threshold: float, probability: str) -> None:
    given = evidence(area=share, thresholds=np.full(3, threshold, np.float32), probability=probability)
    bare = answer(evidence(thresholds=given.thresholds, probability=probability))
    found = answer(given)
    assert published(posteriors(given), share, threshold).tolist() == found.labels.tolist()
    assert (bare.labels != found.labels).any()
    assert 2 not in found.labels and not found.scores[:, 2].any()


def test_area_is_of_the_named_pixels_and_counted_before_any_threshold() -> None:
    """Half the picture is a negative's; the second name has 30 of the 120 named columns' pixels."""
    rows = np.zeros((3, 1, 240), np.float32)
    rows[2, :, :120], rows[0, :, 120:210], rows[1, :, 210:] = 9, 9, 1
    fields: dict[str, Any] = {"owner": np.array([0, 1, -1]), "rows": rows}
    for share, labels in ((0.2, {-1, 0, 1}), (0.25, {-1, 0})):
        given = Evidence(1, 240, thresholds=np.zeros(2, np.float32), area=share, **fields)
        assert labels == set(answer(given).labels.ravel().tolist())
    strict = Evidence(1, 240, thresholds=np.array([1.0, 0.5], np.float32), area=0.25, **fields)
    assert {-1} == set(answer(strict).labels.ravel().tolist())  # the first name's pixels still count


def slow_vote(labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
    voted = labels.copy()
    for segment in set(segments[segments >= 0].tolist()):
        ballots = sorted(labels[segments == segment].tolist())
        voted[segments == segment] = max(sorted(set(ballots)), key=ballots.count)
    return voted


def test_every_segment_takes_its_most_frequent_label() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        labels = rng.integers(-1, 3, (9, 13)).astype(np.int16)
        segments = rng.integers(-1, 12, (9, 13)).astype(np.int32)
        assert slow_vote(labels, segments).tolist() == vote(labels, segments).tolist()
    none = np.full((9, 13), -1, np.int32)
    assert labels.tolist() == vote(labels, none).tolist()


def slow_close(labels: np.ndarray, side: int) -> np.ndarray:
    """Largest of a square, then smallest of a square, pixel by pixel, within the picture."""

    def over(values: np.ndarray, choose: Any) -> np.ndarray:
        out, half = values.copy(), side // 2
        for row in range(values.shape[0]):
            for col in range(values.shape[1]):
                near = values[max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
                out[row, col] = choose(near)
        return out

    return over(over(labels, np.max), np.min)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_closing_is_dilation_and_then_erosion_of_the_label_numbers(side: int) -> None:
    labels = np.random.default_rng(4).integers(-1, 300, (9, 13)).astype(np.int16)
    labels[3:6] = -1
    assert slow_close(labels, side).tolist() == close(labels, side).tolist()


@pytest.mark.parametrize("changes", [{}, {"area": 0.2}, parts(), {**parts(), "uncovered": "none"}])
def test_vote_and_closing_come_last_and_confidence_is_of_the_final_label(changes: dict[str, Any]) -> None:
    rows, cols = np.mgrid[:48, :80]
    segments = np.where(cols < 70, rows // 10 * 20 + cols // 7, -1).astype(np.int32)
    given = evidence(vote=segments, closing=3, **changes)
    alone, found = answer(evidence(**changes)), answer(given)
    expected = slow_close(slow_vote(alone.labels, segments), 3)
    assert expected.tolist() == found.labels.tolist() and (alone.labels != expected).mean() > 0.02
    slots = posteriors(given)[:3]
    slots[2] *= given.area == 0 or 2 in alone.labels
    of_label = np.take_along_axis(slots, found.labels[None].clip(0), 0)[0]
    np.testing.assert_allclose(np.where(found.labels < 0, slots.max(axis=0), of_label), found.confidence, atol=1e-6)
    for region, label in enumerate(found.region_labels):
        inside = found.owners == region
        assert {int(label)} == set(found.labels[inside].tolist())
        if given.parts is not None and (given.parts[inside] >= 0).any():
            inside &= given.parts >= 0  # of a proposal with what touches it the proposal speaks
        np.testing.assert_allclose(slots[:, inside].mean(axis=1), found.scores[region], atol=1e-5)


def test_a_proposal_whose_pixels_disagree_after_a_vote_is_a_region_a_label() -> None:
    segments = np.full((48, 80), -1, np.int32)
    segments[:48, 20:80] = 0
    rows = np.zeros((5, 6, 10), np.float32)
    rows[2] = 9  # the second name, wherever no proposal is
    found = answer(evidence(rows=rows, vote=segments, **parts()))
    first = parts()["parts"] == 0
    pairs = {(int(found.owners[place]), int(found.labels[place])) for place in zip(*np.nonzero(first), strict=True)}
    assert [0, 1] == [label for _, label in sorted(pairs)]
    assert {0, 1} == set(found.labels[first].tolist()) and (found.labels[first & (segments == 0)] == 1).all()


def test_all_steps_are_asked_again_exactly_at_another_threshold() -> None:
    segments = (np.arange(48 * 80).reshape(48, 80) // 160).astype(np.int32)
    extra: dict[str, Any] = {"picture": picture(), "refine": "pamr", "refine_steps": 2, "refine_dilations": (1, 3)}
    extra |= {"area": 0.1, "vote": segments, "closing": 3, "min_area": 9}
    names = ["cat", "dog", "fox"]
    first = Segmentation.decide(names, evidence(**extra), NoRecipe())
    fresh = Segmentation.decide(names, evidence(**extra, thresholds=np.full(3, 0.7, np.float32)), NoRecipe())
    again = first.with_threshold(0.7)
    assert fresh.labels.tolist() == again.labels.tolist() and (first.labels != again.labels).any()
    assert fresh.confidence.tolist() == again.confidence.tolist()
    assert fresh.region_scores.tolist() == again.region_scores.tolist()


@pytest.mark.parametrize("changes", [{}, {**parts(), "area": 0.2, "closing": 3}])
def test_neither_bands_nor_threads_nor_keeping_change_the_answer(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = evidence(**changes)
    kept = answer(given)
    monkeypatch.setattr(bands, "BAND_BYTES", 4 * 5 * 80 * 3)
    for threads, limit in ((1, 0), (3, 0), (2, 1 << 30)):
        monkeypatch.setattr(head, "MOST_THREADS", threads)
        monkeypatch.setattr(head, "KEPT_BYTES", limit)
        monkeypatch.setattr(head, "RUNS_BYTES", limit)
        found = answer(given)
        assert (kept.labels == found.labels).all() and (kept.confidence == found.confidence).all()
        assert (kept.owners == found.owners).all()
        np.testing.assert_allclose(kept.scores, found.scores, atol=1e-6)


def test_no_names_are_an_answer_with_every_step() -> None:
    nobody = evidence(owner=np.full(5, -1), thresholds=np.zeros(0, np.float32), area=0.5, closing=3, **parts())
    found = answer(nobody)
    assert ({-1}, (0, 0)) == (set(found.labels.ravel().tolist()), found.scores.shape)


def test_three_hundred_names_are_told_apart() -> None:
    names = 300
    rows = np.full((names, 3, 100), -9, np.float32)
    rows[np.arange(names), np.arange(names) // 100, np.arange(names) % 100] = 9  # each cell its own name
    found = answer(Evidence(3, 100, np.arange(names), rows, np.zeros(names, np.float32)))
    assert np.arange(names).reshape(3, 100).tolist() == found.labels.tolist()
    assert list(range(names)) == found.region_labels.tolist()


def test_names_equal_to_an_argmax_over_whole_arrays_at_every_size() -> None:
    """Pictures smaller than the grid, as large, and larger than a band; one row of cells; one column."""
    rng = np.random.default_rng(8)
    for grid, size in (
        ((6, 10), (4, 7)),
        ((6, 10), (6, 10)),
        ((1, 4), (9, 30)),
        ((5, 1), (30, 9)),
        ((3, 4), (97, 150)),
    ):
        rows = rng.normal(0, 3, (5, *grid)).astype(np.float32)
        given = Evidence(*size, OWNER, rows, np.zeros(3, np.float32))
        slots = posteriors(given)
        best = slots[:3].max(axis=0)
        expected = np.where(slots[3] > best, -1, slots[:3].argmax(axis=0))
        assert expected.tolist() == answer(given).labels.tolist()


def test_labels_alone_are_those_of_the_whole_answer() -> None:
    rng = np.random.default_rng(3)
    rows = (40 * rng.normal(size=(5, 4, 7)) / 8).astype(np.float32)
    owner, thresholds = np.array([0, 1, 1, 2, -1]), np.array([0.3, 0.5, 0.2], np.float32)
    vote = rng.integers(-1, 4, (33, 50)).astype(np.int32)
    for evidence in (
        Evidence(33, 50, owner, rows, thresholds),
        Evidence(33, 50, owner, rows, thresholds, area=0.2, vote=vote, closing=3),
    ):
        whole = answer(evidence)
        labels, confidence = pixels(evidence)
        assert np.array_equal(labels, whole.labels) and np.array_equal(confidence, whole.confidence)


def judged(*shares: float, **changes: Any) -> dict[str, Any]:
    """Presence of the three names, as shares of 99 nouns."""
    share = np.array(shares, np.float32)
    odds = np.array([-1.0, -2.0, -3.0], np.float32)
    return {"presence": Presence(odds, share, np.full(3, 99), np.zeros(99, np.float32)), **changes}


@pytest.mark.parametrize("probability", ["names", "rows"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parts": True},
        {"parts": True, "uncovered": "none"},
        {"area": 0.3, "closing": 3},
        {"refine": "pamr", "refine_steps": 2, "refine_dilations": (1, 3), "picture": picture()},
        {"lead": 0.2, "entropy": 0.7},
    ],
)
def test_a_struck_name_changes_no_bit_of_anything_else(changes: dict[str, Any], probability: str) -> None:
    """The second name is judged absent: the answer is that to a question in which it never was."""
    more, kept = parts() if changes.get("parts") else {}, np.array([0, 1, 3, 4])
    fields = {**{name: value for name, value in changes.items() if name != "parts"}, **more, "probability": probability}
    given = evidence(**fields, **judged(0.99, 0.5, 0.96))
    without = {**fields, "rows": given.rows[kept], "owner": np.array([0, 0, 1, -1])}
    if more:
        without["part_rows"] = more["part_rows"][:, kept]
    alone = answer(evidence(thresholds=np.full(2, 0.4, np.float32), **without))
    found = answer(given)
    number = np.array([0, 2, -1])
    assert given.struck.tolist() == [False, True, False]
    np.testing.assert_array_equal(number[alone.labels], found.labels)
    np.testing.assert_array_equal(alone.confidence, found.confidence)
    np.testing.assert_array_equal(alone.owners, found.owners)
    np.testing.assert_array_equal(alone.scores, found.scores[:, [0, 2]])
    assert not found.scores[:, 1].any() and (answer(evidence(**fields)).confidence != found.confidence).any()
    assert set(found.labels.ravel().tolist()) >= {-1, 0}


def test_every_name_struck_leaves_everything_alone() -> None:
    for negatives in (OWNER, np.array([0, 0, 1, 2, 2])):  # with and without one
        found = answer(evidence(owner=negatives, **parts(), **judged(0.1, 0.2, 0.3)))
        assert (found.labels == -1).all() and not found.confidence.any() and found.scores.shape == (0, 3)


def test_a_rate_or_a_cut_says_who_is_struck() -> None:
    assert evidence(**judged(0.99, 0.94, 0.5, alpha=0.1)).struck.tolist() == [False, False, True]
    assert evidence(**judged(0.99, 0.94, 0.5, alpha=1)).struck.tolist() == [False] * 3
    assert evidence(**judged(0.0, 0.0, 0.99, cut=-2.5)).struck.tolist() == [False, False, True]
    assert not evidence().struck.any()


@pytest.mark.parametrize(("lead", "entropy"), [(0.3, 1.0), (0.0, 0.6), (0.2, 0.5)])
def test_places_in_doubt_are_left_alone(lead: float, entropy: float) -> None:
    """By the definition, place by place, on pixels and on proposals."""
    given = evidence(**parts(), lead=lead, entropy=entropy)
    slots, plain, found = posteriors(given), answer(evidence(**parts())), answer(given)
    ranked = np.sort(slots, axis=0)
    safe = np.maximum(slots, 1e-30)
    share = -(safe * np.log(safe)).sum(axis=0) / np.log(4)
    doubt = (ranked[-1] - ranked[-2] < lead) | (share > entropy)
    near = (np.abs(ranked[-1] - ranked[-2] - lead) < 1e-5) | (np.abs(share - entropy) < 1e-5)
    expected = np.where(doubt, -1, plain.labels)
    assert (expected == found.labels)[~near].all() and (doubt & (plain.labels >= 0)).any() and (found.labels >= 0).any()
    np.testing.assert_allclose(found.confidence, slots[:3].max(axis=0), atol=1e-6)


def test_one_name_alone_is_never_in_doubt_and_a_doubt_changes_no_winner() -> None:
    rows = np.random.default_rng(1).normal(0, 3, (1, 6, 10)).astype(np.float32)
    only = Evidence(48, 80, np.array([0]), rows, np.zeros(1, np.float32), lead=0.9, entropy=0.1)
    assert (answer(only).labels == 0).all()
    for doubts in ({"lead": 0.5}, {"entropy": 0.5}):
        found, plain = answer(evidence(**doubts)), answer(evidence())
        assert (found.labels == plain.labels)[found.labels >= 0].all()


def test_unknown_is_what_nobody_claims_and_why() -> None:
    """Four proposals and background: one in doubt, one below the threshold, one that only a struck name fits, one the
    negative's; nothing of the labelled or of the background is unknown."""
    owners = np.full((48, 80), -1, np.int32)
    for number in range(5):
        owners[4:14, 2 + 12 * number : 12 + 12 * number] = number
    rows = np.array(
        [[1, 0, 0.8, 0.7, 0.6], [2, 0, 0, 0, 1.5], [0, 0, 9, 0, 3], [0, 0, 0, 0, 9], [9, 0, 0, 0, 0]], np.float32
    )
    cells = np.zeros((5, 6, 10), np.float32)
    cells[4] = 9
    fields: dict[str, Any] = {"parts": owners, "part_rows": rows, "rows": cells, "entropy": 0.95}
    given = evidence(thresholds=np.full(3, 0.6, np.float32), **fields, **judged(0.99, 0.5, 0.99))
    found = answer(given)
    assert set(found.labels[owners == 4].tolist()) == {0} and set(found.labels[owners == 2].tolist()) == {-1}
    regions, kinds, best = unknown(given, found.labels)
    assert [REASONS[kind] for kind in kinds] == ["entropy", "threshold", "absent"]
    for region, part in enumerate((0, 1, 2)):
        np.testing.assert_array_equal(regions == region, owners == part)
    np.testing.assert_allclose(best, given.of_parts.max(axis=0)[:3], atol=1e-6)
    none = unknown(replace(given, min_area=101), found.labels)
    assert (none[0] == -1).all() and len(none[1]) == 0


def test_unknown_pixels_without_proposals_are_parts_of_one_reason() -> None:
    given = evidence(lead=0.05, thresholds=np.full(3, 0.6, np.float32), **judged(0.99, 0.99, 0.99))
    found = answer(given)
    regions, kinds, _ = unknown(given, found.labels)
    slots = posteriors(given)
    ranked = np.sort(slots, axis=0)
    close = (ranked[-1] - ranked[-2] < 0.05) & (found.labels < 0)
    low = (slots[:3].max(axis=0) > slots[3]) & ~close & (found.labels < 0)
    np.testing.assert_array_equal(np.isin(regions, np.flatnonzero(kinds == MARGIN)), close)
    np.testing.assert_array_equal(np.isin(regions, np.flatnonzero(kinds == THRESHOLD)), low)
    assert close.any() and low.any()
    assert (unknown(replace(given, uncovered="none"), answer(given).labels)[0] == -1).all()


def test_an_all_background_picture_has_no_label_and_nothing_unknown() -> None:
    rows = np.zeros((5, 6, 10), np.float32)
    rows[4] = 9
    given = evidence(rows=rows, thresholds=np.zeros(3, np.float32), **judged(0.1, 0.99, 0.99))
    found = answer(given)
    assert (found.labels == -1).all() and (unknown(given, found.labels)[0] == -1).all()
