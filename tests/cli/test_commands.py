"""The command line as a person uses it: real processes where exit codes and streams matter, in-process elsewhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ovseg import cli, weights
from ovseg.proposals import PROPOSERS
from ovseg.sam.networks import KINDS, build

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = weights.bundled("demo/examples") / "breakfast.jpg"


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


def test_help_is_quick_and_shows_examples_for_every_command() -> None:
    start = time.process_time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ovseg", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and "Examples:" in done.stdout and time.process_time() - start < 5
    assert not {"torch", "numpy", "cv2", "rich"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    for name, command in cli.app.commands.items():
        text = command.get_help(cli.click.Context(command, info_name=name))
        assert "Examples:" in text and text.index("Examples:") < text.index("Options:"), name


def test_help_has_every_proposer_with_what_it_gives() -> None:
    segment = cli.app.commands["segment"]
    text = segment.get_help(cli.click.Context(segment, info_name="segment"))
    rows = [f"{name:12}  {row.what}" for name, row in PROPOSERS.items()]
    assert [row for row in rows if row not in text] == []
    lines = [line.strip() for line in text.splitlines()]
    assert [row for row in rows if row not in lines] == [] and max(map(len, text.splitlines())) <= 90
    with_sam = [name for name, row in PROPOSERS.items() if row.needs_sam]
    assert "the last five need --sam" in text and with_sam == [*PROPOSERS][-5:]


def test_check_proposers_is_the_table_of_proposers(run: Any) -> None:
    code, out, _ = run("check", "--proposers", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [one["proposer"] for one in told] == [*PROPOSERS]
    by_name = {one["proposer"]: one for one in told}
    assert by_name["from-map"]["needs"] == ["SAM", "names"] and by_name["from-map"]["options"]["min_iou"] == 0.9
    code, out, _ = run("check", "--proposers", "--markdown")
    assert code == 0 and all(f"| {name} | {row.what} |" in out for name, row in PROPOSERS.items())


def test_masks_on_disk_are_a_proposer(run: Any, tmp_path: Path) -> None:
    with Image.open(EXAMPLE) as image:
        width, height = image.size
    masks = np.zeros((1, height, width), bool)
    masks[0, : height // 2] = True
    np.savez(tmp_path / "breakfast.npz", masks=masks)
    asked = ("segment", EXAMPLE, "-p", "apple", "-p", "cup", "--json", "--proposer")
    code, out, _ = run(*asked, f"files@{tmp_path}")
    recipe = json.loads(out)["recipe"]
    assert code == 0 and recipe["proposer"] == "files" and recipe["proposer_options"] == {"folder": str(tmp_path)}
    for wrong, sentence in (
        ("files", "write files@FOLDER"),
        ("none@here", "option of proposer none"),
        (f"files@{tmp_path / 'gone'}", "needs the folder of the masks: "),
    ):
        code, out, err = run(*asked, wrong)
        assert code == 2 and not out and sentence in err


def test_regions_come_from_the_map_of_the_names_by_a_sam(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sam = build(KINDS["tiny"])
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.97)
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    path = weights.path

    def own(name: str, *rest: Any) -> Path:
        return tmp_path / "sam.safetensors" if name == "sam-vit-b" else path(name, *rest)

    monkeypatch.setattr(weights, "path", own)
    asked = ("segment", EXAMPLE, "-p", "apple", "-p", "cup", "-p", "teapot", "--threshold", "0.2", "--json")
    code, out, _ = run(*asked, "--proposer", "from-map", "--sam", "sam-vit-b", "-o", tmp_path / "out")
    found, (_, plain, _) = json.loads(out), run(*asked)
    assert code == 0 and (found["recipe"]["proposer"], found["recipe"]["sam"]) == ("from-map", "sam-vit-b")
    assert found["regions"] and found["shares"] != json.loads(plain)["shares"]
    assert (tmp_path / "out" / "breakfast.overlay.png").is_file()
    code, out, err = run(*asked, "--proposer", "from-map", "--model", "mobile")
    assert code == 2 and not out and "proposer from-map asks a SAM for masks: name one" in err


def test_stages_refining_and_area_reach_the_recipe_and_misspelt_ones_are_told(run: Any) -> None:
    asked = ("segment", EXAMPLE, "-p", "apple", "-p", "cup", "--json")
    code, out, _ = run(*asked, "--stage", "surgery", "--stage", "tlp", "--refine", "pamr", "--area", "0.02")
    recipe = json.loads(out)["recipe"]
    assert code == 0 and recipe["stages"] == ["surgery", "tlp"]
    assert (recipe["refine"], recipe["area"]) == ("pamr", 0.02)
    for wrong, hint in (("--stage", "Did you mean 'tlp'"), ("--refine", "refine must be one of none, pamr")):
        code, out, err = run(*asked, wrong, "tpl")
        assert code == 2 and not out and hint in err


def test_json_is_one_object_a_picture_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    code, out, err = run(
        "segment", EXAMPLE, EXAMPLE.parent / "trap.jpg", "-p", "apple", "-p", "dog=dog|puppy", "--json"
    )
    assert code == 0
    first, second = (json.loads(line) for line in out.splitlines())
    keys = {"path", "height", "width", "names", "shares", "presence", "regions", "recipe", "notes", "seconds"}
    assert set(first) == keys
    assert first["names"] == second["names"] == ["apple", "dog"] and first["path"] == str(EXAMPLE)
    with Image.open(EXAMPLE) as picture:
        assert (first["width"], first["height"]) == picture.size
    from ovseg.raster import decode_rle

    for region in first["regions"]:
        assert set(region) == {"name", "score", "area", "bbox", "segmentation"}
        assert decode_rle(region["segmentation"]).sum() == region["area"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_default_formats_are_overlay_labels_and_coco(run: Any, tmp_path: Path) -> None:
    code, out, err = run("segment", EXAMPLE, "-p", "apple", "-o", "my out")
    assert (code, out) == (0, "")
    assert sorted(path.name for path in (tmp_path / "my out").iterdir()) == [
        "annotations.json", "breakfast.labels.png", "breakfast.overlay.png", "classes.json",
    ]  # fmt: skip
    with Image.open(tmp_path / "my out" / "breakfast.labels.png") as labels, Image.open(EXAMPLE) as picture:
        assert labels.size == picture.size and labels.mode == "P"
        assert set(np.unique(np.asarray(labels))) <= {0, 1}


def test_one_bad_picture_never_ends_a_batch(run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture at all")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    whole = EXAMPLE.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    (tmp_path / "a b").mkdir()
    good = tmp_path / "a b" / "good <script>.jpg"
    good.write_bytes(whole)
    bad = ["text.png", "dot.png", "cut.jpg", "bomb.png", "gone.jpg"]
    code, out, err = run("segment", *bad, good, "-p", "apple", "--json")
    assert code == 1
    assert [json.loads(line)["path"] for line in out.splitlines()] == [str(good)]
    lines = [line for line in err.splitlines() if line.startswith("ovseg: image")]
    assert [line.split()[3].rstrip(":") for line in lines] == bad
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-p", "apple", "--model", "tinny"], 2, "Did you mean 'tiny'"),
        (["-p", "apple", "--method", "sklip"], 2, "method must be one of"),
        (["-p", "apple", "--method", "proxyclip"], 2, "name a guide"),
        (["-p", "apple", "--method", "proxyclip", "--guide", "dino-b16"], 3, "ovseg weights pull dino-vit-b16"),
        (["-p", "apple", "--format", "voc"], 2, "format must be one of"),
        (["-p", "apple", "-p", "apple"], 2, "names must differ: 'apple' came 2 times"),
        (["-p", " "], 2, "is empty"),
        ([], 2, "at least one name is needed"),
        (["-p", "apple", "--prompts", "x.txt"], 2, "from -p or from --prompts"),
        (["--prompts", "x.txt"], 2, "the file of names is not there: x.txt"),
        (["-p", "apple", "--threshold", "half"], 2, "a threshold is a number"),
        (["-p", "apple", "--threshold", "2"], 2, r"a threshold is in [0, 1]"),
        (["-p", "apple", "--threshold", "pear=0.2"], 2, "'pear' is not among apple"),
        (["-p", "apple", "--device", "cuda:9"], 2, "cuda:9 is not on this machine"),
        (["-p", "apple", "--tresh", "2"], 2, "No such option"),
        (["-p", "apple", "--model", "base"], 3, "ovseg weights pull"),
        (["-p", "apple", "--model", "ViT-B-32@gone.safetensors"], 3, "the checkpoint is not there"),
    ],
)
def test_wrong_calls_end_with_one_sentence_and_the_right_code(
    run: Any, words: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    got, out, err = run("segment", EXAMPLE, *words, "-o", "out", "--weights", tmp_path)
    assert (got, out) == (code, "") and sentence in err and "Traceback" not in err


def test_overlong_name_is_said_and_not_cut(run: Any) -> None:
    name = " ".join(["a very long description of one single red apple"] * 12)
    code, out, err = run("segment", EXAMPLE, "-p", name, "-p", "dog", "--json")
    assert code == 0 and json.loads(out)["names"][0] == name
    assert "windows were averaged" in err


def test_broken_checkpoints_end_with_code_three(run: Any, tmp_path: Path) -> None:

    tiny = weights.bundled("tiny")
    for name in ("clip.json", "bpe.txt.gz", "names.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    state = load_file(tiny / "clip.safetensors")
    state.pop("visual.ln_post.bias")
    save_file(state, tmp_path / "clip.safetensors")
    code, _, err = run("segment", EXAMPLE, "-p", "apple", "--model", tmp_path / "clip.safetensors", "--json")
    assert code == 3 and "lacks visual.ln_post.bias" in err
    (tmp_path / "w" / "tiny").mkdir(parents=True)
    flipped = bytearray((tiny / "clip.safetensors").read_bytes())
    flipped[-1] ^= 1
    (tmp_path / "w" / "tiny" / "clip.safetensors").write_bytes(flipped)
    code, _, err = run("segment", EXAMPLE, "-p", "apple", "--model", "tiny", "--weights", tmp_path / "w", "--json")
    assert code == 3 and "sha256" in err


def test_names_from_a_file_and_a_list_of_pictures(run: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("apple\ndog=dog|puppy\n")
    (tmp_path / "list.txt").write_text(f"{EXAMPLE}\n")
    code, out, _ = run("segment", "@list.txt", "--prompts", "names.txt", "--json", "--threshold", "dog=0.9")
    assert code == 0 and json.loads(out)["names"] == ["apple", "dog"]


def test_anomaly_writes_a_heat_map_and_json(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("anomaly", EXAMPLE, "--object", "table", "--json", "-o", "heat")
    found = json.loads(out)
    assert code == 0 and {
        "path",
        "height",
        "width",
        "object",
        "score",
        "threshold",
        "unit",
        "regions",
        "recipe",
    } <= set(found)
    assert [path.name for path in (tmp_path / "heat").iterdir()] == ["breakfast.anomaly.png"]


def test_label_goes_on_where_it_was(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(EXAMPLE.read_bytes())
    code, _, err = run("label", "in", "-p", "apple", "-o", "drafts")
    first = (tmp_path / "drafts" / "coco" / "annotations.json").read_bytes()
    assert code == 0 and len(json.loads(first)["images"]) == 2
    (tmp_path / "in" / "2.jpg").write_bytes(EXAMPLE.read_bytes())
    code, _, err = run("label", "in", "-p", "apple", "-o", "drafts")
    assert (
        code == 0 and len(json.loads((tmp_path / "drafts" / "coco" / "annotations.json").read_bytes())["images"]) == 3
    )
    assert "1 done, 2 done before, 0 failed" in err


def test_label_sees_what_changed_and_refuses_another_folder(run: Any, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "one" / "a.png")
    Image.new("RGB", (44, 33), "blue").save(tmp_path / "one" / "b.png")
    Image.new("RGB", (50, 60), "red").save(tmp_path / "two" / "a.png")
    assert run("label", "one", "-p", "apple", "-o", "drafts")[0] == 0
    code, _, err = run("label", "two", "-p", "apple", "-o", "drafts")
    assert code == 2 and "asked something else (folder was" in err
    Image.new("RGB", (64, 48), "green").save(tmp_path / "one" / "a.png")  # another picture under the same name
    (tmp_path / "one" / "b.png").unlink()
    code, _, err = run("label", "one", "-p", "apple", "-o", "drafts")
    assert code == 0 and "1 done, 0 done before" in err and "1 pictures are no longer there" in err
    images = json.loads((tmp_path / "drafts" / "coco" / "annotations.json").read_bytes())["images"]
    assert [(image["file_name"], image["width"]) for image in images] == [("a.png", 64)]


def test_own_output_is_never_taken_for_a_picture(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "in" / "a.png")
    assert run("segment", "in", "-p", "apple", "-o", "in")[0] == 0
    code, out, err = run("segment", "in", "-p", "apple", "--json")
    assert code == 0 and len(out.splitlines()) == 1 and "a.overlay.png" in err
    code, out, _ = run("segment", "in/a.overlay.png", "-p", "apple", "--json")
    assert code == 0 and len(out.splitlines()) == 1  # named outright


def test_a_mistyped_path_leaves_earlier_results_alone(run: Any, tmp_path: Path) -> None:
    assert run("segment", EXAMPLE, "-p", "apple", "-o", "x")[0] == 0
    before = (tmp_path / "x" / "annotations.json").read_bytes()
    assert run("segment", "nope.png", "-p", "apple", "-o", "x")[0] == 1
    assert (tmp_path / "x" / "annotations.json").read_bytes() == before


def test_weights_and_check(run: Any) -> None:
    code, out, _ = run("weights", "list")
    assert code == 0 and "tiny-clip" in out and "sam-vit-h" in out and " 0.0 " not in out
    code, out, _ = run("weights", "path", "tiny-clip")
    assert code == 0 and Path(out.strip()).name == "clip.safetensors"
    assert run("weights", "path", "sam-vit-h")[0] == 3
    assert run("weights", "path", "sam-vit-x")[0] == 2
    assert run("weights", "verify")[0] == 0
    code, out, _ = run("check", "--json")
    assert code == 0 and json.loads(out)["presets"]["tiny"] is True


def test_a_run_that_wrote_nothing_says_so(run: Any, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("hello")
    code, _, err = run("segment", "words.jpg", "-p", "apple", "-o", "out")
    assert code == 1 and "0 of 1 pictures: nothing was written" in err


def test_check_says_which_runtimes_are_not_installed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, out, _ = run("check", "--json")
    said = json.loads(out)["runtimes"]
    assert code == 0 and said[0].startswith("torch") and "float32" in said[0]
    assert said[1].startswith("not installed") and "ovseg[openvino]" in said[1]


def test_interrupt_ends_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.pictures, "each", stop)
    code, _, err = run("segment", EXAMPLE, "-p", "apple", "--json")
    assert code == 130 and "interrupted" in err


@pytest.mark.slow
def test_reader_of_stdout_may_leave(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = f"{sys.executable} -m ovseg segment '{EXAMPLE}' -p apple --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_pull_of_a_wrong_file_leaves_nothing_and_ends_with_three(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from tests.weights.standins import BODY, Host, add_row, handler_for

    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    host = Host(f"http://127.0.0.1:{server.server_address[1]}", {"/models/stand_in.pth": BODY})
    server.RequestHandlerClass = handler_for(host)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("OVSEG_MIRROR", host.url)
    monkeypatch.setattr("ovseg.weights.fetch.BACKOFF_SECONDS", (0.0,))
    add_row(monkeypatch)
    code, out, _ = run("weights", "pull", "stand-in", "--to", "u s b")
    assert code == 0 and Path(out.strip()).read_bytes() == BODY
    add_row(monkeypatch, sha256="0" * 64, file="other.pth")
    host.files["/models/other.pth"] = BODY
    code, out, err = run("weights", "pull", "stand-in", "--to", "usb")
    assert (code, out) == (3, "") and "sha256" in err
    assert not (tmp_path / "usb" / "other.pth").exists()
    server.shutdown()
    server.server_close()


def test_compare_shows_where_recipes_part_and_what_review_may_take(run: Any, tmp_path: Path) -> None:
    words = ["segment", EXAMPLE, "-p", "cup", "-p", "bread", "--threshold", "bread=0.4"]
    code, out, err = run(*words, "--compare", "two-level, proposer=none, negatives=scene", "--json", "-o", "out", "-v")
    assert code == 0 and "touches" in err
    line = json.loads(out)
    assert {"touches", "changed_share", "contested_share", "seconds", "review", "missing"} <= set(line["effort"])
    assert (line["effort"]["recipes"], line["effort"]["measure"]) == (4, "posteriors")
    assert sorted(row["region"] for row in line["effort"]["review"]) == list(range(len(line["regions"])))
    assert 0 < line["effort"]["contested_share"] < 1 and line["effort"]["seconds"] is None
    with Image.open("out/breakfast.disagreement.png") as drawn, Image.open(EXAMPLE) as picture:
        assert drawn.width == picture.width and drawn.height > picture.height
    _, plain, _ = run(*words, "--json")
    assert json.loads(plain)["regions"] == line["regions"] and "effort" not in json.loads(plain)
    code, _, err = run("segment", "out", EXAMPLE, "-p", "cup", "-q")
    assert code == 0 and "breakfast.disagreement" not in err  # own pictures are no input


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ("nacl", "method must be one of"),
        ("short_side=64", "short_side of tiny"),
        ("negative=scene", "choice of a recipe"),
        (",", "names other recipes by commas"),
        ("threshold=2.0", "in [0, 1]"),
    ],
    ids=["a misspelt method", "another size", "no choice", "nothing", "no posterior"],
)
def test_compare_is_checked_before_any_network_is_loaded(
    run: Any, monkeypatch: pytest.MonkeyPatch, compare: str, said: str
) -> None:
    from ovseg.pipeline import Pipeline

    monkeypatch.setattr(Pipeline, "open", lambda *_, **__: pytest.fail("a network was opened"))
    code, _, err = run("segment", EXAMPLE, "-p", "cup", "--compare", compare)
    assert code == 2 and said in err
