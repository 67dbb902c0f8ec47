"""Masks a second for every row of ENCODERS, against the loop that looks at one crop after the other.

    export PYTHONPATH=. OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
    python tests/bench/encoders.py                              # ViT-B/16, random weights
    python tests/bench/encoders.py --model tiny                 # the bundled network
    python tests/bench/encoders.py --only pool bias --masks 10 100

A picture of 640x480, read as the presets tiny and base do, and masks of all sizes (ellipses, some of them a pixel).
The dense pass is timed apart, with the taps that the row wants, so bias and foveal pay for them there. "alone" is the
encoder after it; "x loop" is both against the loop, which needs no dense pass: crop, pad, resize, normalise and
`encode_image`, one mask at a time. Passes are windows or pictures that enter the tower beyond the dense pass, whose own
stand in the headline. The loop, and rows that take a pass a mask, cost the same for every mask: they are timed over
`--each` masks. Seconds are the processor's: with one thread (default) they are the wall's on quiet cores, and beside
other work they are worth more than the wall's. Rows take turns; medians of `--rounds`. Nothing is asserted.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import torch

from ovseg import encoders
from ovseg.clip import dense, load
from ovseg.clip.load import Clip, wrap
from ovseg.clip.windows import Reading, normalised
from ovseg.encoders import ENCODERS, View
from ovseg.encoders.crops import fitted, window
from ovseg.errors import OvsegError
from ovseg.recipe import PRESETS
from ovseg.types import Regions

HEIGHT, WIDTH = 480, 640


def network(name: str) -> Clip:
    if name == "tiny":
        return load.load("tiny")
    torch.manual_seed(0)
    model: Any = open_clip.create_model(name, pretrained=None, load_weights=False).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    clip = wrap(model, open_clip.get_tokenizer(name), name=name)
    conv = getattr(clip.visual, "conv1", None)
    fourth = (
        {} if conv is None else {"conv1_alpha.weight": 0.02 * torch.randn(conv.weight.shape[0], 1, *conv.kernel_size)}
    )
    return replace(clip, parts=fourth)


def scene(count: int) -> tuple[np.ndarray, Regions]:
    """Noise on slopes, and ellipses of which the largest is most of the picture and the smallest a pixel."""
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows % 256, cols % 256, (rows + cols) % 256], 2) + rng.integers(-30, 31, (HEIGHT, WIDTH, 3))
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask, size in zip(masks, np.geomspace(1, HEIGHT / 2, count), strict=True):
        row, col, stretch = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(0.6, 1.6)
        mask[:] = (rows - row) ** 2 + ((cols - col) / stretch) ** 2 < size**2
        mask[int(row), int(col)] = True
    return image.clip(0, 255).astype(np.uint8), Regions.from_masks(masks)


def loop(clip: Clip, image: np.ndarray, regions: Regions) -> np.ndarray:
    """One crop after the other through `encode_image`."""
    rows = []
    with torch.inference_mode():
        for box in regions.boxes:
            seen = normalised(clip, fitted(clip, window(image, box, 1.0), "pad"))
            rows.append(clip.model.encode_image(seen[None]))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()


class Entrances:
    """Counts pictures and windows that enter the tower, by the convolution that all of them go through."""

    def __init__(self, clip: Clip) -> None:
        self.seen, tower = 0, clip.visual
        entrance = getattr(tower, "conv1", None) or next(
            part for part in tower.modules() if hasattr(part, "kernel_size")
        )
        entrance.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.seen += len(inputs[0])


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an architecture of open_clip, or tiny")
    parser.add_argument("--masks", type=int, nargs="+", default=[100])
    parser.add_argument("--each", type=int, default=10, help="masks for the loop and rows of a pass a mask")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", choices=list(ENCODERS), help="default: every row that the network can take"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clip = network(args.model)
    reading = PRESETS["tiny" if args.model == "tiny" else "base"].reading
    for count in args.masks:
        measure(clip, reading, count, args)


def measure(clip: Clip, reading: Reading, count: int, args: argparse.Namespace) -> None:
    image, regions = scene(count)
    entrances = Entrances(clip)
    rows: dict[str, tuple[int, ...]] = {}
    for name in args.only or ENCODERS:
        try:
            rows[name] = encoders.blocks(name, clip, {})
        except OvsegError as error:
            print(f"- {name}: {error}")

    def dense_pass(blocks: tuple[int, ...]) -> View:
        if not blocks:
            return View(clip, image, dense.encode(clip, [image], reading)[0])
        ((features, taps),) = dense.encode_tapped(clip, [image], reading, blocks)
        return View(clip, image, features, taps)

    plain = dense_pass(())
    before = entrances.seen
    dense_pass(())
    windows = entrances.seen - before
    views = {name: dense_pass(blocks) for name, blocks in rows.items()}
    few = regions[np.linspace(0, count - 1, min(args.each, count)).astype(int)]
    asked = {name: regions if ENCODERS[name].cost == "none" or blocks else few for name, blocks in rows.items()}
    for name in list(rows):
        try:
            encoders.describe(name, views[name], few[:2])  # warms up
        except OvsegError as error:
            print(f"- {name}: {error}")
            del rows[name]
    apart = np.abs(loop(clip, image, few[:2]) - encoders.describe("crop", plain, few[:2]).vectors).max()
    passes: dict[str, int] = {}
    took: dict[str, list[float]] = {name: [] for name in ["the loop", "dense", *rows]}
    tapped: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.rounds):
        took["the loop"].append(count / len(few) * seconds(lambda: loop(clip, image, few)))
        took["dense"].append(seconds(lambda: dense_pass(())))
        for name, blocks in rows.items():
            tapped[name].append(seconds(lambda b=blocks: dense_pass(b)) if blocks else took["dense"][-1])
            before = entrances.seen
            took[name].append(
                count / len(asked[name]) * seconds(lambda n=name: encoders.describe(n, views[n], asked[n]))
            )
            passes[name] = (entrances.seen - before) * count // len(asked[name])
    middle = {name: statistics.median(times) for name, times in took.items()}
    print(
        f"\n{clip.name}, {WIDTH}x{HEIGHT}, {count} masks, grid {plain.features.grid}, {windows} windows, "
        f"dense pass {middle['dense']:.2f} s, threads {torch.get_num_threads()}, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, loop and batched crop at most {apart:.0e} apart\n"
    )
    print("| encoder | passes beyond the dense one | masks/s alone | masks/s with the dense pass | x loop |")
    print("|---|---|---|---|---|")
    slow = middle["the loop"]
    print(f"| crop, one after the other | {count} | {count / slow:.1f} | | 1.0 |")
    for name in sorted(rows, key=lambda n: middle[n]):
        whole = middle[name] + statistics.median(tapped[name])
        cells = [f"{passes[name]}", f"{count / middle[name]:.0f}", f"{count / whole:.0f}", f"{slow / whole:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
