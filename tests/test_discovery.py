"""Naming without names: nearest words in chunks, blended with the whole picture, alike words made one, or nothing."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from ovseg import discovery
from ovseg.discovery import Lexicon, blend, fuse, names_of, nearest
from ovseg.errors import BadInput, BadUsage
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe

DIM = 16
NONE = np.zeros((0, DIM), np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def lexicon(rng: np.random.Generator, count: int = 40) -> Lexicon:
    return Lexicon(tuple(f"word {k}" for k in range(count)), unit(rng.normal(size=(count, DIM))))


@pytest.mark.parametrize("chunk", [1, 7, 39, 40, 2048])
def test_nearest_word_is_that_of_one_great_matrix_whatever_the_chunk(rng: np.random.Generator, chunk: int) -> None:
    words, vectors = unit(rng.normal(size=(40, DIM))), unit(rng.normal(size=(23, DIM)))
    words[31] = words[4]  # of equal words the first
    vectors[0] = words[4]
    cosines = vectors @ words.T
    index, best = nearest(vectors, words, chunk)
    np.testing.assert_array_equal(cosines.argmax(axis=1), index)
    np.testing.assert_allclose(cosines.max(axis=1), best, atol=1e-6)
    assert index[0] == 4


def test_22000_words_for_300_regions_stay_within_256_mb(rng: np.random.Generator) -> None:
    tracemalloc.start()
    words = rng.standard_normal((22_000, 768), np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    vectors = unit(rng.normal(size=(300, 768)))
    many = Lexicon(tuple(map(str, range(22_000))), words)
    tracemalloc.reset_peak()
    found = names_of(vectors, many, words[:23])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.names and peak < 256e6, f"{peak / 1e6:.0f} MB, of which the words are {words.nbytes / 1e6:.0f}"


def test_blend_is_the_region_alone_at_0_and_the_picture_alone_at_1(rng: np.random.Generator) -> None:
    local, whole = unit(rng.normal(size=(5, DIM))), unit(rng.normal(size=DIM))
    local[3] = 0  # no pixel
    np.testing.assert_allclose(local, blend(local, 4 * whole, 0), atol=1e-6)
    ends = blend(local, 4 * whole, 1)
    np.testing.assert_allclose(np.broadcast_to(whole, (4, DIM)), np.delete(ends, 3, axis=0), atol=1e-6)
    assert not ends[3].any()
    half = blend(local, whole, 0.5)
    np.testing.assert_allclose(unit(local[0] + whole), half[0], atol=1e-6)
    assert blend(local[:0], whole).shape == (0, DIM)
    with pytest.raises(BadUsage, match="share is in"):
        blend(local, whole, 1.5)


def chain() -> np.ndarray:
    """Four words in a plane, 20 degrees apart (cosine 0.94), and one across."""
    angles = np.deg2rad([0, 20, 40, 60])
    rows = np.zeros((5, DIM), np.float32)
    rows[:4, 0], rows[:4, 1], rows[4, 2] = np.cos(angles), np.sin(angles), 1
    return rows


def test_words_that_a_chain_links_are_one_whatever_their_order(rng: np.random.Generator) -> None:
    rows = chain()
    assert fuse(rows).tolist() == [0, 0, 0, 0, 1]
    assert fuse(rows[[0, 3, 4]]).tolist() == [0, 1, 2]  # 60 degrees: the links are gone
    for _ in range(5):
        order = rng.permutation(5)
        found = fuse(rows[order])
        same = found[:, None] == found[None]
        np.testing.assert_array_equal((order[:, None] == 4) == (order[None] == 4), same)
    assert fuse(rows[:0]).tolist() == []


def test_fused_words_do_not_fuse_again(rng: np.random.Generator) -> None:
    rows = unit(np.repeat(rng.normal(size=(6, DIM)), 3, axis=0) + 0.05 * rng.normal(size=(18, DIM)))
    found = fuse(rows)
    first = rows[np.unique(found, return_index=True)[1]]
    assert len(first) == 6
    np.testing.assert_array_equal(np.arange(6), fuse(first))


def test_regions_are_called_by_the_surest_of_alike_words(rng: np.random.Generator) -> None:
    rows = np.concatenate([chain(), np.eye(DIM)[3:5].astype(np.float32)])
    words = Lexicon(("sheep", "lamb", "ewe", "ram", "car", "wall", "boat"), rows)
    shown = unit(np.stack([rows[3], 0.9 * rows[2] + 0.3 * np.eye(DIM)[9], rows[4] + rows[5] * 0.2, rows[5], rows[0]]))
    shown[4] = 0  # no pixel
    found = names_of(shown, words, np.eye(DIM)[3:4].astype(np.float32))
    assert found.names == ("ram", "car")  # "wall" means the negative, nothing looks like a boat
    assert found.phrases(words) == {"ram": ["ram", "ewe"], "car": ["car"]}
    assert (found.regions.tolist(), found.called.tolist()) == ([0, 1, 2], [0, 0, 1])
    order = rng.permutation(len(shown))
    again = names_of(shown[order], words, np.eye(DIM)[3:4].astype(np.float32))
    assert again.names == found.names and sorted(order[again.regions].tolist()) == found.regions.tolist()
    assert found.only(np.array([1])).phrases(words) == {"car": ["car"]}
    assert found.only(np.array([1])).regions.tolist() == [2]
    assert found.only(np.array([1, 0])).called.tolist() == [1, 1, 0]


def test_where_negatives_are_nearer_nothing_is_found(rng: np.random.Generator) -> None:
    words, negative = lexicon(rng), unit(rng.normal(size=(1, DIM)))
    found = names_of(np.repeat(negative, 3, axis=0), words, negative)
    assert found.names == () and found.phrases(words) == {} and found.regions.tolist() == []
    assert names_of(NONE, words, negative).names == ()


def test_lists_are_read_once_a_word_from_texts_and_files(tmp_path: Path) -> None:
    file = tmp_path / "a list.txt"
    file.write_text("cat\n# animals\n polar  bear # white\nCat\n<script>\n", "utf-8")
    assert discovery.read_list(file) == discovery.read_list(str(file)) == ("cat", "polar bear", "<script>")
    assert len(discovery.read_list(f"w{k}" for k in range(22_000))) == 22_000
    (tmp_path / "phrases.txt").write_text("dog=dog|puppy\n", "utf-8")
    for given, needed in (
        (tmp_path / "none.txt", "is not there"),
        (tmp_path / "phrases.txt", "without phrases"),
        ([], "a list has 1 to"),
        (["cat", ""], "texts with something in them"),
        (["cat", 3], "texts with something in them"),
        ("cat", "words are a list of texts"),
        (7, "words are a list of texts"),
    ):
        with pytest.raises(BadUsage, match=needed):
            discovery.read_list(given)
    with pytest.raises(BadInput, match="every word needs its vector"):
        Lexicon(("cat",), NONE)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    recipe = Recipe(name="test", model="tiny", templates="bare", negatives="none", short_side=48, method="naclip")
    return Pipeline(recipe, tiny.clip())


def test_a_picture_is_named_from_a_list_and_the_answer_says_where_its_regions_come_from(pipe: Pipeline) -> None:
    picture = tiny.picture()
    found = pipe.discover(picture, ["cat", "dog", "car", "boat"], alpha=1.0)
    assert set(found.names) <= {"cat", "dog", "car", "boat"} and found.names and len(found.regions)
    assert found.recipe.to_dict()["proposer"] == "felzenszwalb" and found.recipe.to_dict()["uncovered"] == "none"
    assert found.notes == ("proposer none makes no regions: these are of felzenszwalb",)
    by_hand = Pipeline(pipe.recipe.replace(proposer="felzenszwalb"), pipe.clip).discover(
        picture, ["cat", "dog", "car", "boat"], alpha=1.0
    )
    np.testing.assert_array_equal(found.labels, by_hand.labels)
    assert by_hand.notes == ()
    one = pipe.discover(picture, ["cat", "dog", "car", "boat"], alpha=1.0, most=1)
    assert one.names == found.names[:1]
    for share in (0, 1):
        ends = pipe.discover(picture, ["cat", "dog", "car", "boat"], alpha=1.0, whole=share)
        assert len(ends.names) == 1 if share else True  # the picture alone is one thing
    with pytest.raises(BadUsage, match="most is how many"):
        pipe.discover(picture, ["cat"], most=0)


def test_where_cells_would_vote_regions_are_named_all_the_same(pipe: Pipeline) -> None:
    voting = Pipeline(pipe.recipe.replace(overlap="vote", proposer="felzenszwalb"), pipe.clip)
    usual = Pipeline(pipe.recipe.replace(proposer="felzenszwalb"), pipe.clip)
    found = voting.discover(tiny.picture(), ["cat", "dog", "tree"], alpha=1.0)
    same = usual.discover(tiny.picture(), ["cat", "dog", "tree"], alpha=1.0)
    assert found.names == same.names != () and (found.labels == same.labels).all()
    assert "overlap vote lets cells vote: here regions own pixels, by score" in found.notes


@pytest.mark.parametrize("options", [{"most": 0}, {"alpha": 2}, {"whole": 1.5}])
def test_numbers_without_sense_are_told_whatever_is_found(pipe: Pipeline, options: dict[str, Any]) -> None:
    with pytest.raises(BadUsage, match="most is how many|alpha is the share|share is in"):
        pipe.discover(tiny.picture(), ["cat"], **options)


def test_nothing_found_is_an_empty_answer(pipe: Pipeline) -> None:
    found = pipe.discover(np.full((48, 80, 3), 128, np.uint8), ["cat", "dog"], alpha=0.0)
    shy = Pipeline(pipe.recipe.replace(negatives="scene"), pipe.clip).discover(tiny.picture(), ["sky", "wall"])
    for empty in (found, shy):
        assert empty.names == () and (empty.labels == -1).all() and len(empty.regions) == 0 and empty.shares == {}
        assert empty.to_dict()["regions"] == []


def test_a_long_list_is_read_bare_and_says_so_and_is_kept(pipe: Pipeline) -> None:
    pipe = Pipeline(pipe.recipe.replace(templates="few"), pipe.clip)
    many = [f"w{k}" for k in range(discovery.CHUNK + 1)]
    words = pipe.lexicon(many)
    assert words is pipe.lexicon(many) and words.templates == "bare" and "2049 words are read bare" in words.notes[0]
    assert pipe.lexicon(["cat"]).templates == "few" and pipe.lexicon(["cat"]).notes == ()
    assert words.notes[0] in pipe.discover(tiny.picture(), words).notes
    np.testing.assert_allclose(words.vectors[7], pipe.vocabulary(["w7"], templates="bare").vectors[0], atol=1e-5)


def test_without_words_the_nouns_are_asked(pipe: Pipeline) -> None:
    from ovseg.prompts import NOUNS

    assert set(pipe.lexicon().words) == set(NOUNS)
