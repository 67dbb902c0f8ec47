import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from ovseg.errors import BadUsage
from ovseg.sam.model import AT_ONCE, MaskModel
from tests.sam.narrow import narrow_sam


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8)


@pytest.mark.parametrize("picture_format", ["RGB", "BGR"])
def test_an_embedding_is_the_predictors_own(image: np.ndarray, picture_format: str) -> None:
    sam = narrow_sam()
    sam.image_format = picture_format
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    embedding = MaskModel(sam).encode(image)
    assert (embedding.features == predictor.get_image_embedding()).all()
    assert embedding.kept == predictor.input_size == (154, 256)
    assert (embedding.height, embedding.width) == (48, 80)
    assert embedding.nbytes == 4 * 32 * 16 * 16


def test_a_prompts_answer_does_not_depend_on_its_neighbours(image: np.ndarray) -> None:
    model = MaskModel(narrow_sam())
    embedding = model.encode(image)
    shared = model.shared(embedding)
    points = np.random.default_rng(0).uniform(0, 48, (2 * AT_ONCE + 3, 1, 2))
    prompts = model.points(points, np.ones((len(points), 1), np.int64), embedding)
    every = [answer.quality for _, answer in model.answer(shared, prompts)]
    assert [len(quality) for quality in every] == [AT_ONCE, AT_ONCE, 3]
    for place in range(len(points)):
        ((_, alone),) = model.answer(shared, prompts[place : place + 1])
        assert (alone.quality[0] == torch.cat(every)[place]).all()


def test_points_go_to_the_network_as_the_predictor_sends_them(image: np.ndarray) -> None:
    model = MaskModel(narrow_sam())
    embedding = model.encode(image)
    points = np.array([[[3.5, 40.0]], [[79.0, 0.25]]])
    wanted = SamPredictor(model.sam).transform.apply_coords(points, (48, 80))
    assert (model.placed(points, embedding) == wanted).all()


def test_the_digest_is_of_the_weights() -> None:
    one, two, other = (MaskModel(narrow_sam(seed)).digest for seed in (0, 0, 1))
    assert one == two != other


def test_only_float32_networks_with_sams_parts_are_taken() -> None:
    with pytest.raises(BadUsage, match="SAM-type network"):
        MaskModel(torch.nn.Linear(2, 3))
    with pytest.raises(BadUsage, match="float32"):
        MaskModel(narrow_sam().half())
