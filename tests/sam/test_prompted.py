import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from segment_anything import SamPredictor

from ovseg.errors import BadInput
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.prompted import as_logits, prompted
from ovseg.types import Regions
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


BAD: list[tuple[dict[str, Any], str]] = [
    ({"boxes": np.array([[5.0, 5, 5, 9]])}, r"box 0 has no area: got \[5.0, 5.0, 5.0, 9.0\].*48x80"),
    ({"boxes": np.array([[3.0, 3, 9, 49]])}, r"box 0 is outside of the frame: got \[3.0, 3.0, 9.0, 49.0\].*48x80"),
    ({"boxes": np.array([[-1.0, 3, 9, 40]])}, "box 0 is outside of the frame"),
    ({"boxes": np.array([[1.0, np.nan, 9, 40]])}, "box 0 is outside of the frame"),
    (
        {"points": np.array([[[7.0, 9], [90, 3]]]), "labels": np.ones((1, 2), int)},
        "point 1 of prompt 0 is outside.*48x80",
    ),
    ({"points": np.array([[[7.0, np.inf]]]), "labels": np.ones((1, 1), int)}, "point 0 of prompt 0 is outside"),
    ({"points": np.array([[[7.0, 9]]]), "labels": np.full((1, 1), 2)}, "point 0 of prompt 0 has label 2: 1 .inside"),
    ({"points": np.array([[[7.0, 9]]]), "labels": np.full((1, 1), -1)}, "prompt 0 is empty: it needs a point, a box"),
    ({"points": np.zeros((1, 0, 2)), "labels": np.zeros((1, 0), int)}, "prompt 0 is empty"),
    ({"masks": np.full((1, 64, 64), np.nan, np.float32)}, "mask 0 is not finite"),
]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got nothing"),
        ({"boxes": np.ones((2, 4)), "masks": np.zeros((1, 64, 64), np.float32)}, "got 2 boxes, 1 masks"),
        ({"points": np.array([[[7.0, 9]]])}, "got 1x1 points and no labels"),
        ({"points": np.array([[[7.0, 9]]]), "labels": np.ones((1, 2), int)}, "got 1x1 points and 1x2 labels"),
        ({"masks": np.zeros((1, 16, 9), np.float32)}, "logits of 64x64, or regions of the picture: got 16x9"),
        ({"masks": Regions.empty(80, 48)}, "80x48, the picture is 48x80.*Swapped axes"),
        ({"boxes": np.array([[0.1, 0.2, 0.5, 0.9]])}, "pixels are wanted: box 0 is .*48x80"),
        ({"points": np.full((2, 1, 2), 0.5), "labels": np.ones((2, 1), int)}, "pixels are wanted: point 0 of prompt 0"),
        *BAD,
    ],
)
def test_what_cannot_be_asked_is_said(given: dict[str, Any], message: str, rng: Generator) -> None:
    _, model, embedding = opened(rng)
    with pytest.raises(BadInput, match=message):
        prompted(model, embedding, **given)


@pytest.mark.parametrize(("given", "message"), BAD)
@pytest.mark.parametrize("every", [False, True])
def test_one_bad_prompt_is_told_and_the_others_are_answered(
    given: dict[str, Any], message: str, every: bool, rng: Generator
) -> None:
    _, model, embedding = opened(rng)
    padded = {name: _wider(name, value) for name, value in given.items()}
    fine = {name: value for name, value in prompts(rng, 5).items() if name in padded}
    mixed = {name: np.insert(fine[name], 2, padded[name], axis=0) for name in fine}
    found, without = (prompted(model, embedding, **some, every=every) for some in (mixed, fine))
    assert set(found.problems) == {2} and re.search(
        message.replace(" 0", " 2", 1) if "point" not in message else message.replace("prompt 0", "prompt 2"),
        found.problems[2],
    )
    assert not found.masks[2].any() and not found.quality[2].any() and not found.logits[2].any()
    assert (found.regions.area[2 * found.quality.shape[1] :][: found.quality.shape[1]] == 0).all()
    others = [0, 1, 3, 4, 5]
    assert np.abs(found.logits[others] - without.logits).max() <= 1e-6
    assert np.abs(found.quality[others] - without.quality).max() <= 1e-6
    assert (found.masks[others] == without.masks).all() and not without.problems


