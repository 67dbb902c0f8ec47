"""SAM's networks by every runtime: seconds beside segment-anything's, and how far results are from exact.

    PYTHONPATH=. python tests/bench/decoder.py --points 8             # vit_b's decoder and the masks, embedding given
    PYTHONPATH=. python tests/bench/decoder.py --encoder vit_b        # an image encoder alone

Weights are random, every parameter perturbed; a share `--keep` of the masks passes the predicted IoU, stability is off
and nothing is thinned. Such masks are noise: each has a hundred times the runs of a real one, so the share of the
machinery is too large and signs flip more often than between real masks. Times are the best of `--rounds`;
segment-anything is asked at every batch and its best one counts. Exact's records are compared with it field by field
before a time is printed; the others claim no equality: `flips` are signs of low-resolution logits that differ from
exact's, by the million; `found` are masks here and in exact; `same` is the share of exact's masks with an equal
one at the same point, `worst IoU` of those that have none the smallest overlap with the nearest one there.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator

from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.load import KINDS, SamShape, build
from ovseg.sam.model import Embedding, MaskModel

Records = list[dict[str, Any]]

CHOICES: list[dict[str, str]] = [
    {},
    {"algebra": "folded"},
    {"precision": "bfloat16"},
    {"runtime": "openvino"},
    {"runtime": "openvino", "precision": "bfloat16"},
]
GFLOP = {"exact": 2.82, "folded": 1.71}  # vit_b's decoder for a prompt with all its masks, layer 0 shared


def network(shape: SamShape) -> Any:
    torch.manual_seed(0)
    sam = build(shape).eval().requires_grad_(False)
    for parameter in sam.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    return sam


def timed(call: Any, rounds: int) -> tuple[Any, float, float]:
    """What a call gives, its best CPU seconds and its best seconds, after one call to warm up."""
    found = call()
    took = []
    for _ in range(rounds):
        processor, wall = time.process_time(), time.perf_counter()
        call()
        took.append((time.process_time() - processor, time.perf_counter() - wall))
    return found, min(cpu for cpu, _ in took), min(wall for _, wall in took)


def signs(model: MaskModel, embedding: Embedding, points: np.ndarray) -> torch.Tensor:
    """Where the low-resolution logits of all masks of these points are positive."""
    prompts = model.points(points[:, None], np.ones((len(points), 1), np.int64), embedding)
    every = model.answer(model.shared(embedding), prompts)
    return torch.cat([model.logits(answer, torch.arange(len(answer.quality))) > 0 for _, answer in every])


def overlaps(found: Records, wanted: Records) -> list[float]:
    """Of every wanted mask the largest IoU with one that was found at its point."""
    at = defaultdict(list)
    for record in found:
        at[tuple(record["point_coords"][0])].append(record["segmentation"])
    out = []
    for record in wanted:
        near = at[tuple(record["point_coords"][0])]
        out.append(float(coco.iou([record["segmentation"]], near, [0] * len(near)).max()) if near else 0.0)
    return out


def decoder(asked: argparse.Namespace) -> None:
    from tests.bench.masks import same

    sam = network(SamShape(width=24, depth=1, heads=2, global_blocks=(0,)))
    image = np.random.default_rng(0).integers(0, 256, (*asked.size, 3), np.uint8)
    options: dict[str, Any] = {
        "points_per_side": asked.points,
        "output_mode": "coco_rle",
        "stability_score_thresh": 0.0,
        "box_nms_thresh": 1.0,
    }
    exact = MaskModel(sam)
    embedding = exact.encode(image)
    every = AutomaticMaskGenerator(exact, pred_iou_thresh=0.0, **options).generate(image, embedding)
    order = sorted((record["predicted_iou"] for record in every), reverse=True)
    kept = max(1, min(len(order) - 1, round(asked.keep * len(order))))
    options["pred_iou_thresh"] = (order[kept - 1] + order[kept]) / 2
    points = np.random.default_rng(1).uniform(0, min(asked.size), (16, 2))
    wanted_signs = signs(exact, embedding, points)

    wanted = AutomaticMaskGenerator(exact, **options).generate(image, embedding)
    encoder, sam.image_encoder.forward = sam.image_encoder.forward, lambda pixels: embedding.features
    peers = []
    print("| segment-anything | masks | CPU s | s |\n|---|---|---|---|")
    for batch in asked.batches:
        peer = SamAutomaticMaskGenerator(sam, points_per_batch=batch, **options)
        theirs, cpu, wall = timed(lambda peer=peer: peer.generate(image), asked.rounds)
        fault = same(theirs, wanted)
        shown = f"records differ: {fault} |" if fault else f"{cpu:.2f} | {wall:.2f}"
        print(f"| batch {batch} | {len(theirs)} | {shown} |", flush=True)
        if not fault:
            peers.append((cpu, wall))
    sam.image_encoder.forward = encoder
    best_cpu, best_wall = (min(numbers) for numbers in zip(*peers, strict=True))
    print(
        "\n| computed | CPU s | s | CPU ratio | ratio | GFLOP/s | flips | found | same | worst IoU |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for choice in CHOICES:
        model = MaskModel(sam, **choice)
        ours = AutomaticMaskGenerator(model, **options)
        found, cpu, wall = timed(lambda ours=ours: ours.generate(image, embedding), asked.rounds)
        own, _, spent = timed(lambda model=model: signs(model, embedding, points), asked.rounds)
        near = overlaps(found, wanted)
        flips = 1e6 * float((own != wanted_signs).float().mean())
        equal = 100 * np.mean(np.equal(near, 1))
        speed = len(points) * GFLOP[model.algebra] / spent
        times = f"{cpu:.2f} | {wall:.2f} | {best_cpu / cpu:.1f} | {best_wall / wall:.1f} | {speed:.0f}"
        masks = f"{flips:.1f} | {len(found)} for {len(wanted)} | {equal:.1f} % | {min(near):.5f}"
        print(f"| {model.computed} | {times} | {masks} |", flush=True)


def encoder(asked: argparse.Namespace) -> None:
    sam = network(KINDS[asked.encoder])
    image = np.random.default_rng(0).integers(0, 256, (*asked.size, 3), np.uint8)
    wanted = None
    print("| computed | first call s | CPU s | s | largest difference |\n|---|---|---|---|---|")
    for choice in CHOICES:
        model = MaskModel(sam, **choice)
        begin = time.perf_counter()
        model.encode(image)
        first = time.perf_counter() - begin
        found, cpu, wall = timed(lambda model=model: model.encode(image).features, asked.rounds)
        wanted = found if wanted is None else wanted
        off = float((found - wanted).abs().max() / wanted.abs().max())
        print(f"| {model.computed} | {first:.2f} | {cpu:.2f} | {wall:.2f} | {off:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=float, default=1 / 3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--encoder", choices=sorted(KINDS))
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    what = f"encoder of {asked.encoder}" if asked.encoder else f"decoder, {asked.points} x {asked.points} points"
    print(f"{what}, {asked.size[0]}x{asked.size[1]}, {torch.get_num_threads()} threads, load {load}\n")
    (encoder if asked.encoder else decoder)(asked)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
