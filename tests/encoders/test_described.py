import numpy as np
import pytest

from ovseg.encoders.described import Described, region_rows, unit
from ovseg.errors import BadInput
from ovseg.types import Vocabulary


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
