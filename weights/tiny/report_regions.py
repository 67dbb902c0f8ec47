"""Measure regions end to end on a drawing style that the bundled models have never seen.

    python weights/tiny/report_regions.py --count 100 --seed 5 [--part confirmation] [--look FOLDER]

Compositions of 1 to 6 held-out (twemoji) sprites, some names twice, on surfaces of another seed than in training. Each
picture goes through the networks once and is asked with every way to find regions, for the names it holds and for
those beside 20 absent ones. In percent:

- PQ, SQ, RQ: panoptic quality (arXiv:1801.00868), its mean IoU and its recognition, averaged over the names that occur.
  Every thing is a segment of its own. The ground is neither void nor stuff: it has no name, so whatever segment is
  found on it is a false one, also where half of the thing's segment is ground;
- mIoU: over the names that occur; ground that is given to a name counts in its union. +20: absent names asked as well;
- absent px, absent names: pixels that absent names get; names asked in vain that get any pixel, per name and picture;
- lost: names present that get no pixel, where the absent ones are asked as well;
- alone: absent names that get any pixel when each is asked in a question of its own.

Then: how each region encoder names the things' true masks; how well presence tells names that are there from those that
are not; what calibration does to the posteriors of pictures that it never saw.

Brackets are 95 % intervals by bootstrap over pictures, differences paired on the same resamples.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compose import Composer, texture_bank
from numpy.typing import NDArray
from order import interval, resamples
from report import ABSENT, PARTS, SIDE, held_out, part_of
from words import GROUND, overlaps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ovseg  # noqa: E402  (the one of this checkout)
from ovseg.encoders import ENCODERS  # noqa: E402
from ovseg.imageside import Encoding  # noqa: E402
from ovseg.metrics import Panoptic, ece, panoptic_quality  # noqa: E402
from ovseg.proposals import propose  # noqa: E402
from ovseg.raster import rles_of  # noqa: E402
from ovseg.types import Regions, Segmentation  # noqa: E402

MOST = 6  # things in a picture
TWICE = 0.25  # how often a thing after the first takes the name of an earlier one
UNNAMED = "ground (nobody asks for it)"
LEAVES = "felzenszwalb leaves"
PRESET = "from-map (preset)"
ASKED_ALONE = ("none (dense)", PRESET)
PROPOSERS: Mapping[str, Mapping[str, Any]] = {
    "none (dense)": {"proposer": "none"},
    LEAVES: {"proposer": "felzenszwalb"},
    "merge tree": {"proposer": "felzenszwalb"},
    "sam-coarse": {"proposer": "sam-coarse"},
    "sam-adaptive": {"proposer": "sam-adaptive"},
    PRESET: {},
}
MAIN = ("PQ", "SQ", "RQ", "mIoU")
TABLES = ("regions", "encoders", "presence", "calibration")
WORLD = 20  # names that somebody calibrates for
ALONE = 2  # absent names of a picture that are also asked one at a time
TIMED = 5  # pictures whose proposals are timed
# Every sprite is a thing here, a house or a tree too.
GATES: Mapping[str, Mapping[str, Any]] = {
    "on": {"absent": "presence", "stuff": "none"},
    "off": {"absent": "off", "stuff": "none"},
}
FIRST = next(iter(GATES))


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, the thing of each pixel (-1: ground), the place of each thing's name, names present, absent names."""

    picture: NDArray[np.uint8]
    things: NDArray[np.int64]
    of: tuple[int, ...]
    names: list[str]
    absent: list[str]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The name's place of each pixel, -1 for the ground."""
        return np.append(np.array(self.of), -1)[self.things]


