"""What the page's buttons do: values in, pictures and plain values out. No server, no gradio: tested as functions.

A picture is encoded once, whoever asks and however often (`Desk`); what a visitor's last answer was made from is kept
for that visitor (`Labelled`, `Judged`), so that a threshold moves without any network.
"""

import hashlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovseg import draw, images
from ovseg.errors import BadInput, BadUsage
from ovseg.pipeline import Encoding, Pipeline
from ovseg.prompts import Words, read_option, read_words
from ovseg.types import AnomalyMap, Segmentation

BUDGET = 512 << 20  # bytes of encodings that are kept
MOST_PIXELS = 50_000_000  # of a picture: every visitor shares the memory
MOST_NAMES = 200
MOST_NORMALS = 32

Told = Callable[[str, float], None]  # stage, share done


def _silent(stage: str, share: float) -> None:
    """Progress that nobody asked for."""


@dataclass(frozen=True)
class Labelled:
    """A visitor's last answer of the first tab: the picture, what was found, how long each stage took (seconds)."""

    name: str
    image: np.ndarray
    found: Segmentation
    seconds: dict[str, float]


@dataclass(frozen=True)
class Judged:
    """A visitor's last answer of the second tab."""

    name: str
    image: np.ndarray
    map: AnomalyMap
    seconds: dict[str, float]


@dataclass
class Desk:
    """A pipeline and the pictures that it has read lately: each is encoded once, at most `budget` bytes are kept.

    Keyed by the pixels and the choices of the image side, so visitors share; one lock a key, so two who bring the same
    picture wait for one encoding. `encoded` counts the encodings made.
    """

    pipe: Pipeline
    budget: int = BUDGET
    encoded: int = 0
    _kept: OrderedDict[str, Encoding] = field(default_factory=OrderedDict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _door: threading.Lock = field(default_factory=threading.Lock)

    def encoding(self, image: np.ndarray, told: Told = _silent) -> tuple[Encoding, bool]:
        """The picture's encoding, and whether it was at hand."""
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data)
        key = f"{digest.hexdigest()} {self.pipe.recipe.image_side}"
        with self._door:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._door:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key], True
            made = self.pipe.encode(image, progress=lambda stage, done, of: told(stage, done / max(1, of)))
            assert isinstance(made, Encoding), "one picture in, one encoding out"
            with self._door:
                self.encoded += 1
                self._kept[key] = made
                while len(self._kept) > 1 and sum(map(_weight, self._kept.values())) > self.budget:
                    self._kept.popitem(last=False)
                self._locks = {one: lock for one, lock in self._locks.items() if lock.locked() or one in self._kept}
            return made, False

    @property
    def line(self) -> str:
        """Which network answers, and on what."""
        import torch

        place = f"{self.pipe.clip.device}"
        threads = torch.get_num_threads()
        where = f"CPU, {threads} thread{'s' * (threads > 1)}" if place == "cpu" else place
        tiny = " · a small model for a first look; ovseg weights list shows better ones"
        return f"Model {self.pipe.recipe.name} · {where}{tiny if self.pipe.recipe.name == 'tiny' else ''}"


def read_names(text: str) -> Words:
    """The names that a visitor typed: one a line, `dog=dog|puppy` for a name with several phrases."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadUsage("Type at least one name, such as cat: one name a line")
    if len(lines) > MOST_NAMES:
        raise BadUsage(f"At most {MOST_NAMES} names can be asked here at once: got {len(lines)}")
    return read_words([read_option(line) for line in lines])


def segment(desk: Desk, upload: str | None, text: str, threshold: float, *, told: Told = _silent) -> Labelled:
    """Which pixels of the uploaded file are which name."""
    words = read_names(text)
    if not upload:
        raise BadUsage("Choose a picture first: upload one, paste one, or take an example")
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        image = _read(upload)
    with _timed(seconds, "encode"):
        encoding, kept = desk.encoding(image, told)
    with _timed(seconds, "ask"):
        told("ask", 0.0)
        found = desk.pipe.segment(encoding, words, threshold=float(threshold))
    assert isinstance(found, Segmentation), "one picture in, one result out"
    if kept:
        seconds["encode"] = 0.0
    return Labelled(Path(upload).name, image, found, seconds)


def at_threshold(kept: Labelled | None, threshold: float) -> Labelled | None:
    """The visitor's last answer at another threshold, from the scores that are kept: no network is asked."""
    if kept is None:
        return None
    seconds: dict[str, float] = {}
    with _timed(seconds, "ask"):
        found = kept.found.with_threshold(float(threshold))
    return replace(kept, found=found, seconds=seconds)


