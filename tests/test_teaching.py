"""Clicks teach names: what is near follows, what is far stays, pinned examples never flip, undo is exact."""

import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from ovseg.click import NO_POINTS, Click, named
from ovseg.errors import BadInput, BadUsage, BadWeights, UnknownName
from ovseg.labels.scoring import cell_rows
from ovseg.lessons import MARGIN
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe
from ovseg.teaching import KEPT, Teaching
from ovseg.types import DenseFeatures, Head, Regions, Vocabulary, Windows

DIM, SCALE = 64, 40.0
NAMES = ("ram", "goat", "cow", "sheep", "<script>")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Kinds of things as clusters of unit vectors, and words that point nearly alike for the first two of them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.means = unit(self.rng.normal(size=(len(NAMES), DIM)))
        self.means[1] = unit(self.means[0] + 0.9 * self.means[1])  # looks like the first
        texts = 0.35 * self.means + 0.9 * unit(self.rng.normal(size=(len(NAMES), DIM)))
        texts[1] = texts[0] + 0.25 * unit(self.rng.normal(size=DIM))  # and is called nearly like it
        rows = unit(np.concatenate([texts, texts[2:3] + 0.3 * self.rng.normal(size=(1, DIM)), -texts.sum(0)[None]]))
        owner = np.array([*range(len(NAMES)), 2, -1])
        phrases = (*NAMES, "cattle", "background")
        self.vocabulary = Vocabulary(NAMES, rows, owner, phrases, {"cow": 0.4}, ("a note",))

    def draw(self, kind: int, count: int) -> np.ndarray:
        return unit(self.means[kind] + 0.8 * unit(self.rng.normal(size=(count, DIM))))

    def session(self) -> Teaching:
        return Teaching(self.vocabulary, scale=SCALE, network="net", through="naclip, pool")


@pytest.fixture
def world() -> World:
    return World()


def best(vocabulary: Vocabulary, vectors: np.ndarray) -> np.ndarray:
    rows = vocabulary.scores(vectors, SCALE)
    return vocabulary.owner[rows.argmax(axis=1)]


def test_five_and_five_of_a_look_alike_pair_teach_it() -> None:
    before, after, others = [], [], []
    for seed in range(12):
        world = World(seed)
        teaching = world.session()
        teaching.accept(world.draw(0, 5), "ram")
        teaching.reject(world.draw(1, 5), "ram")
        new = np.concatenate([world.draw(0, 100), world.draw(1, 100)])
        truth = np.arange(2).repeat(100)
        for vocabulary, right in ((world.vocabulary, before), (teaching.vocabulary, after)):
            rows = vocabulary.scores(new, SCALE)[:, :2]
            right.append((rows.argmax(axis=1) == truth).mean())
        far = np.concatenate([world.draw(kind, 50) for kind in (2, 3, 4)])
        moved = best(world.vocabulary, far) != best(teaching.vocabulary, far)
        others.append(moved.mean())
    assert np.mean(after) > 0.9 > 0.8 > np.mean(before)
    assert min(np.subtract(after, before)) > -0.02
    assert np.mean(others) < 0.02


def test_one_accepted_example_moves_what_looks_like_it_and_nothing_else(world: World) -> None:
    teaching = world.session()
    vocabulary = teaching.accept(world.draw(0, 1)[0], "goat")
    near, far = world.draw(0, 20), world.draw(3, 20)
    moved = vocabulary.scores(near, SCALE) - world.vocabulary.scores(near, SCALE)
    assert (moved[:, 1] > 1).mean() > 0.5 and not np.delete(moved, 1, axis=1).any()
    np.testing.assert_array_equal(world.vocabulary.scores(far, SCALE), vocabulary.scores(far, SCALE))


