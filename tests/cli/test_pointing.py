import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from ovseg import cli
from ovseg.cli import options
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe
from ovseg.sam.model import MaskModel
from tests.sam.narrow import narrow_sam


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `ovseg click picture.png ...` with small random networks: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(tiny.picture(48, 80)).save("picture.png")

    def opened(recipe: Recipe, **_: Any) -> Pipeline:
        return Pipeline(recipe.replace(short_side=48, crop=0, scales=(1.0,)), tiny.clip(), MaskModel(narrow_sam()))

    monkeypatch.setattr(Pipeline, "open", opened)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["click", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


SAM = ("--model", "tiny", "--sam", "sam-vit-b")


def test_a_click_writes_an_overlay_a_mask_and_json(run: Any, tmp_path: Path) -> None:
    code, out, err = run(
        "picture.png", *SAM, "--point", "30,20", "--not", "60,9", "-p", "cat", "-p", "dog", "-o", "out"
    )
    assert (code, out) == (0, "") and "Click(48x80, 1 mask" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "picture.click.json",
        "picture.mask.png",
        "picture.overlay.png",
    ]
    told = json.loads((tmp_path / "out" / "picture.click.json").read_text())
    (mask,) = told["masks"]
    assert mask["points"] == [[30, 20], [60, 9]] and mask["labels"] == [1, 0] and told["names"] == ["cat", "dog"]
    drawn = np.asarray(Image.open(tmp_path / "out" / "picture.mask.png"))
    shown = np.asarray(Image.open(tmp_path / "out" / "picture.overlay.png"))
    for x, y in np.array(mask["points"], int):  # drawn four times as large: a white sign in a dark disc
        assert (shown[4 * y, 4 * x] > 200).all() and (shown[4 * y - 4, 4 * x - 4] < 100).all()
    assert drawn.shape == (48, 80) and set(np.unique(drawn)) <= {0, 255}
    assert (drawn == 255).sum() == mask["area"] > 0


def test_json_goes_to_stdout_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("picture.png", *SAM, "--box", "3,5, 60,40", "--every", "--json")
    told = json.loads(out)
    assert code == 0 and told["path"] == "picture.png" and told["names"] == []
    assert [mask["box"] for mask in told["masks"]] == [[3, 5, 60, 40]] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_name_that_utf_8_cannot_hold_and_spaces_and_signs_are_written(run: Any, tmp_path: Path) -> None:
    for name in ("tile\udcff.png", "a <script> b & 'c'.png"):
        os.rename(tmp_path / "picture.png", tmp_path / name)
        code, _, err = run(name, *SAM, "--point", "30,20", "-o", "out")
        assert code == 0, err
        (written,) = (tmp_path / "out").glob("*.click.json")
        path = json.loads(written.read_text("utf-8"))["path"]
        assert path == name.replace("\udcff", "\ufffd")
        code, out, _ = run(name, *SAM, "--point", "30,20", "--json")
        assert code == 0 and json.loads(out)["path"] == path
        os.rename(tmp_path / name, tmp_path / "picture.png")
        shutil.rmtree(tmp_path / "out")


def test_several_boxes_are_several_masks_and_a_bad_one_is_told(run: Any, tmp_path: Path) -> None:
    code, _, err = run("picture.png", *SAM, "--box", "3,5,60,40", "--box", "1,1,200,20", "-o", "out")
    assert code == 1 and "box 1 is outside of the frame" in err
    assert (tmp_path / "out" / "picture.1.mask.png").is_file() and (tmp_path / "out" / "picture.2.mask.png").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (SAM, 2, "give --point X,Y or --box X,Y,X,Y in pixels"),
        ((*SAM, "--point", "30"), 2, "--point is 2 numbers with commas between them, in pixels: got '30'"),
        ((*SAM, "--box", "3,5,x,40"), 2, "--box is 4 numbers"),
        ((*SAM, "--point", "3,4", "--box", "1,1,5,5", "--box", "1,1,9,9"), 2, "got points and 2 boxes"),
        (("--model", "mobile", "--point", "30,20"), 2, "model mobile has none; add --sam NAME"),
        ((*SAM, "--point", "300,20"), 1, "point 0 of prompt 0 is outside of the frame.*48x80"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(run: Any, words: tuple[str, ...], code: int, message: str) -> None:
    import re

    ended, out, err = run("picture.png", *words)
    assert ended == code and out == "" and re.search(message, err) and len(err.strip().splitlines()) == 1


def test_masks_are_never_taken_for_pictures(tmp_path: Path) -> None:
    from ovseg.cli.talk import Talk

    for name in ("one.png", "one.mask.png", "one.2.mask.png"):
        Image.fromarray(tiny.picture(48, 80)).save(tmp_path / name)
    found = options.pictures_of([str(tmp_path)], False, Talk(True, False))
    assert [path.name for path in found] == ["one.png"]
