"""Stored answers of the released programs: all reproduced, and every way of not being reproduced is said."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ovseg.conformance import failed, folder, parity
from ovseg.conformance.programs import PROGRAMS
from ovseg.errors import BadUsage

FILES = ("model.json", "model.safetensors", "inputs.safetensors")


@pytest.fixture
def some(golden_dense: Path, tmp_path: Path) -> Path:
    """The stored data with three programs alone."""
    return only(golden_dense, tmp_path / "golden", "vanilla", "naclip", "resclip_rcs")


def only(golden: Path, place: Path, *programs: str) -> Path:
    (place / "outputs").mkdir(parents=True)
    for name in FILES:
        (place / name).symlink_to(golden / name)
    for name in programs:
        (place / "outputs" / f"{name}.safetensors").write_bytes(
            (golden / "outputs" / f"{name}.safetensors").read_bytes()
        )
    manifest = json.loads((golden / "manifest.json").read_text())
    kept = {name: manifest["methods"][name] for name in programs}
    (place / "manifest.json").write_text(json.dumps({**manifest, "methods": kept}))
    return place


@pytest.mark.slow
def test_every_stored_answer_of_every_program_is_within_its_tolerance(golden_dense: Path) -> None:
    results = parity(golden_dense)
    assert [(result.method, result.check, result.sentence) for result in results if result.verdict != "ok"] == []
    manifest = json.loads((golden_dense / "manifest.json").read_text())["methods"]
    assert {result.method for result in results} == set(manifest)
    for result in results:
        stored = manifest[result.method]
        assert result.limit == stored["tensors"][result.check].get("tolerance", stored["tolerance"])


def test_every_stored_program_has_a_function_here(golden_dense: Path) -> None:
    manifest = json.loads((golden_dense / "manifest.json").read_text())["methods"]
    assert set(manifest) <= set(PROGRAMS)


def test_stored_answers_are_compared_one_by_one(some: Path) -> None:
    told: list[str] = []
    results = parity(some, progress=lambda name, done, of: told.append(f"{name} {done}/{of}"))
    assert told == ["vanilla 0/3", "naclip 1/3", "resclip_rcs 2/3", " 3/3"]
    found = {(result.method, result.check): result for result in results}
    assert set(found) == {
        *((name, shape) for name in ("vanilla", "naclip", "resclip_rcs") for shape in ("native", "wide", "tall")),
        *(("vanilla", f"{shape}.cls") for shape in ("native", "wide", "tall")),
    }
    assert {result.verdict for result in results} == {"ok"}
    assert found["vanilla", "native"].limit == 1e-5 and found["naclip", "wide"].limit == 1e-4
    assert "sinahmr/NACLIP at 0cac3a6" in found["naclip", "wide"].sentence


def test_answer_that_differs_by_more_than_its_tolerance_fails_by_name(some: Path) -> None:
    file = some / "outputs" / "naclip.safetensors"
    changed = load_file(file)
    changed["wide"][0, 3, 4, 5] += 1e-3
    save_file(changed, file)
    (result,) = failed(parity(some))
    assert (result.method, result.check) == ("naclip", "wide") and result.measured == pytest.approx(1e-3, rel=0.01)
    assert "differs by 0.001, and 0.0001 is allowed" in result.sentence


def test_answer_of_another_shape_fails(some: Path) -> None:
    file = some / "outputs" / "naclip.safetensors"
    changed = load_file(file)
    changed["wide"] = changed["wide"].transpose(1, 2).contiguous()
    save_file(changed, file)
    assert [result.check for result in failed(parity(some, programs=("naclip",)))] == ["wide"]


def test_program_or_extra_that_nothing_computes_is_said(some: Path) -> None:
    manifest = json.loads((some / "manifest.json").read_text())
    manifest["methods"]["newclip"] = {**manifest["methods"]["naclip"], "repo": "some/NewCLIP"}
    (some / "manifest.json").write_text(json.dumps(manifest))
    stored = load_file(some / "outputs" / "naclip.safetensors")
    save_file(stored, some / "outputs" / "newclip.safetensors")
    save_file({**stored, "wide.colours": stored["wide"].clone()}, some / "outputs" / "naclip.safetensors")
    said = {(r.method, r.check): r.sentence for r in parity(some) if r.verdict == "not covered"}
    assert set(said) == {("naclip", "wide.colours"), *(("newclip", shape) for shape in ("native", "wide", "tall"))}
    assert "some/NewCLIP is stored, and nothing here computes it" in said["newclip", "native"]


def test_folder_is_the_one_given_or_named_by_the_environment(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder(some) == some
    monkeypatch.setenv("OVSEG_GOLDEN", str(some))
    assert folder() == some
    monkeypatch.setenv("OVSEG_GOLDEN", str(tmp_path))
    with pytest.raises(BadUsage, match="with a manifest.json"):
        folder()
