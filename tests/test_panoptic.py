from pathlib import Path

import numpy as np
import pytest

from ovseg import export
from ovseg.panoptic import Segments, segments_of
from ovseg.raster import decode_rle
from tests.results import segmentation


def a_scene(seed: int, count: int = 11) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """48x80 px in blocks of random owners, some of nobody; regions that own nothing among them."""
    rng = np.random.default_rng(seed)
    owners = rng.integers(-1, count - 1, (6, 10)).repeat(8, axis=0).repeat(8, axis=1)
    owners[rng.random(owners.shape) < 0.05] = -1
    return owners, rng.integers(0, 5, count), rng.random(count), np.array([True, False, False, True, False])


def slow(owners: np.ndarray, kinds: np.ndarray, stuff: np.ndarray) -> tuple[np.ndarray, list[set[int]]]:
    """Pixel by pixel in reading order: a new number where a segment is first met."""
    ids, parts, seen = np.zeros(owners.shape, np.int32), [], {}
    for row, col in np.ndindex(*owners.shape):
        region = int(owners[row, col])
        if region >= 0:
            key = ("stuff", int(kinds[region])) if stuff[kinds[region]] else ("thing", region)
            if key not in seen:
                seen[key] = len(seen) + 1
                parts.append(set())
            ids[row, col] = seen[key]
            parts[seen[key] - 1].add(region)
    return ids, parts


@pytest.mark.parametrize("seed", range(6))
def test_segments_equal_those_met_pixel_by_pixel(seed: int) -> None:
    owners, kinds, scores, stuff = a_scene(seed)
    found = segments_of(owners, kinds, scores, stuff)
    ids, parts = slow(owners, kinds, stuff)
    assert (ids == found.ids).all() and found.ids.dtype == np.int32
    records = found.records(["a", "b", "c", "d", "e"])
    assert [sorted(part) for part in parts] == [record["regions"] for record in records]
    assert list(range(1, len(parts) + 1)) == [record["id"] for record in records]
    for record in records:
        rows, cols = np.nonzero(ids == record["id"])
        left, top = int(cols.min()), int(rows.min())
        assert record["bbox"] == [left, top, int(cols.max()) + 1 - left, int(rows.max()) + 1 - top]
        assert record["area"] == len(rows)
        assert {record["name"]} == {"abcde"[kinds[region]] for region in record["regions"]}
        assert record["isthing"] == (record["name"] not in "ad")
        assert record["score"] == pytest.approx(scores[owners[ids == record["id"]]].mean(), abs=1e-6)
    assert sum(record["area"] for record in records) + (ids == 0).sum() == 48 * 80


def test_instances_are_the_things_of_the_panoptic_map() -> None:
    owners, kinds, scores, stuff = a_scene(1)
    found = segments_of(owners, kinds, scores, stuff)
    instances, records = found.instances("abcde"), found.records("abcde")
    assert sorted(one.id for one in instances) == [record["id"] for record in records if record["isthing"]]
    for one in instances:
        record = records[one.id - 1]
        assert (one.mask == (found.ids == one.id)).all() and (decode_rle(one.rle) == one.mask).all()
        left, top, right, bottom = one.box
        assert (one.name, one.area, [left, top, right - left, bottom - top], list(one.regions)) == tuple(
            record[key] for key in ("name", "area", "bbox", "regions")
        )
    keys = [(-round(one.score, 6), -one.area) for one in instances]
    assert keys == sorted(keys) and len(keys) > 3


def test_order_of_regions_and_of_names_changes_numbers_of_regions_alone() -> None:
    owners, kinds, scores, stuff = a_scene(2)
    rng = np.random.default_rng(3)
    order, names = rng.permutation(len(kinds)), rng.permutation(5)
    place, name = np.argsort(order), np.argsort(names)
    other = segments_of(np.append(place, -1)[owners], name[kinds[order]], scores[order], stuff[names])
    found = segments_of(owners, kinds, scores, stuff)
    assert (found.ids == other.ids).all() and (found.things == other.things).all()
    assert (name[found.kinds] == other.kinds).all()
    np.testing.assert_allclose(found.scores, other.scores, rtol=1e-12)
    assert (found.of_regions[order] == other.of_regions).all()


def nothing(owners: np.ndarray) -> Segments:
    return segments_of(owners, np.zeros(0, np.int64), np.zeros(0), np.zeros(3, bool))


def test_nobodys_picture_has_no_segment() -> None:
    found = nothing(np.full((48, 80), -1))
    assert not found.ids.any() and found.records("abc") == [] == found.instances("abc")


def test_one_region_may_be_the_whole_picture_or_a_pixel() -> None:
    owners = np.zeros((48, 80), np.int64)
    owners[47, 79] = 1
    found = segments_of(owners, np.array([1, 1]), np.array([0.5, 1.0]), np.zeros(2, bool))
    assert [[0, 0, 80, 48], [79, 47, 80, 48]] == found.boxes.tolist() and [48 * 80 - 1, 1] == found.areas.tolist()


@pytest.mark.parametrize("format", ["json", "coco"])
def test_a_result_that_comes_back_from_a_file_has_the_same_segments(format: str, tmp_path: Path) -> None:
    parts = np.full((48, 80), -1, np.int32)
    parts[:24, :32], parts[:24, 32:48], parts[32:, 16:40] = 0, 1, 2
    rows = np.array([[20, 0, 0], [20, 0, 0], [0, 18, 0]], np.float32)
    found = segmentation(["aaabb", "aaa.b", "..b.b"], ["cat", "sky"], 16, parts=parts, part_rows=rows)
    export.write([("a b.jpg", found)], format, tmp_path)
    (read,) = export.read(format, tmp_path)
    assert read.segmentation.evidence is None
    (ids, records), (read_ids, read_records) = found.panoptic(), read.segmentation.panoptic()
    assert (ids == read_ids).all() and len(records) == 3
    for one, other in zip(records, read_records, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert all(one[key] == other[key] for key in ("id", "name", "isthing", "area", "bbox"))
    assert [one.rle for one in found.instances()] == [one.rle for one in read.segmentation.instances()]
