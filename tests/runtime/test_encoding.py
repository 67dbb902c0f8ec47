"""Whole pictures through every runtime: the same features, whatever the method takes from earlier blocks."""

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from ovseg import runtime
from ovseg.clip import dense
from ovseg.clip.load import Clip, wrap
from ovseg.errors import MissingExtra, UnknownName
from ovseg.pipeline import Pipeline
from ovseg.recipe import Recipe
from ovseg.runtime import graphs, seam

PAIRS = [(name, precision) for name in runtime.RUNTIMES for precision in runtime.PRECISIONS]
WITHIN = {"float32": 2e-5, "bfloat16": 0.02}  # of unit vectors


def reading(pair: tuple[str, str] = ("torch", "float32"), method: str = "naclip", **options: Any) -> dense.Reading:
    if pair[0] == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return dense.Reading(method, short_side=64, crop=48, stride=24, runtime=pair[0], precision=pair[1], **options)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip(layers=12)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", ["naclip", "sclip", "resclip", "sc-clip", "gem"])
def test_features_are_those_of_the_modules_as_they_are(
    pair: tuple[str, str], method: str, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [tiny.picture(), tiny.picture(80, 56, seed=1)]
    found = dense.encode(clip, pictures, reading(pair, method))
    monkeypatch.setattr(dense, "_computing", lambda *_: lambda prefix, tokens: prefix(tokens))
    monkeypatch.setattr(seam, "Kernels", lambda: torch.no_grad())  # torch's own kernels for all the rest
    for one, other in zip(found, dense.encode(clip, pictures, reading(method=method)), strict=True):
        np.testing.assert_allclose(one.vectors, other.vectors, atol=WITHIN[pair[1]], rtol=0)
        np.testing.assert_allclose(one.whole, other.whole, atol=WITHIN[pair[1]], rtol=0)


def test_another_picture_size_compiles_nothing(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, clip = reading(("openvino", "float32")), wrap(clip.model, clip.tokenizer)
    whole = dense.Reading(short_side=48, crop=-1, runtime="openvino")  # every picture size is a grid of its own
    dense.encode(clip, [tiny.picture()], given, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(graphs, "_convert", None)
    for size in ((48, 80), (80, 48), (56, 120)):
        mine = dense.encode(clip, [tiny.picture(*size)], whole, cache=tmp_path)[0]
        torchs = dense.encode(clip, [tiny.picture(*size)], dense.Reading(short_side=48, crop=-1))[0]
        np.testing.assert_allclose(mine.vectors, torchs.vectors, atol=2e-5, rtol=0)
    fresh = wrap(clip.model, clip.tokenizer)  # as after a new start: read from the folder
    again = dense.encode(fresh, [tiny.picture()], given, cache=tmp_path)[0]
    assert np.array_equal(again.vectors, dense.encode(clip, [tiny.picture()], given)[0].vectors)


def test_threads_with_other_methods_and_runtimes_share_one_model_and_leave_it_as_it_was(clip: Clip) -> None:
    asked = [(pair, method) for pair, method in zip(PAIRS, ("naclip", "resclip", "sclip", "sc-clip"), strict=True)]
    pixels = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        before = clip.model.encode_image(pixels)
    state = {name: value.clone() for name, value in clip.model.state_dict().items()}
    alone = {
        key: dense.encode(wrap(clip.model, clip.tokenizer), [tiny.picture()], reading(*key))[0].vectors for key in asked
    }
    shared, wrong = wrap(clip.model, clip.tokenizer), []

    def work(key: tuple[tuple[str, str], str]) -> None:
        for _ in range(3):
            if not np.array_equal(dense.encode(shared, [tiny.picture()], reading(*key))[0].vectors, alone[key]):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(key,)) for key in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        after = clip.model.encode_image(pixels)
    assert wrong == [] and torch.equal(before, after)
    assert all(torch.equal(value, state[name]) for name, value in clip.model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in clip.model.modules())


def test_a_tower_that_turns_by_its_grid_is_prepared_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Turning(dense.Vit):
        """Stands for EVA: what its blocks compute depends on the grid."""

    monkeypatch.setattr(dense.tower, "check", lambda visual, method: Turning(visual))
    original = runtime.prepare
    monkeypatch.setattr(runtime, "prepare", lambda *a, **k: made.append(k["key"]) or original(*a, **k))
    clip = tiny.clip()
    for size in ((48, 80), (48, 80), (48, 96)):
        dense.encode(clip, [tiny.picture(*size)], dense.Reading(short_side=48, crop=-1))
    assert len(made) == len(set(made)) == 2


def test_wrong_runtime_is_refused_when_the_reading_is_made() -> None:
    with pytest.raises(UnknownName, match="runtime must be one of openvino, torch: got 'onnx'"):
        dense.Reading(runtime="onnx")


def test_recipe_names_who_computes_and_the_pipeline_says_so(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    recipe = Recipe(model="test", short_side=64, crop=48, runtime="openvino", precision="bfloat16")
    assert "openvino, bfloat16" in repr(Pipeline(recipe, clip))
    pipe = Pipeline(recipe, wrap(clip.model, clip.tokenizer), cache=tmp_path)
    pipe.encode(tiny.picture())
    assert [path.suffix for path in (tmp_path / "graphs").iterdir()] == [".blob"]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="runtime openvino needs the package openvino"):
        Pipeline.open("tiny", device="cpu", runtime="openvino")
