import json
from pathlib import Path
from typing import Any

import pytest

from ovseg.errors import BadUsage, OvsegError, UnknownName
from ovseg.pipeline import Pipeline
from ovseg.recipe import PRESETS, Recipe, preset
from ovseg.weights import MANIFEST


def test_options_go_with_the_row_that_they_are_of() -> None:
    recipe = Recipe(proposer="felzenszwalb", proposer_options={"scale": 150.0})
    assert recipe.replace(threshold=0.4).proposer_options == {"scale": 150.0}
    assert recipe.replace(proposer="none").proposer_options == {}
    assert recipe.replace(proposer="felzenszwalb").proposer_options == {"scale": 150.0}
    own = PRESETS["tiny"].replace(proposer="sam", proposer_options={"points_per_side": 8})
    assert own.proposer_options == {"points_per_side": 8}


def test_json_and_back_is_the_same_recipe() -> None:
    for recipe in (
        *PRESETS.values(),
        Recipe(proposer="felzenszwalb", proposer_options={"scale": 150.0}, scale=17.5),
        Recipe(stages=("surgery", {"tlp": {"cells": 40}}), refine="pamr", area=0.1, closing=3),
    ):
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert Recipe.from_json(recipe.to_json()).fingerprint == recipe.fingerprint


def test_every_choice_moves_the_fingerprint() -> None:
    base = Recipe()
    other = {
        "name": "x", "model": "ViT-B-16/openai", "sam": "sam-vit-b", "guide": "dino-b16",
        "method": "naclip", "method_options": {}, "protocol": "paper",
        "short_side": 224, "long_side": 1024, "crop": -1, "stride": 64, "scales": (0.5, 1),
        "templates": "simple", "negatives": "word",
        "scale": 50.0, "probability": "rows", "threshold": 0.5, "proposer": "felzenszwalb",
        "proposer_options": {}, "encoder": "crop", "encoder_options": {},
        "overlap": "smallest", "stuff": ["lawn"], "suppress": 0.9, "merge": 0.95, "uncovered": "none", "min_area": 0.01,
        "stages": ["surgery"], "refine": "pamr", "area": 0.1, "closing": 3,
            "absent": "presence", "alpha": 0.1, "presence_cut": -3.0, "margin": 0.1, "entropy": 0.9,
        "runtime": "openvino", "precision": "bfloat16",
    }  # fmt: skip
    assert set(other) == set(base.to_dict())
    changed = {base.replace(**{name: value}).fingerprint for name, value in other.items()}
    with_options = base.replace(encoder="crop", encoder_options={"expand": 1.5}).fingerprint
    changed |= {with_options, base.replace(proposer="felzenszwalb", proposer_options={"scale": 9.0}).fingerprint}
    changed |= {base.replace(method="itaclip-views", method_options=given).fingerprint for given in ({}, {"keep": 1})}
    assert len(changed) == len(other) + 2  # the three empty options change nothing: the base is among them


