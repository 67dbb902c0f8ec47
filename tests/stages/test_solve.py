import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import cg

from ovseg.stages.solve import conjugate_gradient


@pytest.fixture
def system() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    root = rng.normal(size=(30, 30))
    return root @ root.T + 3 * np.eye(30), rng.normal(size=(30, 4))


@pytest.mark.parametrize("together", [False, True])
def test_many_steps_solve_the_system(system: tuple[np.ndarray, np.ndarray], together: bool) -> None:
    matrix, right = system
    found = conjugate_gradient(lambda x: matrix @ x, right, steps=400, together=together)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-8)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_each_iterate_is_scipys_column_by_column(system: tuple[np.ndarray, np.ndarray], steps: int) -> None:
    matrix, right = system
    found = conjugate_gradient(lambda x: matrix @ x, right, steps=steps)
    for column in range(right.shape[1]):
        wanted, _ = cg(matrix, right[:, column], maxiter=steps, rtol=0, atol=0)
        np.testing.assert_allclose(found[:, column], wanted, atol=1e-10)


def test_together_is_one_long_vector(system: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, right = system
    blocks = scipy.sparse.block_diag([matrix] * right.shape[1]).tocsr()
    start = np.ones_like(right)
    found = conjugate_gradient(lambda x: matrix @ x, right, start, steps=5, together=True)
    wanted, _ = cg(blocks, right.T.ravel(), x0=start.T.ravel(), maxiter=5, rtol=0, atol=0)
    np.testing.assert_allclose(found.T.ravel(), wanted, atol=1e-10)
    alone = conjugate_gradient(lambda x: matrix @ x, right, start, steps=5)
    assert np.abs(found - alone).max() > 1e-3


def test_columns_stop_by_themselves(system: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, right = system
    right = right * np.array([1.0, 1e-6, 0.0, 1e6])
    found = conjugate_gradient(lambda x: matrix @ x, right, steps=200, tolerance=1e-4)
    for column in range(4):
        wanted, _ = cg(matrix, right[:, column], maxiter=200, rtol=1e-4, atol=0)
        np.testing.assert_allclose(found[:, column], wanted, rtol=1e-6, atol=1e-12)
    assert not found[:, 2].any()


def test_no_step_gives_the_start_and_neither_it_nor_the_right_side_is_changed() -> None:
    right, start = np.ones((3, 2), np.float32), np.full((3, 2), 5, np.float32)
    assert np.array_equal(conjugate_gradient(lambda x: 2 * x, right, start, steps=0), start)
    assert conjugate_gradient(lambda x: 2 * x, right, start, steps=4).dtype == np.float32
    assert (right == 1).all() and (start == 5).all()


def test_steps_after_the_answer_is_there_do_no_harm_in_float32(system: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, right = (part.astype(np.float32) for part in system)
    found = conjugate_gradient(lambda x: matrix @ x, right, steps=5000, together=True)
    np.testing.assert_allclose(found, np.linalg.solve(*system), atol=1e-3)