def test_names_without_examples_keep_their_rows_to_the_bit_and_no_score_moves_beyond_the_bound(world: World) -> None:
    teaching = world.session()
    teaching.accept(world.draw(0, 4), "ram")
    teaching.reject(world.draw(1, 3), "ram")
    teaching.accept(world.draw(2, 2), "cow")
    head = teaching.vocabulary.head
    assert isinstance(head, Head)
    every = np.concatenate([world.draw(kind, 30) for kind in range(5)] + [np.zeros((1, DIM), np.float32)])
    plain, taught = world.vocabulary.scores(every, SCALE), teaching.vocabulary.scores(every, SCALE)
    untouched = [1, 3, 4, 6]  # goat, sheep, <script>, the negative
    np.testing.assert_array_equal(plain[:, untouched], taught[:, untouched])
    assert np.abs(taught - plain).max() <= head.most + 1e-4
    assert np.abs(taught - plain).max() > 0.3 * head.most
    np.testing.assert_allclose((taught - plain)[:, 2], (taught - plain)[:, 5], atol=1e-4)  # a synonym moves along
    assert not taught[-1].any()  # a region without pixels likes every name the same


def test_close_to_both_it_is_half_the_difference_of_squared_distances(world: World) -> None:
    teaching = world.session()
    yes, no = world.draw(0, 5), world.draw(1, 5)
    teaching.accept(yes, "ram")
    teaching.reject(no, "ram")
    between = unit(yes.mean(axis=0) + no.mean(axis=0))[None]
    vectors = np.concatenate([yes, no]).astype(float)
    centred = np.concatenate([yes - yes.mean(axis=0), no - no.mean(axis=0)]).astype(float)
    assumed = 2.0 * 0.4
    total = (centred**2).sum() + assumed
    ridge = assumed / DIM + total / (len(vectors) - 1 + 2.0)
    metric = np.linalg.inv(centred.T @ centred + ridge * np.eye(DIM)) * ridge  # GDA's P at length 1
    apart = [between[0] - side.mean(axis=0) for side in (yes, no)]
    expected = SCALE * 0.5 * (apart[1] @ metric @ apart[1] - apart[0] @ metric @ apart[0])
    moved = teaching.vocabulary.scores(between, SCALE) - world.vocabulary.scores(between, SCALE)
    assert moved[0, 0] == pytest.approx(expected, abs=1e-3)


def test_order_of_lessons_changes_nothing(world: World) -> None:
    said = [(vector, "ram", True) for vector in world.draw(0, 4)]
    said += [(vector, "ram", False) for kind in (1, 3) for vector in world.draw(kind, 3)]
    said += [(vector, "goat", True) for vector in world.draw(1, 2)]
    seen = np.concatenate([world.draw(kind, 10) for kind in range(5)])
    scores = []
    for order in (np.arange(len(said)), np.random.default_rng(1).permutation(len(said))):
        teaching = world.session()
        for i in order:
            vector, name, accepted = said[i]
            (teaching.accept if accepted else teaching.reject)(vector, name)
        scores.append(teaching.vocabulary.scores(seen, SCALE))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_rejected_examples_of_two_kinds_are_heard_each(world: World) -> None:
    teaching = world.session()
    teaching.reject(np.concatenate([world.draw(3, 3), world.draw(4, 3)]), "cow")
    for kind, low in ((3, 0.9), (4, 0.9), (2, -1)):
        new = world.draw(kind, 30)
        moved = teaching.vocabulary.scores(new, SCALE) - world.vocabulary.scores(new, SCALE)
        assert (moved[:, 2] < 0).mean() > low if kind != 2 else (moved[:, 2] < 0).mean() < 0.1


def test_undo_gives_back_the_very_vocabulary(world: World) -> None:
    teaching = world.session()
    seen = world.draw(0, 10)
    before, scores = [], []
    for say in (
        lambda: teaching.accept(world.draw(0, 2), "ram"),
        lambda: teaching.reject(world.draw(1, 1)[0], "ram"),
        lambda: teaching.pin(world.means[2], NAMES[int(best(teaching.vocabulary, world.means[2:3])[0])]),
        lambda: teaching.accept(world.draw(3, 1), "cow"),
    ):
        before.append(teaching.vocabulary)
        scores.append(teaching.vocabulary.scores(seen, SCALE))
        say()
    while before:
        assert teaching.undo() is before[-1]
        np.testing.assert_array_equal(scores.pop(), before.pop().scores(seen, SCALE))
    assert teaching.vocabulary is world.vocabulary and len(teaching) == 0 and not teaching.pinned
    with pytest.raises(BadUsage, match="nothing to undo"):
        teaching.undo()


