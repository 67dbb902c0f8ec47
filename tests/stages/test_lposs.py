import numpy as np
import pytest
from scipy.sparse.linalg import cg
from skimage.color import rgb2lab
from stage_scenes import rows_of, scene, unit, vocabulary, windowed

from ovseg import raster
from ovseg.errors import BadUsage
from ovseg.stages import lposs as module
from ovseg.stages.canvas import cosines, join, regrid
from ovseg.stages.lposs import lposs, lposs_plus, patch_graph


def normalised(graph: np.ndarray) -> np.ndarray:
    graph = graph - np.diag(graph.diagonal())
    degree = graph.sum(axis=1)
    degree[degree == 0] = 1
    return graph / np.sqrt(degree[:, None] * degree[None])


def slow_graph(units: np.ndarray, places: np.ndarray, neighbours: int) -> np.ndarray:
    """The affinity by its formula, pair by pair, in double precision."""
    likeness = units.astype(float) @ units.T.astype(float)
    graph = np.zeros_like(likeness)
    for i, line in enumerate(likeness):
        for j in np.argsort(-line)[:neighbours]:
            away = float(np.linalg.norm(places[i].astype(float) - places[j]))
            graph[i, j] = max(0.0, line[j]) ** 3 * np.exp(-0.01 * away)
    return normalised(graph + graph.T)


def slow_answer(graph: np.ndarray, values: np.ndarray, steps: int = 10) -> np.ndarray:
    """.05 (I - .95 W)^-1 values as far as `steps` steps of scipy's own solver go, column by column."""
    system = np.eye(len(graph)) - 0.95 * graph
    solved = [cg(system, column, rtol=1e-6, atol=0, maxiter=steps)[0] for column in values.T.astype(float)]
    return 0.05 * np.stack(solved, axis=1)


def middles(rows: int, cols: int, high: float, wide: float) -> np.ndarray:
    return np.array([((r + 0.5) * high, (c + 0.5) * wide) for r in range(rows) for c in range(cols)], np.float32)


