"""Twenty new names on encoded features: what a question costs when the picture has been encoded.

    python tests/bench/reask.py [--repetitions 15]

`pipe.segment(encoding, names)` at 640x480 px on the bundled model. Cold: names that no cache has, so the text tower
reads every template of every name. Warm: the vocabulary is in the pipeline, as after the first picture of a folder or a
move of the threshold slider. Between them: a new process that has the texts on disk. Medians; the three take turns.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

NAMES = (
    "cow sheep dog cat horse bird car bus boat train tree flower house chair table bottle cup clock balloon bicycle"
).split()


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask again on encoded features.")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    import torch
    from PIL import Image

    from ovseg import Pipeline, weights

    with Image.open(weights.bundled("demo/examples") / "meadow.jpg") as opened:
        picture = np.asarray(opened.convert("RGB").resize((640, 480)))
    with tempfile.TemporaryDirectory() as cache:
        pipe = Pipeline.open("tiny", cache=cache)
        encoding = pipe.encode(picture)
        pipe.segment(encoding, ["cow"])
        found: dict[str, list[float]] = {"cold": [], "disk": [], "warm": []}
        for turn in range(options.repetitions):
            names = [f"{name} {turn}" for name in NAMES]
            found["cold"].append(seconds(lambda names=names: pipe.segment(encoding, names)))
            found["warm"].append(seconds(lambda names=names: pipe.segment(encoding, names)))
            again = Pipeline(pipe.recipe, pipe.clip, cache=Path(cache))
            found["disk"].append(seconds(lambda again=again, names=names: again.segment(encoding, names)))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, numpy {np.__version__}")
    print("| 20 names, 640x480 | cold ms | texts on disk ms | warm ms |")
    print("|---|---|---|---|")
    print(
        "| median |" + "".join(f" {1000 * statistics.median(found[kind]):.0f} |" for kind in ("cold", "disk", "warm"))
    )
    print("| least |" + "".join(f" {1000 * min(found[kind]):.0f} |" for kind in ("cold", "disk", "warm")))


if __name__ == "__main__":
    main()
