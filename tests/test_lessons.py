"""The head that lessons make: linear near its examples, silent far away, and as heavy as pinned examples let it be."""

import numpy as np
import pytest

from ovseg.errors import BadUsage
from ovseg.lessons import HEARD, MARGIN, SPREAD, STRENGTH, Lesson, keeping, taught
from ovseg.types import Head, Vocabulary

DIM = 24


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def lesson(vector: np.ndarray, name: str = "a", accepted: bool = True) -> Lesson:
    return Lesson(np.asarray(vector, np.float32), name, accepted)


def words(rows: np.ndarray) -> Vocabulary:
    return Vocabulary(("a", "b"), unit(rows), np.arange(len(rows)) - 3 * (np.arange(len(rows)) > 1))


def test_one_example_is_heard_up_to_its_radius_and_falls_with_the_squared_distance() -> None:
    example = np.eye(DIM)[0]
    head = taught([lesson(example)], ("a", "b"), 40.0, SPREAD, True)
    assert isinstance(head, Head)
    reach = SPREAD * (HEARD + 1)  # one example's mean is off by a spread
    angles = np.arccos(1 - np.array([0, 0.25, 0.5, 0.99, 1.01, 1.5]) * reach / 2)  # squared distances
    seen = np.zeros((6, DIM), np.float32)
    seen[:, 0], seen[:, 1] = np.cos(angles), np.sin(angles)
    expected = 40 * reach / 2 * np.array([1, 0.75, 0.5, 0.01, 0, 0])
    np.testing.assert_allclose(expected, head.logits(seen)[:, 0], atol=1e-3)
    assert not head.logits(seen)[:, 1].any() and head.most == pytest.approx(20 * reach)
    rejected = taught([lesson(example, accepted=False)], ("a", "b"), 40.0, SPREAD, True)
    np.testing.assert_array_equal(-head.logits(seen), rejected.logits(seen))


@pytest.mark.parametrize(("apart", "wider"), [(0.1, False), (1.0, True)])
def test_examples_that_differ_are_heard_farther_and_alike_ones_no_less_far_than_guessed(
    apart: float, wider: bool
) -> None:
    rng = np.random.default_rng(0)
    mean = unit(rng.normal(size=DIM))
    close = unit(mean + apart * unit(rng.normal(size=(30, DIM))))
    head = taught([lesson(one) for one in close], ("a", "b"), 1.0, SPREAD, True)
    scatter = ((close - close.mean(axis=0)) ** 2).sum()
    own = (scatter + STRENGTH * SPREAD) / (30 - 1 + STRENGTH)
    assert (own > SPREAD) == wider
    assert head.heard.tolist() == pytest.approx([max(own, SPREAD) * (HEARD + 1 / 30)], rel=1e-5)


def test_saying_the_same_again_changes_nothing_and_nearly_the_same_takes_little() -> None:
    rng = np.random.default_rng(1)
    one, other = unit(rng.normal(size=(2, DIM)))
    said = [lesson(one), lesson(other, accepted=False)]
    once = taught(said, ("a", "b"), 40.0, SPREAD, True)
    again = taught([*said, *said, said[0]], ("a", "b"), 40.0, SPREAD, True)
    seen = unit(np.stack([one, other, one + other]))
    np.testing.assert_array_equal(once.logits(seen), again.logits(seen))
    near = [lesson(unit(one + 0.02 * rng.normal(size=DIM))) for _ in range(6)]
    often = taught([*said, *near], ("a", "b"), 40.0, SPREAD, True)
    assert often.logits(seen)[0, 0] > 0.6 * once.logits(seen)[0, 0] > 0


def test_rejected_examples_far_from_each_other_are_kinds_of_their_own_and_accepted_are_one() -> None:
    apart = np.eye(DIM)[:3]
    for accepted, kinds in ((True, 1), (False, 3)):
        head = taught([lesson(one, accepted=accepted) for one in apart], ("a", "b"), 1.0, SPREAD, True)
        assert len(head.owner) == kinds and head.accepted.tolist() == [accepted] * kinds
    two = [lesson(apart[0], "a", False), lesson(apart[0], "b", False)]
    assert taught(two, ("a", "b"), 1.0, SPREAD, True).owner.tolist() == [0, 1]  # alike, but said of two names


def test_the_largest_share_that_keeps_a_pin_leaves_it_a_hair_ahead() -> None:
    plain = words(np.eye(DIM)[:3] + 0.5)  # a, b and a negative
    pinned = unit(np.eye(DIM)[:1] + 0.8 * np.eye(DIM)[1:2])
    head = taught([lesson(pinned[0], "b")], plain.names, 40.0, SPREAD, True)
    share = keeping(plain, head, [lesson(pinned[0], "a")], 40.0)
    scores = plain.scores(pinned, 40.0)[0, :2] + share * head.logits(pinned)[0]
    assert 0 < share < 1 and scores[0] - scores[1] == pytest.approx(MARGIN, abs=1e-4)
    assert keeping(plain, head, [lesson(plain.vectors[1], "b")], 40.0) == 1.0  # it helps that one
    assert keeping(plain, head, [], 40.0) == 1.0


def test_a_pin_that_needs_its_example_and_another_that_cannot_bear_it_are_refused() -> None:
    plain = words(np.eye(DIM)[:3])
    seen = unit(np.array([0.5, 0.6] + [0] * 21 + [0.6]))
    head = taught([lesson(seen, "a")], plain.names, 40.0, SPREAD, True)
    assert plain.scores(seen[None], 40.0)[0, 0] < plain.scores(seen[None], 40.0)[0, 1]
    assert keeping(plain, head, [lesson(seen, "a")], 40.0) == 1.0  # right by its example
    with pytest.raises(BadUsage, match="would rename a pinned example"):
        keeping(plain, head, [lesson(seen, "a"), lesson(seen, "b")], 40.0)


def test_heads_differ_by_their_digest() -> None:
    base = [lesson(np.eye(DIM)[0]), lesson(np.eye(DIM)[1], accepted=False)]
    made = [
        taught(base, ("a", "b"), 40.0, SPREAD, True),
        taught(base[:1], ("a", "b"), 40.0, SPREAD, True),
        taught(base, ("a", "b"), 30.0, SPREAD, True),
        taught(base, ("a", "b"), 40.0, SPREAD, False),
    ]
    assert len({head.digest for head in made}) == 4
    assert made[0].digest == taught(base, ("a", "b"), 40.0, SPREAD, True).digest
