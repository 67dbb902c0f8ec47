"""Weights are found in order, checked, fetched over a loopback network with its troubles, read whatever their form."""

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovseg import weights
from ovseg.errors import BadUsage, BadWeights, MissingWeights, UnknownName, WeightsError

BODY = bytes(range(256)) * 1200 + b"the odd end"  # 307,211 bytes: not a whole number of blocks
REAL_CHECKOUT = weights._checkout
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Host:
    """A web server of one's own: what it offers, how it misbehaves, and what it was asked."""

    url: str
    files: dict[str, Path | bytes] = field(default_factory=dict)
    drop_after: list[int] = field(default_factory=list)  # bytes before each next answer breaks off
    statuses: list[int] = field(default_factory=list)  # each next answer is this error
    ranges: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    served: int = 0


def handler_for(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            wanted = self.headers.get("Range", "")
            host.asked.append((self.command, self.path, wanted))
            if with_body and host.statuses:
                self.refuse(host.statuses.pop(0))
                return
            if self.path not in host.files:
                self.refuse(404)
                return
            offered = host.files[self.path]
            data = offered.read_bytes() if isinstance(offered, Path) else offered
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and host.ranges else 0
            if start >= len(data) > 0:
                self.refuse(416)
                return
            self.send_response(206 if wanted and host.ranges else 200)
            if wanted and host.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{digest(data)}"')  # what the hub's own headers are
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                rest = data[start:]
                if host.drop_after:
                    rest = rest[: host.drop_after.pop(0)]
                host.served += len(rest)
                self.wfile.write(rest)

        def refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()

    return Handler


@pytest.fixture
def host() -> Iterator[Host]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    here = Host(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = handler_for(here)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's files, the checkout's, or any cache; none waits."""
    for variable in ("OVSEG_WEIGHTS", "OVSEG_MIRROR", "OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "_checkout", lambda: None)
    monkeypatch.setattr(weights, "BACKOFF_SECONDS", (0.0, 0.0))
    return tmp_path


def add_row(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> weights.WeightFile:
    row = weights.WeightFile(
        **{
            "name": "stand-in",
            "source": "https",
            "location": "https://weights.example/models",
            "file": "stand_in.pth",
            "licence": "Apache-2.0",
            "what": "a stand-in",
            "bytes": len(BODY),
            "sha256": digest(BODY),
            "pickle": True,
        }
        | fields
    )
    monkeypatch.setitem(weights.MANIFEST, row.name, row)
    return row


# The manifest ---------------------------------------------------------------------------------------------------------


def test_every_row_can_be_told_from_the_others() -> None:
    rows = weights.MANIFEST.values()
    assert list(weights.MANIFEST) == [row.name for row in rows]
    assert len(rows) == len({row.saved_as for row in rows}) == len({(row.location, row.file) for row in rows})


@pytest.mark.parametrize("row", weights.MANIFEST.values(), ids=weights.MANIFEST.keys())
def test_every_row_is_pinned(row: weights.WeightFile) -> None:
    assert row.licence and row.what
    if row.source != "bundled":
        assert len(row.sha256) == 64 and row.bytes > 1_000_000 and row.input_size in (224, 336, 1024)
    if row.source == "huggingface":
        assert len(row.revision) == 40 and int(row.revision, 16) and row.location.count("/") == 1 and not row.pickle
    if row.location.startswith("https://openaipublic"):
        assert row.location.endswith(row.sha256)  # OpenAI's addresses hold the digest


def test_bundled_rows_match_what_is_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_checkout", REAL_CHECKOUT)
    bundled = [row.name for row in weights.MANIFEST.values() if row.source == "bundled" and weights.find(row.name)]
    assert [check.detail for check in weights.verify(*bundled) if check.verdict == "bad"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": "abc"},
        {"licence": ""},
        {"location": "http://weights.example"},
        {"file": "a/b.pth"},
        {"source": "ftp"},
    ],
    ids=["short digest", "no licence", "not https", "a path for a file", "unknown source"],
)
def test_a_malformed_row_is_refused(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadUsage):
        add_row(monkeypatch, **fields)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'sam-vit-b'"):
        weights.path("sam_vit_b")


# The search -----------------------------------------------------------------------------------------------------------


def test_places_are_searched_in_the_promised_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch, source="huggingface", location="me/mine", revision=COMMIT)
    monkeypatch.setenv("OVSEG_WEIGHTS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    monkeypatch.setattr(weights, "_checkout", lambda: tmp_path / "checkout")
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "installed" / "ovseg" / "weights.py"))
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / COMMIT
    folders = [
        tmp_path / "named",
        tmp_path / "first",
        tmp_path / "second",
        tmp_path / "checkout" / "weights",
        tmp_path / "data" / "ovseg" / "weights",
        snapshot,
        tmp_path / "installed" / "ovseg" / "_bundled",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / row.file).write_bytes(BODY)
    for folder in folders:
        assert folder / row.file == weights.find(row.name, tmp_path / "named")
        (folder / row.file).unlink()
    assert weights.find(row.name, tmp_path / "named") is None
    assert [*folders[:5], tmp_path / "hub", folders[6]] == weights.search_path(tmp_path / "named")


def test_what_is_missing_is_told_with_places_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(MissingWeights) as caught:
        weights.path("sam-vit-b")
    said = str(caught.value)
    assert "\n" not in said and str(tmp_path / "mine") in said and "375 MB" in said
    assert "`ovseg weights pull sam-vit-b`" in said and "`ovseg weights pull sam-vit-b --to DIR`" in said
    assert "OVSEG_WEIGHTS=DIR" in said


def test_pull_goes_to_the_first_named_folder_then_the_checkout_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tmp_path / "data" / "ovseg" / "weights" == weights.default_folder()
    monkeypatch.setattr(weights, "_checkout", lambda: tmp_path / "checkout")
    assert tmp_path / "checkout" / "weights" == weights.default_folder()
    monkeypatch.setenv("OVSEG_WEIGHTS", f"{tmp_path / 'mine'}{os.pathsep}{tmp_path / 'other'}")
    assert tmp_path / "mine" == weights.default_folder()


def test_bundled_files_are_found_in_a_checkout_and_their_absence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_checkout", lambda: tmp_path)
    (tmp_path / "weights" / "tiny").mkdir(parents=True)
    (tmp_path / "demo" / "examples").mkdir(parents=True)
    assert tmp_path / "weights" / "tiny" == weights.bundled("tiny")
    assert tmp_path / "demo" / "examples" == weights.bundled("demo/examples")
    with pytest.raises(MissingWeights, match="reinstall ovseg"):
        weights.bundled("tiny/no_such_file")


def test_bundled_files_are_found_in_an_installed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_checkout", REAL_CHECKOUT)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "ovseg" / "weights.py"))  # no pyproject.toml above
    (tmp_path / "weights").mkdir()
    model = tmp_path / "ovseg" / "_bundled" / "tiny" / "clip.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"")
    assert model == weights.bundled("tiny/clip.safetensors") == weights.find("tiny-clip")


def test_status_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    (tmp_path / row.file).write_bytes(BODY)
    here = {status.row.name: status.path for status in weights.status()}
    assert list(weights.MANIFEST) == list(here)
    assert tmp_path / row.file == here[row.name] and here["sam-vit-h"] is None


# The check ------------------------------------------------------------------------------------------------------------


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    assert digest(b"one") == weights.sha256(file)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)  # a second reading would fail
        assert digest(b"one") == weights.sha256(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert digest(b"two") == weights.sha256(file)


def test_verify_reads_anew_what_was_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    file = tmp_path / row.file
    file.write_bytes(BODY)
    os.utime(file, ns=(1, 1))
    assert file == weights.path(row.name)
    file.write_bytes(BODY[::-1])
    os.utime(file, ns=(1, 1))  # same size, same time: only a new reading can tell
    assert file == weights.path(row.name)
    (check,) = weights.verify()
    assert ("bad", file) == (check.verdict, check.path)
    with pytest.raises(BadWeights, match="delete it and run `ovseg weights pull stand-in`"):
        weights.path(row.name)


def test_verify_tells_apart_what_can_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_row(monkeypatch, name="good", file="good.pth")
    add_row(monkeypatch, name="short", file="short.pth")
    add_row(monkeypatch, name="other", file="other.pth")
    add_row(monkeypatch, name="unknown", file="unknown.pth", sha256="", bytes=0)
    add_row(monkeypatch, name="sized", file="sized.pth", sha256="")
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    for name, body in {
        "good": BODY,
        "short": BODY[:-1],
        "other": BODY[::-1],
        "unknown": b"any",
        "sized": b"any",
    }.items():
        (tmp_path / f"{name}.pth").write_bytes(body)
    verdicts = {
        check.row.name: check.verdict
        for check in weights.verify("good", "short", "other", "unknown", "sized", "sam-vit-h")
    }
    assert verdicts == {
        "good": "ok",
        "short": "bad",
        "other": "bad",
        "unknown": "unpublished",
        "sized": "bad",
        "sam-vit-h": "missing",
    }


def test_an_unwritable_or_broken_memory_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    (tmp_path / "cache").write_text("a file where the cache folder should be")
    assert digest(b"one") == weights.sha256(file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "ovseg").mkdir(parents=True)
    (tmp_path / "other" / "ovseg" / "digests.json").write_text("{half")
    assert digest(b"one") == weights.sha256(file)
    assert list(json.loads((tmp_path / "other" / "ovseg" / "digests.json").read_text())) == [str(file)]


# Plain HTTP -----------------------------------------------------------------------------------------------------------


def test_a_whole_file_arrives_checked_and_nothing_is_left_beside_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    seen: list[tuple[int, int | None]] = []
    monkeypatch.setenv("OVSEG_MIRROR", host.url + "/")
    got = weights.pull(row.name, to=tmp_path / "mine", progress=lambda here, total: seen.append((here, total)))
    assert tmp_path / "mine" / "stand_in.pth" == got and BODY == got.read_bytes()
    assert ["stand_in.pth"] == os.listdir(tmp_path / "mine")
    assert (len(BODY), len(BODY)) == seen[-1]
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)  # the digest is known from the download
        assert got == weights.path(row.name, tmp_path / "mine")
    weights.pull(row.name, to=tmp_path / "mine")  # again: nothing is asked
    assert [("GET", "/models/stand_in.pth", "")] == host.asked


def test_a_mirror_stands_in_for_scheme_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    assert ("https://weights.example/models/stand_in.pth", {}) == weights._plain_address(row, None)
    monkeypatch.setenv("OVSEG_MIRROR", "http://inside/copies")
    assert ("http://inside/copies/models/stand_in.pth", {}) == weights._plain_address(row, None)
    assert ("http://nearer/models/stand_in.pth", {}) == weights._plain_address(row, "http://nearer/")


def test_a_dropped_connection_is_resumed_in_the_same_call(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.drop_after = [100_000, 70_000, 50_000]  # three breaks: more than BACKOFF has tries, but each brings something
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert ["", "bytes=100000-", "bytes=170000-", "bytes=220000-"] == [wanted for _, _, wanted in host.asked]
    assert len(BODY) == host.served  # no byte came twice


def test_a_killed_download_goes_on_where_it_stopped(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    monkeypatch.setattr(weights, "BLOCK_BYTES", 50_000)

    def stop_after_half(here: int, total: int | None) -> None:
        if here > len(BODY) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.pull(row.name, to=tmp_path, base_url=host.url, progress=stop_after_half)
    held = (tmp_path / "stand_in.pth.part").stat().st_size
    assert len(BODY) // 2 < held < len(BODY)
    assert weights.find(row.name, tmp_path) is None  # a part never counts
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert f"bytes={held}-" == host.asked[-1][2]


def test_a_server_that_cannot_begin_in_the_middle_begins_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.ranges = False
    host.drop_after = [100_000]
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert ["", "bytes=100000-"] == [wanted for _, _, wanted in host.asked]
    assert 100_000 + len(BODY) == host.served


def test_a_download_that_gets_no_further_is_given_up_and_its_part_kept(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.drop_after = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="with 100,000 bytes here: run the same command to go on from there"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert 100_000 == (tmp_path / "stand_in.pth.part").stat().st_size


def test_an_overloaded_server_is_asked_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.statuses = [503, 429]
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


@pytest.mark.parametrize("left", [b"", BODY + b"and more", b"x" * 1000], ids=["empty", "too long", "another's"])
def test_a_part_that_is_no_beginning_never_becomes_the_file(
    left: bytes, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth.part").write_bytes(left)
    if left.startswith(b"x"):  # only the digest can tell; the part goes, and the next call is clean
        with pytest.raises(BadWeights, match="was removed: pull again"):
            weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_a_range_beyond_the_end_begins_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch, bytes=0)  # a row of unknown size: the server is the first to know
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth.part").write_bytes(BODY + b"and more")
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_a_wrong_digest_leaves_no_file(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY[::-1]
    with pytest.raises(BadWeights, match="must have sha256"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == list(tmp_path.glob("stand_in*"))


def test_a_bad_file_in_place_is_replaced(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth").write_bytes(BODY[:1000])
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_another_size_is_refused_before_it_is_fetched(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = b"<html>please sign in</html>"
    with pytest.raises(BadWeights, match="must have 307,211 bytes: .* offers 27"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == list(tmp_path.glob("stand_in*"))


def test_a_file_that_is_not_there_is_told_at_once(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    with pytest.raises(WeightsError, match="answered 404: it must offer stand-in"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert 1 == len(host.asked)


def test_an_unreachable_host_is_told_at_once(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    with pytest.raises(WeightsError, match="127.0.0.1:9 .*cannot be reached.*--to DIR"):  # discard: nobody listens
        weights.pull(row.name, to=tmp_path, base_url="http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="no-such-host.invalid .*cannot be reached"):
        weights.pull(row.name, to=tmp_path, base_url="http://no-such-host.invalid")


def test_a_silent_server_is_given_up(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setattr(weights, "TIMEOUT_SECONDS", 0.05)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # listens, never accepts
    with server, pytest.raises(WeightsError, match="broke off .*timed out.*with 0 bytes here"):
        weights.pull(row.name, to=tmp_path, base_url=f"http://127.0.0.1:{server.server_address[1]}")


def test_a_full_disk_is_one_sentence(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
        with pytest.raises(WeightsError, match="needs 307,211 bytes of room"):
            weights.pull(row.name, to=tmp_path, base_url=host.url)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WeightsError, match="No space left on device"):
        weights.pull(row.name, to=tmp_path, base_url=host.url, progress=full)


def test_a_folder_that_cannot_be_written_is_one_sentence(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    (tmp_path / "a file").write_text("")
    with pytest.raises(WeightsError, match="could not be written to"):
        weights.pull(row.name, to=tmp_path / "a file" / "folder", base_url=host.url)


@pytest.mark.parametrize("switch", ["OVSEG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(switch: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    monkeypatch.setenv(switch, "1")
    with pytest.raises(WeightsError, match=f"{switch} is set.*OVSEG_WEIGHTS=DIR"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == host.asked


def test_what_is_here_is_copied_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / row.file).write_bytes(BODY)
    assert tmp_path / "here" / row.file == weights.pull(row.name)
    assert BODY == weights.pull(row.name, to=tmp_path / "stick").read_bytes()


def test_two_at_once_do_not_write_one_part(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    part = tmp_path / "stand_in.pth.part"
    with weights._alone(part, row.name), pytest.raises(WeightsError, match="another process"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)


# The hub --------------------------------------------------------------------------------------------------------------


def hub_row(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> weights.WeightFile:
    return add_row(
        monkeypatch,
        **{
            "source": "huggingface",
            "location": "me/mine",
            "revision": COMMIT,
            "file": "open_clip_model.safetensors",
            "saved_as": "stand-in.safetensors",
            "pickle": False,
        }
        | fields,
    )


HUB_PATH = f"/me/mine/resolve/{COMMIT}/open_clip_model.safetensors"


def test_a_hub_file_comes_at_its_revision_and_resumes(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = hub_row(monkeypatch)
    host.files[HUB_PATH] = BODY
    host.drop_after = [100_000]
    got = weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert tmp_path / "stand-in.safetensors" == got and BODY == got.read_bytes()
    assert {HUB_PATH} == {path for _, path, _ in host.asked}
    assert ["", "bytes=100000-"] == [wanted for method, _, wanted in host.asked if method == "GET"]
    assert len(BODY) == host.served


def test_a_hub_without_the_file_is_one_sentence(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    with pytest.raises(WeightsError, match="answered 404: it must offer stand-in") as caught:
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    with pytest.raises(WeightsError, match="127.0.0.1:9 .*cannot be reached.*HF_ENDPOINT") as caught:
        weights.pull(row.name, to=tmp_path, base_url="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_hf_endpoint_and_hf_home_are_honoured(host: Host, tmp_path: Path) -> None:
    host.files[HUB_PATH] = BODY
    program = f"""
from pathlib import Path
from ovseg import weights
row = weights.WeightFile("stand-in", "huggingface", "me/mine", "open_clip_model.safetensors", "MIT", "a stand-in",
                         "{COMMIT}", {len(BODY)}, "{digest(BODY)}", saved_as="stand-in.safetensors")
weights.MANIFEST["stand-in"] = row
got = weights.pull("stand-in")
print(got)
cached = Path("{tmp_path}") / "hf" / "hub" / "models--me--mine" / "snapshots" / "{COMMIT}" / row.file
cached.parent.mkdir(parents=True)
got.rename(cached)
print(weights.path("stand-in"))
"""
    env = {
        **os.environ,
        "HF_ENDPOINT": host.url,
        "HF_HOME": str(tmp_path / "hf"),
        "OVSEG_WEIGHTS": str(tmp_path / "mine"),
        "HF_HUB_CACHE": "",
    }
    env.pop("HF_HUB_CACHE")
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert "" == run.stderr
    cached = tmp_path / "hf" / "hub" / "models--me--mine" / "snapshots" / COMMIT / "open_clip_model.safetensors"
    assert [str(tmp_path / "mine" / "stand-in.safetensors"), str(cached)] == run.stdout.split()


def test_the_sign_in_goes_to_the_hub_and_not_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    places = iter(["http://hub.example/bytes", "http://store.example/bytes"])

    @dataclass
    class Metadata:
        location: str

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: Metadata(next(places)))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert {"authorization": "Bearer hf_secret"} == weights._hub_address(row, "http://hub.example")[1]
    assert {} == weights._hub_address(row, "http://hub.example")[1]


# Reading --------------------------------------------------------------------------------------------------------------

TENSORS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.6)}


def same(expected: dict[str, torch.Tensor], came: dict[str, torch.Tensor]) -> bool:
    return expected.keys() == came.keys() and all(torch.equal(expected[key], came[key]) for key in expected)


def scripted(file: Path) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Parameter(TENSORS["visual.proj"].clone())
            self.register_buffer("context_length", torch.tensor(77))  # OpenAI keeps sizes among the tensors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated; the files stay
        torch.jit.save(torch.jit.script(Network()), file)


def trusted(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    add_row(monkeypatch, bytes=file.stat().st_size, sha256=digest(file.read_bytes()))


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "odd.bin")
    assert same(TENSORS, weights.read_state(tmp_path / "odd.bin"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "under state_dict", "under model", "from a parallel wrapper"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_known_pickles_are_read_however_wrapped(
    wrap: Any, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(wrap(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    trusted(monkeypatch, tmp_path / "a.pth")
    assert same(TENSORS, weights.read_state(tmp_path / "a.pth"))


def test_a_known_torchscript_archive_gives_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path / "a.pt")
    with pytest.raises(BadWeights, match="is a pickle that the manifest does not know"):
        weights.read_state(tmp_path / "a.pt")
    trusted(monkeypatch, tmp_path / "a.pt")
    expected = {"proj": TENSORS["visual.proj"], "context_length": torch.tensor(77)}
    assert same(expected, weights.read_state(tmp_path / "a.pt"))


def test_a_strange_pickle_is_opened_only_on_request_and_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(TENSORS, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="--allow-pickle"):
        weights.read_state(tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING, "ovseg"):
        assert same(TENSORS, weights.read_state(tmp_path / "a.pth", allow_pickle=True))
    assert "a.pth" in caplog.text


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("sprung"), "")


def test_a_pickle_with_code_is_refused_even_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="cannot be read"):
        weights.read_state(tmp_path / "a.pth", allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


def cut(file: Path, kept: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_file_is_one_sentence(kept: float, tmp_path: Path) -> None:
    save_file({"a": torch.ones(500)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(500)}, tmp_path / "a.pth")
    torch.save({"a": torch.ones(500)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    scripted(tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pth", "legacy.pth", "a.pt"):
        cut(tmp_path / name, kept)
        with pytest.raises(BadWeights, match="a whole checkpoint is needed") as caught:
            weights.read_state(tmp_path / name, allow_pickle=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(99), b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_foreign_file_is_refused(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(body)
    with pytest.raises(BadWeights, match="is neither"):
        weights.read_state(tmp_path / "a.safetensors", allow_pickle=True)


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(3)], {"a": torch.ones(3), "b": "text"}], ids=["empty", "list", "mixed"]
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="a state dict"):
        weights.read_state(tmp_path / "a.pth", allow_pickle=True)


def test_no_file_is_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="No such file"):
        weights.read_state(tmp_path / "none.pth")
    with pytest.raises(MissingWeights, match="Is a directory"):
        weights.read_state(tmp_path)


# All of it, at full size ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stand_ins_of_real_format_and_full_size_travel_the_whole_road(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP ViT-B/16 (hub copy, OpenAI file) and SAM ViT-B: random weights, real keys and sizes, loaded strictly."""
    import open_clip
    from segment_anything import sam_model_registry

    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "offered").mkdir()
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    sam = sam_model_registry["vit_b"]()
    writers: dict[str, tuple[torch.nn.Module, Any]] = {
        "clip-vit-b16-openai": (clip, save_file),
        "clip-vit-b16-openai-pt": (clip, lambda state, file: torch.save({k: v.half() for k, v in state.items()}, file)),
        "sam-vit-b": (sam, torch.save),
    }
    for name, (network, write) in writers.items():
        real = weights.MANIFEST[name]
        body = tmp_path / "offered" / real.file
        write(network.state_dict(), body)
        assert real.bytes == pytest.approx(body.stat().st_size, rel=0.2)  # TorchScript adds code and some float32
        row = replace(real, bytes=body.stat().st_size, sha256=weights.sha256(body))
        monkeypatch.setitem(weights.MANIFEST, name, row)
        hub = f"{host.url}/{row.location}/resolve/{row.revision}/{row.file}"
        url = hub if row.source == "huggingface" else weights._plain_address(row, host.url)[0]
        host.files[url.removeprefix(host.url)] = body
        host.drop_after = [row.bytes // 2]
        weights.pull(name, base_url=host.url)
        assert f"bytes={row.bytes // 2}-" == host.asked[-1][2]
        body.unlink()
        assert ["ok"] == [check.verdict for check in weights.verify(name)]
        expected = {key: value.clone() for key, value in network.state_dict().items()}
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
        network.load_state_dict(weights.state(name), strict=True)
        came = network.state_dict()
        assert max(float((came[key] - value).abs().max()) for key, value in expected.items()) < 2e-3  # float16's step
        weights.path(name).unlink()
