import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from PIL import Image

import tiny
from ovseg import click
from ovseg.click import NO_POINTS, Click, ask, named
from ovseg.encoders import encode
from ovseg.errors import BadInput, BadUsage
from ovseg.pipeline import Encoding, Pipeline
from ovseg.recipe import Recipe
from ovseg.sam import cache
from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.prompted import prompted
from ovseg.types import NAMELESS, DenseFeatures, Regions, Vocabulary
from tests.sam.narrow import narrow_sam

RECIPE = Recipe(scale=10.0, threshold=0.0)


class Scene:
    """A picture with random features, as a narrow SAM sees it."""

    def __init__(self, seed: int = 0, height: int = 48, width: int = 80) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (height, width, 3), np.uint8)
        vectors = rng.normal(size=(16, 6, 10)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=0)
        self.features = DenseFeatures(vectors, vectors[:, 0, 0].copy(), height, width)
        self.model = MaskModel(narrow_sam())
        self.embedding: Embedding = self.model.encode(self.image)

    def ask(self, **given: Any) -> Click:
        return ask(self.model, self.embedding, self.image, self.features, RECIPE, **given)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(3)


def vocabulary(rng: Generator, names: int = 7, negatives: int = 2, **options: Any) -> Vocabulary:
    vectors = rng.normal(size=(names + negatives, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owner = np.array([*range(names), *[-1] * negatives])
    return Vocabulary(tuple(f"name {k}" for k in range(names)), vectors, owner, **options)


def same(one: Click, two: Click) -> bool:
    return bool(
        one.regions.rles == two.regions.rles
        and (one.regions.quality == two.regions.quality).all()
        and (one.logits == two.logits).all()
    )


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"points": (30, 20)}, {"points": [[[30.0, 20]]], "labels": [[1]]}),
        ({"points": [(30, 20)]}, {"points": [[[30.0, 20]]], "labels": [[1]]}),
        ({"points": [(30, 20), (50, 9)], "labels": [1, 0]}, {"points": [[[30.0, 20], [50, 9]]], "labels": [[1, 0]]}),
        ({"points": [[(30, 20)], [(50, 9)]]}, {"points": [[[30.0, 20]], [[50, 9]]], "labels": [[1], [1]]}),
        (
            {"points": [[(30, 20)], [(50, 9), (7, 8)]], "labels": [[1], [True, False]]},
            {"points": [[[30.0, 20], [0, 0]], [[50, 9], [7, 8]]], "labels": [[1, -1], [1, 0]]},
        ),
        ({"points": np.array([[[30, 20]], [[50, 9]]])}, {"points": [[[30.0, 20]], [[50, 9]]], "labels": [[1], [1]]}),
        ({"boxes": (3, 5, 60, 40)}, {"boxes": [[3.0, 5, 60, 40]]}),
        ({"boxes": [[3, 5, 60, 40], [1, 1, 9, 20]]}, {"boxes": [[3.0, 5, 60, 40], [1, 1, 9, 20]]}),
        (
            {"boxes": [3, 5, 60, 40], "points": [(9, 9)], "labels": [0]},
            {"boxes": [[3.0, 5, 60, 40]], "points": [[[9.0, 9]]], "labels": [[0]]},
        ),
        (
            {"boxes": [[3, 5, 60, 40], [1, 1, 9, 20]], "points": [[], [(4, 4)]]},
            {"boxes": [[3.0, 5, 60, 40], [1, 1, 9, 20]], "points": [[[0.0, 0]], [[4, 4]]], "labels": [[-1], [1]]},
        ),
    ],
    ids=str,
)
def test_prompts_are_read_as_people_write_them(given: dict[str, Any], plain: dict[str, Any], scene: Scene) -> None:
    arrays = {name: np.array(value) for name, value in plain.items()}
    found, wanted = scene.ask(**given), prompted(scene.model, scene.embedding, **arrays)
    assert found.regions.rles == wanted.regions.rles
    assert (found.logits == wanted.logits[:, 0]).all()
    assert (found.regions.quality == wanted.quality[:, 0].clip(0, 1)).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, BadInput, "a click needs a point, a box or a mask: got nothing"),
        ({"points": []}, BadInput, "prompt 0 is empty"),
        ({"points": [[]]}, BadInput, "prompt 0 is empty"),
        ({"labels": [1]}, BadUsage, "labels are for points"),
        ({"points": [(1, 2, 3)]}, BadInput, r"points are \(x, y\) in pixels: got an array of \(1, 3\)"),
        ({"points": [("a", 2)]}, BadInput, r"points are \(x, y\) in pixels: got \[\('a', 2\)\]"),
        ({"points": [(30, 20)], "labels": [1, 0]}, BadInput, r"got \[1\] points and \[2\] labels"),
        ({"points": [(30, 20)], "labels": [0.5]}, BadInput, "1 .inside. or 0 .outside.: got .0.5"),
        ({"points": [(30, 20)], "labels": [3]}, BadInput, "point 0 of prompt 0 has label 3"),
        ({"points": [(30, 99)]}, BadInput, "point 0 of prompt 0 is outside of the frame.*48x80"),
        ({"boxes": [1, 2, 3]}, BadInput, r"boxes are \(4,\) or \(n, 4\), XYXY in pixels: got an array of \(3,\)"),
        ({"boxes": [[1, 2, 8, 9], [3, 3, 9, 9]], "points": [(4, 4)]}, BadInput, "got 2 boxes and points of 1 prompts"),
        ({"masks": np.zeros((64, 64), np.int64)}, BadInput, "mask prompts are logits .*: got int64 of"),
        ({"masks": [[[1.0]], [[1.0, 2.0]]]}, BadInput, "mask prompts are arrays of one size: got list"),
        ({"points": [(30, 20)], "labels": [float("inf")]}, BadInput, "labels are 1"),
        ({"points": torch.ones(1, 2, requires_grad=True)}, BadInput, "points are .x, y. in pixels: got tensor"),
        ({"boxes": [[10**400, 0, 9, 9]]}, BadInput, "boxes are XYXY in pixels"),
        ({"masks": np.zeros((9, 64), np.float32)}, BadInput, "logits of 64x64, or regions of the picture: got 9x64"),
        ({"masks": np.ones((48, 81), bool)}, BadInput, "48x81, the picture is 48x80"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_a_sentence(
    given: dict[str, Any], error: type[Exception], message: str, scene: Scene
) -> None:
    with pytest.raises(error, match=message):
        scene.ask(**given)


def test_a_bad_prompt_is_told_and_the_others_are_answered(scene: Scene) -> None:
    good, bad = [(30, 20)], [(200, 20)]
    found = scene.ask(points=[good, bad, good], every=True)
    assert len(found) == 9 and set(found.problems) == {3, 4, 5}
    assert "point 0 of prompt 1 is outside" in found.problems[3]
    alone = scene.ask(points=good, every=True)
    assert (found.regions.area[3:6] == 0).all() and np.abs(found[6:].logits - alone.logits).max() <= 1e-6
    assert set(found[4:7].problems) == {0, 1} and not found[:3].problems
    told = found.to_dict()["masks"]
    assert "problem" in told[4] and "problem" not in told[2]
    assert "not asked" in repr(found[3])


def test_masks_of_the_picture_regions_and_logits_are_mask_prompts(scene: Scene, rng: Generator) -> None:
    mask = rng.random((2, 48, 80)) < 0.5
    by_regions = scene.ask(masks=Regions.from_masks(mask))
    assert same(scene.ask(masks=mask), by_regions) and len(by_regions) == 2
    assert np.abs(scene.ask(masks=mask[0]).logits - by_regions.logits[:1]).max() <= 1e-6
    first = scene.ask(boxes=[3, 5, 60, 40])
    assert same(scene.ask(boxes=[3, 5, 60, 40], masks=first.logits[0]), scene.ask(previous=first))


def test_a_click_goes_on_from_another(scene: Scene) -> None:
    """Points are added to those before, the box stands, and the former logits are the mask prompt."""
    first = scene.ask(points=[(30, 20)], boxes=[3, 5, 60, 40])
    second = scene.ask(points=[(50, 30)], labels=[0], previous=first)
    whole = scene.ask(points=[(30, 20), (50, 30)], labels=[1, 0], boxes=[3, 5, 60, 40], masks=first.logits)
    assert same(second, whole) and not same(second, first)
    (prompt,) = second.prompts
    assert prompt.points.tolist() == [[30, 20], [50, 30]] and prompt.labels.tolist() == [1, 0]
    assert prompt.box is not None and prompt.box.tolist() == [3, 5, 60, 40]
    moved = scene.ask(boxes=[1, 1, 50, 40], previous=second)
    assert moved.prompts[0].box is not None and moved.prompts[0].box.tolist() == [1, 1, 50, 40]
    assert len(moved.prompts[0].points) == 2
    assert len(first.prompts[0].points) == 1  # what was answered before is as it was


def test_one_of_three_masks_can_be_gone_on_from(scene: Scene) -> None:
    three = scene.ask(points=[(30, 20)], every=True)
    assert len(three) == 3 and len({rle["counts"] for rle in three.regions.rles}) > 1
    with pytest.raises(BadInput, match=r"got 1 for 3; pick one as previous\[0\]"):
        scene.ask(points=[(50, 30)], previous=three)
    second = scene.ask(points=[(50, 30)], labels=[0], previous=three[1])
    assert same(second, scene.ask(points=[(30, 20), (50, 30)], labels=[1, 0], masks=three.logits[1]))
    several = scene.ask(points=[[(9, 9)], [(50, 30)]], previous=three[[2, 0]])
    assert [prompt.points.tolist() for prompt in several.prompts] == [[[30, 20], [9, 9]], [[30, 20], [50, 30]]]


def test_previous_must_be_of_this_picture_and_brings_its_own_mask(scene: Scene) -> None:
    first = Scene(1, 40, 90).ask(points=[(30, 20)])
    with pytest.raises(BadInput, match="previous must be of this picture: it is of 40x90, the picture is 48x80"):
        scene.ask(points=[(30, 20)], previous=first)
    with pytest.raises(BadUsage, match="leave masks out, or previous"):
        scene.ask(points=[(3, 4)], previous=scene.ask(points=[(30, 20)]), masks=np.zeros((64, 64), np.float32))


def test_previous_of_another_picture_of_the_same_size_is_refused(scene: Scene) -> None:
    other = Scene(seed=1)
    first = other.ask(points=[(30, 20)])
    with pytest.raises(BadInput, match="another one of the same size"):
        scene.ask(points=[(50, 30)], previous=first)
    again = Scene(seed=1)  # the same picture, read once more
    assert same(again.ask(points=[(50, 30)], previous=first), other.ask(points=[(50, 30)], previous=first[0]))


def test_pictures_are_told_apart_by_any_pixel_of_a_small_one() -> None:
    image = np.zeros((48, 80, 3), np.uint8)
    other = image.copy()
    other[47, 79, 2] = 1
    assert click._digest(image) == click._digest(image.copy()) != click._digest(other)
    assert click._digest(image) != click._digest(image.reshape(80, 48, 3))
    large = np.zeros((1500, 700, 3), np.uint8)
    assert click._digest(large) != click._digest(large + np.uint8(1))


def test_one_point_gives_the_best_of_the_three(scene: Scene) -> None:
    three, one = scene.ask(points=[(30, 20)], every=True), scene.ask(points=[(30, 20)])
    assert same(one, three[int(three.regions.quality.argmax())])


def test_names_are_posteriors_over_names_and_negatives(scene: Scene, rng: Generator) -> None:
    """Against the plain formula: exp(scale * cosine of the pooled vector), over the sum of all rows."""
    words, masks = vocabulary(rng), scene.ask(points=[[(30, 20)], [(60, 9)]])
    found = named(masks, words, RECIPE)
    vectors = encode("pool", None, scene.image, scene.features, masks.regions)
    odds = np.exp(10 * vectors.astype(float) @ words.vectors.T)
    wanted = odds / odds.sum(axis=1, keepdims=True)
    assert np.abs(found.scores - wanted[:, :7]).max() <= 1e-5
    assert (masks.vectors == vectors).all() and same(found, masks)
    for i in range(2):
        order = np.argsort(-wanted[i, :7])[: click.RANKED]
        assert [name for name, _ in found.ranked()[i]] == [words.names[k] for k in order]
        negative = wanted[i, 7:].max() > wanted[i, :7].max()
        assert found.best[i] == (None if negative else words.names[order[0]])
    assert masks.best == (None, None) and masks.ranked() == ((), ()) and masks.names == ()


def test_a_name_that_is_absent_or_below_its_threshold_is_no_name(scene: Scene, rng: Generator) -> None:
    masks = scene.ask(points=[(30, 20)])
    words = vocabulary(rng, 3, 0)
    (best,) = named(masks, words, RECIPE).best
    assert best is not None
    (own,) = np.flatnonzero([name == best for name in words.names])
    (second, _) = named(masks, words, RECIPE).ranked()[0][1]
    struck = vocabulary(np.random.default_rng(3), 3, 0, thresholds={best: 1.0})
    assert named(masks, struck, RECIPE).best == (second,)
    assert named(masks, words, RECIPE.replace(threshold=1.0)).best == (None,)
    against = Vocabulary(words.names, np.concatenate([words.vectors, masks.vectors]), np.array([0, 1, 2, -1]))
    found = named(masks, against, RECIPE)
    assert found.best == (None,) and found.scores.max() < 0.5 and found.ranked()[0][0][0] == words.names[own]


def test_an_empty_mask_has_no_name(scene: Scene, rng: Generator) -> None:
    found = named(scene.ask(points=[[(30, 20)], [(300, 20)]]), vocabulary(rng, 3, 0), RECIPE)
    assert not found.scores[1].any() and found.best[1] is None and found.ranked()[1] == ()
    assert found.scores[0].any()


def test_no_prompts_give_no_masks(scene: Scene, rng: Generator) -> None:
    found = named(scene.ask(boxes=[]), vocabulary(rng), RECIPE)
    assert len(found) == 0 and found.best == () and found.to_dict()["masks"] == []
    assert repr(found) == "Click(48x80, 0 masks: nothing asked)"


def test_a_click_is_told_in_json_and_in_a_line(scene: Scene, rng: Generator) -> None:
    found = named(scene.ask(points=[(30, 20)], boxes=[3, 5, 60, 40]), vocabulary(rng, 7, 0), RECIPE)
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["height"], told["width"], told["names"]) == (48, 80, list(found.names))
    (mask,) = told["masks"]
    assert mask["points"] == [[30, 20]] and mask["labels"] == [1] and mask["box"] == [3, 5, 60, 40]
    assert mask["segmentation"] == found.regions.rles[0] and mask["area"] == found.masks.sum()
    left, top, width, height = mask["bbox"]
    assert [left, top, left + width, top + height] == found.regions.boxes[0].tolist()
    assert mask["best"] == found.best[0] == mask["names"][0]["name"] and len(mask["names"]) == 5
    assert abs(mask["quality"] - found.regions.quality[0]) <= 1e-6 and told["recipe"] == RECIPE.to_dict()
    quality, score = found.regions.quality[0], found.scores[0].max()
    assert repr(found) == f"Click(48x80, 1 mask: {found.best[0]} {score:.2f}, predicted IoU {quality:.2f})"


