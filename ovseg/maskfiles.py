"""Masks that somebody else made, read from a folder as `Regions`: the proposer `files`.

A picture's masks are sought by its file name; for `shots/tile.jpg` they are in one of

    tile.npz      "masks" (n, rows, cols) of bool, and if need be "quality" (n,)
    tile.png      a number a pixel, 0 for no mask: indexed, grey or 16 bit
    ANY.json      COCO (images, annotations) or SA-1B (image, annotations) with a file_name that ends in tile.jpg; masks
                  as run lengths, compressed or not, or as polygons; "score" or "predicted_iou" is the quality

Without a quality it is 1; numbers outside of [0, 1] are cut there. A mask without a pixel is left out. Nothing is ever
resized: masks of another size than the picture's are refused.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from PIL import Image, UnidentifiedImageError

from ovseg.errors import BadInput, BadUsage
from ovseg.raster import Rle, checked_rle, encode_rle, rles_of
from ovseg.types import Regions

MOST = 10_000  # masks of one picture
FAR = 10  # times the picture's long side: a corner of a polygon beyond it is a mistake
SCORES = ("score", "predicted_iou")


def read_regions(folder: str | Path, picture: str | Path, height: int, width: int) -> Regions:
    """The masks of the picture of that name and size; no file at all, or several, is an error."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise BadUsage(f"proposer files needs the folder of the masks: {folder} is none")
    own = Path(picture)
    found = [
        path
        for path in (place / f"{own.stem}.npz", place / f"{own.stem}.png")
        if path.is_file() and not (own.is_file() and path.samefile(own))
    ]
    lists = [path for path in sorted(place.glob("*.json")) if _listed(path, picture)]
    if len(found) + len(lists) != 1:
        names = ", ".join(path.name for path in [*found, *lists])
        raise BadInput(
            f"{own.name} has its masks in {names} of {place}: keep one of them"
            if names
            else f"no masks of {own.name} are in {place}: sought were {own.stem}.npz, {own.stem}.png and COCO .json "
            f"files with its name"
        )
    if lists:
        return _from_json(lists[0], picture, height, width)
    read = _from_npz if found[0].suffix == ".npz" else _from_png
    return read(found[0], height, width)


def _from_npz(path: Path, height: int, width: int) -> Regions:
    try:
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            held = {name: file[name] for name in ("masks", "quality") if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}; save plain arrays by numpy.savez") from error
    if "masks" not in held or held["masks"].ndim != 3 or held["masks"].dtype != np.bool_:
        came = f"{held['masks'].dtype} of {held['masks'].shape}" if "masks" in held else "no such array"
        raise BadInput(f"masks of {path} must be bool (n, rows, cols): got {came}")
    masks: Bool[np.ndarray, "n height width"] = held["masks"]
    quality = held.get("quality", np.ones(len(masks)))
    if quality.shape != (len(masks),) or quality.dtype.kind not in "fiu":
        raise BadInput(f"quality of {path} must be a number a mask: got {quality.dtype} of {quality.shape}")
    _fits(path, masks.shape[1:], (height, width), len(masks))
    return _regions(height, width, tuple(encode_rle(mask) for mask in masks), quality)


def _from_png(path: Path, height: int, width: int) -> Regions:
    try:
        with Image.open(path) as image:
            mode, numbers = image.mode, np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} cannot be read as a map of masks: {error}") from error
    if numbers.ndim != 2:
        raise BadInput(f"{path} must hold a number a pixel (indexed, grey or 16 bit): got mode {mode}")
    _fits(path, numbers.shape, (height, width), 0)
    ids, owners = np.unique(numbers, return_inverse=True)
    owners = owners.reshape(numbers.shape).astype(np.int64)
    if ids[0] == 0:
        ids, owners = ids[1:], owners - 1
    _fits(path, numbers.shape, (height, width), len(ids))
    return _regions(height, width, tuple(rles_of(owners, len(ids))), np.ones(len(ids)))


def _from_json(path: Path, picture: str | Path, height: int, width: int) -> Regions:
    image, rows = _entry(path, picture)
    size = (image["height"], image["width"])
    _fits(path, size, (height, width), len(rows))
    rles, quality = [], np.ones(len(rows))
    for number, row in enumerate(rows):
        try:
            rle = _rle(row["segmentation"], height, width)
            quality[number] = next((float(row[name]) for name in SCORES if name in row), 1.0)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            told = f"{type(error).__name__} {error}"
            raise BadInput(f"annotation {row.get('id', number)} of {path} is no mask: {told}") from error
        _fits(path, tuple(rle["size"]), (height, width), len(rows))
        rles.append(rle)
    return _regions(height, width, tuple(rles), quality)


