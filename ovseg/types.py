"""The nouns: what the parts of ovseg hand to one another, and what a user keeps.

H, W are the height and width of the picture; R, C token rows and columns; D the embedding width; N regions; K names;
P prompt rows. Everything here is numpy on the CPU, frozen, and checked when made. Boxes are XYXY pixel edges (max + 1),
x to the right and y down; a run-length code is COCO's, made and read by pycocotools.

A `Segmentation` keeps the `Evidence` that it was made from (the scaled cosine of every prompt row in every cell), so
that a threshold can be asked again, exactly, without any network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16, Int32, Shaped, UInt8

from ovseg.errors import BadInput, BadUsage
from ovseg.evidence import Evidence
from ovseg.head import REASONS, answer, unknown
from ovseg.panoptic import Instance, Segments, segments_of
from ovseg.presence import Crowd
from ovseg.raster import Rle, areas, decode_rle, encode_rle, palette, rles_of, split, upsample
from ovseg.stuff import stuff_among, stuff_words

JUDGED_ABSENT = "judged absent: "  # starts the note of which names presence struck
MOST_NAMED = 20  # names in a note


@runtime_checkable
class RecipeLike(Protocol):
    """What a result remembers of the choices that made it (`ovseg.Recipe`)."""

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any choice changes."""

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers only, ready for JSON."""


@runtime_checkable
class Head(Protocol):
    """What examples add to names (`ovseg.teaching`), on top of the scaled cosines of their rows."""

    @property
    def dense(self) -> bool:
        """Whether cells are vectors of the kind that it was taught on, or regions alone are."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that change when the head does."""

    def logits(self, vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n names"]:
        """For each vector what is added to each name; 0 for the zero vector and for a name without examples."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Prompt rows of K names: `owner[p]` is the name that row p speaks for, -1 for a negative (owned by no name).

    A name with synonyms owns several rows and scores as its best one; a negative wins pixels and leaves them
    unlabelled. `thresholds` holds the names that have their own. A `head` adds to all rows of a name what examples of
    it say. `levels` are gain and offset of each row's cosine: rows made of pictures live on another range than words.
    `crowd` is what the presence of names is judged by.
    """

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "rows dim"]
    owner: Int[np.ndarray, " rows"]
    phrases: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    head: Head | None = None
    levels: Float32[np.ndarray, "rows 2"] | None = None
    crowd: Crowd | None = None

    def __post_init__(self) -> None:
        if len(self.vectors) != len(self.owner):
            raise BadInput(f"every row needs an owner: {len(self.vectors)} rows, {len(self.owner)} owners")
        if self.phrases and len(self.phrases) != len(self.owner):
            raise BadInput(f"every row needs its phrase: {len(self.owner)} rows, {len(self.phrases)} phrases")
        if len(set(self.names)) != len(self.names):
            raise BadInput(f"names must differ: got {list(self.names)}")
        missing = set(range(len(self.names))) - set(self.owner.tolist())
        if missing or (len(self.owner) and not -1 <= self.owner.min() <= self.owner.max() < len(self.names)):
            raise BadInput(f"owners must be -1 or 0..{len(self.names) - 1}, each name with a row: got {self.owner}")
        if self.levels is not None and len(self.levels) != len(self.owner):
            raise BadInput(f"every row needs its level: {len(self.owner)} rows, {len(self.levels)} levels")
        if len(self.vectors) and not np.allclose(np.linalg.norm(self.vectors, axis=1), 1, atol=1e-3):
            raise BadInput("vocabulary rows must have length 1: normalise them first")
        stray = set(self.thresholds) - set(self.names)
        if stray:
            raise BadInput(f"thresholds are for names that are asked: {sorted(stray)} are not among {list(self.names)}")

    @property
    def spoken(self) -> list[tuple[str, ...]]:
        """The phrases of each name; none where the vocabulary was made without them."""
        found: list[list[str]] = [[] for _ in self.names]
        for owner, phrase in zip(self.owner.tolist(), self.phrases, strict=False):
            if owner >= 0:
                found[owner].append(phrase)
        return [tuple(phrases) for phrases in found]

    @property
    def matrix(self) -> Float32[np.ndarray, "dim rows"]:
        """The rows as columns: `features @ vocabulary.matrix` are cosines."""
        return self.vectors.T

    def scores(
        self, vectors: Float32[np.ndarray, "n dim"], scale: float, *, cells: bool = False
    ) -> Float32[np.ndarray, "n rows"]:
        """Scaled cosine of every unit vector with every row, and what the head adds (to `cells` if it knows them).

        All 0 for the zero vector.
        """
        found = np.asarray(scale * (vectors @ self.matrix), np.float32)
        if self.levels is not None:
            there = vectors.any(axis=1, keepdims=True)
            found = np.asarray(found * self.levels[:, 0] + there * (scale * self.levels[:, 1]), np.float32)
        return found if cells and self.head is not None and not self.head.dense else self.taught(found, vectors)

    def taught(
        self, rows: Float32[np.ndarray, "n rows"], vectors: Float32[np.ndarray, "n dim"]
    ) -> Float32[np.ndarray, "n rows"]:
        """Rows of scores with what the head adds to the names of these vectors; the rows themselves without a head."""
        if self.head is None:
            return rows
        mine, found = self.owner >= 0, rows.copy()
        found[:, mine] += self.head.logits(vectors)[:, self.owner[mine]]
        return found

    @property
    def colours(self) -> UInt8[np.ndarray, "names 3"]:
        """One RGB colour a name, the same in every picture and every export."""
        return palette(len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Vocabulary({', '.join(self.names[:8])}{' ...' if len(self) > 8 else ''}: {len(self.owner)} rows)"


@dataclass(frozen=True, eq=False)
class Windows:
    """Unit vectors of the cells of n windows on one canvas (the resized picture), kept apart as the papers do.

    All windows are `crop` pixels high and wide; `tops` and `lefts` are their first pixels on the canvas.
    """

    vectors: Float32[np.ndarray, "n dim rows cols"]
    tops: Int[np.ndarray, " n"]
    lefts: Int[np.ndarray, " n"]
    crop: tuple[int, int]
    canvas: tuple[int, int]


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """One unit vector for every cell of a picture, and one for the whole of it.

    `windows` are there under `protocol="paper"` alone, where scores are stitched pixel by pixel. `extras` is what else
    the image side says, for the stages: "affinity" (cells, cells), how alike cells are inside the network; "layers"
    (blocks, dim, rows, cols), what each block's tokens say; "attention" (cells, cells), who looks at whom; "guide"
    (channels, its rows, its cols), another network's map of the whole picture. Cells are in reading order.
    """

    vectors: Float32[np.ndarray, "dim rows cols"]
    whole: Float32[np.ndarray, " dim"]
    height: int
    width: int
    windows: Windows | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or 0 in self.vectors.shape:
            raise BadInput(f"features need cells and a picture: {self.vectors.shape}, {self.height}x{self.width} px")
        rows, cols = self.grid
        for name, shape in (("affinity", (rows * cols,) * 2), ("attention", (rows * cols,) * 2), ("layers", self.grid)):
            if name in self.extras and self.extras[name].shape[-2:] != shape:
                raise BadInput(
                    f"{name} must be of the same cells: {list(self.extras[name].shape)} for {rows}x{cols} cells"
                )
        if not np.isfinite(self.vectors).all():
            raise BadInput("features are not finite: try dtype float32, or check the checkpoint")

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns."""
        return self.vectors.shape[1], self.vectors.shape[2]

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of one cell in pixels of the picture."""
        return self.height / self.grid[0], self.width / self.grid[1]

    def upsample(self, maps: Float32[np.ndarray, "k rows cols"]) -> Float32[np.ndarray, "k height width"]:
        """Maps on the grid, bilinear to the picture's own pixels."""
        return upsample(maps, self.height, self.width)


@dataclass(frozen=True, eq=False)
class Regions:
    """N masks of one picture as COCO run lengths, each with a `quality` in [0, 1] that sorts and breaks ties.

    >>> mask = np.zeros((1, 4, 6), bool); mask[0, 1:3, 2:5] = True
    >>> Regions.from_masks(mask).boxes.tolist(), Regions.from_masks(mask).area.tolist()
    ([[2.0, 1.0, 5.0, 3.0]], [6])
    """

    height: int
    width: int
    rles: tuple[Rle, ...]
    quality: Float32[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if len(self.rles) != len(self.quality):
            raise BadInput(f"every region needs a quality: {len(self.rles)} masks, {len(self.quality)} numbers")
        for rle in self.rles:
            if list(rle["size"]) != [self.height, self.width]:
                raise BadInput(
                    f"regions must match the picture: a mask is {rle['size'][0]}x{rle['size'][1]}, the picture is "
                    f"{self.height}x{self.width} (rows x cols). Swapped axes?"
                )

    @classmethod
    def empty(cls, height: int, width: int) -> "Regions":
        """No region at all in a picture of this size."""
        return cls(height, width, (), np.zeros(0, np.float32))

    @classmethod
    def from_masks(
        cls, masks: Bool[np.ndarray, "n height width"], quality: Float[np.ndarray, " n"] | None = None
    ) -> "Regions":
        """Regions of full-frame masks; quality 1 where none is given."""
        count, height, width = masks.shape
        quality = np.ones(count, np.float32) if quality is None else quality.astype(np.float32)
        return cls(height, width, tuple(encode_rle(mask) for mask in masks), quality)

    @property
    def masks(self) -> Bool[np.ndarray, "n height width"]:
        """All masks decoded: N * H * W bytes, so ask for `regions[keep].masks` where N is large."""
        masks = np.zeros((len(self), self.height, self.width), bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            mask[:] = decode_rle(rle)
        return masks

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """XYXY pixel edges; zeros for an empty mask."""
        from pycocotools import mask as coco

        if not self.rles:
            return np.zeros((0, 4))
        xywh = np.asarray(coco.toBbox(list(self.rles)), float).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)

    @property
    def area(self) -> Int[np.ndarray, " n"]:
        """Pixels in each mask."""
        return areas(self.rles)

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, keep: Shaped[np.ndarray, " m"] | slice | Sequence[int]) -> "Regions":
        """The regions that a boolean mask, an index array or a slice picks, in that order."""
        if not isinstance(keep, slice):
            keep = np.asarray(keep) if len(keep) else np.zeros(0, np.int64)  # an empty list would be floats
        index = np.arange(len(self))[keep]
        return replace(self, rles=tuple(self.rles[i] for i in index), quality=self.quality[index])


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Which pixels are which name: one label a pixel, and the regions that make them up.

    `labels` holds indices into `names`, -1 for unlabelled. `confidence` is the posterior (over the names and the stated
    negatives) of the label, or of the best name where the pixel stayed unlabelled. `region_scores[n, k]` is the mean
    posterior of name k over region n, so a region's own score is never below the threshold that it passed (where
    neighbours have no say: a vote or a closing may give pixels a label that alone they would not have). Of a proposal's
    region it is the proposal's own, also where pixels beside its mask belong to it.

    `stuff` holds the names that are not counted (sky, grass). None: those that are such a word of the recipe's list,
    since a file keeps no phrases. `semantic`, `instances` and `panoptic` are views of the one map of `owners`.
    """

    names: tuple[str, ...]
    labels: Int16[np.ndarray, "height width"]
    confidence: Float32[np.ndarray, "height width"]
    regions: Regions
    region_labels: Int[np.ndarray, " n"]
    region_scores: Float32[np.ndarray, "n names"]
    recipe: RecipeLike
    evidence: Evidence | None = None
    notes: tuple[str, ...] = ()
    stuff: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        stray = set(self.stuff or ()) - set(self.names)
        if stray:
            raise BadInput(f"stuff must be among the names: {sorted(stray)} are not among {list(self.names)}")
        if self.labels.shape != self.confidence.shape or self.labels.shape != (self.regions.height, self.regions.width):
            raise BadInput("labels, confidence and regions must be of one picture")
        if not len(self.regions) == len(self.region_labels) == len(self.region_scores):
            raise BadInput("every region needs a label and a row of scores")

    @classmethod
    def decide(
        cls, names: Sequence[str], evidence: Evidence, recipe: RecipeLike, notes: tuple[str, ...] = ()
    ) -> "Segmentation":
        """The answer that the evidence gives at its thresholds.

        A name below its own threshold is struck and the next best wins; where a negative wins or no name is left the
        pixel stays unlabelled (-1). Regions are the proposals' visible parts with what of their label touches them, and
        8-connected parts of one label elsewhere; those below `min_area` pixels are unlabelled again. `head` has the
        order of all the steps. Names that presence judged absent take no part, and a note says which they are.
        """
        found = answer(evidence)
        notes = tuple(note for note in notes if not note.startswith(JUDGED_ABSENT))
        gone = [name for name, struck in zip(names, evidence.struck, strict=True) if struck]
        if gone:
            more = f" and {len(gone) - MOST_NAMED} more" if len(gone) > MOST_NAMED else ""
            notes = (*notes, JUDGED_ABSENT + ", ".join(gone[:MOST_NAMED]) + more)
        quality = found.scores.max(axis=1, initial=0)
        rles = tuple(rles_of(found.owners, len(quality)))
        regions = Regions(evidence.height, evidence.width, rles, quality)
        return cls(
            tuple(names),
            found.labels,
            found.confidence,
            regions,
            found.region_labels,
            found.scores,
            recipe,
            evidence,
            notes,
        )

    def with_threshold(self, threshold: float | Mapping[str, float]) -> "Segmentation":
        """The same picture and names at another threshold (one number, or some names' own), without any network."""
        if self.evidence is None:
            raise BadUsage("this result was read from a file and keeps no evidence: segment the picture again")
        thresholds = self.evidence.thresholds.copy()
        if isinstance(threshold, Mapping):
            for name, value in threshold.items():
                if name not in self.names:
                    raise BadUsage(f"threshold is for {name!r}, which is not among {', '.join(self.names)}")
                thresholds[self.names.index(name)] = value
        else:
            thresholds[:] = threshold
        evidence = replace(self.evidence, thresholds=thresholds)
        return replace(Segmentation.decide(self.names, evidence, self.recipe, self.notes), stuff=self.stuff)

    def with_presence(self, alpha: float | int | None = None, *, cut: float | int | None = None) -> "Segmentation":
        """The same picture and names, presence judged anew: at a rate of absent names that may pass (1 lets all pass),
        or at a cut of the odds. No network is asked; regions stay with the pixels that they were given first."""
        if self.evidence is None or self.evidence.presence is None:
            raise BadUsage("this result was made without presence: segment the picture again with absent='presence'")
        chosen = self.evidence.alpha if alpha is None else alpha
        evidence = replace(self.evidence, alpha=chosen, cut=cut)
        return replace(Segmentation.decide(self.names, evidence, self.recipe, self.notes), stuff=self.stuff)

    @property
    def presence(self) -> dict[str, float]:
        """How sure it is that each name is there: the share of everyday nouns that it beats in this picture, in [0, 1).
        Nothing where presence was not asked for (`absent="off"`)."""
        if self.evidence is None or self.evidence.presence is None:
            return {}
        return dict(zip(self.names, self.evidence.presence.share.tolist(), strict=True))

    @property
    def unknown(self) -> Regions:
        """What was left alone although no negative claims it: things that none of the names fits. `reasons` says why;
        `quality` is one minus the best posterior. Nothing where the result was read from a file."""
        return self._unknown[0]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each unknown region is one: a word of `head.REASONS` ("absent": a name that was judged absent would have
        been its label)."""
        return self._unknown[1]

    @cached_property
    def _unknown(self) -> tuple[Regions, tuple[str, ...]]:
        height, width = self.labels.shape
        if self.evidence is None:
            return Regions.empty(height, width), ()
        owners, kinds, best = unknown(self.evidence, self.labels)
        quality = np.asarray(1 - best, np.float32).clip(0, 1)
        found = Regions(height, width, tuple(rles_of(owners, len(kinds))), quality)
        return found, tuple(REASONS[kind] for kind in kinds)

    def semantic(self) -> Int16[np.ndarray, "height width"]:
        """The name of each pixel as an index into `names`, -1 for none: `labels`, read off the owners."""
        labels: Int16[np.ndarray, " n+1"] = np.append(self.region_labels, -1).astype(np.int16)
        return np.asarray(labels[self.owners], np.int16)

    def instances(self) -> list[Instance]:
        """The things one by one, by score, then area, both falling; stuff has no instances."""
        return self._segments.instances(self.names)

    def panoptic(self) -> tuple[Int32[np.ndarray, "height width"], list[dict[str, Any]]]:
        """A segment's number for each pixel (0: void; from 1 by first pixel in reading order), and a record of each.

        A record has `id`, `name`, `isthing`, `score`, `area`, `bbox` (left, top, width, height) and `regions`, the
        indices of the regions that it is made of. Each thing is a segment, all stuff of one name is one.
        """
        segments = self._segments
        return segments.ids, segments.records(self.names)

    @property
    def _segments(self) -> Segments:
        words = stuff_words(self.recipe.to_dict().get("stuff", "coco"))
        stuff = set(stuff_among(self.names, words) if self.stuff is None else self.stuff)
        uncounted: Bool[np.ndarray, " names"] = np.array([name in stuff for name in self.names], bool)
        return segments_of(self.owners, self.region_labels, self.own_scores, uncounted)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the picture that each name owns, in [0, 1]."""
        counts = np.bincount(self.labels[self.labels >= 0].astype(np.int64), minlength=len(self.names))
        return {name: float(n) / self.labels.size for name, n in zip(self.names, counts, strict=True)}

    @property
    def masks(self) -> dict[str, Bool[np.ndarray, "height width"]]:
        """One mask a name."""
        return {name: self.labels == k for k, name in enumerate(self.names)}

    @property
    def owners(self) -> Int[np.ndarray, "height width"]:
        """The region of each pixel, -1 for none; where regions of a file overlap, the earlier lies on top."""
        if self.evidence is not None:
            return split(self.labels, self.evidence.parts, len(self.names))[0]
        owners = np.full(self.labels.shape, -1, np.int64)
        for i in reversed(range(len(self.regions))):
            owners[decode_rle(self.regions.rles[i])] = i
        return owners

    @property
    def colours(self) -> UInt8[np.ndarray, "names 3"]:
        """One RGB colour a name, the same in every picture and every export."""
        return palette(len(self.names))

    @property
    def own_scores(self) -> Float32[np.ndarray, " n"]:
        """Each region's score for the name that it was given."""
        return np.asarray(self.region_scores[np.arange(len(self.region_labels)), self.region_labels], np.float32)

    @property
    def falling(self) -> Int[np.ndarray, " n"]:
        """Regions in the order of every file: by score (six digits), then area, both falling."""
        return np.lexsort((-self.regions.area, -self.own_scores.astype(float).round(6)))

    def to_dict(self) -> dict[str, Any]:
        """The `--json` object of a picture, without its path and seconds; scores rounded to 6 digits."""
        boxes, area, own = self.regions.boxes, self.regions.area, self.own_scores
        order = self.falling
        return {
            "height": self.regions.height,
            "width": self.regions.width,
            "names": list(self.names),
            "shares": {name: round(share, 6) for name, share in self.shares.items()},
            **({"presence": {name: round(share, 6) for name, share in self.presence.items()}} if self.presence else {}),
            "regions": [
                {
                    "name": self.names[self.region_labels[i]],
                    "score": round(float(own[i]), 6),
                    "area": int(area[i]),
                    "bbox": [float(v) for v in (*boxes[i, :2], *(boxes[i, 2:] - boxes[i, :2]))],
                    "segmentation": dict(self.regions.rles[i]),
                }
                for i in order
            ],
            "recipe": self.recipe.to_dict(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items() if share) or "nothing found"
        return f"Segmentation({self.regions.height}x{self.regions.width}, {len(self.regions)} regions: {found})"


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """How strange each pixel is, in `unit`: higher is stranger; `score` is the number of the whole picture."""

    values: Float32[np.ndarray, "height width"]
    score: float
    unit: str
    recipe: RecipeLike
    threshold: float | None = None
    object: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not np.isfinite(self.values).all() or not np.isfinite(self.score):
            raise BadInput("anomaly values are not finite: try dtype float32, or check the checkpoint")

    def mask(self, threshold: float | None = None) -> Bool[np.ndarray, "height width"]:
        """Pixels at or above a threshold (the map's own unless one is given)."""
        cut = self.threshold if threshold is None else threshold
        if cut is None:
            raise BadUsage("this map has no threshold: give one, or calibrate on normal pictures")
        return self.values >= cut

    def regions(self, threshold: float | None = None) -> Regions:
        """8-connected parts at or above the threshold; `quality` is the largest value inside, clipped to [0, 1]."""
        owners, peaks = self._parts(threshold)
        height, width = owners.shape
        return Regions(height, width, tuple(rles_of(owners, len(peaks))), peaks.clip(0, 1))

    def _parts(self, threshold: float | None) -> tuple[Int[np.ndarray, "height width"], Float32[np.ndarray, " n"]]:
        """The part that owns each pixel (-1: none) and the largest value in each, in the map's unit."""
        owners, kinds = split(np.where(self.mask(threshold), 0, -1).astype(np.int16), None, 1)
        peaks = np.full(len(kinds), -np.inf, np.float32)
        np.maximum.at(peaks, owners[owners >= 0], self.values[owners >= 0])
        return owners, peaks

    def to_dict(self) -> dict[str, Any]:
        """The `anomaly --json` object of a picture, without its path and seconds."""
        regions: list[dict[str, Any]] = []
        if self.threshold is not None:
            found, (_, peaks) = self.regions(), self._parts(None)
            for box, area, score, rle in zip(found.boxes, found.area, peaks, found.rles, strict=True):
                bbox = [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]
                regions.append(
                    {"score": round(float(score), 6), "area": int(area), "bbox": bbox, "segmentation": dict(rle)}
                )
        return {
            "height": self.values.shape[0],
            "width": self.values.shape[1],
            "object": self.object,
            "score": round(float(self.score), 6),
            "threshold": self.threshold,
            "unit": self.unit,
            "regions": sorted(regions, key=lambda region: -region["score"]),
            "recipe": self.recipe.to_dict(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"AnomalyMap({height}x{width}, score {self.score:.3f} ({self.unit}), object {self.object!r})"


__all__ = [
    "AnomalyMap",
    "DenseFeatures",
    "Evidence",
    "Head",
    "JUDGED_ABSENT",
    "MOST_NAMED",
    "RecipeLike",
    "Regions",
    "Segmentation",
    "Vocabulary",
    "Windows",
]