def test_masks_of_a_click_are_labelled_pixels_with_the_smaller_on_top(scene: Scene, rng: Generator) -> None:
    masks = np.zeros((4, 48, 80), bool)
    masks[0, 5:30, 10:50], masks[1, 10:20, 20:30], masks[2, 30:40, 60:70] = True, True, True
    plain = replace(scene.ask(points=[[(30, 20)], [(9, 9)], [(60, 9)], [(1, 1)]]), regions=Regions.from_masks(masks))
    found = replace(
        named(plain, vocabulary(rng, 2, 1), RECIPE),
        region_labels=np.array([1, 0, -1, -1]),
        scores=np.array([[0.2, 0.7], [0.8, 0.1], [0.2, 0.1], [0, 0]], np.float32),
    )
    drawn = found.segmentation
    wanted = np.full((48, 80), -1)
    wanted[5:30, 10:50], wanted[10:20, 20:30], wanted[30:40, 60:70] = 1, 0, 2
    assert (drawn.labels == wanted).all() and drawn.names == ("name 0", "name 1", NAMELESS)
    assert np.allclose(drawn.confidence[[6, 12, 33, 0], [12, 22, 61, 0]], [0.7, 0.8, 0.7, 0])
    assert drawn.region_labels.tolist() == [0, 2, 1] and (drawn.owners[10:20, 20:30] == 0).all()  # without the empty
    unasked = plain.segmentation
    assert unasked.names == (click.UNASKED,) and ((unasked.labels == 0) == masks.any(axis=0)).all()
    assert scene.ask(boxes=[]).segmentation.labels.max() == -1


