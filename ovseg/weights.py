"""Weight files: which there are, where they lie on this machine, how they come here, whether they are what they claim.

This file owns the manifest (one row a file, with its digest), the search for files, their check, the download, and the
reading of a checkpoint into a plain state dict. It knows nothing of networks: `clip/load` and `sam/load` do that.

The order of search: a folder named in the call > `$OVSEG_WEIGHTS` (a list of folders) > `weights/` of the checkout >
`$XDG_DATA_HOME/ovseg/weights` of the user > the Hugging Face cache > the files bundled in the wheel.

Only `pull` ever touches the network. It writes to `NAME.part`, goes on there after a break, and renames after size and
digest were checked, so a part never counts as installed. Switches, all read at the moment of the call:

    OVSEG_OFFLINE=1, HF_HUB_OFFLINE=1     nothing is tried
    OVSEG_MIRROR=http://host/prefix       stands in for scheme and host of every row fetched by plain HTTPS:
                                          https://a.org/b/c.pth comes from http://host/prefix/b/c.pth
    HF_ENDPOINT=http://host               stands in for the Hugging Face hub (read when huggingface_hub is imported)

The bytes are moved by urllib. The HTTP library under huggingface_hub changed twice (requests, httpx, httpx2), and
`hf_hub_download` (2.4) deletes a part when it is interrupted; so huggingface_hub names the file, the place and the
sign-in, and the transfer that can go on after a break is ours, one for both roads.

The digests, sizes and revisions were taken from public records of these files and cross-checked: OpenAI's are part of
their addresses (openai/CLIP, clip.py); the others each appear in several unrelated repositories, except where the row's
`note` says otherwise. A wrong one can only refuse a file, never let a wrong file pass.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ovseg.errors import BadUsage, BadWeights, MissingWeights, UnknownName, WeightsError

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int | None], None]  # bytes here, bytes in all (None: the server does not say)

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a single byte
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0)  # between tries that bring nothing new; then it is given up, the part is kept
PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})  # worth another try

SOURCES = ("bundled", "https", "huggingface")
YES = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True)
class WeightFile:
    """One file of the manifest; `bytes` is 0 and `sha256` is empty where nothing reliable is published.

    `location` is a folder of the bundle, an address without the file, or a Hugging Face repository, as `source` says.
    `saved_as` is the path below a weights folder. `pickle` files can run code when opened carelessly: they are opened
    when their digest is this row's, and else only on request. `input_size` is the side of a square input in pixels.
    """

    name: str
    source: str
    location: str
    file: str
    licence: str
    what: str
    revision: str = ""
    bytes: int = 0
    sha256: str = ""
    input_size: int = 0
    pickle: bool = False
    saved_as: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UnknownName.of("source of a weight file", self.source, SOURCES)
        if self.source == "https" and not self.location.startswith("https://"):
            raise BadUsage(f"{self.name} must come by https: its location is {self.location!r}")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise BadUsage(f"sha256 of {self.name} must be 64 hex digits or empty: got {self.sha256!r}")
        if not self.licence or not self.file or "/" in self.file:
            raise BadUsage(f"{self.name} needs a licence and a plain file name: got {self.licence!r}, {self.file!r}")
        if not self.saved_as:
            object.__setattr__(self, "saved_as", self.file)


@dataclass(frozen=True)
class Status:
    """A row and where it lies on this machine; `path` is None when it is not here."""

    row: WeightFile
    path: Path | None


@dataclass(frozen=True)
class Check:
    """What a look at one row's file found: `verdict` is `ok`, `bad`, `missing` or `unpublished` (no digest to compare).

    `detail` is a sentence for the person; empty when all is well.
    """

    row: WeightFile
    path: Path | None
    verdict: str
    detail: str


_OPENAI = "https://openaipublic.azureedge.net/clip/models/"  # then the sha256 itself
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_MIT_MIRROR = "MIT (OpenAI's repository; the hub page of this copy says Apache-2.0)"


def _tiny(name: str, file: str, what: str) -> WeightFile:
    return WeightFile(name, "bundled", "tiny", file, "Apache-2.0", what, saved_as=f"tiny/{file}")


def _openai_hub(name: str, repository: str, revision: str, size: int, sha256: str, pixels: int) -> WeightFile:
    return WeightFile(
        name=name,
        source="huggingface",
        location=f"timm/{repository}",
        revision=revision,
        file="open_clip_model.safetensors",
        saved_as=f"{name}.safetensors",
        bytes=size,
        sha256=sha256,
        licence=_MIT_MIRROR,
        what=f"OpenAI CLIP, open_clip keys, float32, {pixels} px",
        input_size=pixels,
    )


def _openai_pt(name: str, file: str, size: int, sha256: str, pixels: int) -> WeightFile:
    return WeightFile(
        name=name,
        source="https",
        location=_OPENAI + sha256,
        file=file,
        bytes=size,
        sha256=sha256,
        licence="MIT",
        what=f"OpenAI CLIP as OpenAI publishes it: TorchScript, float16, {pixels} px",
        input_size=pixels,
        pickle=True,
    )


def _sam(name: str, file: str, size: int, sha256: str, what: str) -> WeightFile:
    return WeightFile(name, "https", _SAM, file, "Apache-2.0", what, "", size, sha256, input_size=1024, pickle=True)


_ROWS = (
    _tiny("tiny-clip", "clip.safetensors", "the bundled CLIP: everyday things, trained for ovseg"),
    _tiny("tiny-clip-config", "clip.json", "its widths and depths"),
    _tiny("tiny-clip-bpe", "bpe.txt.gz", "its tokenizer's merges"),
    _tiny("tiny-clip-names", "names.json", "the names and synonyms that it was taught"),
    _openai_hub(
        "clip-vit-b16-openai",
        "vit_base_patch16_clip_224.openai",
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
        598_516_980,
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        224,
    ),
    _openai_hub(  # for `mobile`: a plain ViT with a quarter of B/16's tokens
        "clip-vit-b32-openai",
        "vit_base_patch32_clip_224.openai",
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        605_143_284,
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        224,
    ),
    _openai_hub(
        "clip-vit-l14-openai",
        "vit_large_patch14_clip_224.openai",
        "18d0535469bb561bf468d76c1d73aa35156c922b",
        1_710_517_724,
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        224,
    ),
    _openai_hub(
        "clip-vit-l14-336-openai",
        "vit_large_patch14_clip_336.openai",
        "81e38efc4637de5023b10e75a7f9bd1c6fa6b010",
        1_711_828_444,
        "fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
        336,
    ),
    WeightFile(
        name="clip-vit-b16-laion2b",
        source="huggingface",
        location="laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        revision="7288da5a0d6f0b51c4a2b27c624837a9236d0112",
        file="open_clip_model.safetensors",
        saved_as="clip-vit-b16-laion2b.safetensors",
        bytes=598_516_980,
        sha256="3f25d29d3cc74e1d25d47e0593b4dd0864ced1e9b4d8e486a247ca4502f227f1",
        licence="MIT",
        what="OpenCLIP trained on LAION-2B, open_clip keys, float32, 224 px",
        input_size=224,
        note="the digest stands in one public record only",
    ),
    _openai_pt(
        "clip-vit-b16-openai-pt",
        "ViT-B-16.pt",
        350_837_078,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        224,
    ),
    _openai_pt(
        "clip-vit-b32-openai-pt",
        "ViT-B-32.pt",
        353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        224,
    ),
    _openai_pt(
        "clip-vit-l14-openai-pt",
        "ViT-L-14.pt",
        932_768_134,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        224,
    ),
    _openai_pt(
        "clip-vit-l14-336-openai-pt",
        "ViT-L-14-336px.pt",
        934_088_680,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        336,
    ),
    _sam(
        "sam-vit-b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        "Segment Anything, ViT-B image encoder",
    ),
    _sam(
        "sam-vit-l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        "Segment Anything, ViT-L image encoder",
    ),
    _sam(
        "sam-vit-h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "Segment Anything, ViT-H image encoder",
    ),
    WeightFile(
        name="mobile-sam",
        source="https",
        location="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
        "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights",
        file="mobile_sam.pt",
        bytes=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        what="Segment Anything with the small TinyViT image encoder (vit_t)",
        input_size=1024,
        pickle=True,
    ),
)

MANIFEST: dict[str, WeightFile] = {row.name: row for row in _ROWS}


# Where files lie ------------------------------------------------------------------------------------------------------


def _row(name: str) -> WeightFile:
    if name not in MANIFEST:
        raise UnknownName.of("weights", name, MANIFEST)
    return MANIFEST[name]


def _checkout() -> Path | None:
    """The root of the source tree when this file runs from one."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "weights").is_dir() else None


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
    return [*_folders(explicit), _hub_cache(), Path(__file__).parent / "_bundled"]


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
    places = [*([top / relative] if top else []), Path(__file__).parent / "_bundled" / relative]
    for place in places:
        if place.exists():
            return place
    raise MissingWeights(f"{relative} ships with ovseg, but is not at {' or '.join(map(str, places))}: reinstall ovseg")


