"""Measure the tiny SAM on a drawing style and on shapes that it has never seen.

    python weights/tiny/report_sam.py [--model weights/tiny/sam.safetensors] [--count 100] [--seed 0] [--look FOLDER]

Held-out sheets (twemoji sprites; stars, crescents, hearts, gears, crosses; surfaces of another seed), read by
segment-anything's own predictor and automatic generator at full resolution. Truths are things and their parts, not the
grounds; small ones have less than 2 % of the picture. Two tables:

- prompts: mean IoU of the best of three masks and of the first one, from a random point of the mask and from its box,
  and the rank correlation of told and true IoU over the three masks;
- everything: mean IoU of the best proposal among the first 100, average recall (IoU 0.5 to 0.95) of the first 10 and
  100, for the network, for Felzenszwalb's segments (the leaves, largest first) and for the merge tree upon them.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from figures import Sheet
from numpy.typing import NDArray
from train_sam import SIDE, held_out_painter, members

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ovseg  # noqa: E402  (the one of this checkout)
from ovseg.proposals import propose  # noqa: E402
from ovseg.raster import decode_rle  # noqa: E402
from ovseg.sam.load import load  # noqa: E402

Masks = NDArray[np.bool_]  # (N, pixels)
SMALL = 0.02  # of the picture
CUTS = np.linspace(0.5, 0.95, 10)
# No cuts: the ranking by predicted IoU alone decides what comes among the first.
GENERATOR = {"points_per_side": 16, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.7}


def sheets(count: int, seed: int) -> list[tuple[Sheet, Masks]]:
    """Pictures with the masks of their things and parts, at least one each."""
    painter, out = held_out_painter(seed), []
    while len(out) < count:
        sheet = painter.paint(SIDE)
        table = members(sheet.masks[sheet.grounds :])
        if len(table):
            out.append((sheet, np.stack([row[sheet.leaves].ravel() > 0 for row in table])))
    return out


def ious(ones: Masks, others: Masks) -> NDArray[np.float32]:
    """(N, M); no columns where there is nothing to compare with."""
    first, second = ones.astype(np.float32), others.reshape(-1, ones.shape[1]).astype(np.float32)
    both = first @ second.T
    return both / np.maximum(first.sum(1)[:, None] + second.sum(1)[None] - both, 1)


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)


def prompted(predictor: Any, scenes: list[tuple[Sheet, Masks]], seed: int) -> dict[str, Any]:
    """IoUs of every truth (truths, 4 masks) and told ones (truths, 4), from a point and from a box; and its area."""
    rng = np.random.default_rng((seed, 1))
    found: dict[str, list[Any]] = {"point": [], "box": [], "told": [], "area": []}
    for sheet, truths in scenes:
        predictor.set_image(sheet.picture)
        for truth in truths:
            at = rng.choice(np.flatnonzero(truth))
            rows, columns = np.divmod(np.flatnonzero(truth), SIDE)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            point = {"point_coords": np.array([[at % SIDE, at // SIDE]]), "point_labels": np.ones(1)}
            for name, prompt in (("point", point), ("box", {"box": box})):
                three, told, _ = predictor.predict(**prompt, multimask_output=True)
                first, _, _ = predictor.predict(**prompt, multimask_output=False)
                got = ious(truth[None], np.concatenate([first, three]).reshape(4, -1))[0]
                found[name].append(got)
                if name == "point":
                    found["told"].append(told)
            found["area"].append(truth.mean())
    return {name: np.array(values) for name, values in found.items()}


def recall(scenes: list[tuple[Sheet, Masks]], proposals: list[Masks]) -> list[float]:
    """[mean best IoU, AR@10, AR@100, AR@100 of the small, AR@100 of the large]."""
    best, ten, area = [], [], []
    for (_, truths), masks in zip(scenes, proposals, strict=True):
        table = np.pad(ious(truths, masks), ((0, 0), (1, 0)))
        best.append(table[:, :101].max(1))
        ten.append(table[:, :11].max(1))
        area.append(truths.mean(1))
    best, ten, area = (np.concatenate(part) for part in (best, ten, area))
    reached = (best[:, None] >= CUTS).mean(1)
    small = area < SMALL
    return [
        float(best.mean()), float((ten[:, None] >= CUTS).mean()), float(reached.mean()), float(reached[small].mean()),
        float(reached[~small].mean()),
    ]  # fmt: skip


def by_sam(sam: Any, **changes: float) -> Callable[[NDArray[np.uint8]], Masks]:
    from segment_anything import SamAutomaticMaskGenerator

    generator = SamAutomaticMaskGenerator(sam, **GENERATOR | changes)

    def masks(picture: NDArray[np.uint8]) -> Masks:
        records = sorted(generator.generate(picture), key=lambda record: -record["predicted_iou"])
        return np.array([record["segmentation"].ravel() for record in records], bool).reshape(-1, SIDE**2)

    return masks


def by_leaves(picture: NDArray[np.uint8]) -> Masks:
    from skimage.segmentation import felzenszwalb

    segments = felzenszwalb(picture, scale=300, sigma=0.8, min_size=50).ravel()
    order = np.argsort(-np.bincount(segments), kind="stable")[:100]
    return segments[None] == order[:, None]


def by_tree(pipe: Any) -> Callable[[NDArray[np.uint8]], Masks]:
    def masks(picture: NDArray[np.uint8]) -> Masks:
        regions = propose("felzenszwalb", picture, pipe.encode(picture).features)
        return np.array([decode_rle(rle).ravel() for rle in regions.rles], bool).reshape(-1, SIDE**2)

    return masks


def look(scenes: list[tuple[Sheet, Masks]], proposals: list[Masks], folder: Path) -> None:
    """Two sheets of ten pictures: the picture, its truths, and what the network proposes, smaller upon larger."""
    folder.mkdir(parents=True, exist_ok=True)
    palette = np.random.default_rng(3).integers(40, 256, (256, 3)).astype(np.uint8)

    def painted(masks: Masks) -> NDArray[np.uint8]:
        owner = np.zeros(SIDE**2, int)
        for number, index in enumerate(np.argsort(-masks.sum(1), kind="stable"), 1):
            owner[masks[index]] = number % 255 + 1
        return np.where(owner[:, None] > 0, palette[owner], 0).reshape(SIDE, SIDE, 3).astype(np.uint8)

    for start in range(0, 20, 10):
        columns = [
            np.concatenate([sheet.picture, painted(truths), painted(masks[:100])])
            for (sheet, truths), masks in zip(scenes[start : start + 10], proposals[start : start + 10], strict=True)
        ]
        cv2.imwrite(str(folder / f"look_{start // 10}.png"), np.concatenate(columns, 1)[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "sam.safetensors")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look", type=Path, help="a folder for pictures of twenty scenes and their masks")
    args = parser.parse_args()
    from segment_anything import SamPredictor

    scenes = sheets(args.count, args.seed)
    sam = load(args.model, "tiny")
    with torch.inference_mode():
        found = prompted(SamPredictor(sam), scenes, args.seed)
    small = found["area"] < SMALL
    told, true = found["told"].ravel(), found["point"][:, 1:].ravel()
    agreement = np.corrcoef(ranks(told), ranks(true))[0, 1]
    print(f"seed {args.seed}, {args.count} pictures, {len(small)} masks, {small.mean():.0%} of them small\n")
    print("| prompt | best of three | small | large | first mask |\n|---|---|---|---|---|")
    for name in ("point", "box"):
        best = found[name][:, 1:].max(1)
        cells = [best.mean(), best[small].mean(), best[~small].mean(), found[name][:, 0].mean()]
        print(f"| one {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
    print(f"\nrank correlation of told and true IoU: {agreement:.2f}\n", flush=True)
    pipe = ovseg.Pipeline.open("tiny", cache=None)
    proposers = {"tiny SAM, 16x16 points": by_sam(sam), "Felzenszwalb": by_leaves, "merge tree": by_tree(pipe)}
    print("| everything | mean best IoU | AR@10 | AR@100 | small | large | masks |\n|---|---|---|---|---|---|---|")
    for name, masks in proposers.items():
        proposals = [masks(sheet.picture) for sheet, _ in scenes]
        numbers = " | ".join(f"{value:.3f}" for value in recall(scenes, proposals))
        print(f"| {name} | {numbers} | {np.mean([len(one) for one in proposals]):.0f} |", flush=True)
    if args.look:  # what its own cuts keep
        own = by_sam(sam, **dict(zip(("pred_iou_thresh", "stability_score_thresh"), sam.cuts, strict=True)))
        look(scenes, [own(sheet.picture) for sheet, _ in scenes[:20]], args.look)


if __name__ == "__main__":
    main()