def test_columns_of_a_click_belong_together(scene: Scene) -> None:
    found = scene.ask(points=[(30, 20)])
    with pytest.raises(BadInput, match="every mask of a click"):
        replace(found, prompts=())
    with pytest.raises(BadInput, match="a score for every name"):
        replace(found, names=("cat",))


WITH_SAM = Recipe(name="test", model="test", sam="test", short_side=48, templates="bare", negatives="word", scale=100.0)
PICTURE = tiny.picture(48, 80)


class Counted(MaskModel):
    """Counts its encodes and its decodes."""

    def __init__(self) -> None:
        super().__init__(narrow_sam())
        self.encodes, self.decodes = 0, 0

    def encode(self, image: np.ndarray) -> Embedding:
        self.encodes += 1
        return super().encode(image)

    def shared(self, *given: Any) -> Any:
        self.decodes += 1
        return super().shared(*given)


class CountedPipeline:
    """A pipeline, and how many pictures its networks have seen."""

    def __init__(self, **options: Any) -> None:
        self.sam = Counted()
        self.pipe = Pipeline(WITH_SAM, tiny.clip(), self.sam, **options)
        self.seen, self.read = 0, 0
        self.pipe.clip.visual.conv1.register_forward_pre_hook(self._seen)
        self.pipe.clip.model.token_embedding.register_forward_pre_hook(self._read)

    def _seen(self, _: Any, given: tuple[Any, ...]) -> None:
        self.seen += 1

    def _read(self, _: Any, given: tuple[Any, ...]) -> None:
        self.read += 1

    @property
    def counts(self) -> tuple[int, int, int]:
        """Encodes of CLIP, encodes and decodes of the SAM."""
        return self.seen, self.sam.encodes, self.sam.decodes


