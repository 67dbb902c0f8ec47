from dataclasses import dataclass, replace

import numpy as np
import pytest

import tiny
from ovseg.anomaly import SCORERS, Case, score, scorers
from ovseg.clip import dense
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import DenseFeatures, Vocabulary

DIM, GRID, SIZE = 7, (6, 10), (48, 80)


@dataclass(frozen=True)
class Choices:
    fingerprint: str = "0123456789ab"

    def to_dict(self):
        return {"name": "test"}


def features(seed=0, grid=GRID):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(DIM, *grid)).astype(np.float32)
    whole = rng.normal(size=DIM).astype(np.float32)
    return DenseFeatures(vectors / np.linalg.norm(vectors, axis=0), whole / np.linalg.norm(whole), *SIZE)


def states():
    rows = np.eye(5, DIM, dtype=np.float32)
    return Vocabulary(("normal", "anomalous"), rows, np.array([0, 0, 0, 1, 1]))


def case(needs, seed=0, normals=2):
    return Case(
        features(seed),
        states() if "states" in needs else None,
        tuple(features(10 + i, (5, 9)) for i in range(normals)) if "normal" in needs else (),
    )


def planted(one, row, col, vector):
    vectors = one.features.vectors.copy()
    vectors[:, row, col] = vector
    return replace(one, features=replace(one.features, vectors=vectors))


rows = pytest.mark.parametrize("name", SCORERS)


@rows
def test_cells_are_finite_float32_and_the_same_each_time(name):
    given = case(SCORERS[name].needs)
    first, second = SCORERS[name].run(given), SCORERS[name].run(given)
    assert (GRID, np.float32) == (first[0].shape, first[0].dtype)
    assert np.isfinite(first[0]).all() and np.isfinite(first[1])
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


@rows
def test_transposing_the_grid_transposes_the_map(name):
    given = case(SCORERS[name].needs)
    turned = replace(given.features, vectors=np.ascontiguousarray(given.features.vectors.transpose(0, 2, 1)))
    cells, image = SCORERS[name].run(given)
    other, same = SCORERS[name].run(replace(given, features=turned))
    np.testing.assert_allclose(cells.T, other, atol=1e-6)
    assert image == pytest.approx(same, abs=1e-6)


@rows
def test_one_more_normal_picture_raises_no_value(name):
    if "normal" not in SCORERS[name].needs:
        return
    few, image = SCORERS[name].run(case(SCORERS[name].needs, normals=2))
    more, lower = SCORERS[name].run(case(SCORERS[name].needs, normals=5))
    assert (more <= few).all() and lower <= image
    assert (more < few).any(), "random cells do come nearer"


@rows
def test_a_cell_moved_to_the_anomalous_word_rises(name):
    if "states" not in SCORERS[name].needs:
        return
    given = case(SCORERS[name].needs)
    usual, odd = scorers.prototypes(given.states)
    before, _ = SCORERS[name].run(planted(given, 2, 7, usual))
    after, _ = SCORERS[name].run(planted(given, 2, 7, odd))
    if "normal" in SCORERS[name].needs:  # its words' half alone, without how far the cell moved from the memory
        alone = replace(given, normal=(planted(planted(given, 0, 0, usual), 0, 1, odd).features,))
        before, _ = SCORERS[name].run(planted(alone, 2, 7, usual))
        after, _ = SCORERS[name].run(planted(alone, 2, 7, odd))
    assert after[2, 7] > before[2, 7]
    rest = np.ones(GRID, bool)
    rest[2, 7] = False
    np.testing.assert_allclose(before[rest], after[rest], atol=1e-6)


def test_words_give_the_softmax_of_the_two_mean_states():
    given = case(("states",))
    cells, image = SCORERS["dense"].run(given)
    normal = np.array([1, 1, 1, 0, 0, 0, 0]) / np.sqrt(3)
    odd = np.array([0, 0, 0, 1, 1, 0, 0]) / np.sqrt(2)
    for row in range(GRID[0]):
        for col in range(GRID[1]):
            cosines = np.array([normal, odd]) @ given.features.vectors[:, row, col]
            shares = np.exp(cosines / 0.07) / np.exp(cosines / 0.07).sum()
            assert cells[row, col] == pytest.approx(shares[1], abs=1e-5)
    assert 0 <= cells.min() and cells.max() <= 1
    cosines = np.array([normal, odd]) @ given.features.whole
    assert image == pytest.approx(1 / (1 + np.exp((cosines[0] - cosines[1]) / 0.07)), abs=1e-5)


def test_a_picture_against_its_own_memory_is_not_strange():
    one = features(3)
    cells, image = SCORERS["memory"].run(Case(one, normal=(features(4), one)))
    assert cells.max() <= 2e-7 and image <= 2e-7


