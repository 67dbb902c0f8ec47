import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from PIL import Image
from pycocotools import mask as coco

from ovseg import export
from ovseg.errors import BadInput, BadUsage
from ovseg.maskfiles import MOST, read_regions
from ovseg.types import Regions
from tests.results import segmentation


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def disjoint(rng: Generator) -> np.ndarray:
    """Three masks of 48x80 px that share no pixel, of which one is in two pieces."""
    number = rng.integers(0, 4, (6, 10)).repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([number == k for k in (1, 2, 3)])


def annotation(mask: np.ndarray, number: int, picture: int, form: str) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    code: Any = {"size": list(mask.shape), "counts": rle["counts"].decode()}
    if form == "runs":
        flat = mask.ravel(order="F").astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
        code = {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}
    return {"id": number, "image_id": picture, "segmentation": code, "category_id": 1}


def listing(masks: np.ndarray, form: str = "text", name: str = "tile.jpg") -> dict[str, Any]:
    height, width = masks.shape[1:]
    image = {"id": 5, "file_name": name, "height": height, "width": width}
    other = {"id": 6, "file_name": "other.jpg", "height": 2, "width": 3}
    rows = [annotation(mask, k, 5, form) for k, mask in enumerate(masks)]
    return {"images": [other, image], "annotations": [annotation(np.ones((2, 3), bool), 99, 6, form), *rows]}


def write(folder: Path, kind: str, masks: np.ndarray) -> None:
    number = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(axis=0)
    if kind == "npz":
        np.savez(folder / "tile.npz", masks=masks)
    elif kind == "indexed":
        image = Image.fromarray(number.astype(np.uint8), "L").convert("P")
        image.putdata(number.ravel().tolist())
        image.save(folder / "tile.png")
    elif kind == "wide":
        Image.fromarray((number * 700).astype(np.uint16)).save(folder / "tile.png")
    else:
        (folder / "anything.json").write_text(json.dumps(listing(masks, kind)))


@pytest.mark.parametrize("kind", ["npz", "indexed", "wide", "text", "runs"])
def test_masks_come_back_in_their_order_from_every_form(tmp_path: Path, rng: Generator, kind: str) -> None:
    masks = disjoint(rng)
    write(tmp_path, kind, masks)
    found = read_regions(tmp_path, Path("shots/tile.jpg"), 48, 80)
    assert found.rles == Regions.from_masks(masks).rles and found.quality.tolist() == [1, 1, 1]


def test_polygons_are_one_mask_an_annotation(tmp_path: Path) -> None:
    rows = [{"id": 1, "image_id": 5, "segmentation": [[2, 3, 12, 3, 12, 9, 2, 9], [30, 3, 40, 3, 40, 9, 30, 9]]}]
    (tmp_path / "a.json").write_text(json.dumps({**listing(np.zeros((0, 48, 80), bool)), "annotations": rows}))
    mask = np.zeros((48, 80), bool)
    mask[3:9, 2:12], mask[3:9, 30:40] = True, True
    assert (read_regions(tmp_path, "tile.jpg", 48, 80).masks == mask[None]).all()


def test_qualities_are_scores_cut_to_one_and_empty_masks_are_left_out(tmp_path: Path, rng: Generator) -> None:
    masks = np.concatenate([disjoint(rng)[:2], np.zeros((1, 48, 80), bool)])
    np.savez(tmp_path / "tile.npz", masks=masks, quality=np.array([0.25, 1.5, 0.5]))
    assert read_regions(tmp_path, "tile.jpg", 48, 80).quality.tolist() == [0.25, 1]
    (tmp_path / "tile.npz").unlink()
    of_sa = listing(masks)
    of_sa["image"], of_sa["annotations"] = of_sa.pop("images")[1], of_sa["annotations"][1:]
    of_sa["image"]["image_id"] = of_sa["image"].pop("id")
    for row, score in zip(of_sa["annotations"], (0.5, 0.75, 1), strict=True):
        del row["image_id"]
        row["predicted_iou"] = score
    (tmp_path / "sa_1.json").write_text(json.dumps(of_sa))
    assert read_regions(tmp_path, "tile.jpg", 48, 80).quality.tolist() == [0.5, 0.75]


