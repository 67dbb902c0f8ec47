from pathlib import Path

import pytest
import torch

from ovseg import opening
from ovseg.errors import BadWeights, MissingWeights
from ovseg.opening import best_here, needed_weights
from ovseg.pipeline import Pipeline
from ovseg.recipe import PRESETS, Recipe
from ovseg.sam.load import KINDS, build
from tests.sam.narrow import narrow_sam


def test_a_recipe_needs_a_file_for_each_network() -> None:
    assert needed_weights(PRESETS["base"]) == ["clip-vit-b16-openai", "sam-vit-b"]
    recipe = PRESETS["base"].replace(method="proxyclip", guide="dino-b8")
    assert needed_weights(recipe) == ["clip-vit-b16-openai", "sam-vit-b", "dino-vit-b8"]
    assert needed_weights(recipe.replace(guide="sam")) == ["clip-vit-b16-openai", "sam-vit-b"]


def test_best_preset_that_is_here_is_said_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = {"tiny-clip", "tiny-sam", "clip-vit-b16-openai"}
    monkeypatch.setattr(opening.weights, "find", lambda name, folder=None: Path("x") if name in here else None)
    with caplog.at_level("INFO", logger="ovseg"):
        assert best_here() == "tiny"  # base lacks its SAM
        here.add("sam-vit-b")
        assert best_here() == "base"
    assert "base is the best preset whose weights are here" in caplog.text
    here.clear()
    with pytest.raises(MissingWeights):
        best_here()


def test_a_folder_of_the_hub_needs_what_lies_beside_its_weights() -> None:
    assert needed_weights(PRESETS["base"].replace(sam="sam2.1-hiera-tiny")) == [
        "clip-vit-b16-openai", "sam2.1-hiera-tiny", "sam2.1-hiera-tiny-config",
    ]  # fmt: skip


def test_a_sam_that_is_not_here_is_said_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(opening.load, "load", lambda *_, **__: pytest.fail("the CLIP is opened first"))
    with pytest.raises(MissingWeights, match="ovseg weights pull sam-vit-l"):
        Pipeline.open("tiny", sam="sam-vit-l", cache=None)


def test_a_pickle_is_opened_only_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(build(KINDS["tiny"]).state_dict(), tmp_path / "sam.pt")
    whole = opening.weights.path
    monkeypatch.setattr(
        opening.weights, "path", lambda name, *rest: tmp_path / "sam.pt" if name == "sam-vit-b" else whole(name, *rest)
    )
    with pytest.raises(BadWeights, match="pickle"):
        Pipeline.open("tiny", sam="sam-vit-b", cache=None)
    assert Pipeline.open("tiny", sam="sam-vit-b", cache=None, allow_pickle=True).masks is not None


def test_the_recipe_says_who_computes_a_sams_masks() -> None:
    recipe = Recipe(model="tiny", sam="sam-vit-b", precision="bfloat16")
    sam = narrow_sam()
    made = opening.mask_model(sam, recipe, None)
    assert made.computed == "torch bfloat16 folded" and made.sam is sam
    assert opening.mask_model(made, recipe, None) is made and opening.mask_model(None, recipe, None) is None
