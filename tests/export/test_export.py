import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.draw import overlay
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.export import NEEDS_PICTURE, READERS, SHARED_NAMES, WRITERS, Result, file_names, read, save, write
from ovseg.types import Segmentation
from tests.results import segmentation

NAMES = ["cat", "a “dog” 犬", "bird"]
PLANS = [
    ["aaa..bbb", "a.a..bbb", "aaa..bbb", "........", "bb....aa"],  # a ring, two dogs, two cats
    ["......", "......", "......"],
    ["aa", "bb", "cc", "aa"],
]


def results() -> list[Result]:
    rng = np.random.default_rng(0)
    found = [segmentation(plan, NAMES, 4) for plan in PLANS]
    paths = ["one/a.png", "two/a.png", "two/Ü b.jpg"]
    return [
        Result(path, one, rng.integers(0, 256, (*one.labels.shape, 3), np.uint8), 0.25)
        for path, one in zip(paths, found, strict=True)
    ]


def state(result: Result) -> bytes:
    one, image = result.segmentation, result.image
    assert image is not None
    arrays = (one.labels, one.confidence, one.region_labels, one.region_scores, one.regions.quality, image)
    return b"".join(array.tobytes() for array in arrays) + repr(one.regions.rles).encode()


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_writes_the_same_bytes_twice_and_changes_nothing(format: str, tmp_path: Path) -> None:
    given = results()
    before = [state(result) for result in given]
    first, second = write(given, format, tmp_path / "1"), write(given, format, tmp_path / "2")
    assert first and [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert before == [state(result) for result in given]
    assert sorted(first) == sorted((tmp_path / "1").iterdir())  # no temporary file stays


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_takes_no_results_and_results_with_nothing_found(format: str, tmp_path: Path) -> None:
    for path in write([], format, tmp_path / "none"):
        assert isinstance(json.loads(path.read_text()), (list, dict))
    nothing = [result for result in results() if not len(result.segmentation.regions)]
    assert 1 == len(nothing)
    assert write(nothing, format, tmp_path / "nothing")
    if format in READERS:
        (back,) = read(format, tmp_path / "nothing")
        assert (0, (12, 24)) == (len(back.segmentation.regions), back.segmentation.labels.shape)


def rounded(found: Segmentation) -> list[tuple[object, ...]]:
    own = found.region_scores[np.arange(len(found.regions)), found.region_labels]
    rows = zip(found.region_labels.tolist(), own.round(6).tolist(), found.regions.area.tolist(), strict=True)
    return sorted(
        (*row, tuple(box), rle["counts"])
        for row, box, rle in zip(rows, found.regions.boxes.tolist(), found.regions.rles, strict=True)
    )


@pytest.mark.parametrize("format", READERS)
def test_what_was_written_is_read_back(format: str, tmp_path: Path) -> None:
    given = results()
    write(given, format, tmp_path)
    back = {result.path: result for result in read(format, tmp_path)}
    assert {result.path for result in given} == set(back)
    for result in given:
        one, other = result.segmentation, back[result.path].segmentation
        assert one.names == other.names
        assert one.labels.tolist() == other.labels.tolist()
        assert rounded(one) == rounded(other)
        assert one.shares == other.shares
    if format == "json":
        assert {0.25} == {result.seconds for result in back.values()}
        assert {"model": "none"} == back["one/a.png"].segmentation.recipe.to_dict()


@pytest.mark.parametrize("format", READERS)
def test_a_result_that_was_read_back_is_written_to_the_same_bytes(format: str, tmp_path: Path) -> None:
    first = write(results(), format, tmp_path / "1")
    second = write(read(format, tmp_path / "1"), format, tmp_path / "2")
    assert {path.name: path.read_bytes() for path in first} == {path.name: path.read_bytes() for path in second}


def test_coco_is_loaded_by_pycocotools_with_exact_masks(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    given = results()
    (path,) = write(given, "coco", tmp_path)
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert [1, 2, 3] == coco.getCatIds() == coco.getImgIds()
    assert ["one/a.png", "two/a.png", "two/Ü b.jpg"] == [image["file_name"] for image in coco.loadImgs([1, 2, 3])]
    for number, result in enumerate(given, start=1):
        found = result.segmentation
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert len(found.regions) == len(rows)
        drawn = np.full(found.labels.shape, -1)
        for row in rows:
            mask = coco.annToMask(row).astype(bool)
            drawn[mask] = row["category_id"] - 1
            rows_, cols = np.nonzero(mask)
            edges = [cols.min(), rows_.min(), np.ptp(cols) + 1, np.ptp(rows_) + 1]
            assert (int(mask.sum()), edges, 0) == (row["area"], row["bbox"], row["iscrowd"])
            assert 0.5 <= row["score"] <= 1
        assert found.labels.tolist() == drawn.tolist()


def test_coco_regions_run_by_score_and_then_area(tmp_path: Path) -> None:
    (path,) = write(results(), "coco", tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert list(range(1, len(data["annotations"]) + 1)) == [row["id"] for row in data["annotations"]]
    keys = [(row["image_id"], -row["score"], -row["area"]) for row in data["annotations"]]
    assert sorted(keys) == keys
    assert NAMES == [row["name"] for row in data["categories"]]
    assert "犬" in path.read_text(encoding="utf-8")  # UTF-8, not escapes


def test_label_pictures_hold_numbers_that_the_class_table_names(tmp_path: Path) -> None:
    given = results()
    *pictures, table = write(given, "labels", tmp_path)
    assert ["a.labels.png", "a-2.labels.png", "Ü b.labels.png"] == [path.name for path in pictures]
    for path, result in zip(pictures, given, strict=True):
        with Image.open(path) as picture:
            assert (result.segmentation.labels + 1).tolist() == np.asarray(picture).tolist()
    assert [None, *NAMES] == [row["name"] for row in json.loads(table.read_text(encoding="utf-8"))]


def test_overlays_are_the_drawn_pictures(tmp_path: Path) -> None:
    given = results()
    for path, result in zip(write(given, "png", tmp_path), given, strict=True):
        assert result.image is not None
        with Image.open(path) as picture:
            assert overlay(result.image, result.segmentation).tolist() == np.asarray(picture).tolist()


def test_an_overlay_without_its_picture_is_refused(tmp_path: Path) -> None:
    assert {"png"} == NEEDS_PICTURE
    with pytest.raises(BadUsage, match="give the result of a.png its image"):
        write([("a.png", results()[0].segmentation)], "png", tmp_path)


def test_json_lines_are_those_of_the_command_line(tmp_path: Path) -> None:
    result = results()[0]
    (path,) = write([result], "json", tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    expected = {"path": "one/a.png", **result.segmentation.to_dict(), "seconds": 0.25}
    assert expected == data and list(expected) == list(data)


def test_pairs_of_path_and_segmentation_are_results_and_bare_ones_are_known_by_number(tmp_path: Path) -> None:
    found = results()[0].segmentation
    (path,) = write(iter([("one/a.png", found)]), "coco", tmp_path)
    assert "one/a.png" == json.loads(path.read_text())["images"][0]["file_name"]
    (path,) = write([found, found], "coco", tmp_path)
    assert ["000001", "000002"] == [image["file_name"] for image in json.loads(path.read_text())["images"]]
    with pytest.raises(BadUsage, match="or export.Result: got int"):
        write([3], "coco", tmp_path)  # type: ignore[list-item]


@pytest.mark.parametrize("format", sorted(SHARED_NAMES))
def test_one_list_of_classes_cannot_hold_two(format: str, tmp_path: Path) -> None:
    mixed = [("a.png", segmentation(["a"], ["cat"])), ("b.png", segmentation(["a"], ["dog"]))]
    with pytest.raises(BadUsage, match="2 different lists of names"):
        write(mixed, format, tmp_path)


def test_unknown_formats_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="coco, json, labels, png: got 'cocoo'. Did you mean 'coco'"):
        write([], "cocoo", tmp_path)
    with pytest.raises(UnknownName, match="format to read must be one of coco, json"):
        read("png", tmp_path)


@pytest.mark.parametrize(
    "path",
    ["../../x.png", "/etc/x.png", "a/b.png", "..", ".", "", "con.png", "C:\\x\\y.png", "x" * 999 + ".png", "犬" * 99]
    + ["a\0b\n.png", "bad\udcff.png", "..\\..\\x.png", "nul", ".hidden", "x. ."],
)
def test_any_path_gives_files_inside_the_folder(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    found = segmentation(["a."], ["cat"])
    for format in ("labels", "json", "coco"):
        for written in write([(path, found), (path, found)], format, folder):
            assert folder.resolve() == written.resolve().parent
            assert written.exists() and len(os.fsencode(written.name)) < 160
    assert 6 == len(list(folder.iterdir()))  # twice two, the class table, the annotations
    assert [folder] == list((tmp_path / "deep").iterdir()) and [folder.parent] == list(tmp_path.iterdir())


def test_names_differ_also_where_case_is_ignored_and_a_number_is_taken() -> None:
    assert ["x", "X-2", "x-2-2", "x-3"] == file_names(["a/x.png", "b/X.png", "x-2.jpg", "c/x.png"])
    assert [] == file_names([])


def test_a_result_may_bring_its_name(tmp_path: Path) -> None:
    found = segmentation(["a."], ["cat"])
    (path,) = write([Result("a/x.png", found, None, 0.0, "../y")], "json", tmp_path)
    assert tmp_path / "_y.json" == path


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.json", b"old")

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(BadUsage, match="a.json cannot be written: No space left on device"):
        save(path, b"new")
    assert b"old" == path.read_bytes() and [path] == list(tmp_path.iterdir())


def test_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadUsage, match="cannot be written"):
        write([], "coco", tmp_path / "file")
    with pytest.raises(BadInput, match="no annotations at"):
        read("coco", tmp_path)
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(BadInput, match="is not COCO instances"):
        read("coco", tmp_path)
    for format, name in (("coco", "annotations.json"), ("json", "tile.json")):  # pycocotools would make up pixels
        write([("tile.jpg", segmentation(["aa.", "abb"], ["cat", "dog"]))], format, tmp_path)
        text = (tmp_path / name).read_text()
        counts = json.loads(text)["annotations" if format == "coco" else "regions"][0]["segmentation"]["counts"]
        (tmp_path / name).write_text(text.replace(json.dumps(counts), json.dumps(counts[:-1])))
        with pytest.raises(BadInput, match="its counts add up to|written in signs"):
            read(format, tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "annotations.json").write_text("nonsense")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        read("coco", tmp_path)
