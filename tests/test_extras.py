"""What methods bring for the stages: of the whole picture, on the grid of its features."""

import numpy as np
import pytest

import tiny
from ovseg import extras
from ovseg.clip.dense import Reading, encode, normalised
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput
from ovseg.types import DenseFeatures

WIDE = tiny.picture(48, 80)


@pytest.mark.parametrize("method", extras.EXTRAS)
def test_every_row_gives_what_it_says_on_the_features_grid_whatever_the_windows(method: str) -> None:
    clip = tiny.clip()
    for reading in (Reading(method, short_side=56), Reading(method, "paper", 53), Reading(method, scales=(0.2, 0.3))):
        (features,) = encode(clip, [WIDE], reading)
        found = extras.bring(method, clip, WIDE, features)
        cells = features.grid[0] * features.grid[1]
        assert tuple(found.extras) == extras.gives(method) and found.vectors is features.vectors
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.extras.values())
        assert {array.shape[-2:] for array in found.extras.values()} <= {(cells, cells), features.grid}
    assert extras.bring("naclip", clip, WIDE, features) is features and extras.gives("naclip") == ()


def test_layers_of_one_whole_window_end_in_the_rows_own_vectors() -> None:
    clip = tiny.clip()
    (features,) = encode(clip, [WIDE], Reading("cliper", short_side=48, crop=-1))
    found = extras.bring("CLIPer", clip, WIDE, features).extras
    unit = found["layers"][-1] / np.linalg.norm(found["layers"][-1], axis=0)
    np.testing.assert_allclose(unit, features.vectors, atol=1e-5)
    wanted = layers(Vit(clip.visual), normalised(clip, WIDE)[None])
    np.testing.assert_allclose(found["layers"], wanted.tokens[0].permute(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_allclose(found["attention"], wanted.attention[0], atol=1e-6)
    assert found["layers"].shape == (3, tiny.DIM, 6, 10)


def test_positions_are_the_programs_own_where_windows_are() -> None:
    clip = tiny.clip()
    (features,) = encode(clip, [WIDE], Reading("cliper", "paper", 48, crop=-1))
    found = extras.bring("cliper", clip, WIDE, features).extras["layers"][-1]
    assert features.windows is not None
    unit = found / np.linalg.norm(found, axis=0)
    np.testing.assert_allclose(unit, features.windows.vectors[0], atol=1e-5)


def test_extras_of_other_cells_are_refused() -> None:
    vectors, whole = np.ones((4, 2, 3), np.float32), np.ones(4, np.float32)
    with pytest.raises(BadInput, match=r"layers must be of the same cells: \[5, 4, 3, 2\] for 2x3 cells"):
        DenseFeatures(vectors, whole, 20, 30, extras={"layers": np.zeros((5, 4, 3, 2), np.float32)})
    for name in ("affinity", "attention"):
        with pytest.raises(BadInput, match=f"{name} must be of the same cells"):
            DenseFeatures(vectors, whole, 20, 30, extras={name: np.zeros((5, 5), np.float32)})
    guide = {"guide": np.zeros((5, 9, 7), np.float32)}
    assert DenseFeatures(vectors, whole, 20, 30, extras=guide).extras is guide  # has a grid of its own
