"""The answers of transformers' own classes (and, for HQ-SAM, of its authors' order of steps) on random weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.errors import BadUsage
from ovseg.sam.families import FAMILIES, family_of
from ovseg.sam.foreign import ForeignModel
from ovseg.sam.model import Embedding
from tests.sam.hub import NARROW, PUBLISHED, perturbed

# A network and how much its parameters are moved: sums over more channels must stay of one size.
CASES = [pytest.param((make, 0.1), id=name) for name, make in NARROW.items()] + [
    pytest.param((make, 0.03), id=f"{name}, published size", marks=pytest.mark.slow) for name, make in PUBLISHED.items()
]
# Three prompts in a picture of 48 x 80 pixels.
POINTS = np.array([[[30.0, 20.0], [3.0, 40.0]], [[70.5, 5.25], [79.0, 1.0]], [[3.0, 40.0], [60.0, 30.0]]])
LABELS = np.array([[1, 0], [1, 1], [1, -1]])
BOXES = np.array([[2.0, 3.0, 40.0, 44.0], [50.0, 0.0, 80.0, 48.0], [10.0, 20.0, 12.0, 23.0]])
ASKED: dict[str, dict[str, np.ndarray]] = {
    "one point": {"points": POINTS[:, :1], "labels": LABELS[:, :1]},
    "two points": {"points": POINTS, "labels": LABELS},
    "boxes": {"boxes": BOXES},
    "boxes and points": {"boxes": BOXES, "points": POINTS, "labels": LABELS},
}


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> ForeignModel:
    make, by = request.param
    return ForeignModel(perturbed(make, by=by))


@pytest.fixture(scope="module")
def embedding(model: ForeignModel) -> Embedding:
    return model.encode(np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8))


@pytest.fixture(scope="module")
def seen(model: ForeignModel) -> Any:
    """What transformers' own image encoder makes of the same pixels, once for all tests of a network."""
    pixels, _ = model.pixels(np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8))
    with torch.inference_mode():
        network = model.network
        return network.vision_encoder(pixels) if model.family.network == "SamHQModel" else list(
            network.get_image_embeddings(pixels)
        )  # fmt: skip


def ours(
    model: ForeignModel, embedding: Embedding, single: bool, masks: np.ndarray | None = None, **asked: np.ndarray
) -> tuple[Tensor, Tensor]:
    tokens, dense = model.prompts(embedding, masks=masks, **asked)
    quality, logits = [], []
    for some, answer in model.answer(model.shared(embedding, dense), tokens, single=single):
        quality.append(answer.quality)
        logits.append(model.logits(answer, torch.arange(some.stop - some.start), single=single))
    return torch.cat(quality), torch.cat(logits)


