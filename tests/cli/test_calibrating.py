"""`ovseg calibrate`: a folder in, a recipe out that the other commands take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg import cli
from ovseg.recipe import PRESETS, Recipe


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `ovseg ...` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OVSEG_WEIGHTS", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures in a folder with a space, a label map of each, and a small recipe."""
    folder, rng = tmp_path / "my pictures", np.random.default_rng(0)
    (tmp_path / "drafts").mkdir()
    folder.mkdir()
    for number in range(3):
        name = f"p{number}"
        Image.fromarray(rng.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        numbers = rng.integers(0, 3, (48, 80)).astype(np.uint8)
        Image.fromarray(numbers).save(tmp_path / "drafts" / f"{name}.labels.png")
    classes = [{"id": 0, "name": None}, {"id": 1, "name": "dog"}, {"id": 2, "name": "other"}]
    (tmp_path / "drafts" / "classes.json").write_text(json.dumps(classes))
    small = PRESETS["tiny"].replace(proposer="none", sam="", short_side=72, scales=(1,))
    (tmp_path / "small.json").write_text(small.to_json())
    return folder


def test_a_folder_gives_a_recipe_that_segment_takes(run: Any, pictures: Path, tmp_path: Path) -> None:
    asked = ("calibrate", pictures, "-p", "cat", "-p", "dog", "--recipe", "small.json")
    code, out, err = run(*asked, "-o", "mine.json", "--alpha", "0.1", "--json")
    made, told = Recipe.from_json((tmp_path / "mine.json").read_text()), json.loads(out)
    assert code == 0 and "noun_rate" in err and "--recipe mine.json" in err
    assert (made.absent, made.alpha, made.scale) == ("presence", 0.1, 40.0) and made.presence_cut is not None
    assert told["recipe"] == made.to_dict() and told["names"] == ["cat", "dog"] and len(told["pictures"]) == 3
    code, out, _ = run("segment", pictures / "p0.png", "-p", "cat", "--recipe", "mine.json", "--json")
    assert code == 0 and json.loads(out)["recipe"]["presence_cut"] == made.presence_cut
    code, out, err = run(*asked, "--labels", "drafts", "-q")
    labelled = Recipe.from_json((tmp_path / "recipe.json").read_text())
    assert code == 0 and not out and not err and labelled.scale != made.scale


def test_label_maps_that_do_not_fit_are_a_sentence(run: Any, pictures: Path, tmp_path: Path) -> None:
    asked = ("calibrate", pictures, "-p", "cat", "-p", "dog", "--recipe", "small.json", "--labels", "drafts")
    Image.fromarray(np.full((48, 80), 7, np.uint8)).save(tmp_path / "drafts" / "p1.labels.png")
    code, _, err = run(*asked)
    assert code == 1 and "holds the class 7" in err
    Image.fromarray(np.zeros((48, 80, 3), np.uint8)).save(tmp_path / "drafts" / "p1.labels.png")
    code, _, err = run(*asked)
    assert code == 1 and "one channel of class numbers" in err
    (tmp_path / "drafts" / "p1.labels.png").unlink()
    code, _, err = run(*asked)
    assert code == 2 and "is not there" in err and not (tmp_path / "recipe.json").exists()
    code, _, err = run("calibrate", pictures, "-p", "cat", "--recipe", "small.json", "--labels", "drafts")
    assert code == 2 and "names dog, other, asked are cat" in err
    code, _, err = run("calibrate", pictures, "-p", "cat", "--recipe", "small.json", "-o", "drafts")
    assert code == 2 and "drafts is a folder" in err
    code, _, err = run("calibrate", pictures / "p0.png", "-p", "cat", "--recipe", "small.json")
    assert code == 2 and "two pictures or more" in err


def test_every_name_is_asked_where_absent_is_off(run: Any, pictures: Path) -> None:
    asked = ("segment", pictures / "p0.png", "-p", "cat", "-p", "dog", "--recipe", "small.json", "--json")
    (code, out, _), (_, off, _) = run(*asked), run(*asked, "--absent", "off")
    assert code == 0 and set(json.loads(out)["presence"]) == {"cat", "dog"} and "presence" not in json.loads(off)
    code, out, err = run(*asked, "--absent", "perhaps")
    assert code == 2 and not out and "absent" in err and "presence" in err


def test_a_rate_on_the_command_line_sets_a_fitted_cut_aside(run: Any, pictures: Path) -> None:
    asked = ("segment", pictures / "p0.png", "-p", "cat", "-p", "dog", "--recipe", "small.json", "--json")
    recipes = [json.loads(run(*asked, *more)[1])["recipe"] for more in ((), ("--alpha", "0.05"), ("--alpha", "1"))]
    assert [one["alpha"] for one in recipes] == [0.05, 0.05, 1.0]
    assert recipes[0]["presence_cut"] is not None and recipes[1]["presence_cut"] is recipes[2]["presence_cut"] is None
    assert "judged absent" not in run(*asked, "--alpha", "1")[2]
    code, out, err = run(*asked, "--alpha", "2")
    assert code == 2 and not out and "in [0, 1]: got 2.0" in err
