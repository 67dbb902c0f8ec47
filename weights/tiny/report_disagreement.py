"""Does disagreement of recipes foretell what is wrong? On drawings whose truth is known, of a style never seen.

    python weights/tiny/report_disagreement.py [--count 150] [--compare two-level,proposer=none] [--fit]

The compositions are those of `report.py`; each is asked its own names and `ABSENT` absent ones. The tiny preset's
answer is under review, the other recipes are held against it. The weights of effort (`ovseg.disagreement.DRAWINGS`)
are fitted to one half of the names (`development`); printed is the other half (`confirmation`), which took no part.
`--fit` fits anew, prints the weights and reports with them; without it those of the program are used.

- wrong: a pixel whose label is not the truth's (-1 for the ground);
- AUROC: how well a number a pixel tells wrong from right, over all pixels, those with a label, those without;
- rank: Spearman's correlation over pictures, of the number's mean (or sum) with what is really wrong;
- touches: regions of which less than `RIGHT` is right, and things of which more than half has no label.

Intervals are 95 %, by bootstrap over pictures; differences are paired.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import compositions
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ovseg  # noqa: E402  (the one of this checkout)
from ovseg.disagreement import DRAWINGS, Chances, Disagreement, fitted  # noqa: E402
from ovseg.raster import decode_rle  # noqa: E402

ABSENT = 6
RIGHT = 0.75  # of a region: below it somebody has to touch it
BINS = 512  # of numbers in [0, 1], for AUROC
STEP = 13  # every so many pixels are fitted to
RESAMPLES = 1000
OWN = "1 - own posterior"
COMPARE = "two-level,proposer=none"
PIXELS = {
    OWN: lambda seen: seen.own,
    "1 - margin": lambda seen: 1 - seen.margin,
    "divergence": lambda seen: seen.found.values,
    "1 - mean posterior": lambda seen: seen.found.doubt,
    "chance of effort": lambda seen: seen.found.wrong,
}


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture: what the recipes say and what is true."""

    found: Disagreement
    own: NDArray[np.float32]
    margin: NDArray[np.float32]
    wrong: NDArray[np.bool_]
    bad: NDArray[np.bool_]  # regions
    lacking: NDArray[np.bool_]  # missing parts that are of an overlooked thing
    overlooked: int  # things of which more than half has no label

    @property
    def touches(self) -> int:
        return int(self.bad.sum()) + self.overlooked


def look(pipe: Any, others: list[Any], scene: Any, chances: Chances) -> Seen:
    picture, truth, names, absent = scene
    found = replace(pipe.compare(picture, [*names, *absent[:ABSENT]], others), chances=chances)
    first = found.first
    wrong = first.labels != truth
    own = np.where(first.labels >= 0, 1 - first.confidence, first.confidence)
    best = [np.sort(slots, axis=0)[-2:] for _, slots in first.evidence.tiles()]
    margin = np.concatenate([two[1] - two[0] for two in best])
    bad = np.array([wrong[decode_rle(rle)].mean() > 1 - RIGHT for rle in first.regions.rles], bool)
    overlooked = [k for k in range(len(names)) if (first.labels[truth == k] < 0).mean() > 0.5]
    of_these = np.isin(truth, overlooked)
    lacking = np.array([of_these[decode_rle(rle)].mean() >= 0.5 for rle in found.missing.rles], bool)
    return Seen(found, own, margin, wrong, bad, lacking, len(overlooked))


def fit(seen: list[Seen]) -> Chances:
    """Weights from what was right and wrong in these pictures."""
    pixels = [(one.found.values, one.found.doubt, one.wrong) for one in seen]
    flat = [np.concatenate([part.reshape(-1)[::STEP] for part in parts]) for parts in zip(*pixels, strict=True)]
    regions = [(*one.found.region_means[:, :2].T, one.bad) for one in seen]
    missing = [(*one.found.missing_means.T, one.lacking) for one in seen]
    pairs = [fitted(*flat)]
    for rows in (regions, missing):
        values, doubt, wrong = (np.concatenate(part) for part in zip(*rows, strict=True))
        pairs.append(fitted(values, doubt, wrong))
    return Chances(*(tuple(round(weight, 2) for weight in pair) for pair in pairs))


def tallied(values: NDArray[np.float32], wrong: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels by (labelled or not, right or wrong, bin of the number)."""
    place = (values * BINS).astype(np.int64).clip(0, BINS - 1)
    key = (labelled.astype(np.int64) * 2 + wrong) * BINS + place
    return np.bincount(key.reshape(-1), minlength=4 * BINS).reshape(2, 2, BINS)


def auroc(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Area under the curve of (..., right or wrong, bin) counts."""
    right, wrong = counts[..., 0, :].astype(float), counts[..., 1, :].astype(float)
    below = np.cumsum(right, axis=-1) - right / 2
    return (wrong * below).sum(-1) / np.maximum(wrong.sum(-1) * right.sum(-1), 1)


def interval(draws: NDArray[np.float64]) -> str:
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}"


