"""Who owns a pixel: ovseg against a loop that paints every mask over the whole frame.

    PYTHONPATH=. OMP_WAIT_POLICY=passive python tests/bench/joining.py [--regions 300] [--height 1080] [--width 1920]

Masks are ellipses with bites taken out, areas log-uniform from 0.05 to 20 % of the frame. `loop` decodes each mask and
paints it, `painted` is the same loop over masks that are decoded already; their answer is compared with ours before a
time is printed. Peaks are tracemalloc's, above what was there, in bytes a pixel.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ovseg.labels import OVERLAPS, own
from ovseg.labels.joining import merge, suppress
from ovseg.raster import decode_rle
from ovseg.types import Regions


def scene(count: int, height: int, width: int, seed: int = 3) -> Regions:
    """Overlapping masks with ragged outlines."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    found = []
    for _ in range(count):
        area = np.exp(rng.uniform(np.log(0.0005), np.log(0.2))) * height * width
        long = np.sqrt(area / np.pi) * rng.uniform(0.5, 2)
        y, x, short = rng.uniform(0, height), rng.uniform(0, width), area / np.pi / long
        turn = np.arctan2(rows - y, cols - x)
        reach = 1 + 0.15 * np.sin(rng.integers(3, 12) * turn + rng.uniform(0, 6))
        found.append(Regions.from_masks((((rows - y) / long) ** 2 + ((cols - x) / short) ** 2 < reach)[None]))
    rles = tuple(rle for one in found for rle in one.rles)
    return Regions(height, width, rles, rng.random(count).astype(np.float32))


def loop(order: list[int], regions: Regions) -> np.ndarray:
    """Masks painted over one another on the whole frame, the best last."""
    parts = np.full((regions.height, regions.width), -1, np.int32)
    for i in reversed(order):
        parts[decode_rle(regions.rles[i])] = i
    return parts


def painted(order: list[int], masks: np.ndarray) -> np.ndarray:
    parts = np.full(masks.shape[1:], -1, np.int32)
    for i in reversed(order):
        parts[masks[i]] = i
    return parts


def least(run: Callable[[], Any], times: int = 5) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def peak(run: Callable[[], Any], pixels: int) -> float:
    tracemalloc.start()
    run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / pixels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--regions", type=int, default=300)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    given = parser.parse_args()
    regions = scene(given.regions, given.height, given.width)
    posteriors = np.random.default_rng(5).random(len(regions))
    pixels, masks = given.height * given.width, regions.masks
    print("| overlap | ms | of the loop | of the painted loop | peak, bytes a pixel |")
    print("|---|---|---|---|---|")
    for policy, row in OVERLAPS.items():
        order = row.order(regions, posteriors * regions.quality)
        ours = partial(own, regions, posteriors, policy)
        if not (ours() == loop(order, regions)).all():
            raise SystemExit(f"{policy}: not what the loop paints")
        spent, theirs = least(ours), least(lambda order=order: loop(order, regions), 2)
        pre = least(lambda order=order: painted(order, masks), 2)
        print(
            f"| {policy} | {1000 * spent:.0f} | {spent / theirs:.3f} | {spent / pre:.3f} | {peak(ours, pixels):.1f} |"
        )
    kinds, vectors = np.arange(len(regions)) % 5, np.eye(3, dtype=np.float32)[np.arange(len(regions)) % 3]
    parts = own(regions, posteriors)
    for name, run in (
        ("suppress", partial(suppress, regions, kinds, posteriors, 0.9)),
        ("merge", partial(merge, parts, kinds, vectors, 0.95)),
    ):
        print(f"| {name} | {1000 * least(run):.0f} | | | {peak(run, pixels):.1f} |")


if __name__ == "__main__":
    main()
