import itertools

import numpy as np
import pytest
from numpy.random import Generator

from ovseg import mergetree
from ovseg.mergetree import MergeTree, merge_tree
from ovseg.types import DenseFeatures
from tests.scenes import features_of, random_features


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def node_masks(tree: MergeTree) -> set[bytes]:
    return {tree.mask(node).tobytes() for node in range(len(tree.area))}


class TestMergeTree:
    def test_children_partition_their_parent_and_costs_never_fall(self, rng: Generator) -> None:
        image = rng.integers(0, 256, (48, 80, 3), np.uint8)
        tree = merge_tree(image, blocks(rng), random_features(rng))
        leaves = (len(tree.area) + 1) // 2
        for node in range(leaves, len(tree.area)):
            one, other = np.flatnonzero(tree.parent == node).tolist()
            assert (tree.mask(one) ^ tree.mask(other) == tree.mask(node)).all()
            assert not (tree.mask(one) & tree.mask(other)).any()
            assert tree.mask(node).sum() == tree.area[node]
        assert tree.parent[-1] == -1 and tree.mask(len(tree.area) - 1).all()
        assert (tree.birth <= tree.death).all()
        assert (tree.birth[tree.parent[:-1]] == tree.death[:-1]).all()
        assert ((tree.quality >= 0) & (tree.quality <= 1)).all()

    def test_equals_the_slow_reference(self, rng: Generator) -> None:
        image, segments, features = rng.integers(0, 256, (48, 80, 3), np.uint8), blocks(rng), random_features(rng)
        tree = merge_tree(image, segments, features)
        leaves = (len(tree.area) + 1) // 2
        masks, births = slow_tree(image, segments, features)
        assert [mask.tobytes() for mask in masks] == [tree.mask(n).tobytes() for n in range(leaves, len(tree.area))]
        np.testing.assert_allclose(births, tree.birth[leaves:], rtol=1e-4)

    def test_numbers_of_segments_do_not_matter(self, rng: Generator) -> None:
        image, segments, features = rng.integers(0, 256, (48, 80, 3), np.uint8), blocks(rng), random_features(rng)
        shuffled = rng.permutation(int(segments.max()) + 1)[segments] + 5
        one, two = merge_tree(image, segments, features), merge_tree(image, shuffled, features)
        assert node_masks(one) == node_masks(two)
        assert one.quality.tobytes() == two.quality.tobytes()

    @pytest.mark.parametrize("near", [0, 2])
    def test_colour_decides_where_vectors_are_constant(self, near: int) -> None:
        thirds = np.broadcast_to(np.arange(3).repeat([20, 35, 25]), (48, 80))
        shades = np.array([60, 0, 200])
        shades[1] = shades[near] + 6
        image = np.broadcast_to(shades[thirds][..., None], (48, 80, 3)).astype(np.uint8)
        tree = merge_tree(image, thirds, features_of(48, 80))
        assert (tree.mask(3) == (thirds != 2 - near)).all()

    @pytest.mark.parametrize("near", [0, 2])
    def test_meaning_decides_where_colour_is_constant(self, near: int) -> None:
        thirds = np.broadcast_to(np.arange(3).repeat([24, 32, 24]), (48, 80))
        basis = np.eye(4, dtype=np.float32)
        meanings = np.stack([basis[0], basis[near], basis[2]])
        vectors = meanings[np.arange(3).repeat([3, 4, 3])].T[:, None].repeat(6, axis=1)
        tree = merge_tree(np.full((48, 80, 3), 90, np.uint8), thirds, features_of(48, 80, vectors))
        assert (tree.mask(3) == (thirds != 2 - near)).all()

    def test_edges_decide_where_the_rest_is_alike(self) -> None:
        thirds = np.broadcast_to(np.arange(3).repeat([20, 35, 25]), (48, 80))
        image = np.full((48, 80, 3), 90, np.uint8)
        image[:, [8, 20, 62]] = 160  # a line in each segment, and only the second's lies on a border
        tree = merge_tree(image, thirds, features_of(48, 80))
        assert (tree.mask(3) == (thirds != 0)).all()

    def test_one_segment_is_a_tree_of_one(self) -> None:
        tree = merge_tree(np.zeros((5, 7, 3), np.uint8), np.full((5, 7), 3), features_of(5, 7))
        assert tree.area.tolist() == [35] and tree.parent.tolist() == [-1]


def blocks(rng: Generator) -> np.ndarray:
    """48x80 px in 3x4 blocks of unequal size, with shuffled numbers."""
    rows, cols = np.arange(3).repeat([10, 22, 16]), np.arange(4).repeat([13, 30, 21, 16])
    return rng.permutation(12)[rows[:, None] * 4 + cols]


def slow_tree(image: np.ndarray, segments: np.ndarray, features: DenseFeatures) -> tuple[list[np.ndarray], list[float]]:
    """The masks and (running maximum) costs of all merges, every number measured on pixels again after every merge."""
    lab, gradient = mergetree._lab_and_gradient(image)
    rows, cols = (((np.arange(n) + 0.5) * cells / n).astype(int) for n, cells in ((48, 6), (80, 10)))
    dense = features.vectors[:, rows[:, None], cols]
    parts = [segments == number for number in np.unique(segments)]
    masks: list[np.ndarray] = []
    births: list[float] = []

    def histogram(mask: np.ndarray) -> np.ndarray:
        flat = np.zeros(image.shape[:2], np.int32)
        return mergetree._histograms(lab[mask][None], flat[mask][None], np.array([mask.sum()]))[0].astype(float)

    def cost(one: np.ndarray, other: np.ndarray) -> float:
        steps = []
        for row_step, col_step in ((1, 0), (0, 1)):
            here = tuple(slice(None, -1 if step else None) for step in (row_step, col_step))
            there = tuple(slice(1 if step else None, None) for step in (row_step, col_step))
            crossing = (one[here] & other[there]) | (other[here] & one[there])
            steps += ((gradient[here] + gradient[there]) / 2)[crossing].tolist()
        if not steps:
            return np.inf
        a, b = histogram(one), histogram(other)
        colour = sum((x - y) ** 2 / (x + y) for x, y in zip(a, b, strict=True) if x + y > 0) / 2 / 3
        f, g = dense[:, one].mean(axis=1), dense[:, other].mean(axis=1)
        cosine = f @ g / np.linalg.norm(f) / np.linalg.norm(g)
        return float((0.05 + colour) * (0.05 + np.mean(steps)) * (0.05 + (1 - cosine) / 2))

    while len(parts) > 1:
        pairs = itertools.combinations(range(len(parts)), 2)
        price, a, b = min((cost(parts[a], parts[b]), a, b) for a, b in pairs)
        union = parts[a] | parts[b]
        parts = [part for i, part in enumerate(parts) if i not in (a, b)] + [union]
        masks.append(union)
        births.append(max([price, *births]))
    return masks, births
