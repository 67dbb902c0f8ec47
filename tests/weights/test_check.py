"""A digest is computed once, remembered while the file stays the same, and computed anew on request."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ovseg import weights
from ovseg.errors import BadWeights
from tests.weights.standins import BODY, add_row, digest


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
