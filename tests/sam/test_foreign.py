import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.errors import BadInput, BadUsage, BadWeights, MissingExtra, MissingWeights
from ovseg.sam import cache
from ovseg.sam.families import IMAGENET
from ovseg.sam.foreign import ForeignModel, model_type, open_folder, transformers
from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.model import MaskModel
from ovseg.sam.prompted import prompted
from tests.sam.hub import NARROW, perturbed
from tests.sam.narrow import narrow_sam


@pytest.fixture(scope="module", params=NARROW)
def model(request: pytest.FixtureRequest) -> ForeignModel:
    return ForeignModel(perturbed(NARROW[request.param]))


@pytest.fixture(scope="module")
def sam2() -> ForeignModel:
    return ForeignModel(perturbed(NARROW["sam2"]))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, sam2: ForeignModel) -> Path:
    sam2.network.save_pretrained(tmp_path)
    return tmp_path


def saved(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The folder with some tensors changed or (None) left out."""
    state = load_file(folder / "model.safetensors")
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("shape", [(48, 80, 3), (301, 77, 3), (5, 3, 3)])
def test_squeezed_pixels_are_those_of_transformers_processor(sam2: ForeignModel, shape: tuple[int, int, int]) -> None:
    from transformers import Sam2ImageProcessor

    image = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    expected = Sam2ImageProcessor(size={"height": 256, "width": 256})(image, return_tensors="pt").pixel_values
    pixels, kept = sam2.pixels(image)
    assert kept == (256, 256)
    torch.testing.assert_close(pixels, expected, rtol=1e-5, atol=1e-5)


def test_sam_3s_pixels_are_those_of_transformers_processor(image: np.ndarray) -> None:
    from transformers import Sam3ImageProcessor

    expected = Sam3ImageProcessor(size={"height": 112, "width": 112})(image, return_tensors="pt").pixel_values
    pixels, _ = ForeignModel(perturbed(NARROW["sam3_tracker"])).pixels(image)
    torch.testing.assert_close(pixels, expected, rtol=1e-5, atol=1e-5)


def test_hq_pixels_are_segment_anythings(image: np.ndarray) -> None:
    """Padded right and below; transformers' processor differs by its resize alone, by a few of 255 levels."""
    from segment_anything import SamPredictor

    model, sam = ForeignModel(perturbed(NARROW["sam_hq"])), narrow_sam()
    pixels, kept = model.pixels(image)
    predictor = SamPredictor(sam)
    resized = predictor.transform.apply_image(image)
    expected = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1))[None]
    assert kept == resized.shape[:2] == (154, 256)
    torch.testing.assert_close(pixels, expected, rtol=1e-5, atol=1e-5)


def test_coordinates_land_where_the_picture_lies_in_the_square(model: ForeignModel, image: np.ndarray) -> None:
    embedding = model.encode(image)
    corners = np.array([[0.0, 0.0], [80.0, 48.0], [40.0, 12.0]])
    rows = model.side if model.family.squeezed else 154  # 256 * 48 / 80, rounded
    wanted = [[0, 0], [model.side, rows], [model.side / 2, rows / 4]]
    assert model.placed(corners, embedding).tolist() == wanted


def test_a_squeezed_mask_is_stretched_once_as_transformers_does_it(sam2: ForeignModel, image: np.ndarray) -> None:
    from transformers import Sam2ImageProcessor

    embedding = sam2.encode(image[:, :33])
    low = torch.randn(1, 1, *sam2.cells, generator=torch.Generator().manual_seed(0))  # noise tells one step from two
    cut = sam2.stretch(embedding).cut(low[0, 0].numpy(), 0.0, 0.2)
    (expected,) = Sam2ImageProcessor().post_process_masks([low], [(48, 33)])
    frame = np.zeros((48, 33), bool)
    frame[cut.top : cut.top + cut.bits.shape[1], cut.left : cut.left + cut.bits.shape[0]] = cut.bits.T
    assert 0 < frame.sum() < frame.size
    assert (frame == expected[0, 0].numpy()).all()


