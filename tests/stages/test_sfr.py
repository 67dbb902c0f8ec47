from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from stage_scenes import unit

from ovseg.errors import BadInput, BadUsage
from ovseg.stages import sfr
from ovseg.stages.sfr import feedback, patch_labels


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_feedback_as_released_equals_the_published_program(golden_dense: Path, name: str) -> None:
    stored = load_file(golden_dense / "outputs" / "resclip.safetensors")
    got = feedback(stored[f"{name}.patch_labels"][0], compat=True)
    np.testing.assert_allclose(got, stored[f"{name}.sfr"][0, 1:, 1:], atol=1e-6)
    assert not stored[f"{name}.sfr"][0, 0].any() and not stored[f"{name}.sfr"][0, :, 0].any()


@pytest.mark.parametrize("name", ["native", "wide", "tall"])
def test_labels_of_patches_equal_the_published_program(golden_dense: Path, name: str) -> None:
    """From the tokens of the first pass (no feedback) to labels, on the stored normalised pixels."""
    inputs = load_file(golden_dense / "inputs.safetensors")
    first = load_file(golden_dense / "outputs" / "resclip_rcs.safetensors")[name]
    wanted = load_file(golden_dense / "outputs" / "resclip.safetensors")[f"{name}.patch_labels"]
    for pixels, tokens, labels in zip(inputs[name], first, wanted, strict=True):
        picture = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        cosines = np.ascontiguousarray((unit(tokens) @ inputs["text"].T).transpose(2, 0, 1))
        assert np.array_equal(patch_labels(picture, cosines), labels)
        assert not np.array_equal(patch_labels(picture, cosines, least=0.9), labels)


def slow(labels: np.ndarray, std: float) -> np.ndarray:
    """The rule cell by cell, every line walked to its end."""
    rows, cols = labels.shape
    places = [(r, c) for r in range(rows) for c in range(cols)]
    apart = [[max(abs(r - r2), abs(c - c2)) for r2, c2 in places] for r, c in places]
    longest = max(map(max, apart))
    out = np.zeros((len(places), len(places)))
    for i, (r, c) in enumerate(places):
        for j, (r2, c2) in enumerate(places):
            steps = apart[i][j]
            line = [(r, c)] + [
                (round(r + t * (r2 - r) / steps), round(c + t * (c2 - c) / steps)) for t in range(1, steps + 1)
            ]
            whole = all(labels[at] == labels[r, c] for at in line)
            if labels[r, c] == labels[r2, c2]:
                out[i, j] = 1 if whole else np.exp(-steps / longest)
    half = (min(len(places), int(6 * std + 1)) + 1) // 2
    taps = range(-half + 1, half) if min(len(places), int(6 * std + 1)) % 2 else range(-half, half + 1)
    kernel = {t: np.exp(-(t**2) / (2 * std**2)) for t in taps}
    total = sum(kernel.values())
    blurred = np.zeros_like(out)
    for j in range(len(places)):
        for t, weight in kernel.items():
            if 0 <= j + t < len(places):
                blurred[:, j] += weight / total * out[:, j + t]
    return blurred / blurred.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("std", "block"), [(5.0, 256), (1.0, 256), (0.4, 7), (20.0, 11)])
def test_feedback_is_the_rule_whatever_the_block(std: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfr, "BLOCK", block)
    labels = np.random.default_rng(3).integers(0, 2, (4, 7)).astype(np.int32)
    got = feedback(labels, std=std)
    np.testing.assert_allclose(got, slow(labels, std), atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


def test_a_gap_behind_the_first_steps_is_seen_and_was_not_as_released() -> None:
    """A line of one label with a gap at its fourth cell: from the left end, cells behind the gap are farther off."""
    labels = np.zeros((1, 12), np.int32)
    labels[0, 4] = 1
    ours, released = (feedback(labels, std=0.2, compat=compat) for compat in (False, True))
    assert ours[0, 5] < 0.9 * ours[0, 3]
    assert released[0, 5] == pytest.approx(released[0, 3], rel=1e-5)  # 5/11 of the line is tested: up to cell 2


def test_one_label_everywhere_has_one_weight_everywhere() -> None:
    """Away from the ends of the flattened index, where zeros come in."""
    got = feedback(np.full((6, 10), 3, np.int32), std=1.0)
    assert np.ptp(got[:, 5:-5]) < 1e-6
    assert np.ptp(got, axis=0).max() < 1e-6  # every cell has the same row
    assert feedback(np.zeros((0, 3), np.int32)).shape == (0, 0)
    assert feedback(np.zeros((1, 1), np.int32)).tolist() == [[pytest.approx(1)]]


def test_label_of_a_cell_is_its_pixels_mode_and_of_equals_the_smaller() -> None:
    """Without PAMR; cells of 2 x 3 px. torch's own mode is the reference."""
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 256, (10, 21, 3), np.uint8)
    cosines = 0.1 * rng.normal(size=(4, 5, 7)).astype(np.float32)
    got = patch_labels(picture, cosines, least=0.6, steps=0)
    large = torch.nn.functional.interpolate(torch.from_numpy(cosines)[None], (10, 21), mode="bilinear")[0]
    share, label = torch.softmax(40 * large, 0).max(0)
    label[share < 0.6] = 0
    wanted = label.unfold(0, 2, 2).unfold(1, 3, 3).reshape(5, 7, -1).mode(dim=-1)[0]
    assert np.array_equal(got, wanted.numpy()) and len(np.unique(got)) == 4
    assert not np.array_equal(got, patch_labels(picture, cosines, least=0.6))


def test_bad_calls_get_a_sentence() -> None:
    with pytest.raises(BadInput, match="11x21 px for 5x7 cells"):
        patch_labels(np.zeros((11, 21, 3), np.uint8), np.zeros((2, 5, 7), np.float32))
    with pytest.raises(BadUsage, match="got 0"):
        feedback(np.zeros((2, 3), np.int32), std=0.0)
