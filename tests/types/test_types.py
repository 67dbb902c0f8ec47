import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float32, Int16

import ovseg.evidence
from ovseg.errors import BadInput, BadUsage
from ovseg.raster import bilinear, decode_rle, encode_rle, palette, pick, posterior, split, upsample
from ovseg.types import (
    AnomalyMap,
    DenseFeatures,
    Evidence,
    Regions,
    Segmentation,
    Vocabulary,
)
from tests.results import NoRecipe, segmentation

OWNER = np.array([0, 0, 1, 2, -1])  # three names, five rows: two of the first name, one negative


def random_rows(seed: int = 0) -> Float32[np.ndarray, "5 6 10"]:
    return np.random.default_rng(seed).normal(0, 3, (5, 6, 10)).astype(np.float32)


def evidence(seed: int = 0, **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "height": 48,
        "width": 80,
        "owner": OWNER,
        "rows": random_rows(seed),
        "thresholds": np.array([0.4, 0.5, 0.6], np.float32),
    }
    return Evidence(**{**fields, **changes})


def with_parts(**changes: Any) -> Evidence:
    parts = np.full((48, 80), -1, np.int32)
    parts[:20, :30], parts[10:30, 25:50], parts[30:40, 60:70] = 0, 1, 2
    part_rows = np.array([[9, 0, 0, 0, 0], [0, 0, 0, 9, 0], [0, 0, 0, 0, 9]], np.float32)
    quality = np.array([0.9, 0.8, 0.7], np.float32)
    return evidence(parts=parts, part_rows=part_rows, part_quality=quality, **changes)


def decide(given: Evidence) -> Segmentation:
    return Segmentation.decide(["cat", "dog", "fox"], given, NoRecipe())


# A slow, obvious reference


def slow_posterior(rows: list[float], probability: str) -> list[float]:
    """Softmax by hand at one place: three names, then the negative."""
    exp = [float(np.exp(row)) for row in rows]
    slots = [max(exp[0], exp[1]), exp[2], exp[3], exp[4]]
    total = sum(exp) if probability == "rows" else sum(slots)
    return [slot / total for slot in slots]


def slow_pick(slots: list[float], thresholds: list[float]) -> tuple[int, float]:
    names, negatives = slots[: len(thresholds)], slots[len(thresholds) :]
    alive = [k for k, value in enumerate(names) if value >= thresholds[k] and value > 0]
    if not alive or max(negatives, default=0) > max(names[k] for k in alive):
        return -1, max(names)
    label = max(alive, key=lambda k: names[k])
    return label, names[label]


