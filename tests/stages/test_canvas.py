import numpy as np
import pytest
import torch
from stage_scenes import rows_of, scene, windowed

from ovseg.labels import stitch
from ovseg.stages.canvas import cosines, join, regrid


@pytest.mark.parametrize("size", [(2, 5), (3, 2), (6, 10)])
def test_coarser_grid_holds_means_of_what_lies_in_its_cells(size: tuple[int, int]) -> None:
    maps = rows_of(scene())
    if 6 % size[0] == 0 and 10 % size[1] == 0:
        wanted = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), size).numpy()
        np.testing.assert_allclose(regrid(maps, *size), wanted, atol=1e-5)


def test_cells_that_are_cut_count_by_their_share() -> None:
    line = np.array([[[1, 2, 4]]], np.float32)
    np.testing.assert_allclose(regrid(line, 1, 2)[0, 0], [(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 4) / 1.5], rtol=1e-6)


def test_finer_grid_is_bilinear_and_the_same_grid_the_same() -> None:
    maps = rows_of(scene())
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (13, 23), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(regrid(maps, 13, 23), wanted, atol=1e-4)
    assert np.array_equal(regrid(maps, 6, 10), maps)
    assert regrid(maps[:0], 3, 4).shape == (0, 3, 4)


def test_joined_cosines_are_what_the_labels_stitch() -> None:
    given = windowed(scene())
    windows = given.features.windows
    assert windows is not None
    each = cosines(windows, given.vocabulary)
    assert each.shape == (4, 5, 3, 4)
    assert float(each[2, 4, 1, 3]) == pytest.approx(float(given.vocabulary.vectors[4] @ windows.vectors[2, :, 1, 3]))
    np.testing.assert_allclose(join(windows, each), stitch(windows, given.vocabulary), atol=1e-6)
