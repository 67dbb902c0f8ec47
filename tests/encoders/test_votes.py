"""Votes of cells: the means that were asked for come back exactly, whatever synonyms and negatives there are."""

import numpy as np
import pytest

from ovseg.encoders import View, describe, votes
from ovseg.encoders.votes import slot_of
from ovseg.labels import compose
from ovseg.masks import cell_fractions
from ovseg.raster import posterior
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Vocabulary

SCALE = 12.0


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def features() -> DenseFeatures:
    cells = unit(np.random.default_rng(0).normal(size=(60, 16)))
    return DenseFeatures(np.ascontiguousarray(cells.T).reshape(16, 6, 10), cells[0], 48, 80)


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Three names, one with three rows that do not stand together, and two negatives."""
    owner = np.array([1, 0, -1, 1, 2, 1, -1])
    return Vocabulary(("cat", "dog", "hare"), unit(np.random.default_rng(1).normal(size=(7, 16))), owner)


@pytest.fixture
def regions() -> Regions:
    masks = np.zeros((4, 48, 80), bool)
    masks[0, 3:30, 12:61] = True
    masks[1, 8:16, 24:32] = True  # one whole cell
    masks[2] = True
    masks[3, 0, 0] = True
    return Regions.from_masks(masks)


def slow_means(features: DenseFeatures, vocabulary: Vocabulary, regions: Regions, probability: str) -> np.ndarray:
    """Cell by cell, region by region: posteriors by their definition, weighed by the share that is covered."""
    shares, found = cell_fractions(regions, 6, 10), []
    for region in range(len(regions)):
        total = 0.0
        for row in range(6):
            for col in range(10):
                scores = SCALE * vocabulary.vectors.astype(float) @ features.vectors[:, row, col]
                best = [scores[vocabulary.owner == k].max() for k in range(3)] + list(scores[vocabulary.owner < 0])
                whole = np.exp(best).sum() if probability == "names" else np.exp(scores).sum()
                total = total + shares[region, row, col] * np.exp(best) / whole
        found.append(total / shares[region].sum())
    return np.array(found)


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_posteriors_are_means_of_the_cells_posteriors(
    features: DenseFeatures, vocabulary: Vocabulary, regions: Regions, probability: str
) -> None:
    view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    rows = describe("vote", view, regions).rows(vocabulary, SCALE, probability)
    given = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, 3, probability).T
    np.testing.assert_allclose(slow_means(features, vocabulary, regions, probability), given, atol=1e-6)


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_hard_votes_are_a_bincount_of_winners(
    features: DenseFeatures, vocabulary: Vocabulary, probability: str
) -> None:
    mask = np.zeros((6, 10), bool)
    mask[1:4, 2:9] = mask[5, 0] = True
    regions = Regions.from_masks(mask.repeat(8, axis=0).repeat(8, axis=1)[None])
    view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    rows = describe("vote", view, regions, hard=True).rows(vocabulary, SCALE, probability)
    given = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, 3, probability)[:, 0]
    scores = np.tensordot(vocabulary.vectors, features.vectors, 1)
    best = np.stack([scores[vocabulary.owner == k].max(axis=0) for k in range(3)] + list(scores[vocabulary.owner < 0]))
    counts = np.bincount(best.argmax(axis=0)[mask], minlength=5)
    assert (counts > 0).sum() > 2
    np.testing.assert_allclose(counts / mask.sum(), given, atol=1e-6)


@pytest.mark.parametrize("probability", ["names", "rows"])
@pytest.mark.parametrize("hard", [True, False])
def test_cells_are_asked_a_few_at_a_time_where_there_are_many_names(
    features: DenseFeatures,
    vocabulary: Vocabulary,
    regions: Regions,
    probability: str,
    hard: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = describe("vote", View(None, np.zeros((48, 80, 3), np.uint8), features), regions, hard=hard)
    together, counts, scores = described.rows(vocabulary, SCALE, probability), [], Vocabulary.scores

    def counted(self: Vocabulary, vectors: np.ndarray, scale: float, *, cells: bool = False) -> np.ndarray:
        counts.append(len(vectors))
        return scores(self, vectors, scale, cells=cells)

    monkeypatch.setattr(votes, "AT_ONCE", 4 * 7 * 11)
    monkeypatch.setattr(Vocabulary, "scores", counted)
    np.testing.assert_allclose(together, described.rows(vocabulary, SCALE, probability), atol=1e-5)
    assert counts == [11, 11, 11, 11, 11, 5]


def test_mask_of_one_name_is_that_name(vocabulary: Vocabulary, regions: Regions) -> None:
    cells = np.broadcast_to(vocabulary.vectors[4][:, None, None], (16, 6, 10)).astype(np.float32)
    view = View(None, np.zeros((48, 80, 3), np.uint8), DenseFeatures(cells, cells[:, 0, 0], 48, 80))
    for hard in (False, True):
        rows = describe("vote", view, regions, hard=hard).rows(vocabulary, 100.0)
        given = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, 3, "names")
        assert (given[2] > 0.999).all()


def test_vectors_are_those_of_pool(features: DenseFeatures, regions: Regions) -> None:
    view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    assert (describe("vote", view, regions).vectors == describe("pool", view, regions).vectors).all()


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_answer_scores_a_region_by_its_votes(
    features: DenseFeatures, vocabulary: Vocabulary, regions: Regions, probability: str
) -> None:
    """Through the whole of asking: what a region scores is the mean of its cells' posteriors."""
    view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    one = regions[[0]]
    recipe = Recipe(encoder="vote", scale=SCALE, probability=probability, uncovered="none")
    found = compose(features, vocabulary, regions=one, described=describe("vote", view, one), recipe=recipe)
    expected = slow_means(features, vocabulary, one, probability)[0]
    if len(found.regions):
        np.testing.assert_allclose(expected[:3], found.region_scores[0], atol=1e-5)
    assert (len(found.regions) == 1) == (expected[:3].max() > expected[3:].max())
    np.testing.assert_allclose(expected[:3].max(), found.confidence[10, 20], atol=1e-5)


def test_words_of_nothing_are_no_rows(features: DenseFeatures, regions: Regions) -> None:
    view = View(None, np.zeros((48, 80, 3), np.uint8), features)
    nobody = Vocabulary((), np.zeros((0, 16), np.float32), np.zeros(0, np.int64))
    assert describe("vote", view, regions).rows(nobody, SCALE).shape == (4, 0)


def test_slots_count_names_first() -> None:
    assert slot_of(np.array([-1, 1, -1, 0, 1]), 2).tolist() == [2, 1, 3, 0, 1]