def theirs(
    model: ForeignModel,
    seen: Any,
    embedding: Embedding,
    single: bool,
    *,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    masks: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """transformers' own forward, in its own form; coordinates scaled by hand."""
    kept = embedding.kept
    scale = torch.tensor([kept[1] / 80, kept[0] / 48], dtype=torch.float64)
    asked: dict[str, Any] = {
        "input_points": None if points is None else (torch.tensor(points) * scale).float()[None],
        "input_labels": None if labels is None else torch.tensor(labels, dtype=torch.int32)[None],
        "input_boxes": None if boxes is None else (torch.tensor(boxes) * scale.repeat(2)).float()[None],
        "input_masks": None if masks is None else torch.tensor(masks)[:, None],
    }
    with torch.inference_mode():
        if model.family.network == "SamHQModel":
            return authors(model.network, seen, single, **asked)
        out = model.network(image_embeddings=list(seen), multimask_output=not single, **asked)
    return out.iou_scores[0], out.pred_masks[0]


def authors(network: Any, seen: Any, single: bool, **asked: Any) -> tuple[Tensor, Tensor]:
    """HQ-SAM in the order of SysCV/sam-hq@221aa31 with transformers' layers, one prompt at a time."""
    own = network.mask_decoder
    sparse, dense = network.prompt_encoder(**asked)
    places = network.get_image_wide_positional_embeddings()
    vit = seen.intermediate_embeddings[0].permute(0, 3, 1, 2)
    fine = own.encoder_conv2(own.activation(own.encoder_norm(own.encoder_conv1(seen.last_hidden_state))))
    fine = fine + own.compress_vit_conv2(own.activation(own.compress_vit_norm(own.compress_vit_conv1(vit))))
    first = torch.cat([own.iou_token.weight, own.mask_tokens.weight, own.hq_token.weight])[None, None]
    qualities, masks = [], []
    for prompt in range(1 if sparse is None else sparse.shape[1]):
        tokens = first if sparse is None else torch.cat([first, sparse[:, prompt : prompt + 1]], dim=2)
        hidden, image = own.transformer(
            point_embeddings=tokens,
            image_embeddings=seen.last_hidden_state + dense,
            image_positional_embeddings=places,
            attention_similarity=None,
        )
        low = image[0].transpose(1, 2).reshape(seen.last_hidden_state.shape)
        low = own.activation(own.upscale_layer_norm(own.upscale_conv1(low)))
        low = own.activation(own.upscale_conv2(low))
        high = own.mask_conv2(own.activation(own.mask_norm(own.mask_conv1(low)))) + fine
        quality = own.iou_prediction_head(hidden[0, 0, 0])
        finer = torch.einsum("c,chw->hw", own.hq_mask_mlp(hidden[0, 0, 5]), high[0])
        every = torch.stack(
            [torch.einsum("c,chw->hw", own.output_hypernetworks_mlps[i](hidden[0, 0, 1 + i]), low[0]) for i in range(4)]
        )
        chosen = [0] if single else sorted((1, 2, 3), key=lambda i: -float(quality[i]))
        qualities.append(quality[chosen])
        masks.append(every[chosen] + finer)
    return torch.stack(qualities), torch.stack(masks)


@pytest.mark.parametrize("single", [False, True], ids=["three masks", "one mask"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_prompts_are_answered_as_by_their_own_program(
    model: ForeignModel, embedding: Embedding, seen: Any, asked: dict[str, np.ndarray], single: bool
) -> None:
    quality, logits = ours(model, embedding, single, **asked)
    expected_quality, expected = theirs(model, seen, embedding, single, **asked)
    assert logits.shape == (3, 1 if single else 3, *model.cells)
    assert expected.std() > 1e-3 and (expected[0] - expected[1]).abs().max() > 1e-3  # prompts matter
    scale = float(expected.abs().max())
    torch.testing.assert_close(quality, expected_quality, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("single", [False, True], ids=["three masks", "one mask"])
def test_a_mask_is_a_prompt_too(model: ForeignModel, embedding: Embedding, seen: Any, single: bool) -> None:
    """Within 1e-4 of the largest logit: masks are convolved together here, one by one there (6.6e-5 was measured)."""
    rng = np.random.default_rng(3)
    masks = rng.normal(0, 5, (3, *model.cells)).astype(np.float32)
    prompted = {"points": POINTS[:, :1], "labels": LABELS[:, :1]}
    quality, logits = ours(model, embedding, single, masks=masks, **prompted)
    alone_quality, alone = ours(model, embedding, single, masks=masks[2:])
    for i in range(3):
        asked = {key: value[i : i + 1] for key, value in prompted.items()}
        expected_quality, expected = theirs(model, seen, embedding, single, masks=masks[i : i + 1], **asked)
        scale = float(expected.abs().max())
        torch.testing.assert_close(quality[i : i + 1], expected_quality, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[i : i + 1], expected, rtol=1e-5, atol=1e-4 * scale)
    expected_quality, expected = theirs(model, seen, embedding, single, masks=masks[2:])
    torch.testing.assert_close(alone_quality, expected_quality, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["sam2", "sam3_tracker"])
def test_the_one_mask_is_the_networks_own_where_it_is_stable_and_else_the_best_of_three(name: str) -> None:
    network = perturbed(NARROW[name])
    model = ForeignModel(network)
    image = np.random.default_rng(5).integers(0, 256, (48, 80, 3), np.uint8)
    embedding = model.encode(image)
    points = np.random.default_rng(6).uniform(0, 48, (11, 1, 2))
    asked = {"points": points, "labels": np.ones((11, 1), np.int64)}
    own = network.mask_decoder
    own.dynamic_multimask_via_stability = False
    _, plain = ours(model, embedding, True, **asked)
    own.dynamic_multimask_via_stability = True
    delta = own.dynamic_multimask_stability_delta
    stable = (plain > delta).sum(dim=(1, 2, 3)) / (plain > -delta).sum(dim=(1, 2, 3)).clip(min=1)
    own.dynamic_multimask_stability_thresh = float(stable.sort().values[5])  # so that both happen
    seen = list(network.get_image_embeddings(model.pixels(image)[0]))
    quality, logits = ours(model, embedding, True, **asked)
    expected_quality, expected = theirs(model, seen, embedding, True, **asked)
    kept = (logits == plain).flatten(1).all(dim=1)
    assert kept.any() and not kept.all()
    torch.testing.assert_close(quality, expected_quality, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_transformers_own_hq_masks_are_made_from_the_picture_before_the_decoder() -> None:
    """Why HQ-SAM follows its authors: fed what transformers feeds to it, our last step gives transformers' masks."""
    network = perturbed(NARROW["sam_hq"])
    model = ForeignModel(network)
    image = np.random.default_rng(5).integers(0, 256, (48, 80, 3), np.uint8)
    embedding = model.encode(image)
    tokens, _ = model.prompts(embedding, points=POINTS[:1, :1], labels=LABELS[:1, :1])
    ((_, answer),) = model.answer(model.shared(embedding), tokens)
    nothing = network.prompt_encoder(None, None, torch.zeros(1, 1, 4), None)[1]
    before = (embedding.features + nothing).transpose(2, 3).flatten(2).transpose(1, 2)
    with torch.inference_mode():
        wrong = model.sam.upscale(before, answer.tokens, *embedding.maps)[:, 1:]
        out = network(
            pixel_values=model.pixels(image)[0],
            input_points=torch.tensor(model.placed(POINTS[:1, :1], embedding)).float()[None],
            input_labels=torch.tensor(LABELS[:1, :1])[None],
        )
    order = answer.order
    torch.testing.assert_close(answer.quality, out.iou_scores[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wrong[:, order[0]], out.pred_masks[0], rtol=1e-4, atol=1e-4)


def test_families_are_told_by_the_class_of_a_network() -> None:
    for name, make in NARROW.items():
        assert family_of(make()) is FAMILIES[name]
    with pytest.raises(BadUsage, match=r"SamHQModel.* is needed: got Linear"):
        family_of(torch.nn.Linear(2, 3))
