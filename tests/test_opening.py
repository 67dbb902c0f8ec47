from pathlib import Path

import pytest

from ovseg import opening
from ovseg.errors import MissingWeights
from ovseg.opening import best_here, needed_weights
from ovseg.recipe import PRESETS


def test_a_recipe_needs_a_file_for_each_network() -> None:
    assert needed_weights(PRESETS["base"]) == ["clip-vit-b16-openai", "sam-vit-b"]
    recipe = PRESETS["base"].replace(method="proxyclip", guide="dino-b8")
    assert needed_weights(recipe) == ["clip-vit-b16-openai", "sam-vit-b", "dino-vit-b8"]
    assert needed_weights(recipe.replace(guide="sam")) == ["clip-vit-b16-openai", "sam-vit-b"]


def test_best_preset_that_is_here_is_said_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = {"tiny-clip", "clip-vit-b16-openai"}
    monkeypatch.setattr(opening.weights, "find", lambda name, folder=None: Path("x") if name in here else None)
    with caplog.at_level("INFO", logger="ovseg"):
        assert best_here() == "tiny"  # base lacks its SAM
        here.add("sam-vit-b")
        assert best_here() == "base"
    assert "base is the best preset whose weights are here" in caplog.text
    here.clear()
    with pytest.raises(MissingWeights):
        best_here()
