"""Segment everything: ours against its peers, on masks that look like masks. Records are compared before any time.

    PYTHONPATH=. python tests/bench/masks.py all [--quick]                     # the whole table, 15 (4) minutes
    PYTHONPATH=. python tests/bench/masks.py machinery --size 480 640          # stub decoder: all but the network
    PYTHONPATH=. python tests/bench/masks.py pipeline --size 480 640           # the same beside transformers' pipeline
    PYTHONPATH=. python tests/bench/masks.py memory --size 3000 4000           # peaks, each in a process of its own

`machinery` looks masks up (tests/sam/stubs.py), so default cuts stand: about 1,000 of 3,072 pass the predicted IoU and
about a hundred stay. segment-anything is asked at every batch of `--batches`, and its best one counts.
`pipeline` gives transformers' `mask-generation` the same masks by its own steps after the network (its stability on
all, its run lengths before its suppression); it keeps other masks by a hair (strict cuts), so none is claimed equal,
only counted. The decoder and the encoder with their runtimes are tests/bench/decoder.py, `adaptive` is adaptive.py.

Times are the best of `--rounds` after a warm-up, in CPU seconds and on the wall. A row whose records differ prints no
time. Refused on a busy machine unless `--anyway`. Nothing is asserted.
"""

import argparse
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from ovseg.sam.grid import AutomaticMaskGenerator
from tests.sam.stubs import Scene, stubs

Records = list[dict[str, Any]]
BUSY = 0.3  # load average
SIZES = ((480, 640), (1080, 1920), (3000, 4000))
PEERS = ("torch", "torchvision", "segment-anything", "mobilesam-mirror", "transformers", "numpy", "pycocotools")


def timed(call: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """What a call gives, its best CPU seconds and its best seconds, after one call to warm up."""
    found = call()
    took = []
    for _ in range(rounds):
        processor, wall = time.process_time(), time.perf_counter()
        call()
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


def scene_of(asked: argparse.Namespace) -> tuple[Scene, np.ndarray, dict[str, Any]]:
    scene = Scene(*asked.size, grid=asked.points).store()
    return scene, np.zeros((*asked.size, 3), np.uint8), {"points_per_side": asked.points, "output_mode": "coco_rle"}


def machinery(asked: argparse.Namespace) -> Iterator[str]:
    scene, image, options = scene_of(asked)
    sam, stub = stubs(scene)
    ours = AutomaticMaskGenerator(stub, **options)
    _, work = ours.regions(image)
    found, cpu, wall = timed(lambda: ours.generate(image), asked.rounds)
    title = f"machinery {asked.size[0]}x{asked.size[1]}, {work.raised} of {3 * work.points} pass"
    yield f"| {title} | ovseg | {len(found)} | {cpu:.2f} | {wall:.2f} | |"
    batches = asked.batches
    for who, peer in generators().items():
        rows, faults = [], []
        for batch in batches:
            generator = peer(sam, points_per_batch=batch, **options)
            theirs, their_cpu, their_wall = timed(lambda generator=generator: generator.generate(image), asked.rounds)
            fault = same(theirs, found)
            rows.append((their_cpu, their_wall, batch))
            faults += [f"records differ at batch {batch}: {fault}"] if fault else []
        best = min(rows)
        shown = f"{best[0]:.2f} | {best[1]:.2f} | {best[0] / cpu:.1f} CPU, {best[1] / wall:.1f} s"
        shown = f"| | {'; '.join(faults)}" if faults else shown
        yield f"| {title} | {who}, best batch {best[2]} of {batches} | {len(theirs)} | {shown} |"
        batches = [best[2]]  # the others have the same program


def generators() -> dict[str, Any]:
    """segment-anything's generator, and MobileSAM's where it is installed."""
    found: dict[str, Any] = {"segment-anything": SamAutomaticMaskGenerator}
    if importlib.util.find_spec("mobile_sam"):
        with warnings.catch_warnings():  # it speaks to an older timm
            warnings.simplefilter("ignore")
            from mobile_sam import SamAutomaticMaskGenerator as MobileGenerator
        found["mobilesam-mirror"] = MobileGenerator
    return found


def pipeline(asked: argparse.Namespace) -> Iterator[str]:
    """transformers' post-processing of the same masks, as its pipeline calls it."""
    from transformers import SamImageProcessor

    scene, image, options = scene_of(asked)
    _, stub = stubs(scene)
    ours = AutomaticMaskGenerator(stub, **options)
    found, cpu, wall = timed(lambda: ours.generate(image), asked.rounds)
    title = f"machinery {asked.size[0]}x{asked.size[1]}"
    yield f"| {title} | ovseg | {len(found)} | {cpu:.2f} | {wall:.2f} | |"
    processor = SamImageProcessor()
    embedding = stub.encode(image)
    points = ours.grids[0] * np.array([asked.size[1], asked.size[0]])
    prompts = stub.points(points[:, None], np.ones((len(points), 1), np.int64), embedding)
    places = [tuple(point) for point in prompts[:, 0].tolist()]

    def theirs(batch: int) -> int:
        kept: list[list[Any]] = [[], [], []]
        for begin in range(0, len(places), batch):
            some = places[begin : begin + batch]
            logits = torch.from_numpy(np.stack([scene.masks(*place) for place in some]))
            told = torch.from_numpy(np.stack([scene.quality(*place) for place in some]))
            frames = processor.post_process_masks(
                logits[None], torch.tensor([asked.size]), torch.tensor([embedding.kept]), binarize=False
            )
            parts = processor.filter_masks(frames[0], told, tuple(asked.size), [0, 0, asked.size[1], asked.size[0]])
            for held, part in zip(kept, parts, strict=True):
                held.extend(part) if isinstance(part, list) else held.append(part)
        out = processor.post_process_for_mask_generation(kept[0], torch.cat(kept[1]), torch.cat(kept[2]), 0.7)
        return len(out[0])

    rows = []
    for batch in asked.batches:
        count, their_cpu, their_wall = timed(lambda batch=batch: theirs(batch), asked.rounds)
        rows.append((their_cpu, their_wall, batch))
    best = min(rows)
    ratio = f"{best[0] / cpu:.1f} CPU, {best[1] / wall:.1f} s; masks not claimed equal"
    who = f"transformers' mask-generation, best batch {best[2]} of {asked.batches}"
    yield f"| {title} | {who} | {count} | {best[0]:.2f} | {best[1]:.2f} | {ratio} |"


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1)) if found else 0