def test_a_picture_without_annotations_has_no_regions(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(listing(np.zeros((0, 48, 80), bool))))
    assert len(read_regions(tmp_path, "tile.jpg", 48, 80)) == 0
    np.savez(tmp_path / "plain.npz", masks=np.zeros((0, 48, 80), bool))
    assert len(read_regions(tmp_path, "plain.jpg", 48, 80)) == 0
    Image.fromarray(np.zeros((48, 80), np.uint8)).save(tmp_path / "black.png")
    assert len(read_regions(tmp_path, "black.jpg", 48, 80)) == 0


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, rng: Generator) -> None:
    masks = disjoint(rng)
    data = listing(masks[:1], name="left/tile.jpg")
    data["images"].append({**data["images"][1], "id": 7, "file_name": "right/tile.jpg"})
    data["annotations"].append(annotation(masks[1], 50, 7, "text"))
    (tmp_path / "a.json").write_text(json.dumps(data))
    for name, mask in (("left", masks[0]), ("right", masks[1])):
        assert (read_regions(tmp_path, f"shots/{name}/tile.jpg", 48, 80).masks == mask[None]).all()
    with pytest.raises(BadInput, match=r"no masks of tile.jpg are in .* tile.npz, tile.png and COCO"):
        read_regions(tmp_path, "elsewhere/tile.jpg", 48, 80)


def test_what_ovseg_wrote_as_coco_is_read_and_a_changed_file_is_read_again(tmp_path: Path, rng: Generator) -> None:
    found = segmentation(["aab", "..b", "cc."], ["cat", "dog", "car"], scale=8)
    height, width = found.labels.shape
    (path,) = export.write([("shots/tile.jpg", found)], "coco", tmp_path)
    regions = read_regions(tmp_path, "shots/tile.jpg", height, width)
    assert sorted(rle["counts"] for rle in regions.rles) == sorted(rle["counts"] for rle in found.regions.rles)
    data = json.loads(path.read_text())
    data["annotations"] = data["annotations"][:1]
    path.write_text(json.dumps(data))
    assert len(regions) > 1 and len(read_regions(tmp_path, "shots/tile.jpg", height, width)) == 1


