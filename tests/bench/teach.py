"""How long a lesson takes, the head on regions and cells, and a long list of words.

    OMP_NUM_THREADS=1 python tests/bench/teach.py

Vectors are random and of unit length. An update is `Teaching.accept` of one more example: all Gaussians anew, pinned
examples checked. "direct" is GDA's own formula (a D x D pseudo-inverse) on the same examples. Target: an update below
20 ms at D 160 and 768 with 200 examples.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from ovseg import discovery, gda
from ovseg.teaching import Teaching
from ovseg.types import Vocabulary

TIMES = 15


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clocked(run: Callable[[], object], times: int = TIMES) -> str:
    run()
    spent, worked = [], []
    for _ in range(times):
        start, before = time.perf_counter(), time.process_time()
        run()
        spent.append(1000 * (time.perf_counter() - start))
        worked.append(1000 * (time.process_time() - before))
    return f"{statistics.median(spent):8.2f} ms (best {min(spent):.2f}), of CPU {statistics.median(worked):.2f} ms"


def direct(vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
    count, dim = vectors.shape
    means = np.stack([vectors[classes == c].mean(axis=0) for c in range(classes.max() + 1)])
    sigma = np.cov((vectors - means[classes]).T)
    return dim * np.linalg.pinv((count - 1) * sigma + np.trace(sigma) * np.eye(dim)) @ means.T


def main() -> None:
    rng = np.random.default_rng(0)
    for dim in (160, 768):
        rows = unit(rng.normal(size=(21, dim)))
        words = Vocabulary(tuple(f"name {k}" for k in range(20)), rows, np.append(np.arange(20), -1))
        teaching = Teaching(words, scale=40.0)
        examples = unit(rng.normal(size=(200, dim)) + 0.05 * np.repeat(rng.normal(size=(20, dim)), 10, axis=0))
        for i, example in enumerate(examples[:-1]):
            (teaching.reject if i % 2 else teaching.accept)(example, f"name {i // 10}")
        for owner in range(5):
            teaching.pin(rows[owner], f"name {owner}")

        def update(teaching: Teaching = teaching, example: np.ndarray = examples[-1]) -> None:
            teaching.accept(example, "name 19")
            teaching.undo()

        classes = np.arange(200) // 10
        print(f"D {dim}, 200 examples of 20 names, 5 pinned")
        print(f"  update                     {clocked(update)}")
        print(f"  gda.fit and weights        {clocked(lambda e=examples, c=classes: gda.fit(e, c).weights)}")
        print(f"  the same, direct           {clocked(lambda e=examples, c=classes: direct(e, c), 3)}")
        for count in (300, 4096):
            seen, head = unit(rng.normal(size=(count, dim))), teaching.vocabulary.head
            assert head is not None
            print(f"  head on {count:5d} vectors      {clocked(lambda h=head, s=seen: h.logits(s), 5)}")
    words_ = unit(rng.standard_normal((22_000, 768), np.float32))
    many = discovery.Lexicon(tuple(map(str, range(len(words_)))), words_)
    regions = unit(rng.normal(size=(300, 768)))
    print("22,000 words x 300 regions, D 768")
    print(f"  names of regions           {clocked(lambda: discovery.names_of(regions, many, words_[:23]), 5)}")


if __name__ == "__main__":
    main()