def report(seen: list[Seen], rng: np.random.Generator) -> None:
    errors = np.array([one.wrong.mean() for one in seen])
    labelled = np.mean([(one.found.labels >= 0).mean() for one in seen])
    print(f"wrong: {errors.mean():.1%} of the pixels ({labelled:.0%} have a label)\n")
    times = rng.multinomial(len(seen), np.full(len(seen), 1 / len(seen)), RESAMPLES)
    print(
        "| a pixel's number | AUROC all | labelled | unlabelled | more than by the first row (all) | rank |\n|"
        + "---|" * 6
    )
    drawn: dict[str, NDArray[np.float64]] = {}
    for name, number in PIXELS.items():
        maps = [number(one) for one in seen]
        counts = np.stack(
            [tallied(*three) for three in zip(maps, [one.wrong for one in seen], _labelled(seen), strict=True)]
        )
        whole = counts.sum(axis=0)
        drawn[name] = auroc(np.tensordot(times, counts.sum(axis=1), 1))
        scores = [float(auroc(whole.sum(axis=0))), float(auroc(whole[1])), float(auroc(whole[0]))]
        rank = spearmanr([one.mean() for one in maps], errors)[0]
        more = "" if name == OWN else interval(drawn[name] - drawn[OWN])
        print(f"| {name} | " + " | ".join(f"{score:.3f}" for score in scores) + f" | {more} | {rank:.3f} |")
    print()
    true = np.array([one.touches for one in seen], float)
    numbers = {
        "touches of effort": [one.found.effort()["touches"] for one in seen],
        "sum of 1 - own score": [float((1 - one.found.first.own_scores).sum()) for one in seen],
        "regions": [len(one.bad) for one in seen],
        "contested share": [one.found.effort()["contested_share"] for one in seen],
    }
    print(f"| a picture's number | its sum (true: {true.sum():.0f} touches) | rank with true touches |\n|---|---|---|")
    for name, values in numbers.items():
        draws = np.array([spearmanr(np.repeat(values, row), np.repeat(true, row))[0] for row in times[:200]])
        print(f"| {name} | {np.sum(values):.1f} | {spearmanr(values, true)[0]:.3f} ({interval(draws)}) |")
    bad = np.concatenate([one.bad for one in seen])
    print(f"\n| {len(bad)} regions, {bad.mean():.0%} need a touch; chance | regions | need one |\n|---|---|---|")
    touch = np.concatenate([one.found.touches for one in seen])
    for low, high in zip(np.arange(0, 1, 0.2), np.arange(0.2, 1.1, 0.2), strict=True):
        inside = (touch >= low) & (touch < high)
        if inside.any():
            print(
                f"| {low:.1f} to {high:.1f}: {touch[inside].mean():.2f} | {inside.sum()} | {bad[inside].mean():.2f} |"
            )
    changed = np.mean([one.found.effort()["changed_share"] for one in seen])
    print(f"\npixels expected to change {changed:.1%}, wrong {errors.mean():.1%}; missing parts {_parts(seen)}")


def _labelled(seen: list[Seen]) -> list[NDArray[np.bool_]]:
    return [one.found.labels >= 0 for one in seen]


def _parts(seen: list[Seen]) -> str:
    lacking = np.concatenate([one.lacking for one in seen])
    expected = sum(float(one.found.missing_touches.sum()) for one in seen)
    return f"{len(lacking)}, of overlooked things {lacking.sum()}, expected {expected:.1f}"


def recipes(text: str) -> list[Any]:
    """METHOD or CHOICE=VALUE, by commas."""
    out: list[Any] = []
    for item in text.split(","):
        choice, equals, value = item.partition("=")
        out.append({choice: _value(value)} if equals else item)
    return out


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150, help="compositions of each half")
    parser.add_argument("--compare", default=COMPARE, help=f"the other recipes (default {COMPARE})")
    parser.add_argument("--fit", action="store_true", help="fit the weights of effort anew on the other half")
    parser.add_argument("--set", action="append", default=[], metavar="CHOICE=VALUE", help="of the reviewed recipe")
    args = parser.parse_args()
    changes = {key: _value(value) for key, value in (item.split("=", 1) for item in args.set)}
    pipe, others = ovseg.Pipeline.open("tiny", cache=None, **changes), recipes(args.compare)
    chances = DRAWINGS
    if args.fit:
        half = compositions(args.count, args.seed, 0.0, "development")
        chances = fit([look(pipe, others, scene, DRAWINGS) for scene in half])
        print(f"fitted to {len(half)} compositions of the other half: {chances}\n")
    scenes = compositions(args.count, args.seed, 0.0, "confirmation")
    print(f"seed {args.seed}, {args.count} compositions, tiny {changes or ''} against {args.compare}")
    report([look(pipe, others, scene, chances) for scene in scenes], np.random.default_rng(0))


if __name__ == "__main__":
    main()