@pytest.mark.parametrize("mode", ["exact", "coarse", "adaptive"])
def test_the_generator_runs_every_family(model: ForeignModel, image: np.ndarray, mode: str) -> None:
    generator = AutomaticMaskGenerator(
        model, mode=mode, points_per_side=4, pred_iou_thresh=-1.0, stability_score_thresh=0.0, box_nms_thresh=0.9
    )
    regions, asked = generator.regions(image)
    again, _ = generator.regions(image, model.encode(image))
    assert (regions.height, regions.width) == (48, 80)
    assert asked.points == 16 and len(regions) > 0
    assert regions.rles == again.rles


def test_a_record_of_the_grid_is_the_prompts_own_mask(model: ForeignModel, image: np.ndarray) -> None:
    generator = AutomaticMaskGenerator(
        model, points_per_side=2, pred_iou_thresh=-1.0, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    records = generator.generate(image)
    embedding = model.encode(image)
    for record in records:
        point = np.array([record["point_coords"]])
        found = prompted(model, embedding, points=point, labels=np.ones((1, 1), np.int64), every=True)
        place = int(np.abs(found.quality[0] - record["predicted_iou"]).argmin())
        assert (found.masks[0, place] != record["segmentation"]).mean() < 0.01


def test_prompts_give_regions_and_each_its_own(model: ForeignModel, image: np.ndarray) -> None:
    embedding = model.encode(image)
    points = np.random.default_rng(1).uniform(1, 47, (6, 1, 2))
    labels = np.ones((6, 1), np.int64)
    every = prompted(model, embedding, points=points, labels=labels)
    assert len(every.regions) == 6
    for i in range(6):
        alone = prompted(model, embedding, points=points[i : i + 1], labels=labels[i : i + 1])
        np.testing.assert_allclose(alone.logits[0], every.logits[i], rtol=1e-4, atol=1e-4)
    boxes = np.array([[3.0, 4.0, 30.0, 40.0]])
    assert len(prompted(model, embedding, boxes=boxes).regions) == 1
    previous = every.logits[:1, 0]
    assert prompted(model, embedding, points=points[:1], labels=labels[:1], masks=previous).masks.shape == (
        1,
        1,
        48,
        80,
    )


def test_an_embedding_is_saved_with_its_finer_maps(model: ForeignModel, image: np.ndarray, tmp_path: Path) -> None:
    embedding = model.encode(image)
    back = cache.load(cache.save(embedding, model, tmp_path / "picture.safetensors"), model)
    assert len(back.maps) == len(embedding.maps) > 0
    assert all((one == two).all() for one, two in zip(embedding.maps, back.maps, strict=True))
    assert back.nbytes == embedding.nbytes > 4 * embedding.features.numel()
    bare = type(embedding)(embedding.features, 48, 80, embedding.kept)
    with pytest.raises(BadInput, match=f"with {len(embedding.maps)} finer maps: got 0"):
        model.fits(bare, 48, 80)


@pytest.mark.parametrize("name", NARROW)
def test_a_folder_of_the_hub_is_the_network_that_was_saved(name: str, image: np.ndarray, tmp_path: Path) -> None:
    network = perturbed(NARROW[name])
    network.half().save_pretrained(tmp_path)
    expected = ForeignModel(network.float()).encode(image)
    model = open_folder(tmp_path)
    assert {value.dtype for value in model.network.parameters()} == {torch.float32}
    actual = model.encode(image)
    for one, two in zip((expected.features, *expected.maps), (actual.features, *actual.maps), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    assert model.digest == open_folder(tmp_path).digest


def test_a_films_network_is_opened_for_pictures(folder: Path, image: np.ndarray, capsys: Any) -> None:
    """facebook/sam2.1-hiera-* say sam2_video, and hold the parts that remember earlier pictures too."""
    told = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**told, "model_type": "sam2_video"}), "utf-8")
    saved(folder, **{"memory_encoder.projection.weight": torch.zeros(2)})
    assert model_type(folder) == "sam2_video"
    assert open_folder(folder).encode(image).features.isfinite().all()
    assert capsys.readouterr() == ("", "")