def _rle(segmentation: Any, height: int, width: int) -> Rle:
    """COCO's compressed run lengths of any of its three forms; several polygons are one mask."""
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        if not segmentation or any(len(ring) < 6 or len(ring) % 2 for ring in segmentation):
            raise ValueError("a polygon has three corners (x, y) at least")  # pycocotools has no sentence for it
        far = FAR * max(height, width)
        if not all(-far <= number <= far for ring in segmentation for number in ring):
            raise ValueError("a corner is far outside of the picture")  # pycocotools crashes on the farthest
        rle = coco.merge(coco.frPyObjects(segmentation, height, width))
        return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return checked_rle(segmentation)


def _regions(height: int, width: int, rles: tuple[Rle, ...], quality: Shaped[np.ndarray, " n"]) -> Regions:
    made: Float32[np.ndarray, " n"] = np.nan_to_num(quality.astype(np.float32)).clip(0, 1)
    regions = Regions(height, width, rles, made)
    return regions[regions.area > 0]


def _fits(path: Path, came: tuple[int, ...], wanted: tuple[int, int], count: int) -> None:
    if tuple(came) != wanted:
        raise BadInput(
            f"masks must be of the picture's size: {path} is {came[0]}x{came[1]}, the picture is "
            f"{wanted[0]}x{wanted[1]} (rows x cols)"
            + (". Swapped axes?" if tuple(came) == wanted[::-1] else "; nothing is resized")
        )
    if count > MOST:
        raise BadInput(f"{path} has {count:,} masks of one picture, above the limit of {MOST:,}: is it a map of ids?")


def _listed(path: Path, picture: str | Path) -> bool:
    return _place(_names(*_version(path)), picture) is not None


def _entry(path: Path, picture: str | Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    images, rows = _index(*_version(path))
    name = _place(images, picture)
    assert name is not None, "only a file that lists the picture is read"
    image = images[name]
    return image, rows[image["id"]]


def _place(images: Collection[str], picture: str | Path) -> str | None:
    """The listed name of a picture: the longest whose folders agree, its bare name at least."""
    own = PurePosixPath(Path(picture).as_posix()).parts
    fitting = [name for name in images if own[-len(PurePosixPath(name).parts) :] == PurePosixPath(name).parts]
    bare = [name for name in images if PurePosixPath(name).name == own[-1]]
    return max(fitting, key=len) if fitting else bare[0] if len(bare) == 1 else None


def _version(path: Path) -> tuple[str, int, int]:
    stat = os.stat(path)
    return str(path), stat.st_mtime_ns, stat.st_size


@lru_cache(1 << 17)
def _names(path: str, changed: int, size: int) -> tuple[str, ...]:
    """The pictures that a file lists; kept of many files, since a data set may have one for every picture."""
    return tuple(_index(path, changed, size)[0])


@lru_cache(8)
def _index(
    path: str, changed: int, size: int
) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[Any, list[Mapping[str, Any]]]]:
    """Pictures by file name, and annotations by picture, of a file as it is; empty where it is another kind of JSON.

    Kept for the next picture: one such file may list a whole data set.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        return {}, {}
    images: list[Any] = data["images"] if isinstance(data.get("images"), list) else [data.get("image")]
    by_name: dict[str, Mapping[str, Any]] = {}
    rows: dict[Any, list[Mapping[str, Any]]] = {}
    try:
        for image in images:
            own = {
                "id": image.get("id", image.get("image_id")),
                "height": int(image["height"]),
                "width": int(image["width"]),
            }
            rows.setdefault(own["id"], [])
            by_name[str(image["file_name"]).replace("\\", "/")] = own
        alone = images[0].get("id", images[0].get("image_id")) if len(images) == 1 else None
        for row in data["annotations"]:
            rows.setdefault(row.get("image_id", alone), []).append(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} has annotations, but is no COCO file: {type(error).__name__} {error}") from error
    return by_name, rows


__all__ = ["MOST", "read_regions"]
