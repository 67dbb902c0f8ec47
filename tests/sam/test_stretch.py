import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

from ovseg.sam import stretch as room
from ovseg.sam.stretch import Axis, Cut, Stretch, stretch

SIZES = [(48, 80), (80, 48), (256, 256), (300, 200), (130, 256), (1, 1), (3, 500), (500, 3), (7, 2)]
SIDE, CELLS = 256, 64


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(3)


def way(height: int, width: int) -> Stretch:
    long = max(height, width)
    kept = (int(height * SIDE / long + 0.5), int(width * SIDE / long + 0.5))
    return stretch((CELLS, CELLS), SIDE, kept, height, width)


def discs(rng: Generator, count: int) -> np.ndarray:
    away = [np.hypot(*(np.mgrid[:CELLS, :CELLS] - rng.uniform(0, CELLS, (2, 1, 1)))) for _ in range(count)]
    return np.stack([rng.uniform(1, 20) - one for one in away]).astype(np.float32)


def noise(rng: Generator, count: int) -> np.ndarray:
    return rng.normal(0, 1, (count, CELLS, CELLS)).astype(np.float32)


def waves(rng: Generator, count: int) -> np.ndarray:
    return gaussian_filter(rng.normal(0, 30, (count, CELLS, CELLS)), (0, 3, 3)).astype(np.float32)


def two_steps(logits: np.ndarray, height: int, width: int) -> torch.Tensor:
    """segment-anything's `postprocess_masks` of masks (n, 3, high, wide)."""
    kept = way(height, width).kept
    square = F.interpolate(torch.from_numpy(logits), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return F.interpolate(square[..., : kept[0], : kept[1]], (height, width), mode="bilinear", align_corners=False)


def framed(cut: Cut, height: int, width: int) -> np.ndarray:
    frame = np.zeros((width, height), bool)
    frame[cut.left : cut.left + cut.bits.shape[0], cut.top : cut.top + cut.bits.shape[1]] = cut.bits
    return frame.T


@pytest.mark.parametrize("make", [discs, noise, waves])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_and_counts_are_those_of_two_steps_over_the_frame(size: tuple[int, int], make, rng: Generator) -> None:
    logits = make(rng, 6)
    frames = two_steps(logits.reshape(2, 3, CELLS, CELLS), *size).flatten(0, 1)
    for own, frame in zip(logits, frames, strict=True):
        for threshold, offset in ((0.0, 1.0), (0.3, -0.2), (0.0, 0)):
            cut = way(*size).cut(own, threshold, offset)
            assert (framed(cut, *size) == (frame > threshold).numpy()).all()
            assert cut.high == int((frame > threshold + offset).sum())
            assert cut.low == int((frame > threshold - offset).sum())


def test_only_a_small_part_of_the_frame_is_made_of_a_small_mask(rng: Generator) -> None:
    logits = (4 - np.hypot(*(np.mgrid[:CELLS, :CELLS] - np.array([20, 30])[:, None, None]))).astype(np.float32)
    cut = way(256, 256).cut(logits, 0.0, 1.0)
    assert cut.bits.any() and cut.bits.size < 256 * 256 / 25


def test_chunks_change_nothing(rng: Generator) -> None:
    for logits in (*discs(rng, 3), *noise(rng, 2)):
        whole = way(300, 200).cut(logits, 0.0, 0.5)
        for chunk in (1, 5000, 30001):
            part = way(300, 200).cut(logits, 0.0, 0.5, chunk)
            assert (part.bits == whole.bits).all()
            assert (part.high, part.low, part.left, part.top) == (whole.high, whole.low, whole.left, whole.top)


def test_a_mask_at_the_threshold_everywhere_is_decided_by_torch(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    both = Stretch._two_steps
    monkeypatch.setattr(Stretch, "_two_steps", lambda self, *given: calls.append(1) or both(self, *given))
    logits = np.zeros((CELLS, CELLS), np.float32)
    logits[10:20, 10:20] = 1e-7
    logits = logits + np.float32(1)
    cut = way(48, 80).cut(logits, 1.0, 0.0)
    assert calls
    frame = two_steps(np.broadcast_to(logits, (1, 3, CELLS, CELLS)).copy(), 48, 80)[0, 0]
    assert (framed(cut, 48, 80) == (frame > 1).numpy()).all()


def test_doubtful_pixels_are_few_on_masks_that_look_like_masks(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    both = Stretch._two_steps
    monkeypatch.setattr(Stretch, "_two_steps", lambda self, *given: calls.append(1) or both(self, *given))
    for logits in discs(rng, 100):
        way(300, 200).cut(logits, 0.0, 1.0)
    assert len(calls) <= 5


def test_rounding_stays_within_the_screen(rng: Generator) -> None:
    for size in SIZES[:5]:
        one = way(*size)
        rows, cols = (
            axis.matrix(0, n, 0, CELLS).toarray().astype(float)
            for axis, n in zip((one.rows, one.cols), size, strict=True)
        )
        for logits in waves(rng, 3):
            frame = two_steps(np.broadcast_to(logits, (1, 3, CELLS, CELLS)).copy(), *size)[0, 0].numpy()
            worst = np.abs(rows @ logits.astype(float) @ cols.T - frame).max() / np.abs(logits).max()
            assert worst <= room.SCREEN / 4


def test_an_empty_mask_has_no_box_and_no_counts() -> None:
    cut = way(48, 80).cut(np.full((CELLS, CELLS), -5, np.float32), 0.0, 1.0)
    assert (cut.box, cut.high, cut.low, cut.bits.size) == ((0, 0, 0, 0), 0, 0, 0)


def test_boxes_are_segment_anythings(rng: Generator) -> None:
    from segment_anything.utils.amg import batched_mask_to_box

    for logits in (*discs(rng, 5), *noise(rng, 2)):
        cut = way(48, 80).cut(logits, 0.0, 1.0)
        frame = torch.from_numpy(framed(cut, 48, 80).copy())
        assert list(cut.box) == batched_mask_to_box(frame[None])[0].tolist()


@pytest.mark.parametrize(("kept", "pixels"), [(256, 300), (100, 300), (100, 40), (1, 7), (256, 1), (37, 37)])
def test_three_taps_are_all_and_sum_to_one(kept: int, pixels: int) -> None:
    axis = Axis.of(CELLS, SIDE, kept, pixels)
    assert np.abs(axis.weights.sum(axis=1) - 1).max() <= 1e-6
    assert (np.diff(axis.base) >= 0).all() and (np.diff(axis.last) >= 0).all()
    assert axis.reach(0, CELLS - 1) == (0, pixels)
