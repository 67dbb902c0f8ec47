"""Where weight files lie on this machine: the folders, the files in them, and what to do about a file that is missing.

The order of search: a folder named in the call > `$OVSEG_WEIGHTS` (a list of folders) > `weights/` of the checkout >
`$XDG_DATA_HOME/ovseg/weights` of the user > the Hugging Face cache > the files bundled in the wheel.
What is found here is unchecked: `check.path` is the one to load from.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ovseg.errors import MissingWeights
from ovseg.weights.manifest import MANIFEST, WeightFile, row_named


@dataclass(frozen=True)
class Status:
    """A row and where it lies on this machine; `path` is None when it is not here."""

    row: WeightFile
    path: Path | None


def _checkout() -> Path | None:
    """The root of the source tree when this file runs from one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "weights").is_dir() else None


def _in_wheel() -> Path:
    """Where an installed ovseg holds what ships with it."""
    return Path(__file__).parents[1] / "_bundled"


def _user_folder(variable: str, default: str) -> Path:
    """`$XDG_...`/ovseg or its default below the home folder; XDG asks that relative values be ignored."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / default) / "ovseg"


def cache_folder() -> Path:
    """Where ovseg keeps what it can make again: `$XDG_CACHE_HOME/ovseg`."""
    return _user_folder("XDG_CACHE_HOME", ".cache")


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _named_folders(explicit: str | Path | None) -> list[Path]:
    """The folders that the person named: in the call, then in the environment (lists as in PATH)."""
    named = [*str(explicit or "").split(os.pathsep), *os.environ.get("OVSEG_WEIGHTS", "").split(os.pathsep)]
    return [Path(folder).expanduser() for folder in named if folder]


def _folders(explicit: str | Path | None = None) -> list[Path]:
    """The weights folders of the search, without the Hugging Face cache, which has its own layout."""
    checkout = _checkout()
    return [
        *_named_folders(explicit),
        *([checkout / "weights"] if checkout else []),
        _user_folder("XDG_DATA_HOME", ".local/share") / "weights",
    ]


def search_path(explicit: str | Path | None = None) -> list[Path]:
    """All places where weights are sought, first one first; `explicit` is a folder, or several as in PATH."""
    return [*_folders(explicit), _hub_cache(), _in_wheel()]


def default_folder() -> Path:
    """Where `pull` puts things: first folder of `$OVSEG_WEIGHTS`, else `weights/` of the checkout, else the user's."""
    return _folders()[0]


def bundled(relative: str) -> Path:
    """A file or folder that ships with ovseg, in a checkout or in an installed wheel.

    >>> bundled("tiny").name
    'tiny'
    """
    checkout = _checkout()
    top = checkout / "weights" if checkout and relative.split("/")[0] == "tiny" else checkout
    places = [*([top / relative] if top else []), _in_wheel() / relative]
    for place in places:
        if place.exists():
            return place
    raise MissingWeights(f"{relative} ships with ovseg, but is not at {' or '.join(map(str, places))}: reinstall ovseg")


def find(name: str, explicit: str | Path | None = None) -> Path | None:
    """The first file of the search path under this name, unchecked; None when there is none."""
    row = row_named(name)
    for folder in _folders(explicit):
        if (folder / row.saved_as).is_file():
            return folder / row.saved_as
    if row.source == "huggingface":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(row.location, row.file, revision=row.revision or None)
        if isinstance(cached, str):
            return Path(cached)
    shipped = _in_wheel() / row.saved_as
    return shipped if shipped.is_file() else None


def status() -> list[Status]:
    """Every row of the manifest, with its file on this machine or None."""
    return [Status(row, find(row.name)) for row in MANIFEST.values()]


def how_to_get(row: WeightFile, explicit: str | Path | None = None) -> str:
    """One sentence: where the file was sought, and the commands that bring it."""
    elsewhere = [] if row.source == "huggingface" else [_hub_cache()]  # where only hub files are sought
    sought = ", ".join(str(place) for place in search_path(explicit) if place not in elsewhere)
    size = f", {megabytes(row.bytes)}" if row.bytes else ""
    missing = f"{row.saved_as} ({row.name}{size}) is needed and not in {sought}"
    if row.source == "bundled":
        return f"{missing}: it ships with ovseg, so reinstall ovseg"
    return (
        f"{missing}: run `ovseg weights pull {row.name}`, or on a machine with a network "
        f"`ovseg weights pull {row.name} --to DIR`, then copy DIR here and set OVSEG_WEIGHTS=DIR"
    )


def megabytes(count: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


__all__ = [
    "Status",
    "bundled",
    "cache_folder",
    "default_folder",
    "find",
    "how_to_get",
    "megabytes",
    "search_path",
    "status",
]
