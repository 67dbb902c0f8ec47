import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovseg import images, job
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.export import StoredRecipe
from ovseg.types import Evidence, Segmentation, Vocabulary

NAMES = ("sky", "car")
WORDS = Vocabulary(NAMES, np.eye(3, 5, dtype=np.float32), np.array([0, 1, 1]), ("sky", "car", "van"))
ASKED = job.question(StoredRecipe({"threshold": 0.3, "model": "test"}), WORDS)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2


def answer(picture):
    """Bright pixels are sky, reddish ones are car: an answer that depends on the picture alone."""
    light = picture.mean(axis=2) / 255
    red = picture[:, :, 0] / 255 - picture[:, :, 2] / 255
    rows = np.stack([8 * (light - 0.5), 8 * red, np.zeros_like(light)]).astype(np.float32)
    evidence = Evidence(*light.shape, np.array([0, 1, -1]), rows, np.full(2, 0.3, np.float32))
    return Segmentation.decide(NAMES, evidence, StoredRecipe({"model": "test"}))


def segment(path):
    return answer(images.read(path))


def paint(folder, count=4):
    """Pictures of different sizes, two with the same name in different folders."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(count):
        path = folder / ("a" if index % 2 else "b c") / f"{index // 2:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = rng.integers(0, 256, (3 + index, 5, 3), np.uint8)
        Image.fromarray(cells.repeat(8, axis=0).repeat(8, axis=1)).save(path)
        paths.append(path)
    return paths


def tree(folder):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(paths, out, **options):
    return job.run(
        paths, options.pop("segment", segment), out, **{"asked": ASKED, "root": out.parent / "in", **options}
    )


@pytest.fixture
def pictures(tmp_path):
    return paint(tmp_path / "in")


def test_a_folder_becomes_coco_whose_masks_are_the_answers(tmp_path, pictures):
    summary = run(pictures, tmp_path / "out")
    assert (4, 0, 0) == (summary.done, summary.skipped, summary.failed)
    assert (tmp_path / "out/coco/annotations.json",) == summary.written
    coco = COCO(summary.written[0])
    assert ["a/00.png", "a/01.png", "b c/00.png", "b c/01.png"] == [one["file_name"] for one in coco.imgs.values()]
    assert len(coco.anns) == sum(summary.regions.values()) > 0
    for number, image in coco.imgs.items():
        expected = segment(tmp_path / "in" / image["file_name"])
        labels = np.full(expected.labels.shape, -1)
        for annotation in coco.imgToAnns[number]:
            labels[coco.annToMask(annotation) > 0] = annotation["category_id"] - 1
        np.testing.assert_array_equal(expected.labels, labels)


def test_a_second_run_does_nothing_again_and_changes_no_byte(tmp_path, pictures):
    run(pictures, tmp_path / "out")
    before = tree(tmp_path / "out")

    def never(path):
        raise AssertionError(path)

    states = []
    summary = run(pictures, tmp_path / "out", segment=never, on_picture=lambda one: states.append(one.state))
    assert (0, 4, 0) == (summary.done, summary.skipped, summary.failed)
    assert ["skipped"] * 4 == states
    assert before == tree(tmp_path / "out")


def test_new_pictures_join_and_the_order_of_runs_leaves_no_trace(tmp_path, pictures):
    run(pictures[2:], tmp_path / "out")
    run(pictures[:2], tmp_path / "out")
    run(pictures, tmp_path / "whole")
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_a_job_stopped_by_ctrl_c_goes_on_to_the_same_bytes(tmp_path, pictures, moment):
    seen = []

    def stopped(path):
        seen.append(path)
        if len(seen) == moment + 1:
            raise KeyboardInterrupt
        return segment(path)

    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "out", segment=stopped)
    assert moment == len(list((tmp_path / "out/parts").glob("*.json")))
    summary = run(pictures, tmp_path / "out")
    assert (4 - moment, moment) == (summary.done, summary.skipped)
    run(pictures, tmp_path / "whole")
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


def test_a_job_killed_outright_goes_on_to_the_same_bytes(tmp_path, pictures):
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parent)]!r}
        import test_job
        count = 0
        def killed(path):
            global count
            count += 1
            if count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return test_job.segment(path)
        folder = Path({str(tmp_path)!r})
        test_job.run(sorted(folder.glob("in/*/*.png")), folder / "out", segment=killed)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert -signal.SIGKILL == ended.returncode, ended.stderr
    assert 2 == len(list((tmp_path / "out/parts").glob("*.json")))
    run(pictures, tmp_path / "out")
    run(pictures, tmp_path / "whole")
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


def test_a_picture_that_cannot_be_used_is_a_row_and_the_others_go_on(tmp_path, pictures):
    bad = tmp_path / "in" / "not a picture.png"
    bad.write_text("words")
    summary = run([bad, *pictures], tmp_path / "out")
    assert (4, 0, 1) == (summary.done, summary.skipped, summary.failed)
    rows = [json.loads(line) for line in summary.failures.read_text().splitlines()]
    assert ["not a picture.png"] == [row["path"] for row in rows]
    assert "not a picture in a known format" in rows[0]["message"]
    Image.new("RGB", (24, 16), "white").save(bad)
    again = run([bad, *pictures], tmp_path / "out")
    assert (1, 4, 0) == (again.done, again.skipped, again.failed)
    assert again.failures is None and "" == (tmp_path / "out/failures.jsonl").read_text()


@pytest.mark.parametrize("error", [BadInput("no"), MemoryError()])
def test_errors_of_one_picture_are_rows(tmp_path, pictures, error):
    def raising(path):
        raise error

    assert 4 == run(pictures, tmp_path / "out", segment=raising).failed


@pytest.mark.parametrize("error", [BadUsage("no"), RuntimeError("a bug")])
def test_errors_of_the_job_itself_end_it(tmp_path, pictures, error):
    def raising(path):
        raise error

    with pytest.raises(type(error)):
        run(pictures, tmp_path / "out", segment=raising)


def test_another_question_in_the_same_folder_is_refused_and_says_what_differs(tmp_path, pictures):
    run(pictures[:1], tmp_path / "out")
    before = tree(tmp_path / "out")
    other = {**ASKED, "recipe": {"threshold": 0.5, "model": "test"}}
    with pytest.raises(BadUsage, match=r"recipe.threshold was 0.3, now 0.5.*choose another folder"):
        run(pictures, tmp_path / "out", asked=other)
    with pytest.raises(BadUsage, match=r"names was sky, car=car\|van, now sky"):
        run(pictures, tmp_path / "out", asked={**ASKED, "names": ASKED["names"][:1]})
    with pytest.raises(BadUsage, match=r"now car=car\|van, sky"):  # the order of names is that of the categories
        run(pictures, tmp_path / "out", asked={**ASKED, "names": ASKED["names"][::-1]})
    assert before == tree(tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, pictures):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(BadUsage, match="holds thesis.txt"):
        run(pictures, tmp_path / "out")
    assert ["thesis.txt"] == os.listdir(tmp_path / "out")


def test_annotations_that_a_person_changed_are_left_alone(tmp_path, pictures):
    run(pictures[:2], tmp_path / "out")
    file = tmp_path / "out/coco/annotations.json"
    file.write_text("corrected by hand")
    with pytest.raises(BadUsage, match="was changed after ovseg wrote it"):
        run(pictures, tmp_path / "out")
    assert "corrected by hand" == file.read_text()
    file.rename(tmp_path / "mine.json")
    assert 4 == run(pictures, tmp_path / "out").skipped


def test_all_formats_come_from_the_same_parts(tmp_path, pictures):
    summary = run(pictures, tmp_path / "out", formats=("coco", "labels", "png", "json"))
    names = {path.relative_to(tmp_path / "out").as_posix() for path in summary.written}
    assert {"coco/annotations.json", "labels/classes.json", "labels/00.labels.png", "labels/00-2.labels.png"} <= names
    assert {"png/01.overlay.png", "json/01-2.json"} <= names
    expected = segment(tmp_path / "in/b c/01.png").labels + 1
    np.testing.assert_array_equal(expected, np.array(Image.open(tmp_path / "out/labels/01-2.labels.png")))


def test_no_pictures_give_a_valid_empty_file(tmp_path):
    summary = run([], tmp_path / "out")
    assert (0, 0, 0, 0) == (summary.done, summary.skipped, summary.failed, summary.empty)
    assert [] == json.loads(summary.written[0].read_text())["images"]


def test_hostile_paths_stay_inside_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    paths = []
    for name in ("..x", "con.png", "<script>.png", "é" * 60 + ".png", "a\nb.png", "..png"):
        path = tmp_path / "in" / name
        Image.new("RGB", (24, 16), "white").save(path, "PNG")
        paths.append(path)
    summary = run(paths, tmp_path / "out")
    assert len(paths) == summary.done == len(list((tmp_path / "out/parts").iterdir()))


def test_an_unknown_format_is_refused_before_any_work(tmp_path, pictures):
    with pytest.raises(UnknownName, match="format must be one of coco"):
        run(pictures, tmp_path / "out", formats=("cocoa",))
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_named(tmp_path, pictures):
    run(pictures[:1], tmp_path / "out")
    part = next((tmp_path / "out/parts").iterdir())
    part.write_text("{")
    with pytest.raises(BadInput, match="delete it and run the same job again"):
        run(pictures, tmp_path / "out")


def test_a_question_holds_everything_that_an_answer_depends_on():
    words = Vocabulary(
        ("dog", "cat"), np.eye(4, 5, dtype=np.float32), np.array([0, 0, 1, -1]), ("dog", "puppy", "cat", "wall"),
        {"cat": 0.4},
    )  # fmt: skip
    assert {
        "recipe": {"model": "tiny"},
        "names": [{"name": "dog", "phrases": ["dog", "puppy"]}, {"name": "cat", "phrases": ["cat"]}],
        "negatives": ["wall"],
        "thresholds": {"cat": 0.4},
        "weights": "abc",
    } == job.question(StoredRecipe({"model": "tiny"}), words, "abc")