def _wider(name: str, value: np.ndarray) -> np.ndarray:
    """Points of a bad prompt among prompts of three points, padded."""
    if name == "points":
        return np.concatenate([value, np.zeros((1, 3 - value.shape[1], 2))], axis=1)
    return np.pad(value, ((0, 0), (0, 3 - value.shape[1])), constant_values=-1) if name == "labels" else value


def test_all_bad_prompts_are_an_error_that_says_how_many(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    with pytest.raises(BadInput, match="box 0 has no area.*none of the 2 prompts"):
        prompted(model, embedding, boxes=np.array([[5.0, 5, 5, 9], [3, 3, 9, 99]]))


def test_a_corner_click_among_pixels_is_no_share(rng: Generator) -> None:
    """(0.5, 0.5) is the middle of the first pixel: only a call that has nothing else looks normalised."""
    _, model, embedding = opened(rng)
    points = np.array([[[0.5, 0.5]], [[40.0, 20.0]]])
    found = prompted(model, embedding, points=points, labels=np.ones((2, 1), int))
    assert not found.problems and found.quality.all()
    assert not prompted(model, embedding, points=np.zeros((1, 1, 2)), labels=np.ones((1, 1), int)).problems


def test_padding_changes_nothing(rng: Generator) -> None:
    """Prompts of one, two and no points beside a box are each what they are alone."""
    _, model, embedding = opened(rng)
    points, labels = rng.uniform(5, 48, (3, 2, 2)), np.array([[1, -1], [1, 0], [-1, 1]])
    together = prompted(model, embedding, points=points, labels=labels)
    for number, keep in enumerate(([0], [0, 1], [1])):
        alone = prompted(model, embedding, points=points[[number]][:, keep], labels=labels[[number]][:, keep])
        assert np.abs(together.logits[number] - alone.logits[0]).max() <= 1e-6
    boxes = prompts(rng, 3)["boxes"]
    none = prompted(model, embedding, boxes=boxes, points=points, labels=np.full((3, 2), -1))
    assert (none.logits == prompted(model, embedding, boxes=boxes).logits).all()


def test_a_region_is_a_mask_prompt_by_what_it_fills_of_each_cell(rng: Generator) -> None:
    """Against plain sums over the pixels of every cell; 48x80 is 154x256 of 256x256 pixels, 64x64 cells."""
    model = MaskModel(narrow_sam())
    mask = rng.random((2, 48, 80)) < 0.7
    mask[1, :20] = False
    embedding = model.encode(rng.integers(0, 256, (48, 80, 3), np.uint8))
    found = as_logits(model, embedding, Regions.from_masks(mask))
    fine = np.repeat(np.repeat(mask.astype(float), 154, axis=1), 16, axis=2)  # 1/154 of a row, 1/16 of a column
    frame = np.zeros((2, 256 * 48, 256 * 5))
    frame[:, : 154 * 48] = fine
    share = frame.reshape(2, 64, 4 * 48, 64, 20).mean(axis=(2, 4))
    share /= share.max(axis=(1, 2), keepdims=True)
    share = share.clip(0.001, 0.999)
    assert np.abs(1 / (1 + np.exp(-found)) - share).max() <= 1e-5
    assert found.dtype == np.float32 and found[1, :16].max() < -6.9


def test_a_region_below_a_cell_is_still_a_prompt(rng: Generator) -> None:
    model = MaskModel(narrow_sam())
    embedding = model.encode(rng.integers(0, 256, (700, 500, 3), np.uint8))
    mask = np.zeros((2, 700, 500), bool)
    mask[0, 300, 200] = True
    found = as_logits(model, embedding, Regions.from_masks(mask))
    assert np.argwhere(found[0] > 6).tolist() == [[27, 18]] and found[1].max() < -6.9  # 700 px are 64 cells
    with pytest.raises(BadInput, match="700x500"):
        as_logits(model, model.encode(np.zeros((48, 80, 3), np.uint8)), Regions.from_masks(mask))


def test_regions_are_answered_as_their_logits_are(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    regions = Regions.from_masks(rng.random((2, 48, 80)) < 0.5)
    given = prompts(rng, 2)["boxes"]
    one = prompted(model, embedding, boxes=given, masks=regions)
    two = prompted(model, embedding, boxes=given, masks=as_logits(model, embedding, regions))
    assert (one.logits == two.logits).all()
    assert np.abs(one.logits - prompted(model, embedding, boxes=given).logits).max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (1, 60), (300, 2)])
