"""The report on the tiny SAM: its scenes, its sums against a slow count, its way through segment-anything."""

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("report_sam")


@pytest.fixture(scope="module")
def scenes(report: ModuleType) -> list[Any]:
    return report.sheets(3, 2)


def masks(seed: int, count: int, pixels: int = 48 * 80) -> np.ndarray:
    """Runs of pixels, of sizes from a few to half of them."""
    rng = np.random.default_rng(seed)
    out = np.zeros((count, pixels), bool)
    for row in out:
        start = int(rng.integers(pixels // 2))
        row[start : start + int(rng.integers(5, pixels // 2))] = True
    return out


def test_iou_is_what_counting_gives(report: ModuleType) -> None:
    ones, others = masks(0, 3), masks(1, 4)
    slow = [[(one & other).sum() / (one | other).sum() for other in others] for one in ones]
    np.testing.assert_allclose(report.ious(ones, others), slow, rtol=1e-6)
    assert report.ious(ones, np.zeros((0, ones.shape[1]), bool)).shape == (3, 0)


def test_recall_is_what_counting_gives(report: ModuleType) -> None:
    """Two pictures, one of them without proposals; the right mask comes eleventh, so ten do not reach it."""
    truths, others = masks(2, 3), masks(3, 10)
    proposals = np.concatenate([others, truths[:1]])
    lost = np.zeros((2, truths.shape[1]), bool)
    lost[0, 7:47] = lost[1, 100:900] = True  # a small one and a large one
    scenes = [(None, truths), (None, lost)]
    best, ten, hundred, small, large = report.recall(scenes, [proposals, np.zeros((0, lost.shape[1]), bool)])
    table = report.ious(truths, proposals)
    reached = np.concatenate([table.max(1), np.zeros(2)])
    assert best == pytest.approx(reached.mean(), rel=1e-5)
    assert hundred == pytest.approx(np.mean([reached >= cut for cut in np.arange(0.5, 0.96, 0.05) - 1e-9]), rel=1e-5)
    early = np.concatenate([table[:, :10].max(1), np.zeros(2)])
    assert ten == pytest.approx(np.mean([early >= cut for cut in np.arange(0.5, 0.96, 0.05) - 1e-9]), rel=1e-5)
    assert ten < hundred
    area = np.concatenate([truths.mean(1), lost.mean(1)])
    parts = [(area < report.SMALL).sum() * small, (area >= report.SMALL).sum() * large]
    assert sum(parts) / 5 == pytest.approx(hundred, rel=1e-5)


def test_ranks_do_not_mind_the_scale(report: ModuleType) -> None:
    assert report.ranks(np.array([0.3, -5.0, 100.0])).tolist() == [1, 0, 2]


def test_prompts_ask_for_every_truth(report: ModuleType, scenes: list[Any]) -> None:
    """A network that answers with the truth itself scores 1; a picture's prompts are inside and around its truths."""
    asked: list[dict[str, Any]] = []
    truths = [truth for _, masks in scenes for truth in masks]

    def predict(multimask_output: bool, **prompt: Any) -> Any:
        truth = truths[len(asked) // 4].reshape(256, 256)
        asked.append(prompt)
        return np.stack([truth] * (3 if multimask_output else 1)), np.full(3, 0.5), None

    found = report.prompted(SimpleNamespace(set_image=lambda picture: None, predict=predict), scenes, 0)
    assert (found["point"] == 1).all() and (found["box"] == 1).all()
    assert found["point"].shape == (len(truths), 4) and found["told"].shape == (len(truths), 3)
    for number, truth in enumerate(truths):
        (x, y), box = asked[4 * number]["point_coords"][0], asked[4 * number + 2]["box"]
        square = truth.reshape(256, 256)
        assert square[y, x]
        assert square[box[1] : box[3], box[0] : box[2]].sum() == truth.sum()
        assert square[box[1], box[0] : box[2]].any() and square[box[3] - 1, box[0] : box[2]].any()


def test_the_networks_masks_come_best_first(
    report: ModuleType, scenes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = report.GENERATOR | {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    monkeypatch.setattr(report, "GENERATOR", loose | {"box_nms_thresh": 1.0})
    program = importlib.import_module("train_sam")
    sam = program.first_weights(1).eval()
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
        found = report.by_sam(sam)(scenes[0][0].picture)
        records = SamAutomaticMaskGenerator(sam, **report.GENERATOR).generate(scenes[0][0].picture)
        told = np.array([record["predicted_iou"] for record in records])
        assert len(found) == len(records) > 3
        assert (found[0] == records[told.argmax()]["segmentation"].ravel()).all()
        assert (found[-1] == records[told.argmin()]["segmentation"].ravel()).all()
        predictor = SamPredictor(sam)
        results = report.prompted(predictor, scenes[:1], 0)
    assert results["box"].shape == (len(scenes[0][1]), 4)


def test_segments_are_largest_first(report: ModuleType, scenes: list[Any]) -> None:
    sizes = report.by_leaves(scenes[0][0].picture).sum(1)
    assert len(sizes) > 1 and (np.diff(sizes) <= 0).all()


def test_twenty_pictures_can_be_looked_at(report: ModuleType, scenes: list[Any], tmp_path: Path) -> None:
    report.look(scenes * 7, [truths for _, truths in scenes] * 7, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["look_0.png", "look_1.png"]
