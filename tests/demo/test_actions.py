import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tiny
from demo import actions
from ovseg.errors import BadInput, BadUsage, OvsegError
from ovseg.pipeline import Pipeline
from ovseg.presence import Presence
from ovseg.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2

RECIPE = Recipe(name="test", model="test", short_side=48, templates="bare", negatives="word", scale=20.0)
HOSTILE = ["<img src onerror>", "${alert(2)}", "{{x}} `y`", "<script>alert(3)</script>", "'\"&"]


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(RECIPE, tiny.clip())


@pytest.fixture
def desk(pipe):
    return actions.Desk(pipe)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    for seed in range(4):
        Image.fromarray(tiny.picture(48, 80, seed=seed)).save(folder / f"{seed}.png")
    return [str(folder / f"{seed}.png") for seed in range(4)]


def test_what_is_shown_is_the_pipeline_s_answer(desk, pipe, files):
    kept = actions.segment(desk, files[0], "cat\ndog=dog|puppy\n\n", 0.2)
    expected = pipe.segment(tiny.picture(48, 80), ["cat", {"dog": ["dog", "puppy"]}], threshold=0.2)
    np.testing.assert_array_equal(expected.labels, kept.found.labels)
    assert (48, 80, 3) == actions.overlay(kept).shape
    said = actions.as_json(kept)
    assert {**expected.to_dict(), "picture": "0.png", "seconds": said["seconds"]} == said
    json.dumps(said)
    assert "path" not in said, "gradio and its client would serve and fetch such a file"


def test_a_picture_is_encoded_once_whatever_is_asked_of_it(desk, files):
    for text in ("cat", "dog\ncow", "cat\nsky"):
        for threshold in (0.0, 0.4):
            kept = actions.segment(desk, files[0], text, threshold)
    actions.anomaly(desk, files[0], "tile", [files[0]], 0.5)
    assert 1 == desk.encoded
    assert "features were at hand" in actions.run_line(desk, kept)
    actions.segment(desk, files[1], "cat", 0.0)
    assert 2 == desk.encoded


def test_two_visitors_with_one_picture_wait_for_one_encoding(pipe, files):
    desk = actions.Desk(pipe)
    threads = [threading.Thread(target=actions.segment, args=(desk, files[2], "cat", 0.1)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == desk.encoded


def test_the_oldest_encodings_go_when_the_budget_is_spent(pipe, files):
    one = actions.Desk(pipe)
    actions.segment(one, files[0], "cat", 0.0)
    size = actions._weight(next(iter(one._kept.values())))
    desk = actions.Desk(pipe, budget=2 * size)
    for file in (files[0], files[1], files[0], files[2], files[0]):
        actions.segment(desk, file, "cat", 0.0)
    assert 3 == desk.encoded and 2 == len(desk._kept) == len(desk._locks)
    actions.segment(desk, files[1], "cat", 0.0)
    assert 4 == desk.encoded, "the one unused for longest was let go"


def test_the_threshold_moves_without_any_network(desk, files, monkeypatch):
    kept = actions.segment(desk, files[0], "cat\ndog", 0.0)
    expected = actions.segment(desk, files[0], "cat\ndog", 0.6)
    monkeypatch.setattr(Pipeline, "encode", None)
    monkeypatch.setattr(Pipeline, "segment", None)
    moved = actions.at_threshold(kept, 0.6)
    np.testing.assert_array_equal(expected.found.labels, moved.found.labels)
    assert "no network was asked" in actions.run_line(desk, moved)
    assert actions.at_threshold(None, 0.6) is None


def test_nothing_found_says_the_best_and_what_to_try(desk, files):
    kept = actions.segment(desk, files[0], "cat\ndog", 0.999)
    says = actions.told_in_words(kept)
    best = {name: 0.0 for name in kept.found.names}
    for _, slots in kept.found.evidence.tiles():
        for name, values in zip(kept.found.names, slots, strict=False):
            best[name] = max(best[name], float(values.max()))
    name = max(best, key=best.get)
    assert says.startswith(f"Nothing found: no pixel reaches 1.00; the best was {best[name]:.2f} for '{name}'. Try 0.")
    lower = float(says.split("Try ")[1].rstrip("."))
    assert lower < best[name]
    assert not actions.told_in_words(actions.at_threshold(kept, lower)).startswith("Nothing found: no pixel")
    assert all(row["score"] is None for row in actions.legend(kept))


def test_names_that_were_judged_absent_are_said_to_be_and_no_threshold_is_advised(desk, files):
    kept = actions.segment(desk, files[0], "cat\ndog", 0.0)
    nouns = np.zeros(3, np.float32)
    for odds, told in (([-9, -9], "cat, dog do not seem"), ([-9, 9], "'dog'")):
        seen = Presence(np.array(odds, np.float32), np.zeros(2, np.float32), np.full(2, 3), nouns)
        evidence = replace(kept.found.evidence, presence=seen, cut=0.0, thresholds=np.full(2, 1.0, np.float32))
        found = type(kept.found).decide(kept.found.names, evidence, kept.found.recipe)
        says = actions.told_in_words(replace(kept, found=found))
        assert says.startswith("Nothing found: ") and told in says
        assert ("Try" in says) == (odds[1] > 0) and "0.00 for" not in says
    alone = actions.segment(desk, files[0], "cat", 0.0).found
    struck = replace(alone.evidence, presence=Presence(nouns[:1] - 9, nouns[:1], np.full(1, 3), nouns), cut=0.0)
    found = type(alone).decide(alone.names, struck, alone.recipe)
    assert "cat does not seem to be in this picture." in actions.told_in_words(replace(kept, found=found))


def test_the_sentence_and_the_legend_agree_with_the_labels(desk, files):
    kept = actions.segment(desk, files[0], "cat\ndog\ncow", 0.0)
    rows = actions.legend(kept)
    assert ["cat", "cow", "dog"] == sorted(row["name"] for row in rows)
    assert sorted((row["share"] for row in rows), reverse=True) == [row["share"] for row in rows]
    for row in rows:
        mine = kept.found.labels == kept.found.names.index(row["name"])
        assert row["share"] == pytest.approx(mine.mean(), abs=1e-6)
        assert (row["share"] > 0) == (row["name"] in actions.told_in_words(kept).split(" Not found")[0])


def test_many_names_are_counted_not_listed(desk, files):
    kept = actions.segment(desk, files[0], "\n".join(f"thing {chr(97 + i)}" for i in range(20)), 0.0)
    assert "more" in actions.told_in_words(kept) and len(actions.told_in_words(kept)) < 250
    assert 20 == len(actions.legend(kept))


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "at least one name"),
        (" \n\n", "at least one name"),
        ("cat\ncat", "came 2 times"),
        ("\n".join(f"n{i}" for i in range(201)), "At most 200 names"),
        ("dog=", "has no phrase"),
        ("x" * 2001, "2001 characters"),
    ],
)
def test_names_that_cannot_be_asked_are_refused_before_the_picture_is_read(desk, files, text, says):
    with pytest.raises(BadUsage, match=says):
        actions.segment(desk, files[0], text, 0.3)
    assert 0 == desk.encoded