def test_odd_pictures_are_answered_as_by_the_predictor(height: int, width: int, rng: Generator) -> None:
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    predictor = SamPredictor(narrow_sam())
    predictor.set_image(image)
    model = MaskModel(predictor.model)
    embedding = model.encode(image)
    box = np.array([[0.0, 0, width, height]])
    point = np.array([[[width / 2, height / 2]]])
    found = prompted(model, embedding, boxes=box, points=point, labels=np.ones((1, 1), int), every=True)
    transform = predictor.transform
    masks, quality, logits = predictor.predict_torch(
        torch.as_tensor(transform.apply_coords(point, (height, width)), dtype=torch.float),
        torch.ones(1, 1, dtype=torch.int),
        torch.as_tensor(transform.apply_boxes(box, (height, width)), dtype=torch.float),
        multimask_output=True,
    )
    assert np.abs(found.quality - quality.numpy()).max() <= 1e-5
    assert np.abs(found.logits - logits.numpy()).max() <= 1e-5
    assert (found.masks != masks.numpy()).mean() <= 1e-4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2000), (2000, 1)])
def test_pictures_too_narrow_for_segment_anything_are_answered(height: int, width: int, rng: Generator) -> None:
    """It would shrink three rows of 2000 columns to none of 256."""
    model = MaskModel(narrow_sam())
    embedding = model.encode(rng.integers(0, 256, (height, width, 3), np.uint8))
    first = prompted(model, embedding, boxes=np.array([[0.0, 0, width, height]]))
    again = prompted(model, embedding, masks=Regions.from_masks(np.ones((1, height, width), bool)))
    assert first.masks.shape == again.masks.shape == (1, 1, height, width)


def test_a_large_picture_is_answered_in_bounded_memory(rng: Generator) -> None:
    """Sixteen masks of 12 megapixels are 770 MB as floats; ours are made in chunks of 64 MB, one after the other."""
    model = MaskModel(narrow_sam())
    embedding = model.encode(np.broadcast_to(np.uint8(90), (4000, 3000, 3)).copy())
    corner = rng.uniform(0, 2000, (16, 2))
    boxes = np.concatenate([corner, corner + 400], axis=1)
    model.stretch(embedding)  # kept for the size
    tracemalloc.start()
    found = prompted(model, embedding, boxes=boxes)
    regions = found.regions
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(regions) == 16 and peak < 160_000_000


def test_a_pixel_in_the_corner_may_be_pointed_at(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    for point in ((0, 0), (1, 0), (1, 1), (80, 48)):
        found = prompted(model, embedding, points=np.array([[point]], float), labels=np.array([[1]]))
        assert not found.problems and found.masks.shape == (1, 1, 48, 80)
    with pytest.raises(BadInput, match="pixels are wanted: box 0"):  # the whole picture, in shares of it
        prompted(model, embedding, boxes=np.array([[0.0, 0, 1, 1]]))


def test_a_quality_that_is_no_number_is_an_error(rng: Generator) -> None:
    _, model, embedding = opened(rng)
    with torch.no_grad():
        model.sam.mask_decoder.iou_prediction_head.layers[-1].bias[2] = float("nan")
    box = np.array([[3.0, 5, 60, 40]])
    assert np.isfinite(prompted(model, embedding, boxes=box).quality).all()  # asks for the first of the four alone
    with pytest.raises(BadInput, match="predicted IoU is not finite"):
        prompted(model, embedding, boxes=box, every=True)
    with pytest.raises(BadInput, match="predicted IoU is not finite"):
        prompted(model, embedding, points=np.array([[[30.0, 20.0]]]), labels=np.array([[1]]))
