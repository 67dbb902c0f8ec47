import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor

from ovseg.errors import BadUsage, BadWeights, MissingDevice, MissingWeights, UnknownName
from ovseg.sam import load as room
from ovseg.sam import networks
from ovseg.sam.foreign import ForeignModel
from ovseg.sam.load import load, load_model
from ovseg.sam.model import MaskModel
from ovseg.sam.networks import KINDS
from tests.sam.hub import NARROW as NARROW_OF_THE_HUB
from tests.sam.hub import perturbed
from tests.sam.narrow import NARROW, narrow_sam


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (room, networks):
        monkeypatch.setattr(module, "KINDS", {**KINDS, "narrow": NARROW})


def saved(folder: Path, **changes: torch.Tensor | None) -> Path:
    """A checkpoint of the narrow SAM with some tensors changed, added, or (None) left out."""
    state = {key: value.contiguous() for key, value in narrow_sam().state_dict().items()}
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    save_file(state, folder / "sam.safetensors")
    return folder / "sam.safetensors"


def test_a_loaded_network_answers_as_the_saved_one(narrow: None, tmp_path: Path) -> None:
    saved_sam, loaded = narrow_sam(), load(saved(tmp_path))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    image = torch.randint(0, 256, (48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    answers = []
    for sam in (saved_sam, loaded):
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        answers.append(predictor.predict(torch.tensor([[30, 20]]).numpy(), torch.tensor([1]).numpy())[1:])
    for expected, actual in zip(*answers, strict=True):
        assert (expected == actual).all()


def test_half_precision_files_are_run_in_float32(narrow: None, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({key: value.half().contiguous() for key, value in narrow_sam().state_dict().items()}, path)
    assert {p.dtype for p in load(path).parameters()} == {torch.float32}


def test_missing_unexpected_and_misshapen_tensors_are_named(narrow: None, tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        **{
            "mask_decoder.iou_token.weight": None,
            "mask_decoder.other_token.weight": torch.zeros(1, 32),
            "image_encoder.neck.0.weight": torch.zeros(7, 24, 1, 1),
        },
    )
    with pytest.raises(BadWeights) as error:
        load(path)
    for words in (
        "1 missing (mask_decoder.iou_token.weight)",
        "1 unexpected (mask_decoder.other_token.weight)",
        "1 of another shape (image_encoder.neck.0.weight (7, 24, 1, 1) for (32, 24, 1, 1))",
        str(path),
    ):
        assert words in str(error.value)


def test_a_file_of_another_kind_is_refused_by_its_name(narrow: None, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="SAM vit_b is needed: .* holds narrow"):
        load(saved(tmp_path), "vit_b")


def test_other_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(2, 3)}, path)
    with pytest.raises(BadWeights, match=r"1 tensors of something else \(visual.proj\)"):
        load(path)
    with pytest.raises(BadWeights, match="SAM vit_b needs its own 314 tensors: .* 314 missing"):
        load(path, "vit_b")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("image_encoder.features.3.token_mixer.0.conv.c.weight", "EdgeSAM, .*licence .*mobile-sam"),
        ("pe.not_a_point_embed.weight", "OV-SAM, .*licence"),
        ("model.22.proto.cv1.conv.weight", "FastSAM .*AGPL-3.0"),
        ("model.model.4.m.0.cv1.conv.weight", "FastSAM .*AGPL-3.0"),
        ("mask_decoder.hf_mlp.layers.0.weight", "HQ-SAM as its authors save it; .*transformers"),
        ("image_encoder.trunk.blocks.0.attn.qkv.weight", "SAM 2 as Meta saves it; .*transformers"),
        ("sam_mask_decoder.iou_token.weight", "SAM 2 as Meta saves it"),
        ("detector.backbone.vision_backbone.trunk.pos_embed", "SAM 3 as Meta saves it"),
    ],
)
def test_other_families_are_told_by_name_with_the_reason(key: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(2, 3)}, path)
    with pytest.raises(BadWeights, match=words):
        load(path)