def drawn(count: int, seed: int, part: str = "all", words: int = 0) -> Iterator[Scene]:
    """Compositions one at a time, of so many names (0: all); where a thing hides most of another it is drawn again.

    Absent names are of those names too, as many as there are.
    """
    rng = np.random.default_rng((seed, 6))
    sprites, names = part_of(*held_out(Path(__file__).parent), part)
    if words:
        ours = set(rng.choice(sorted(set(names)), words, replace=False))
        chosen = [number for number, name in enumerate(names) if name in ours]
        sprites, names = sprites[chosen], [names[number] for number in chosen]
    composer = Composer(sprites, names, {}, texture_bank(list(GROUND), seed=1000 + seed, each=3), rng, style=0.0)
    related = overlaps()
    for _ in range(count):
        number = int(rng.integers(1, MOST + 1))
        first = 0
        while not first:
            said = [str(word) for word in rng.choice(composer.words, number, replace=False)]
            said = [said[rng.integers(n)] if n and rng.random() < TWICE else word for n, word in enumerate(said)]
            scene = composer.compose(SIDE, SIDE, said, sizes=(0.3, 0.8))
            # one ground or two come before the things; a thing that is mostly hidden has no word
            first = next((start for start in (1, 2) if list(scene.words[start : start + number]) == said), 0)
        present = list(dict.fromkeys(said))
        things = scene.segments.astype(np.int64) - first
        excused = set(present).union(*(related.get(word, set()) for word in present))
        others = [word for word in composer.words if word not in excused]
        absent = rng.choice(others, min(ABSENT, len(others)), replace=False)
        of = tuple(present.index(word) for word in said)
        yield Scene(scene.picture, np.maximum(things, -1), of, present, [str(word) for word in absent])


