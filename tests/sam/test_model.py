import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.runtime import graphs
from ovseg.sam import model as faces
from ovseg.sam.cache import key_of
from ovseg.sam.model import AT_ONCE, Embedding, MaskModel
from ovseg.sam.prompted import prompted
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
    for place in range(len(points) - 1):
        ((_, pair),) = model.answer(shared, prompts[place : place + 2])
        assert (pair.quality == torch.cat(every)[place : place + 2]).all()


def test_a_lone_prompt_is_answered_as_by_the_predictor_to_the_bit(image: np.ndarray) -> None:
    """Not filled up: a click would cost four."""
    model = MaskModel(narrow_sam())
    predictor = SamPredictor(model.sam)
    predictor.set_image(image)
    embedding = model.encode(image)
    for point in np.random.default_rng(0).uniform(0, 48, (3, 1, 1, 2)):
        place = torch.as_tensor(predictor.transform.apply_coords(point, (48, 80)), dtype=torch.float)
        _, quality, logits = predictor.predict_torch(place, torch.ones(1, 1, dtype=torch.int))
        prompt = model.points(point, np.ones((1, 1), np.int64), embedding)
        ((picked, answer),) = model.answer(model.shared(embedding), prompt)
        assert picked == slice(0, 1) and len(answer.image) == 1
        assert (answer.quality == quality).all()
        assert (model.logits(answer, torch.arange(1)) == logits).all()


def test_what_prompts_share_is_made_once_a_picture(image: np.ndarray) -> None:
    model = MaskModel(narrow_sam())
    one, two = model.encode(image), model.encode(image[:, ::-1].copy())
    first = model.shared(one)
    assert model.shared(one) is first
    assert not torch.equal(model.shared(two).key, first.key)
    again = model.shared(one)  # not the other picture's
    assert torch.equal(again.key, first.key) and torch.equal(again.tokens, first.tokens)
    dense = torch.ones(2, 32, 16, 16)
    assert len(model.shared(one, dense).tokens) == 2 and model.shared(one) is again


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


# Others than exact, and by how much of the largest value they may differ from it.
CHOICES = [
    ({"algebra": "folded"}, 1e-4),
    ({"precision": "bfloat16"}, 0.1),
    ({"runtime": "openvino"}, 1e-4),
    ({"runtime": "openvino", "precision": "bfloat16"}, 0.1),
]


def chosen(choice: dict[str, str]) -> MaskModel:
    if "runtime" in choice:
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return MaskModel(narrow_sam(), **choice)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype == torch.float32
    return float((found - wanted).abs().max() / wanted.abs().max())


def answers(model: MaskModel, embedding: Embedding, count: int, points: int, single: bool) -> list[torch.Tensor]:
    """Qualities and logits of prompts on one embedding."""
    rng = np.random.default_rng(count)
    labels = np.arange(count * points).reshape(count, points) % 2
    prompts = model.points(rng.uniform(0, 48, (count, points, 2)), labels, embedding)
    quality, logits = [], []
    for _, answer in model.answer(model.shared(embedding), prompts, single=single):
        quality.append(answer.quality)
        logits.append(model.logits(answer, torch.arange(len(answer.quality)), single=single))
    return [torch.cat(quality), torch.cat(logits)]


@pytest.mark.parametrize(("choice", "limit"), CHOICES)
def test_who_computes_changes_the_last_digits_only(choice: dict[str, str], limit: float, image: np.ndarray) -> None:
    exact, other = MaskModel(narrow_sam()), chosen(choice)
    embedding = exact.encode(image)
    own = other.encode(image)
    assert off(own.features, embedding.features) <= limit
    assert (own.height, own.width, own.kept) == (48, 80, (154, 256))
    for count, points, single in ((3, 1, False), (1, 1, False), (1, 4, True), (70, 2, False)):
        wanted, found = (answers(model, embedding, count, points, single) for model in (exact, other))
        for one, two in zip(wanted, found, strict=True):
            assert off(two, one) <= limit


