"""Results to files and back: one row of `WRITERS` a format, one of `READERS` where the format can come back.

Every writer changes nothing that it is given, writes under a temporary name and renames, and uses no clock: same
results, same bytes. No results at all, or pictures without a region, give a valid file. Sizes and places are those of
the upright picture; regions run by score, then area, both falling; categories are in the order of the names asked.

| format | files | what it loses |
|---|---|---|
| `png` | NAME.overlay.png: picture, colours, legend | all but the look of it |
| `labels` | NAME.labels.png: class numbers, 0 unlabelled; classes.json | scores, borders between regions of one name |
| `coco` | annotations.json: instances, exact masks, scores | confidence of a pixel, scores of other names, recipe |
| `json` | NAME.json: the object that `ovseg segment --json` prints | confidence of a pixel, scores of other names |
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ovseg import draw
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.raster import Rle, checked_rle, decode_rle
from ovseg.types import Regions, Segmentation

LONGEST_NAME = 120  # bytes of a file name without its ending; file systems take 255
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # Windows opens devices by these names


@dataclass(frozen=True, eq=False)
class Result:
    """One picture's answer: `path` as the person named it, the picture where a format draws it, seconds that it took.

    `name` is the stem of its own files; where it is empty, `write` makes one of the path (`file_names`), unique within
    that call. Who writes one result a call gives the names.
    """

    path: str
    segmentation: Segmentation
    image: UInt8[np.ndarray, "height width 3"] | None = None
    seconds: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class StoredRecipe:
    """The choices that a file remembers, as plain values; empty where its format has no place for them."""

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the values, the same that the recipe itself gave."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return dict(self.values)


def write(results: Iterable[Any], format: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `Result`s, or pairs of a picture's path and its segmentation, into a folder: the files, in order."""
    if format not in WRITERS:
        raise UnknownName.of("format", format, WRITERS)
    given = [_result(item, number) for number, item in enumerate(results, 1)]
    names = {result.segmentation.names for result in given}
    if len(names) > 1 and format in SHARED_NAMES:
        raise BadUsage(
            f"{format} has one list of classes: the results were asked {len(names)} different lists of names"
        )
    stems = file_names([result.path for result in given])
    named = [
        Result(result.path, result.segmentation, result.image, result.seconds, _safe(result.name or stem))
        for result, stem in zip(given, stems, strict=True)
    ]
    return WRITERS[format](named, Path(folder).expanduser())


def read(format: str, folder: str | os.PathLike[str]) -> list[Result]:
    """The results that `write` put into a folder, without what the format loses, so also without evidence."""
    if format not in READERS:
        raise UnknownName.of("format to read", format, READERS)
    return READERS[format](Path(folder).expanduser())


