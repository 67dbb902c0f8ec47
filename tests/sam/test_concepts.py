import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.errors import BadUsage, BadWeights
from ovseg.sam.concepts import ConceptModel, load
from ovseg.sam.load import load_model
from tests.sam.hub import letters, narrow_concepts, perturbed

PHRASES = ("cat", "dog", "a red cup")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What those who hold SAM 3's weights have on their disk, narrow."""
    folder = tmp_path_factory.mktemp("sam3")
    perturbed(narrow_concepts).save_pretrained(folder)
    letters(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ConceptModel:
    return load(folder)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8)


def outputs(model: ConceptModel, image: np.ndarray, phrase: str) -> Any:
    """transformers' own whole forward of a picture and a phrase, by its own processor."""
    from transformers import Sam3ImageProcessor, Sam3Processor

    processor = Sam3Processor(Sam3ImageProcessor(size={"height": 112, "width": 112}), model.tokenizer)
    with torch.inference_mode():
        return model.network(
            **{
                name: value
                for name, value in processor(images=image, text=phrase, return_tensors="pt").items()
                if name in ("pixel_values", "input_ids", "attention_mask")
            }
        )


def test_regions_and_scores_are_those_of_transformers(model: ConceptModel, image: np.ndarray) -> None:
    from transformers import Sam3ImageProcessor

    found = model.find(image, PHRASES, threshold=0.3)
    assert len(found.regions) == len(found.owner) > 0 and set(found.owner.tolist()) <= {0, 1, 2}
    assert (np.diff(found.regions.quality) <= 0).all()
    for number, phrase in enumerate(PHRASES):
        out = outputs(model, image, phrase)
        (expected,) = Sam3ImageProcessor().post_process_instance_segmentation(
            out, threshold=0.3, target_sizes=[(48, 80)]
        )
        own = found.owner == number
        order = expected["scores"].argsort(descending=True, stable=True)
        np.testing.assert_allclose(found.regions.quality[own], expected["scores"][order], rtol=1e-5)
        theirs = expected["masks"][order].numpy().astype(bool)
        ours = found.regions[np.flatnonzero(own)].masks
        assert 0.05 < theirs.mean() < 0.95
        assert (ours != theirs).mean() < 0.02  # borders: they stretch probabilities
        scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
        np.testing.assert_allclose(found.best[number], scores.max(), rtol=1e-5)
        np.testing.assert_allclose(found.presence[number], out.presence_logits.sigmoid()[0, 0], rtol=1e-5)


def test_the_picture_is_encoded_once_for_all_phrases(
    model: ConceptModel, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    own = model.network.vision_encoder.forward
    monkeypatch.setattr(model.network.vision_encoder, "forward", lambda *a, **k: calls.append(1) or own(*a, **k))
    model.find(image, PHRASES)
    assert len(calls) == 1
    nothing = model.find(image, ())
    assert len(calls) == 1 and len(nothing.regions) == 0 and nothing.best.shape == (0,)


def test_phrases_do_not_change_each_other(model: ConceptModel, image: np.ndarray) -> None:
    every, alone = model.find(image, PHRASES, threshold=0.3), model.find(image, ["dog"], threshold=0.3)
    np.testing.assert_allclose(every.best[1], alone.best[0], rtol=1e-6)
    assert every.regions[np.flatnonzero(every.owner == 1)].rles == alone.regions.rles
    assert len(model.find(image, PHRASES, threshold=1.0).regions) == 0


def test_a_contrast_is_the_difference_of_two_phrases(model: ConceptModel, image: np.ndarray) -> None:
    found = model.find(image, PHRASES)
    assert found.contrast("cat", "dog") == pytest.approx(float(found.best[0] - found.best[1]))
    assert found.contrast("dog", "cat") == -found.contrast("cat", "dog")
    with pytest.raises(BadUsage, match="cat, dog, a red cup.*got 'bird'"):
        found.contrast("bird", "cat")


def test_bad_calls_get_a_sentence(model: ConceptModel, image: np.ndarray, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"phrases are a list of texts: got the text 'cat'; write \['cat'\]"):
        model.find(image, "cat")
    with pytest.raises(BadUsage, match="phrases must not be empty"):
        model.find(image, ["cat", " "])
    with pytest.raises(BadUsage, match="at most 32 tokens: .* has 42"):
        model.find(image, ["x" * 40])
    with pytest.raises(BadUsage, match="a Sam3Model of transformers is needed: got Linear"):
        ConceptModel(torch.nn.Linear(2, 3), model.tokenizer)
    with pytest.raises(BadUsage, match="this network is in bfloat16"):
        ConceptModel(perturbed(narrow_concepts).bfloat16(), model.tokenizer)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}), "utf-8")
    with pytest.raises(BadWeights, match=r"SAM 3 \(sam3, sam3_video\) is needed: .* says sam2"):
        load(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BadWeights, match="tokenizer.json is needed"):
        load(tmp_path)


def test_the_text_side_alone_is_no_mask_model(folder: Path) -> None:
    with pytest.raises(BadWeights, match=r"text side .*ovseg\.sam\.concepts\.load"):
        load_model(folder)