@pytest.mark.parametrize(("choice", "limit"), CHOICES)
def test_mask_prompts_go_every_way(choice: dict[str, str], limit: float, image: np.ndarray) -> None:
    exact, other = MaskModel(narrow_sam()), chosen(choice)
    embedding = exact.encode(image)
    masks = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)
    boxes = np.array([[3.0, 2.0, 60.0 + i, 40.0] for i in range(5)])
    for some in (slice(0, 1), slice(0, 5)):  # one prompt with a mask is not one mask for all prompts
        wanted, found = (prompted(one, embedding, boxes=boxes[some], masks=masks[some]) for one in (exact, other))
        assert off(torch.from_numpy(found.logits), torch.from_numpy(wanted.logits)) <= limit
    assert abs(wanted.logits[0] - wanted.logits[1]).max() > 1e-3


def test_masks_stay_with_their_prompts_where_one_call_does_not_hold_all(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(faces.ROOM, "torch", 2 * 4 * 32 * 16 * 16)
    model = MaskModel(narrow_sam(), algebra="folded")
    assert model.at_once == 2
    embedding = model.encode(image)
    boxes = np.array([[3.0, 2.0, 60.0 + i, 40.0] for i in range(5)])
    masks = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)

    def quality(some: slice) -> torch.Tensor:
        prompts, dense = model.prompts(embedding, boxes=boxes[some], masks=masks[some])
        return torch.cat([answer.quality for _, answer in model.answer(model.shared(embedding, dense), prompts)])

    every = quality(slice(None))
    for number in range(5):
        assert off(quality(slice(number, number + 1)), every[number : number + 1]) <= 1e-5
    assert off(every[1:], every[:1].expand(4, -1)) > 1e-3


def test_a_part_is_prepared_once_for_any_number_of_prompts_points_and_threads(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    prepare = faces.prepare
    monkeypatch.setattr(
        faces, "prepare", lambda *args, **options: made.append(options["key"]) or prepare(*args, **options)
    )
    model = chosen({"runtime": "openvino"})
    found: dict[int, list[torch.Tensor]] = {}

    def ask(number: int) -> Callable[[], None]:
        def run() -> None:
            embedding = model.encode(image)
            found[number] = [part for points in (1, 3) for part in answers(model, embedding, 9, points, False)]

        return run

    threads = [threading.Thread(target=ask(number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.split()[0] for key in made) == ["attend", "encode", "several"]
    for number in range(1, 4):
        assert all(torch.equal(one, two) for one, two in zip(found[0], found[number], strict=True))


def test_graphs_are_read_from_the_cache_folder(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    embedding = MaskModel(narrow_sam()).encode(image)
    first = answers(MaskModel(narrow_sam(), runtime="openvino", cache=tmp_path), embedding, 3, 1, False)
    assert len(list(tmp_path.glob("*.blob"))) == 2
    monkeypatch.setattr(graphs, "_convert", None)
    second = answers(MaskModel(narrow_sam(), runtime="openvino", cache=tmp_path), embedding, 3, 1, False)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_an_embedding_of_another_computer_is_another(image: np.ndarray) -> None:
    models = [MaskModel(narrow_sam()), *(chosen(choice) for choice, _ in CHOICES)]
    assert models[0].computed == "torch float32 exact"
    assert len({model.digest for model in models}) == 1
    assert len({key_of(model, image) for model in models}) == len(models)


def test_exact_is_torchs_in_float32() -> None:
    with pytest.raises(BadUsage, match="algebra exact is torch's in float32: got torch in bfloat16"):
        MaskModel(narrow_sam(), precision="bfloat16", algebra="exact")
    for choice in ({"algebra": "folden"}, {"precision": "float16"}, {"runtime": "onnx"}):
        with pytest.raises(UnknownName):
            MaskModel(narrow_sam(), **choice)


def test_logits_that_are_not_finite_are_told_with_who_computed_them(image: np.ndarray) -> None:
    sam = narrow_sam()
    with torch.no_grad():
        sam.mask_decoder.output_upscaling[0].bias.fill_(float("nan"))
    model = MaskModel(sam, precision="bfloat16")
    embedding = model.encode(image)
    with pytest.raises(BadInput, match="torch computes them in bfloat16 on cpu; try float32"):
        answers(model, embedding, 1, 1, False)