def test_memory_equals_a_plain_loop_whatever_the_chunks(monkeypatch):
    given = case(("normal",))
    cells, image = SCORERS["memory"].run(given)
    bank = np.concatenate([one.vectors.reshape(DIM, -1) for one in given.normal], axis=1)
    expected = np.array(
        [[1 - (given.features.vectors[:, r, c] @ bank).max() for c in range(GRID[1])] for r in range(GRID[0])]
    )
    np.testing.assert_allclose(expected, cells, atol=1e-6)
    assert image == pytest.approx(expected.max(), abs=1e-6)  # the top 1 % of 60 cells is one
    monkeypatch.setattr(scorers, "CHUNK_BYTES", 8 * 45 * 7)  # seven cells at a time against the 45 of a picture
    np.testing.assert_allclose(cells, SCORERS["memory"].run(given)[0], atol=1e-12)


def test_a_planted_fault_is_the_strangest_cell():
    usual = replace(features(1), vectors=np.repeat(features(1).vectors[:, :, :1], GRID[1], axis=2))
    odd = planted(Case(usual, normal=(usual,)), 4, 3, -usual.vectors[:, 0, 0])
    cells, image = SCORERS["memory"].run(odd)
    assert (4, 3) == np.unravel_index(cells.argmax(), GRID)
    assert np.sort(cells.ravel())[-2] <= 2e-7 < image


def test_mixed_is_the_plain_mean_of_both():
    given = case(("states", "normal"))
    (words, a), (memory, b), (mixed, c) = (SCORERS[name].run(given) for name in ("dense", "memory", "mixed"))
    np.testing.assert_allclose((words + memory) / 2, mixed, atol=1e-7)
    assert (a + b) / 2 == pytest.approx(c)


@pytest.fixture(scope="module")
def clip():
    return tiny.clip()


@pytest.fixture(scope="module")
def read(clip):
    pictures = [tiny.picture(*SIZE, seed=seed) for seed in range(4)]
    return dense.encode(clip, pictures, dense.Reading(short_side=48))


@pytest.mark.parametrize(
    "object, count, unit",
    [("tile", 0, "probability"), ("", 1, "cosine distance"), ("tile", 1, "mixed")],
)
def test_what_was_given_decides_what_is_scored_and_the_unit_says_so(clip, read, object, count, unit):
    made = score(clip, read[0], object, normal=read[1 : 1 + count], recipe=Choices())
    assert (unit, SIZE) == (made.unit, made.values.shape)
    assert made.threshold is None and made.object == object
    assert made.to_dict()["unit"] == unit


def test_a_threshold_is_kept_as_given(clip, read):
    assert score(clip, read[0], "tile", recipe=Choices(), threshold=0.25).threshold == 0.25
    assert score(clip, read[0], "tile", normal=read[1:3], recipe=Choices(), threshold=0.25).threshold == 0.25


def test_normal_pictures_give_a_threshold_that_each_stays_below_without_itself(clip, read):
    made = score(clip, read[0], normal=read[1:], recipe=Choices())
    peaks = [score(clip, read[i], normal=[read[j] for j in (1, 2, 3) if j != i], recipe=Choices()) for i in (1, 2, 3)]
    assert all(one.values.max() < made.threshold for one in peaks)
    assert max(one.values.max() for one in peaks) == pytest.approx(made.threshold, rel=0.2)
    assert "at most 25%" in " ".join(made.notes)


def test_the_cut_of_many_normal_pictures_leaves_the_stated_share_above():
    normals = tuple(features(seed) for seed in range(39))
    cut, chance = scorers._threshold(SCORERS["memory"], Case(features(99), normal=normals))
    peaks = []
    for index in range(39):
        one = Case(normals[index], normal=normals[:index] + normals[index + 1 :])
        peaks.append(SCORERS["memory"].run(one)[0].max())
    assert chance == 0.05
    assert sum(peak >= cut for peak in peaks) == 1  # rank 38 of 39


def test_a_normal_picture_scores_zero_at_full_size(clip, read):
    made = score(clip, read[1], normal=[read[1]], recipe=Choices())
    assert made.values.max() <= 2e-7


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({}, BadUsage, "needs the name of the object"),
        ({"object": "tile", "scorer": "memory"}, BadUsage, "needs normal pictures"),
        ({"object": "tile", "scorer": "mixed"}, BadUsage, "needs normal pictures"),
        ({"object": "tile", "scorer": "win"}, UnknownName, "scorer must be one of dense, memory, mixed"),
        ({"object": "tile", "temperature": 0.0}, BadUsage, "temperature must be positive"),
    ],
)
def test_what_is_missing_is_refused_by_name(clip, read, options, error, says):
    with pytest.raises(error, match=says):
        score(clip, read[0], recipe=Choices(), **options)


def test_normal_pictures_of_another_network_are_refused(clip, read):
    with pytest.raises(BadInput, match="same network"):
        score(clip, read[0], normal=[features()], recipe=Choices())