def find(name: str, explicit: str | Path | None = None) -> Path | None:
    """The first file of the search path under this name, unchecked; None when there is none."""
    row = _row(name)
    for folder in _folders(explicit):
        if (folder / row.saved_as).is_file():
            return folder / row.saved_as
    if row.source == "huggingface":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(row.location, row.file, revision=row.revision or None)
        if isinstance(cached, str):
            return Path(cached)
    in_wheel = Path(__file__).parent / "_bundled" / row.saved_as
    return in_wheel if in_wheel.is_file() else None


def path(name: str, explicit: str | Path | None = None) -> Path:
    """The file under this name, its size and digest checked (the digest once, then remembered).

    Not here: MissingWeights, with where it was sought and the commands that bring it. Not itself: BadWeights.
    """
    row = _row(name)
    found = find(name, explicit)
    if found is None:
        raise MissingWeights(_how_to_get(row, explicit))
    check = _check(row, found)
    if check.verdict == "bad":
        raise BadWeights(check.detail)
    return found


def _how_to_get(row: WeightFile, explicit: str | Path | None) -> str:
    elsewhere = [] if row.source == "huggingface" else [_hub_cache()]  # where only hub files are sought
    sought = ", ".join(str(place) for place in search_path(explicit) if place not in elsewhere)
    size = f", {_megabytes(row.bytes)}" if row.bytes else ""
    missing = f"{row.saved_as} ({row.name}{size}) is needed and not in {sought}"
    if row.source == "bundled":
        return f"{missing}: it ships with ovseg, so reinstall ovseg"
    return (
        f"{missing}: run `ovseg weights pull {row.name}`, or on a machine with a network "
        f"`ovseg weights pull {row.name} --to DIR`, then copy DIR here and set OVSEG_WEIGHTS=DIR"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


def status() -> list[Status]:
    """Every row of the manifest, with its file on this machine or None."""
    return [Status(row, find(row.name)) for row in MANIFEST.values()]


# Whether they are what they claim -------------------------------------------------------------------------------------


def verify(*names: str) -> list[Check]:
    """One check a row, digests computed anew; without names, all rows of which a file is here.

    Raises nothing for a bad file, so that all are looked at: a caller that must stop asks for `verdict == "bad"`.
    """
    if names:
        return [_check(_row(name), find(name), anew=True) for name in names]
    return [_check(row, found, anew=True) for row in MANIFEST.values() if (found := find(row.name)) is not None]


def _check(row: WeightFile, found: Path | None, *, anew: bool = False) -> Check:
    if found is None:
        return Check(row, None, "missing", _how_to_get(row, None))
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


# How they come here ---------------------------------------------------------------------------------------------------


class _Unreachable(ConnectionError):
    """The other side was not reached at all."""


def pull(
    name: str, *, to: str | Path | None = None, progress: Progress | None = None, base_url: str | None = None
) -> Path:
    """The file under this name, fetched if need be; in `to`, or anywhere on the search path when `to` is None.

    A good copy that is already here is used (for `to`: copied), so the network is asked only for what is missing.
    `base_url` stands in for the mirror: `$OVSEG_MIRROR` of plain rows, `$HF_ENDPOINT` of hub rows.
    """
    row = _row(name)
    folder = default_folder() if to is None else Path(to).expanduser()
    target = folder / row.saved_as
    held = target if target.is_file() else find(name)
    if held is not None and _check(row, held).verdict != "bad":
        if to is None or held == target:
            return held
        fetch = _copier(held)
    elif row.source == "bundled":
        raise MissingWeights(_how_to_get(row, None))
    else:
        for switch in ("OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
            if os.environ.get(switch, "").lower() in YES:
                raise WeightsError(f"{name} must be fetched, but {switch} is set: unset it, or {_by_hand(row)}")
        fetch = _over_the_network(row, base_url)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part, name):
            fetch(part, progress or (lambda here, total: None))
            _install(row, part, target)
    except OSError as error:  # an unwritable folder, a full disk
        raise WeightsError(
            f"{name} could not be written to {folder} ({error.strerror or error}): name another folder (--to)"
        ) from error
    return target


def _by_hand(row: WeightFile) -> str:
    return f"run `ovseg weights pull {row.name} --to DIR` elsewhere, copy DIR here and set OVSEG_WEIGHTS=DIR"


@contextmanager
def _alone(part: Path, name: str) -> Iterator[None]:
    """No other process writes this part meanwhile."""
    from filelock import FileLock, Timeout

    lock = FileLock(part.with_name(part.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise WeightsError(f"{name} is being fetched by another process ({part}): wait for it") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _install(row: WeightFile, part: Path, target: Path) -> None:
    """Check the part and give it its name; a bad one is removed, because going on from it cannot help."""
    check = _check(row, part, anew=True)
    if check.verdict == "bad":
        part.unlink()
        raise BadWeights(
            f"what came as {row.name} is not it ({check.detail.split(';')[0]}) and was removed: "
            "pull again, or ask who runs the mirror"
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    memory = _remembered()
    entry = memory.pop(str(part.resolve()), None)
    os.replace(part, target)
    if entry is not None:  # size and time go along, so the digest need not be computed again
        _remember({**memory, str(target.resolve()): entry})


def _copier(held: Path) -> Callable[[Path, Progress], None]:
    def copy(part: Path, progress: Progress) -> None:
        shutil.copyfile(held, part)
        progress(part.stat().st_size, part.stat().st_size)

    return copy


def _over_the_network(row: WeightFile, base_url: str | None) -> Callable[[Path, Progress], None]:
    ask = _hub_address if row.source == "huggingface" else _plain_address
    return lambda part, progress: _fetch(row, part, progress, lambda: ask(row, base_url))


Address = tuple[str, dict[str, str]]  # where the bytes are, and the headers to send there


def _plain_address(row: WeightFile, base_url: str | None) -> Address:
    """The published address, with scheme and host replaced by the mirror's."""
    mirror = base_url or os.environ.get("OVSEG_MIRROR", "")
    url = f"{row.location}/{row.file}"
    return (mirror.rstrip("/") + urlsplit(url).path if mirror else url), {}


def _hub_address(row: WeightFile, base_url: str | None) -> Address:
    """Where the hub keeps the bytes now; the person's sign-in goes to the hub only, not to the store it points to."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(row.location, row.file, revision=row.revision or None, endpoint=base_url)
    try:
        place = get_hf_file_metadata(url).location
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in PASSING_STATUS:
            raise ConnectionError(f"the hub answered {code}") from error
        raise WeightsError(
            f"{url} answered {code}: it must offer {row.name}; check HF_ENDPOINT and your sign-in, or {_by_hand(row)}"
        ) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # of whichever HTTP library it has
        raise _Unreachable(f"{urlsplit(url).netloc} ({_first_line(error)})") from error
    signed_in = urlsplit(place).netloc == urlsplit(url).netloc
    return place, {key: value for key, value in build_hf_headers().items() if signed_in and key == "authorization"}


def _fetch(row: WeightFile, part: Path, progress: Progress, ask: Callable[[], Address]) -> None:
    """Fill the part, going on after every break as long as each try brings something new."""
    import http.client
    import ssl

    furthest, failures, came = _size(part), 0, False
    while True:
        try:
            url, headers = ask()
            _stream(row, url, headers, part, progress)
            return
        except _Unreachable as error:
            if not came:
                raise WeightsError(
                    f"{error} cannot be reached to fetch {row.name}: check the network and the proxy, name a mirror "
                    f"(OVSEG_MIRROR, HF_ENDPOINT), or {_by_hand(row)}"
                ) from error
            reason: Exception = error
        except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            reason = error
        if _size(part) > furthest:
            furthest, failures, came = _size(part), 0, True
        if failures == len(BACKOFF_SECONDS):
            raise WeightsError(
                f"the download of {row.name} broke off ({_first_line(reason)}) with {furthest:,} bytes here: "
                "run the same command to go on from there"
            ) from reason
        time.sleep(BACKOFF_SECONDS[failures])
        failures += 1


def _stream(row: WeightFile, url: str, headers: dict[str, str], part: Path, progress: Progress) -> None:
    """One request: what the part lacks, or all of it where the server cannot begin in the middle."""
    import urllib.error
    import urllib.request

    here = _size(part)
    if row.bytes and here == row.bytes:
        return
    headers = {"User-Agent": "ovseg", "Accept-Encoding": "identity", **headers}
    if here:
        headers["Range"] = f"bytes={here}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is not a beginning of what lies there
            part.unlink()
        if error.code in PASSING_STATUS or error.code == 416:
            raise ConnectionError(f"{url} answered {error.code}") from error
        raise WeightsError(
            f"{url} answered {error.code}: it must offer {row.name}; check OVSEG_MIRROR, or {_by_hand(row)}"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError):
            raise ConnectionError(str(error.reason)) from error
        raise _Unreachable(f"{urlsplit(url).netloc} ({_first_line(error.reason)})") from error
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {here}-")
        here = here if goes_on else 0
        length = response.headers.get("Content-Length")
        total = here + int(length) if length and length.isdigit() else None
        if row.bytes and total is not None and total != row.bytes:
            raise BadWeights(f"{row.name} must have {row.bytes:,} bytes: {url} offers {total:,}; ask who runs it")
        lacking = (total or row.bytes or here) - here
        if lacking > shutil.disk_usage(part.parent).free:
            raise WeightsError(f"{row.name} needs {_megabytes(lacking)} of room in {part.parent}: free some")
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                here += len(block)
                progress(here, total)
    if total is not None and here < total:
        raise ConnectionError(f"{here:,} of {total:,} bytes came")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# What is in them ------------------------------------------------------------------------------------------------------


def state(name: str, explicit: str | Path | None = None) -> "dict[str, torch.Tensor]":
    """The checked file under this name, read."""
    return read_state(path(name, explicit))


def read_state(file: Path, *, allow_pickle: bool = False) -> "dict[str, torch.Tensor]":
    """The tensors of a checkpoint by key, on the CPU, in the type they are stored in.

    The format is told by the first bytes, not by the name: safetensors, a torch pickle, or the TorchScript archive that
    OpenAI publishes. Pickles are opened when the manifest knows their digest (`recognise`), else only with
    `allow_pickle`, and then as data alone (`weights_only=True`); a TorchScript archive cannot be opened as data alone.
    A dict under "state_dict" or "model" is unwrapped, and the "module." of a parallel wrapper is taken off the keys.
    OpenAI's archives keep three sizes among the tensors (input_resolution, context_length, vocab_size): they stay.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise MissingWeights(f"a checkpoint is needed: {file} cannot be opened ({error.strerror})") from error
    if head[8:9] == b"{" and not head.startswith(b"PK"):
        try:
            return _plain(load_file(file), file)
        except SafetensorError as error:
            raise BadWeights(_broken(file, error)) from error
    if not head.startswith((b"PK", b"\x80")):
        raise BadWeights(f"a checkpoint (safetensors or torch) is needed: {file} is neither; fetch it again")
    if not allow_pickle and recognise(file) is None:
        raise BadWeights(
            f"safetensors are needed: {file} is a pickle that the manifest does not know, and a pickle can run code; "
            "convert it, or allow pickles (--allow-pickle) if you trust where it is from"
        )
    if allow_pickle and recognise(file) is None:
        import logging

        logging.getLogger("ovseg").warning("opening %s, a pickle that the manifest does not know", file)
    return _plain(_unpickled(file), file)


def _unpickled(file: Path) -> Any:
    import pickle
    import warnings
    from zipfile import BadZipFile

    import torch

    try:
        if _is_torchscript(file):
            with warnings.catch_warnings():  # torch.jit is deprecated, but OpenAI's files have no other reader
                warnings.simplefilter("ignore", FutureWarning)
                return torch.jit.load(file, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, BadZipFile, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise BadWeights(_broken(file, error)) from error


def _is_torchscript(file: Path) -> bool:
    """TorchScript archives hold constants.pkl; what torch.save writes does not."""
    import zipfile

    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(member.endswith("/constants.pkl") for member in archive.namelist())


def _broken(file: Path, error: Exception) -> str:
    return f"a whole checkpoint is needed: {file} cannot be read ({_first_line(error)[:120]}); fetch it again"


def _plain(loaded: Any, file: Path) -> "dict[str, torch.Tensor]":
    import torch

    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise BadWeights(f"a state dict (tensors by name) is needed: {file} holds {_described(loaded)}")
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def _described(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    others = [f"{key}: {type(value).__name__}" for key, value in loaded.items() if not hasattr(value, "shape")]
    return f"also {', '.join(others[:3])}" if others else "nothing"


__all__ = [
    "Check",
    "MANIFEST",
    "Status",
    "WeightFile",
    "bundled",
    "cache_folder",
    "default_folder",
    "find",
    "path",
    "pull",
    "read_state",
    "recognise",
    "search_path",
    "sha256",
    "state",
    "status",
    "verify",
]
