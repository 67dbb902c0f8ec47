"""`ovseg segment` asked by examples, by a saved session, by no name at all."""

import json
from pathlib import Path
from typing import Any

import pytest

import ovseg
from ovseg import cli, weights

MEADOW = weights.bundled("demo/examples") / "meadow.jpg"
BALLOON = "380,60,430,140"  # a box in it


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `ovseg segment meadow ...` on the bundled model, masks left out: exit code, the JSON object, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*words: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["segment", str(MEADOW), "--json", "--model", "tiny", *map(str, words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out) if out else None, err

    return call


def test_an_example_finds_its_own_beside_words(run: Any) -> None:
    asked = (
        "--exemplar",
        f"my balloon={MEADOW}@{BALLOON}",
        "-p",
        "cow",
        "--proposer",
        "none",
        "--threshold",
        "my balloon=0.4",
    )
    code, found, _ = run(*asked)
    assert code == 0 and found["names"] == ["cow", "my balloon"]
    left, top, width, height = max(
        (region for region in found["regions"] if region["name"] == "my balloon"), key=lambda region: region["area"]
    )["bbox"]
    assert 360 < left and left + width < 450 and 50 < top and top + height < 160
    _, mixed, _ = run(*asked, "--mix", "0")
    assert mixed["shares"] != found["shares"]


def test_without_a_name_words_of_a_list_are_found(run: Any, tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("cow\nsheep\ndog\npiano\n", "utf-8")
    code, found, _ = run("--discover", "--words", tmp_path / "animals.txt", "--proposer", "felzenszwalb")
    assert code == 0 and found["names"] and set(found["names"]) <= {"cow", "sheep", "dog", "piano"}
    assert found["recipe"]["uncovered"] == "none"
    rates = [
        run("--discover", "--words", tmp_path / "animals.txt", "--proposer", "felzenszwalb", "--alpha", rate)[1][
            "names"
        ]
        for rate in (0, 1)
    ]
    assert set(rates[0]) < set(rates[1]) and set(found["names"]) <= set(rates[1])


def test_a_saved_session_is_asked_with_what_it_was_taught(run: Any, tmp_path: Path) -> None:
    pipe = ovseg.Pipeline.open("tiny", cache=None, proposer="none")
    teaching = pipe.teach(["cow", "piano"])
    teaching.accept((MEADOW, [85, 205, 290, 385]), "piano")
    path = teaching.save(tmp_path / "taught.safetensors")
    code, found, _ = run("--taught", path, "--proposer", "none")
    assert code == 0 and found["names"] == ["cow", "piano"]
    expected = pipe.segment(MEADOW, teaching.vocabulary)
    assert found["shares"] == pytest.approx(expected.shares, abs=1e-5) and found["shares"]["piano"] > 0.02
    code, _, told = run("--taught", path, "--proposer", "none", "--method", "naclip")
    assert code == 2 and "taught through another way to look" in told


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("--exemplar", "bolt=ref.jpg"), "an example is NAME=FILE@left"),
        (("--exemplar", "bolt@1,2,3,4"), "an example is NAME=FILE@left"),
        (("--exemplar", "=ref.jpg@1,2,3,4"), "an example is NAME=FILE@left"),
        (("--exemplar", "bolt=ref.jpg@1,2,3"), "an example is NAME=FILE@left"),
        (("--words", "list.txt", "-p", "cat"), "add --discover"),
        (("--mix", "0.5", "-p", "cat"), "--mix is for examples"),
        (("--mix", "3", "--exemplar", "bolt=ref.jpg@1,2,3,4"), "(the examples): got 3.0"),
        (("--mix", "nan", "--exemplar", "bolt=ref.jpg@1,2,3,4"), "(the examples): got nan"),
        (("--discover", "-p", "cat"), "--discover brings its own names"),
        (("--discover", "--taught", "x.safetensors"), "--exemplar and --taught out"),
        (("--taught", "x.safetensors", "--negative", "sky"), "--taught brings its own names"),
        (("--discover", "--threshold", "0.4"), "--threshold is for names that are asked"),
        (("--taught", "x.json"), "--taught is a .safetensors file"),
        (("--discover", "--compare", "naclip"), "--compare asks words"),
        (("--exemplar", "bolt=ref.jpg@1,2,3,4", "--negative", "sky"), "--negative stands beside names"),
        (("--discover", "--words", "none.txt"), "the list of words is not there"),
        ((), "at least one name is needed"),
    ],
)
def test_options_that_contradict_each_other_are_told(run: Any, words: tuple[str, ...], needed: str) -> None:
    code, found, told = run(*words)
    assert code == 2 and found is None and needed in told
