import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator

from ovseg import proposals
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.proposals import PROPOSERS, MergeTree, merge_tree, propose, proposer
from ovseg.types import DenseFeatures, Regions, decode_rle
from tests.sam.narrow import narrow_sam

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2

ALL_MASKS = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}
OPTIONS: dict[str, dict[str, Any]] = {"felzenszwalb": {"min_size": 20}, "sam": ALL_MASKS}  # rows that need their own


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def features_of(height: int, width: int, vectors: np.ndarray | None = None) -> DenseFeatures:
    """Features of a picture; one constant vector where none are given."""
    if vectors is None:
        vectors = np.zeros((4, 6, 10), np.float32)
        vectors[0] = 1
    return DenseFeatures(vectors.astype(np.float32), vectors.mean(axis=(1, 2)).astype(np.float32), height, width)


def random_features(rng: Generator, height: int = 48, width: int = 80) -> DenseFeatures:
    vectors = rng.normal(size=(8, 6, 10))
    return features_of(height, width, vectors / np.linalg.norm(vectors, axis=0))


def tiles(noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """48x80 px in six flat tiles, 24 x (20, 35, 25) px, and the number of each pixel's tile."""
    number = np.arange(2).repeat(24)[:, None] * 3 + np.arange(3).repeat([20, 35, 25])
    colours = np.array(
        [[200, 30, 40], [30, 190, 60], [40, 60, 210], [230, 220, 40], [20, 20, 20], [240, 240, 240]], np.uint8
    )
    return colours[number], number


def node_masks(tree: MergeTree) -> set[bytes]:
    return {tree.mask(node).tobytes() for node in range(len(tree.area))}


@pytest.fixture(params=PROPOSERS)
def row(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    name: str = request.param
    return name, {"sam": narrow_sam() if PROPOSERS[name].needs_sam else None, **OPTIONS.get(name, {})}


class TestEveryProposer:
    def test_is_deterministic_inside_the_frame_and_never_empty(self, row: Any, rng: Generator) -> None:
        name, options = row
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        image[:24] = image[0, 0]
        image.setflags(write=False)
        one, two = (propose(name, image, features, **options) for _ in range(2))
        assert (one.height, one.width) == (48, 80)
        assert (one.area > 0).all()
        assert ((one.quality >= 0) & (one.quality <= 1)).all()
        assert one.rles == two.rles and one.quality.tobytes() == two.quality.tobytes()
        if name != "none":
            assert len(one) > 1

    def test_leaves_a_blank_picture_with_none_or_one(self, row: Any) -> None:
        name, options = row
        options = {**options, "box_nms_thresh": 0.7} if name == "sam" else options
        assert len(propose(name, np.full((48, 80, 3), 90, np.uint8), features_of(48, 80), **options)) <= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (16, 3)])
    def test_takes_the_smallest_pictures(self, row: Any, size: tuple[int, int]) -> None:
        name, options = row
        regions = propose(name, np.zeros((*size, 3), np.uint8), features_of(*size), **options)
        assert (regions.height, regions.width) == size

    def test_knows_its_options(self, row: Any) -> None:
        name, options = row
        with pytest.raises(UnknownName, match=f"option of proposer {name}"):
            propose(name, np.zeros((48, 80, 3), np.uint8), features_of(48, 80), **options, nonsense=1)

    def test_refuses_features_of_another_picture(self, row: Any) -> None:
        name, options = row
        with pytest.raises(BadInput, match="48x80, the features are of 80x48"):
            propose(name, np.zeros((48, 80, 3), np.uint8), features_of(80, 48), **options)


def test_names_are_found_whatever_their_case_and_unknown_ones_list_the_known() -> None:
    assert proposer("Felzenszwalb") is PROPOSERS["felzenszwalb"]
    with pytest.raises(UnknownName, match="felzenszwalb, none, sam: got 'felzenswalb'. Did you mean 'felzenszwalb'"):
        proposer("felzenswalb")


def test_a_missing_sam_is_said_with_what_needs_none() -> None:
    with pytest.raises(BadUsage, match=r"sam needs a SAM-type network.*\(none, felzenszwalb\)"):
        propose("sam", np.zeros((48, 80, 3), np.uint8), features_of(48, 80))


class TestSam:
    def test_gives_segment_anythings_own_records(self, rng: Generator) -> None:
        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        options = {**ALL_MASKS, "crop_n_layers": 1, "min_mask_region_area": 5}
        theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
        ours = propose("sam", image, features_of(48, 80), sam=sam, **options)
        assert len(theirs) > 3
        assert (np.stack([record["segmentation"] for record in theirs]) == ours.masks).all()
        assert np.array([r["predicted_iou"] for r in theirs], np.float32).clip(0, 1).tolist() == ours.quality.tolist()
        assert [r["area"] for r in theirs] == ours.area.tolist()

    def test_quality_can_be_the_stability(self, rng: Generator) -> None:
        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **ALL_MASKS).generate(image)
        ours = propose("sam", image, features_of(48, 80), sam=sam, quality="stability_score", **ALL_MASKS)
        assert np.array([record["stability_score"] for record in theirs], np.float32).tolist() == ours.quality.tolist()
        with pytest.raises(UnknownName, match="quality of proposer sam"):
            propose("sam", image, features_of(48, 80), sam=sam, quality="beauty")

    def test_defaults_are_segment_anythings_but_for_the_batch(self) -> None:
        import inspect

        theirs = {
            name: parameter.default
            for name, parameter in inspect.signature(SamAutomaticMaskGenerator).parameters.items()
            if name not in ("model", "point_grids", "output_mode")
        }
        assert {**theirs, "points_per_batch": 16, "quality": "predicted_iou"} == PROPOSERS["sam"].options


