"""Presence: absent names pass as often as they may, present ones are found, and nothing else has a say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from ovseg import Pipeline, weights
from ovseg.encoders import Described
from ovseg.errors import BadInput, BadUsage
from ovseg.labels import compose
from ovseg.presence import LEAST, NEAR, SCALE, TOP, Crowd, Presence, check_cut, presence
from ovseg.prompts import NOUNS
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Vocabulary


def unit(vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def drawn(rng: np.random.Generator, *shape: int) -> Float32[np.ndarray, "n dim"]:
    return unit(rng.standard_normal(shape).astype(np.float32))


def picture(
    words: Float32[np.ndarray, "n dim"], rng: np.random.Generator, noise: float = 0.3
) -> Float32[np.ndarray, "dim 6 10"]:
    """6x10 cells, each showing one of the words, under noise."""
    shown = words[rng.permutation(np.arange(60) % len(words))] + noise * drawn(rng, 60, words.shape[1])
    return np.ascontiguousarray(unit(shown).T).reshape(-1, 6, 10)


def ask(
    cells: Float32[np.ndarray, "dim r c"], rows: Float32[np.ndarray, "rows dim"], crowd: Crowd, owner: list[int] | None
) -> Presence:
    owners = np.arange(len(rows)) if owner is None else np.array(owner, np.int64)
    return presence(cells, rows, owners, int(owners.max(initial=-1)) + 1, crowd)


def test_equals_the_obvious_loop() -> None:
    rng = np.random.default_rng(0)
    crowd, rows = Crowd(drawn(rng, 30, 16), drawn(rng, 4, 16)), drawn(rng, 5, 16)
    rows[2] = crowd.nouns[7]  # no rival of itself, and no null
    cells = picture(np.concatenate([rows, crowd.rows]), rng)
    owner, flat = [0, 1, 2, 0, -1], cells.reshape(16, -1).T.astype(float)

    def loop(own: Float32[np.ndarray, "p dim"]) -> float:
        rivals = [word for word in crowd.rows if (own @ word < NEAR).all()]
        values = []
        for cell in flat:
            mine = max(SCALE * (cell @ row) for row in own)
            values.append(mine - np.log(sum(np.exp(SCALE * (cell @ word)) for word in rivals)))
        return float(np.mean(sorted(values)[-round(TOP * 60) :]))

    found = ask(cells, rows, crowd, owner)
    odds = [loop(rows[[0, 3]]), loop(rows[[1]]), loop(rows[[2]])]
    null = np.array([loop(noun[None]) for noun in crowd.nouns])
    np.testing.assert_allclose(found.odds, odds, atol=2e-4)
    np.testing.assert_allclose(found.null, null, atol=2e-4)
    np.testing.assert_allclose(found.share[:2], [(null < one).sum() / 31 for one in odds[:2]], atol=1e-6)
    assert found.share[2] == np.float32((np.delete(null, 7) < odds[2]).sum() / 30)
    assert found.nouns.tolist() == [30, 30, 29]


def test_absent_names_pass_as_often_as_alpha_says() -> None:
    """Names and nouns drawn alike, none of them shown: over 2,000 draws the rate is that of ranks, within 3 sd."""
    rng, alpha, passed = np.random.default_rng(1), 0.1, 0
    for _ in range(200):
        crowd = Crowd(drawn(rng, 63, 24), drawn(rng, 3, 24))
        cells = np.ascontiguousarray(drawn(rng, 60, 24).T).reshape(24, 6, 10)
        passed += int(ask(cells, drawn(rng, 10, 24), crowd, None).judge(alpha).sum())
    rate = np.floor(alpha * 64) / 64
    assert abs(passed / 2000 - rate) < 3 * np.sqrt(2 * rate * (1 - rate) / 2000)  # ten names share a picture's null


def test_in_orthogonal_worlds_what_is_shown_is_present_and_nothing_else() -> None:
    rng, world = np.random.default_rng(2), np.eye(64, dtype=np.float32)
    crowd, rows = Crowd(world[:40], world[40:44]), world[44:54]
    for _ in range(20):
        shown = rng.random(10) < 0.4
        found = ask(picture(np.concatenate([rows[shown], world[40:44]]), rng, 0.0), rows, crowd, None)
        assert (found.judge(0.05) == shown).all()


def test_presence_of_a_name_does_not_hang_on_other_names_nor_on_their_order() -> None:
    rng = np.random.default_rng(3)
    crowd, rows = Crowd(drawn(rng, 50, 16), drawn(rng, 4, 16)), drawn(rng, 7, 16)
    cells = picture(rows[:3], rng)
    every = ask(cells, rows, crowd, None)
    order = rng.permutation(7)
    turned = ask(cells, rows[order], crowd, None)
    np.testing.assert_allclose(turned.odds, every.odds[order], atol=1e-4)
    np.testing.assert_array_equal(turned.share, every.share[order])
    for name in range(7):
        alone = ask(cells, rows[[name]], crowd, None)
        np.testing.assert_allclose(alone.odds, every.odds[[name]], atol=1e-4)
        np.testing.assert_array_equal(alone.share, every.share[[name]])
    twice = ask(cells, np.concatenate([rows, rows]), crowd, [*range(7), *range(7)])  # every phrase a second time
    np.testing.assert_array_equal(twice.share, every.share)


def test_a_noun_that_means_the_same_is_no_rival() -> None:
    rng, world = np.random.default_rng(4), np.eye(64, dtype=np.float32)
    crowd = Crowd(world[:40], world[40:44])
    near = unit(world[[5]] + 0.3 * world[[50]])  # cosine 0.96 to the noun 5
    cells = picture(world[[5, 41]], rng)
    found = ask(cells, near, crowd, None)
    assert found.nouns.tolist() == [39] and found.judge(0.05).all()
    far = unit(world[[5]] + 0.7 * world[[50]])  # 0.82: another thing, and the noun explains the cells better
    assert ask(cells, far, crowd, None).odds[0] < found.odds[0] - 5


def test_many_names_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    crowd, rows = Crowd(drawn(rng, 30, 16), drawn(rng, 4, 16)), drawn(rng, 23, 16)
    cells, owner = picture(rows, rng), [*range(10), -1, *range(10), 3, 4]
    every = ask(cells, rows, crowd, owner)
    monkeypatch.setattr("ovseg.presence.NAMES_TOGETHER", 3)
    np.testing.assert_allclose(ask(cells, rows, crowd, owner).odds, every.odds, atol=1e-4)


def test_nothing_asked_no_crowd_and_one_cell() -> None:
    rng = np.random.default_rng(6)
    crowd, cells = Crowd(drawn(rng, 30, 16), drawn(rng, 4, 16)), drawn(rng, 1, 16).reshape(16, 1, 1)
    assert presence(cells, np.zeros((0, 16), np.float32), np.zeros(0, np.int64), 0, crowd).odds.shape == (0,)
    assert np.isfinite(ask(cells, drawn(rng, 3, 16), crowd, None).odds).all()
    nobody = Crowd(np.zeros((0, 16), np.float32), np.zeros((0, 16), np.float32))
    alone = ask(cells, drawn(rng, 3, 16), nobody, None)
    assert alone.judge(0.05).all() and np.isfinite(alone.odds).all()  # nothing to be held against
    assert alone.odds.max() <= 2 * SCALE - np.log(LEAST)


def test_alpha_and_cut_judge() -> None:
    found = Presence(
        np.array([2.0, -1.0, -5.0], np.float32),
        np.array([0.97, 0.94, 0.2], np.float32),
        np.array([256, 256, 256]),
        np.zeros(256, np.float32),
    )
    assert found.judge(0.05).tolist() == [True, False, False]
    assert found.judge(1).tolist() == [True, True, True] and found.judge(0).tolist() == [False] * 3  # 256 to beat
    assert found.judge(0.05, cut=-1.0).tolist() == [True, True, False]
    with pytest.raises(BadUsage, match="alpha is the share"):
        found.judge(1.5)
    for cut in (float("nan"), float("inf"), True, "-2.4"):
        with pytest.raises(BadUsage, match="a cut of presence is a number of odds"):
            check_cut(cut)
    for cut in (float("nan"), float("inf")):
        with pytest.raises(BadUsage, match="a cut of presence is a number of odds"):
            found.judge(0.05, cut=cut)
        with pytest.raises(BadUsage, match="a cut of presence is a number of odds"):
            asked(*world([0], 0), presence_cut=0.0).with_presence(cut=cut)


def test_rows_of_another_network_or_length_are_refused() -> None:
    rng = np.random.default_rng(7)
    crowd = Crowd(drawn(rng, 30, 16), drawn(rng, 4, 16))
    with pytest.raises(BadInput, match="one network: rows have 8 and 16"):
        presence(np.zeros((8, 6, 10), np.float32), drawn(rng, 2, 8), np.arange(2), 2, crowd)
    cells, rows = picture(drawn(rng, 3, 16), rng), drawn(rng, 2, 16)
    for owner, names in (([0, 2], 3), ([0, 0], 2), ([0, 1], 1), ([-1, 0], 2)):
        with pytest.raises(BadInput, match=f"{names} names were asked"):
            presence(cells, rows, np.array(owner), names, crowd)
    with pytest.raises(BadInput, match="length 1"):
        Crowd(2 * drawn(rng, 3, 16), drawn(rng, 1, 16))


def test_nouns_are_256_different_words_that_the_bundled_model_was_taught() -> None:
    import json

    from ovseg import weights

    taught = json.loads(weights.bundled("tiny/names.json").read_text("utf-8"))["names"]
    known = {*taught, *(text for several in taught.values() for text in several)}
    assert len(NOUNS) == len(set(NOUNS)) == 256 and set(NOUNS) <= known


# In the walk: worlds of orthogonal words, where who is there is known


NOUNS_HERE, GROUND, NAMES = slice(0, 60), slice(60, 64), slice(64, 72)


def world(shown: list[int], seed: int) -> tuple[DenseFeatures, Vocabulary]:
    """A picture of 6x10 cells that shows ground on its left and some of eight names on its right, and the names."""
    words = np.eye(80, dtype=np.float32)
    cells = np.repeat(words[[60]], 60, axis=0).reshape(6, 10, 80)
    for place, name in enumerate(shown):
        cells[place % 6, 5:] = words[64 + name]
    rng = np.random.default_rng(seed)
    vectors = unit(cells.reshape(60, 80) + 0.05 * drawn(rng, 60, 80))
    features = DenseFeatures(np.ascontiguousarray(vectors.T).reshape(80, 6, 10), unit(words[[60]])[0], 48, 80)
    crowd = Crowd(words[NOUNS_HERE], words[GROUND], words[NAMES], np.arange(8))
    names = tuple(f"name {number}" for number in range(8))
    owner = np.array([*range(8), -1])
    return features, Vocabulary(names, np.concatenate([words[NAMES], words[[60]]]), owner, crowd=crowd)


def asked(features: DenseFeatures, vocabulary: Vocabulary, regions: Regions | None = None, **choices: Any) -> Any:
    recipe = Recipe(**{"absent": "presence", **choices})
    regions = Regions.empty(48, 80) if regions is None else regions
    vectors = np.zeros((len(regions), 80), np.float32)
    for number, mask in enumerate(regions.masks):
        vectors[number] = features.vectors[:, mask[4::8, 4::8]].mean(axis=1)
    described = Described(unit(vectors) if len(vectors) else vectors)
    return compose(features, vocabulary, regions=regions, described=described, recipe=recipe)


def only(vocabulary: Vocabulary, names: list[int]) -> Vocabulary:
    """The same question with fewer names."""
    rows = [*names, 8]
    crowd = vocabulary.crowd
    assert crowd is not None
    return Vocabulary(
        tuple(vocabulary.names[name] for name in names),
        vocabulary.vectors[rows],
        np.array([*range(len(names)), -1]),
        crowd=replace(crowd, asked=crowd.asked[names], owner=np.arange(len(names))),
    )


@pytest.mark.parametrize("shown", [[0, 3], [5], []])
def test_absent_names_get_no_pixel_and_present_ones_theirs(shown: list[int]) -> None:
    features, vocabulary = world(shown, 0)
    found = asked(features, vocabulary, presence_cut=0.0)
    assert {name for name, share in found.shares.items() if share} == {f"name {number}" for number in shown}
    assert (found.labels == -1).any() and set(found.presence) == set(vocabulary.names)
    gone = [name for number, name in enumerate(vocabulary.names) if number not in shown]
    assert found.notes[0] == "judged absent: " + ", ".join(gone)
    alone = asked(features, only(vocabulary, [7]), presence_cut=0.0)  # one name, and it is not there
    assert (alone.labels == -1).all() and "every name was judged absent" in alone.notes[-1]
    empty = asked(*world(shown, 0), presence_cut=100.0)
    assert (empty.labels == -1).all() and not len(empty.regions) and empty.to_dict()["presence"]["name 0"] >= 0


def test_asking_names_that_are_absent_changes_nothing_else() -> None:
    """Pixels, regions that overlap and compete, scores: to the bit what they are without the absent names."""
    features, vocabulary = world([0, 3], 1)
    masks = np.zeros((3, 48, 80), bool)
    masks[0, :8, 40:], masks[1, 8:16, 40:], masks[2, :20, 30:] = True, True, True
    regions = Regions.from_masks(masks, np.array([0.9, 0.8, 0.95], np.float32))
    for given in (None, regions):
        few = asked(features, only(vocabulary, [0, 3]), given, presence_cut=0.0)
        many = asked(features, vocabulary, given, presence_cut=0.0)
        np.testing.assert_array_equal(np.array([0, 3, -1])[few.labels], many.labels)
        np.testing.assert_array_equal(few.confidence, many.confidence)
        np.testing.assert_array_equal(few.region_scores, many.region_scores[:, [0, 3]])
        assert few.regions.rles == many.regions.rles and len(few.regions) >= 2
    off = asked(features, vocabulary, scale=5.0, absent="off")
    assert (off.confidence != asked(features, vocabulary, scale=5.0, presence_cut=0.0).confidence).any()
    assert off.presence == {} and "presence" not in off.to_dict()


def test_neither_temperature_nor_an_absent_name_moves_the_best_name() -> None:
    features, vocabulary = world([0, 3, 4], 2)
    plain = asked(features, vocabulary, presence_cut=0.0, scale=40.0)
    for scale in (5.0, 100.0):
        other = asked(features, vocabulary, presence_cut=0.0, scale=scale)
        assert other.presence == plain.presence
        np.testing.assert_array_equal(other.labels, plain.labels)
    turned = asked(features, only(vocabulary, [7, 4, 3, 2, 0]), presence_cut=0.0)
    np.testing.assert_array_equal(np.array([7, 4, 3, 2, 0, -1])[turned.labels], plain.labels)


def test_presence_is_judged_again_without_a_network() -> None:
    features, vocabulary = world([0, 3], 3)
    first = asked(features, vocabulary, presence_cut=100.0)
    assert (first.labels == -1).all()
    again = first.with_presence(cut=0.0)
    fresh = asked(features, vocabulary, presence_cut=0.0)
    np.testing.assert_array_equal(again.labels, fresh.labels)
    np.testing.assert_array_equal(again.confidence, fresh.confidence)
    assert "judged absent: name 1, name 2, name 4, name 5, name 6, name 7" in again.notes
    free = first.with_presence(1)
    np.testing.assert_array_equal(free.labels, asked(features, vocabulary, absent="off").labels)
    assert not [note for note in free.notes if note.startswith("judged absent")]
    with pytest.raises(BadUsage, match="made without presence"):
        asked(features, vocabulary, absent="off").with_presence(0.1)


def test_what_only_an_absent_name_fits_is_unknown() -> None:
    features, vocabulary = world([0, 3], 4)
    found = asked(features, vocabulary, presence_cut=100.0)
    assert found.reasons == ("absent",) and len(found.unknown) == 1  # side by side: one region
    plain = asked(features, vocabulary, absent="off")
    assert (found.unknown.masks.any(axis=0) == (plain.labels >= 0)).all()
    assert asked(features, vocabulary, presence_cut=0.0).reasons == ()


def test_names_with_examples_pass_and_a_vocabulary_without_a_crowd_says_so() -> None:
    features, vocabulary = world([0], 5)
    levels = np.tile(np.array([1, 0], np.float32), (9, 1))
    levels[6] = (0.5, 0.1)
    shown = asked(features, replace(vocabulary, levels=levels), presence_cut=0.0)
    assert shown.presence["name 6"] == 1 and "name 6" not in shown.notes[0] and "name 5" in shown.notes[0]
    bare = asked(features, replace(vocabulary, crowd=None))
    assert bare.presence == {} and "brings no crowd" in bare.notes[0]


def test_a_pipeline_words_the_crowd_once_and_asks_no_image_network() -> None:
    pipe = Pipeline.open("tiny", cache=None, proposer="none", sam="", short_side=72, scales=(1,))
    encoding = pipe.encode(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))
    first, second = pipe.vocabulary(["cow", "dog"]), pipe.vocabulary(["cow", {"cat": ["cat", "kitten"]}])
    assert first.crowd is not None and second.crowd is not None and first.crowd.nouns is second.crowd.nouns
    assert first.crowd.nouns.shape == (256, 160) and second.crowd.owner.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(first.crowd.asked, first.vectors[:2])
    other = pipe.vocabulary(["cow", "dog"], templates="bare")  # another wording, but presence keeps its own
    np.testing.assert_allclose(other.crowd.asked if other.crowd else None, first.crowd.asked, atol=1e-6)
    calls = []
    pipe.clip.model.visual.register_forward_hook(lambda *_: calls.append(1))
    plain = pipe.segment(encoding, ["cow", "dog"], alpha=0.5)
    assert set(plain.presence) == {"cow", "dog"} and calls == []
    assert pipe.segment(encoding, ["cow"], absent="off").presence == {}
    assert pipe.segment(encoding, replace(first, crowd=None)).presence == pipe.segment(encoding, first).presence


def test_presence_asked_again_as_it_was_changes_nothing_and_drops_notes_that_are_no_longer_true() -> None:
    pipe = Pipeline.open("tiny", cache=None)
    encoding = pipe.encode(weights.bundled("demo/examples") / "meadow.jpg")
    found = pipe.segment(encoding, ["cow", "dog", "car"])
    again = found.with_presence()
    assert (again.labels == found.labels).all() and again.notes == found.notes  # the preset's cut stands
    assert found.evidence is not None and found.evidence.cut is not None
    nobody = pipe.segment(encoding, ["car"])
    assert nobody.notes[-1].startswith("nothing was found")
    everybody = nobody.with_presence(1)
    assert len(everybody.regions) and not any(note.startswith("nothing was found") for note in everybody.notes)
    with pytest.raises(BadUsage, match="a cut of presence is a number"):
        pipe.recipe.replace(presence_cut=float("nan"))