def test_only_the_image_side_binds_an_encoding() -> None:
    base = Recipe()
    for change in (
        {"threshold": 0.3},
        {"negatives": "none"},
        {"scale": 10.0},
        {"overlap": "largest"},
        {"stuff": ["lawn", "sky"]},
        {"suppress": 0.9},
        {"merge": 0.95},
        {"min_area": 0.1},
        {"stages": ["tlp"]},
        {"refine": "pamr"},
        {"area": 0.1},
        {"closing": 3},
    ):
        assert base.replace(**change).image_side == base.image_side
    for change in (
        {"method": "sclip"},
        {"short_side": 224},
        {"crop": 96},
        {"proposer": "felzenszwalb"},
        {"model": "x"},
        {"runtime": "openvino"},
        {"precision": "bfloat16"},
    ):
        assert base.replace(**change).image_side != base.image_side


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "sklip"}, "method must be one of .* Did you mean 'sclip'"),
        ({"proposer": "sams"}, "Did you mean 'sam'"),
        ({"encoder": "crops"}, "Did you mean 'crop'"),
        ({"overlap": "small"}, "Did you mean 'smallest'"),
        ({"stuff": "coc"}, "Did you mean 'coco'"),
        ({"templates": "openai"}, "Did you mean 'openai80'"),
        ({"negatives": "voc"}, "Did you mean 'voc26'"),
        ({"protocol": "slow"}, "protocol must be one of fast, paper"),
        ({"probability": "row"}, "Did you mean 'rows'"),
        ({"treshold": 0.3}, "Did you mean 'threshold'"),
        ({"proposer": "felzenszwalb", "proposer_options": {"scal": 3}}, "Did you mean 'scale'"),
        ({"encoder": "crop", "encoder_options": {"expnd": 3}}, "Did you mean 'expand'"),
        ({"refine": "pamm"}, "refine must be one of none, pamr.* Did you mean 'pamr'"),
        ({"stages": ["tpl"]}, "Did you mean 'tlp'"),
        ({"stages": [{"tlp": {"step": 3}}]}, "Did you mean 'steps'"),
    ],
)
def test_misspelt_choice_names_the_right_one(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UnknownName, match=sentence):
        Recipe().replace(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.5},
        {"min_area": 1.0},
        {"suppress": 0.0},
        {"merge": 1.1},
        {"overlap": "vote", "uncovered": "none"},
        {"scale": 0.0},
        {"short_side": 3},
        {"crop": -2},
        {"area": 1.5},
        {"area": -0.1},
        {"closing": 2},
        {"closing": -3},
        {"stages": [{"tlp": {"steps": "many"}}]},
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadUsage):
        Recipe().replace(**change)


def test_a_recipe_is_opened_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my recipe.json"
    recipe = PRESETS["tiny"].replace(threshold=0.4)
    file.write_text(recipe.to_json(), encoding="utf-8")
    assert Recipe.from_file(file) == recipe == Pipeline.open(str(file), cache=None).recipe
    with pytest.raises(BadUsage, match="the recipe cannot be read: .*gone.json"):
        Pipeline.open(tmp_path / "gone.json")


def test_json_of_strangers_is_refused() -> None:
    for text in ("{", "[]", json.dumps({"code": "import os"})):
        with pytest.raises(OvsegError):
            Recipe.from_json(text)


def test_presets_name_what_the_manifest_has() -> None:
    for name, recipe in PRESETS.items():
        assert recipe.name == name and (not recipe.sam or recipe.sam in MANIFEST)
    with pytest.raises(UnknownName, match="Did you mean 'base'"):
        preset("bass")


def test_stages_are_kept_in_one_spelling_and_nobody_can_change_them_from_outside() -> None:
    options = {"steps": 3}
    recipe = Recipe(stages=["Surgery", {"TLP": options}, {"lposs_plus": {}}])
    assert recipe.stages == ("surgery", {"tlp": {"steps": 3}}, "lposs-plus")
    assert recipe.fingerprint == Recipe(stages=["surgery", {"tlp": {"steps": 3}}, "lposs-plus"]).fingerprint
    options["steps"] = 9
    recipe.to_dict()["stages"][1]["tlp"]["steps"] = 9
    assert recipe.stages[1] == {"tlp": {"steps": 3}}
    assert recipe.fingerprint != recipe.replace(stages=["surgery", "lposs-plus"]).fingerprint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stages": ["vote"]}, "lets proposals vote: name a proposer"),
        ({"stages": ["cliptrase"], "proposer": "felzenszwalb"}, "proposer must be none, got 'felzenszwalb'"),
        ({"stages": ["vote"], "proposer": "felzenszwalb", "uncovered": "none"}, "uncovered must be dense"),
        ({"stages": ["vote", "cliptrase"]}, "labels vote once"),
        ({"stages": "tlp"}, "stages is a list"),
    ],
)
def test_stages_that_cannot_work_together_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        Recipe().replace(**change)