class TestFelzenszwalb:
    def test_planted_tiles_come_back_exactly(self) -> None:
        image, number = tiles()
        found = {mask.tobytes() for mask in propose("felzenszwalb", image, features_of(48, 80), sigma=0).masks}
        assert {(number == tile).tobytes() for tile in range(6)} <= found

    def test_blur_moves_a_border_by_a_pixel_at_most(self) -> None:
        image, number = tiles()
        masks = propose("felzenszwalb", image, features_of(48, 80)).masks
        for tile in range(6):
            here = (number == tile).astype(np.uint8)
            inner, outer = (change(here, np.ones((3, 3), np.uint8)) > 0 for change in (cv2.erode, cv2.dilate))
            assert any((mask >= inner).all() and (mask <= outer).all() for mask in masks)

    def test_a_large_picture_is_segmented_small_and_answered_at_its_own_size(self) -> None:
        image, number = tiles()
        image, number = image.repeat(3, axis=0).repeat(3, axis=1), number.repeat(3, axis=0).repeat(3, axis=1)
        regions = propose("felzenszwalb", image, features_of(144, 240), long_side=80, sigma=0)
        assert {(number == tile).tobytes() for tile in range(6)} <= {mask.tobytes() for mask in regions.masks}

    def test_identical_neighbours_are_no_regions(self) -> None:
        image, number = tiles()
        tree = merge_tree(np.full_like(image, 90), number, features_of(48, 80))
        assert (tree.quality[:-1] <= 1e-6).all()

    def test_regions_are_the_best_by_quality_and_size_within_the_bounds(self, rng: Generator) -> None:
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        every = propose("felzenszwalb", image, features, min_size=10, min_area=0.02, max_area=0.5)
        share = every.area / (48 * 80)
        assert ((share >= 0.02) & (share <= 0.5)).all()
        worth = every.quality * np.sqrt(share)
        assert (np.diff(worth) <= 1e-6).all()
        few = propose("felzenszwalb", image, features, min_size=10, min_area=0.02, max_area=0.5, keep=5)
        assert few.rles == every.rles[:5]


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


@pytest.mark.parametrize(
    ("box", "frame"),
    [
        ((3, 5, 9, 14), (17, 23)),  # inside
        ((0, 5, 17, 14), (17, 23)),  # columns of full height, whose runs touch
        ((0, 0, 17, 23), (17, 23)),  # the whole frame
        ((16, 22, 17, 23), (17, 23)),  # the last pixel
        ((4, 4, 4, 4), (17, 23)),  # nothing
    ],
)
def test_run_lengths_from_a_box_are_pycocotools_own(
    box: tuple[int, int, int, int], frame: tuple[int, int], rng: Generator
) -> None:
    top, left, bottom, right = box
    for inside in (np.ones((bottom - top, right - left), bool), rng.random((bottom - top, right - left)) < 0.6):
        full = np.zeros(frame, bool)
        full[top:bottom, left:right] = inside
        edges = np.arange(top, bottom + 1), np.arange(left, right + 1)
        rle = proposals._stretched_rle(inside, *edges, *frame)
        assert coco.encode(np.asfortranarray(full, np.uint8))["counts"].decode() == rle["counts"]
        assert (decode_rle(rle) == full).all()


def test_run_lengths_of_a_stretched_mask_are_those_of_its_pixels(rng: Generator) -> None:
    mask = rng.random((7, 5)) < 0.6
    rows, cols = ((np.arange(n) + 0.5) * cells / n for n, cells in ((17, 7), (23, 5)))
    full = mask[rows.astype(int)[:, None], cols.astype(int)]
    rle = proposals._stretched_rle(mask, proposals._edges(7, 17), proposals._edges(5, 23), 17, 23)
    assert (decode_rle(rle) == full).all()
    assert coco.encode(np.asfortranarray(full, np.uint8))["counts"].decode() == rle["counts"]


def blocks(rng: Generator) -> np.ndarray:
    """48x80 px in 3x4 blocks of unequal size, with shuffled numbers."""
    rows, cols = np.arange(3).repeat([10, 22, 16]), np.arange(4).repeat([13, 30, 21, 16])
    return rng.permutation(12)[rows[:, None] * 4 + cols]


def slow_tree(image: np.ndarray, segments: np.ndarray, features: DenseFeatures) -> tuple[list[np.ndarray], list[float]]:
    """The masks and (running maximum) costs of all merges, every number measured on pixels again after every merge."""
    lab, gradient = proposals._lab_and_gradient(image)
    rows, cols = (((np.arange(n) + 0.5) * cells / n).astype(int) for n, cells in ((48, 6), (80, 10)))
    dense = features.vectors[:, rows[:, None], cols]
    parts = [segments == number for number in np.unique(segments)]
    masks: list[np.ndarray] = []
    births: list[float] = []

    def histogram(mask: np.ndarray) -> np.ndarray:
        flat = np.zeros(image.shape[:2], np.int32)
        return proposals._histograms(lab[mask][None], flat[mask][None], np.array([mask.sum()]))[0].astype(float)

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


def test_no_regions_is_regions() -> None:
    assert isinstance(propose("none", np.zeros((48, 80, 3), np.uint8), features_of(48, 80)), Regions)
