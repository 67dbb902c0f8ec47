"""A person points at something: its mask, how sure the network is of it, and what it may be called.

Prompts come as people write them (flat lists, nested lists, arrays); `ask` makes masks of them and a vector for each
mask, `named` scores these vectors against words. Only `ask` needs a network (the decoder of a segment-anything model,
never an encoder), so the same masks can be given any number of names.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from ovseg import encoders
from ovseg.errors import BadInput, BadUsage
from ovseg.labels import Choices, region_rows
from ovseg.raster import decode_rle, pick, posterior
from ovseg.types import NAMELESS, DenseFeatures, RecipeLike, Regions, Segmentation, Vocabulary

LOOKED = 512  # pixels along a side that tell one picture from another
RANKED = 5  # names that are shown for a mask
UNASKED = "mask"


@dataclass(frozen=True, eq=False)
class Prompt:
    """What was asked for a mask: points (x, y) with labels 1 (inside) and 0 (outside), and a box (XYXY), in pixels."""

    points: Float[np.ndarray, "p 2"]
    labels: Int[np.ndarray, " p"]
    box: Float[np.ndarray, " 4"] | None = None

    def then(self, more: "Prompt") -> "Prompt":
        """With further points, and with another box where there is one."""
        points, labels = np.concatenate([self.points, more.points]), np.concatenate([self.labels, more.labels])
        return Prompt(points, labels, self.box if more.box is None else more.box)


NO_POINTS = Prompt(np.zeros((0, 2)), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Click:
    """The answer to n prompts (or three masks for each): masks, their predicted IoU as `regions.quality`, and names.

    `scores[i, k]` is the posterior of name k for mask i over the names and the stated negatives; `region_labels` holds
    indices into `names`, -1 where a negative or the threshold wins. Before names are asked both are empty. `logits`
    and `prompts` let another click go on from this one. A mask under `problems` is empty, for the reason given there.
    """

    regions: Regions
    logits: Float32[np.ndarray, "n high wide"]
    vectors: Float32[np.ndarray, "n dim"]
    prompts: tuple[Prompt, ...]
    recipe: RecipeLike
    names: tuple[str, ...]
    scores: Float32[np.ndarray, "n names"]
    region_labels: Int[np.ndarray, " n"]
    problems: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    picture: str = ""  # a digest of what was clicked, so that no other picture goes on from here

    def __post_init__(self) -> None:
        columns = (self.logits, self.vectors, self.prompts, self.scores, self.region_labels)
        if {len(column) for column in columns} != {len(self.regions)} or self.scores.shape[1] != len(self.names):
            raise BadInput("every mask of a click needs its logits, vector, prompt, label and a score for every name")

    @property
    def masks(self) -> Bool[np.ndarray, "n height width"]:
        return self.regions.masks

    @property
    def best(self) -> tuple[str | None, ...]:
        """The name of each mask; None where none of the names fits."""
        return tuple(self.names[label] if label >= 0 else None for label in self.region_labels)

    def ranked(self, most: int = RANKED) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each mask its best names with their posteriors, falling; none for an empty mask."""
        found = []
        for scores in self.scores:  # one by one: of 20,000 names few are shown, and none of the rest is sorted
            least = np.partition(scores, -most)[-most] if 0 < most < len(scores) else 0
            shown = np.flatnonzero((scores >= least) & (scores > 0))
            order = shown[np.argsort(-scores[shown], kind="stable")][:most]
            found.append(tuple((self.names[k], float(scores[k])) for k in order))
        return tuple(found)

    @property
    def segmentation(self) -> Segmentation:
        """The masks as labelled pixels, for overlays and files; where masks overlap the smaller lies on top.

        A mask that none of the names fits is `NAMELESS`, scored by what the negatives have; before names are asked all
        are `UNASKED`, scored by their predicted IoU.
        """
        area = self.regions.area
        order = np.argsort(area, kind="stable")
        order = order[area[order] > 0]
        names, scores = self.names or (UNASKED,), self.scores if self.names else self.regions.quality[:, None]
        if self.names and (self.region_labels[order] < 0).any():
            names, scores = (*names, NAMELESS), np.concatenate([scores, 1 - scores.sum(axis=1, keepdims=True)], axis=1)
        labels = np.where(self.region_labels < 0, len(names) - 1, self.region_labels)
        pixels = np.full((self.regions.height, self.regions.width), -1, np.int16)
        confidence = np.zeros(pixels.shape, np.float32)
        for i in order[::-1]:
            inside = decode_rle(self.regions.rles[i])
            pixels[inside], confidence[inside] = labels[i], scores[i, labels[i]]
        regions = self.regions[order]
        return Segmentation(
            names, pixels, confidence, regions, labels[order], scores[order], self.recipe, notes=self.notes
        )

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, keep: int | slice | Sequence[int]) -> "Click":
        """Some of the masks; one of three, for instance, to go on from."""
        index = np.atleast_1d(np.arange(len(self))[keep])
        told = {place: self.problems[i] for place, i in enumerate(index.tolist()) if i in self.problems}
        return replace(
            self,
            regions=self.regions[index],
            logits=self.logits[index],
            vectors=self.vectors[index],
            prompts=tuple(self.prompts[i] for i in index),
            scores=self.scores[index],
            region_labels=self.region_labels[index],
            problems=MappingProxyType(told),
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; numbers rounded to 6 digits, boxes of masks XYWH as in every file, prompts as asked."""
        boxes, area, best, ranked = self.regions.boxes, self.regions.area, self.best, self.ranked()
        masks = []
        for i, prompt in enumerate(self.prompts):
            mask: dict[str, Any] = {
                "points": prompt.points.tolist(),
                "labels": prompt.labels.tolist(),
                "box": None if prompt.box is None else prompt.box.tolist(),
                "quality": round(float(self.regions.quality[i]), 6),
                "area": int(area[i]),
                "bbox": [float(v) for v in (*boxes[i, :2], *(boxes[i, 2:] - boxes[i, :2]))],
                "segmentation": dict(self.regions.rles[i]),
                "best": best[i],
                "names": [{"name": name, "score": round(score, 6)} for name, score in ranked[i]],
            }
            masks.append(mask | ({"problem": self.problems[i]} if i in self.problems else {}))
        return {
            "height": self.regions.height,
            "width": self.regions.width,
            "names": list(self.names),
            "masks": masks,
            "recipe": self.recipe.to_dict(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        told = []
        for i, (quality, best) in enumerate(zip(self.regions.quality, self.best, strict=True)):
            name = f"{best} {self.scores[i].max():.2f}, " if best is not None else "no name, " if self.names else ""
            told.append("not asked" if i in self.problems else f"{name}predicted IoU {quality:.2f}")
        shown = "; ".join(told[:3]) + ("; ..." if len(told) > 3 else "")
        plural = "mask" if len(self) == 1 else "masks"
        return f"Click({self.regions.height}x{self.regions.width}, {len(self)} {plural}: {shown or 'nothing asked'})"


def ask(
    model: Any,
    embedding: Any,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    recipe: RecipeLike,
    *,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    masks: Any = None,
    every: bool = False,
    previous: Click | None = None,
) -> Click:
    """The masks of prompts in a picture, not named yet. `model` and `embedding` are as in `sam.prompted`.

    A flat list of points is one prompt, a list of lists is several (of any lengths); labels are 1 where none are given.
    Boxes are (4,) or (n, 4). `masks` are logits of a former answer, regions, or boolean masks of the picture. With
    `previous` the prompts of that answer stand: points are added to its own, its logits are the mask prompt.
    """
    from ovseg.sam.prompted import prompted

    given = _read(points, labels, boxes)
    if previous is not None:
        if masks is not None:
            raise BadUsage("previous brings its own mask prompt: leave masks out, or previous")
        size = (previous.regions.height, previous.regions.width)
        if size != image.shape[:2]:
            raise BadInput(
                f"previous must be of this picture: it is of {size[0]}x{size[1]}, the picture is "
                f"{image.shape[0]}x{image.shape[1]} (rows x cols)"
            )
        if previous.picture not in ("", _digest(image)):
            raise BadInput("previous must be of this picture: it is of another one of the same size; click without it")
        given = [NO_POINTS] * len(previous) if given is None else given
        if len(given) != len(previous):
            raise BadInput(
                f"one prompt for each mask of previous is needed: got {len(given)} for {len(previous)}; pick one as "
                "previous[0]"
            )
        given = [before.then(more) for before, more in zip(previous.prompts, given, strict=True)]
        masks = previous.logits
    maps = _maps(masks)
    if given is None and maps is None:
        raise BadInput("a click needs a point, a box or a mask: got nothing")
    given = [NO_POINTS] * len(maps) if given is None and maps is not None else given or []
    dots, signs, corners = _arrays(given)
    found = prompted(model, embedding, boxes=corners, points=dots, labels=signs, masks=maps, every=every)
    regions, each = found.regions, found.quality.shape[1]
    vectors = encoders.encode("pool", None, image, features, regions)
    return Click(
        regions,
        found.logits.reshape(-1, *found.logits.shape[2:]),
        vectors,
        tuple(prompt for prompt in given for _ in range(each)),
        recipe,
        (),
        np.zeros((len(regions), 0), np.float32),
        np.full(len(regions), -1),
        MappingProxyType({each * i + k: told for i, told in found.problems.items() for k in range(each)}),
        picture=_digest(image),
    )


def named(click: Click, vocabulary: Vocabulary, recipe: Choices) -> Click:
    """The same masks with the posteriors of these names; no network is asked. Empty masks have no name."""
    rows = region_rows(click.vectors, vocabulary, float(recipe.scale))
    slots = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, len(vocabulary), recipe.probability)
    thresholds = [vocabulary.thresholds.get(name, recipe.threshold) for name in vocabulary.names]
    labels, _ = pick(slots, np.asarray(thresholds, np.float32))
    filled = click.regions.area > 0
    scores = np.where(filled[:, None], slots[: len(vocabulary)].T, np.float32(0))
    return replace(
        click,
        recipe=recipe,
        names=vocabulary.names,
        scores=np.ascontiguousarray(scores, np.float32),
        region_labels=np.where(filled, labels, -1).astype(np.int64),
        notes=vocabulary.notes,
    )


def _digest(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Of every pixel, or of every so many in a picture of more than `LOOKED` pixels a side: a click must not wait."""
    down, across = (-(-side // LOOKED) for side in image.shape[:2])
    seen = np.ascontiguousarray(image[::down, ::across])
    return hashlib.sha256(f"{image.shape} ".encode() + seen.tobytes()).hexdigest()


def _read(points: Any, labels: Any, boxes: Any) -> list[Prompt] | None:
    """One `Prompt` for each that was given, or None where there is neither a point nor a box."""
    if points is None and labels is not None:
        raise BadUsage("labels are for points: got labels alone")
    corners = None if boxes is None else _boxes(boxes)
    if points is None:
        return None if corners is None else [replace(NO_POINTS, box=box) for box in corners]
    several = _depth(points) > 2
    dots = [_points(own) for own in (points if several else [points])]
    if labels is None:
        signs: list[Int[np.ndarray, " p"]] = [np.ones(len(own), np.int64) for own in dots]
    else:
        signs = [_labels(own) for own in (labels if _depth(labels) > 1 else [labels])]
    if corners is not None and len(corners) != len(dots):
        raise BadInput(
            f"each prompt may have a box and points: got {len(corners)} boxes and points of {len(dots)} prompts; write "
            "points as a list of lists, one for each box"
        )
    if [len(own) for own in dots] != [len(own) for own in signs]:
        came = f"{[len(own) for own in dots]} points and {[len(own) for own in signs]} labels"
        raise BadInput(f"every point needs a label, 1 (inside) or 0 (outside), in lists of the same form: got {came}")
    own_boxes = [None] * len(dots) if corners is None else list(corners)
    return [Prompt(*parts) for parts in zip(dots, signs, own_boxes, strict=True)]


def _depth(given: Any) -> int:
    """How many lists lie in one another: 1 for (x, y), 2 for points, 3 for the points of several prompts."""
    if isinstance(given, np.ndarray):
        return given.ndim
    if not isinstance(given, list | tuple):
        return int(getattr(given, "ndim", 0))
    return 1 + max(map(_depth, given), default=0)


def _numbers(given: Any, what: str) -> Float[np.ndarray, "..."]:
    try:
        return np.asarray(given, float)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch's: on another device, or with a gradient
        raise BadInput(f"{what}: got {given!r}") from None


def _points(given: Any) -> Float[np.ndarray, "p 2"]:
    numbers = _numbers(given, "points are (x, y) in pixels")
    numbers = numbers.reshape(-1, 2) if not numbers.size or numbers.shape == (2,) else numbers
    if numbers.ndim != 2 or numbers.shape[1] != 2:
        raise BadInput(f"points are (x, y) in pixels: got an array of {numbers.shape}")
    return numbers


def _labels(given: Any) -> Int[np.ndarray, " p"]:
    numbers = np.atleast_1d(_numbers(given, "labels are 1 (inside) or 0 (outside)"))
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        raise BadInput(f"labels are 1 (inside) or 0 (outside): got {given!r}")
    return numbers.astype(np.int64)


def _boxes(given: Any) -> Float[np.ndarray, "n 4"]:
    numbers = _numbers(given, "boxes are XYXY in pixels")
    numbers = numbers[None] if numbers.shape == (4,) else numbers.reshape(0, 4) if numbers.shape == (0,) else numbers
    if numbers.ndim != 2 or numbers.shape[1] != 4:
        raise BadInput(f"boxes are (4,) or (n, 4), XYXY in pixels: got an array of {numbers.shape}")
    return numbers


def _maps(masks: Any) -> Regions | Float32[np.ndarray, "n high wide"] | None:
    """Mask prompts as `prompted` takes them; one may come without its first axis."""
    if masks is None or isinstance(masks, Regions):
        return masks
    try:
        array = np.asarray(masks)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(f"mask prompts are arrays of one size: got {type(masks).__name__}") from None
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "bf":
        raise BadInput(
            "mask prompts are logits of a former answer, regions, or boolean masks of the picture: got "
            f"{array.dtype} of {array.shape}"
        )
    return Regions.from_masks(array) if array.dtype.kind == "b" else np.asarray(array, np.float32)


def _arrays(
    given: Sequence[Prompt],
) -> tuple[Float[np.ndarray, "n p 2"] | None, Int[np.ndarray, "n p"] | None, Float[np.ndarray, "n 4"] | None]:
    """Points and labels, padded with "no point", and boxes; None for what no prompt has."""
    boxes = [prompt.box for prompt in given if prompt.box is not None]
    corners = np.stack(boxes) if boxes else None
    longest = max((len(prompt.points) for prompt in given), default=0)
    if not longest and boxes:
        return None, None, corners
    dots, signs = np.zeros((len(given), longest, 2)), np.full((len(given), longest), -1)
    for i, prompt in enumerate(given):
        dots[i, : len(prompt.points)], signs[i, : len(prompt.points)] = prompt.points, prompt.labels
    return dots, signs, corners


__all__ = ["Click", "LOOKED", "NO_POINTS", "Prompt", "RANKED", "UNASKED", "ask", "named"]