@dataclass(frozen=True, eq=False)
class Counts:
    """What one way said to every picture: pixels and segments (pictures, words), then numbers of a picture (pictures,).

    `overlap` is the sum of the IoUs of the matched segments. Pixels of absent names are in `absent` alone.
    """

    hit: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    matched: NDArray[np.int64]
    spare: NDArray[np.int64]
    missed: NDArray[np.int64]
    overlap: NDArray[np.float64]
    absent: NDArray[np.int64]
    false: NDArray[np.int64]
    lost: NDArray[np.int64]
    names: NDArray[np.int64]
    alone: NDArray[np.int64]

    @classmethod
    def empty(cls, pictures: int, words: int) -> "Counts":
        return cls(
            *(np.zeros((pictures, words), np.int64) for _ in range(6)),
            np.zeros((pictures, words)),
            *(np.zeros(pictures, np.int64) for _ in range(5)),
        )

    def add(self, row: int, scene: Scene, found: Segmentation, place: Mapping[str, int]) -> None:
        """One picture's answer; names beyond those of the scene are its absent ones."""
        labels, truth, present = found.labels.astype(np.int64), scene.labels, len(scene.names)
        where = [place[name] for name in scene.names]
        self.hit[row, where] = np.bincount(labels[(labels == truth) & (truth >= 0)], minlength=present)
        self.predicted[row, where] = np.bincount(labels[labels >= 0], minlength=present)[:present]
        self.true[row, where] = np.bincount(truth[truth >= 0], minlength=present)
        for name, tally in panoptic_quality(found.panoptic(), segments_of_truth(scene)).tallies.items():
            if name != UNNAMED:
                self.matched[row, place[name]], self.overlap[row, place[name]] = tally.matched, tally.iou
                self.spare[row, place[name]], self.missed[row, place[name]] = tally.spurious, tally.missed
        self.absent[row] = (labels >= present).sum()
        self.false[row] = len(np.unique(labels[labels >= present]))
        self.lost[row] = present - len(np.unique(labels[(labels >= 0) & (labels < present)]))
        self.names[row] = present

    def figures(self, times: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Percentages for each row of `times`: how often each picture is counted."""
        sums = {entry.name: times @ getattr(self, entry.name) for entry in fields(self)}
        occurs = sums["true"] > 0
        cost = sums["matched"] + (sums["spare"] + sums["missed"]) / 2

        def mean(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
            shares = part / np.maximum(whole, 1e-9)
            return 100 * np.where(occurs, shares, 0).sum(1) / occurs.sum(1)

        pictures = times.sum(1)
        return {
            "PQ": mean(sums["overlap"], cost),
            "SQ": mean(sums["overlap"], sums["matched"]),
            "RQ": mean(sums["matched"], cost),
            "mIoU": mean(sums["hit"], sums["true"] + sums["predicted"] - sums["hit"]),
            "absent px": 100 * sums["absent"] / (pictures * SIDE**2),
            "absent names": 100 * sums["false"] / (pictures * ABSENT),
            "lost": 100 * sums["lost"] / sums["names"],
            "alone": 100 * sums["alone"] / (pictures * ALONE),
        }


def segments_of_truth(scene: Scene) -> Panoptic:
    """The truth as a panoptic answer: every thing, and the ground as a segment of a name that nobody asks for."""
    names = {number: scene.names[name] for number, name in enumerate(scene.of, 1)}
    if (scene.things < 0).any():
        names[len(names) + 1] = UNNAMED
    ids = np.where(scene.things < 0, len(scene.of), scene.things) + 1
    return ids, [{"id": number, "name": name, "isthing": name != UNNAMED} for number, name in names.items()]


def readings(pipes: Mapping[str, Any], scene: Scene) -> dict[str, Encoding]:
    """The picture's encoding for each way to find regions, from one pass through the networks."""
    base = pipes[PRESET].encode(scene.picture)
    out = {}
    for name, pipe in pipes.items():
        if name == LEAVES:
            regions = leaves(scene.picture)
        else:
            regions = pipe.side.propose(scene.picture, "", base.features, base.embedding)
        described = pipe.side.describe(scene.picture, base.features, regions, base.taps)
        out[name] = replace(base, regions=regions, described=described, image_side=pipe.recipe.image_side)
    return out


def leaves(picture: NDArray[np.uint8]) -> Regions:
    """Felzenszwalb and Huttenlocher's segments as they come, with the proposer's own numbers."""
    from skimage.segmentation import felzenszwalb

    owners = felzenszwalb(picture, scale=300, sigma=0.8, min_size=50)
    count = int(owners.max()) + 1
    return Regions(*owners.shape, tuple(rles_of(owners, count)), np.ones(count, np.float32))


def pipelines(model: str = "tiny") -> dict[str, Any]:
    """A pipeline for each way to find regions; all have the same networks."""
    first = ovseg.Pipeline.open("tiny", cache=None)
    made = {
        name: ovseg.Pipeline(first.recipe.replace(**changes), first.clip, first.sam)
        for name, changes in PROPOSERS.items()
    }
    return {**made, PRESET: first}


def end_to_end(
    scenes: Sequence[Scene], pipes: Mapping[str, Any], gates: Mapping[str, Mapping[str, Any]] = GATES
) -> dict[tuple[str, str, bool], Counts]:
    """Counts of (way to find regions, gate, absent names asked)."""
    place = {word: n for n, word in enumerate(sorted({name for s in scenes for name in (*s.names, *s.absent)}))}
    out = {
        (name, gate, crowd): Counts.empty(len(scenes), len(place))
        for name in pipes
        for gate in gates
        for crowd in (False, True)
    }
    vocabulary = partial(pipes[PRESET].vocabulary, absent="presence")  # where presence is off it has no say
    for row, scene in enumerate(scenes):
        encodings = readings(pipes, scene)
        asked = {False: vocabulary(scene.names), True: vocabulary(scene.names + scene.absent)}
        strange = [vocabulary([name]) for name in scene.absent[:ALONE]]
        for name, pipe in pipes.items():
            for gate, changes in gates.items():
                ask = partial(pipe.segment, encodings[name], **changes)
                for crowd, names in asked.items():
                    out[name, gate, crowd].add(row, scene, ask(names), place)
                if name in ASKED_ALONE:
                    out[name, gate, True].alone[row] = sum(bool(ask(one).regions) for one in strange)
    return out


# ---------------------------------------------------------------- regions that are known: who names them best


@dataclass(frozen=True, eq=False)
class Naming:
    """What one encoder called the things themselves, in each picture.

    `right` of `of` among the names present, where these are two or more; `crowded` of `things` with absent ones beside
    them; CPU `seconds` of so many `masks`.
    """

    right: NDArray[np.int64]
    of: NDArray[np.int64]
    crowded: NDArray[np.int64]
    things: NDArray[np.int64]
    seconds: float
    masks: int

    def figures(self, times: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        return {
            "present": 100 * (times @ self.right) / (times @ self.of),
            "+20": 100 * (times @ self.crowded) / (times @ self.things),
        }


def naming(scenes: Sequence[Scene], pipe: Any, timed: int = TIMED) -> Naming:
    """How the pipeline's encoder names the true masks; of the first pictures, how long the merge tree's masks take."""
    counts, seconds, masks = np.zeros((4, len(scenes)), np.int64), 0.0, 0
    for row, scene in enumerate(scenes):
        encoding = pipe.encode(scene.picture)
        regions = Regions.from_masks(scene.things == np.arange(len(scene.of))[:, None, None])
        told = replace(encoding, regions=regions, described=described(pipe, encoding, regions))
        free = {"threshold": 0.0, "min_area": 0.0, "uncovered": "none", "absent": "off", "negatives": "none"}
        for column, names in ((0, scene.names), (2, scene.names + scene.absent)):
            labels = pipe.segment(told, names, **free).labels
            said = [np.bincount(labels[scene.things == thing] + 1).argmax() - 1 for thing in range(len(scene.of))]
            if column or len(names) > 1:
                counts[column : column + 2, row] = (np.array(said) == scene.of).sum(), len(said)
        if row < timed:
            many = propose("felzenszwalb", scene.picture, encoding.features)
            start = time.process_time()
            described(pipe, encoding, many)
            seconds, masks = seconds + time.process_time() - start, masks + len(many)
    return Naming(*counts, seconds, masks)


def described(pipe: Any, encoding: Encoding, regions: Regions) -> Any:
    return pipe.side.describe(encoding.image, encoding.features, regions, encoding.taps)


def by_encoder(scenes: Sequence[Scene], first: Any) -> tuple[dict[str, Naming], dict[str, str]]:
    """What each row of `ENCODERS` called the things, and why some rows cannot say."""
    found: dict[str, Naming] = {}
    refused: dict[str, str] = {}
    for name in ENCODERS:
        recipe = first.recipe.replace(proposer="none", encoder=name, sam="")
        try:
            found[name] = naming(scenes, ovseg.Pipeline(recipe, first.clip))
        except ovseg.OvsegError as error:
            refused[name] = str(error)
    return found, refused


# ---------------------------------------------------------------- names that are not there


@dataclass(frozen=True, eq=False)
class Presences:
    """Of every name that was asked, (n,): its odds, the share of nouns that it beats, whether the preset let it pass,
    whether it is there, in which picture."""

    odds: NDArray[np.float64]
    share: NDArray[np.float64]
    passed: NDArray[np.bool_]
    there: NDArray[np.bool_]
    picture: NDArray[np.int64]

    def figures(self, times: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Percentages for each row of `times`: area under the ROC and names present above what 5 % of the absent ones
        reach, by odds and by share; names present and absent that passed."""
        rows = []
        for counted in times:
            weights = counted[self.picture]
            cells = [number for scores in (self.odds, self.share) for number in roc(scores, self.there, weights)]
            cells += [np.average(self.passed[where], weights=weights[where]) for where in (self.there, ~self.there)]
            rows.append(cells)
        columns = [
            "AUROC, odds",
            "TPR at FPR 5 %",
            "AUROC, share",
            "TPR at FPR 5 %, share",
            "present pass",
            "absent pass",
        ]
        return dict(zip(columns, 100 * np.array(rows).T, strict=True))


def roc(scores: NDArray[np.float64], there: NDArray[np.bool_], weights: NDArray[np.int64]) -> tuple[float, float]:
    """(area under the ROC, names present above what 5 % of the absent ones reach)."""
    from sklearn.metrics import auc, roc_curve

    false, true, _ = roc_curve(there, scores, sample_weight=weights)
    return float(auc(false, true)), float(true[false <= 0.05].max())


def presences(scenes: Iterable[Scene], pipe: Any) -> Presences:
    """What the preset says about names present and absent, asked together."""
    odds, share, passed, there, picture = [], [], [], [], []
    for number, scene in enumerate(scenes):
        evidence = pipe.segment(scene.picture, scene.names + scene.absent, **GATES["on"]).evidence
        odds.append(evidence.presence.odds)
        share.append(evidence.presence.share)
        passed.append(~evidence.struck)
        there.append(np.arange(len(odds[-1])) < len(scene.names))
        picture.append(np.full(len(odds[-1]), number))
    return Presences(*(np.concatenate(part) for part in (odds, share, passed, there, picture)))


def print_presence(found: Presences, pictures: int, seed: int) -> None:
    numbers = found.figures(resamples(pictures, seed)[: 1 + 500])
    cells = [f"{found.there.sum()}", f"{(~found.there).sum()}", *(interval(values) for values in numbers.values())]
    print(table({f"{pictures}": cells}, ["pictures", "names present", "names absent", *numbers]), flush=True)


def calibrated(scenes: Sequence[Scene], pipe: Any) -> dict[str, dict[str, float]]:
    """ECE, precision and recall before and after calibration with labels on the first half of the pictures.

    All is counted on the second half, which calibration never saw, over every pixel that a name wins (ECE, 15 bins of
    equal mass) or that is labelled at the recipe's threshold.
    """
    names = sorted({name for scene in scenes for name in (*scene.names, *scene.absent)})
    maps = [np.append([names.index(name) for name in scene.names], -1)[scene.labels] for scene in scenes]
    half = len(scenes) // 2
    fitted = pipe.calibrate([scene.picture for scene in scenes[:half]], names, maps[:half])
    out = {}
    for when, recipe in (("before", pipe.recipe), ("after", fitted.recipe)):
        asking = ovseg.Pipeline(recipe, pipe.clip, pipe.sam)
        sure, right, there, kept = [], [], 0, []
        for scene, truth in zip(scenes[half:], maps[half:], strict=True):
            found = asking.segment(scene.picture, names, threshold=0.0)
            won = found.labels >= 0
            sure.append(found.confidence[won])
            right.append((found.labels == truth)[won])
            kept.append(sure[-1] >= recipe.threshold)
            there += int((truth >= 0).sum())
        told, hit, above = np.concatenate(sure), np.concatenate(right), np.concatenate(kept)
        out[when] = {
            "ECE": 100 * ece(told, hit),
            "precision": 100 * float(hit[above].mean()) if above.any() else float("nan"),
            "recall": 100 * float(hit[above].sum() / there),
            "scale": float(recipe.scale),
            "threshold": float(recipe.threshold),
        }
    return out


def print_calibrated(found: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(found.values())))
    rows = {
        when: [f"{value:.2f}" if of == "threshold" else f"{value:.1f}" for of, value in one.items()]
        for when, one in found.items()
    }
    print(table(rows, ["calibration", *columns]), flush=True)


# ---------------------------------------------------------------- what a stranger would see


def look(scenes: Sequence[Scene], pipe: Any, folder: Path, columns: int = 6) -> None:
    """Sheets of pictures: the picture, its truth, the preset's answer among present and absent names, its segments."""
    import cv2

    from ovseg.draw import overlay

    folder.mkdir(parents=True, exist_ok=True)
    colours = np.append(np.random.default_rng(3).integers(60, 256, (255, 3)), [[20, 20, 20]], axis=0).astype(np.uint8)
    made = []
    for scene in scenes:
        found = pipe.segment(scene.picture, scene.names + scene.absent, **GATES[FIRST])
        truth = truth_as_answer(scene, found)
        ids, _ = found.panoptic()
        rows = [scene.picture, *(overlay(scene.picture, one, legend=False) for one in (truth, found)), colours[ids - 1]]
        made.append(np.concatenate(rows))
    for start in range(0, len(made), columns):
        sheet = np.concatenate(made[start : start + columns], axis=1)
        cv2.imwrite(str(folder / f"answers_{start // columns}.png"), sheet[..., ::-1])


def truth_as_answer(scene: Scene, found: Segmentation) -> Segmentation:
    """The truth in the shape of an answer, so that both are drawn alike."""
    of = np.array(scene.of)
    scores = np.zeros((len(of), len(found.names)), np.float32)
    scores[np.arange(len(of)), of] = 1
    return replace(
        found,
        labels=scene.labels.astype(np.int16),
        confidence=np.ones(scene.labels.shape, np.float32),
        regions=Regions.from_masks(scene.things == np.arange(len(of))[:, None, None]),
        region_labels=of,
        region_scores=scores,
        evidence=None,
    )


def table(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    """Lines of Markdown."""
    lines = [columns, ["---"] * len(columns), *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_end_to_end(counts: Mapping[tuple[str, str, bool], Counts], times: NDArray[np.int64]) -> None:
    figures = {key: one.figures(times) for key, one in counts.items()}
    rows, behind = {}, {}
    for name, gate in dict.fromkeys((name, gate) for name, gate, _ in counts):
        plain, crowd = figures[name, gate, False], figures[name, gate, True]
        rows[f"{name} | {gate}"] = [
            *(interval(plain[of]) if of in ("PQ", "mIoU") else f"{plain[of][0]:.1f}" for of in MAIN),
            *(interval(crowd[of]) for of in ("PQ", "mIoU", "absent px", "absent names", "lost")),
            interval(crowd["alone"]) if name in ASKED_ALONE else "",
        ]
        behind[f"{name} | {gate}"] = [
            interval(figures[name, gate, crowd][of] - figures[PRESET, FIRST, crowd][of])
            for crowd in (False, True)
            for of in ("PQ", "mIoU")
        ]
    more = ["PQ +20", "mIoU +20", "absent px", "absent names", "lost +20", "absent alone"]
    print(table(rows, ["regions", "presence", *MAIN, *more]))
    del behind[f"{PRESET} | {FIRST}"]
    print(table(behind, ["less the preset", "presence", "PQ", "mIoU", "PQ +20", "mIoU +20"]), flush=True)


def print_naming(found: Mapping[str, Naming], refused: Mapping[str, str], times: NDArray[np.int64]) -> None:
    numbers = {name: one.figures(times) for name, one in found.items()}
    rows = {
        name: [
            *(interval(values) for values in numbers[name].values()),
            *(interval(values - numbers["pool"][of]) for of, values in numbers[name].items()),
            f"{one.masks / max(one.seconds, 1e-9):.0f}",
        ]
        for name, one in sorted(found.items(), key=lambda item: -numbers[item[0]]["+20"][0])
    }
    print(table(rows, ["encoder", "among those present", "+20", "less pool", "less pool +20", "masks / CPU s"]))
    for name, why in refused.items():
        print(f"- {name}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="pictures for masks end to end and for encoders")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, default="confirmation", help="half of the held-out names, or all")
    parser.add_argument("--presence", type=int, default=500, metavar="N", help="pictures for presence")
    parser.add_argument("--only", choices=TABLES, action="append", help="default: all tables")
    parser.add_argument("--look", type=Path, help="a folder for sheets of 36 pictures and the preset's answers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes, pipes, times = list(drawn(args.count, args.seed, args.part)), pipelines(), resamples(args.count, args.seed)
    things = sum(len(scene.of) for scene in scenes)
    print(f"seed {args.seed}, {args.part} names, {args.count} pictures, {things} things\n")
    tables = args.only or TABLES
    if "regions" in tables:
        print_end_to_end(end_to_end(scenes, pipes), times)
    if "encoders" in tables:
        print_naming(*by_encoder(scenes, pipes[PRESET]), times)
    if "presence" in tables:
        print_presence(
            presences(drawn(args.presence, args.seed + 1, args.part), pipes[PRESET]), args.presence, args.seed
        )
    if "calibration" in tables:
        print_calibrated(calibrated(list(drawn(2 * args.count, args.seed + 2, args.part, WORLD)), pipes[PRESET]))
    if args.look:
        look(scenes[:36], pipes[PRESET], args.look)


if __name__ == "__main__":
    main()
