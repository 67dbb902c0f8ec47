from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ovseg import stages
from ovseg.encoders import Described
from ovseg.errors import BadInput, UnknownName
from ovseg.evidence import Evidence
from ovseg.head import pixels
from ovseg.labels import OVERLAPS, cell_rows, compose, own, region_rows, stitch
from ovseg.raster import posterior
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Segmentation, Vocabulary, Windows


@dataclass(frozen=True)
class Asked:
    """The choices that asking depends on, as a recipe has them."""

    scale: float = 40.0
    probability: str = "names"
    threshold: float = 0.0
    overlap: str = "score"
    stuff: str | tuple[str, ...] = "coco"
    suppress: float = 1.0
    merge: float = 1.0
    uncovered: str = "dense"
    min_area: float = 0.0
    stages: tuple[Any, ...] = ()
    refine: str = "none"
    area: float = 0.0
    closing: int = 0
    absent: str = "off"
    alpha: float = 0.05
    presence_cut: float | None = None
    margin: float = 0.0
    entropy: float = 1.0
    fingerprint: str = "0" * 12

    def to_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(5)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_features(rng: Generator) -> DenseFeatures:
    vectors = unit(rng.normal(size=(6, 10, 32)))
    return DenseFeatures(np.ascontiguousarray(vectors.transpose(2, 0, 1)), vectors.mean(axis=(0, 1)), 48, 80)


def random_vocabulary(rng: Generator) -> Vocabulary:
    """Three names of five rows, two of them of the second name, and a negative."""
    rows = unit(rng.normal(size=(5, 32)))
    return Vocabulary(("cat", "dog", "car"), rows, np.array([0, 1, 1, 2, -1]))


def random_masks(rng: Generator, count: int) -> np.ndarray:
    """Overlapping rectangles, all of different area."""
    masks = np.zeros((count, 48, 80), bool)
    areas: set[int] = set()
    for mask in masks:
        while not mask.any() or int(mask.sum()) in areas:
            mask[:] = False
            top, left = rng.integers(0, 40), rng.integers(0, 70)
            mask[top : top + rng.integers(3, 30), left : left + rng.integers(3, 50)] = True
        areas.add(int(mask.sum()))
    return masks


def planted(rng: Generator, scene: np.ndarray, dim: int = 32) -> tuple[DenseFeatures, np.ndarray]:
    """A world of orthogonal things: cells of the scene (numbers, 6x10) hold theirs, and the things' own vectors."""
    things = np.linalg.qr(rng.normal(size=(dim, dim)))[0].T.astype(np.float32)
    vectors = things[scene]
    return DenseFeatures(np.ascontiguousarray(vectors.transpose(2, 0, 1)), vectors.mean(axis=(0, 1)), 48, 80), things


def ask(
    features: DenseFeatures,
    vocabulary: Vocabulary,
    recipe: Asked | None = None,
    regions: Regions | None = None,
    vectors: np.ndarray | None = None,
    **more: Any,
) -> Segmentation:
    regions = Regions.empty(48, 80) if regions is None else regions
    vectors = np.zeros((0, 32), np.float32) if vectors is None else vectors
    return compose(
        features, vocabulary, regions=regions, described=Described(vectors), recipe=recipe or Asked(), **more
    )