def slow_components(labels: Int16[np.ndarray, "height width"]) -> list[set[tuple[int, int]]]:
    """8-connected places of one label, by flooding."""
    left = {(int(row), int(col)) for row, col in zip(*np.nonzero(labels >= 0), strict=True)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, col = edge.pop()
            part.add((row, col))
            near = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            same = [place for place in near if labels[place] == labels[row, col]]
            left -= set(same)
            edge += same
        parts.append(part)
    return parts


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_posteriors_equal_a_softmax_by_hand(probability: str) -> None:
    rows = random_rows()
    before = rows.copy()
    found = posterior(rows, OWNER, 3, probability)
    expected = np.array([[slow_posterior(rows[:, r, c].tolist(), probability) for c in range(10)] for r in range(6)])
    np.testing.assert_allclose(expected.transpose(2, 0, 1), found, atol=1e-6)
    assert (before == rows).all()


def test_both_probabilities_have_the_same_best_name_and_only_one_is_hurt_by_synonyms() -> None:
    rows = random_rows()
    ours, papers = (posterior(rows, OWNER, 3, kind) for kind in ("names", "rows"))
    assert ours.argmax(axis=0).tolist() == papers.argmax(axis=0).tolist()
    again = np.concatenate([rows, rows[:1]])  # the first row once more, as a synonym
    owner = np.append(OWNER, 0)
    np.testing.assert_allclose(ours, posterior(again, owner, 3, "names"), atol=1e-6)
    assert (posterior(again, owner, 3, "rows") < papers).all()


def test_posteriors_of_large_scores_are_finite_and_of_no_rows_empty() -> None:
    large = posterior(np.array([[500.0], [-500.0], [499.0]], np.float32), np.array([0, 1, -1]), 2, "rows")
    np.testing.assert_allclose([[0.731059], [0.0], [0.268941]], large, atol=1e-5)
    assert (0, 6, 10) == posterior(np.zeros((0, 6, 10), np.float32), np.zeros(0, int), 0, "names").shape


@pytest.mark.parametrize("thresholds", [[0, 0, 0], [0.3, 0.3, 0.3], [0.9, 0.2, 0.1], [1, 1, 1]])
def test_labels_equal_a_choice_by_hand(thresholds: list[float]) -> None:
    slots = posterior(random_rows(1), OWNER, 3, "names")
    cuts = np.array(thresholds, np.float32)
    labels, confidence = pick(slots, cuts)
    for row in range(6):
        for col in range(10):
            label, value = slow_pick(slots[:, row, col].tolist(), cuts.tolist())
            assert (label, pytest.approx(value)) == (labels[row, col], confidence[row, col])


@pytest.mark.parametrize(
    ("slots", "thresholds", "expected"),
    [
        ([0.6, 0.4], [0.5, 0.5], (0, 0.6)),
        ([0.6, 0.4], [0.7, 0.3], (1, 0.4)),  # the best is struck: the next wins
        ([0.6, 0.4], [0.7, 0.7], (-1, 0.6)),
        ([0.5, 0.5], [0.5, 0.5], (0, 0.5)),  # at the threshold is enough; a tie goes to the first
        ([0.3, 0.2, 0.5], [0.1, 0.1], (-1, 0.3)),  # a negative wins
        ([0.4, 0.2, 0.4], [0.1, 0.1], (0, 0.4)),  # a tie with a negative goes to the name
        ([0.0, 0.0], [0.0, 0.0], (-1, 0.0)),  # nobody speaks here
        ([1.0], [], (-1, 0.0)),  # a negative alone
    ],
)
def test_labels_at_the_edges(slots: list[float], thresholds: list[float], expected: tuple[int, float]) -> None:
    label, confidence = pick(np.array(slots, np.float32)[:, None], np.array(thresholds, np.float32))
    assert (expected[0], pytest.approx(expected[1])) == (label[0], confidence[0])


def test_regions_are_the_8_connected_parts_that_flooding_finds() -> None:
    labels = np.random.default_rng(2).integers(-1, 2, (9, 13)).astype(np.int16)
    owners, kinds = split(labels, None, 2)
    found = [set(zip(*(axis.tolist() for axis in np.nonzero(owners == i)), strict=True)) for i in range(len(kinds))]
    assert sorted(map(sorted, slow_components(labels))) == sorted(map(sorted, found))
    assert [labels[next(iter(part))] for part in found] == kinds.tolist()
    assert (labels < 0).tolist() == (owners < 0).tolist()


def test_a_proposal_owns_its_labelled_pixels_though_they_do_not_touch() -> None:
    labels = np.array([[0, -1, 0, 1, 0, 1, -1, 0]], np.int16)
    parts = np.array([[7, 7, 7, -1, -1, 3, -1, -1]], np.int32)
    owners, kinds = split(labels, parts, 2)
    assert [[1, -1, 1, 4, 2, 0, -1, 3]] == owners.tolist()  # proposals by number, then the rest by name
    assert [1, 0, 0, 0, 1] == kinds.tolist()
    owners, kinds = split(np.full((4, 6), -1, np.int16), None, 2)
    assert (-1, 0) == (owners.max(), len(kinds))


# Up-sampling


@pytest.mark.parametrize("size", [(48, 80), (6, 10), (1, 1), (5, 7), (13, 9)])
def test_upsampling_is_torchs(size: tuple[int, int]) -> None:
    rows = random_rows()
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rows)[None], size=size, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(expected, upsample(rows, *size), atol=1e-5)


