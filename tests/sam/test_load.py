from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry

from ovseg.errors import BadUsage, BadWeights, MissingDevice, MissingWeights, UnknownName
from ovseg.sam import load as room
from ovseg.sam.load import KINDS, build, kind_of, load, require_float32
from tests.sam.narrow import NARROW, narrow_sam


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "KINDS", {**KINDS, "narrow": NARROW})


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
def test_every_published_kind_has_the_tensors_of_segment_anythings_own_and_is_recognised(kind: str) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in sam_model_registry[kind]().state_dict().items()}
        ours = build(KINDS[kind]).state_dict()
    assert theirs == {key: value.shape for key, value in ours.items()}
    assert kind_of(ours) == kind


def test_the_tiny_kind_is_told_by_its_tensors_and_stays_tiny() -> None:
    with torch.device("meta"):
        state = build(KINDS["tiny"]).state_dict()
    assert kind_of(state) == "tiny"
    assert 2 * sum(value.numel() for value in state.values()) < 3e6  # bytes in half precision


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
            "mask_decoder.hf_token.weight": torch.zeros(1, 32),
            "image_encoder.neck.0.weight": torch.zeros(7, 24, 1, 1),
        },
    )
    with pytest.raises(BadWeights) as error:
        load(path)
    for words in (
        "1 missing (mask_decoder.iou_token.weight)",
        "1 unexpected (mask_decoder.hf_token.weight)",
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
    save_file({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(2, 3)}, path)
    with pytest.raises(BadWeights, match="vit_t"):
        load(path)
    with pytest.raises(BadWeights, match="vit_t"):
        load(path, "vit_b")


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


def test_only_float32_networks_with_sams_parts_are_run() -> None:
    sam = narrow_sam()
    assert require_float32(sam) is sam
    with pytest.raises(BadUsage, match="this network is in float16"):
        require_float32(sam.half())
    with pytest.raises(BadUsage, match="got Linear"):
        require_float32(torch.nn.Linear(2, 3))