def anomaly(
    desk: Desk,
    upload: str | None,
    object: str,
    normals: Sequence[str] | None,
    threshold: float,
    *,
    told: Told = _silent,
) -> Judged:
    """How strange each pixel of the uploaded file is; two normal pictures or more bring their own threshold."""
    if not upload:
        raise BadUsage("Choose a picture first: upload one, or paste one")
    if not object.strip() and not normals:
        raise BadUsage("Say what the picture shows, such as ceramic tile, or add pictures of good ones")
    if normals and len(normals) > MOST_NORMALS:
        raise BadUsage(f"At most {MOST_NORMALS} good pictures are read here: got {len(normals)}")
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        image, goods = _read(upload), [_read(one) for one in normals or ()]
    with _timed(seconds, "encode"):
        encoding, references = desk.encoding(image, told)[0], [desk.encoding(one, told)[0] for one in goods]
    with _timed(seconds, "ask"):
        told("ask", 0.0)
        made = desk.pipe.anomaly(encoding, object, normal=references)
    assert isinstance(made, AnomalyMap), "one picture in, one map out"
    if made.threshold is None:
        made = replace(made, threshold=float(threshold))
    return Judged(Path(upload).name, image, made, seconds)


def judged_at(kept: Judged | None, threshold: float) -> Judged | None:
    """The visitor's last map with its outline at another threshold: no network is asked."""
    return None if kept is None else replace(kept, map=replace(kept.map, threshold=float(threshold)), seconds={})


def overlay(kept: Labelled) -> np.ndarray:
    """The picture with every name in its colour; the legend stands beside it on the page."""
    return draw.overlay(kept.image, kept.found, legend=False)


def heatmap(kept: Judged) -> np.ndarray:
    """The map in colour over the picture, with its scale."""
    return draw.heatmap(kept.image, kept.map)


def legend(kept: Labelled) -> list[dict[str, Any]]:
    """One row a name: colour, share of the picture, mean posterior over its pixels, regions; found ones first."""
    found = kept.found
    rows = []
    for index, (name, share) in enumerate(found.shares.items()):
        mine = found.labels == index
        rows.append(
            {
                "name": name,
                "colour": "#" + bytes(found.colours[index]).hex(),
                "share": round(share, 6),
                "score": round(float(found.confidence[mine].mean()), 4) if share else None,
                "regions": int((found.region_labels == index).sum()),
            }
        )
    return sorted(rows, key=lambda row: -row["share"])


def as_json(kept: Labelled | Judged) -> dict[str, Any]:
    """What `--json` prints for the picture, its file's name as "picture": gradio takes a "path" for a file to serve."""
    made = kept.found if isinstance(kept, Labelled) else kept.map
    return {"picture": kept.name, **made.to_dict(), "seconds": round(sum(kept.seconds.values()), 3)}


