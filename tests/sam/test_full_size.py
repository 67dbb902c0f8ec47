"""Networks of the published sizes with random weights, against segment-anything; and pictures of odd sizes."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam

from ovseg.sam import AutomaticMaskGenerator
from ovseg.sam.cache import Embeddings, load, save
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.networks import KINDS, build
from tests.sam.narrow import narrow_sam
from tests.sam.stubs import Scene, stubs
from tests.sam.test_grid import ALL, same

SIZE = (120, 200)
OPTIONS: dict[str, Any] = {"points_per_side": 4, "points_per_batch": 16, "output_mode": "coco_rle"}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Seen:
    """A network in full size that has seen a picture: once, since that is most of the time."""

    sam: Sam
    model: MaskModel
    image: np.ndarray
    embedding: Embedding

    def theirs(self, **options: Any) -> list[dict[str, Any]]:
        """segment-anything's records."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.sam.image_encoder, "forward", lambda pixels: self.embedding.features)
            records: list[dict[str, Any]] = SamAutomaticMaskGenerator(self.sam, **OPTIONS, **options).generate(
                self.image
            )
        return records


@pytest.fixture(scope="module", params=["vit_b", "vit_t"])
def seen(request: pytest.FixtureRequest) -> Seen:
    """Numbers in every parameter, and masks of every quality."""
    torch.manual_seed(0)
    sam = build(KINDS[request.param]).eval().requires_grad_(False)
    for parameter in sam.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    model, image = MaskModel(sam), picture(*SIZE)
    return Seen(sam, model, image, model.encode(image))


@pytest.mark.slow
def test_records_of_a_network_in_full_size_are_segment_anythings(seen: Seen) -> None:
    every = seen.theirs(**ALL)
    order = sorted((record["predicted_iou"] for record in every), reverse=True)
    cuts = {0: order[0] + 1, 9: (order[8] + order[9]) / 2, 48: order[-1] / 2}
    for kept, cut in cuts.items():
        options = {**ALL, "pred_iou_thresh": cut}
        theirs = seen.theirs(**options)
        assert len(theirs) == kept
        same(theirs, AutomaticMaskGenerator(seen.model, **OPTIONS, **options).generate(seen.image, seen.embedding))


@pytest.mark.slow
def test_the_embedding_is_the_predictors(seen: Seen) -> None:
    predictor = SamPredictor(seen.sam)
    predictor.set_image(seen.image)
    assert (predictor.features == seen.embedding.features).all()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other libraries share out sums by thread")
def test_one_thread_and_four_give_the_same_masks(seen: Seen) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            generator = AutomaticMaskGenerator(seen.model, **OPTIONS, **ALL)
            found.append(generator.generate(seen.image, seen.embedding))
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) == 48
    same(*found)


def test_a_kept_or_reloaded_embedding_gives_the_same_records(tmp_path: Path) -> None:
    sam = narrow_sam()
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    model, image, kept = MaskModel(sam), picture(48, 80), Embeddings()
    generator = AutomaticMaskGenerator(model, **OPTIONS, **ALL)
    fresh = generator.generate(image)
    assert len(fresh) == 48
    for _ in range(2):
        same(fresh, generator.generate(image, kept.get(model, image)))
    same(fresh, generator.generate(image, load(save(kept.get(model, image), model, tmp_path / "e"), model)))


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_sizes_are_answered_as_by_segment_anything(size: tuple[int, int]) -> None:
    sam, stub = stubs(Scene(*size, grid=4))
    options = {**OPTIONS, **ALL}
    theirs = SamAutomaticMaskGenerator(sam, **options).generate(picture(*size))
    assert theirs
    same(theirs, AutomaticMaskGenerator(stub, **options).generate(picture(*size)))


@pytest.mark.slow
def test_twelve_million_pixels_are_answered_as_by_segment_anything() -> None:
    sam, stub = stubs(Scene(3000, 4000, grid=4))
    image = np.zeros((3000, 4000, 3), np.uint8)
    options = {**OPTIONS, "points_per_batch": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    theirs = SamAutomaticMaskGenerator(sam, **options).generate(image)
    assert len(theirs) > 10
    same(theirs, AutomaticMaskGenerator(stub, **options).generate(image))


def test_a_picture_too_narrow_for_segment_anything_is_answered() -> None:
    sam = narrow_sam()  # 256 px: of 3 rows of 2000 px none is left
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    image = picture(3, 2000)
    with pytest.raises(ValueError, match="height and width must be > 0"):
        SamAutomaticMaskGenerator(sam, **OPTIONS, **ALL).generate(image)
    records = AutomaticMaskGenerator(sam, **OPTIONS, **ALL).generate(image)
    assert len(records) == 48
    assert all(record["segmentation"]["size"] == [3, 2000] for record in records)
