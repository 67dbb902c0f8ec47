from typing import Any

import numpy as np
import pytest

from ovseg.encoders import View, describe
from ovseg.encoders.described import Described, region_rows, unit
from ovseg.errors import BadInput
from ovseg.labels.composing import _claims
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Vocabulary


def test_rows_are_scaled_cosines_and_those_of_an_empty_region_are_0() -> None:
    vocabulary = Vocabulary(("cat",), np.eye(2, 3, dtype=np.float32), np.array([0, -1]))
    described = Described(np.array([[0.6, 0.8, 0], [0, 0, 0]], np.float32))
    np.testing.assert_allclose([[6, 8], [0, 0]], described.rows(vocabulary, 10.0), atol=1e-6)
    assert (region_rows(described.vectors, vocabulary, 10.0) == described.rows(vocabulary, 10.0)).all()


def test_some_regions_are_picked_by_index_or_mask() -> None:
    described = Described(np.eye(3, dtype=np.float32))
    assert [[0, 0, 1], [1, 0, 0]] == described[np.array([2, 0])].vectors.tolist()
    assert len(described[np.array([False, True, False])]) == 1 and len(described[np.zeros(0, np.int64)]) == 0


def test_vectors_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="not finite"):
        Described(np.full((1, 2), np.nan, np.float32))


def test_unit_leaves_zeros() -> None:
    np.testing.assert_allclose([[0.6, 0.8], [0, 0]], unit(np.array([[3, 4], [0, 0]], np.float32)), atol=1e-6)


def test_spread_regions_leave_the_others_empty() -> None:
    spread = Described(np.eye(2, dtype=np.float32)).spread(np.array([3, 1]), 4)
    assert spread.vectors.tolist() == [[0, 0], [0, 1], [0, 0], [1, 0]]


MIXES: list[tuple[str, dict[str, Any]]] = [
    ("vote", {}),
    ("vote", {"hard": True}),
    ("ensemble", {"members": ["pool", "vote"]}),
    ("blend", {"members": ["vote", "roi"], "seen": ["cat"]}),
]


@pytest.mark.parametrize("probability", ["names", "rows"])
@pytest.mark.parametrize(("name", "options"), MIXES)
def test_name_that_was_judged_absent_moves_nothing_whatever_is_mixed(
    name: str, options: dict[str, Any], probability: str
) -> None:
    rng = np.random.default_rng(0)
    cells, rows = rng.normal(size=(8, 6, 10)).astype(np.float32), unit(rng.normal(size=(6, 8)).astype(np.float32))
    features = DenseFeatures(cells / np.linalg.norm(cells, axis=0), cells.mean(axis=(1, 2)), 48, 80)
    masks = np.zeros((3, 48, 80), bool)
    masks[0, :24, :40] = masks[1, 20:, 30:] = masks[2] = True
    regions = Regions.from_masks(masks)
    described = describe(name, View(None, np.zeros((48, 80, 3), np.uint8), features), regions, **options)
    recipe, struck = Recipe(scale=20.0, probability=probability), np.array([False, True, False])
    asked = Vocabulary(("cat", "yeti", "dog"), rows, np.array([0, 1, 1, 2, 0, -1]))
    never = Vocabulary(("cat", "dog"), rows[[0, 3, 4, 5]], np.array([0, 1, 0, -1]))
    found = _claims(regions, described, asked, recipe, struck)
    plain = _claims(regions, described, never, recipe, np.zeros(2, bool))
    np.testing.assert_array_equal(found["part_rows"][:, [0, 3, 4, 5]], plain["part_rows"])
    np.testing.assert_array_equal(found["parts"], plain["parts"])
    everybody = _claims(regions, described, asked, recipe, np.ones(3, bool))
    assert everybody["part_rows"].shape == (3, 6) and np.isfinite(everybody["part_rows"]).all()
