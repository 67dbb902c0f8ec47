"""How long a click takes on an encoded picture, and where the time goes. Nothing is asserted.

    PYTHONPATH=. OMP_WAIT_POLICY=passive python tests/bench/click.py                       # tiny preset and tiny SAM
    PYTHONPATH=. OMP_WAIT_POLICY=passive python tests/bench/click.py --sam vit_b --runtime openvino
    PYTHONPATH=. OMP_WAIT_POLICY=passive python tests/bench/click.py --size 4000 3000 --profile

The whole is `pipe.click(encoding, points=..., names=...)`: another point each time, always the same five names. Random
weights, but for the tiny CLIP, which is bundled. A click asks the decoder alone, so of a SAM only the decoder counts:
vit_b, vit_l, vit_h and MobileSAM's vit_t have the same one (the mask decoder of segment-anything at 256 channels and
64 x 64 cells), and the encoder is a narrow one here. `load` is that of the machine when the row was measured; beside
other work read the CPU column with one thread, since there the wall tells of the others.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ovseg.click import ask, named
from ovseg.encoders import encode
from ovseg.pipeline import Pipeline
from ovseg.recipe import PRESETS
from ovseg.sam.load import KINDS, SamShape, build
from ovseg.sam.model import MaskModel
from ovseg.sam.prompted import prompted
from ovseg.sam.runs import Kept
from ovseg.types import Regions

NARROW = SamShape(width=24, depth=1, heads=2, global_blocks=(0,))  # encoder; the decoder is vit_b's
NAMES = ["cow", "sheep", "dog", "balloon", "car"]


def network(kind: str) -> Any:
    torch.manual_seed(0)
    sam = build(KINDS["tiny"] if kind == "tiny" else NARROW).eval()
    with torch.inference_mode():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return sam


def timed(call: Callable[[int], Any], rounds: int) -> list[tuple[float, float]]:
    """Milliseconds of each call on the wall and of the processor, the first two left out."""
    took = []
    for number in range(rounds + 2):
        wall, processor = time.perf_counter(), time.process_time()
        call(number)
        took.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - processor)))
    return took[2:]


def row(what: str, took: list[tuple[float, float]]) -> None:
    wall, processor = (sorted(column) for column in zip(*took, strict=True))
    slow = wall[min(len(wall) - 1, round(0.95 * len(wall)))]
    print(f"| {what} | {statistics.median(wall):.1f} | {slow:.1f} | {statistics.median(processor):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", choices=("tiny", "vit_b"), default="tiny")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--algebra", default="")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="which functions the whole click spends its time in")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = MaskModel(network(asked.sam), runtime=asked.runtime, precision=asked.precision, algebra=asked.algebra)
    plain = Pipeline.open("tiny", cache=None)
    pipe = Pipeline(replace(PRESETS["tiny"], sam="bench"), plain.clip, model)
    rng = np.random.default_rng(0)
    height, width = asked.size
    low = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = np.repeat(np.repeat(low, -(-height // 6), axis=0), -(-width // 8), axis=1)[:height, :width].copy()
    encoding = pipe.encode(image)
    spots = rng.uniform((0, 0), (width, height), (asked.rounds + 2, 2)).round().tolist()

    def whole(number: int) -> Any:
        return pipe.click(encoding, points=[spots[number]], names=NAMES)

    took = timed(whole, asked.rounds)
    print(f"{asked.sam}, {model.computed}, {height}x{width}, {asked.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    print("| part | median ms | 95 % ms | median CPU ms |\n|---|---|---|---|")
    row("a click, all", took)
    point, label = np.array([[spots[0]]], float), np.ones((1, 1), np.int64)
    shared = model.shared(encoding.embedding)
    fresh = [replace(encoding.embedding) for _ in range(asked.rounds + 2)]  # what is shared is kept for the last one
    tokens, _ = model.prompts(encoding.embedding, points=point, labels=label)
    (_, answer), *_ = model.answer(shared, tokens)
    (maps,) = model.logits(answer, torch.arange(1)).cpu().numpy()
    way = model.stretch(encoding.embedding)
    kept = [Kept.of(way.cut(maps[0], model.threshold, 0.0))]
    regions = Regions(height, width, (kept[0].rle(height, width),), np.ones(1, np.float32))
    vocabulary = pipe.vocabulary(NAMES)
    answered = ask(model, encoding.embedding, image, encoding.features, pipe.recipe, points=[spots[0]])
    parts: dict[str, Callable[[int], Any]] = {
        "shared part (first click on a picture)": lambda number: model.shared(fresh[number]),
        "prompt tokens": lambda _: model.prompts(encoding.embedding, points=point, labels=label),
        "decode to qualities": lambda _: list(model.answer(shared, tokens)),
        "mask logits": lambda _: model.logits(answer, torch.arange(1)),
        "all of the decoder: `prompted`": lambda _: prompted(model, encoding.embedding, points=point, labels=label),
        "up-sample and cut": lambda _: way.cut(maps[0], model.threshold, 0.0),
        "pack": lambda _: Kept.of(way.cut(maps[0], model.threshold, 0.0)),
        "run lengths": lambda _: kept[0].rle(height, width),
        "pool": lambda _: encode("pool", None, image, encoding.features, regions),
        "vocabulary looked up": lambda _: pipe.vocabulary(NAMES),
        "names scored": lambda _: named(answered, vocabulary, pipe.recipe),
    }
    for what, call in parts.items():
        row(what, timed(call, asked.rounds))
    if asked.profile:
        profile = cProfile.Profile()
        profile.enable()
        timed(whole, asked.rounds)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