def test_long_session_lets_old_heads_go_and_goes_back_through_all_of_it(world: World) -> None:
    teaching, seen = world.session(), world.draw(0, 10)
    said, scores = [], []
    for step in range(2 * KEPT):
        scores.append(teaching.vocabulary.scores(seen, SCALE))
        said.append(weakref.ref(teaching.accept(world.draw(step % 5, 1), NAMES[step % 5])))
    gc.collect()
    assert sum(one() is not None for one in said) == KEPT
    for expected in reversed(scores):
        np.testing.assert_array_equal(expected, teaching.undo().scores(seen, SCALE))
    assert teaching.vocabulary.head is None and len(teaching) == 0


def test_pinned_examples_never_flip_whatever_is_said() -> None:
    shrunk = refused = 0
    for seed in range(20):
        world = World(seed)
        teaching = world.session()
        pinned = np.concatenate([world.draw(kind, 1) for kind in range(5)])
        called = best(world.vocabulary, pinned)
        for vector, owner in zip(pinned, called, strict=True):
            if owner >= 0:
                teaching.pin(vector, NAMES[owner])
        kept = pinned[called >= 0]
        for _ in range(12):
            kind, name = int(world.rng.integers(5)), NAMES[int(world.rng.integers(5))]
            say = teaching.accept if world.rng.random() < 0.5 else teaching.reject
            weight, vocabulary = teaching.weight, teaching.vocabulary
            try:
                say(world.draw(kind, 1), name)
            except BadUsage:
                refused += 1
                assert teaching.vocabulary is vocabulary and teaching.weight == weight
            np.testing.assert_array_equal(called[called >= 0], best(teaching.vocabulary, kept))
            if teaching.weight < 1:
                shrunk += 1
                assert "so that pinned ones keep their names" in teaching.vocabulary.notes[-1]
            else:
                assert teaching.vocabulary.notes == ("a note",)
    assert shrunk > 20  # the claim was put to the test


def test_weight_shrinks_to_the_largest_that_keeps_the_pinned(world: World) -> None:
    free, teaching = world.session(), world.session()
    pinned = world.draw(2, 1)
    slots = world.vocabulary.scores(pinned, SCALE)[0, :5]
    other, name = (NAMES[k] for k in slots.argsort()[-2:])
    teaching.pin(pinned, name)
    teaching.accept(unit(pinned + 0.2 * world.draw(3, 1)), other)
    free.accept(teaching.lessons[0].vector, other)
    assert 0 < teaching.weight < 1
    assert NAMES[int(best(free.vocabulary, pinned)[0])] == other  # it would have flipped
    plain = world.vocabulary.scores(pinned, SCALE)
    gain = free.vocabulary.scores(pinned, SCALE) - plain
    lead = plain.max() - plain[0, NAMES.index(other)] - MARGIN
    assert teaching.weight == pytest.approx(lead / gain.max(), rel=1e-3)


def test_a_lesson_that_no_weight_lets_stand_beside_a_pin_is_refused_and_changes_nothing(world: World) -> None:
    teaching = world.session()
    look = world.draw(0, 1)
    wrong = next(name for name in NAMES if name != NAMES[int(best(world.vocabulary, look)[0])])
    teaching.accept(look, wrong)
    teaching.pin(look, wrong)  # right by its example alone
    held = teaching.vocabulary
    for _ in range(3):
        try:
            teaching.reject(look, wrong)
        except BadUsage as error:
            assert "would rename a pinned example" in str(error)
            break
        held = teaching.vocabulary
    else:
        pytest.fail("an example that is accepted and rejected cannot keep its pinned name")
    assert teaching.vocabulary is held


