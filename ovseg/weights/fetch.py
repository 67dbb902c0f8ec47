"""How weight files come here. Nothing else in ovseg touches the network for them, and this only when it is called.

`pull` writes to `NAME.part`, goes on there after a break, and renames after size and digest were checked, so a part
never counts as installed. Switches, all read at the moment of the call:

    OVSEG_OFFLINE=1, HF_HUB_OFFLINE=1     nothing is tried
    OVSEG_MIRROR=http://host/prefix       stands in for scheme and host of every row fetched by plain HTTPS:
                                          https://a.org/b/c.pth comes from http://host/prefix/b/c.pth
    HF_ENDPOINT=http://host               stands in for the Hugging Face hub (read when huggingface_hub is imported)

The bytes are moved by urllib. The HTTP library under huggingface_hub changed twice (requests, httpx, httpx2), and
`hf_hub_download` (2.4) deletes a part when it is interrupted; so huggingface_hub names the file, the place and the
sign-in, and the transfer that can go on after a break is ours, one for both roads.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ovseg.errors import BadWeights, MissingWeights, WeightsError
from ovseg.weights.check import examine, rename
from ovseg.weights.manifest import WeightFile, row_named
from ovseg.weights.search import default_folder, find, how_to_get, megabytes

Progress = Callable[[int, int | None], None]  # bytes here, bytes in all (None: the server does not say)

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0  # without a single byte
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0)  # between tries that bring nothing new; then it is given up, the part is kept
PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})  # worth another try

YES = frozenset({"1", "true", "yes", "on"})


class _Unreachable(ConnectionError):
    """The other side was not reached at all."""


def pull(
    name: str, *, to: str | Path | None = None, progress: Progress | None = None, base_url: str | None = None
) -> Path:
    """The file under this name, fetched if need be; in `to`, or anywhere on the search path when `to` is None.

    A good copy that is already here is used (for `to`: copied), so the network is asked only for what is missing.
    `base_url` stands in for the mirror: `$OVSEG_MIRROR` of plain rows, `$HF_ENDPOINT` of hub rows.
    """
    row = row_named(name)
    folder = default_folder() if to is None else Path(to).expanduser()
    target = folder / row.saved_as
    held = target if target.is_file() else find(name)
    if held is not None and examine(row, held).verdict != "bad":
        if to is None or held == target:
            return held
        fetch = _copier(held)
    elif row.source == "bundled":
        raise MissingWeights(how_to_get(row))
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
    check = examine(row, part, anew=True)
    if check.verdict == "bad":
        part.unlink()
        raise BadWeights(
            f"what came as {row.name} is not it ({check.detail.split(';')[0]}) and was removed: "
            "pull again, or ask who runs the mirror"
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    rename(part, target)


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
            raise WeightsError(f"{row.name} needs {megabytes(lacking)} of room in {part.parent}: free some")
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


__all__ = [
    "BACKOFF_SECONDS",
    "BLOCK_BYTES",
    "PASSING_STATUS",
    "Progress",
    "TIMEOUT_SECONDS",
    "pull",
]
