"""Which dense method is best on the bundled model: every row of `LAST_BLOCKS`, with intervals.

    python weights/tiny/order.py [--seed 0 --seed 1 --seed 2] [--count 100] [--part all]

The compositions are those of `report.py`, the settings the tiny preset's for all rows alike (sizes, scale, negatives,
threshold). The threshold was chosen for maskclip-reduced; *right* depends on none. Each picture goes through the
tower once a size, and every row reads the same taps; a guided row is guided by the tower itself ("self").

Intervals are 95 %, by bootstrap over compositions within each seed; *behind* is the paired difference to the first row
in mIoU points, on the same resamples. They say how sure the order is on this model and these drawings, and nothing
about other models: this one was trained on its value path.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from report import PARTS, Composition, compositions

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from ovseg import geometry, images, labels  # noqa: E402  (the one of this checkout)
from ovseg.clip import tower  # noqa: E402
from ovseg.clip.attention import read, taps_of  # noqa: E402
from ovseg.clip.guides import load_guide  # noqa: E402
from ovseg.clip.load import Clip  # noqa: E402
from ovseg.clip.methods import LAST_BLOCKS  # noqa: E402
from ovseg.clip.program import LastBlock  # noqa: E402
from ovseg.clip.sight import Sight  # noqa: E402
from ovseg.encoders import Described  # noqa: E402
from ovseg.pipeline import Pipeline  # noqa: E402
from ovseg.raster import upsample  # noqa: E402
from ovseg.recipe import Recipe  # noqa: E402
from ovseg.types import DenseFeatures, Regions  # noqa: E402

SEEDS = (0, 1, 2)
RESAMPLES = 2000
TOGETHER = 10  # pictures in one pass: bounds the explicit attention matrices


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels of one method on one seed's compositions, each (compositions, words); words in the order of `words`."""

    hit: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]

    def miou(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean IoU over the words that occur, for each row of `times`: how often each composition is counted."""
        hit, predicted, true = (times @ pixels for pixels in (self.hit, self.predicted, self.true))
        return np.where(true > 0, hit / np.maximum(true + predicted - hit, 1), 0).sum(1) / (true > 0).sum(1)


@dataclass(frozen=True, eq=False)
class Tally:
    """What one method did on one seed: asked the names present, asked 20 absent ones as well, and free of thresholds.

    `right` and `objects` are object pixels of each composition: those named right among the present, and all.
    """

    present: Counts
    crowded: Counts
    right: NDArray[np.int64]
    objects: NDArray[np.int64]

    def numbers(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """(3, resamples) in percent: right, mIoU, mIoU with 20 absent names."""
        right = (times @ self.right) / (times @ self.objects)
        return 100 * np.stack([right, self.present.miou(times), self.crowded.miou(times)])


def cells(
    clip: Clip, pictures: Sequence[NDArray[np.uint8]], rows: Mapping[str, LastBlock], recipe: Recipe
) -> dict[str, NDArray[np.float32]]:
    """Unit features (pictures, dim, rows, cols) of each row, from one pass a size: what `dense.encode` gives each.

    Pictures of one size, read whole (crop -1) under the fast protocol.
    """
    walk, (height, width) = tower.check(clip.visual, "vanilla"), pictures[0].shape[:2]
    guided = any("guide" in row.needs for row in rows.values())
    guide = load_guide("self", clip=clip) if guided else None
    wanted = sorted({number for row in rows.values() for number in taps_of(row, walk.depth)})
    sizes = [
        geometry.fit(height, width, round(recipe.short_side * scale), walk.patch[0], round(recipe.long_side * scale))
        for scale in recipe.scales
    ]
    finest = tuple(side // walk.patch[0] for side in max(sizes))
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.mean, clip.std))
    out: dict[str, list[NDArray[np.float32]]] = {name: [] for name in rows}
    for start in range(0, len(pictures), TOGETHER):
        total: dict[str, NDArray[np.float32]] = {}
        for size in sizes:
            some = [images.resize(picture, *size) for picture in pictures[start : start + TOGETHER]]
            pixels = (torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float() / 255 - mean) / std
            with torch.inference_mode():
                taps, grid = tower.prefix(walk, pixels, wanted), tower.grid_of(walk, pixels)
                given = {"guide": guide.features(pixels, mean=clip.mean, std=clip.std)} if guide else {}
                for name, row in rows.items():
                    found = read(Sight(walk, taps, grid, given), row)
                    unit = F.normalize(found.cells, dim=-1)
                    if row.cls_logits and found.own is not None:
                        unit = unit + row.cls_logits * F.normalize(found.own, dim=-1)[:, None, None]
                    maps = F.normalize(unit, dim=-1).permute(0, 3, 1, 2).numpy()
                    total[name] = total.get(name, np.float32(0)) + np.stack([upsample(one, *finest) for one in maps])
        for name, summed in total.items():
            out[name].append(summed / np.linalg.norm(summed, axis=1, keepdims=True))
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in out.items()}


def count(labelled: Sequence[tuple[list[str], NDArray[np.int16], NDArray[np.int64]]], words: Sequence[str]) -> Counts:
    """Pixels of (names present, labels, truth) of each composition, by word; labels of absent names are nobody's."""
    place = {word: number for number, word in enumerate(words)}
    hit, predicted, true = (np.zeros((len(labelled), len(words)), np.int64) for _ in range(3))
    for scene, (names, found, truth) in enumerate(labelled):
        where = [place[name] for name in names]
        found = np.where(found < len(names), found, -1)
        hit[scene, where] = np.bincount(found[(found == truth) & (found >= 0)], minlength=len(names))
        predicted[scene, where] = np.bincount(found[found >= 0], minlength=len(names))
        true[scene, where] = np.bincount(truth[truth >= 0], minlength=len(names))
    return Counts(hit, predicted, true)


def tally(pipe: Pipeline, scenes: Sequence[Composition], features: NDArray[np.float32], words: Sequence[str]) -> Tally:
    """One method's features of the scenes, asked as `report.py` asks."""
    free, present, crowded = [], [], []
    alone = pipe.recipe.replace(negatives="none", threshold=0.0)
    for (picture, truth, names, absent), vectors in zip(scenes, features, strict=True):
        height, width = picture.shape[:2]
        dense = DenseFeatures(vectors, vectors.mean(axis=(1, 2)), height, width)
        plain = _asked(pipe, dense, names, alone)
        free.append((int((plain == truth)[truth >= 0].sum()), int((truth >= 0).sum())))
        present.append((names, _asked(pipe, dense, names, pipe.recipe), truth))
        crowded.append((names, _asked(pipe, dense, names + absent, pipe.recipe), truth))
    right, objects = np.array(free).T
    return Tally(count(present, words), count(crowded, words), right, objects)


def _asked(pipe: Pipeline, dense: DenseFeatures, names: list[str], recipe: Recipe) -> NDArray[np.int16]:
    vocabulary = pipe.vocabulary(names, negatives=recipe.negatives)
    nothing, vectors = Regions.empty(dense.height, dense.width), np.zeros((0, len(dense.vectors)), np.float32)
    return labels.compose(dense, vocabulary, regions=nothing, described=Described(vectors), recipe=recipe).labels


def resamples(scenes: int, seed: int) -> NDArray[np.int64]:
    """How often each composition is counted, (1 + RESAMPLES, scenes): once each first, then drawn with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    return np.concatenate([np.ones((1, scenes), np.int64), drawn])


def measured(
    pipe: Pipeline,
    rows: Mapping[str, LastBlock],
    seeds: Sequence[int],
    scenes: int,
    part: str = "all",
    told: Callable[[str], object] = lambda text: None,
) -> dict[str, NDArray[np.float64]]:
    """(seeds, 3, 1 + RESAMPLES) of each row: right, mIoU, mIoU +20 in percent, of all compositions and resampled."""
    out: dict[str, list[NDArray[np.float64]]] = {name: [] for name in rows}
    for seed in seeds:
        composed = compositions(scenes, seed, 0.0, part)
        words = sorted({name for _, _, names, _ in composed for name in names})
        times = resamples(scenes, seed)
        found = cells(pipe.clip, [picture for picture, *_ in composed], rows, pipe.recipe)
        for name, features in found.items():
            out[name].append(tally(pipe, composed, features, words).numbers(times))
            told(f"seed {seed}: {name} {out[name][-1][:, 0].round(1).tolist()}")
    return {name: np.stack(numbers) for name, numbers in out.items()}


def interval(numbers: NDArray[np.float64]) -> str:
    """The first of the numbers, with the 95 % interval of the others."""
    low, high = np.percentile(numbers[1:], [2.5, 97.5])
    return f"{numbers[0]:.1f} [{low:.1f}, {high:.1f}]"


def table(numbers: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Lines of Markdown, the best mIoU over the names present first."""
    means = {name: found.mean(axis=0) for name, found in numbers.items()}
    order = sorted(means, key=lambda name: -means[name][1, 0])
    seeds = len(next(iter(numbers.values())))
    lines = [
        f"| method | mIoU % | its {seeds} seeds | behind | mIoU +20 % | behind | right % | behind |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in order:
        mine, first = means[name], means[order[0]]
        each = " ".join(f"{value:.1f}" for value in numbers[name][:, 1, 0])
        behind = ["-" if name == order[0] else interval(first[of] - mine[of]) for of in (1, 2, 0)]
        lines.append(
            f"| {name} | {interval(mine[1])} | {each} | {behind[0]} | {interval(mine[2])} | {behind[1]} | "
            f"{interval(mine[0])} | {behind[2]} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1, 2")
    parser.add_argument("--count", type=int, default=100, help="compositions a seed")
    parser.add_argument("--part", choices=PARTS, default="all", help="half of the held-out names, or all")
    parser.add_argument("--method", action="append", choices=list(LAST_BLOCKS), help="default: all")
    args = parser.parse_args()
    rows = {name: LAST_BLOCKS[name] for name in args.method or LAST_BLOCKS}
    pipe = Pipeline.open("tiny", cache=None, proposer="none", proposer_options={}, absent="off", negatives="word")

    def told(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    print("\n".join(table(measured(pipe, rows, args.seed or SEEDS, args.count, args.part, told))))


if __name__ == "__main__":
    main()
