import tracemalloc
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from ovseg.encoders import Described
from ovseg.labels import OVERLAPS, compose, joined, merge, own, suppress
from ovseg.raster import decode_rle
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Segmentation, Vocabulary


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def boxes(rng: Generator, count: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Overlapping rectangles and the rings of some."""
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask[top : top + rng.integers(2, 30), left : left + rng.integers(2, 50)] = True
        if rng.random() < 0.3:
            mask[top + 1 : top + 3, left + 1 : left + 3] = False
    return masks


class TestPainting:
    @pytest.mark.parametrize(("policy", "sign"), [("smallest", -1), ("largest", 1), ("vote", -1)])
    def test_by_area_equals_masks_painted_one_over_another(self, policy: str, sign: int, rng: Generator) -> None:
        masks, posteriors = boxes(rng, 12), rng.random(12)
        expected = np.full((48, 80), -1)
        painting = sorted(range(12), key=lambda i: (sign * int(masks[i].sum()), float(posteriors[i])))
        for i in painting:
            for row, col in zip(*np.nonzero(masks[i]), strict=True):
                expected[row, col] = i
        assert (expected == own(Regions.from_masks(masks), posteriors, policy)).all()

    @pytest.mark.parametrize("policy", OVERLAPS)
    def test_masks_on_all_edges_are_painted_where_they_lie(self, policy: str) -> None:
        """Run lengths that start or end with the frame, columns of full height, one pixel, the whole picture."""
        every = slice(None)
        for shape in ((every, every), (every, slice(0, 3)), (every, slice(77, 80)), (slice(5, 6), every),
                      (slice(0, 1), slice(0, 1)), (slice(47, 48), slice(79, 80))):  # fmt: skip
            mask = np.zeros((1, 48, 80), bool)
            mask[0][shape] = True
            assert (own(Regions.from_masks(mask), np.ones(1), policy) == np.where(mask[0], 0, -1)).all()

    def test_memory_does_not_grow_with_the_number_of_masks(self, rng: Generator) -> None:
        for count in (3, 60):
            regions = Regions.from_masks(boxes(rng, count, 240, 400))
            posteriors = rng.random(count)
            own(regions, posteriors)  # modules that are loaded once
            for policy in OVERLAPS:
                tracemalloc.start()
                own(regions, posteriors, policy)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak <= 16 * 240 * 400


def slow_suppress(masks: np.ndarray, kinds: list[int], claims: list[float], share: float) -> list[bool]:
    keep = []
    for i, part in enumerate(masks):
        inside = [
            j
            for j, whole in enumerate(masks)
            if kinds[i] == kinds[j] and claims[j] > claims[i] and (part & whole).sum() > share * part.sum()
        ]
        keep.append(not inside)
    return keep


class TestSuppress:
    def test_a_part_in_a_surer_whole_of_its_name_goes(self) -> None:
        masks = np.zeros((4, 48, 80), bool)
        masks[0, 5:40, 10:60] = True  # the whole
        masks[1, 10:20, 20:30] = True  # inside it
        masks[2, 10:20, 51:61] = True  # nine columns of ten inside
        masks[3, 0:5, 0:80] = True  # beside it
        regions, kinds = Regions.from_masks(masks), np.array([1, 1, 1, 1])
        assert [True, False, True, True] == suppress(regions, kinds, np.array([0.9, 0.8, 0.8, 0.1]), 0.9).tolist()
        assert [True, False, False, True] == suppress(regions, kinds, np.array([0.9, 0.8, 0.8, 0.1]), 0.89).tolist()
        assert suppress(regions, kinds, np.array([0.7, 0.8, 0.8, 0.1]), 0.5).all()  # the parts are surer
        assert suppress(regions, np.array([1, 2, 2, 1]), np.array([0.9, 0.8, 0.8, 0.1]), 0.5).all()  # of other names
        assert suppress(regions, kinds, np.array([0.9, 0.8, 0.8, 0.1]), 1.0).all()  # off

    def test_equals_every_pair_of_masks_in_any_order(self, rng: Generator) -> None:
        for share in (0.5, 0.9):
            masks = boxes(rng, 30)
            masks[7], masks[8] = masks[3], False  # a copy, an empty one
            kinds, claims = rng.integers(0, 3, 30), rng.choice([0.2, 0.4, 0.6, 0.8], 30)
            found = suppress(Regions.from_masks(masks), kinds, claims, share)
            assert slow_suppress(masks, kinds.tolist(), claims.tolist(), share) == found.tolist()
            assert 0 < found.sum() < 30 and found[8]
            order = rng.permutation(30)
            again = suppress(Regions.from_masks(masks[order]), kinds[order], claims[order], share)
            assert (found[order] == again).all()

    def test_regions_without_a_name_stay(self) -> None:
        masks = np.zeros((2, 4, 6), bool)
        masks[0], masks[1, :2] = True, True
        assert suppress(Regions.from_masks(masks), np.array([-1, -1]), np.array([0.9, 0.1]), 0.5).all()
        parts = np.array([[0, 0, 1, 1]], np.int32)
        assert [0, 1] == merge(parts, np.array([-1, -1]), np.ones((2, 1), np.float32), 0.5).tolist()

    def test_copies_do_not_drop_one_another(self) -> None:
        regions = Regions.from_masks(np.ones((3, 4, 6), bool))
        assert suppress(regions, np.zeros(3, int), np.full(3, 0.5), 0.9).all()

    def test_no_regions(self) -> None:
        assert suppress(Regions.empty(4, 6), np.zeros(0, int), np.zeros(0), 0.9).tolist() == []


def slow_merge(parts: np.ndarray, kinds: np.ndarray, vectors: np.ndarray, above: float) -> list[set[int]]:
    """Pixel by pixel to all eight sides, then groups grown until nothing changes."""
    height, width = parts.shape
    groups = [{i} for i in range(len(kinds))]
    for row, col in np.ndindex(height, width):
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if row + down < height and 0 <= col + right < width:
                i, j = int(parts[row, col]), int(parts[row + down, col + right])
                if min(i, j) >= 0 and kinds[i] == kinds[j] and vectors[i] @ vectors[j] > above:
                    one, other = (next(group for group in groups if k in group) for k in (i, j))
                    if one is not other:
                        groups.remove(other)
                        one |= other
    return groups


class TestMerge:
    def test_alike_neighbours_of_one_name_are_one_thing(self) -> None:
        parts = np.array([[0, 0, -1, 3], [-1, -1, 1, -1], [4, -1, 2, 2]], np.int32)
        near, far = [1.0, 0.0], [0.0, 1.0]
        kinds = np.array([0, 0, 0, 0, 0])
        alike = np.array([near, near, far, near, near], np.float32)
        groups = merge(parts, kinds, alike, 0.95)
        assert [0, 0, 1, 0, 2] == groups.tolist()  # 1 touches 0 and 3 by corners, 2 looks otherwise, 4 touches nobody
        assert [0, 1, 2, 1, 3] == merge(parts, np.array([0, 1, 0, 1, 0]), alike, 0.95).tolist()

    def test_equals_neighbours_met_pixel_by_pixel_in_any_order(self, rng: Generator) -> None:
        for _ in range(5):
            parts = rng.integers(-1, 14, (4, 6)).repeat(3, axis=0).repeat(3, axis=1).astype(np.int32)
            parts[rng.random(parts.shape) < 0.1] = -1
            kinds, angles = rng.integers(0, 2, 16), rng.random(16) * 1.2
            vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
            found = merge(parts, kinds, vectors, 0.95)
            sets = {frozenset(np.flatnonzero(found == group).tolist()) for group in range(found.max() + 1)}
            assert {frozenset(group) for group in slow_merge(parts, kinds, vectors, 0.95)} == sets
            assert 3 < len(sets) < 16
            order = rng.permutation(16)
            again = merge(np.append(np.argsort(order), -1).astype(np.int32)[parts], kinds[order], vectors[order], 0.95)
            for i, j in combinations(range(16), 2):
                assert (again[i] == again[j]) == (found[order[i]] == found[order[j]])

    def test_may_be_off_and_may_have_nothing_to_do(self, rng: Generator) -> None:
        parts = rng.integers(0, 5, (6, 10), np.int32)
        assert [0, 1, 2, 3, 4] == merge(parts, np.zeros(5, int), np.ones((5, 1), np.float32), 1.0).tolist()
        empty = np.full((6, 10), -1, np.int32)
        assert [0, 1] == merge(empty, np.zeros(2, int), np.ones((2, 1), np.float32), 0.5).tolist()
        assert [] == merge(empty, np.zeros(0, int), np.ones((0, 1), np.float32), 0.5).tolist()


class TestJoined:
    def test_numbers_are_means_by_the_pixels_that_are_owned(self) -> None:
        parts = np.array([[0, 0, 0, 1, 2, -1]], np.int32)
        columns = np.array([[1, 10], [5, 20], [7, 30], [9, 40], [3, 60]], np.float32)
        owners, means = joined(parts, columns, np.array([0, 0, 1, 0, 2]))
        assert [[0, 0, 0, 0, 1, -1]] == owners.tolist() and owners.dtype == np.int32
        assert [[2, 12.5], [7, 30], [3, 60]] == means.tolist()  # the fourth owns nothing, the fifth is alone in that

    def test_of_equal_regions_is_what_each_was(self, rng: Generator) -> None:
        parts = rng.integers(-1, 4, (6, 10), np.int32)
        columns = np.repeat(rng.normal(size=(1, 3)).astype(np.float32), 4, axis=0)
        owners, means = joined(parts, columns, np.array([0, 1, 0, 1]))
        np.testing.assert_allclose(columns[:2], means, rtol=1e-6)
        assert (np.where(parts < 0, -1, parts % 2) == owners).all()


def test_decoding_is_pycocotools_own(rng: Generator) -> None:
    """What `own` reads off run lengths is what decoding gives, for masks of every density."""
    for density in (0.0, 0.01, 0.5, 0.99, 1.0):
        masks = rng.random((1, 7, 9)) < density
        regions = Regions.from_masks(masks)
        assert (decode_rle(regions.rles[0]) == (own(regions, np.ones(1)) == 0)).all()


# In an answer


THINGS = np.eye(4, 8, dtype=np.float32)  # cat, dog, and what the last two stand for: the negative, the ground
WORDS = Vocabulary(("cat", "dog"), THINGS[:3], np.array([0, 1, -1]))


def answered(masks: np.ndarray, vectors: list[list[float]], ground: int = 2, **choices: Any) -> Segmentation:
    """An answer on cells that all say the same, to regions that say what is given."""
    cells = np.ascontiguousarray(np.broadcast_to(THINGS[ground][:, None, None], (8, 6, 10)))
    features = DenseFeatures(cells, cells.mean(axis=(1, 2)), 48, 80)
    said = np.zeros((len(vectors), 8), np.float32)
    said[:, :4] = vectors
    said /= np.linalg.norm(said, axis=1, keepdims=True)
    recipe = Recipe(scale=10.0, **choices)
    return compose(features, WORDS, regions=Regions.from_masks(masks), described=Described(said), recipe=recipe)


@pytest.mark.parametrize("overlap", [name for name, row in OVERLAPS.items() if not row.votes and name != "iom"])
def test_a_planted_part_goes_into_its_whole_and_what_is_beside_it_stays(overlap: str) -> None:
    masks = np.zeros((3, 48, 80), bool)
    masks[0, 8:40, 8:40], masks[1, 16:24, 16:24], masks[2, 16:24, 48:64] = True, True, True
    cats = [[1, 0, 0, 0], [0.9, 0, 0, 0.5], [0.9, 0, 0, 0.5]]
    apart, whole = (answered(masks, cats, overlap=overlap, suppress=share) for share in (1.0, 0.9))
    assert (apart.labels == np.where(masks.any(axis=0), 0, -1)).all() and (apart.labels == whole.labels).all()
    assert {1024, 128} == {one.area for one in whole.instances()} and len(whole.instances()) == 2
    assert len(apart.instances()) == 2 + (overlap == "smallest")  # there the part has its pixels
    dog = answered(masks, [cats[0], [0, 1, 0, 0], cats[2]], overlap="smallest", suppress=0.9)
    assert ["cat", "cat", "dog"] == sorted(one.name for one in dog.instances())


def test_alike_neighbours_become_one_thing_with_the_mean_of_what_they_said() -> None:
    masks = np.zeros((4, 48, 80), bool)
    masks[0, 8:40, 8:24], masks[1, 8:40, 24:32], masks[2, 8:40, 32:40], masks[3, 8:40, 56:64] = True, True, True, True
    said = [[1, 0, 0, 0], [1, 0, 0, 0.3], [1, 0.9, 0, 0], [1, 0, 0, 0]]
    apart, merged = (answered(masks, said, merge=above) for above in (1.0, 0.95))
    assert [512, 256, 256, 256] == sorted((one.area for one in apart.instances()), reverse=True)
    assert [768, 256, 256] == sorted((one.area for one in merged.instances()), reverse=True)
    rows = np.array([[10, 0, 0], [10 / np.sqrt(1.09), 0, 0]])
    mean = np.exp((2 * rows[0] + rows[1]) / 3)
    first = max(merged.instances(), key=lambda one: one.area)
    assert first.score == pytest.approx(mean[0] / mean.sum(), abs=1e-6)
    assert (apart.labels == merged.labels).all()
    again = merged.with_threshold(0.99)
    assert [768, 256] == sorted((one.area for one in again.instances()), reverse=True)  # the third is a dog as well


def test_ground_is_not_merged_into_a_thing_whose_name_comes_second_there() -> None:
    masks = np.zeros((2, 48, 80), bool)
    masks[0, 8:40, 8:24], masks[1, 8:40, 24:72] = True, True
    found = answered(masks, [[0.8, 0, 0.6, 0], [0.6, 0, 0.8, 0]], merge=0.9)
    assert (found.labels == np.where(masks[0], 0, -1)).all()


def test_voting_keeps_the_dense_map_and_gives_each_part_its_majority(rng: Generator) -> None:
    """Pixel by pixel: the smallest mask that covers a pixel, and the label that most of that part's pixels have."""
    cells = rng.normal(size=(8, 6, 10)).astype(np.float32)
    cells[:3] += 1
    cells /= np.linalg.norm(cells, axis=0)
    features = DenseFeatures(cells, cells.mean(axis=(1, 2)), 48, 80)
    masks = boxes(rng, 8)
    regions, said = Regions.from_masks(masks), Described(THINGS[rng.integers(0, 2, 8)])
    none = Regions.empty(48, 80), Described(np.zeros((0, 8), np.float32))
    dense = compose(features, WORDS, regions=none[0], described=none[1], recipe=Recipe(scale=10.0, threshold=0.4))
    found = compose(
        features, WORDS, regions=regions, described=said, recipe=Recipe(scale=10.0, threshold=0.4, overlap="vote")
    )
    parts = np.full((48, 80), -1)
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        parts[masks[i]] = i
    expected = dense.labels.copy()
    for i in range(8):
        votes = dense.labels[parts == i].tolist()
        if votes:
            expected[parts == i] = max(sorted(set(votes)), key=votes.count)
    assert (expected == found.labels).all() and 0.05 < (expected != dense.labels).mean() < 0.9
    assert (found.with_threshold(0.4).labels == found.labels).all()


def test_a_phrase_or_the_recipes_own_words_make_a_name_stuff() -> None:
    cells = np.ascontiguousarray(np.broadcast_to(THINGS[0][:, None, None], (8, 6, 10)))
    features = DenseFeatures(cells, cells.mean(axis=(1, 2)), 48, 80)
    words = Vocabulary(
        ("heaven", "cow"), THINGS[[0, 3, 1, 2]], np.array([0, 0, 1, -1]), ("heaven", "sky", "cow", "none")
    )
    nobody = Described(np.zeros((0, 8), np.float32))
    for stuff, expected in (("coco", ("heaven",)), (["COW"], ("cow",)), ("none", ())):
        found = compose(
            features, words, regions=Regions.empty(48, 80), described=nobody, recipe=Recipe(scale=10.0, stuff=stuff)
        )
        assert found.stuff == expected == found.with_threshold(0.1).stuff
        (segment,) = found.panoptic()[1]
        assert segment["isthing"] == ("heaven" not in expected) == bool(found.instances())