def test_a_band_of_rows_is_that_band_of_the_whole() -> None:
    rows = random_rows()
    whole = upsample(rows, 48, 80)
    for band in (slice(0, 5), slice(5, 48), slice(47, 48)):
        np.testing.assert_allclose(whole[:, band], upsample(rows, 48, 80, band), atol=1e-6)


def test_weights_of_every_pixel_sum_to_one_and_one_cell_is_flat() -> None:
    np.testing.assert_allclose(1, bilinear(6, 50).sum(axis=1), atol=1e-6)
    assert [[1.0], [1.0], [1.0]] == bilinear(1, 3).tolist()


# Deciding


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_deciding_equals_doing_it_pixel_by_pixel(probability: str) -> None:
    given = evidence(probability=probability)
    found = decide(given)
    whole = upsample(given.rows, 48, 80)
    slots = np.array([[slow_posterior(whole[:, r, c].tolist(), probability) for c in range(80)] for r in range(48)])
    labels = np.array([[slow_pick(list(place), given.thresholds.tolist())[0] for place in line] for line in slots])
    assert labels.tolist() == found.labels.tolist()
    parts = slow_components(found.labels)
    masks = found.regions.masks
    assert sorted(len(part) for part in parts) == sorted(found.regions.area.tolist())
    for mask, kind, scores in zip(masks, found.region_labels, found.region_scores, strict=True):
        assert {int(kind)} == set(found.labels[mask].tolist())
        np.testing.assert_allclose(slots[mask][:, :3].mean(axis=0), scores, atol=1e-5)


def test_every_pixel_has_one_region_or_none_and_no_region_scores_below_its_threshold() -> None:
    for seed in range(20):
        given = evidence(seed)
        found = decide(given)
        assert (found.labels >= 0).tolist() == (found.regions.masks.sum(axis=0) == 1).tolist()
        assert 1 >= found.regions.masks.sum(axis=0).max(initial=0)
        assert (found.own_scores >= given.thresholds[found.region_labels]).all()
        assert (found.confidence[found.labels >= 0] >= given.thresholds[found.labels[found.labels >= 0]]).all()


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (evidence(), with_parts(), with_parts(uncovered="none")):
        whole = decide(given)
        monkeypatch.setattr(ovseg.evidence, "BAND_BYTES", 4 * 5 * 80 * 7)  # seven pixel rows a tile
        assert 7 == len(list(given.tiles()))
        tiled = decide(given)
        monkeypatch.undo()
        assert whole.labels.tolist() == tiled.labels.tolist()
        assert whole.regions.rles == tiled.regions.rles
        np.testing.assert_allclose(whole.region_scores, tiled.region_scores, atol=1e-6)


def test_where_a_proposal_owns_a_pixel_its_scores_decide() -> None:
    given = with_parts()
    found, bare = decide(given), decide(evidence())
    assert given.parts is not None
    for part, label in enumerate((0, 2, -1)):  # the third is a negative's
        assert {label} == set(found.labels[given.parts == part].tolist())
    outside = given.parts < 0
    assert bare.labels[outside].tolist() == found.labels[outside].tolist()
    first = found.regions.masks[0]
    assert first[given.parts == 0].all() and (bare.labels[first & outside] == 0).all()
    np.testing.assert_allclose(slow_posterior([9, 0, 0, 0, 0], "names")[:3], found.region_scores[0], rtol=1e-5)


