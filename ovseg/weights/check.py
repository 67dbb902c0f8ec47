"""Whether weight files are what they claim: size and digest against the manifest.

A digest is computed once and remembered in the cache folder; `verify` computes it anew.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import BadWeights, MissingWeights
from ovseg.weights.manifest import MANIFEST, WeightFile, row_named
from ovseg.weights.search import cache_folder, find, how_to_get


@dataclass(frozen=True)
class Check:
    """What a look at one row's file found: `verdict` is `ok`, `bad`, `missing` or `unpublished` (no digest to compare).

    `detail` is a sentence for the person; empty when all is well.
    """

    row: WeightFile
    path: Path | None
    verdict: str
    detail: str


def path(name: str, explicit: str | Path | None = None) -> Path:
    """The file under this name, its size and digest checked (the digest once, then remembered).

    Not here: MissingWeights, with where it was sought and the commands that bring it. Not itself: BadWeights.
    """
    row = row_named(name)
    found = find(name, explicit)
    if found is None:
        raise MissingWeights(how_to_get(row, explicit))
    check = examine(row, found)
    if check.verdict == "bad":
        raise BadWeights(check.detail)
    return found


def verify(*names: str) -> list[Check]:
    """One check a row, digests computed anew; without names, all rows of which a file is here.

    Raises nothing for a bad file, so that all are looked at: a caller that must stop asks for `verdict == "bad"`.
    """
    if names:
        return [examine(row_named(name), find(name), anew=True) for name in names]
    return [examine(row, found, anew=True) for row in MANIFEST.values() if (found := find(row.name)) is not None]


def examine(row: WeightFile, found: Path | None, *, anew: bool = False) -> Check:
    """What one file is, held against its row; `anew` computes the digest though it is remembered."""
    if found is None:
        return Check(row, None, "missing", how_to_get(row))
    size = found.stat().st_size
    if row.bytes and size != row.bytes:
        wrong = f"{row.name} must have {row.bytes:,} bytes: {found} has {size:,}; {_again(row)}"
        return Check(row, found, "bad", wrong)
    if not row.sha256:
        return Check(row, found, "unpublished", f"{row.name} has no published digest to compare {found} with")
    came = sha256(found, anew=anew)
    if came != row.sha256:
        wrong = f"{row.name} must have sha256 {row.sha256[:12]}...: {found} has {came[:12]}...; {_again(row)}"
        return Check(row, found, "bad", wrong)
    return Check(row, found, "ok", "")


def _again(row: WeightFile) -> str:
    return "reinstall ovseg" if row.source == "bundled" else f"delete it and run `ovseg weights pull {row.name}`"


def sha256(file: Path, *, anew: bool = False) -> str:
    """Digest of a file as 64 hex digits, remembered by path, size and time of change until any of them differs."""
    stat = file.stat()
    key, stamp = str(file.resolve()), [stat.st_size, stat.st_mtime_ns]
    memory = _remembered()
    entry = memory.get(key)
    if not anew and isinstance(entry, list) and entry[:2] == stamp:
        return str(entry[2])
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _remember({**_remembered(), key: [*stamp, digest]})
    return digest


def rename(file: Path, target: Path) -> None:
    """Give a file another name; a digest that is remembered of it goes along, since size and time of change do."""
    memory = _remembered()
    entry = memory.pop(str(file.resolve()), None)
    os.replace(file, target)
    if entry is not None:
        _remember({**memory, str(target.resolve()): entry})


def _memory_file() -> Path:
    return cache_folder() / "digests.json"


def _remembered() -> dict[str, Any]:
    try:
        memory = json.loads(_memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not ours to read: digests are computed again
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(memory: Mapping[str, Any]) -> None:
    file = _memory_file()
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    with suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(memory, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(scratch, file)


def recognise(file: Path) -> WeightFile | None:
    """The row of the manifest whose digest this file has, whatever the file is called; None for a stranger."""
    size = file.stat().st_size
    for row in MANIFEST.values():
        if row.sha256 and row.bytes in (0, size) and sha256(file) == row.sha256:
            return row
    return None


__all__ = [
    "Check",
    "examine",
    "path",
    "recognise",
    "rename",
    "sha256",
    "verify",
]