def test_only_what_is_called_so_now_can_be_pinned(world: World) -> None:
    teaching, look = world.session(), world.draw(0, 1)
    called = NAMES[int(best(world.vocabulary, look)[0])]
    wrong = next(name for name in NAMES if name != called)
    with pytest.raises(BadUsage, match=f"it is '{called}'; accept it first"):
        teaching.pin(look, wrong)
    background = world.vocabulary.vectors[-1]
    with pytest.raises(BadUsage, match="it is none of the names"):
        teaching.pin(background, called)


def test_more_names_move_no_score_of_the_others(world: World) -> None:
    rows = unit(np.random.default_rng(7).normal(size=(2, DIM)))
    more = Vocabulary(("yak",), rows, np.array([0, -1]), ("yak", "background"), {"yak": 0.3})
    teaching = Teaching(world.vocabulary, scale=SCALE, words=lambda names: more)
    teaching.accept(world.draw(0, 3), "ram")
    seen = world.draw(0, 9)
    before = teaching.vocabulary.scores(seen, SCALE)
    after = teaching.add(["yak"])
    assert after.names == (*NAMES, "yak") and after.thresholds == {"cow": 0.4, "yak": 0.3}
    np.testing.assert_array_equal(teaching.vocabulary.vectors[:-1], world.vocabulary.vectors)
    np.testing.assert_allclose(before, after.scores(seen, SCALE)[:, : before.shape[1]], atol=1e-4)  # sums of other size
    np.testing.assert_allclose(SCALE * seen @ rows[0], after.scores(seen, SCALE)[:, -1], rtol=1e-5)
    with pytest.raises(BadUsage, match="'yak' is there already"):
        teaching.add(["yak"])
    with pytest.raises(BadUsage, match="need the network that reads words"):
        world.session().add(["yak"])


def test_saved_and_loaded_it_scores_to_the_bit_and_goes_on(world: World, tmp_path: Path) -> None:
    teaching = world.session()
    teaching.accept(world.draw(0, 3), "ram")
    teaching.reject(world.draw(1, 2), "ram")
    look = world.draw(4, 1)
    teaching.pin(look, NAMES[int(best(teaching.vocabulary, look)[0])])
    teaching.accept(world.draw(1, 1), "<script>")
    path = teaching.save(tmp_path / "a folder" / "taught.safetensors")
    again = Teaching.load(path, network="net", through="naclip, pool")
    seen = np.concatenate([world.draw(kind, 5) for kind in range(5)])
    one, other = teaching.vocabulary, again.vocabulary
    np.testing.assert_array_equal(one.scores(seen, SCALE), other.scores(seen, SCALE))
    assert (one.names, one.phrases, one.thresholds, one.notes) == (
        other.names,
        other.phrases,
        other.thresholds,
        other.notes,
    )
    assert one.head is not None and other.head is not None and one.head.digest == other.head.digest
    assert (again.weight, len(again), len(again.pinned)) == (teaching.weight, 6, 1)
    more = world.draw(2, 1)
    np.testing.assert_array_equal(
        teaching.accept(more, "cow").scores(seen, SCALE), again.accept(more, "cow").scores(seen, SCALE)
    )
    assert one.head.digest != again.vocabulary.head.digest
    empty = world.session().save(tmp_path / "empty.safetensors")
    assert Teaching.load(empty).vocabulary.head is None