def check_views(found: Segmentation) -> None:
    """What must hold of the views of any result."""
    ids, records = found.panoptic()
    assert (found.labels == found.semantic()).all()
    by_id = {record["id"]: record for record in records}
    for record in records:
        here = ids == record["id"]
        assert {record["name"]} == {found.names[label] for label in np.unique(found.labels[here])}
        assert np.isin(found.owners[here], record["regions"]).all() and here.sum() == record["area"]
        assert record["isthing"] or (here == found.masks[record["name"]]).all()
    assert ((ids == 0) == (found.labels < 0)).all()
    assert sum(record["area"] for record in records) + (ids == 0).sum() == ids.size
    for one in found.instances():
        assert ((ids == one.id) == one.mask).all() and by_id[one.id]["name"] == one.name
        assert by_id[one.id]["score"] == pytest.approx(one.score, abs=1e-6)
    things = sorted(region for record in records if record["isthing"] for region in record["regions"])
    assert things == sorted(region for one in found.instances() for region in one.regions)


@pytest.mark.parametrize("stuff", [(), ("cat",), ("cat", "dog", "fox")])
def test_semantic_instance_and_panoptic_views_never_disagree(stuff: tuple[str, ...]) -> None:
    for given in (
        evidence(),
        with_parts(),
        with_parts(uncovered="none"),
        evidence(min_area=100),
        with_parts(closing=5),
    ):
        found = dataclasses.replace(decide(given), stuff=stuff)
        check_views(found)
        stricter = found.with_threshold(0.7)
        assert stricter.stuff == stuff
        assert given.uncovered == "none" or (stricter.labels != found.labels).any()
        check_views(stricter)
        stored = dataclasses.replace(found, evidence=None)
        assert stored.panoptic()[1] == found.panoptic()[1] and (stored.panoptic()[0] == found.panoptic()[0]).all()
    check_views(decide(evidence(thresholds=np.ones(3, np.float32))))


def test_without_more_words_are_stuff_as_the_recipe_lists_them() -> None:
    plan = ["aabb.a", "aabb.a"]
    for names, things in ((["sky", "cat"], 1), (["lawn", "dog"], 1), (["cow", "dog"], 3)):
        records = segmentation(plan, names, 8).panoptic()[1]
        assert things == sum(record["isthing"] for record in records)

    class Listed(NoRecipe):
        def to_dict(self) -> dict[str, Any]:
            return {"stuff": ["cat"]}

    listed = dataclasses.replace(segmentation(plan, ["sky", "cat"], 8), recipe=Listed())
    assert [("sky", True), ("cat", False), ("sky", True)] == [
        (record["name"], record["isthing"]) for record in listed.panoptic()[1]
    ]
    with pytest.raises(BadInput, match="stuff must be among the names"):
        dataclasses.replace(listed, stuff=("dog",))


def test_uncovered_pixels_may_stay_unlabelled() -> None:
    given = with_parts(uncovered="none", thresholds=np.zeros(3, np.float32))
    found = decide(given)
    assert given.parts is not None
    assert {-1} == set(found.labels[given.parts < 0].tolist())
    assert 2 == len(found.regions)


def test_small_regions_are_unlabelled_again() -> None:
    every = decide(evidence())
    found = decide(evidence(min_area=100))
    sizes = every.regions.area
    assert (sizes < 100).any()
    assert [rle for rle, size in zip(every.regions.rles, sizes, strict=True) if size >= 100] == list(found.regions.rles)
    kept = found.regions.masks.any(axis=0)
    assert (every.labels[kept] == found.labels[kept]).all() and (found.labels[~kept] == -1).all()
    assert sum(found.shares.values()) == pytest.approx(kept.mean())


def test_another_threshold_is_deciding_afresh_without_touching_the_first() -> None:
    found = decide(evidence())
    before = found.labels.copy()
    for threshold in (0.0, 0.45, 0.9):
        again = found.with_threshold(threshold)
        fresh = decide(evidence(thresholds=np.full(3, threshold, np.float32)))
        assert fresh.labels.tolist() == again.labels.tolist() and fresh.regions.rles == again.regions.rles
    one = found.with_threshold({"dog": 0.95})
    fresh = decide(evidence(thresholds=np.array([0.4, 0.95, 0.6], np.float32)))
    assert fresh.labels.tolist() == one.labels.tolist()
    assert before.tolist() == found.labels.tolist()
    assert found.labels.tolist() == again.with_threshold({"cat": 0.4, "dog": 0.5, "fox": 0.6}).labels.tolist()