class TestRows:
    def test_are_scaled_cosines(self, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        rows = cell_rows(features, vocabulary, 40.0)
        assert (rows.shape, rows.dtype) == ((5, 6, 10), np.float32)
        expected = 40 * float(vocabulary.vectors[4] @ features.vectors[:, 5, 9])
        assert expected == pytest.approx(float(rows[4, 5, 9]), abs=1e-4)
        vectors = features.vectors[:, :2, 9].T
        np.testing.assert_allclose(rows[:, :2, 9].T, region_rows(vectors, vocabulary, 40.0), atol=1e-4)

    def test_of_another_network_are_refused(self, rng: Generator) -> None:
        other = Vocabulary(("cat",), np.eye(1, 7, dtype=np.float32), np.array([0]))
        with pytest.raises(BadInput, match="rows have 7 numbers, cells have 32"):
            cell_rows(random_features(rng), other, 40.0)


class TestOwn:
    @pytest.mark.parametrize("policy", OVERLAPS)
    def test_disjoint_regions_keep_their_pixels(self, policy: str, rng: Generator) -> None:
        number = np.arange(6).repeat(8)[:, None] % 3 * 4 + np.arange(4).repeat(20)
        regions = Regions.from_masks(number == np.arange(11)[:, None, None])  # the twelfth tile has none
        expected = np.where(number < 11, number, -1)
        assert (own(regions, rng.random(11), policy) == expected).all()

    @pytest.mark.parametrize("policy", OVERLAPS)
    def test_order_and_copies_do_not_matter(self, policy: str, rng: Generator) -> None:
        masks, scores = random_masks(rng, 9), rng.random(9).astype(np.float32)
        straight = own(Regions.from_masks(masks), scores, policy)
        order = rng.permutation(np.append(np.arange(9), [0, 3, 8]))
        shuffled = own(Regions.from_masks(masks[order]), scores[order], policy)
        assert (straight == np.append(order, -1)[shuffled]).all()

    @pytest.mark.parametrize("policy", OVERLAPS)
    def test_order_does_not_matter_where_all_but_the_masks_is_equal(self, policy: str) -> None:
        masks = np.zeros((2, 4, 6), bool)
        masks[0, :, :4], masks[1, :, 2:] = True, True
        one, other = (own(Regions.from_masks(some), np.array([0.5, 0.5]), policy) for some in (masks, masks[::-1]))
        assert (one == np.array([1, 0, -1])[other]).all()

    def test_score_is_the_largest_posterior_times_quality_over_each_pixel(self, rng: Generator) -> None:
        masks, scores, quality = random_masks(rng, 9), rng.random(9), rng.random(9).astype(np.float32)
        claims = np.where(masks, (scores * quality)[:, None, None], -1)
        expected = np.where(masks.any(axis=0), claims.argmax(axis=0), -1)
        assert (expected == own(Regions.from_masks(masks, quality), scores)).all()

    def test_of_equal_scores_the_smaller_wins(self) -> None:
        masks = np.zeros((2, 4, 6), bool)
        masks[0, :, :5], masks[1, 1:3, 2:] = True, True
        assert own(Regions.from_masks(masks), np.array([0.5, 0.5]))[1].tolist() == [0, 0, 1, 1, 1, 1]

    @pytest.mark.parametrize("policy", ["smallest", "largest"])
    def test_of_equal_areas_the_higher_score_wins(self, policy: str) -> None:
        masks = np.zeros((2, 4, 6), bool)
        masks[0, :, :4], masks[1, :, 2:] = True, True
        assert own(Regions.from_masks(masks), np.array([0.5, 0.6]), policy)[0].tolist() == [0, 0, 1, 1, 1, 1]
        assert own(Regions.from_masks(masks), np.array([0.6, 0.5]), policy)[0].tolist() == [0, 0, 0, 0, 1, 1]

    @pytest.mark.parametrize(("policy", "sign"), [("smallest", -1), ("largest", 1)])
    def test_smallest_and_largest_are_painting_loops(self, policy: str, sign: int, rng: Generator) -> None:
        masks = random_masks(rng, 9)
        expected = np.full((48, 80), -1)
        for i in sorted(range(9), key=lambda i: sign * masks[i].sum()):
            expected[masks[i]] = i
        assert (expected == own(Regions.from_masks(masks), rng.random(9), policy)).all()

    def test_iom_drops_what_shares_too_much_with_a_better_one(self) -> None:
        masks = np.zeros((3, 4, 20), bool)
        masks[0, :, :10] = True  # the best
        masks[1, :, 8:14] = True  # a third of it is shared: dropped
        masks[2, :, 13:] = True  # shares a seventh with the second alone: kept
        regions = Regions.from_masks(masks)
        assert own(regions, np.array([0.9, 0.8, 0.7]), "iom")[0].tolist() == [0] * 10 + [-1] * 3 + [2] * 7
        assert own(regions, np.array([0.9, 0.8, 0.7]), "score")[0].tolist() == [0] * 10 + [1] * 4 + [2] * 6

    def test_empty_regions_own_nothing(self) -> None:
        assert (own(Regions.from_masks(np.zeros((2, 4, 6), bool)), np.ones(2)) == -1).all()

    def test_bad_calls_get_a_sentence(self) -> None:
        with pytest.raises(UnknownName, match="iom, largest, score, smallest, vote: got 'biggest'"):
            own(Regions.empty(4, 6), np.zeros(0), "biggest")
        with pytest.raises(BadInput, match="0 regions, 2 posteriors"):
            own(Regions.empty(4, 6), np.zeros(2))


class TestCompose:
    def test_without_regions_the_dense_map_decides(self, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        rows = features.upsample(cell_rows(features, vocabulary, 40.0))
        slots = posterior(rows, vocabulary.owner, 3, "names")
        expected = np.where(slots.argmax(axis=0) < 3, slots.argmax(axis=0), -1)
        assert (expected == ask(features, vocabulary).labels).all()

    def test_a_region_gives_its_name_to_its_pixels_and_the_rest_is_dense_or_nothing(self, rng: Generator) -> None:
        features, things = planted(rng, np.zeros((6, 10), int))
        vocabulary = Vocabulary(("sky", "bird"), things[:2], np.array([0, 1]))
        mask = np.zeros((1, 48, 80), bool)
        mask[0, 5:17, 22:51] = True
        regions = Regions.from_masks(mask)
        seg = ask(features, vocabulary, None, regions, things[[1]])
        assert (np.where(mask[0], 1, 0) == seg.labels).all()
        assert sorted(zip(seg.region_labels.tolist(), seg.regions.area.tolist(), strict=True)) == [
            (0, 48 * 80 - 12 * 29),
            (1, 12 * 29),
        ]
        seg = ask(features, vocabulary, Asked(uncovered="none"), regions, things[[1]])
        assert (np.where(mask[0], 1, -1) == seg.labels).all()

    @pytest.mark.parametrize("overlap", OVERLAPS)
    def test_order_of_regions_and_of_names_and_copies_change_nothing(self, overlap: str, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        regions, vectors = Regions.from_masks(random_masks(rng, 7)), unit(rng.normal(size=(7, 32)))
        recipe = Asked(overlap=overlap, threshold=0.3, scale=10)
        straight = ask(features, vocabulary, recipe, regions, vectors)
        order = rng.permutation(np.append(np.arange(7), [2, 5]))
        renamed = Vocabulary(("car", "cat", "dog"), vocabulary.vectors[[3, 4, 0, 2, 1]], np.array([0, -1, 1, 2, 2]))
        other = ask(features, renamed, recipe, regions[order], vectors[order])
        names = np.array([*straight.names, ""]), np.array([*other.names, ""])
        assert (names[0][straight.labels] == names[1][other.labels]).all()
        np.testing.assert_allclose(straight.confidence, other.confidence, atol=1e-6)

    def test_absent_names_get_no_pixel_in_random_orthogonal_worlds(self, rng: Generator) -> None:
        for _ in range(20):
            present = rng.permutation(20)[:4]
            features, things = planted(rng, present[rng.integers(0, 4, (6, 10))])
            masks = random_masks(rng, 5)
            names = tuple(f"thing {i}" for i in range(20))
            vocabulary = Vocabulary(names, things[:20], np.arange(20))
            vectors = unit(np.stack([features.upsample(features.vectors)[:, mask].mean(axis=1) for mask in masks]))
            seg = ask(features, vocabulary, Asked(threshold=0.5), Regions.from_masks(masks), vectors)
            found = set(np.unique(seg.labels[seg.labels >= 0]).tolist())
            assert found and found <= set(present.tolist())

    def test_one_name_with_negatives_can_abstain(self, rng: Generator) -> None:
        features, things = planted(rng, np.ones((6, 10), int))
        vocabulary = Vocabulary(("cat",), things[:2], np.array([0, -1]))
        masks = random_masks(rng, 3)
        seg = ask(features, vocabulary, None, Regions.from_masks(masks), things[[1, 1, 1]])
        assert (seg.labels == -1).all() and len(seg.regions) == 0

    def test_a_name_goes_before_a_likelier_negative(self, rng: Generator) -> None:
        features, things = planted(rng, np.ones((6, 10), int))
        vocabulary = Vocabulary(("cat",), things[:2], np.array([0, -1]))
        masks = np.zeros((2, 48, 80), bool)
        masks[0], masks[1, 10:20, 30:50] = True, True  # "background" everywhere, a cat in the middle of it
        cat = unit((0.51 * things[0] + 0.5 * things[1])[None])[0]  # a posterior of 0.6, and 1 for the background
        seg = ask(features, vocabulary, None, Regions.from_masks(masks), np.stack([things[1], cat]))
        assert (np.where(masks[1], 0, -1) == seg.labels).all()

    def test_own_thresholds_of_names_go_before_the_recipes(self, rng: Generator) -> None:
        features, things = planted(rng, np.arange(10)[None].repeat(6, axis=0) // 5)
        vocabulary = Vocabulary(("sky", "sea"), things[:2], np.array([0, 1]), thresholds={"sea": 1.0})
        seg = ask(features, vocabulary, Asked(scale=5, threshold=0.5))
        assert seg.shares["sea"] == 0 and 0.4 < seg.shares["sky"] < 0.6
        seg = ask(features, replace(vocabulary, thresholds={}), Asked(scale=5, threshold=0.5))
        assert seg.shares["sea"] > 0.4

    def test_least_area_is_a_share_of_the_picture(self, rng: Generator) -> None:
        scene = np.zeros((6, 10), int)
        scene[2, 3] = 1  # one cell of sixty
        features, things = planted(rng, scene)
        vocabulary = Vocabulary(("sky", "bird"), things[:2], np.array([0, 1]))
        assert ask(features, vocabulary).shares["bird"] > 0
        assert ask(features, vocabulary, Asked(min_area=0.1)).shares["bird"] == 0

    def test_another_threshold_is_the_same_as_asking_again(self, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        regions, vectors = Regions.from_masks(random_masks(rng, 7)), unit(rng.normal(size=(7, 32)))
        low = ask(features, vocabulary, Asked(scale=10), regions, vectors)
        high = ask(features, vocabulary, Asked(scale=10, threshold=0.6), regions, vectors)
        assert not (low.labels == high.labels).all()
        assert (low.with_threshold(0.6).labels == high.labels).all()

    def test_notes_of_the_vocabulary_are_kept(self, rng: Generator) -> None:
        vocabulary = replace(random_vocabulary(rng), notes=("a note",))
        seg = compose(
            random_features(rng),
            vocabulary,
            regions=Regions.empty(48, 80),
            described=Described(np.zeros((0, 32), np.float32)),
            recipe=Asked(),
            notes=["another"],
        )
        assert seg.notes == ("a note", "another")

    def test_regions_of_another_picture_are_refused(self, rng: Generator) -> None:
        with pytest.raises(BadInput, match="80x48 and 48x80"):
            ask(random_features(rng), random_vocabulary(rng), None, Regions.empty(80, 48))


def test_windows_are_stitched_as_the_papers_do() -> None:
    """The slow way: every window padded to the whole canvas, added, divided by the count, by torch."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(4, 3, 2, 3)).astype(np.float32)
    windows = Windows(vectors, np.array([0, 0, 4, 4]), np.array([0, 5, 0, 5]), (8, 12), (12, 17))
    words = Vocabulary(("a", "b"), np.eye(2, 3, dtype=np.float32), np.array([0, 1]))
    total, count = torch.zeros(2, 12, 17), torch.zeros(12, 17)
    for one, top, left in zip(vectors, windows.tops.tolist(), windows.lefts.tolist(), strict=True):
        scores = torch.from_numpy(words.vectors) @ torch.from_numpy(one).flatten(1)
        large = torch.nn.functional.interpolate(scores.view(1, 2, 2, 3), (8, 12), mode="bilinear")[0]
        pad = (left, 17 - left - 12, top, 12 - top - 8)
        total += torch.nn.functional.pad(large, pad)
        count += torch.nn.functional.pad(torch.ones(8, 12), pad)
    np.testing.assert_allclose(stitch(windows, words), total / count, atol=1e-5)
    whole = DenseFeatures(np.ones((3, 2, 2), np.float32), np.ones(3, np.float32), 24, 34, windows)
    np.testing.assert_allclose(cell_rows(whole, words, 10.0), 10 * total / count, atol=1e-4)


class TestStages:
    def test_rows_are_changed_before_anything_is_decided(self, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        picture = rng.integers(0, 256, (48, 80, 3), np.uint8)
        rows = cell_rows(features, vocabulary, 40.0)
        scene = stages.Scene(picture, features, vocabulary, 40.0)
        wanted, _ = stages.apply(["surgery", {"tlp": {"cells": 10}}], scene, rows)
        recipe = Asked(stages=("surgery", {"tlp": {"cells": 10}}))
        seg = ask(features, vocabulary, recipe, picture=picture)
        assert seg.evidence is not None
        np.testing.assert_array_equal(seg.evidence.rows, wanted)
        assert not np.array_equal(seg.labels, ask(features, vocabulary).labels)

    def test_proposals_vote_by_what_the_cells_say(self, rng: Generator) -> None:
        """One proposal whose own vector says bird, over cells of which most say sky."""
        scene = np.zeros((6, 10), int)
        scene[2:4, 2:4] = 1
        features, things = planted(rng, scene)
        vocabulary = Vocabulary(("sky", "bird"), things[:2], np.array([0, 1]))
        mask = np.zeros((1, 48, 80), bool)
        mask[0, 8:40, 8:60] = True
        regions, picture = Regions.from_masks(mask), np.zeros((48, 80, 3), np.uint8)
        owned = ask(features, vocabulary, Asked(), regions, things[[1]])
        assert (owned.labels == mask[0]).all()
        voted = ask(features, vocabulary, Asked(stages=("vote",)), regions, things[[1]], picture=picture)
        assert (voted.labels == 0).all()
        small = Regions.from_masks(np.pad(np.ones((1, 16, 20), bool), ((0, 0), (16, 16), (16, 44))))
        voted = ask(features, vocabulary, Asked(stages=("vote",)), small, things[[0]], picture=picture)
        assert (voted.labels[16:32, 16:36] == 1).all() and len(voted.regions) == 2

    def test_affinity_and_guide_reach_the_stage_that_uses_them(self, rng: Generator) -> None:
        features, vocabulary = random_features(rng), random_vocabulary(rng)
        picture = np.zeros((48, 80, 3), np.uint8)
        half = np.arange(60) % 10 < 5
        affinity = (half[:, None] == half[None]).astype(np.float32)
        seen = replace(features, extras={"affinity": affinity})
        seg = ask(seen, vocabulary, Asked(stages=("cliptrase",)), picture=picture)
        assert len(np.unique(seg.labels[:, :36])) == 1 and len(np.unique(seg.labels[:, 44:])) == 1
        guide = rng.normal(size=(7, 8, 13)).astype(np.float32)
        seg = ask(replace(features, extras={"guide": guide}), vocabulary, Asked(stages=("lposs",)), picture=picture)
        assert seg.evidence is not None and seg.evidence.rows.shape == (5, 8, 13)

    @pytest.mark.parametrize("change", [{"stages": ("tlp",)}, {"refine": "pamr"}])
    def test_stages_and_refining_without_the_picture_are_refused(self, change: dict[str, Any], rng: Generator) -> None:
        with pytest.raises(BadInput, match="look at the picture"):
            ask(random_features(rng), random_vocabulary(rng), Asked(**change))


def test_answer_without_any_region_says_how_near_the_best_name_came() -> None:
    features = DenseFeatures(np.full((2, 3, 5), 0.5**0.5, np.float32), np.ones(2, np.float32) / 2**0.5, 24, 40)
    words = Vocabulary(("cat",), np.array([[1, 0], [0.6, 0.8]], np.float32), np.array([0, -1]))
    none = np.zeros((0, 2), np.float32)
    found = compose(
        features,
        words,
        regions=Regions.empty(24, 40),
        described=Described(none),
        recipe=Recipe(threshold=0.5, min_area=0.0),
    )
    assert len(found.regions) == 0 and found.notes[-1].startswith("nothing was found: no name reaches more than 0.00")
    easier = compose(
        features,
        words,
        regions=Regions.empty(24, 40),
        described=Described(none),
        recipe=Recipe(threshold=0.0, scale=0.1),
    )
    assert len(easier.regions) == 0  # the negative still wins, and the note says by how much
    assert "0.48 of 1" in easier.notes[-1] or "0.49 of 1" in easier.notes[-1]


def test_regions_proposed_from_the_cells_are_as_good_as_regions_given(rng: Generator) -> None:
    features, vocabulary = random_features(rng), random_vocabulary(rng)
    regions = Regions.from_masks(random_masks(rng, 3), np.array([0.9, 0.5, 0.7]))
    vectors = unit(rng.normal(size=(3, 32)))
    given = compose(features, vocabulary, regions=regions, described=Described(vectors), recipe=Asked(threshold=0.45))
    none, empty = Regions.empty(48, 80), np.zeros((0, 32), np.float32)
    alone = compose(features, vocabulary, regions=none, described=Described(empty), recipe=Asked(threshold=0.45))
    seen = []

    def propose(coarse: Evidence) -> tuple[Regions, Described]:
        seen.append(coarse)
        return regions, Described(vectors)

    made = compose(
        features, vocabulary, regions=none, described=Described(empty), recipe=Asked(threshold=0.45), propose=propose
    )
    assert (made.labels == given.labels).all() and (given.labels != alone.labels).any()
    assert made.evidence is not None and (made.evidence.part_quality == regions.quality).all()
    assert (given.labels < 0).any()
    assert (made.with_threshold(0.6).labels == given.with_threshold(0.6).labels).all()
    (coarse,) = seen
    assert coarse.parts is None and (pixels(coarse)[0] == alone.labels).all()
    nothing = compose(
        features,
        vocabulary,
        regions=none,
        described=Described(empty),
        recipe=Asked(threshold=0.45),
        propose=lambda _: (none, Described(empty)),
    )
    assert (nothing.labels == alone.labels).all() and nothing.evidence is not None and nothing.evidence.parts is None
