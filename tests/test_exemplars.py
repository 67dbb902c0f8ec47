"""Regions as questions: brought to the range of words, mixed with them, found in other pictures."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import features_of

import tiny
from ovseg import exemplars
from ovseg.encoders import Described
from ovseg.errors import BadInput, BadUsage
from ovseg.labels import compose
from ovseg.masks import cell_fractions
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Vocabulary

DIM, HEIGHT, WIDTH = 16, 48, 80


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def words(seed: int = 0) -> Vocabulary:
    """bolt with two phrases, nut, and a negative."""
    rows = unit(np.random.default_rng(seed).normal(size=(4, DIM)))
    return Vocabulary(("bolt", "nut"), rows, np.array([0, 0, 1, -1]), ("bolt", "screw", "nut", "table"))


def example(seed: int, cells: int = 50) -> exemplars.Example:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=DIM)
    return exemplars.Example(unit(rng.normal(size=DIM) + common), unit(0.6 * rng.normal(size=(cells, DIM)) + common))


def scene(things: dict[tuple[int, int, int, int], int], objects: np.ndarray, ground: np.ndarray) -> DenseFeatures:
    """Cells of a picture in which each thing (rows and columns of cells) is a vector of its own."""
    vectors = np.repeat(ground[:, None], 6 * 10, axis=1).reshape(DIM, 6, 10)
    for (top, left, bottom, right), thing in things.items():
        vectors[:, top:bottom, left:right] = objects[thing][:, None, None]
    return features_of(HEIGHT, WIDTH, vectors)


def pixels(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8 * top : 8 * bottom, 8 * left : 8 * right] = True
    return mask


def test_words_alone_are_the_same_vocabulary() -> None:
    text = words()
    assert exemplars.vocabulary(text, {"bolt": [example(1)]}, 0) is text


def test_pure_examples_are_one_row_of_their_mean_whatever_the_synonyms() -> None:
    several = [example(1), example(2)]
    made = exemplars.vocabulary(words(), {"bolt": several}, 1.0)
    assert made.owner.tolist() == [0, 1, -1] and made.phrases == ("2 examples", "nut", "table")
    np.testing.assert_allclose(unit(several[0].vector + several[1].vector), made.vectors[0], atol=1e-6)
    assert made.levels is not None and made.levels[1:].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    other = exemplars.vocabulary(words(5), {"bolt": several}, 1.0)  # other words, the same row
    np.testing.assert_array_equal(made.vectors[0], other.vectors[0])


@pytest.mark.parametrize("t", [1.0, 0.5, 0.25])
def test_examples_say_on_other_cells_what_words_say_in_mean_and_spread(t: float) -> None:
    text, shown = words(), example(3)
    made = exemplars.vocabulary(text, {"nut": [shown]}, t)
    said = text.scores(shown.others, 1.0)[:, 2]
    ours = made.scores(shown.others, 1.0)[:, 2]
    assert ours.mean() == pytest.approx(said.mean(), abs=1e-5)
    pure = (ours - (1 - t) * said) / t  # what the examples say of it
    assert pure.std() == pytest.approx(said.std(), rel=1e-4)
    raw = shown.others @ shown.vector
    assert np.corrcoef(pure, raw)[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(raw.mean() - said.mean()) > 0.2  # on the other range before


def test_a_mix_is_the_sum_of_both_sides_on_any_vector() -> None:
    text, shown = words(), example(4)
    rng = np.random.default_rng(9)
    seen = unit(rng.normal(size=(7, DIM)))
    sides = [exemplars.vocabulary(text, {"nut": [shown]}, t).scores(seen, 40.0)[:, 2] for t in (0, 0.3, 1.0)]
    np.testing.assert_allclose(0.7 * sides[0] + 0.3 * sides[2], sides[1], atol=1e-4)
    assert not exemplars.vocabulary(text, {"nut": [shown]}, 0.3).scores(np.zeros((1, DIM), np.float32), 40.0).any()


def test_one_vector_an_object_is_found_in_another_picture() -> None:
    rng = np.random.default_rng(0)
    objects, ground = unit(rng.normal(size=(3, DIM))), unit(rng.normal(size=DIM))
    first = scene({(1, 1, 4, 4): 0, (1, 6, 4, 9): 1}, objects, ground)
    other = scene({(0, 5, 3, 8): 0, (3, 1, 5, 3): 2}, objects, ground)
    regions = exemplars.shown(pixels(1, 1, 4, 4), HEIGHT, WIDTH)
    shares = cell_fractions(regions, 6, 10).reshape(1, -1)
    vectors = unit(shares @ first.vectors.reshape(DIM, -1).T)
    made = exemplars.vocabulary(words(), {"bolt": exemplars.examples(first, regions, vectors)}, 1.0)
    sought = pixels(0, 5, 3, 8)
    masks = Regions.from_masks(np.stack([sought, pixels(3, 1, 5, 3), np.ones((HEIGHT, WIDTH), bool)]))
    seen = unit(np.stack([objects[0], objects[2], other.whole]))
    for regions, rows in ((masks, seen), (Regions.empty(HEIGHT, WIDTH), seen[:0])):
        found = compose(other, made, regions=regions, described=Described(rows), recipe=Recipe(scale=40.0))
        mine = found.labels == 0
        bar = 0.9 if len(regions) else 0.6  # cells alone are blurred to pixels
        assert (mine & sought).sum() > bar * (mine | sought).sum()
        sizes = [(found.with_threshold(cut).labels == 0).sum() for cut in (0.0, 0.5, 0.9, 0.99)]
        assert sizes == sorted(sizes, reverse=True)


def test_cells_under_no_region_are_the_others_and_all_where_none_is_left() -> None:
    features = scene({(1, 1, 4, 4): 0}, np.eye(DIM)[:1], np.eye(DIM)[1])
    one = exemplars.shown([8, 8, 32, 32], HEIGHT, WIDTH)
    (found,) = exemplars.examples(features, one, np.eye(1, DIM, dtype=np.float32))
    assert len(found.others) == 60 - 9 and not found.others[:, 0].any()
    (found,) = exemplars.examples(
        features, exemplars.shown(np.ones((HEIGHT, WIDTH), bool), HEIGHT, WIDTH), np.eye(1, DIM, dtype=np.float32)
    )
    assert len(found.others) == 60
    flat = exemplars.vocabulary(words(), {"bolt": [replace(found, others=found.others[:1])]}, 1.0)
    assert flat.levels is not None and flat.levels[0, 0] == 1.0  # one cell has no spread


def test_masks_boxes_and_regions_show_the_same() -> None:
    mask = pixels(1, 2, 3, 5)
    for where in (mask, mask[None], [16, 8, 40, 24], np.array([16, 8, 40, 24]), Regions.from_masks(mask[None])):
        np.testing.assert_array_equal(mask[None], exemplars.shown(where, HEIGHT, WIDTH).masks)
    assert exemplars.shown([0, 0, 1, 1], HEIGHT, WIDTH).area.tolist() == [1]
    assert exemplars.shown([10.2, 0.2, 10.4, 0.4], HEIGHT, WIDTH).area.tolist() == [1]


@pytest.mark.parametrize(
    ("where", "needed"),
    [
        (np.zeros((48, 80), bool), "has no pixel"),
        (np.ones((80, 48), bool), "80x48, the picture is 48x80 .* Swapped axes"),
        ([10, 10, 10, 20], "a box is left, top, right, bottom"),
        ([0, 0, 81, 20], "a box is left, top, right, bottom"),
        ([float("nan"), 0, 8, 20], "a box is left, top, right, bottom"),
        ([0.1, 0.1, 0.9, 0.8], "in pixels of the picture .* not in shares"),
        (np.ones((48, 80)), "boolean mask, a box .* float64 of"),
        ("bolt", "boolean mask, a box .* got"),
        ([[1, 2], [3]], "boolean mask, a box .* got list"),
    ],
)
def test_what_shows_nothing_is_told(where: object, needed: str) -> None:
    with pytest.raises(BadInput, match=needed):
        exemplars.shown(where, HEIGHT, WIDTH)


def test_examples_that_cancel_the_words_are_told() -> None:
    words = Vocabulary(("bolt",), np.eye(1, 8, dtype=np.float32), np.arange(1))
    against = exemplars.Example(-words.vectors[0], np.ones((3, 8), np.float32))
    with pytest.raises(BadInput, match="words of a name and its examples cancel each other at t = 0.5"):
        exemplars.vocabulary(words, {"bolt": [against]}, 0.5)


def test_examples_that_make_no_row_are_told() -> None:
    one = example(1)
    for given, t, needed in (
        ({"bolt": [one]}, 1.5, "t is in"),
        ({"cat": [one]}, 1.0, "'cat' is not among bolt, nut"),
        ({"bolt": []}, 1.0, "'bolt' has no example"),
    ):
        with pytest.raises(BadUsage, match=needed):
            exemplars.vocabulary(words(), given, t)
    with pytest.raises(BadInput, match="cancel each other"):
        exemplars.vocabulary(words(), {"bolt": [one, replace(one, vector=-one.vector)]})
    with pytest.raises(BadUsage, match="made of examples already"):
        exemplars.vocabulary(exemplars.vocabulary(words(), {"bolt": [one]}), {"nut": [one]})


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    recipe = Recipe(name="test", model="tiny", templates="bare", negatives="word", short_side=48, method="naclip")
    return Pipeline(recipe, tiny.clip())


def test_a_pipeline_takes_names_that_are_shown_beside_names_that_are_words(pipe: Pipeline) -> None:
    one, other = tiny.picture(), tiny.picture(56, 72, seed=1)
    encoding = pipe.encode(one)
    given = {"bolt": [(encoding, [8, 8, 40, 32]), (other, np.ones((56, 72), bool))]}
    made = pipe.exemplars(given, text=[{"bolt": ["hex bolt", "screw"]}, {"nut": {"threshold": 0.3}}], t=1)
    assert made.names == ("bolt", "nut") and made.phrases == ("2 examples", "nut", "background")
    assert made.thresholds == {"nut": 0.3}
    vectors = np.concatenate([pipe.look(encoding, [8, 8, 40, 32]), pipe.look(other, [0, 0, 72, 56])])
    np.testing.assert_allclose(unit(vectors.sum(axis=0)), made.vectors[0], atol=1e-5)
    np.testing.assert_allclose(pipe.vocabulary(["nut"]).vectors[0], made.vectors[1], atol=1e-5)
    alone = pipe.exemplars({"part 17": given["bolt"]})
    assert alone.names == ("part 17",) and alone.owner.tolist() == [0, -1]
    found = pipe.segment(other, alone, threshold=0.0)
    assert found.names == ("part 17",) and found.labels.shape == (56, 72)
    words = pipe.vocabulary([{"bolt": ["hex bolt", "screw"]}])
    asked = {"bolt": given["bolt"]}
    plain = pipe.exemplars(asked, text=[{"bolt": ["hex bolt", "screw"]}], t=0)
    np.testing.assert_array_equal(words.vectors, plain.vectors)
    np.testing.assert_array_equal(pipe.segment(one, words).labels, pipe.segment(one, plain).labels)
    with pytest.raises(BadInput, match="Swapped axes"):
        pipe.look(one, np.ones((80, 48), bool))