def test_a_pickled_yolo_is_told_without_being_opened(tmp_path: Path) -> None:
    path = tmp_path / "FastSAM-s.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("FastSAM-s/data.pkl", b"\x80\x02cultralytics.nn.tasks\nSegmentationModel\nq\x00.")
    with pytest.raises(BadWeights, match="FastSAM .*AGPL-3.0"):
        load(path, allow_pickle=True)


def test_a_file_of_the_hub_is_the_same_network_under_other_names(narrow: None, tmp_path: Path) -> None:
    """transformers' own class makes the names; its answer is segment-anything's up to its norms' other epsilon."""
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1],
            "image_size": 256, "window_size": 8, "output_channels": 32, "mlp_dim": 96, "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 256, "image_embedding_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = SamModel(config).eval().requires_grad_(False)
    for parameter in theirs.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    sam = load(tmp_path)
    pixels = torch.randn(1, 3, 256, 256)
    points = torch.tensor([[[[30.0, 70.0], [200.0, 9.0]], [[5.0, 6.0], [7.0, 250.0]]]])
    labels = torch.tensor([[[1, 0], [0, 1]]])
    expected = theirs(pixel_values=pixels, input_points=points, input_labels=labels)
    features = sam.image_encoder(pixels)
    sparse, dense = sam.prompt_encoder(points=(points[0], labels[0]), boxes=None, masks=None)
    masks, quality = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    torch.testing.assert_close(masks, expected.pred_masks[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(quality, expected.iou_scores[0], rtol=1e-3, atol=1e-4)


def test_bad_calls_get_a_sentence(narrow: None, tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(UnknownName, match="kind of SAM must be one of .*vit_b.*: got 'vit_x'"):
        load(path, "vit_x")
    with pytest.raises(MissingDevice):
        load(path, device="cuda:99")
    with pytest.raises(MissingWeights):
        load(tmp_path / "nowhere.safetensors")
    torch.save(narrow_sam().state_dict(), tmp_path / "sam.pth")
    with pytest.raises(BadWeights, match="pickle"):
        load(tmp_path / "sam.pth")
    assert load(tmp_path / "sam.pth", allow_pickle=True).image_encoder.img_size == 256


def test_any_backend_gets_the_face_of_a_mask_model_by_its_path(narrow: None, tmp_path: Path) -> None:
    image = torch.randint(0, 256, (48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    expected = MaskModel(narrow_sam())
    own = load_model(saved(tmp_path))
    assert own.digest == expected.digest and own.computed == expected.computed
    assert (own.encode(image).features == expected.encode(image).features).all()
    assert load_model(narrow_sam()).digest == expected.digest
    network = perturbed(NARROW_OF_THE_HUB["sam2"])
    network.save_pretrained(tmp_path / "hub")
    features = ForeignModel(network).encode(image).features
    for source in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors", network):
        found = load_model(source)
        assert isinstance(found, ForeignModel)
        assert (found.encode(image).features == features).all()


def test_what_load_model_cannot_do_is_said(narrow: None, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="a network that is open has its kind"):
        load_model(narrow_sam(), "vit_b")
    with pytest.raises(BadUsage, match="Linear"):
        load_model(torch.nn.Linear(2, 3))
    with pytest.raises(MissingWeights, match="has no config.json"):
        load_model(tmp_path)
    with pytest.raises(UnknownName, match="runtime"):
        load_model(saved(tmp_path), runtime="tensorrt")
    network = perturbed(NARROW_OF_THE_HUB["sam2"])
    network.save_pretrained(tmp_path / "hub")
    with pytest.raises(BadUsage, match="networks of transformers run by torch in float32"):
        load_model(tmp_path / "hub", runtime="openvino")
    with pytest.raises(BadUsage, match="says its family itself"):
        load_model(tmp_path / "hub", "vit_b")