def file_names(paths: Sequence[str]) -> list[str]:
    """A file name without ending for each path: its stem made safe, and told apart where stems are equal.

    >>> file_names(["a/x.png", "b/X.jpg", "../../etc/passwd", "con.png", "a/x.png"])
    ['x', 'X-2', 'passwd', '_con', 'x-3']
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = _safe(PurePosixPath(_posix(path)).stem)
        name, count = stem, 1
        while name.casefold() in taken:  # some file systems hold a and A for one
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def save(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all; its folder is made if it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BadUsage(f"{path} cannot be written: {error.strerror}") from error
    return path


def _write_png(results: Sequence[Result], folder: Path) -> list[Path]:
    written = []
    for result in results:
        if result.image is None:
            raise BadUsage(f"an overlay is drawn on the picture: give the result of {result.path} its image")
        drawn = draw.overlay(result.image, result.segmentation)
        written.append(save(folder / f"{result.name}.overlay.png", draw.png(drawn)))
    return written


def _write_labels(results: Sequence[Result], folder: Path) -> list[Path]:
    written = [save(folder / f"{result.name}.labels.png", draw.index_png(result.segmentation)) for result in results]
    classes = draw.class_table(results[0].segmentation) if results else []
    return [*written, save(folder / "classes.json", _lines(classes))]


def _write_json(results: Sequence[Result], folder: Path) -> list[Path]:
    written = []
    for result in results:
        line = {"path": result.path, **result.segmentation.to_dict(), "seconds": round(result.seconds, 3)}
        written.append(save(folder / f"{result.name}.json", _encode(line)))
    return written


def _write_coco(results: Sequence[Result], folder: Path) -> list[Path]:
    names = results[0].segmentation.names if results else ()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, result in enumerate(results, start=1):
        found = result.segmentation
        height, width = found.labels.shape
        images.append({"id": number, "file_name": _posix(result.path), "width": width, "height": height})
        boxes, area = found.regions.boxes, found.regions.area
        own = found.own_scores
        for i in found.falling.tolist():
            left, top, right, bottom = (int(edge) for edge in boxes[i])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(found.region_labels[i]) + 1,
                    "iscrowd": 0,  # also for run lengths: trainers drop crowds
                    "area": int(area[i]),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": dict(found.regions.rles[i]),
                    "score": round(float(own[i]), 6),
                }
            )
    data = {
        "info": {"description": "ovseg pre-labels"},
        "licenses": [],
        "images": images,
        "categories": [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(names, start=1)],
        "annotations": annotations,
    }
    return [save(folder / "annotations.json", _encode(data))]


def _read_coco(folder: Path) -> list[Result]:
    path = folder / "annotations.json"
    data = _decode(path)
    try:
        names = tuple(row["name"] for row in data["categories"])
        numbers = {row["id"]: k for k, row in enumerate(data["categories"])}
        parts: dict[int, list[tuple[Rle, int, float]]] = {row["id"]: [] for row in data["images"]}
        for row in data["annotations"]:
            code = checked_rle(row["segmentation"])
            parts[row["image_id"]].append((code, numbers[row["category_id"]], float(row.get("score", 1.0))))
        return [
            Result(
                row["file_name"],
                _segmentation(names, row["height"], row["width"], parts[row["id"]], StoredRecipe()),
            )
            for row in data["images"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not COCO instances with run-length masks: {type(error).__name__} {error}") from error


def _read_json(folder: Path) -> list[Result]:
    results = []
    for path in sorted(folder.glob("*.json")):
        data = _decode(path)
        if not isinstance(data, dict) or "regions" not in data:
            continue  # another format's file in the same folder
        try:
            names = tuple(data["names"])
            parts = [
                (checked_rle(row["segmentation"]), names.index(row["name"]), float(row["score"]))
                for row in data["regions"]
            ]
            recipe, notes = StoredRecipe(MappingProxyType(data["recipe"])), tuple(data["notes"])
            found = _segmentation(names, data["height"], data["width"], parts, recipe, notes)
            results.append(Result(data["path"], found, None, float(data["seconds"]), path.stem))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path} is not a result of ovseg: {type(error).__name__} {error}") from error
    return results


def _segmentation(
    names: tuple[str, ...],
    height: int,
    width: int,
    parts: list[tuple[Rle, int, float]],
    recipe: StoredRecipe,
    notes: tuple[str, ...] = (),
) -> Segmentation:
    """A result from its regions: a region's score stands for its pixels' confidence; a later one lies below."""
    codes, kinds, own = [part[0] for part in parts], [part[1] for part in parts], [part[2] for part in parts]
    labels = np.full((height, width), -1, np.int16)
    confidence = np.zeros((height, width), np.float32)
    regions = Regions(height, width, tuple(codes), np.asarray(own, np.float32))
    for code, kind, score in reversed(parts):
        inside = decode_rle(code)
        labels[inside], confidence[inside] = kind, score
    region_labels: Int[np.ndarray, " n"] = np.asarray(kinds, np.int64)
    scores = np.zeros((len(parts), len(names)), np.float32)
    scores[np.arange(len(parts)), region_labels] = own
    return Segmentation(names, labels, confidence, regions, region_labels, scores, recipe, None, notes)


def _result(item: Any, number: int) -> Result:
    if isinstance(item, Result):
        return item
    if isinstance(item, Segmentation):
        return Result(f"{number:06d}", item)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Segmentation):
        return Result(str(item[0]), item[1])
    raise BadUsage(f"results are Segmentation, (path, Segmentation) or export.Result: got {type(item).__name__}")


def _posix(path: str) -> str:
    """The path with / between folders, and signs that UTF-8 cannot hold replaced."""
    return path.replace("\\", "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _safe(name: str) -> str:
    """A name that every file system takes as one file in the folder; a long one keeps a digest of the rest."""
    safe = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", _posix(name)).strip(" .") or "_"
    safe = f"_{safe}" if _RESERVED.match(safe) else safe
    data = safe.encode("utf-8")
    if len(data) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(data).hexdigest()[:8]
    return data[: LONGEST_NAME - 9].decode("utf-8", "ignore") + "-" + digest


def _encode(data: Any) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def _lines(rows: Sequence[Any]) -> bytes:
    """A JSON list with a row a line."""
    stream = io.StringIO()
    stream.write("[\n" if rows else "[")
    stream.write(",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    stream.write("\n]\n" if rows else "]\n")
    return stream.getvalue().encode("utf-8", "replace")


def _decode(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"no annotations at {path}: check the folder") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from error


WRITERS: dict[str, Callable[[Sequence[Result], Path], list[Path]]] = {
    "coco": _write_coco,
    "json": _write_json,
    "labels": _write_labels,
    "png": _write_png,
}
READERS: dict[str, Callable[[Path], list[Result]]] = {"coco": _read_coco, "json": _read_json}
NEEDS_PICTURE = frozenset({"png"})  # their results must carry the image
SHARED_NAMES = frozenset({"coco", "labels"})  # one list of classes for the whole folder

__all__ = [
    "LONGEST_NAME",
    "NEEDS_PICTURE",
    "READERS",
    "Result",
    "SHARED_NAMES",
    "StoredRecipe",
    "WRITERS",
    "file_names",
    "read",
    "save",
    "write",
]
