"""Weights are sought in the promised order, and what is missing is told with the commands that bring it."""

import os
from pathlib import Path

import pytest

from ovseg import weights
from ovseg.errors import MissingWeights
from ovseg.weights import search
from tests.weights.standins import BODY, COMMIT, add_row

REAL_CHECKOUT = search._checkout  # before any test puts its own there


def test_the_source_tree_is_known_from_inside() -> None:
    root = Path(__file__).resolve().parents[2]
    assert root == REAL_CHECKOUT() and (root / "ovseg" / "weights" / "search.py").samefile(search.__file__)


def test_places_are_searched_in_the_promised_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch, source="huggingface", location="me/mine", revision=COMMIT)
    monkeypatch.setenv("OVSEG_WEIGHTS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    monkeypatch.setattr(search, "_checkout", lambda: tmp_path / "checkout")
    monkeypatch.setattr(search, "__file__", str(tmp_path / "installed" / "ovseg" / "weights" / "search.py"))
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
    monkeypatch.setattr(search, "_checkout", lambda: tmp_path / "checkout")
    assert tmp_path / "checkout" / "weights" == weights.default_folder()
    monkeypatch.setenv("OVSEG_WEIGHTS", f"{tmp_path / 'mine'}{os.pathsep}{tmp_path / 'other'}")
    assert tmp_path / "mine" == weights.default_folder()


def test_bundled_files_are_found_in_a_checkout_and_their_absence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_checkout", lambda: tmp_path)
    (tmp_path / "weights" / "tiny").mkdir(parents=True)
    (tmp_path / "demo" / "examples").mkdir(parents=True)
    assert tmp_path / "weights" / "tiny" == weights.bundled("tiny")
    assert tmp_path / "demo" / "examples" == weights.bundled("demo/examples")
    with pytest.raises(MissingWeights, match="reinstall ovseg"):
        weights.bundled("tiny/no_such_file")


def test_bundled_files_are_found_in_an_installed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_checkout", REAL_CHECKOUT)
    installed = tmp_path / "ovseg" / "weights" / "search.py"  # no pyproject.toml above
    monkeypatch.setattr(search, "__file__", str(installed))
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
