"""Measure a model on a drawing style that it has never seen.

    python weights/tiny/report.py [--seed 0] [--count 200]

Compositions of 1 to 4 held-out (twemoji) sprites on surfaces made with another seed than in training, with shadows,
light and sensor effects. Each is read by ``ovseg.Pipeline`` with each method, the preset's other choices and no
proposals, then by the preset as it is; printed are, in percent:

- right: object pixels given to the right name, choosing among the present names only (no negatives, no threshold);
- mIoU: over the names present, at the preset's negatives and threshold;
- mIoU +20: the same with 20 absent names asked as well;
- absent: share of all pixels that one of those absent names gets at the default threshold.

The confusion is summed over all compositions; IoU is taken of each name and averaged over the names that occur.
Ground that is given to a name counts in the union of that name.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from compose import Composer, texture_bank
from numpy.typing import NDArray
from words import GROUND, overlaps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ovseg  # noqa: E402  (the one of this checkout)

METHODS = ("vanilla", "maskclip", "maskclip-reduced", "sclip", "clearclip", "naclip")
ABSENT = 20
SIDE = 256


def held_out(folder: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """(sprites (N, S, S, 4), their names) of the style that is never trained on."""
    with np.load(folder / "heldout.npz") as pack:
        parts = np.split(pack["png"], pack["ends"][:-1])
        names = [str(name) for name in pack["names"]]
    sprites = [cv2.cvtColor(cv2.imdecode(part, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA) for part in parts]
    return np.stack(sprites), names


class Tally:
    """Pixels of each name: right, predicted, true."""

    def __init__(self) -> None:
        self.hit: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.true: Counter[str] = Counter()

    def add(self, names: list[str], labels: NDArray[Any], truth: NDArray[Any]) -> None:
        for index, name in enumerate(names):
            self.hit[name] += int(((labels == index) & (truth == index)).sum())
            self.predicted[name] += int((labels == index).sum())
            self.true[name] += int((truth == index).sum())

    @property
    def miou(self) -> float:
        present = [name for name, count in self.true.items() if count]
        return float(
            np.mean([self.hit[name] / (self.true[name] + self.predicted[name] - self.hit[name]) for name in present])
        )


Composition = tuple[NDArray[np.uint8], NDArray[np.int64], list[str], list[str]]
PARTS = ("all", "development", "confirmation")


def part_of(sprites: NDArray[np.uint8], names: list[str], part: str) -> tuple[NDArray[np.uint8], list[str]]:
    """The sprites of every second name, in alphabetical order, or of the others; or all of them."""
    if part == "all":
        return sprites, names
    ours = set(sorted(set(names))[PARTS.index(part) - 1 :: 2])
    chosen = [number for number, name in enumerate(names) if name in ours]
    return sprites[chosen], [names[number] for number in chosen]


def compositions(count: int, seed: int, style: float, part: str = "all") -> list[Composition]:
    """(picture, truth with -1 for the ground, names present, absent names) of each."""
    rng = np.random.default_rng(seed)
    sprites, names = part_of(*held_out(Path(__file__).parent), part)
    composer = Composer(sprites, names, {}, texture_bank(list(GROUND), seed=1000 + seed, each=3), rng, style=style)
    related = overlaps()
    out = []
    while len(out) < count:
        chosen = [str(word) for word in rng.choice(composer.words, int(rng.integers(1, 5)), replace=False)]
        scene = composer.compose(SIDE, SIDE, chosen, sizes=(0.3, 0.8))
        if len({word for word in scene.words if word in chosen}) < len(chosen):
            continue  # something is hidden behind the rest
        truth = np.full(scene.segments.shape, -1)
        for segment, word in enumerate(scene.words):
            if word in chosen:
                truth[scene.segments == segment] = chosen.index(word)
        excused = set(chosen).union(*(related.get(word, set()) for word in chosen))
        absent = rng.choice([word for word in composer.words if word not in excused], ABSENT, replace=False)
        out.append((scene.picture, truth, chosen, [str(word) for word in absent]))
    return out


def measure(pipe: Any, scenes: list[Any], **choices: Any) -> tuple[float, float, float, float]:
    present, crowded, right, objects, absent_share = Tally(), Tally(), 0, 0, []
    for picture, truth, names, absent in scenes:
        encoding = pipe.encode(picture)
        free = pipe.segment(encoding, names, negatives="none", threshold=0.0).labels
        named = truth >= 0
        right += int((free == truth)[named].sum())
        objects += int(named.sum())
        present.add(names, pipe.segment(encoding, names, **choices).labels, truth)
        labels = pipe.segment(encoding, names + absent, **choices).labels
        crowded.add(names, labels, truth)
        absent_share.append(float((labels >= len(names)).mean()))
    return right / objects, present.miou, crowded.miou, float(np.mean(absent_share))


# Photographs that scikit-image ships, a box (top, left, bottom, right, shares of the sides) around the thing, its name.
PHOTOGRAPHS = (
    ("chelsea", (0.05, 0.15, 1.0, 0.85), "cat"),
    ("coffee", (0.12, 0.25, 0.95, 0.75), "cup"),
    ("rocket", (0.1, 0.42, 0.9, 0.58), "rocket"),
    ("stereo_motorcycle", (0.1, 0.15, 0.95, 0.9), "motorcycle"),
    ("astronaut", (0.0, 0.1, 1.0, 0.8), "astronaut"),
)
OTHERS = (
    "dog horse apple banana guitar violin hammer scissors chair clock umbrella airplane bus bicycle fish bird key"
).split()


def photographs(pipe: Any) -> list[tuple[str, float, str]]:
    """(name, share of its box that gets it among 22 names, what most of the box gets). Five pictures: a hint."""
    import skimage.data

    names = [name for _, _, name in PHOTOGRAPHS] + OTHERS
    out = []
    for source, (top, left, bottom, right), name in PHOTOGRAPHS:
        photo = getattr(skimage.data, source)()
        photo = photo[0] if isinstance(photo, tuple) else photo
        height, width = photo.shape[:2]
        labels = pipe.segment(photo, names, negatives="none", threshold=0.0).labels
        inside = labels[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
        counts = np.bincount(inside[inside >= 0], minlength=len(names))
        out.append((name, float(counts[names.index(name)] / inside.size), names[int(counts.argmax())]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument(
        "--style", type=float, default=0.0, help="1: the drawings' colours and surfaces are changed as in training"
    )
    parser.add_argument("--method", action="append", choices=list(ovseg.LAST_BLOCKS), help="default: six methods")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CHOICE=VALUE",
        help="another choice of the recipe, for instance short_side=224",
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--photographs", action="store_true", help="also five photographs, named among 22 names")
    args = parser.parse_args()
    changes = {
        key: float(value) if "." in value else int(value) if value.lstrip("-").isdigit() else value
        for key, value in (item.split("=") for item in args.set)
    }
    scenes = compositions(args.count, args.seed, args.style)
    print(
        f"seed {args.seed}, {args.count} compositions, {len({name for scene in scenes for name in scene[2]})} names, "
        f"{changes or 'preset as it is'}\n"
    )
    print("| method | right % | mIoU % | mIoU +20 % | absent % |\n|---|---|---|---|---|")
    plain = {"absent": "off", "negatives": "word"}  # every name may claim pixels, whether it is there or not
    alone = {"proposer": "none", "proposer_options": {}, **plain}
    rows = [(method, {"method": method, **alone}) for method in args.method or METHODS]
    model = {"model": args.model} if args.model != "tiny" else {}
    for name, choices in [
        *rows,
        *([] if args.method else [("the preset, all names asked", plain), ("the preset", {})]),
    ]:
        numbers = measure(ovseg.Pipeline.open("tiny", cache=None, **model, **{**choices, **changes}), scenes)
        print(f"| {name} | " + " | ".join(f"{100 * number:.1f}" for number in numbers) + " |", flush=True)
    if args.photographs:
        print("\n| photograph of | box named right % | most of the box |\n|---|---|---|")
        for name, share, most in photographs(ovseg.Pipeline.open("tiny", cache=None, **changes)):
            print(f"| {name} | {100 * share:.1f} | {most} |")


if __name__ == "__main__":
    main()