def test_files_of_another_network_or_no_session_are_refused(world: World, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = world.session().save(tmp_path / "taught.safetensors")
    with pytest.raises(BadUsage, match="another network: net, here is other"):
        Teaching.load(path, network="other")
    with pytest.raises(BadUsage, match="another way to look: naclip, pool, here is naclip, crop"):
        Teaching.load(path, network="net", through="naclip, crop")
    with pytest.raises(BadUsage, match="is not there"):
        Teaching.load(tmp_path / "none.safetensors")
    save_file({"rows": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, needed in (("other", "another safetensors file"), ("text", "a saved session is a safetensors file")):
        with pytest.raises(BadWeights, match=needed):
            Teaching.load(tmp_path / f"{name}.safetensors")


def test_pinned_examples_outlive_new_names_when_nothing_was_taught_yet(world: World) -> None:
    example = unit(world.vocabulary.vectors[0] + 0.2 * world.means[0])
    nearer = Vocabulary(("nearer",), example[None], np.arange(1))
    teaching = Teaching(world.vocabulary, scale=SCALE, words=lambda names: nearer)
    before = teaching.pin(example, "ram")
    with pytest.raises(BadUsage, match="would rename a pinned example"):
        teaching.add(["nearer"])
    assert teaching.vocabulary is before and teaching.names == NAMES
    teaching.undo()
    assert best(teaching.add(["nearer"]), example[None]) == len(NAMES)


def test_loaded_session_is_worked_out_for_the_scale_that_asks(tmp_path: Path) -> None:
    words = Vocabulary(("ram", "goat"), np.eye(2, 6, dtype=np.float32), np.arange(2))
    example, scale = unit(np.array([0.5, 0.6, 0, 0.6, 0, 0])), 400.0  # the words say goat
    teaching = Teaching(words, scale=SCALE)
    teaching.accept(example, "ram")
    path = teaching.save(tmp_path / "taught.safetensors")
    teaching.pin(example, "ram")
    pinned = teaching.save(tmp_path / "pinned.safetensors")
    stale = Teaching.load(path).vocabulary
    assert stale.scores(example[None], SCALE).argmax() == 0 and stale.scores(example[None], scale).argmax() == 1
    assert Teaching.load(path, scale=scale).vocabulary.scores(example[None], scale).argmax() == 0
    assert Teaching.load(pinned, scale=scale).vocabulary.scores(example[None], scale).argmax() == 0


def test_saving_is_whole_or_not_at_all(world: World, tmp_path: Path) -> None:
    teaching, path = world.session(), tmp_path / "a folder" / "taught <script>.safetensors"
    teaching.accept(world.draw(0, 1), "ram")
    whole = teaching.save(path).read_bytes()
    for length in (0, 7, 8, 60, len(whole) // 2, len(whole) - 1):
        short = tmp_path / "short.safetensors"
        short.write_bytes(whole[:length])
        with pytest.raises(BadWeights, match="a saved session is a safetensors file"):
            Teaching.load(short)
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    with pytest.raises(BadUsage, match="cannot be written"):
        teaching.save(folder)
    assert sorted(found.name for found in path.parent.iterdir()) == [path.name]


def test_loaded_session_has_nothing_to_undo_and_says_so(world: World, tmp_path: Path) -> None:
    teaching = world.session()
    teaching.accept(world.draw(0, 1), "ram")
    again = Teaching.load(teaching.save(tmp_path / "taught.safetensors"))
    with pytest.raises(BadUsage, match="nothing was said since this session was opened"):
        again.undo()
    again.accept(world.draw(1, 1), "goat")
    assert len(again) == 2
    again.undo()
    assert len(again) == 1


def test_two_threads_teach_one_session(world: World) -> None:
    teaching = world.session()
    draws = [(world.draw(0, 1), "ram"), (world.draw(1, 1), "goat")] * 10

    def say(part: slice) -> None:
        for vector, name in draws[part]:
            teaching.accept(vector, name)

    threads = [threading.Thread(target=say, args=(slice(k, None, 2),)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(teaching) == 20
    alone = world.session()
    for vector, name in draws:
        alone.accept(vector, name)
    seen = world.draw(0, 5)
    np.testing.assert_allclose(alone.vocabulary.scores(seen, SCALE), teaching.vocabulary.scores(seen, SCALE), atol=1e-4)


def test_cells_follow_if_they_are_of_the_same_kind(world: World) -> None:
    cells = np.concatenate([world.draw(0, 30), world.draw(3, 30)]).T.reshape(DIM, 6, 10)
    whole = unit(cells.mean(axis=(1, 2)))
    features = DenseFeatures(np.ascontiguousarray(cells), whole, 48, 80)
    windows = Windows(np.stack([cells, cells[:, ::-1]]), np.array([0, 0]), np.array([0, 20]), (48, 80), (48, 100))
    stitched = DenseFeatures(np.ascontiguousarray(cells), whole, 48, 100, windows)
    for pooled in (True, False):
        teaching = Teaching(world.vocabulary, scale=SCALE, pooled=pooled)
        teaching.accept(world.draw(0, 5), "ram")
        plain, taught = (cell_rows(features, words, SCALE) for words in (world.vocabulary, teaching.vocabulary))
        assert bool((taught != plain).any()) == pooled
        expected = teaching.vocabulary.scores(np.ascontiguousarray(cells.reshape(DIM, -1).T), SCALE, cells=True)
        np.testing.assert_allclose(expected.T.reshape(-1, 6, 10), taught, atol=1e-4)
        over = cell_rows(stitched, teaching.vocabulary, SCALE) - cell_rows(stitched, world.vocabulary, SCALE)
        assert bool((np.abs(over) > 1e-3).any()) == pooled
        assert not over[[1, 3, 4, 6]].any() or np.abs(over[[1, 3, 4, 6]]).max() < 1e-4


def test_clicks_are_lessons_and_are_renamed(world: World) -> None:
    regions, recipe = Regions.from_masks(np.ones((2, 48, 80), bool)), Recipe(scale=SCALE)
    asked = (NO_POINTS, NO_POINTS)
    logits, scores, labels = np.zeros((2, 6, 10), np.float32), np.zeros((2, 0), np.float32), np.full(2, -1)
    click = Click(regions, logits, world.draw(0, 2), asked, recipe, (), scores, labels)
    teaching = world.session()
    teaching.accept(click, "goat")
    assert len(teaching) == 2
    assert named(click, teaching.vocabulary, recipe).best == ("goat", "goat")
    with pytest.raises(BadUsage, match="a click's vectors are pooled cells"):
        Teaching(world.vocabulary, scale=SCALE, pooled=False).accept(click, "goat")


@pytest.mark.parametrize(
    ("shown", "error", "needed"),
    [
        (np.zeros(DIM), BadInput, "teaches nothing"),
        (np.full(DIM, np.nan), BadInput, "teaches nothing"),
        (np.ones(3), BadInput, "64 numbers here: got an array of \\(1, 3\\)"),
        (np.zeros((0, DIM)), BadInput, "64 numbers here"),
        ("bolt", BadInput, "a vector, a click, or"),
        (("picture.jpg", [0, 0, 5, 5]), BadUsage, "pictures need a network"),
    ],
)
def test_what_teaches_nothing_is_told_and_changes_nothing(
    world: World, shown: object, error: type[Exception], needed: str
) -> None:
    teaching = world.session()
    with pytest.raises(error, match=needed):
        teaching.accept(shown, "ram")
    assert teaching.vocabulary is world.vocabulary


def test_names_that_are_not_asked_are_told(world: World) -> None:
    teaching = world.session()
    with pytest.raises(UnknownName, match=r"Did you mean 'ram'\? New names come by add\(\)"):
        teaching.accept(world.draw(0, 1), "rams")
    teaching.accept(world.draw(0, 1), "ram")
    with pytest.raises(BadUsage, match="taught already"):
        Teaching(teaching.vocabulary, scale=SCALE)
    for wide in (0.0, float("inf"), float("nan")):
        with pytest.raises(BadUsage, match="spread is"):
            Teaching(world.vocabulary, scale=SCALE, spread=wide)


def test_a_pipeline_teaches_by_pictures_saves_and_asks_everywhere(tmp_path: Path) -> None:
    recipe = Recipe(name="test", model="tiny", templates="bare", negatives="word", short_side=48, method="naclip")
    pipe = Pipeline(recipe, tiny.clip())
    picture = tiny.picture()
    encoding = pipe.encode(picture)
    teaching = pipe.teach(["cat", "dog"])
    box = [8, 8, 40, 32]
    called = pipe.segment(encoding, teaching.vocabulary, threshold=0.0)
    taught = teaching.accept((picture, box), "dog")
    vectors = pipe.look(encoding, box)
    np.testing.assert_allclose(vectors, [one.vector for one in teaching.lessons], atol=1e-5)
    plain = pipe.vocabulary(["cat", "dog"])
    moved = taught.scores(vectors, 40.0) - plain.scores(vectors, 40.0)
    assert moved[0, 1] > 10 and not moved[0, [0, 2]].any()
    after = pipe.segment(encoding, taught, threshold=0.0)
    assert after.shares["dog"] >= called.shares["dog"] and (after.confidence != called.confidence).any()
    teaching.add([{"cow": ["cow", "cattle"]}])
    assert teaching.vocabulary.phrases == ("cat", "dog", "background", "cow", "cattle")
    again = pipe.teach(teaching.save(tmp_path / "taught.safetensors"))
    np.testing.assert_array_equal(after.labels, pipe.segment(encoding, taught, threshold=0.0).labels)
    one, other = (pipe.segment(encoding, session.vocabulary) for session in (teaching, again))
    np.testing.assert_array_equal(one.confidence, other.confidence)
    with pytest.raises(BadUsage, match="another network"):
        Pipeline(recipe, tiny.clip(seed=1)).teach(tmp_path / "taught.safetensors")
    with pytest.raises(BadUsage, match="another way to look: naclip, pool, here is sclip, pool"):
        Pipeline(recipe.replace(method="sclip"), pipe.clip).teach(tmp_path / "taught.safetensors")


def test_a_head_is_added_once_to_what_several_encoders_say() -> None:
    from ovseg.encoders import Described
    from ovseg.encoders.ensemble import ensemble

    world = World()
    teaching = world.session()
    one, other = world.draw(0, 4), world.draw(0, 4)
    mixed = ensemble([Described(one), Described(other)], {"weights": "mean", "beta": 0.85})
    teaching.accept(mixed.vectors[0], "goat")
    moved = mixed.rows(teaching.vocabulary, SCALE) - mixed.rows(world.vocabulary, SCALE)
    head = teaching.vocabulary.head
    assert head is not None
    np.testing.assert_allclose(head.logits(mixed.vectors)[:, 1], moved[:, 1], atol=1e-3)
    assert moved[0, 1] > 10 and not np.delete(moved, 1, axis=1).any()


@pytest.mark.parametrize(
    ("encoder", "exact", "dense"), [("pool", True, True), ("vote", False, True), ("crop", True, False)]
)
def test_what_can_be_pinned_and_taught_to_cells_hangs_on_the_encoder(encoder: str, exact: bool, dense: bool) -> None:
    recipe = Recipe(name="test", model="tiny", templates="bare", negatives="word", short_side=48, encoder=encoder)
    pipe = Pipeline(recipe, tiny.clip())
    teaching = pipe.teach(["cat", "dog"])
    taught = teaching.accept((tiny.picture(), [8, 8, 40, 32]), "dog")
    assert taught.head is not None and taught.head.dense == dense
    if exact:
        assert len(teaching.pin((tiny.picture(), [8, 8, 40, 32]), "dog").names) == 2 and len(teaching.pinned) == 1
    else:
        with pytest.raises(BadUsage, match="nothing can be pinned where several encoders"):
            teaching.pin((tiny.picture(), [8, 8, 40, 32]), "dog")


def test_names_that_are_examples_are_taught_saved_and_joined_on_their_levels(world: World, tmp_path: Path) -> None:
    levels = np.tile(np.array([1, 0], np.float32), (7, 1))
    levels[0] = 0.3, -0.1
    shown = replace(world.vocabulary, levels=levels)
    more = Vocabulary(("yak",), world.means[:1], np.array([0]), ("yak",))
    teaching = Teaching(shown, scale=SCALE, words=lambda names: more)
    teaching.accept(world.draw(1, 2), "ram")
    taught = teaching.add(["yak"])
    again = Teaching.load(teaching.save(tmp_path / "taught.safetensors")).vocabulary
    seen = world.draw(0, 6)
    np.testing.assert_array_equal(taught.scores(seen, SCALE), again.scores(seen, SCALE))
    np.testing.assert_allclose(shown.scores(seen, SCALE)[:, 1:], taught.scores(seen, SCALE)[:, 1:7], atol=1e-4)
    np.testing.assert_allclose(SCALE * seen @ world.means[0], taught.scores(seen, SCALE)[:, 7], atol=1e-4)
