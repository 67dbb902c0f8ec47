"""The bound that is promised: a picture of 4000x3000 with 150 names takes less than 2 GB above what was there before.

Each case runs in a process of its own and tells its peak (VmHWM, which begins anew with the process; ru_maxrss would
begin at the parent's). The cells are 21 x 28 of random unit features, the worst there is: every cell has another name.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BOUND = 2e9  # bytes
HEIGHT, WIDTH = 3000, 4000


def evidence(names: int, rows: int, with_parts: bool, refined: bool):
    """Evidence of `rows` random prompt rows that `names` names own."""
    from ovseg.types import Evidence

    rng = np.random.default_rng(7)
    features, words = rng.normal(size=(512, 21 * 28)), rng.normal(size=(rows, 512))
    features /= np.linalg.norm(features, axis=0)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    owner = np.sort(np.concatenate([np.arange(names), np.arange(rows - names) % names]))
    cosines = (40 * words @ features).reshape(rows, 21, 28).astype(np.float32)
    fields = {}
    if with_parts:
        ids = np.arange(12 * 16, dtype=np.int32).reshape(12, 16)
        parts = np.where(ids % 3 > 0, ids, np.int32(-1)).repeat(HEIGHT // 12, axis=0).repeat(WIDTH // 16, axis=1)
        fields = {"parts": parts, "part_rows": rng.normal(0, 2, (192, rows)).astype(np.float32)}
        fields |= {"vote": parts, "closing": 3, "area": 0.001}
    if refined:
        fields |= {"picture": rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), "refine": "pamr"}
    thresholds = np.full(names, 0.01, np.float32)
    return Evidence(HEIGHT, WIDTH, owner, cosines, thresholds, **fields)


def resident(field: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found.group(1))


def tell(names: int, rows: int, with_parts: bool, refined: bool) -> None:
    """Print by how much deciding raises the peak of this process, and how many pixels have a label."""
    from ovseg.raster import pick
    from ovseg.types import Segmentation
    from tests.results import NoRecipe

    given = evidence(names, rows, with_parts, refined)
    before = resident("VmRSS")
    if refined:  # one band of many: all of them together take minutes, and each lets go of what it took
        labels, _ = pick(given.dense(given.bands[1]), given.thresholds)
        print(resident("VmHWM") - before, labels.size, len(given.bands))
        return
    found = Segmentation.decide([str(name) for name in range(names)], given, NoRecipe())
    print(resident("VmHWM") - before, np.count_nonzero(found.labels >= 0), len(found.regions))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to tell a peak")
@pytest.mark.parametrize(
    ("names", "rows", "with_parts", "refined"),
    [(150, 150, False, False), (81, 113, True, False), (150, 150, False, True)],
    ids=["150 names", "81 names of 113 rows, proposals, vote, closing", "a band of 150 names refined"],
)
def test_a_picture_of_twelve_megapixels_stays_below_the_bound(
    names: int, rows: int, with_parts: bool, refined: bool
) -> None:
    code = f"from tests.test_memory import tell; tell({names}, {rows}, {with_parts}, {refined})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    peak, labelled, regions = (int(number) for number in done.stdout.split())
    assert labelled > HEIGHT * WIDTH / 20 and regions > 10
    assert peak < BOUND


def tell_the_whole_line() -> None:
    """Print by how much a picture raises the peak of this process, from pixels to regions, the model being open."""
    import json

    from ovseg import Pipeline

    root = Path(__file__).parents[1]
    known = list(json.loads((root / "weights/tiny/names.json").read_text("utf-8"))["names"])[:150]
    pipe = Pipeline.open("tiny", cache=None)
    rng = np.random.default_rng(5)
    pipe.segment(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), ["cat"])
    blocks = rng.integers(0, 256, (HEIGHT // 100, WIDTH // 100, 3), dtype=np.uint8)
    picture = blocks.repeat(100, axis=0).repeat(100, axis=1)
    before = resident("VmRSS")
    found = pipe.segment(picture, known, threshold=0.0, negatives="none")
    print(resident("VmHWM") - before, np.count_nonzero(found.labels >= 0), len(known))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to tell a peak")
def test_the_whole_line_stays_below_the_bound_above_the_model() -> None:
    code = "from tests.test_memory import tell_the_whole_line as tell; tell()"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    peak, labelled, asked = (int(number) for number in done.stdout.split())
    assert asked == 150 and labelled == HEIGHT * WIDTH
    assert peak < BOUND