def told_in_words(kept: Labelled) -> str:
    """What was found, in a sentence; where nothing was, why, and what would show something."""
    found = kept.found
    shares = {name: share for name, share in found.shares.items() if share}
    if shares:
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        parts = _list([f"{name} {_percent(share)}" for name, share in ranked])
        count, missing = len(found.regions), [name for name in found.names if name not in shares]
        more = f" Not found: {_list(missing)}." if missing else ""
        return f"Found {parts} in {count} region{'s' * (count > 1)}.{more}"
    assert found.evidence is not None, "answers of a pipeline keep their evidence"
    if found.evidence.struck.all():
        do = "do" if len(found.names) > 1 else "does"
        return f"Nothing found: {_list(found.names)} {do} not seem to be in this picture."
    name, best, cut = _nearest(found)
    if best < cut:
        lower = max(0.0, np.floor((best - 0.01) * 20) / 20)
        return f"Nothing found: no pixel reaches {cut:.2f}; the best was {best:.2f} for '{name}'. Try {lower:.2f}."
    return (
        f"Nothing found: '{name}' came to {best:.2f}, but everywhere something that was not asked for is likelier, or "
        "what is left is too small."
    )


def judged_in_words(kept: Judged) -> str:
    """The picture's score, and how much of it is at or above the threshold."""
    made = kept.map
    says = f"Score {made.score:.3f} ({made.unit})."
    if made.threshold is None:
        return says
    count, share = len(made.regions()), float(made.mask().mean())
    where = f"{count} region{'s' * (count > 1)}, {_percent(share)} of the picture" if count else "Nothing"
    return f"{says} {where} at or above {made.threshold:.3f}; the highest value is {made.values.max():.3f}."


def run_line(desk: Desk, kept: Labelled | Judged) -> str:
    """Size, stages with their times, and what the result wants to say besides."""
    height, width = kept.image.shape[:2]
    stages = [f"{stage} {1000 * took:.0f} ms" for stage, took in kept.seconds.items() if took]
    if kept.seconds.get("encode") == 0:
        stages.append("features were at hand")
    elif "encode" not in kept.seconds:
        stages.append("no network was asked")
    notes = kept.found.notes if isinstance(kept, Labelled) else kept.map.notes
    line = " · ".join([f"{width} x {height} px", desk.pipe.recipe.name, str(desk.pipe.clip.device), *stages])
    return "\n".join([line, *(f"{note[:1].upper()}{note[1:]}." for note in notes)])


def _read(upload: str) -> np.ndarray:
    """The uploaded picture; errors name the file as the visitor does, not where the server put it."""
    try:
        stream = io.BytesIO(Path(upload).read_bytes())
    except OSError as error:
        raise BadInput(f"{Path(upload).name} is no longer on the server ({error.strerror}): upload it again") from error
    stream.name = Path(upload).name
    return images.read(stream, max_pixels=MOST_PIXELS)


def _nearest(found: Segmentation) -> tuple[str, float, float]:
    """The name that came nearest to its threshold, its best posterior, and that threshold; of names that presence did
    not strike, since no threshold brings the others back."""
    assert found.evidence is not None, "answers of a pipeline keep their evidence"
    best = np.zeros(len(found.names))
    for _, slots in found.evidence.tiles():
        best = np.maximum(best, slots[: len(best)].max(axis=(1, 2)))
    short = np.where(found.evidence.struck, -np.inf, best - found.evidence.thresholds)
    index = int(short.argmax())
    return found.names[index], float(best[index]), float(found.evidence.thresholds[index])


def _list(texts: Sequence[str], most: int = 5) -> str:
    """Texts with commas, the last ones counted where there are many."""
    rest = len(texts) - most
    return ", ".join(texts) if rest <= 1 else f"{', '.join(texts[:most])} and {rest} more"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def _weight(encoding: Encoding) -> int:
    """Bytes that an encoding takes."""
    arrays = [encoding.image, encoding.features.vectors, encoding.region_vectors]
    windows = encoding.features.windows
    runs = sum(len(rle["counts"]) for rle in encoding.regions.rles)
    return sum(array.nbytes for array in arrays) + (windows.vectors.nbytes if windows else 0) + runs


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


__all__ = [
    "Desk",
    "Judged",
    "Labelled",
    "anomaly",
    "as_json",
    "at_threshold",
    "heatmap",
    "judged_at",
    "judged_in_words",
    "legend",
    "overlay",
    "read_names",
    "run_line",
    "segment",
    "told_in_words",
]