def test_mean_and_spread_are_read_if_a_folder_tells_them(folder: Path, image: np.ndarray) -> None:
    plain, _ = open_folder(folder).pixels(image)
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told), "utf-8")
    own, _ = open_folder(folder).pixels(image)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = plain * spread + mean
    expected = (pixels - torch.tensor(told["image_mean"]).view(3, 1, 1)) / torch.tensor(told["image_std"]).view(3, 1, 1)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_missing_and_misshapen_tensors_are_named(folder: Path) -> None:
    saved(folder, **{"no_memory_embedding": None, "mask_decoder.iou_token.weight": torch.zeros(1, 9)})
    with pytest.raises(BadWeights) as error:
        open_folder(folder)
    for words in (
        "1 missing (no_memory_embedding)",
        "1 of another shape (mask_decoder.iou_token.weight (1, 9) for (1, 32))",
        str(folder),
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("left", [0, 8, 5000], ids=["empty", "length alone", "half"])
def test_a_damaged_file_is_a_sentence(folder: Path, left: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(BadWeights, match=r"model.safetensors in .* is damaged \(.*\); fetch it again"):
        open_folder(folder)


@pytest.mark.parametrize(
    "told",
    ["{", "[1]", '{"image_mean": [0.5], "image_std": [0.5]}', '{"image_mean": [0, 0, 0], "image_std": [1, 1, 0]}'],
)
def test_mean_and_spread_that_are_none_are_a_sentence(folder: Path, told: str) -> None:
    (folder / "preprocessor_config.json").write_text(told, "utf-8")
    with pytest.raises(BadWeights, match=r"preprocessor_config.json in .* tells no mean and spread"):
        open_folder(folder)


def test_another_mean_is_another_network_to_the_cache(sam2: ForeignModel, image: np.ndarray) -> None:
    other = ForeignModel(sam2.network, pixels=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    same = ForeignModel(sam2.network, pixels=tuple(list(row) for row in IMAGENET))
    assert cache.key_of(sam2, image) == cache.key_of(same, image) != cache.key_of(other, image)


def test_folders_that_are_none_get_a_sentence(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match="model.safetensors is needed"):
        open_folder(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), "utf-8")
    with pytest.raises(BadWeights, match=r"\(sam, sam_hq, sam2, .*\) is needed: .* says llama"):
        open_folder(folder)
    (folder / "config.json").write_text("[1]", "utf-8")
    with pytest.raises(BadWeights, match="says nothing"):
        open_folder(folder)
    (folder / "config.json").write_text("{", "utf-8")
    with pytest.raises(BadWeights, match="is no JSON"):
        open_folder(folder)
    with pytest.raises(MissingWeights, match="has no config.json"):
        open_folder(tmp_path / "nowhere")


def test_without_the_extra_the_line_that_installs_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install \"ovseg\[hf\]\""):
        transformers()
    with pytest.raises(MissingExtra):
        open_folder(folder)


def test_other_runtimes_and_half_precision_are_refused(sam2: ForeignModel) -> None:
    network = sam2.network
    with pytest.raises(BadUsage, match="run by torch in float32: got openvino in float32"):
        ForeignModel(network, runtime="openvino")
    with pytest.raises(BadUsage, match="got torch in bfloat16"):
        ForeignModel(network, precision="bfloat16")
    with pytest.raises(BadUsage, match="SAM needs float32: this network is in float16"):
        ForeignModel(perturbed(NARROW["sam2"]).half())


def test_a_foreign_model_is_a_mask_model(sam2: ForeignModel) -> None:
    assert isinstance(sam2, MaskModel)
    assert sam2.digest != ForeignModel(perturbed(NARROW["sam2"], seed=1)).digest
    assert AutomaticMaskGenerator(sam2).model is sam2
