"""The answer to names: which pixels are which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Int32, UInt8

from ovseg.errors import BadInput, BadUsage
from ovseg.evidence import Evidence
from ovseg.head import REASONS, answer, unknown
from ovseg.panoptic import Instance, Segments, segments_of
from ovseg.raster import decode_rle, palette, rles_of, split
from ovseg.stuff import stuff_among, stuff_words
from ovseg.types.choices import RecipeLike
from ovseg.types.regions import Regions

JUDGED_ABSENT = "judged absent: "  # starts the note of which names presence struck
NOTHING_FOUND = "nothing was found: "  # starts the note of why
NAMELESS = "none of these"  # in place of a name, for regions that were asked for and that no name fits
MOST_NAMED = 20  # names in a note


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
        notes = tuple(note for note in notes if not note.startswith((JUDGED_ABSENT, NOTHING_FOUND)))
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
        or at a cut of the odds; a rate sets a calibrated cut aside. No network is asked; regions stay with the pixels
        that they were given first."""
        if self.evidence is None or self.evidence.presence is None:
            raise BadUsage("this result was made without presence: segment the picture again with absent='presence'")
        evidence = self.evidence
        if alpha is not None or cut is not None:
            evidence = replace(evidence, alpha=evidence.alpha if alpha is None else alpha, cut=cut)
        return replace(Segmentation.decide(self.names, evidence, self.recipe, self.notes), stuff=self.stuff)

    @property
    def presence(self) -> dict[str, float]:
        """How sure it is that each name is there: the share of everyday nouns that it beats in this picture, in [0, 1],
        1 for a name with examples. Nothing where presence was not asked for (`absent="off"`)."""
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


__all__ = ["JUDGED_ABSENT", "MOST_NAMED", "NAMELESS", "NOTHING_FOUND", "Segmentation"]