@pytest.fixture
def counted() -> CountedPipeline:
    return CountedPipeline()


def test_a_click_on_an_encoding_calls_no_encoder(counted: CountedPipeline) -> None:
    pipe = counted.pipe
    encoding = pipe.encode(PICTURE)
    seen, encodes, _ = counted.counts
    assert encodes == 1 and encoding.embedding is not None
    first = pipe.click(encoding, points=[(30, 20)], names=["cat", "dog"])
    pipe.click(encoding, boxes=[3, 5, 60, 40], points=[(9, 9)], labels=[0], names=["cat"], every=True)
    pipe.click(encoding, points=[(50, 30)], labels=[0], previous=first)
    assert counted.counts[:2] == (seen, 1)
    assert first.names == ("cat", "dog") and first.recipe is pipe.recipe and len(first.ranked()[0]) == 2


def test_other_names_of_a_click_call_the_text_side_only(counted: CountedPipeline) -> None:
    pipe = counted.pipe
    masks = pipe.click(PICTURE, points=[(30, 20)])
    before = counted.counts
    assert masks.names == () and counted.read == 0
    found = [pipe.name(masks, names) for names in (["cat", "dog"], {"bird": ["bird", "crow"]}, ["cat", "dog"])]
    assert counted.counts == before and counted.read > 0
    assert found[0].names == ("cat", "dog") and found[1].names == ("bird",)
    assert (found[0].scores == found[2].scores).all() and found[0].regions is masks.regions
    asked_at_once = pipe.click(PICTURE, points=[(30, 20)], names=["cat", "dog"])
    assert (asked_at_once.scores == found[0].scores).all()


