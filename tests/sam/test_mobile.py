"""MobileSAM against the package of its authors' program, mobilesam-mirror, on random weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovseg.errors import BadWeights
from ovseg.sam.load import load
from ovseg.sam.mobile import MARK, UNUSED, TinyViTEncoder, renamed
from ovseg.sam.networks import KINDS, build


@pytest.fixture(scope="module")
def theirs() -> Any:
    with warnings.catch_warnings():  # it imports timm's parts from where they were, and registers its networks again
        warnings.simplefilter("ignore")
        from mobile_sam import sam_model_registry

        torch.manual_seed(0)
        network = sam_model_registry["vit_t"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
        network.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    network.train()  # its encoder keeps gathered biases for eval(), made from the ones before
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of MobileSAM's own names, 439 of them, as it is published."""
    state = {key: value.clone().contiguous() for key, value in theirs.state_dict().items()}
    assert len(state) == 439
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.safetensors"
    save_file(state, path)
    return path


def test_a_published_file_fills_every_tensor_of_ours_with_its_own(theirs: Any, checkpoint: Path) -> None:
    sam = load(checkpoint)
    state = sam.state_dict()
    own = renamed(theirs.state_dict())
    assert set(state) == set(own)
    assert all((state[key] == own[key]).all() for key in own)
    left_out = set(theirs.state_dict()) - {key for key in theirs.state_dict() if renamed({key: torch.zeros(1)})}
    assert len(left_out) == 4 and all(key.startswith(UNUSED) for key in left_out)
    assert all(buffer.device.type == "cpu" for buffer in sam.buffers())


def test_a_file_of_our_own_names_is_opened_too(checkpoint: Path, tmp_path: Path) -> None:
    sam = load(checkpoint)
    save_file({key: value.contiguous() for key, value in sam.state_dict().items()}, tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors").state_dict()
    assert all((again[key] == value).all() for key, value in sam.state_dict().items())


@pytest.mark.slow
def test_the_whole_way_is_theirs(theirs: Any, checkpoint: Path) -> None:
    """Picture to embedding to masks at 1024 px; 3.8e-6 was measured where values reach 3.6."""
    from mobile_sam import SamPredictor as Theirs
    from segment_anything import SamPredictor

    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    point, label = np.array([[30, 20]]), np.array([1])
    answers = []
    for predictor in (Theirs(theirs), SamPredictor(load(checkpoint))):
        predictor.set_image(image)
        answers.append((predictor.get_image_embedding(), *predictor.predict(point, label, return_logits=True)[1:]))
    for expected, actual in zip(*(map(torch.as_tensor, answer) for answer in answers), strict=True):
        assert expected.abs().max() > 0.1 and expected.std() > 1e-3
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_blocks_answer_as_theirs_on_a_smaller_map(theirs: Any) -> None:
    """All stages, mergings and windows without the cost of 1024 px: 224 px make maps of 56, 28, 14 and 14 cells."""
    from mobile_sam.modeling.tiny_vit_sam import TinyViT

    torch.manual_seed(1)
    small = TinyViT(224, 3, 10, [64, 128, 160, 320], [2, 2, 6, 2], [2, 4, 5, 10], [7, 7, 14, 7], drop_path_rate=0.0)
    state = theirs.image_encoder.state_dict()
    small.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")}, strict=False)
    small.train()
    small.eval()
    ours = TinyViTEncoder(224).eval()
    prefix = "image_encoder."
    own = renamed({prefix + key: value for key, value in state.items()})
    ours.load_state_dict({key.removeprefix(prefix): value for key, value in own.items()})
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = small.patch_embed(pixels)
        for layer in small.layers:
            expected = layer(expected)
        expected = small.neck(expected.view(2, 14, 14, 320).permute(0, 3, 1, 2))
        actual = ours(pixels)
    assert actual.shape == (2, 256, 14, 14)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_lacks_a_tensor_is_refused(checkpoint: Path, theirs: Any, tmp_path: Path) -> None:
    state = dict(theirs.state_dict())
    del state["image_encoder.layers.2.blocks.3.attn.attention_biases"]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "less.safetensors")
    with pytest.raises(BadWeights, match=r"1 missing \(image_encoder.stages.2.blocks.3.attn.attention_biases\)"):
        load(tmp_path / "less.safetensors")
    with pytest.raises(BadWeights, match="SAM vit_b is needed: .* holds vit_t"):
        load(checkpoint, "vit_b")


def test_the_mark_is_of_mobilesam_alone() -> None:
    with torch.device("meta"):
        assert [kind for kind, shape in KINDS.items() if MARK in build(shape).state_dict()] == []
