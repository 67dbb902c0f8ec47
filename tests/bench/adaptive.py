"""What `adaptive` finds of what `exact` finds, and for how many decodes: on drawn scenes, or by a network on pictures.

    PYTHONPATH=. python tests/bench/adaptive.py --seeds 8 9 10 11 12 13 14 15
    PYTHONPATH=. python tests/bench/adaptive.py --model weights/tiny/sam.safetensors --count 20 [--seeds 1]

Without a network: `OpaqueScene` of tests/sam/stubs.py, 480x640 (rows x cols), 32 x 32 points, default cuts. The rule
was chosen on seeds 0 to 7. With one: held-out sheets of weights/tiny (exact masks of things and parts), a seed each.

objects   of the true whole things (what is seen of them; no parts) that a mask of `exact` meets at the IoU, the share
          that a mask of the other meets as well
masks     of all masks of `exact`, the share that a mask of the other meets
decodes   of the points on the grid
CPU       seconds of decoder and machinery, the embedding given, as a share of `exact`'s

The first two are counted over all pictures together, and so are decodes; "worst" is that of one picture. Nothing is
asserted.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.masks import iou
from ovseg.raster import Rle, encode_rle
from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.load import load_model
from ovseg.sam.runs import Kept
from tests.sam.stubs import OpaqueScene, stubs

SIZE = (480, 640)


def drawn(seeds: list[int]) -> Iterator[tuple[str, Any, np.ndarray, list[Rle]]]:
    """For each seed its name, a model, a picture (which it does not look at) and the true things."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for seed in seeds:
        scene = OpaqueScene(*SIZE, seed=seed)
        _, stub = stubs(scene)
        way = stub.stretch(stub.encode(image))
        cuts = [way.cut(scene.distance(thing), 0.0, 1.0) for thing in scene.things]
        yield f"scene {seed}", stub, image, [Kept.of(cut).rle(*SIZE) for cut in cuts if cut.bits.any()]


def painted(path: Path, count: int, seeds: list[int]) -> Iterator[tuple[str, Any, np.ndarray, list[Rle]]]:
    """The same of held-out sheets, with a network; a thing is what no other mask of the truth holds."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "weights" / "tiny"))
    from report_sam import sheets

    model = load_model(path)
    for seed in seeds:
        for sheet, truths in sheets(count, seed):
            whole = [not any((one <= other).all() and other.sum() > one.sum() for other in truths) for one in truths]
            side = sheet.picture.shape[0]
            things = [
                encode_rle(one.reshape(side, side)) for one, is_whole in zip(truths, whole, strict=True) if is_whole
            ]
            yield f"sheets {seed}", model, sheet.picture, things


def best(ones: list[Rle] | tuple[Rle, ...], others: list[Rle] | tuple[Rle, ...]) -> np.ndarray:
    return iou(ones, others).max(axis=1) if len(ones) and len(others) else np.zeros(len(ones))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=20, help="pictures a seed")
    parser.add_argument("--iou", type=float, default=0.9, help="at which one mask meets another")
    parser.add_argument("--pred-iou-thresh", type=float, default=0.88)
    parser.add_argument("--stability-score-thresh", type=float, default=0.95)
    asked = parser.parse_args()
    cuts = {"pred_iou_thresh": asked.pred_iou_thresh, "stability_score_thresh": asked.stability_score_thresh}
    # a column: [things that exact finds, of them found, things, found of all, exact's masks, of them found, share of
    # decodes, seconds, exact's seconds]
    table: dict[str, list[list[float]]] = {"objects": [], "parts": []}
    seeds = asked.seeds or ([1] if asked.model else list(range(8, 16)))
    given = painted(asked.model, asked.count, seeds) if asked.model else drawn(seeds)
    for _, model, image, things in given:
        embedding = model.encode(image)
        if not asked.model:  # so that no clock sees the drawing
            AutomaticMaskGenerator(model, **cuts).regions(image, embedding)
        start = time.process_time()
        exact, work = AutomaticMaskGenerator(model, **cuts).regions(image, embedding)
        exact_took = time.process_time() - start
        there = best(things, exact.rles) >= asked.iou
        for recall, rows in table.items():
            start = time.process_time()
            some, less = AutomaticMaskGenerator(model, mode="adaptive", recall=recall, **cuts).regions(image, embedding)
            took = time.process_time() - start
            also = best(things, some.rles) >= asked.iou
            met = best(exact.rles, some.rles) >= asked.iou
            rows.append(
                [
                    there.sum(), (there & also).sum(), len(things), also.sum(), len(exact), met.sum(),
                    less.decoded / work.decoded, took, exact_took,
                ]
            )  # fmt: skip
    print(f"{len(table['objects'])} pictures, IoU {asked.iou}, cuts {cuts}\n")
    print("| recall | objects | worst | masks | things found, of exact's, of all | decodes | worst | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for recall, rows in table.items():
        numbers = np.array(rows, float)
        sums = numbers.sum(axis=0)
        worst = (numbers[:, 1] / np.maximum(numbers[:, 0], 1))[numbers[:, 0] > 0].min(initial=1.0)
        print(
            f"| {recall} | {sums[1] / max(1, sums[0]):.3f} | {worst:.3f} | {sums[5] / max(1, sums[4]):.3f} | "
            f"{sums[3]:.0f}, {sums[0]:.0f}, {sums[2]:.0f} | {numbers[:, 6].mean():.0%} | {numbers[:, 6].max():.0%} | "
            f"{sums[7] / max(1e-9, sums[8]):.0%} |"
        )


if __name__ == "__main__":
    main()
