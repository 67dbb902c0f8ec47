"""What clicks and examples teach the bundled model, on a drawing style that it has never seen.

    python weights/tiny/report_teach.py [--seed 0] [--pairs 24] [--pictures 30]

Teaching: look-alike pairs are held-out names whose text vectors are closest (each in one pair at most, none above 0.95,
neither including the other). Of one name of a pair 5 regions are accepted, 5 regions of the other are rejected for it;
nothing is said of the other name. Regions are the true masks in compositions of 2 to 4 held-out sprites, one sprite a
name; all splits are new draws of the 10. Printed, in percent of regions that were not shown: right among the two names,
right among the names of all pairs, and regions of the other pairs right among all; how many pinned regions (of other
pairs, right before) changed their name, how often the weight had to give way, and the median time of an update.

Exemplars: a name is asked by a region (or three) of *other* pictures, beside the present names that are words and the
preset's negatives and threshold, without proposals: mIoU over the names asked, by words, by examples, by half of each.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from compose import Composer, texture_bank
from report import SIDE, Tally, held_out
from words import GROUND, overlaps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ovseg  # noqa: E402  (the one of this checkout)
from ovseg.errors import BadUsage  # noqa: E402

SHOWN = 5  # accepted, and as many rejected
LEAST = 300  # pixels of a region
TOO_CLOSE = 0.95


def look_alikes(pipe: Any, words: list[str], count: int) -> list[tuple[str, str]]:
    """Pairs of names, the closest text vectors first."""
    vectors = pipe.vocabulary(words, negatives="none").vectors
    close, related = vectors @ vectors.T, overlaps()
    pairs: list[tuple[str, str]] = []
    order = np.dstack(np.unravel_index(np.argsort(-close, axis=None), close.shape))[0]
    for one, other in ((words[i], words[j]) for i, j in order if i < j and close[i, j] <= TOO_CLOSE):
        taken = {name for pair in pairs for name in pair}
        if not taken & {one, other} and other not in related.get(one, ()) and one not in related.get(other, ()):
            pairs.append((one, other))
    return pairs[:count]


def scenes(composer: Any, rng: Any, words: list[str], each: int, least: int = 2) -> list[tuple[Any, dict[str, Any]]]:
    """Pictures, and the masks of the names in each, until every name has been seen `each` times."""
    seen: Counter[str] = Counter()
    out = []
    while any(seen[word] < each for word in words):
        open_ = [word for word in words if seen[word] < each]
        chosen = [str(word) for word in rng.choice(open_, min(len(open_), int(rng.integers(least, 5))), replace=False)]
        scene = composer.compose(SIDE, SIDE, chosen, sizes=(0.3, 0.8))
        masks = {word: scene.segments == place for place, word in enumerate(scene.words) if word in chosen}
        masks = {word: mask for word, mask in masks.items() if mask.sum() >= LEAST}
        seen.update(masks.keys())
        out.append((scene.picture, masks))
    return out


def teach(pipe: Any, composer: Any, rng: Any, pairs: list[tuple[str, str]], splits: int) -> None:
    names = [name for pair in pairs for name in pair]
    vocabulary = pipe.vocabulary(names, negatives="none")
    vectors, truth = [], []
    for picture, masks in scenes(composer, rng, names, 3 * SHOWN):
        encoding = pipe.encode(picture)
        for word, mask in masks.items():
            vectors.append(pipe.look(encoding, mask)[0])
            truth.append(names.index(word))
    regions, owners = np.stack(vectors), np.array(truth)
    scale = float(pipe.recipe.scale)
    rows, times = [], []
    flips = weights = refused = 0
    for place, (one, _) in enumerate(pairs):
        pair = [2 * place, 2 * place + 1]
        for _ in range(splits):
            mine = [rng.permutation(np.flatnonzero(owners == k)) for k in pair]
            teaching, pinning = (pipe.teach(vocabulary) for _ in range(2))
            before = vocabulary.scores(regions, scale)
            far = np.flatnonzero(~np.isin(owners, pair))
            pinned = rng.permutation(far[before[far].argmax(axis=1) == owners[far]])[:SHOWN]
            for i in pinned:
                pinning.pin(regions[i], names[owners[i]])
            start = time.perf_counter()
            teaching.accept(regions[mine[0][:SHOWN]], one)
            teaching.reject(regions[mine[1][:SHOWN]], one)
            times.append((time.perf_counter() - start) / 2)
            for say, some in ((pinning.accept, mine[0]), (pinning.reject, mine[1])):
                try:
                    say(regions[some[:SHOWN]], one)
                except BadUsage:
                    refused += 1
            after = teaching.vocabulary.scores(regions, scale)
            kept = pinning.vocabulary.scores(regions[pinned], scale).argmax(axis=1)
            flips += int((kept != owners[pinned]).sum())
            weights += pinning.weight < 1
            new = np.concatenate([some[SHOWN:] for some in mine])
            told = [
                (np.array(pair)[scores[new][:, pair].argmax(axis=1)] == owners[new]).mean()
                for scores in (before, after)
            ]
            told += [(scores[new].argmax(axis=1) == owners[new]).mean() for scores in (before, after)]
            told += [(scores[far].argmax(axis=1) == owners[far]).mean() for scores in (before, after)]
            rows.append(told)
    mean = 100 * np.mean(rows, axis=0)
    rises = np.array([row[1] - row[0] for row in rows]).reshape(len(pairs), splits).mean(axis=1)
    error = 100 * np.std(rises) / np.sqrt(len(pairs))
    print(f"{len(pairs)} look-alike pairs, {splits} splits each, {len(regions)} regions\n")
    print("| right % | words | taught |\n|---|---|---|")
    print(f"| of the pair (rise {100 * rises.mean():.1f} +- {error:.1f}) | {mean[0]:.1f} | {mean[1]:.1f} |")
    print(f"| of the pair, among {len(names)} names | {mean[2]:.1f} | {mean[3]:.1f} |")
    print(f"| of other pairs, among {len(names)} names | {mean[4]:.1f} | {mean[5]:.1f} |")
    print(
        f"\npairs that rose {int((rises > 0).sum())}, fell {int((rises < 0).sum())}; pinned that changed name: {flips} "
        f"of {SHOWN * len(rows)}; sessions whose weight gave way: {weights} of {len(rows)}; lessons refused: {refused} "
        f"of {2 * len(rows)}; an update {1000 * median(times):.1f} ms"
    )


def examples(pipe: Any, composer: Any, rng: Any, words: list[str], count: int) -> None:
    """mIoU of one asked name a picture, by words, examples and mixes of both."""
    pool = [(pipe.encode(picture), masks) for picture, masks in scenes(composer, rng, words, 6, least=1)]
    asked = [place for place in range(len(pool)) if pool[place][1]][:count]
    rows = [("words", 0, 0.0), *((f"{k} example{'s' * (k > 1)}, t {t:g}", k, t) for k in (1, 3) for t in (1.0, 0.5))]
    print(f"\n{len(asked)} pictures, {len(words)} names\n\n| asked by | mIoU % |\n|---|---|")
    for what, shots, t in rows:
        tally, draw = Tally(), np.random.default_rng(1)
        for place in asked:
            encoding, masks = pool[place]
            present = list(masks)
            word = present[int(draw.integers(len(present)))]
            others = [other for other in range(len(pool)) if other != place and word in pool[other][1]]
            given = [pool[other] for other in draw.permutation(others)[: max(shots, 1)]]
            vocabulary = pipe.exemplars({word: [(seen, shown[word]) for seen, shown in given]}, text=present, t=t)
            found = pipe.segment(encoding, vocabulary)
            tally.add([word], np.where(found.labels == present.index(word), 0, -1), np.where(masks[word], 0, -1))
        print(f"| {what} | {100 * tally.miou:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=30)
    args = parser.parse_args()
    sprites, names = held_out(Path(__file__).parent)
    rng = np.random.default_rng(args.seed)
    bank = texture_bank(list(GROUND), seed=1000 + args.seed, each=3)
    composer = Composer(sprites, names, {}, bank, rng, style=0.0)
    pipe = ovseg.Pipeline.open("tiny", cache=None, sam="", proposer="none")
    words = sorted(set(names))
    print(f"seed {args.seed}\n")
    teach(pipe, composer, rng, look_alikes(pipe, words, args.pairs), args.splits)
    examples(pipe, composer, rng, [str(word) for word in rng.choice(words, 24, replace=False)], args.pictures)


if __name__ == "__main__":
    main()