def test_thresholds_that_cannot_be_are_refused() -> None:
    found = decide(evidence())
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(BadUsage, match=r"a posterior in \[0, 1\]"):
            found.with_threshold(bad)
    with pytest.raises(BadUsage, match="'cow', which is not among cat, dog, fox"):
        found.with_threshold({"cow": 0.5})
    with pytest.raises(BadUsage, match="keeps no evidence"):
        dataclasses.replace(found, evidence=None).with_threshold(0.5)


def test_names_in_another_order_give_the_same_picture() -> None:
    given = evidence()
    turn = np.array([3, 2, 0, 1, 4])  # fox, dog, cat
    other = evidence(rows=given.rows[turn], owner=np.array([0, 1, 2, 2, -1]), thresholds=given.thresholds[::-1].copy())
    first, second = decide(given), Segmentation.decide(["fox", "dog", "cat"], other, NoRecipe())
    assert np.where(first.labels >= 0, 2 - first.labels, -1).tolist() == second.labels.tolist()
    assert first.shares == {name: second.shares[name] for name in first.names}


@pytest.mark.parametrize("size", [(1, 1), (48, 80), (1, 80)])
def test_a_picture_of_negatives_alone_is_all_unlabelled(size: tuple[int, int]) -> None:
    rows = np.zeros((5, 6, 10), np.float32)
    rows[4] = 9
    found = decide(evidence(height=size[0], width=size[1], rows=rows, thresholds=np.zeros(3, np.float32)))
    assert {-1} == set(found.labels.ravel().tolist())
    assert (0, (0, 3)) == (len(found.regions), found.region_scores.shape)
    assert {"cat": 0.0, "dog": 0.0, "fox": 0.0} == found.shares
    assert "nothing found" in repr(found)


def test_no_names_and_one_name_of_one_pixel_are_answers() -> None:
    nobody = Segmentation.decide([], evidence(owner=np.array([-1] * 5), thresholds=np.zeros(0, np.float32)), NoRecipe())
    assert ({-1}, {}) == (set(nobody.labels.ravel().tolist()), nobody.shares)
    one = segmentation(["a"], ["cat"])
    assert ([[0]], {"cat": 1.0}) == (one.labels.tolist(), one.shares)
    assert [[0, 0, 1, 1]] == one.regions.boxes.tolist()


def test_the_json_object_holds_regions_by_score_and_then_area() -> None:
    found = decide(evidence())
    data = json.loads(json.dumps(found.to_dict()))
    assert ["height", "width", "names", "shares", "regions", "recipe", "notes"] == list(data)
    assert (48, 80, ["cat", "dog", "fox"]) == (data["height"], data["width"], data["names"])
    keys = [(-region["score"], -region["area"]) for region in data["regions"]]
    assert len(found.regions) == len(keys) and sorted(keys) == keys
    for region in data["regions"]:
        mask = decode_rle(region["segmentation"])
        rows, cols = np.nonzero(mask)
        assert [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1] == region["bbox"]
        assert {region["name"]} == {found.names[k] for k in found.labels[mask].tolist()}
        assert mask.sum() == region["area"]


