from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from segment_anything import SamPredictor

from ovseg.errors import BadInput
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.prompted import prompted
from tests.sam.narrow import narrow_sam


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(4)


def opened(rng: Generator) -> tuple[SamPredictor, MaskModel, Embedding]:
    image = rng.integers(0, 256, (48, 80, 3), np.uint8)
    predictor = SamPredictor(narrow_sam())
    predictor.set_image(image)
    model = MaskModel(predictor.model)
    return predictor, model, model.encode(image)


def prompts(rng: Generator, count: int) -> dict[str, Any]:
    corner = rng.uniform(0, 20, (count, 2))
    return {
        "boxes": np.concatenate([corner, corner + rng.uniform(5, 20, (count, 2))], axis=1),
        "points": rng.uniform(0, 48, (count, 3, 2)),
        "labels": rng.integers(0, 2, (count, 3)),
        "masks": rng.normal(0, 3, (count, 64, 64)).astype(np.float32),
    }


def theirs(predictor: SamPredictor, given: dict[str, Any], several: bool) -> tuple[np.ndarray, ...]:
    """segment-anything's masks, qualities and logits for the same prompts."""
    transform, size = predictor.transform, (48, 80)
    points = boxes = labels = masks = None
    if "points" in given:
        points = torch.as_tensor(transform.apply_coords(given["points"], size), dtype=torch.float)
        labels = torch.as_tensor(given["labels"], dtype=torch.int)
    if "boxes" in given:
        boxes = torch.as_tensor(transform.apply_boxes(given["boxes"], size), dtype=torch.float)
    if "masks" in given:
        masks = torch.as_tensor(given["masks"])[:, None]
    found = predictor.predict_torch(points, labels, boxes, masks, multimask_output=several)
    return tuple(part.numpy() for part in found)


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize(
    "names",
    [
        ("boxes",),
        ("points", "labels"),
        ("masks",),
        ("boxes", "points", "labels"),
        ("boxes", "masks"),
        ("boxes", "points", "labels", "masks"),
    ],
)
def test_every_kind_of_prompt_is_answered_as_by_the_predictor(
    names: tuple[str, ...], count: int, rng: Generator
) -> None:
    predictor, model, embedding = opened(rng)
    given = {name: value for name, value in prompts(rng, count).items() if name in names}
    for every in (False, True):
        found = prompted(model, embedding, **given, every=every)
        masks, quality, logits = theirs(predictor, given, every)
        assert np.abs(found.quality - quality).max() <= 1e-5
        assert np.abs(found.logits - logits).max() <= 1e-5
        assert (found.masks != masks).mean() <= 1e-4


def test_one_point_gets_the_best_of_three(rng: Generator) -> None:
    predictor, model, embedding = opened(rng)
    given = {"points": rng.uniform(0, 48, (5, 1, 2)), "labels": np.ones((5, 1), np.int64)}
    masks, quality, _ = theirs(predictor, given, True)
    found = prompted(model, embedding, **given)
    assert np.abs(found.quality[:, 0] - quality.max(axis=1)).max() <= 1e-5
    for number, best in enumerate(quality.argmax(axis=1)):
        assert (found.masks[number, 0] != masks[number, best]).mean() <= 1e-3


def test_many_prompts_are_as_many_calls_of_one(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    given = prompts(rng, 6)
    every = prompted(model, embedding, **given)
    for number in range(6):
        one = prompted(model, embedding, **{name: value[number : number + 1] for name, value in given.items()})
        assert np.abs(one.logits[0] - every.logits[number]).max() <= 1e-6
        assert np.abs(one.quality[0] - every.quality[number]).max() <= 1e-6


def test_logits_can_be_given_back(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    given = {"boxes": prompts(rng, 2)["boxes"]}
    first = prompted(model, embedding, **given)
    second = prompted(model, embedding, **given, masks=first.logits[:, 0])
    assert np.abs(second.logits - first.logits).max() > 1e-4


def test_no_prompts_give_no_masks(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    found = prompted(model, embedding, boxes=np.zeros((0, 4)))
    assert found.masks.shape == (0, 1, 48, 80) and len(found.regions) == 0


def test_regions_are_the_masks(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    found = prompted(model, embedding, **prompts(rng, 3), every=True)
    assert len(found.regions) == 9
    assert (found.regions.masks == found.masks.reshape(9, 48, 80)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got nothing"),
        ({"boxes": np.ones((2, 4)), "masks": np.zeros((1, 64, 64), np.float32)}, "got 2 boxes, 1 masks"),
        ({"boxes": np.array([[3.0, 3, 9, 9], [5, 5, 5, 9]])}, "box 1 has no area"),
        ({"boxes": np.array([[3.0, 3, 9, 49]])}, "box 0 is outside of the frame.*48x80"),
        ({"boxes": np.array([[0.1, 0.2, 0.5, 0.9]])}, "pixels are wanted, box"),
        ({"points": np.array([[[7.0, 9]], [[90.0, 3]]]), "labels": np.ones((2, 1), int)}, "point 1 is outside"),
        ({"points": np.array([[[7.0, 9]]]), "labels": np.full((1, 1), 2)}, "needs a label"),
        ({"points": np.array([[[7.0, 9]]])}, "needs a label"),
        ({"masks": np.zeros((1, 16, 9), np.float32)}, "logits of 64x64: got 16x9"),
    ],
)
def test_what_cannot_be_asked_is_said(given: dict[str, Any], message: str, rng: Generator) -> None:
    _, model, embedding = opened(rng)
    with pytest.raises(BadInput, match=message):
        prompted(model, embedding, **given)
