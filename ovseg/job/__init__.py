"""The pre-label job: a folder of pictures into first-draft annotations, begun again as often as need be.

    OUT/job.json           what was asked; another question in the same folder is refused
    OUT/parts/NAME.json    one picture's answer, written whole or not at all: a finished picture is done again only
                           if its bytes changed
    OUT/failures.jsonl     the pictures of the last run that could not be used, and why; the next run tries them again
    OUT/FORMAT/            the annotations, made from all parts, in the order of their paths
    OUT/written.json       digests of these, by which a file that a person has changed since is known

A job that is stopped anywhere goes on when it is called again, and ends with the same bytes as one that never stopped.
The networks are the caller's: the job gets a function from a picture's path to its `Segmentation`.
"""

import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovseg import export, images
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.raster import decode_rle
from ovseg.types import RecipeLike, Regions, Segmentation, Vocabulary

TOGETHER = frozenset({"coco"})  # formats that are one file for all pictures, made of regions alone


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one picture: `state` is "done", "skipped" (done in an earlier run) or "failed" with a message."""

    path: Path
    state: str
    seconds: float = 0.0
    message: str = ""
    segmentation: Segmentation | None = None


@dataclass(frozen=True)
class Summary:
    """A run in numbers: pictures by state, and regions a name and empty pictures over all parts of the job.

    `gone` counts parts whose picture is no longer there: they are kept, and left out of the annotations.
    """

    done: int
    skipped: int
    failed: int
    seconds: float
    regions: Mapping[str, int] = field(default_factory=dict)
    empty: int = 0
    gone: int = 0
    written: tuple[Path, ...] = ()
    failures: Path | None = None


def question(recipe: RecipeLike, vocabulary: Vocabulary, weights: str = "") -> dict[str, Any]:
    """What a job's answers depend on, as plain values: recipe, words, and the digest of the networks' weights."""
    phrases = vocabulary.phrases or ("",) * len(vocabulary.owner)
    rows = list(zip(vocabulary.owner.tolist(), phrases, strict=True))
    return {
        "recipe": recipe.to_dict(),
        "names": [
            {"name": name, "phrases": [text for who, text in rows if who == k]}
            for k, name in enumerate(vocabulary.names)
        ],
        "negatives": [text for who, text in rows if who < 0],
        "thresholds": dict(vocabulary.thresholds),
        "weights": weights,
        **({} if vocabulary.head is None else {"taught": vocabulary.head.digest}),
    }


def run(
    pictures: Sequence[Path],
    segment: Callable[[Path], Segmentation],
    out: Path,
    *,
    asked: Mapping[str, Any],
    root: Path | None = None,
    formats: Sequence[str] = ("coco",),
    on_picture: Callable[[Outcome], None] | None = None,
) -> Summary:
    """Segment every picture that has no part in `out` yet, then write the annotations of all parts in `formats`.

    `asked` is what the answers depend on (`question`). Pictures are known by their path relative to `root`. One that
    raises `BadInput` (or is too large for the memory) becomes a row of failures.jsonl and the others go on; any other
    error, and Ctrl-C, ends the run with all finished parts kept. Raises `BadUsage` where `out` holds another job or
    something else, or where a person has changed a file that would be written again.
    """
    for format in formats:
        if format not in export.WRITERS:
            raise UnknownName.of("format", format, export.WRITERS)
    start = time.perf_counter()
    _claim(out, asked)
    counts = {"done": 0, "skipped": 0, "failed": 0}
    failures: list[dict[str, str]] = []
    told = on_picture or _silent
    try:
        for key, path in {_key(path, root): path for path in pictures}.items():
            outcome = _one(key, path, segment, out / "parts")
            counts[outcome.state] += 1
            if outcome.state == "failed":
                failures.append({"path": key, "message": outcome.message})
            told(outcome)
    finally:
        lines = [json.dumps(row, ensure_ascii=False) for row in failures]
        rows = export.save(out / "failures.jsonl", "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
    regions: dict[str, int] = {row["name"]: 0 for row in asked.get("names", ())}
    empty = 0
    gone = 0
    for part in _parts(out):
        if not _is_there(part, root):
            gone += 1
            continue
        empty += not part["regions"]
        for region in part["regions"]:
            regions[region["name"]] = regions.get(region["name"], 0) + 1
    written = _write(out, formats, root)
    return Summary(**counts, seconds=time.perf_counter() - start, regions=regions, empty=empty, gone=gone,
                   written=tuple(written), failures=rows if failures else None)  # fmt: skip


def _claim(out: Path, asked: Mapping[str, Any]) -> None:
    """Make the folder this job's own, or find that it is."""
    plain = json.loads(json.dumps(asked))
    file = out / "job.json"
    if not file.is_file():
        foreign = sorted(path.name for path in out.iterdir() if path.suffix != ".part") if out.is_dir() else []
        if foreign:
            raise BadUsage(
                f"{out} must be empty or hold a job of ovseg: it holds {', '.join(foreign[:3])}; choose another folder"
            )
        export.save(file, (json.dumps(plain, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadUsage(f"{file} cannot be read ({error}): choose another folder") from error
    if before != plain:
        changes = "; ".join(list(_differences(before, plain))[:3])
        raise BadUsage(
            f"{out} holds a job that asked something else ({changes}): choose another folder, or ask the same again"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Where two trees of plain values part, in words."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        for key in before:
            yield from _differences(before[key], now[key], f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name or 'it'} was {_said(before)}, now {_said(now)}"


def _said(value: Any) -> str:
    """A plain value in few words; names as they are typed."""
    if isinstance(value, list) and all(isinstance(row, dict) and {"name", "phrases"} <= row.keys() for row in value):
        same = [row["phrases"] in ([], [row["name"]]) for row in value]
        typed = (
            row["name"] if one else f"{row['name']}={'|'.join(row['phrases'])}"
            for row, one in zip(value, same, strict=True)
        )
        value = ", ".join(typed)
    text = str(value if value not in ("", [], {}) else "empty")
    return text if len(text) <= 100 else f"{text[:99]}…"


def _key(path: Path, root: Path | None) -> str:
    """The path relative to the root, with / between folders: what a picture is known by."""
    inside = path.relative_to(root) if root is not None and path.is_relative_to(root) else path
    return inside.as_posix()


def _one(key: str, path: Path, segment: Callable[[Path], Segmentation], folder: Path) -> Outcome:
    """A part is known by the picture's path and its bytes: a picture that was changed since is done again."""
    stem = f"{export.file_names([key])[0]}-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
    name = f"{stem}.{_digest(path)[:12] if path.is_file() else 'none'}"
    if (folder / f"{name}.json").is_file():
        return Outcome(path, "skipped")
    start = time.perf_counter()
    try:
        found = segment(path)
    except BadInput as error:
        return Outcome(path, "failed", time.perf_counter() - start, str(error))
    except MemoryError:
        return Outcome(
            path, "failed", time.perf_counter() - start, f"{path} needs more memory than there is: shrink it"
        )
    export.WRITERS["json"]([export.Result(key, found, name=name)], folder)
    for file in folder.glob(f"{glob.escape(stem)}.*.json"):
        if file.name != f"{name}.json":
            file.unlink()  # of the picture as it was before
    return Outcome(path, "done", time.perf_counter() - start, segmentation=found)


def _is_there(part: Mapping[str, Any], root: Path | None) -> bool:
    return (root / part["path"] if root is not None else Path(part["path"])).is_file()


def _parts(out: Path) -> Iterator[dict[str, Any]]:
    """All parts in the order of their pictures' paths, each read when it is its turn."""
    order = []
    for file in (out / "parts").glob("*.json"):
        order.append((str(_read(file)["path"]), file))
    for _, file in sorted(order):
        yield _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        part = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} is damaged ({error}): delete it and run the same job again") from error
    if not isinstance(part, dict) or not {"path", "names", "regions", "height", "width"} <= part.keys():
        raise BadInput(f"{file} is no part of a job: delete it and run the same job again")
    return part


def _write(out: Path, formats: Sequence[str], root: Path | None) -> list[Path]:
    """The annotations in every format, unless that would undo what a person did to them."""
    record = out / "written.json"
    before: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for name, digest in before.items():
        file = out / name
        if Path(name).parts[0] in formats and file.is_file() and _digest(file) != digest:
            raise BadUsage(
                f"{file} was changed after ovseg wrote it and is left alone: move it elsewhere to keep it, then run "
                "the same job again (all pictures are done)"
            )
    written: list[Path] = []

    def parts() -> Iterator[dict[str, Any]]:
        return (part for part in _parts(out) if _is_there(part, root))

    for format in formats:
        if format in TOGETHER:
            results = [export.Result(part["path"], _segmentation(part, painted=False)) for part in parts()]
            written += export.write(results, format, out / format)
            continue
        stems = iter(export.file_names([part["path"] for part in parts()]))
        for part in parts():
            needed = format in export.NEEDS_PICTURE
            picture = images.read((root / part["path"]) if root is not None else part["path"]) if needed else None
            result = export.Result(part["path"], _segmentation(part, painted=True), picture, name=next(stems))
            written += export.write([result], format, out / format)
    files = list(dict.fromkeys(written))
    digests = before | {file.relative_to(out).as_posix(): _digest(file) for file in files}
    export.save(record, (json.dumps(digests, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode())
    return files


def _segmentation(part: Mapping[str, Any], *, painted: bool) -> Segmentation:
    """A part as a result. Unpainted, its maps take no memory and hold nothing: enough where regions alone are asked."""
    height, width, names, found = part["height"], part["width"], tuple(part["names"]), part["regions"]
    own = np.array([region["score"] for region in found], np.float32)
    kinds = np.array([names.index(region["name"]) for region in found], np.int64)
    regions = Regions(height, width, tuple(region["segmentation"] for region in found), own)
    scores = np.zeros((len(found), len(names)), np.float32)
    scores[np.arange(len(found)), kinds] = own
    labels = np.broadcast_to(np.int16(-1), (height, width))
    confidence = np.broadcast_to(np.float32(0), (height, width))
    if painted:
        labels, confidence = labels.copy(), confidence.copy()
        for code, kind, score in zip(regions.rles, kinds, own, strict=True):
            inside = decode_rle(code)
            labels[inside], confidence[inside] = kind, score
    recipe = export.StoredRecipe(part["recipe"])
    return Segmentation(names, labels, confidence, regions, kinds, scores, recipe, None, tuple(part["notes"]))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _silent(outcome: Outcome) -> None:
    """News that nobody asked for."""


__all__ = ["Outcome", "Summary", "TOGETHER", "question", "run"]
