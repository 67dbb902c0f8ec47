"""Every choice of a run by name and every number, in one frozen thing that goes to JSON and back.

A recipe holds names and numbers only: no code, no paths. It is checked against the tables when it is made, so a
misspelt method is an error before any network loads. `fingerprint` changes when any choice does.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ovseg import encoders, extras, labels, prompts, proposals, stages
from ovseg.clip.dense import Reading
from ovseg.clip.guides import GUIDES
from ovseg.clip.methods import canonical, needs
from ovseg.errors import BadUsage, UnknownName
from ovseg.evidence import REFINERS
from ovseg.presence import check_cut, check_rate
from ovseg.stuff import stuff_words

PROBABILITIES = ("names", "rows")
UNCOVERED = ("dense", "none")
ABSENT = ("off", "presence")
CALIBRATED = ("model", "method", "alpha")  # what a cut of presence is good for


@dataclass(frozen=True)
class Recipe:
    """How a picture is read, how words become rows, and how scores become labels.

    Sizes are pixels; `crop`, `stride` and `scales` as in `clip.dense.Reading`. `scale` multiplies cosines before the
    softmax. `method_options` are those of a method of whole pictures (`clip.methods.pictures`). `threshold` is the
    least posterior of a label, in [0, 1]. `min_area` is the share of the picture below which a region is dropped.
    A region is dropped as a part where more than `suppress` of it lies in a surer one of its name; neighbours of one
    name whose vectors have a cosine above `merge` are one thing (1: off, both). `stuff` is a row of `stuff.STUFF` or a
    list of words: names that are not counted one by one.
    `stages` change the cells' scores in their order: names of `stages.STAGES`, or {name: options}. `refine`, `area` and
    `closing` are as in `evidence.Evidence`. `absent` "presence" strikes names that are not in the picture: of absent
    names a share of `alpha` passes, or those whose odds reach `presence_cut` (`presence`); "off" asks all. A label
    needs a lead of `margin` over the second best, and an entropy of at most `entropy` of the largest. `model` is a name
    that `clip.load` opens, `sam` a row of the weights' manifest, or empty. `guide` is a name that `clip.guides` opens:
    the other network that a guided method takes its attention from, and the stages of any other method. `runtime` and
    `precision` say who computes the network's unchanged blocks (`runtime.RUNTIMES`), and at which precision.
    """

    name: str = "own"
    model: str = "tiny"
    sam: str = ""
    guide: str = ""
    method: str = "maskclip-reduced"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "fast"
    short_side: int = 336
    long_side: int = 2048
    crop: int = 0
    stride: int = 0
    scales: Sequence[float | int] = (1.0,)
    templates: str = "openai80"
    negatives: str = "scene"
    scale: float = 40.0
    probability: str = "names"
    threshold: float = 0.0
    proposer: str = "none"
    proposer_options: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = "pool"
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    overlap: str = "score"
    suppress: float | int = 1.0
    merge: float | int = 1.0
    stuff: str | Sequence[str] = "coco"
    uncovered: str = "dense"
    min_area: float = 0.0
    stages: Sequence[Any] = ()
    refine: str = "none"
    area: float = 0.0
    closing: int = 0
    absent: str = "off"
    alpha: float | int = 0.05
    presence_cut: float | int | None = None
    margin: float | int = 0.0
    entropy: float | int = 1.0
    runtime: str = "torch"
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))  # JSON gives a list
        if not isinstance(self.stuff, str):
            object.__setattr__(self, "stuff", stuff_words(self.stuff))
        stuff_words(self.stuff)
        canonical(self.method)
        _ = self.reading  # made once, to check the protocol and the sizes
        self._check_needs()
        if self.templates not in prompts.TEMPLATES:
            raise UnknownName.of("templates", self.templates, prompts.TEMPLATES)
        prompts.negatives(self.negatives)
        for what, value, known in (
            ("probability", self.probability, PROBABILITIES),
            ("uncovered", self.uncovered, UNCOVERED),
            ("encoder", self.encoder, encoders.ENCODERS),
            ("overlap", self.overlap, labels.OVERLAPS),
            ("refine", self.refine, REFINERS),
            ("absent", self.absent, ABSENT),
        ):
            if value not in known:
                raise UnknownName.of(what, value, known)
        known_options = proposals.proposer(self.proposer).options
        for option in self.proposer_options:
            if option not in known_options:
                raise UnknownName.of(f"option of proposer {self.proposer}", option, known_options)
        object.__setattr__(self, "encoder_options", encoders.check(self.encoder, self.encoder_options))
        if not 0 <= self.threshold <= 1 or not 0 <= self.min_area < 1:
            raise BadUsage(f"threshold and min_area are in [0, 1]: got {self.threshold} and {self.min_area}")
        if not 0 < self.suppress <= 1 or not 0 < self.merge <= 1:
            raise BadUsage(f"suppress and merge are in (0, 1], and 1 is off: got {self.suppress} and {self.merge}")
        if labels.OVERLAPS[self.overlap].votes and self.uncovered != "dense":
            raise BadUsage(f"overlap {self.overlap} needs the cells' labels everywhere: uncovered must be dense")
        if not 0 < self.scale < math.inf:
            raise BadUsage(f"scale must be positive: got {self.scale}")
        if not 0 <= self.area <= 1:
            raise BadUsage(f"area is a share of the labelled pixels in [0, 1]: got {self.area}")
        check_rate(self.alpha)
        check_cut(self.presence_cut)
        if not 0 <= self.margin <= 1 or not 0 <= self.entropy <= 1:
            raise BadUsage(f"margin and entropy are in [0, 1]: got {self.margin} and {self.entropy}")
        if self.closing < 0 or (self.closing and self.closing % 2 == 0):
            raise BadUsage(f"closing is an odd number of pixels, or 0 for none: got {self.closing}")
        object.__setattr__(self, "stages", stages.canonical(self.stages))
        self._check_stages()

    def _check_needs(self) -> None:
        """What the method needs is named, and a guide is known before its weights are sought."""
        known, at, _ = self.guide.partition("@")
        if self.guide and not at and self.guide not in GUIDES:
            raise UnknownName.of("guide", self.guide, GUIDES)
        if not self.guide and self.guided:
            raise BadUsage(
                f"method {self.method} takes its attention from another network: name a guide ({', '.join(GUIDES)})"
            )
        if "sam" in needs(self.method) and not self.sam:
            raise BadUsage(f"method {self.method} mixes cells as a SAM attends: name one, for instance sam=sam-vit-b")
        row = proposals.proposer(self.proposer)
        if row.needs_sam and not self.sam:
            raise BadUsage(f"proposer {self.proposer} asks a SAM for masks: name one, for instance sam=tiny-sam")
        if row.requires and not self.proposer_options.get(row.requires):
            raise BadUsage(
                f"proposer {self.proposer} needs the option {row.requires}: on the command line write "
                f"{self.proposer}@{row.requires.upper()}, in Python proposer_options={{'{row.requires}': ...}}"
            )
        if "parts" in needs(self.method) and (self.proposer == "none" or row.needs_names):
            able = [name for name, other in proposals.PROPOSERS.items() if name != "none" and not other.needs_names]
            raise BadUsage(
                f"method {self.method} lets cells look at their own region: name a proposer ({', '.join(able)}), "
                f"got {self.proposer!r}"
            )
        if known == "sam" and not self.sam:
            raise BadUsage("guide sam is the recipe's own SAM: name one too, for instance sam=sam-vit-b")

    def _check_stages(self) -> None:
        """What a stage needs is there. Where labels vote the cells decide: proposals are the voters, or none are."""
        for name, _ in stages.read(self.stages):
            row = stages.STAGES[name]
            if not set(row.needs) <= set(extras.gives(self.method)):
                bring = [method for method in extras.EXTRAS if set(row.needs) <= set(extras.gives(method))]
                raise BadUsage(
                    f"stage {name} needs {' and '.join(row.needs)} of the image side: method {self.method} brings "
                    f"none; take {' or '.join(bring)}"
                )
            if row.votes and self.uncovered != "dense":
                raise BadUsage(f"stage {name} needs the cells' labels everywhere: uncovered must be dense")
            if row.needs_proposals and self.proposer == "none":
                raise BadUsage(f"stage {name} lets proposals vote: name a proposer, since 'none' makes none")
            if row.needs_proposals and proposals.proposer(self.proposer).needs_names:
                raise BadUsage(
                    f"stage {name} needs regions before labels: proposer {self.proposer} makes them of the labels; "
                    "name another"
                )
            if row.votes and not row.needs_proposals and self.proposer != "none":
                raise BadUsage(f"stage {name} makes segments of its own: proposer must be none, got {self.proposer!r}")

    @property
    def reading(self) -> Reading:
        """The part that the image side depends on."""
        sizes = (self.short_side, self.crop, self.stride, self.long_side, tuple(float(scale) for scale in self.scales))
        return Reading(self.method, self.protocol, *sizes, self.runtime, self.precision, dict(self.method_options))

    @property
    def guided(self) -> bool:
        """Whether the method itself takes the guide; where it does not, the guide is the stages'."""
        return "guide" in needs(self.method)

    @property
    def image_side(self) -> str:
        """What an `Encoding` depends on, as one text: two recipes that agree here can share it."""
        rows = [self.proposer, dict(self.proposer_options), self.encoder, dict(self.encoder_options)]
        return json.dumps([self.model, self.sam, self.guide, asdict(self.reading), *rows], sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any choice changes."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def replace(self, **changes: Any) -> "Recipe":
        """The same recipe with some choices changed, checked again.

        Options belong to their row: with another method, proposer or encoder those of the former are dropped. So is a
        cut of presence that was calibrated for another model, method or rate.
        """
        known = [entry.name for entry in fields(self)]
        for name in changes:
            if name not in known:
                raise UnknownName.of("choice of a recipe", name, known)
        for choice in ("method", "proposer", "encoder"):
            if changes.get(choice, getattr(self, choice)) != getattr(self, choice):
                changes.setdefault(f"{choice}_options", {})
        if any(changes.get(choice, getattr(self, choice)) != getattr(self, choice) for choice in CALIBRATED):
            changes.setdefault("presence_cut", None)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers only, ready for JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)} | {
            "scales": list(self.scales),
            "stuff": self.stuff if isinstance(self.stuff, str) else list(self.stuff),
            "stages": deepcopy(list(self.stages)),
            "method_options": dict(self.method_options),
            "proposer_options": dict(self.proposer_options),
            "encoder_options": deepcopy(dict(self.encoder_options)),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` wrote; a choice that no recipe has is an error."""
        return cls().replace(**values)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe that `to_json` wrote."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadUsage(f"a recipe is JSON: {error}") from None
        if not isinstance(values, dict):
            raise BadUsage(f"a recipe is a JSON object: got {type(values).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_file(cls, path: str | Path) -> "Recipe":
        """The recipe in a JSON file, as `ovseg calibrate -o` writes it."""
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadUsage(f"the recipe cannot be read: {path} ({error})") from None
        return cls.from_json(text)


PRESETS: Mapping[str, Recipe] = MappingProxyType(
    {
        "tiny": Recipe(
            name="tiny",
            model="tiny",
            sam="tiny-sam",
            short_side=200,
            crop=-1,
            scales=(0.6, 0.8, 1, 1.2),  # 3 to 4 mIoU more than one size, on drawings of a style never seen
            templates="few",
            scale=40.0,
            threshold=0.5,
            absent="presence",
            presence_cut=-2.4,  # of absent names 4 % get a label among others, 6 % alone (without: 4 and 50 %)
            min_area=0.002,
            proposer="from-map",  # outlines that follow things; +1 to +2 mIoU with absent names asked, 0 without
            proposer_options={"min_iou": 0.6},
            merge=0.8,  # +16 PQ and +2 mIoU with the merge tree, +2 PQ with sam-coarse, nothing with from-map
        ),
        "mobile": Recipe(
            name="mobile",
            model="ViT-B-32/openai",
            method="naclip",
            proposer="felzenszwalb",
            threshold=0.2,
            absent="presence",
            merge=0.95,  # its segments are pieces of things
        ),
        "base": Recipe(
            name="base",
            model="ViT-B-16/openai",
            sam="sam-vit-b",
            method="naclip",
            proposer="sam-coarse",
            threshold=0.2,
            absent="presence",
        ),
        "large": Recipe(
            name="large",
            model="ViT-L-14/openai",
            sam="sam-vit-h",
            method="naclip",
            proposer="sam-coarse",
            threshold=0.2,
            absent="presence",
        ),
    }
)


def preset(name: str) -> Recipe:
    """The preset of that name."""
    if name not in PRESETS:
        raise UnknownName.of("preset", name, PRESETS)
    return PRESETS[name]


__all__ = ["ABSENT", "CALIBRATED", "PRESETS", "PROBABILITIES", "Recipe", "UNCOVERED", "preset"]