def test_masks_are_one_a_name() -> None:
    found = segmentation(["aab", "..b"], ["cat", "dog"])
    assert [[True, True, False], [False] * 3] == found.masks["cat"].tolist()
    assert {"cat": 2 / 6, "dog": 2 / 6} == found.shares
    assert "cat 33.3%, dog 33.3%" in repr(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probability": "name"}, "names or rows"),
        ({"uncovered": "sparse"}, "dense or none"),
        ({"parts": np.zeros((48, 80), np.int32)}, "come together"),
        (
            {"parts": np.zeros((80, 48), np.int32), "part_rows": np.zeros((1, 5), np.float32)},
            "match the picture: 80x48 came",
        ),
        ({"parts": np.ones((48, 80), np.int32), "part_rows": np.zeros((1, 5), np.float32)}, "part 1 of 1"),
    ],
)
def test_evidence_that_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, BadUsage), match=words):
        evidence(**changes)


def test_a_result_of_two_pictures_is_refused() -> None:
    found = segmentation(["ab", ".."], ["cat", "dog"])
    with pytest.raises(BadInput, match="of one picture"):
        dataclasses.replace(found, regions=Regions.empty(3, 5))
    with pytest.raises(BadInput, match="a label and a row of scores"):
        dataclasses.replace(found, regions=found.regions[[0]])


# Regions


def masks() -> np.ndarray:
    drawn = np.zeros((4, 48, 80), bool)
    drawn[0, 3:9, 5:70], drawn[1, 47, 79], drawn[2] = True, True, True  # the last one stays empty
    return drawn


def test_regions_hold_masks_boxes_and_areas() -> None:
    regions = Regions.from_masks(masks())
    assert (masks() == regions.masks).all()
    assert [[5, 3, 70, 9], [79, 47, 80, 48], [0, 0, 80, 48], [0, 0, 0, 0]] == regions.boxes.tolist()
    assert [390, 1, 3840, 0] == regions.area.tolist()
    assert [1, 1, 1, 1] == regions.quality.tolist()


@pytest.mark.parametrize(
    "keep",
    [np.array([2, 0]), [2, 0], slice(2, None, -2), np.array([2, 0, 0])],
)
def test_regions_are_picked_in_the_order_asked(keep: Any) -> None:
    regions = Regions.from_masks(masks(), np.array([0.1, 0.2, 0.3, 0.4]))
    picked = np.arange(4)[keep]
    assert (masks()[picked] == regions[keep].masks).all()
    np.testing.assert_allclose(regions.quality[picked], regions[keep].quality)


def test_booleans_pick_regions_whether_listed_or_in_an_array_and_nothing_picks_nothing() -> None:
    regions = Regions.from_masks(masks())
    for keep in (np.array([False, True, True, False]), [False, True, True, False]):
        assert [1, 3840] == regions[keep].area.tolist()
    for none in ([], np.zeros(0, bool), np.zeros(4, bool), slice(0, 0)):
        assert 0 == len(regions[none]) and (48, 80) == (regions[none].height, regions[none].width)


def test_no_regions_have_every_column() -> None:
    regions = Regions.empty(48, 80)
    assert (0, 48, 80) == regions.masks.shape
    assert ((0, 4), (0,), 0) == (regions.boxes.shape, regions.area.shape, len(regions))
    assert 0 == len(Regions.from_masks(np.zeros((0, 48, 80), bool)))


def test_regions_of_another_frame_are_refused() -> None:
    code = encode_rle(np.zeros((80, 48), bool))
    with pytest.raises(BadInput, match=r"a mask is 80x48, the picture is 48x80 \(rows x cols\). Swapped axes\?"):
        Regions(48, 80, (code,), np.ones(1, np.float32))
    with pytest.raises(BadInput, match="1 masks, 2 numbers"):
        Regions(80, 48, (code,), np.ones(2, np.float32))


def test_run_lengths_are_cocos_text() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:6, 5:8] = True
    mask[3, 6] = False
    assert {"size": [6, 8], "counts": "o051M0003"} == encode_rle(mask)
    assert mask.tolist() == decode_rle({"size": [6, 8], "counts": "o051M0003"}).tolist()


# Words, features, maps, colours


