"""What `from-map` costs when names are asked: prompts off the coarse map, the decoder, masks; and the refined labels.

    PYTHONPATH=. python tests/bench/guided.py [--names 20] [--kind tiny|vit_b] [--rounds 3]

Random SAM weights of the kind's shapes (for vit_b the encoder is left out: the embedding is random), posteriors that
change smoothly, every mask accepted. Median CPU seconds of the rounds; peak memory above the start, from the kernel.
"""

import argparse
import resource
import time

import numpy as np
import torch

from ovseg.evidence import Evidence
from ovseg.sam.guided import Coarse, parts_of, refine
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.networks import KINDS, build

NEGATIVES = 30


def evidence_of(height: int, width: int, names: int) -> Evidence:
    rng = np.random.default_rng(0)
    rows = 40 * rng.normal(size=(names + NEGATIVES, 9, 12)).astype(np.float32) / 4
    owner = np.array([*range(names), *[-1] * NEGATIVES])
    return Evidence(height, width, owner, rows, np.zeros(names, np.float32))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", type=int, default=20)
    parser.add_argument("--kind", default="tiny", choices=sorted(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = MaskModel(build(KINDS[asked.kind]).eval())
    channels = model.sam.mask_decoder.transformer_dim
    features = torch.randn(1, channels, *model.grid)
    for height, width in ((480, 640), (1080, 1920), (3000, 4000)):
        scale = model.side / max(height, width)
        kept = (int(height * scale + 0.5), int(width * scale + 0.5))
        embedding = Embedding(features, height, width, kept)
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took: dict[str, list[float]] = {"parts": [], "refine": [], "labels": []}
        for _ in range(asked.rounds):
            coarse = Coarse.of_evidence(evidence_of(height, width, asked.names))
            clock = time.process_time()
            parts = parts_of(coarse, coarse_thresh=0.1, min_part_px=225)
            took["parts"].append(time.process_time() - clock)
            clock = time.process_time()
            found = refine(model, embedding, coarse, min_iou=-99)
            took["refine"].append(time.process_time() - clock)
            clock = time.process_time()
            _ = found.labels
            took["labels"].append(time.process_time() - clock)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        told = ", ".join(f"{name} {sorted(times)[len(times) // 2]:.2f} s" for name, times in took.items())
        print(f"{height}x{width}, {asked.names} names, {len(parts)} parts: {told}; {peak / 1024:.0f} MB more")


if __name__ == "__main__":
    main()
