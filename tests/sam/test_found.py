import numpy as np
import pytest
import torch
from numpy.random import Generator
from torchvision.ops import nms

from ovseg.sam.found import Found, scores, thinned
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import Cut

FRAME = (48, 80)


def found(mask: np.ndarray, quality: float = 0.9, stability: float = 0.95) -> Found:
    cut = Cut(np.ascontiguousarray(mask.T), 0, 0, 0, 0)
    return Found(Kept.of(cut), cut.box, quality, stability, (0.0, 0.0), (0, 0, 80, 48))


def masks(rng: Generator, count: int = 60) -> list[np.ndarray]:
    """Ellipses, rings and noise, many of them alike, and an empty one."""
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    out = [np.zeros(FRAME, bool)]
    centres = rng.uniform(0, 1, (8, 2)) * (80, 48)
    while len(out) < count:
        centre, radius = centres[len(out) % 8] + rng.normal(0, 1, 2), rng.uniform(5, 14, 2)
        away = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
        mask = (away < 1) & (away > rng.choice([0, 0.6]))
        out.append(mask ^ (rng.random(FRAME) < rng.choice([0, 0.02])))
    return out


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("worst", [0.0, 0.3, 0.7, 1.0])
def test_masks_are_thinned_as_by_a_loop_over_all_pairs(worst: float, rng: Generator) -> None:
    drawn = masks(rng)
    by = rng.integers(0, 20, len(drawn)).astype(np.float32)  # with ties: then the first wins
    every = [found(mask) for mask in drawn]
    stay: list[int] = []
    for one in sorted(range(len(drawn)), key=lambda i: -by[i]):
        overlaps = [(drawn[one] & drawn[i]).sum() / max(1, (drawn[one] | drawn[i]).sum()) for i in stay]
        if not any(overlap > worst for overlap in overlaps):
            stay.append(one)
    assert [every.index(one) for one in thinned(every, by, worst, "mask", FRAME)] == stay
    assert len(stay) < len(drawn) or worst == 1.0


def test_boxes_are_thinned_by_torchvision(rng: Generator) -> None:
    every = [found(mask) for mask in masks(rng)]
    by = rng.integers(0, 20, len(every)).astype(np.float32)
    boxes = torch.tensor([one.box for one in every], dtype=torch.float32)
    wanted = nms(boxes, torch.from_numpy(by), 0.7).tolist()
    assert [every.index(one) for one in thinned(every, by, 0.7, "box", FRAME)] == wanted


def test_a_ring_and_what_it_holds_both_stay_by_masks() -> None:
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    away = np.hypot(x - 40, y - 24)
    ring, disc = found((away < 20) & (away >= 17)), found(away < 17)
    by = np.array([0.9, 0.8], np.float32)
    assert thinned([ring, disc], by, 0.7, "mask", FRAME) == [ring, disc]
    assert thinned([ring, disc], by, 0.7, "box", FRAME) == [ring]


@pytest.mark.parametrize("rule", ["box", "mask"])
def test_nothing_is_thinned_to_nothing(rule: str) -> None:
    assert thinned([], np.zeros(0, np.float32), 0.7, rule, FRAME) == []


def test_a_score_is_a_field_or_a_function_and_never_no_number() -> None:
    every = [found(np.ones(FRAME, bool), 0.25, float("nan")), found(np.zeros(FRAME, bool), 0.5, 0.75)]
    assert scores(every, "predicted_iou").tolist() == [0.25, 0.5]
    assert scores(every, "stability_score").tolist() == [0, 0.75]
    assert scores(every, lambda one: one.kept.area / 10.0).tolist() == [384, 0]
