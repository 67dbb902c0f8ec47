"""The program that trains the tiny SAM: its walk is segment-anything's, its pictures' masks are exact, it learns."""

import argparse
import copy
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.sam.load import load

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("train_sam")


@pytest.fixture(scope="module")
def sam(program: ModuleType) -> Any:
    """Every parameter away from where it starts."""
    sam = program.first_weights(3).eval()
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return sam


@pytest.fixture(scope="module")
def sheets(program: ModuleType) -> list[Any]:
    painter = program.held_out_painter(1)
    return [painter.paint(256) for _ in range(12)]


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_walk_through_the_encoder_is_segment_anythings(program: ModuleType, sam: Any) -> None:
    pictures = pixels(2)
    theirs = sam.image_encoder((pictures.permute(0, 3, 1, 2) - sam.pixel_mean) / sam.pixel_std)
    torch.testing.assert_close(
        program.encode(sam.image_encoder, pictures), theirs.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_walk_through_the_decoder_is_segment_anythings(
    program: ModuleType, sam: Any, many: bool, masked: bool
) -> None:
    """Points and boxes, one prompt and two, with a former mask and without, pictures of different content."""
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(2, 3, 2, 3, generator=generator) * 250
    points[..., 2] = torch.tensor([1.0, 0.0])
    boxes = (torch.rand(2, 3, 4, generator=generator) * 250).sort(-1).values
    former = torch.randn(2, 6, 256, 16, generator=generator)
    image = program.encode(sam.image_encoder, pixels(2))
    where, what, _ = program.prompts_of(points, boxes, many)
    prompts = program.embed_prompts(sam.prompt_encoder, where, what)
    dense = program.embed_mask(sam.prompt_encoder, former) if masked else None
    features, weights, told = program.decode(sam, image, prompts, dense)
    logits = program.from_cell_order((features @ weights.transpose(-1, -2)).permute(0, 1, 3, 2).reshape(-1, 256, 16))
    logits = logits.view(2, 6, 4, 64, 64)
    for picture in range(2):
        low = program.from_cell_order(former[picture]).view(6, 1, 64, 64) if masked else None
        place, sort = points[picture, ..., :2], points[picture, ..., 2]
        used = slice(0, 2) if many else slice(0, 1)
        asks = (
            ((place[:, used], sort[:, used]), None),
            ((place[:, 1:], sort[:, 1:]) if many else None, boxes[picture]),
        )
        for half, (given, box) in enumerate(asks):
            rows = slice(3 * half, 3 * half + 3)
            sparse, spread = sam.prompt_encoder(given, box, low[rows] if low is not None else None)
            masks, scores = sam.mask_decoder.predict_masks(
                image[picture].T.view(1, -1, 16, 16), sam.prompt_encoder.get_dense_pe(), sparse, spread
            )
            torch.testing.assert_close(logits[picture, rows], masks, atol=2e-4, rtol=2e-4)
            torch.testing.assert_close(told[picture, rows], scores, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_a_fresh_network_looks_where_it_is_asked(program: ModuleType) -> None:
    """The encoding of a point is nearest to that of its own cell, in either cross attention."""
    sam = program.first_weights(0)
    centres = (torch.arange(16) + 0.5) / 16
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    cells = program.point_encoding(sam.prompt_encoder, torch.stack([columns, rows], -1).flatten(0, 1))
    for layer in sam.mask_decoder.transformer.layers:
        for look in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            asked = look.q_proj(cells[[37, 201]]) - look.q_proj.bias
            assert (asked @ (look.k_proj(cells) - look.k_proj.bias).T).argmax(1).tolist() == [37, 201]


@torch.no_grad()
def test_a_fresh_network_reads_patches_by_orthogonal_waves(program: ModuleType) -> None:
    rows = program.first_weights(0).image_encoder.patch_embed.proj.weight.flatten(1)
    rows = torch.nn.functional.normalize(rows, dim=1)
    assert (rows @ rows.T - torch.eye(len(rows))).abs().max() < 0.02


def test_cell_order_is_undone(program: ModuleType) -> None:
    low = np.arange(2 * 64 * 64).reshape(2, 64, 64)
    assert (program.from_cell_order(torch.from_numpy(program.in_cell_order(low))).numpy() == low).all()


def test_low_resolution_pixels_are_where_their_centres_say(program: ModuleType) -> None:
    x, y = program.low_centres()[3 * 16 + 6].tolist()  # cell (0, 3): columns 48..63; sub-pixel 6 = (0, 1) then (1, 0)
    assert (x, y) == (57.5, 5.5)


def test_masks_of_a_sheet_are_made_of_its_leaves_and_none_is_a_speck(program: ModuleType, sheets: list[Any]) -> None:
    for sheet in sheets:
        table = program.members(sheet.masks)
        areas = [int(row[sheet.leaves].sum()) for row in table]
        assert min(areas) >= 40
        assert set(np.unique(sheet.leaves)) <= set(range(64))
        assert sum(int(row[sheet.leaves].sum()) for row in table[: sheet.grounds]) <= 256**2
    assert any(len(set(map(int, sheet.masks))) > sheet.grounds + 1 for sheet in sheets)


def test_questions_are_about_the_masks_they_stand_for(program: ModuleType, sheets: list[Any]) -> None:
    """A mask made of its target, at a quarter of the resolution, holds the first point and the box's middle is near."""
    rng = np.random.default_rng(0)
    for sheet in sheets:
        targets, points, boxes = program.asked(rng, sheet.leaves, sheet.masks, sheet.grounds, 5)
        low = program.from_cell_order(torch.from_numpy(targets)).numpy()
        for target, (first, second), edges in zip(low, points, boxes, strict=True):
            for x, y, inside in (first, second):
                around = target[int(y) // 4, int(x) // 4]
                assert around > 0 if inside else around < 255
            assert first[2] == 1
            rows, columns = np.nonzero(target)
            size = np.array([np.ptp(columns) + 1, np.ptp(rows) + 1]) * 4
            seen = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) * 4
            assert (np.abs(edges - seen) <= 0.15 * np.tile(size, 2) + 4).all()


def test_a_sheet_without_masks_asks_nothing(program: ModuleType) -> None:
    leaves = np.full((256, 256), program.NO_LEAF, np.uint8)
    assert program.asked(np.random.default_rng(0), leaves, np.array([1, 2], np.uint64), 1, 3) is None


def test_variants_keep_masks_on_their_pixels(program: ModuleType) -> None:
    """Pixels whose colour says their leaf still say so after turning, cutting and padding."""
    sheet = np.zeros((256, 256, 4), np.uint8)
    sheet[40:90, 30:200] = (200, 200, 200, 5)
    rng = np.random.default_rng(4)
    agreed = []
    for _ in range(20):
        other = program.varied(rng, sheet)
        kept = other[..., 3] != program.NO_LEAF
        dark = other[..., 0].astype(int) < (int(other[..., 0][kept].max()) + int(other[..., 0][kept].min())) / 2
        agreed.append(np.mean(dark[kept] == (other[..., 3][kept] == 0)))
        assert (other[~kept][:, :3] == (124, 116, 104)).all()
    assert np.median(agreed) > 0.99


def test_losses_fall_to_nothing_for_the_answer_itself(program: ModuleType) -> None:
    target = (torch.rand(3, 4096, 1, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    right, wrong = (program.focal_and_dice(sign * 30 * (2 * target - 1), target) for sign in (1, -1))
    assert float(right.max()) < 1e-3 < 20 < float(wrong.min())
    assert (program.overlap(30 * (2 * target - 1), target[..., 0]) == 1).all()


def test_muon_steps_are_nearly_orthogonal_and_downhill(program: ModuleType) -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(6, 4)), torch.nn.Parameter(torch.zeros(4, 6))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape)
    program.Muon(parameters, decay=0.0).step(1.0)
    for parameter in parameters:
        values = torch.linalg.svdvals(parameter.detach()) / (0.2 * 6**0.5)
        assert (values > 0.6).all() and (values < 1.4).all()
        assert (parameter.detach() * parameter.grad).sum() < 0


def settings(program: ModuleType, folder: Path, **changes: Any) -> argparse.Namespace:
    given: dict[str, Any] = {
        "sheets": folder, "out": folder / "run", "export": folder, "minutes": 1e6, "steps": 6, "every": 1e6, "tell": 3,
        "seed": 0, "lr": 1e-3, "muon": 3.0, "fall": 0.5, "keep": 0.9, "pictures": 2, "masks": 2, "bf16": False,
        "compile": False, "resume": False, "workers": 0, "command": "none",
    }  # fmt: skip
    return argparse.Namespace(**(given | changes))


def test_a_run_stops_resumes_and_is_exported_as_a_file_that_load_opens(
    program: ModuleType, sheets: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = np.zeros((len(sheets), program.LEAVES), np.uint64)
    for row, sheet in zip(masks, sheets, strict=True):
        row[: len(sheet.masks)] = sheet.masks
    np.save(tmp_path / "0000.masks.npy", masks)
    np.save(tmp_path / "0000.grounds.npy", np.array([sheet.grounds for sheet in sheets], np.uint8))
    np.save(tmp_path / "0000.npy", np.stack([np.dstack([sheet.picture, sheet.leaves]) for sheet in sheets]))
    memories = []

    class Watched(program.Muon):  # type: ignore[misc,name-defined]
        def step(self, rate: float) -> None:
            memories.append(sum(float(memory.abs().sum()) for memory in self.memory.values()))
            super().step(rate)

    monkeypatch.setattr(program, "Muon", Watched)
    monkeypatch.setattr(program, "measure", lambda sam: {"point_best": 0.0})
    program.train(settings(program, tmp_path))
    program.train(settings(program, tmp_path, steps=9, resume=True))
    program.export(settings(program, tmp_path))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=False)
    assert state["state"]["step"] == 9 and state["state"]["seen"] == 18
    assert [point["seen"] for point in state["state"]["curve"] if "seen" in point] == [6, 12, 18]
    assert len(memories) == 9 and memories[0] == 0 and all(memory > 0 for memory in memories[1:])
    sam, record = load(tmp_path / "sam.safetensors"), json.loads((tmp_path / "sam_training.json").read_text())
    assert record["steps"] == 9 and len(record["calibration"]["told_iou"]) == 4
    scaled = ("iou_prediction_head.layers.2.", "hypernetworks_mlps", "mask_downscaling.0.")
    for name, value in sam.state_dict().items():
        if not any(part in name for part in scaled):
            torch.testing.assert_close(value, state["average"][name].half().float())


def test_calibration_changes_what_is_told_and_no_mask(program: ModuleType, sam: Any) -> None:
    """Logits are multiplied by one number, told IoUs are lines of themselves, a former mask is taken as it was."""
    before, sam, rng = sam, copy.deepcopy(sam), np.random.default_rng(3)
    sizes = ((2, program.SIDE, program.SIDE, 3), (2, 3, 256, 16), (2, 3, 2, 3), (2, 3, 4))
    pixels, targets, points, boxes = (torch.from_numpy(rng.uniform(1, 200, size)).float() for size in sizes)
    points[..., 2] = 1
    batch = [pixels.byte(), (targets > 150).byte() * 255, points, boxes.sort(-1).values]
    told = program.calibrate(sam, iter([batch] * 2), 2)
    where, what, _ = program.prompts_of(points, boxes, many=False)
    former, k = torch.randn(2, 6, 256, 16), told["logits_times"]
    answers = []
    for network, mask in ((before, former), (sam, former * k)):
        with torch.no_grad():
            image = program.encode(network.image_encoder, batch[0])
            dense = program.embed_mask(network.prompt_encoder, mask)
            tokens = program.embed_prompts(network.prompt_encoder, where, what)
            features, weights, iou = program.decode(network, image, tokens, dense)
        answers.append((features @ weights.transpose(-1, -2), iou))
    torch.testing.assert_close(answers[1][0], answers[0][0] * k, rtol=1e-3, atol=1e-3)
    lines = torch.tensor(told["told_iou"])
    torch.testing.assert_close(answers[1][1], answers[0][1] * lines[:, 0] + lines[:, 1], rtol=1e-3, atol=1e-3)
    assert k != 1
