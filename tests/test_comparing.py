"""Recipes that share a pass give what each gives alone, and what is shared is computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from ovseg import proposals
from ovseg.comparing import beside
from ovseg.disagreement import Disagreement, disagree
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.imageside import ImageSide
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe
from tests.sam.narrow import narrow_sam

RECIPE = Recipe(name="test", model="test", short_side=48, templates="bare", negatives="word", scale=100.0)
WIDE, TALL = tiny.picture(48, 80), tiny.picture(91, 50, seed=1)
NAMES = ["cat", "dog", "bolt"]
OTHERS: list[Any] = ["naclip", {"method": "sclip", "scale": 60.0}, {"negatives": "scene", "templates": "few"}]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(RECIPE, tiny.clip())


class ImageCalls:
    """Counts pictures that enter the vision tower; leaves no trace."""

    def __init__(self, pipe: Pipeline) -> None:
        self.count = 0
        self.hook = pipe.clip.visual.conv1.register_forward_pre_hook(self._add)

    def _add(self, _: Any, given: tuple[Any, ...]) -> None:
        self.count += len(given[0])

    def __enter__(self) -> "ImageCalls":
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def alone(pipe: Pipeline, others: list[Any], picture: np.ndarray, **networks: Any) -> Disagreement:
    """The slow way: a pipeline for every recipe."""
    recipes = beside(pipe.recipe, others)
    return disagree([Pipeline(one, pipe.clip, **networks).segment(picture, NAMES) for one in recipes])


def same(one: Disagreement, other: Disagreement) -> None:
    assert np.array_equal(one.values, other.values) and np.array_equal(one.doubt, other.doubt)
    assert np.array_equal(one.contested, other.contested) and np.array_equal(one.labels, other.labels)
    assert one.first.regions.rles == other.first.regions.rles and one.effort() == other.effort()


def test_recipes_together_say_what_each_says_in_a_pipeline_of_its_own(pipe: Pipeline) -> None:
    found = pipe.compare(WIDE, NAMES, OTHERS)
    same(found, alone(pipe, OTHERS, WIDE))
    assert found.recipes == 4 and found.values.max() > 0.05 and found.contested.any()
    assert found.first.recipe == RECIPE


def test_all_recipes_take_one_pass_and_of_an_encoding_only_new_methods_take_one(pipe: Pipeline) -> None:
    with ImageCalls(pipe) as calls:
        encoding = pipe.encode(TALL)
        once = calls.count
        whole = pipe.compare(TALL, NAMES, OTHERS)
        assert calls.count == 2 * once
        found = pipe.compare(encoding, NAMES, OTHERS)
        assert calls.count == 3 * once  # naclip and sclip, together
        asked = pipe.compare(encoding, NAMES, OTHERS[2:])
        assert calls.count == 3 * once
    same(found, whole)
    same(asked, alone(pipe, OTHERS[2:], TALL))


def test_two_pictures_give_two_answers_each_its_own(pipe: Pipeline) -> None:
    found = pipe.compare([WIDE, TALL], NAMES, ["naclip"])
    assert [(48, 80), (91, 50)] == [one.values.shape for one in found]
    for picture, one in zip([WIDE, TALL], found, strict=True):
        same(one, pipe.compare(picture, NAMES, ["naclip"]))


def test_proposals_by_features_are_each_recipes_own(pipe: Pipeline) -> None:
    nested = Pipeline(RECIPE.replace(proposer="felzenszwalb"), pipe.clip)
    others: list[Any] = ["naclip", {"proposer": "none"}]
    same(nested.compare(WIDE, NAMES, others), alone(nested, others, WIDE))


def test_masks_that_only_the_picture_decides_are_made_once(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = narrow_sam()
    options = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    recipe = RECIPE.replace(sam="test", proposer="sam-coarse", proposer_options=options)
    masked = Pipeline(recipe, pipe.clip, sam)
    others: list[Any] = ["naclip", {"method": "sclip", "overlap": "smallest"}]
    wanted = alone(masked, others, WIDE, sam=sam)
    calls: list[str] = []
    plain = proposals.propose
    monkeypatch.setattr(proposals, "propose", lambda name, *a, **more: calls.append(name) or plain(name, *a, **more))
    looked = ImageSide.embedding
    monkeypatch.setattr(ImageSide, "embedding", lambda *given: calls.append("look") or looked(*given))
    same(masked.compare(WIDE, NAMES, others), wanted)
    assert ["look", "sam-coarse"] == calls


def test_masks_of_the_names_map_are_each_recipes_own(pipe: Pipeline) -> None:
    sam = narrow_sam()
    recipe = RECIPE.replace(sam="test", proposer="from-map", proposer_options={"min_iou": 0.0, "min_part_px": 4})
    masked = Pipeline(recipe, pipe.clip, sam)
    others: list[Any] = ["naclip", {"proposer": "none"}, {"negatives": "scene"}, {"encoder": "crop"}]
    found = masked.compare(WIDE, NAMES, others)
    same(found, alone(masked, others, WIDE, sam=sam))
    evidence = found.first.evidence
    assert evidence is not None and evidence.parts is not None and (evidence.parts >= 0).any()


def test_whole_picture_methods_and_encoders_with_taps_take_their_own_pass(pipe: Pipeline) -> None:
    own = Pipeline(RECIPE.replace(proposer="felzenszwalb"), pipe.clip)
    for others in (["itaclip-views", "naclip"], [{"encoder": "bias"}, "naclip"]):
        same(own.compare(WIDE, NAMES, others), alone(own, others, WIDE))


def test_a_path_with_spaces_is_read_once_and_a_vocabulary_serves_all(pipe: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    Image.fromarray(WIDE).save(path)
    same(pipe.compare(path, pipe.vocabulary(NAMES), ["naclip"]), pipe.compare(WIDE, NAMES, ["naclip"]))
    with pytest.raises(BadUsage, match="negatives are part of a vocabulary that is ready"):
        pipe.compare(path, pipe.vocabulary(NAMES), [{"negatives": "scene"}])


def test_what_cannot_be_compared_is_refused_with_what_to_do(pipe: Pipeline) -> None:
    with pytest.raises(BadUsage, match="needs another recipe: none came; name a method"):
        pipe.compare(WIDE, NAMES, [])
    with pytest.raises(BadUsage, match="short_side, crop of test .maskclip-reduced. differ; open a pipeline"):
        pipe.compare(WIDE, NAMES, [{"short_side": 64, "crop": -1}])
    with pytest.raises(BadUsage, match="protocol of test .* differ"):
        pipe.compare(WIDE, NAMES, [RECIPE.replace(protocol="paper")])
    with pytest.raises(UnknownName, match="method must be one of"):
        pipe.compare(WIDE, NAMES, ["nacl"])
    with pytest.raises(UnknownName, match="choice of a recipe"):
        pipe.compare(WIDE, NAMES, [{"negative": "scene"}])
    with pytest.raises(BadUsage, match="made by a pipeline of other choices"):
        pipe.compare(Pipeline(RECIPE.replace(method="gem"), pipe.clip).encode(WIDE), NAMES, ["naclip"])
    with pytest.raises(BadInput, match="at least 16 px"):
        pipe.compare(WIDE[:9], NAMES, ["naclip"])
    assert pipe.compare(WIDE, NAMES, [{}]).effort()["contested_share"] == 0  # itself


def test_one_name_has_a_map_too(pipe: Pipeline) -> None:
    found = pipe.compare(WIDE, "<script>", ["naclip"])
    assert found.first.names == ("<script>",) and found.values.shape == (48, 80)
