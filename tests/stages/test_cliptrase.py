from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from stage_scenes import rows_of, scene, unit

from ovseg.errors import BadInput, BadUsage
from ovseg.raster import upsample
from ovseg.stages.cliptrase import cliptrase, clusters, denoised, own_affinity, segments


@pytest.fixture(scope="module")
def stored(golden_dense: Path) -> dict[str, np.ndarray]:
    return load_file(golden_dense / "outputs" / "cliptrase.safetensors")


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_denoised_affinity_is_the_published_one(stored: dict[str, np.ndarray], name: str) -> None:
    got = denoised(stored[f"{name}.affinity"][0])
    np.testing.assert_allclose(got, stored[f"{name}.affinity_denoised"][0], atol=1e-6)


@pytest.mark.parametrize("name", ["native", "wide", "tall"])
def test_clusters_are_the_published_ones(stored: dict[str, np.ndarray], name: str) -> None:
    for affinity, wanted in zip(stored[f"{name}.affinity_denoised"], stored[f"{name}.cluster_labels"], strict=True):
        assert np.array_equal(clusters(affinity), wanted)
        assert not np.array_equal(clusters(affinity, eps=0.9), wanted)


def test_votes_of_segments_are_the_published_prediction(stored: dict[str, np.ndarray], golden_dense: Path) -> None:
    """Arg-max of cosines at 112 x 112 px, then the most frequent label of each segment, the smaller of equals."""
    text = load_file(golden_dense / "inputs.safetensors")["text"]
    changed = 0
    for i in range(2):
        cosines = np.ascontiguousarray((unit(stored["native"][i]) @ text.T).transpose(2, 0, 1))
        labels = upsample(cosines, 112, 112).argmax(axis=0)
        before = labels.copy()
        affinity = stored["native.affinity_denoised"][i]
        found = segments(affinity, clusters(affinity), (7, 7), 112, 112)
        for segment in range(found.max() + 1):
            inside = found == segment
            if inside.any():
                labels[inside] = np.bincount(labels[inside]).argmax()
        assert np.array_equal(labels, stored["native.voted_prediction"][i])
        changed += int((labels != before).sum())
    assert changed > 500


def test_all_noise_gives_no_segment() -> None:
    affinity = np.eye(60, dtype=np.float32) * 5
    assert (clusters(affinity) == -1).all()
    given = scene(affinity=affinity)
    assert (cliptrase(given, rows_of(given)) == -1).all()


def test_planted_things_become_segments() -> None:
    """Left and right halves hold two things, alike within and not between."""
    left = np.arange(60) % 10 < 5
    affinity = (left[:, None] == left[None]).astype(np.float32)
    given = scene(affinity=affinity)
    found = cliptrase(given, rows_of(given))
    assert found.shape == (48, 80) and (found[:, :36] == found[0, 0]).all() and (found[:, 44:] == found[0, 79]).all()
    assert found[0, 0] != found[0, 79]


def test_without_an_affinity_the_cells_own_vectors_stand_in() -> None:
    rng = np.random.default_rng(1)
    looks = np.where(np.arange(10)[None, :, None] < 5, rng.normal(size=32), rng.normal(size=32)) + np.zeros((6, 1, 1))
    given = scene(unit(looks + 0.02 * rng.normal(size=(6, 10, 32))))
    vectors, whole = given.features.vectors.reshape(32, -1).T, given.features.whole
    wanted = np.array([[max(0, a @ b - whole @ b) for b in vectors] for a in vectors])
    np.testing.assert_allclose(own_affinity(given), wanted, atol=1e-5)
    found = cliptrase(given, rows_of(given))
    assert (found[:, :36] == found[0, 0]).all() and found[0, 0] != found[0, 79] >= 0


def test_bad_calls_get_a_sentence() -> None:
    affinity = np.eye(60, dtype=np.float32)
    with pytest.raises(BadUsage, match="got eps 0.0, least 3"):
        clusters(affinity, eps=0.0)
    with pytest.raises(BadInput, match="60 labels for 5x10 cells"):
        segments(affinity, np.zeros(60, np.int64), (5, 10), 48, 80)
    with pytest.raises(BadInput, match=r"affinity must be of the same cells: \[59, 59\] for 6x10 cells"):
        scene(affinity=np.eye(59, dtype=np.float32))
