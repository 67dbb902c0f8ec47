"""Segment everything: ours against segment-anything's generator. Records are compared before any time is printed.

    PYTHONPATH=. python tests/bench/masks.py machinery --size 480 640          # stub decoder: all but the network
    PYTHONPATH=. python tests/bench/masks.py decoder --points 16 --keep 0.33   # vit_b's decoder, embedding given
    PYTHONPATH=. python tests/bench/masks.py memory --size 3000 4000           # peaks, each in a process of its own

`machinery` looks masks up (tests/sam/stubs.py), so default cuts stand: about 1,000 of 3,072 pass the predicted IoU.
`decoder` is vit_b's with random weights: a share `--keep` of its masks passes the predicted IoU, stability is off and
nothing is thinned. Times are the best of `--rounds` in CPU seconds and on the wall; segment-anything is asked at every
batch and its best one counts. A row whose records differ prints no time. Nothing is asserted.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.load import SamShape, build
from ovseg.sam.model import MaskModel
from tests.sam.stubs import Scene, stubs

Records = list[dict[str, Any]]


def timed(call: Callable[[], Records], rounds: int) -> tuple[Records, float, float]:
    """What a call gives, its best CPU seconds and its best seconds."""
    took = []
    for _ in range(rounds):
        processor, wall = time.process_time(), time.perf_counter()
        found = call()
        took.append((time.process_time() - processor, time.perf_counter() - wall))
    return found, min(cpu for cpu, _ in took), min(wall for _, wall in took)


def same(theirs: Records, ours: Records) -> str:
    """Nothing, or where the records part."""
    if len(theirs) != len(ours):
        return f"{len(theirs)} and {len(ours)} masks"
    for number, (one, two) in enumerate(zip(theirs, ours, strict=True)):
        for key, value in one.items():
            if repr(value) != repr(two[key]):
                return f"{key} of mask {number}"
    return ""


def compare(
    peer: Callable[[int], Callable[[], Records]], ours: Callable[[], Records], batches: list[int], rounds: int
) -> None:
    print("| who | masks | CPU s | s | CPU ratio | ratio |\n|---|---|---|---|---|---|")
    found, cpu, wall = timed(ours, rounds)
    print(f"| ours | {len(found)} | {cpu:.2f} | {wall:.2f} | | |")
    best = None
    for batch in batches:
        theirs, their_cpu, their_wall = timed(peer(batch), rounds)
        fault = same(theirs, found)
        if fault:
            print(f"| segment-anything, batch {batch} | {len(theirs)} | records differ: {fault} | | | |")
            continue
        row = (their_wall / wall, their_cpu / cpu)
        best = min(best or row, row)
        shown = f"{their_cpu:.2f} | {their_wall:.2f} | {row[1]:.1f} | {row[0]:.1f}"
        print(f"| segment-anything, batch {batch} | {len(theirs)} | {shown} |")
    if best:
        print(f"\nat its best batch: {best[1]:.1f} times the CPU, {best[0]:.1f} times the seconds")


def machinery(asked: argparse.Namespace) -> None:
    scene = Scene(*asked.size, grid=asked.points).store()
    sam, stub = stubs(scene)
    image = np.zeros((*asked.size, 3), np.uint8)
    options = {"points_per_side": asked.points, "output_mode": "coco_rle"}
    ours = AutomaticMaskGenerator(stub, **options)
    _, work = ours.regions(image)
    print(f"{work.points} points, {work.raised} of {3 * work.points} masks pass the predicted IoU\n")
    compare(
        lambda batch: lambda: SamAutomaticMaskGenerator(sam, points_per_batch=batch, **options).generate(image),
        lambda: ours.generate(image),
        asked.batches,
        asked.rounds,
    )


def decoder(asked: argparse.Namespace) -> None:
    torch.manual_seed(0)
    sam = build(SamShape(width=24, depth=1, heads=2, global_blocks=(0,))).eval()
    with torch.inference_mode():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    image = np.random.default_rng(0).integers(0, 256, (*asked.size, 3), np.uint8)
    options: dict[str, Any] = {
        "points_per_side": asked.points,
        "output_mode": "coco_rle",
        "stability_score_thresh": 0.0,
        "box_nms_thresh": 1.0,
    }
    model = MaskModel(sam)
    embedding = model.encode(image)
    sam.image_encoder.forward = lambda pixels: embedding.features  # type: ignore[method-assign]
    every = AutomaticMaskGenerator(model, pred_iou_thresh=0.0, **options).generate(image, embedding)
    order = sorted((record["predicted_iou"] for record in every), reverse=True)
    kept = max(1, min(len(order) - 1, round(asked.keep * len(order))))
    options["pred_iou_thresh"] = (order[kept - 1] + order[kept]) / 2
    ours = AutomaticMaskGenerator(model, **options)
    compare(
        lambda batch: lambda: SamAutomaticMaskGenerator(sam, points_per_batch=batch, **options).generate(image),
        lambda: ours.generate(image, embedding),
        asked.batches,
        asked.rounds,
    )


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1)) if found else 0


def peak(who: str, asked: argparse.Namespace) -> None:
    """By how many bytes a run raises this process; masks are drawn when asked, so none is stored."""
    scene = Scene(*asked.size, grid=asked.points)
    sam, stub = stubs(scene)
    image = np.zeros((*asked.size, 3), np.uint8)
    options = {"points_per_side": asked.points, "output_mode": "coco_rle", "points_per_batch": asked.batches[0]}
    generator = AutomaticMaskGenerator(stub, **options) if who == "ours" else SamAutomaticMaskGenerator(sam, **options)
    before = resident("VmRSS")
    found = generator.generate(image)
    print(len(found), resident("VmHWM") - before)


def memory(asked: argparse.Namespace) -> None:
    peaks = {}
    for who in ("ours", "segment-anything"):
        command = [sys.executable, __file__, "memory", "--who", who, "--points", str(asked.points), "--size"]
        command += [*map(str, asked.size), "--batches", *map(str, asked.batches), "--threads", str(asked.threads)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        peaks[who] = int(out[1])
        print(f"| {who} | {out[0]} masks | {int(out[1]) / 1e9:.2f} GB above the start |")
    print(f"\n{peaks['segment-anything'] / max(1, peaks['ours']):.1f} times less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["machinery", "decoder", "memory"])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 8, 16, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=float, default=1 / 3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--who", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.who:
        return peak(asked.who, asked)
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    print(f"{asked.what}, {asked.size[0]}x{asked.size[1]}, {torch.get_num_threads()} threads, load {load}\n")
    {"machinery": machinery, "decoder": decoder, "memory": memory}[asked.what](asked)


if __name__ == "__main__":
    main()