def unit(rows: int, dim: int = 32) -> Float32[np.ndarray, "rows dim"]:
    vectors = np.random.default_rng(0).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_vocabulary_holds_rows_and_colours_of_its_names() -> None:
    words = Vocabulary(("cat", "dog", "fox"), unit(5), OWNER, ("cat", "kitten", "dog", "fox", "wall"), {"dog": 0.5})
    assert (3, (32, 5), (3, 3)) == (len(words), words.matrix.shape, words.colours.shape)
    assert 0 == len(Vocabulary((), np.zeros((0, 32), np.float32), np.zeros(0, int)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ("cat", "dog", "dog")}, "must differ"),
        ({"owner": np.array([0, 0, 1, 1, -1])}, "each name with a row"),
        ({"owner": np.array([0, 1, 2, 3, -1])}, "owners must be"),
        ({"owner": np.array([0, 1, 2, 0, -2])}, "owners must be"),
        ({"vectors": unit(5) * 2}, "normalise"),
        ({"phrases": ("cat",)}, "5 rows, 1 phrases"),
        ({"thresholds": {"cow": 0.5}}, "cow"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {"names": ("cat", "dog", "fox"), "vectors": unit(5), "owner": OWNER}
    with pytest.raises(BadInput, match=words):
        Vocabulary(**{**fields, **changes})


def test_features_know_their_grid_and_cells() -> None:
    vectors = np.zeros((32, 6, 10), np.float32)
    features = DenseFeatures(vectors, np.zeros(32, np.float32), 50, 80)
    assert ((6, 10), (50 / 6, 8.0)) == (features.grid, features.cell)
    assert (2, 50, 80) == features.upsample(vectors[:2]).shape
    with pytest.raises(BadInput, match="need cells and a picture"):
        DenseFeatures(vectors[:, :0], np.zeros(32, np.float32), 50, 80)
    with pytest.raises(BadInput, match="not finite"):
        DenseFeatures(vectors + np.float32("nan"), np.zeros(32, np.float32), 50, 80)


def test_an_anomaly_map_has_8_connected_regions_at_its_threshold() -> None:
    values = np.zeros((6, 8), np.float32)
    values[1, 1], values[2, 2], values[4, 5:8] = 0.5, 0.75, 3.0
    found = AnomalyMap(values, 3.0, "distance", NoRecipe(), 0.5, "tile")
    assert (values >= 0.5).tolist() == found.mask().tolist()
    regions = found.regions()
    assert ([2, 3], [0.75, 1.0]) == (regions.area.tolist(), regions.quality.tolist())
    assert [[1, 1, 3, 3], [5, 4, 8, 5]] == regions.boxes.tolist()
    assert 0 == len(found.regions(4.0))
    data = json.loads(json.dumps(found.to_dict()))
    assert (6, 8, "tile", 0.5, "distance") == tuple(
        data[key] for key in ("height", "width", "object", "threshold", "unit")
    )
    assert [[5, 4, 3, 1], [1, 1, 2, 2]] == [region["bbox"] for region in data["regions"]]
    assert [3.0, 0.75] == [region["score"] for region in data["regions"]]  # in the map's unit, not clipped
    assert "score 3.000 (distance)" in repr(found)


def test_an_anomaly_map_without_threshold_has_no_mask_of_its_own() -> None:
    found = AnomalyMap(np.zeros((6, 8), np.float32), 0.0, "distance", NoRecipe())
    assert found.mask(0.0).all() and [] == found.to_dict()["regions"]
    with pytest.raises(BadUsage, match="no threshold"):
        found.mask()
    with pytest.raises(BadInput, match="not finite"):
        AnomalyMap(np.full((6, 8), np.inf, np.float32), 0.0, "distance", NoRecipe())


def test_colours_differ_and_do_not_depend_on_how_many_are_asked() -> None:
    many = palette(60)
    assert 60 == len({tuple(colour) for colour in many.tolist()})
    for count in (0, 1, 8, 15, 16):
        assert many[:count].tolist() == palette(count).tolist()
    assert [230, 159, 0] == palette(1)[0].tolist()
