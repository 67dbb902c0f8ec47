"""`ovseg check --towers` and `--methods` from the keyboard: tables, lines, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import ovseg.conformance
from ovseg import cli
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.conformance.plugins import PLUGINS
from ovseg.encoders import ENCODERS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `ovseg check ...` in an empty folder, without stored answers: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVSEG_GOLDEN", raising=False)
    monkeypatch.setattr(ovseg.conformance, "folder", lambda given=None: None)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["check", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_towers_lists_every_kind_and_why_a_method_is_refused(run: Any) -> None:
    code, out, _ = run("--towers")
    assert code == 0 and max(len(line) for line in out.splitlines()) <= 80
    for name in ("narrow/ViT-B-16", "narrow/EVA02-B-16", "ConvNeXt", "ModifiedResNet", "tiny"):
        assert name in out
    assert f"{len(LAST_BLOCKS)} of {len(LAST_BLOCKS)}" in out and f"1 of {len(LAST_BLOCKS)}" in out
    assert "attention is left" in " ".join(out.split())


def test_towers_of_named_models_as_lines(run: Any) -> None:
    code, out, _ = run("--towers", "--model", "tiny", "--architecture", "ViT-S-32", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["tower"] for line in lines] == ["tiny", "random/ViT-S-32"]
    assert lines[0]["depth"] == 6 and lines[0]["methods"] == list(LAST_BLOCKS) and lines[0]["refuses"] == {}


def test_encoders_are_told_with_what_each_network_can_do(run: Any) -> None:
    code, out, _ = run("--encoders", "--json", "--model", "tiny", "--architecture", "convnext_base")
    lines = {line["encoder"]: line for line in map(json.loads, out.splitlines())}
    assert code == 0 and list(lines) == list(ENCODERS)
    assert all(line["what"] and line["cost"] and line["source"] for line in lines.values())
    assert lines["bias"]["reads"] == {"tiny": True, "random/convnext_base": False}
    assert "no attention is left" in lines["bias"]["refuses"]["random/convnext_base"]
    assert lines["convnext"]["reads"] == {"tiny": False, "random/convnext_base": True}
    assert lines["pool"]["needs"] == [] and lines["bias"]["options"]["start"] == 9
    code, out, _ = run("--encoders")
    assert code == 0 and max(len(line) for line in out.splitlines()) <= 80 and "Refused" in out
    rows = [line.split()[0] for line in out.splitlines() if line.split()[-1:] in (["yes"], ["-"])]
    assert set(ENCODERS) <= set(rows)
    code, out, _ = run("--encoders", "--markdown")
    assert code == 0 and f"| bias | {ENCODERS['bias'].what} | {ENCODERS['bias'].cost} | yes |" in out


def test_methods_of_the_bundled_model_pass_and_lacking_parity_is_said(run: Any) -> None:
    code, out, err = run("--methods")
    assert code == 0 and max(len(line) for line in out.splitlines()) <= 80
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if line.split()[:1]}
    assert {name: rows[name] for name in LAST_BLOCKS} == {
        name: ["ok", "11/11" if name == "vanilla" else "7/7"] for name in LAST_BLOCKS
    }
    assert "--golden DIR or in OVSEG_GOLDEN" in " ".join(out.split())
    count = 11 + 7 * (len(LAST_BLOCKS) - 1) + 4 * len(PLUGINS) + 1
    assert err.strip() == f"{count} ok, 0 refused, 0 failed, 0 not covered"


def test_lines_say_every_check_and_that_parity_lacks(run: Any) -> None:
    code, out, err = run("--methods", "--json", "-q")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    assert {line["method"] for line in lines[:-1]} == {*LAST_BLOCKS, *PLUGINS, "plug-ins"}
    assert lines[0]["tower"] == "tiny"
    assert lines[-1]["check"] == "parity" and lines[-1]["verdict"] == "not covered"


def test_stored_answers_are_held_against_and_one_that_differs_ends_with_code_one(
    run: Any, golden_dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conformance.test_parity import only

    monkeypatch.undo()
    monkeypatch.setattr(ovseg.conformance, "invariants", lambda *_, **__: [])
    place = only(golden_dense, tmp_path / "golden", "naclip", "vanilla")
    code, out, _ = run("--methods", "--golden", place, "--markdown")
    assert code == 0 and out.count("| ok |") == 2 and "| program | native | wide | tall |" in out
    file = place / "outputs" / "naclip.safetensors"
    changed = load_file(file)
    changed["tall"] += 1e-2
    save_file(changed, file)
    code, out, err = run("--methods", "--golden", place, "--markdown")
    assert code == 1 and "| FAILED |" in out and "differs by 0.01" in out and "1 failed" in err


def test_several_towers_are_methods_by_towers(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "tiny": ovseg.conformance.Result("tiny", "naclip", "batch", "ok", 0.0, 1e-5),
        "random/RN50": ovseg.conformance.Result("random/RN50", "naclip", "walk", "refused", sentence="it can not"),
    }
    monkeypatch.setattr(ovseg.conformance, "invariants", lambda tower, name, progress: [found[name]])
    monkeypatch.setattr(ovseg.conformance, "architecture", lambda name: None)
    code, out, _ = run("--methods", "--model", "tiny", "--architecture", "RN50", "--markdown")
    assert code == 0 and "| naclip | ok | - |" in out and "| 2 | random/RN50 |" in out and "it can not" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "tiny"], "go with --methods, --towers or --encoders"),
        (["--towers", "--golden", "x"], "add --methods"),
        (["--methods", "--model", "tinny"], "Did you mean 'tiny'"),
        (["--methods", "--architecture", "ViT-B-166"], "Did you mean 'ViT-B-16'"),
    ],
)
def test_wrong_calls_end_with_one_sentence(run: Any, words: list[str], sentence: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "") and sentence in err and "Traceback" not in err