def peak(who: str, asked: argparse.Namespace) -> None:
    """By how many bytes a run raises this process; masks are drawn when asked, so none is stored."""
    scene = Scene(*asked.size, grid=asked.points)
    sam, stub = stubs(scene)
    image = np.zeros((*asked.size, 3), np.uint8)
    options = {"points_per_side": asked.points, "output_mode": "coco_rle", "points_per_batch": asked.batches[0]}
    generator = AutomaticMaskGenerator(stub, **options) if who == "ovseg" else SamAutomaticMaskGenerator(sam, **options)
    before = resident("VmRSS")
    found = generator.generate(image)
    print(len(found), resident("VmHWM") - before)


def memory(asked: argparse.Namespace) -> Iterator[str]:
    peaks = {}
    for who in ("ovseg", "segment-anything"):
        command = [sys.executable, __file__, "memory", "--who", who, "--points", str(asked.points), "--size"]
        command += [*map(str, asked.size), "--batches", *map(str, asked.batches), "--threads", str(asked.threads)]
        count, peaks[who] = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        times = f"{peaks[who] / max(1, peaks['ovseg']):.0f} times as much" if len(peaks) > 1 else ""
        batch = "" if who == "ovseg" else f", batch {asked.batches[0]}"
        title = f"peak above the start, {asked.size[0]}x{asked.size[1]}, {asked.points}x{asked.points} points"
        yield f"| {title} | {who}{batch} | {count} | {peaks[who] / 1e9:.2f} GB | | {times} |"


COMMANDS = {"machinery": machinery, "pipeline": pipeline, "memory": memory}


def everything(asked: argparse.Namespace) -> Iterator[str]:
    """All rows: peers' times grow with pixels and points, so large pictures have fewer of both batches and rounds."""
    quick = asked.quick
    for size in SIZES[: 2 if quick else 3]:
        large = size[0] * size[1] > 1e6
        asked.size, asked.points = size, 32 if not (large and quick) else 16
        asked.points = 16 if size == SIZES[2] else asked.points
        asked.rounds = 1 if large or quick else 3
        asked.batches = [8, 16] if size == SIZES[2] else [16, 64] if quick else [8, 16, 32, 64, 128]
        yield from machinery(asked)
    asked.size, asked.points, asked.rounds, asked.batches = SIZES[0], 16 if quick else 32, 1, [16, 64]
    yield from pipeline(asked)
    asked.size, asked.points, asked.batches = SIZES[2], 4 if quick else 8, [16]
    yield from memory(asked)


def machine() -> str:
    """One line on what was measured where."""
    versions = []
    for name in PEERS:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{os.cpu_count()} cores, {capability}, {torch.get_num_threads()} threads, Python {platform.python_version()}; "
        + (", ".join(versions))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["all", *COMMANDS])
    parser.add_argument("--size", type=int, nargs=2, default=SIZES[0], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 8, 16, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="of all: fewer batches, rounds and points")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--who", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.who:
        return peak(asked.who, asked)
    load = os.getloadavg()[0]
    if load > BUSY and not asked.anyway:
        sys.exit(f"the load must be {BUSY} or less: it is {load:.2f}; wait, or measure with --anyway")
    print(f"{machine()}; load {load:.2f}\n")
    print("| what | who | masks | CPU s | s | times ours |\n|---|---|---|---|---|---|", flush=True)
    for row in (everything if asked.what == "all" else COMMANDS[asked.what])(asked):
        print(row, flush=True)


if __name__ == "__main__":
    main()
