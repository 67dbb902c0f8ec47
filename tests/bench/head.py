"""Words to pixels: ours against the formulation of the papers' programs, on the same scores, with the same outputs.

    python tests/bench/head.py [--repetitions 7]

The peer does what the released heads do (sinahmr/NACLIP@0cac3a6, wangf3014/SCLIP@b56bd30: `postprocess_result`), in
torch with the machine's threads: cosines of all P rows bilinear to the picture, times the scale, softmax over rows, a
one-hot product of K x P x H x W whose maximum over P is each name's score, arg-max, threshold. Ours is `head.pixels` on
the same cosines with `probability="rows"`, which gives what the peer gives; and, timed beside it, the whole
`Segmentation.decide`: connected regions, their run lengths and their mean posterior of every name as well.

Repetitions take turns (ours, peer, ours, ...) in one process, medians are printed; peak memory is that of a process of
its own, above what it held before it began. Agreement is asserted: the same label in all pixels but those where the two
best posteriors, or the best and the threshold, are within 1e-5.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

SCALE = 40.0


@dataclass(frozen=True)
class Case:
    """What is asked of which picture: the features' grid is 21 x 28 cells of 512 numbers."""

    title: str
    names: int
    rows: int
    height: int
    width: int
    threshold: float


CASES = {
    "names150": Case("150 names, 512x683", 150, 150, 512, 683, 0.0),
    "queries113": Case("81 names, 113 queries, 480x640", 81, 113, 480, 640, 0.1),
}


def scores(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (P, 21, 28) of random unit features with random unit rows, and the name that owns each row."""
    rng = np.random.default_rng(7)
    features = rng.normal(size=(512, 21 * 28)).astype(np.float32)
    words = rng.normal(size=(case.rows, 512)).astype(np.float32)
    features /= np.linalg.norm(features, axis=0)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    spare = case.rows - case.names  # the first names own the further rows, one each and then again
    owner = np.sort(np.concatenate([np.arange(case.names), np.arange(spare) % case.names]))
    return (words @ features).reshape(case.rows, 21, 28).astype(np.float32), owner


def ours(case: Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Labels (-1 below the threshold) and posteriors of our head; a call is one answer."""
    from ovseg.head import pixels
    from ovseg.types import Evidence

    cosines, owner = scores(case)
    thresholds = np.full(case.names, case.threshold, np.float32)

    def run() -> tuple[np.ndarray, np.ndarray]:
        return pixels(Evidence(case.height, case.width, owner, SCALE * cosines, thresholds, probability="rows"))

    return run


def whole(case: Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """The same with regions, their run lengths and means."""
    from ovseg.types import Evidence, Segmentation
    from tests.results import NoRecipe

    cosines, owner = scores(case)
    thresholds = np.full(case.names, case.threshold, np.float32)
    names = [str(name) for name in range(case.names)]

    def run() -> tuple[np.ndarray, np.ndarray]:
        evidence = Evidence(case.height, case.width, owner, SCALE * cosines, thresholds, probability="rows")
        found = Segmentation.decide(names, evidence, NoRecipe())
        return found.labels, found.confidence

    return run


def peer(case: Case) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """The same from the plain formulation; a call is one answer."""
    import torch
    from torch.nn import functional

    cosines, owner = (torch.from_numpy(array) for array in scores(case))

    @torch.inference_mode()
    def run() -> tuple[np.ndarray, np.ndarray]:
        size = (case.height, case.width)
        logits = functional.interpolate(cosines[None], size=size, mode="bilinear", align_corners=False)[0]
        slots = (logits * SCALE).softmax(0)
        if case.names != case.rows:
            own = functional.one_hot(owner).T.view(case.names, case.rows, 1, 1)
            slots = (slots[None] * own).max(1)[0]
        best, labels = slots.max(0)[0], slots.argmax(0)
        labels[best < case.threshold] = -1
        return labels.numpy(), best.numpy()

    return run


CONTESTANTS = {"ours": ours, "peer": peer, "whole": whole}


def memory(who: str, case: str) -> float:
    """MiB that one answer takes above what its process held before, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", who, "--case", case], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def tell_memory(who: str, case: str) -> None:
    """Print the peak of this process above what it holds when everything is ready (Linux)."""
    if who != "peer":
        warm_up()
    run = CONTESTANTS[who](CASES[case])
    before = resident("VmRSS")
    run()
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """KiB that this process holds (VmRSS) or held at most (VmHWM): ru_maxrss would begin at the parent's peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"/proc/self/status has a line {field}"
    return int(found.group(1))


def warm_up() -> None:
    """Import what a first answer imports, so that it is not counted as the head's."""
    from tests.results import segmentation

    segmentation(["ab", ".."], ["cat", "dog"])


def compare(case: Case) -> tuple[float, float]:
    """Share of pixels with the same label, and the largest difference of posteriors; raises where they disagree."""
    (labels, confidence), (expected, best) = ours(case)(), peer(case)()
    differing = labels != expected
    cosines, owner = scores(case)
    from ovseg.raster import posterior, upsample

    rows = upsample(SCALE * cosines, case.height, case.width)[:, differing]
    slots = np.sort(posterior(np.ascontiguousarray(rows), owner, case.names, "rows"), axis=0)
    close = (slots[-1] - slots[-2] < 1e-5) | (np.abs(slots[-1] - case.threshold) < 1e-5)
    if not close.all() or np.abs(confidence - best).max() > 1e-5:
        raise SystemExit(f"{case.title}: the answers differ in {np.count_nonzero(~close)} pixels")
    return 1 - differing.mean(), float(np.abs(confidence - best).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="The head against the papers' formulation.")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--memory-of", choices=CONTESTANTS)
    parser.add_argument("--case", choices=CASES)
    options = parser.parse_args()
    if options.memory_of:
        return tell_memory(options.memory_of, options.case)
    import torch

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, numpy {np.__version__}")
    print("| head | ours ms | peer ms | ratio | with regions ms | ratio ", end="")
    print("| ours MiB | peer MiB | ratio | same label | posteriors within |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key, case in CASES.items():
        same, apart = compare(case)
        runs = {who: make(case) for who, make in CONTESTANTS.items()}
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(options.repetitions):
            for who, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[who].append(time.perf_counter() - start)
        fast, slow, full = (1000 * statistics.median(seconds[who]) for who in ("ours", "peer", "whole"))
        lean, fat = memory("whole", key), memory("peer", key)
        print(
            f"| {case.title} | {fast:.0f} | {slow:.0f} | {slow / fast:.1f}x | {full:.0f} | {slow / full:.1f}x | "
            f"{lean:.0f} | {fat:.0f} | "
            f"{fat / lean:.0f}x | {same:.4%} | {apart:.0e} |"
        )


if __name__ == "__main__":
    main()