def test_a_file_for_every_picture_is_read_twice_not_once_a_picture(
    tmp_path: Path, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SA-1B has a million of them in its folders."""
    masks, number = disjoint(rng), 20
    for k in range(number):
        (tmp_path / f"sa {k}.json").write_text(json.dumps(listing(masks[: k % 3 + 1], name=f"sa {k}.jpg")))
    read, plain = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(1) or plain(text))
    for k in range(number):
        assert len(read_regions(tmp_path, tmp_path / f"sa {k}.jpg", 48, 80)) == k % 3 + 1
    assert len(read) <= 2 * number


def test_a_picture_is_not_its_own_masks(tmp_path: Path, rng: Generator) -> None:
    picture = tmp_path / "tile.png"
    Image.fromarray(rng.integers(0, 256, (48, 80), np.uint8)).save(picture)
    with pytest.raises(BadInput, match="no masks of tile.png"):
        read_regions(tmp_path, picture, 48, 80)
    write(tmp_path, "npz", disjoint(rng))
    assert len(read_regions(tmp_path, picture, 48, 80)) == 3


@pytest.mark.parametrize("kind", ["npz", "indexed", "text"])
def test_masks_of_another_size_are_refused_with_both(tmp_path: Path, rng: Generator, kind: str) -> None:
    write(tmp_path, kind, disjoint(rng))
    with pytest.raises(BadInput, match=r"is 48x80, the picture is 96x160 \(rows x cols\); nothing is resized"):
        read_regions(tmp_path, "tile.jpg", 96, 160)
    with pytest.raises(BadInput, match="the picture is 80x48 .* Swapped axes"):
        read_regions(tmp_path, "tile.jpg", 80, 48)


def test_a_map_of_too_many_ids_is_refused(tmp_path: Path) -> None:
    numbers = np.arange(101 * 100).reshape(100, 101).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "tile.png")
    with pytest.raises(BadInput, match=f"10,099 masks of one picture, above the limit of {MOST:,}"):
        read_regions(tmp_path, "tile.jpg", 100, 101)


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadUsage, match="needs the folder of the masks: .*gone is none"):
        read_regions(tmp_path / "gone", "tile.jpg", 48, 80)
    write(tmp_path, "npz", disjoint(rng))
    write(tmp_path, "text", disjoint(rng))
    with pytest.raises(BadInput, match=r"tile.jpg has its masks in tile.npz, anything.json of .*: keep one"):
        read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "anything.json").write_text("{")
    with pytest.raises(BadInput, match="anything.json is no JSON"):
        read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "anything.json").write_text('{"annotations": [], "images": [{"id": 1}]}')
    with pytest.raises(BadInput, match="has annotations, but is no COCO file"):
        read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "anything.json").write_text('["another", "kind"]')
    assert len(read_regions(tmp_path, "tile.jpg", 48, 80)) == 3
    for image in ({"id": [1], "height": 48}, {"id": 1, "height": None}, {"id": 1, "height": "tall"}):
        listed = {"annotations": [], "images": [{"file_name": "tile.jpg", "width": 80, **image}]}
        (tmp_path / "anything.json").write_text(json.dumps(listed))
        with pytest.raises(BadInput, match="has annotations, but is no COCO file"):
            read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "anything.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match="anything.json is no JSON"):
        read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "anything.json").unlink()
    for arrays, sentence in (
        ({"masks": np.zeros((48, 80), bool)}, r"must be bool \(n, rows, cols\): got bool of \(48, 80\)"),
        ({"masks": np.zeros((1, 48, 80))}, "got float64 of"),
        ({"other": np.zeros(1)}, "no such array"),
        ({"masks": np.zeros((1, 48, 80), bool), "quality": np.ones(2)}, "quality of .* a number a mask"),
    ):
        np.savez(tmp_path / "tile.npz", **arrays)
        with pytest.raises(BadInput, match=sentence):
            read_regions(tmp_path, "tile.jpg", 48, 80)
    np.savez_compressed(tmp_path / "tile.npz", masks=disjoint(rng))
    packed = bytearray((tmp_path / "tile.npz").read_bytes())
    packed[60:120] = bytes(60)
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    for damage in (b"", b"nothing", b"PK\x03\x04", bytes(packed), stream.getvalue()):
        (tmp_path / "tile.npz").write_bytes(damage)
        with pytest.raises(BadInput, match="tile.npz cannot be read"):
            read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "tile.npz").unlink()
    Image.fromarray(rng.integers(0, 256, (48, 80, 3), np.uint8)).save(tmp_path / "tile.png")
    with pytest.raises(BadInput, match="must hold a number a pixel .* got mode RGB"):
        read_regions(tmp_path, "tile.jpg", 48, 80)
    with monkeypatch.context() as low, pytest.raises(BadInput, match="tile.png cannot be read .* exceeds limit"):
        low.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as of a picture of more than 178 million
        read_regions(tmp_path, "tile.jpg", 48, 80)
    (tmp_path / "tile.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="tile.png cannot be read"):
        read_regions(tmp_path, "tile.jpg", 48, 80)


def test_an_annotation_without_a_mask_is_named(tmp_path: Path, rng: Generator) -> None:
    for wrong in (
        {},
        {"segmentation": None},
        {"segmentation": []},
        {"segmentation": [[1, 2]]},
        {"segmentation": [[0, 0, 1e12, 0, 1e12, 1e12]]},  # pycocotools crashes
        {"segmentation": [[0, 0, 9, 0, 9, float("nan")]]},
        {"segmentation": {"size": [48, 80], "counts": [48 * 80 - 0.5, 0.5]}},
        {"segmentation": {"size": [48, 80]}},
        {"segmentation": {"size": [48, 80], "counts": [3, 4]}},
        {"segmentation": {"size": [48, 80], "counts": "abc"}},
        {"segmentation": {"size": [48, 80], "counts": "5"}},  # too few: pycocotools would make up the rest
        {"segmentation": {"size": [48, 80], "counts": [48 * 80]}, "score": "high"},
    ):
        data = listing(disjoint(rng)[:1])
        data["annotations"][1] = {"id": 17, "image_id": 5, **wrong}
        (tmp_path / "a.json").write_text(json.dumps(data))
        with pytest.raises(BadInput, match="annotation 17 of .* is no mask"):
            read_regions(tmp_path, "tile.jpg", 48, 80)