@pytest.mark.parametrize("neighbours", [7, 60, 400])
def test_graph_is_the_papers_whatever_the_block(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units = scene().features.vectors.reshape(32, -1).T
    places = middles(6, 10, 16, 16)
    wanted = slow_graph(units, places, neighbours)
    for block in (1024, 7):
        monkeypatch.setattr(module, "BLOCK", block)
        got = patch_graph(units, places, neighbours=neighbours).toarray()
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert np.array_equal(got.diagonal(), np.zeros(60))


def test_propagation_is_ten_steps_of_the_papers_solver() -> None:
    given = scene()
    rows = rows_of(given)
    graph = slow_graph(given.features.vectors.reshape(32, -1).T, middles(6, 10, 16, 16), 20)
    wanted = slow_answer(graph, rows.reshape(5, -1).T).T.reshape(rows.shape)
    np.testing.assert_allclose(lposs(given, rows, neighbours=20), wanted, atol=1e-3)
    few = slow_answer(graph, rows.reshape(5, -1).T, 2).T.reshape(rows.shape)
    np.testing.assert_allclose(lposs(given, rows, neighbours=20, steps=2), few, atol=1e-3)
    assert np.abs(few - wanted).max() > 0.01  # where the solver stops is part of the method


def test_scores_keep_their_size() -> None:
    """The paper's solution is up to 20 times as large as what came; ours stays comparable with a threshold."""
    given = scene()
    rows = np.full((5, 6, 10), 30, np.float32)
    out = lposs(given, rows)
    assert 25 < out.mean() < 31


def test_cells_that_look_alike_outvote_a_wrong_one() -> None:
    """Two things of 30 cells each; one cell of each scores as the other does, but looks like its own."""
    rng = np.random.default_rng(0)
    text = vocabulary().vectors
    looks = np.where(np.arange(10)[None, :, None] < 5, rng.normal(size=32), rng.normal(size=32)) + np.zeros((6, 1, 1))
    given = scene(unit(looks + 0.1 * rng.normal(size=(6, 10, 32))))
    rows = np.zeros((5, 6, 10), np.float32)
    rows[0, :, :5], rows[3, :, 5:] = 10, 10
    rows[:, 1, 1], rows[:, 4, 8] = rows[:, 0, 9], rows[:, 0, 0]
    out = lposs(given, rows)
    assert (out.argmax(axis=0) == np.where(np.arange(10) < 5, 0, 3)).all() and len(text) == 5


def test_guide_gives_the_affinity_and_the_grid() -> None:
    rng = np.random.default_rng(6)
    given = scene()
    rows = rows_of(given)
    guide = rng.normal(size=(7, 8, 13)).astype(np.float32)
    out = lposs(scene(guide=guide), rows, neighbours=30)
    graph = slow_graph(unit(guide.reshape(7, -1).T), middles(8, 13, 16, 16), 30)
    wanted = slow_answer(graph, regrid(rows, 8, 13).reshape(5, -1).T).T.reshape(5, 8, 13)
    np.testing.assert_allclose(out, wanted, atol=1e-3)


def test_windows_are_propagated_all_at_once_and_then_joined() -> None:
    given = windowed(scene())
    windows = given.features.windows
    assert windows is not None
    units = windows.vectors.transpose(0, 2, 3, 1).reshape(-1, 32)
    shifts = list(zip(windows.tops.tolist(), windows.lefts.tolist(), strict=True))
    places = np.concatenate([middles(3, 4, 8, 8) + np.float32(shift) for shift in shifts])
    values = 40 * cosines(windows, given.vocabulary).transpose(0, 2, 3, 1).reshape(48, 5)
    solved = slow_answer(slow_graph(units, places, 30), values).astype(np.float32)
    wanted = join(windows, solved.reshape(4, 3, 4, 5).transpose(0, 3, 1, 2).copy())
    out = lposs(given, np.zeros((5, 40, 50), np.float32), neighbours=30)
    np.testing.assert_allclose(out, wanted, atol=1e-3)


def small_picture() -> np.ndarray:
    """9 x 14 px: two colours with a little noise."""
    rng = np.random.default_rng(7)
    picture = np.where(np.arange(14)[None, :, None] < 6, np.array([200, 60, 50]), np.array([40, 90, 180]))
    return (picture + rng.integers(0, 3, (9, 14, 3))).astype(np.uint8)


def test_pixels_are_the_papers_second_step() -> None:
    picture = small_picture()
    given = scene(picture=picture)
    rows = rows_of(given)[:, :3, :4]
    lab = rgb2lab(picture) / [100, 128, 128]
    graph = np.zeros((126, 126))
    for i in range(126):
        for j in range(126):
            (r, c), (r2, c2) = divmod(i, 14), divmod(j, 14)
            if i != j and abs(r - r2) <= 2 and abs(c - c2) <= 2:
                graph[i, j] = np.exp(-np.linalg.norm(lab[r, c] - lab[r2, c2]) / 0.01)
    values = raster.upsample(rows, 9, 14).reshape(5, -1).T
    wanted = slow_answer(normalised(graph), values).T.reshape(5, 9, 14)
    np.testing.assert_allclose(lposs_plus(given, rows, reach=2), wanted, atol=1e-3)


def test_labels_snap_to_the_edge_of_the_picture() -> None:
    """A coarse map whose border lies two pixels beside the edge between the colours."""
    given = scene(picture=small_picture())
    rows = np.zeros((5, 9, 14), np.float32)
    rows[0, :, :8], rows[3, :, 8:] = 10, 10
    out = lposs_plus(given, rows)
    assert (out.argmax(axis=0) == np.where(np.arange(14) < 6, 0, 3)).all()


def test_large_pictures_are_refined_at_a_bounded_size() -> None:
    given = scene()
    assert lposs_plus(given, rows_of(given), reach=1, short_side=24).shape == (5, 24, 40)
    assert lposs_plus(given, rows_of(given), reach=1).shape == (5, 48, 80)


def test_identity_settings_change_nothing_and_bad_numbers_are_refused() -> None:
    given = scene()
    rows = rows_of(given)
    assert lposs(given, rows, neighbours=0) is rows and lposs(given, rows, alpha=0.0) is rows
    assert lposs_plus(given, rows, reach=0) is rows and lposs_plus(given, rows, alpha=0.0) is rows
    assert lposs(given, rows[:0]).shape == (0, 6, 10) and lposs_plus(given, rows[:0]).shape == (0, 6, 10)
    with pytest.raises(BadUsage, match="got 1.0 and 10"):
        lposs(given, rows, alpha=1.0)
    with pytest.raises(BadUsage, match="got -1, 0.01, 448"):
        lposs_plus(given, rows, reach=-1)