def test_a_guided_method_without_a_guide_is_refused_when_the_recipe_is_made() -> None:
    with pytest.raises(BadUsage, match=r"proxyclip takes its attention from another network: name a guide \(dino-b8,"):
        Recipe(method="proxyclip")
    with pytest.raises(UnknownName, match="guide must be one of .*Did you mean 'dino-b16'"):
        Recipe(method="proxyclip", guide="dino-b-16")
    with pytest.raises(BadUsage, match="guide sam is the recipe's own SAM"):
        Recipe(method="proxyclip", guide="sam")
    own = Recipe(method="proxyclip", guide="dino-b8@here/my.pth")
    assert own.guided and Recipe.from_json(own.to_json()) == own
    assert own.image_side != own.replace(guide="self").image_side


def test_a_guide_beside_a_method_that_takes_none_is_the_stages() -> None:
    recipe = Recipe(method="naclip", guide="self", stages=["lposs"])
    assert not recipe.guided and recipe.image_side != recipe.replace(guide="").image_side


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "trident", "sam": "sam-vit-b"}, "trident takes its attention from another network: name a guide"),
        ({"method": "trident", "guide": "self"}, "trident mixes cells as a SAM attends: name one, for instance sam="),
        ({"method": "corrclip", "guide": "self"}, r"look at their own region: name a proposer \(felzenszwalb"),
        ({"method": "cass"}, "cass takes its attention from another network"),
        ({"method": "itaclip-views", "runtime": "openvino"}, "itaclip-views runs in torch at float32 alone"),
        ({"method_options": {"keep": 0.5}}, "method maskclip-reduced has no options"),
    ],
)
def test_a_method_of_whole_pictures_is_refused_where_a_need_lacks(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        Recipe().replace(**change)


def test_a_method_of_whole_pictures_binds_its_encodings() -> None:
    recipe = Recipe(method="corrclip", guide="self", proposer="felzenszwalb", method_options={"merge": 0.3})
    assert recipe.guided and Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.image_side != recipe.replace(method_options={}).image_side
    assert recipe.image_side == recipe.replace(overlap="largest").image_side


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"proposer": "from-map"}, "proposer from-map asks a SAM for masks: name one"),
        ({"proposer": "sam-coarse"}, "proposer sam-coarse asks a SAM for masks: name one"),
        (
            {"proposer": "from-map", "sam": "sam-vit-b", "stages": ["vote"]},
            "stage vote needs regions before labels: proposer from-map makes them of the labels",
        ),
        (
            {"proposer": "from-map", "sam": "sam-vit-b", "method": "corrclip", "guide": "dino-b8-qk"},
            r"name a proposer \(felzenszwalb.*\), got 'from-map'",
        ),
    ],
)
def test_a_proposer_that_has_not_what_it_needs_is_a_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        Recipe().replace(**change)


def test_a_cut_goes_with_the_model_method_and_rate_that_it_was_fitted_for() -> None:
    fitted = Recipe(absent="presence", presence_cut=-2.0)
    for changes in ({"model": "ViT-B-16/openai"}, {"method": "naclip"}, {"alpha": 0.1}):
        assert fitted.replace(**changes).presence_cut is None
        assert fitted.replace(**changes, presence_cut=-3.0).presence_cut == -3.0
    assert fitted.replace(threshold=0.3, scale=20.0, method="maskclip-reduced").presence_cut == -2.0
    assert Recipe.from_dict({"alpha": 0.2, "method": "naclip", "presence_cut": -1.0}).presence_cut == -1.0


@pytest.mark.parametrize("changes", [{"alpha": 1.5}, {"margin": -0.1}, {"entropy": 2.0}, {"absent": "presense"}])
def test_presence_and_doubt_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises((BadUsage, UnknownName), match="alpha is the share|margin and entropy|presence"):
        Recipe(**changes)