def test_names_of_a_click_take_the_choices_of_asking(counted: CountedPipeline) -> None:
    masks = counted.pipe.click(PICTURE, points=[(30, 20)])
    alone = counted.pipe.name(masks, ["cat", "dog"], negatives="none")
    assert abs(alone.scores.sum() - 1) <= 1e-6 and alone.best[0] in ("cat", "dog")
    assert counted.pipe.name(masks, ["cat", "dog"], negatives="scene").scores.sum() < 0.999
    assert counted.pipe.name(masks, ["cat", "dog"], negatives="none", threshold=1.0).best == (None,)
    with pytest.raises(BadUsage, match="belong to the image side"):
        counted.pipe.name(masks, ["cat"], method="sclip")


def test_without_a_sam_a_click_says_what_to_do() -> None:
    pipe = Pipeline(WITH_SAM.replace(sam=""), tiny.clip())
    with pytest.raises(BadUsage, match=r"needs a SAM-type network: recipe test has none; .*sam='tiny-sam'"):
        pipe.click(PICTURE, points=[(30, 20)])


def test_the_same_picture_by_another_way_costs_the_sam_nothing(counted: CountedPipeline, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    first, second = counted.pipe.encode(tmp_path / "one.png"), counted.pipe.encode([PICTURE, tmp_path / "two.png"])
    assert counted.sam.encodes == 1
    assert first.embedding is second[0].embedding is second[1].embedding
    turned = counted.pipe.encode(np.ascontiguousarray(PICTURE[:, ::-1]))
    assert counted.sam.encodes == 2 and not np.array_equal(turned.embedding.features, first.embedding.features)
    assert not same(*(counted.pipe.click(one, points=[(30, 20)]) for one in (first, turned)))


def test_a_budget_of_nothing_keeps_nothing() -> None:
    counted = CountedPipeline(embeddings=0)
    for _ in range(2):
        counted.pipe.encode(PICTURE)
    assert counted.sam.encodes == 2
    with pytest.raises(BadUsage, match="a budget is bytes"):
        CountedPipeline(embeddings=-1)


def test_fresh_cached_and_reloaded_embeddings_give_the_same_to_the_bit(
    counted: CountedPipeline, tmp_path: Path
) -> None:
    pipe = counted.pipe
    fresh, cached = pipe.encode(PICTURE), pipe.encode(PICTURE)
    other = CountedPipeline()
    path = cache.save(fresh.embedding, counted.sam, tmp_path / "e.safetensors")
    reloaded = replace(other.pipe.encode(PICTURE), embedding=cache.load(path, other.sam))
    anew = Pipeline(WITH_SAM, tiny.clip(), MaskModel(narrow_sam())).encode(PICTURE)
    generator = AutomaticMaskGenerator(
        counted.sam, points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="coco_rle"
    )
    records = generator.generate(PICTURE, fresh.embedding)
    clicked = pipe.click(fresh, points=[[(30, 20)], [(60, 9)]], names=["cat", "dog"])
    assert records and counted.sam.encodes == 1
    for pipeline, encoding in ((pipe, cached), (other.pipe, reloaded), (pipe, anew)):
        assert generator.generate(PICTURE, encoding.embedding) == records
        again = pipeline.click(encoding, points=[[(30, 20)], [(60, 9)]], names=["cat", "dog"])
        assert same(again, clicked) and (again.scores == clicked.scores).all()


def test_an_encoding_without_an_embedding_gets_one_when_it_is_clicked(counted: CountedPipeline) -> None:
    """Where the SAM is there for a method alone nothing is embedded before."""
    whole = counted.pipe.encode(PICTURE)
    wanted = counted.pipe.click(whole, points=[(30, 20)])
    other = CountedPipeline()
    bare: Encoding = replace(other.pipe.encode(PICTURE), embedding=None)
    assert same(other.pipe.click(bare, points=[(30, 20)]), wanted)
    assert same(other.pipe.click(bare, points=[(30, 20)]), wanted) and other.sam.encodes == 1


def test_four_threads_click_as_one_does(counted: CountedPipeline) -> None:
    pictures = [tiny.picture(48, 80, seed=seed) for seed in range(2)]
    places = [(30, 20), (60, 9), (5, 40), (70, 44)]

    def asked(pipe: Pipeline, number: int) -> Click:
        return pipe.click(pictures[number % 2], points=[places[number % 4]], names=["cat", "dog"])

    alone = [asked(CountedPipeline().pipe, number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: asked(counted.pipe, number), range(12)))
    assert counted.sam.encodes == 2
    for number, one in enumerate(found):
        assert same(one, alone[number % 4]) and (one.scores == alone[number % 4].scores).all()


def test_20000_names_are_ranked_in_bounded_memory(rng: Generator) -> None:
    import tracemalloc

    names, count, dim = 20_000, 300, 64
    rows = rng.normal(size=(names + 3, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    words = Vocabulary(tuple(f"w{k}" for k in range(names)), rows, np.append(np.arange(names), [-1, -1, -1]))
    vectors = rows[rng.permutation(names)[:count]]
    regions = Regions.from_masks(np.ones((count, 5, 6), bool))
    unasked = (np.zeros((count, 2, 3), np.float32), vectors, (NO_POINTS,) * count, Recipe())
    click = Click(regions, *unasked, (), np.zeros((count, 0), np.float32), np.full(count, -1))
    tracemalloc.start()
    found = named(click, words, Recipe(scale=100.0))
    ranked = found.ranked(5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 256e6, f"{peak / 1e6:.0f} MB"
    for i in (0, 17, 299):
        slow = np.argsort(-found.scores[i], kind="stable")[:5]
        assert [(f"w{k}", float(found.scores[i, k])) for k in slow] == list(ranked[i])
    assert [own[0][0] for own in ranked] == list(found.best)
    everything = found[:2].ranked(names)
    assert len(everything[0]) == np.count_nonzero(found.scores[0])
