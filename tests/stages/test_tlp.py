from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import block_diag, lil_array
from scipy.sparse.linalg import cg, spsolve
from stage_scenes import rows_of, scene, vocabulary, windowed

from ovseg.errors import BadUsage
from ovseg.stages.tlp import tlp, weights


def slow_system(picture: np.ndarray, cosines: np.ndarray, text: np.ndarray) -> tuple[lil_array, np.ndarray]:
    """C + L and C by the formulas, cell by cell; the picture has one pixel a cell."""
    count, high, wide = cosines.shape
    share = np.exp(cosines.astype(float)) / np.exp(cosines.astype(float)).sum(axis=0)
    near = np.exp(text @ text.T / 0.5) / np.exp(text @ text.T / 0.5).sum(axis=1, keepdims=True) + 10 * np.eye(count)
    near /= near.sum(axis=1, keepdims=True)

    def agree(one: tuple[int, int], other: tuple[int, int]) -> float:
        return float(sum(near[c, c] * share[c][one] * share[c][other] for c in range(count)))

    pairs = [((r, c), (r, c + 1)) for r in range(high) for c in range(wide - 1)]
    pairs += [((r, c), (r + 1, c)) for r in range(high - 1) for c in range(wide)]
    apart = {pair: float(np.abs(picture[pair[0]].astype(float) - picture[pair[1]]).mean()) for pair in pairs}
    mean = sum(apart.values()) / len(apart)
    matrix, trust = lil_array((high * wide, high * wide)), np.zeros(high * wide)
    for r in range(high):
        for c in range(wide):
            trust[r * wide + c] = max(share[:, r, c].max(), 0.05) ** 2 * (1 + agree((r, c), (r, c)))
            matrix[r * wide + c, r * wide + c] = trust[r * wide + c]
    for one, other in pairs:
        weight = min(1.0, np.exp(-5 * apart[one, other] / mean) * (1 + agree(one, other)))
        i, j = one[0] * wide + one[1], other[0] * wide + other[1]
        matrix[i, i] += weight
        matrix[j, j] += weight
        matrix[i, j] -= weight
        matrix[j, i] -= weight
    return matrix, trust


def test_many_steps_solve_the_system_of_the_paper() -> None:
    """One pixel a cell, so that nothing is resampled; against a sparse direct solve of the written-out matrix."""
    picture = np.random.default_rng(4).integers(0, 256, (6, 10, 3), np.uint8)
    given = scene(picture=picture)
    rows = rows_of(given)
    matrix, trust = slow_system(picture, rows / given.scale, given.vocabulary.vectors)
    wanted = spsolve(matrix.tocsr(), trust[:, None] * rows.reshape(5, -1).T).T.reshape(rows.shape)
    np.testing.assert_allclose(tlp(given, rows, cells=0, steps=300), wanted, atol=2e-3)
    early = tlp(given, rows, cells=0, steps=3)
    assert np.abs(early - wanted).max() > 0.05
    one_system = block_diag([matrix] * 5).tocsr()  # all rows take the same step lengths
    right = (trust * rows.reshape(5, -1)).ravel()
    third, _ = cg(one_system, right, x0=rows.ravel().astype(float), maxiter=3, rtol=0, atol=0)
    np.testing.assert_allclose(early.ravel(), third, atol=2e-3)


def test_a_wrong_cell_inside_a_thing_is_put_right_and_the_edge_of_the_picture_holds() -> None:
    """Two flat halves, black and white; one cell of each half has a faint liking for the other half's name."""
    text = vocabulary().vectors
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:, 40:] = 255
    rows = np.zeros((5, 6, 10), np.float32)
    rows[0, :, :5], rows[3, :, 5:] = 20, 20
    rows[:, 2, 2], rows[:, 4, 7] = [9, 0, 0, 10, 0], [10, 0, 0, 9, 0]
    wanted = np.where(np.arange(10) < 5, 0, 3) * np.ones((6, 1), int)
    assert (rows.argmax(axis=0) != wanted).sum() == 2
    given = replace(scene(picture=picture), vocabulary=replace(vocabulary(), vectors=text))
    out = tlp(given, rows, cells=10)
    assert out.shape == (5, 6, 10) and (out.argmax(axis=0) == wanted).all()
    assert np.abs(out[0, :, :5] - 20).max() < np.abs(rows[0, :, :5] - 20).max()
    grey = tlp(replace(given, picture=np.full_like(picture, 90)), rows, cells=10)  # no edge: the halves blur
    assert grey[0, :, 5].min() > out[0, :, 5].max() + 1


def test_edges_shut_where_the_picture_changes_and_meaning_opens_them() -> None:
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, 5:] = 200
    cosines = np.zeros((2, 6, 10), np.float32)
    trust, right, down = weights(picture, cosines, np.eye(2, 8, dtype=np.float32))
    assert right.shape == (6, 9) and down.shape == (5, 10)
    assert (down == 1).all() and (np.delete(right, 4, axis=1) == 1).all() and right[:, 4].max() < 1e-10
    own = (np.exp(2) / (np.exp(2) + 1) + 10) / 11
    np.testing.assert_allclose(trust, 0.25 * (1 + own / 2), rtol=1e-5)


def test_same_scores_everywhere_stay() -> None:
    given = scene()
    flat = np.broadcast_to(np.arange(5, dtype=np.float32)[:, None, None], (5, 6, 10)).copy()
    np.testing.assert_allclose(tlp(given, flat), np.broadcast_to(flat[:, :1, :1], (5, 48, 80)), atol=1e-4)


def test_transposed_picture_gives_the_transposed_answer() -> None:
    given = scene()
    rows = rows_of(given)
    turned = scene(given.features.vectors.transpose(2, 1, 0).copy(), given.picture.transpose(1, 0, 2).copy())
    straight, other = tlp(given, rows, cells=20), tlp(turned, rows.transpose(0, 2, 1).copy(), cells=20)
    assert straight.shape == (5, 12, 20)
    np.testing.assert_allclose(straight, other.transpose(0, 2, 1), atol=1e-3)


def test_no_step_and_no_row_change_nothing_and_bad_numbers_are_refused() -> None:
    given = scene()
    rows = rows_of(given)
    assert tlp(given, rows, steps=0) is rows
    assert tlp(given, rows[:0]).shape == (0, 6, 10)
    assert tlp(windowed(given), np.repeat(rows, 4, axis=1)).shape == (5, 48, 80)
    with pytest.raises(BadUsage, match="got 80 and -1"):
        tlp(given, rows, steps=-1)


def test_a_row_of_zeros_stays_zero_whatever_the_others_are() -> None:
    given = scene()
    rows = rows_of(given)
    rows[2] = 0
    assert not tlp(given, rows)[2].any()
