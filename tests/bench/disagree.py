"""What comparing recipes costs: one pass for several methods against a pass each, and the map of a large picture.

    PYTHONPATH=. python tests/bench/disagree.py [--arch ViT-B-16] [--rounds 3]

Random weights of open_clip's shapes, a picture of 480x640 read in one window. Median CPU seconds of the rounds. An
oracle first: features of the common pass have the bits of each alone, or no time is printed. The maps are of random
evidence of 20 names, three recipes, up to 4000x3000 px; peak memory above the start, from the kernel.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import torch

from ovseg.clip.dense import Reading, encode, encode_methods
from ovseg.clip.load import wrap
from ovseg.disagreement import disagree
from ovseg.evidence import Evidence
from ovseg.types import Segmentation
from tests.results import NoRecipe

METHODS = ("naclip", "clearclip", "sclip", "maskclip-reduced")
NAMES, NEGATIVES = 20, 10


def cost(work: Callable[[], Any], rounds: int) -> float:
    """Median CPU seconds."""
    took = []
    for _ in range(rounds):
        clock = time.process_time()
        work()
        took.append(time.process_time() - clock)
    return sorted(took)[rounds // 2]


def passes(arch: str, rounds: int) -> None:
    torch.manual_seed(0)
    network = open_clip.create_model(arch, pretrained=None).eval().requires_grad_(False)
    clip = wrap(network, open_clip.get_tokenizer(arch), name=arch)
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    readings = [Reading(name, short_side=336, crop=-1) for name in METHODS]
    together = encode_methods(clip, [picture], readings)[0]
    alone = [encode(clip, [picture], reading)[0] for reading in readings]
    if any((one.vectors != other.vectors).any() for one, other in zip(together, alone, strict=True)):
        print(f"{arch}: the common pass has other bits than each alone, so no time")
        return
    one = cost(lambda: encode(clip, [picture], readings[0]), rounds)
    apart = cost(lambda: [encode(clip, [picture], reading) for reading in readings], rounds)
    common = cost(lambda: encode_methods(clip, [picture], readings), rounds)
    print(
        f"{arch}, {len(METHODS)} methods: one {one:.2f} s, a pass each {apart:.2f} s, together {common:.2f} s: ", end=""
    )
    print(f"{apart / common:.1f}x")


def maps(height: int, width: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    owner = np.array([*range(NAMES), *[-1] * NEGATIVES])
    rows = 10 * rng.normal(size=(NAMES + NEGATIVES, 9, 12)).astype(np.float32)
    first = Evidence(height, width, owner, rows, np.full(NAMES, 0.3, np.float32))
    several = [replace(first, rows=rows + rng.normal(0, 2, rows.shape).astype(np.float32)) for _ in range(3)]
    found = [Segmentation.decide([str(name) for name in range(NAMES)], one, NoRecipe()) for one in several]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = cost(lambda: disagree(found).effort(), rounds)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    print(f"map and effort of {height}x{width}, 3 recipes, {NAMES} names: {took:.2f} s, {more / 1024:.0f} MB more")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="ViT-B-16")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for size in ((480, 640), (1080, 1920), (3000, 4000)):
        maps(*size, asked.rounds)
    passes(asked.arch, asked.rounds)


if __name__ == "__main__":
    main()