def test_a_file_that_is_no_picture_is_named_as_the_visitor_named_it(desk, tmp_path):
    bad = tmp_path / "cat.png"
    for content, says in ((b"", "cat.png is empty"), (b"words", "cat.png is not a picture")):
        bad.write_bytes(content)
        with pytest.raises(BadInput, match=says) as error:
            actions.segment(desk, str(bad), "cat", 0.3)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(BadUsage, match="Choose a picture"):
        actions.segment(desk, None, "cat", 0.3)
    with pytest.raises(BadInput, match="upload it again"):
        actions.segment(desk, str(tmp_path / "gone.png"), "cat", 0.3)


def test_a_picture_is_turned_as_its_exif_says(desk, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiny.picture(48, 80)).save(tmp_path / "turned.jpg", exif=exif)
    kept = actions.segment(desk, str(tmp_path / "turned.jpg"), "cat", 0.0)
    assert (80, 48) == kept.found.labels.shape


def test_hostile_names_stay_what_they_are(desk, files):
    kept = actions.segment(desk, files[0], "\n".join(HOSTILE), 0.0)
    assert set(HOSTILE) == {row["name"] for row in actions.legend(kept)}
    assert HOSTILE == actions.as_json(kept)["names"]


def test_an_anomaly_is_judged_by_words_by_pictures_or_by_both(desk, files):
    by_words = actions.anomaly(desk, files[0], "tile", None, 0.25)
    assert ("probability", 0.25) == (by_words.map.unit, by_words.map.threshold)
    by_pictures = actions.anomaly(desk, files[0], "", files[1:], 0.25)
    assert "cosine distance" == by_pictures.map.unit and by_pictures.map.threshold != 0.25
    both = actions.anomaly(desk, files[0], "tile", files[1:2], 0.25)
    assert ("mixed", 0.25) == (both.map.unit, both.map.threshold)
    assert actions.heatmap(both).ndim == 3
    assert "tile" == actions.as_json(both)["object"]
    assert f"{both.map.score:.3f} (mixed)" in actions.judged_in_words(both)
    assert 4 == desk.encoded


def test_a_map_s_outline_moves_without_any_network(desk, files, monkeypatch):
    kept = actions.anomaly(desk, files[0], "tile", None, 0.5)
    monkeypatch.setattr(Pipeline, "encode", None)
    monkeypatch.setattr(Pipeline, "anomaly", None)
    assert "Nothing at or above 1.000" in actions.judged_in_words(actions.judged_at(kept, 1.0))
    assert "100.0 % of the picture" in actions.judged_in_words(actions.judged_at(kept, 0.0))
    assert actions.judged_at(None, 0.5) is None


def test_an_anomaly_needs_a_name_or_good_pictures(desk, files):
    with pytest.raises(OvsegError, match="Say what the picture shows"):
        actions.anomaly(desk, files[0], " ", [], 0.5)
    with pytest.raises(OvsegError, match="Choose a picture"):
        actions.anomaly(desk, None, "tile", [], 0.5)
    with pytest.raises(OvsegError, match="At most 32 good pictures"):
        actions.anomaly(desk, files[0], "tile", files * 9, 0.5)


def test_the_model_line_names_model_and_device(desk):
    assert desk.line.startswith("Model test · CPU, ")
