"""What a dense method is, as data: terms that are scores, groups that are weights, and what stays of the block.

A term is one (tokens x tokens) score. The terms of one group are added *before* the normaliser, groups are added
*after* it, so each row of the whole adds up to the groups' weights. Then come the attention's own output matrix with
its bias, the block's residual and MLP if the method keeps them, the tower's last norm and its projection. Row sums of
1, 2 and 3 are different methods, because the bias and the residual do not scale with them.

Everything is checked when it is made, so that a row that exists can run. How it runs is `attention`'s business, and
follows from the data alone. The rows are in `methods`.
"""

from dataclasses import dataclass

from ovseg.errors import BadUsage, UnknownName

LIKENESS = ("qk", "qq", "kk", "vv")  # of two of q, k, v: one score a head
SHARED = ("guide", "block", "feedback")  # the same for all heads
SOURCES = (*LIKENESS, "gauss", *SHARED)
NORMALISERS = ("softmax", "identity", "balance")
ALIGNS = ("polar5", "svd")
SCALES = ("default", "norm", "norms")
DETECTORS = ("lof", "som", "norm")
EARLIER = "earlier"

Layers = tuple[int, ...] | range | str  # published numbers of 12, which scale with the depth; EARLIER: all but the last


@dataclass(frozen=True)
class Term:
    """One (tokens x tokens) score.

    `source`: "qk", "qq", "kk", "vv" (products of two of q, k, v); "gauss" (nearness of patches: peak 1, zero to and
    from the image's own token); "guide" (cosine of another network's cells); "block" (cosine of the output tokens of
    `layer`); "feedback" (a matrix that a first pass made).

    q, k, v sources: `unit` makes rows length 1 first; `rounds` times x <- unit(softmax(scale x xT) x); `centre` takes
    the |q|-weighted mean of the patches away; `align` turns keys onto queries, "polar5" by five Newton-Schulz steps,
    "svd" exactly (PEARL). `scale`: a number; "default" is 1 / sqrt(head width) for q, k, v and 1 elsewhere; "norm" is
    GEM's mean of |LN1 x| over sqrt(head width), per picture; "norms" (gauss alone) multiplies nearness by the mean
    over heads of mean |q| mean |k|, over sqrt(head width), per picture.

    Shared sources, in this order: below `floor` becomes 0; minus `shift` times the picture's mean score; times scale;
    `cut` makes what is negative -inf. `std` is for gauss, in patches.
    """

    source: str
    weight: float = 1.0
    scale: float | str = "default"
    unit: bool = False
    rounds: int = 0
    centre: bool = False
    align: str = ""
    std: float = 0.0
    layer: int = 0
    floor: float | None = None
    shift: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UnknownName.of("source of a term", self.source, SOURCES)
        if self.weight == 0 or (self.weight < 0 and self.source in LIKENESS):
            raise BadUsage(f"a term needs a positive weight: {self.source} has {self.weight}")
        if (self.std > 0) != (self.source == "gauss"):
            raise BadUsage(f"std is for gauss, and gauss needs one: {self.source} has std {self.std}")
        if isinstance(self.scale, str) and self.scale not in SCALES:
            raise UnknownName.of("scale of a term", self.scale, SCALES)
        if (self.scale == "norm" and self.source not in LIKENESS) or (self.scale == "norms" and self.source != "gauss"):
            raise BadUsage(f'scale "norm" is for q, k, v terms and "norms" for gauss: {self.source} has {self.scale!r}')
        if self.align and self.align not in ALIGNS:
            raise UnknownName.of("align of a term", self.align, ALIGNS)
        if self.source not in LIKENESS and (self.unit or self.rounds or self.centre or self.align):
            raise BadUsage(f"unit, rounds, centre and align are for q, k, v terms: {self.source} has some")
        if self.rounds < 0 or (self.rounds and (not self.unit or self.source == "qk")):
            raise BadUsage(f"rounds need unit rows of one side with itself: {self.source} has {self.rounds}")
        if self.align and self.source != "qk":
            raise BadUsage(f"align turns keys onto queries: it is for qk, got {self.source}")
        if self.unit + self.centre + bool(self.align) > 1:
            raise BadUsage(f"unit, centre and align are one choice: {self.source} has several")
        if self.source not in SHARED and (self.floor is not None or self.shift or self.cut):
            raise BadUsage(f"floor, shift and cut are for guide, block and feedback: {self.source} has some")
        if (self.layer > 0) != (self.source == "block"):
            raise BadUsage(f"layer is for block, and block needs one: {self.source} has layer {self.layer}")
        _published((self.layer,) if self.layer else ())


@dataclass(frozen=True)
class Group:
    """Terms that are added, normalised over the keys, then weighted.

    "identity": each token keeps its own value. "balance" is CLIPer's: softmaxes are summed over `layers`, then columns
    and rows are divided by their sums, once for every block of the tower. With `layers`, the terms are normalised in
    each of those blocks and averaged.
    """

    terms: tuple[Term, ...] = ()
    weight: float = 1.0
    normaliser: str = "softmax"
    layers: Layers = ()

    def __post_init__(self) -> None:
        if self.normaliser not in NORMALISERS:
            raise UnknownName.of("normaliser", self.normaliser, NORMALISERS)
        if self.weight == 0:
            raise BadUsage("a group of weight 0 does nothing: leave it out")
        if bool(self.terms) == (self.normaliser == "identity"):
            raise BadUsage("a softmax or balance group needs terms, and an identity group has none")
        if self.layers != EARLIER:
            _published(self.layers)
        elsewhere = bool(len(self.layers))
        if self.normaliser == "balance" and not elsewhere:
            raise BadUsage("a balance group sums over layers: it needs some")
        if elsewhere and any(term.source in (*SHARED, "gauss") for term in self.terms):
            raise BadUsage("a group over other layers has q, k, v terms alone")
        if self.guided and len(self.terms) > 1:
            raise BadUsage("guide lies on a grid of its own: it is alone in its group")

    @property
    def guided(self) -> bool:
        """Whether its answer lies on the guide's grid."""
        return any(term.source == "guide" for term in self.terms)


@dataclass(frozen=True)
class Repair:
    """Which patches entering the last block are outliers, mended to the mean of their sound 3 x 3 neighbours.

    "lof": score above the `limit` quantile (SC-CLIP); "som": the image token looks at it more than it at itself, at
    most `limit` of them; "norm": the `limit` longest (SFP). `lonely`: what an outlier without sound neighbours becomes,
    "keep" or "zero".
    """

    detector: str
    limit: float | int
    lonely: str = "keep"

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise UnknownName.of("detector", self.detector, DETECTORS)
        if self.lonely not in ("keep", "zero"):
            raise UnknownName.of("lonely", self.lonely, ("keep", "zero"))
        if self.limit <= 0 or (self.detector == "lof" and self.limit >= 1):
            raise BadUsage(f"limit is a quantile in (0, 1) for lof and a count otherwise: got {self.limit}")


@dataclass(frozen=True)
class Pool:
    """Tokens become weighted means of those alike: rows of S * [S >= floor] over their sum, S the cosine of the output
    tokens of `layer`."""

    layer: int
    floor: float = 0.4

    def __post_init__(self) -> None:
        _published((self.layer,))


@dataclass(frozen=True)
class LastBlock:
    """One dense method: the groups of the last block, what stays of the block around them, and what stands beside it.

    `cls` False drops the image's own token before the block. `dual` n: the last n blocks feed a second stream that
    takes no MLP and starts, with `residual`, from what enters the first of them (CLIP Surgery, GEM); without, from
    nothing. `cls_add` times the image token that enters the block is added to every patch. `cls_logits` times the
    cosine of the changed block's image token is added to every cell's (SegEarth: negative). `before` and `after` pool
    the tokens entering and leaving the block. `extra`: a second pass over the sum of these blocks' outputs, with
    `extra_groups` if there are any, added to the first. `positions` is how the authors' program resamples the position
    embedding, used by `protocol="paper"` alone.
    """

    groups: tuple[Group, ...]
    cls: bool = True
    residual: bool = True
    mlp: bool = True
    dual: int = 0
    cls_add: float = 0.0
    cls_logits: float = 0.0
    repair: Repair | None = None
    before: Pool | None = None
    after: Pool | None = None
    extra: Layers = ()
    extra_groups: tuple[Group, ...] = ()
    positions: str = "bicubic"
    source: str = ""

    def __post_init__(self) -> None:
        if not self.groups:
            raise BadUsage("a last block needs at least one group")
        _published(self.extra)
        terms = [term for group in (*self.groups, *self.extra_groups) for term in group.terms]
        patchwise = any(term.source in ("guide", "block") for term in terms) or self.repair or self.before or self.after
        if self.cls and (patchwise or self.cls_add):
            raise BadUsage("guide, block, repair, pools and cls_add speak of patches: they need cls=False")
        if self.residual and patchwise and not self.dual:
            raise BadUsage("a block over mended, pooled or guided tokens has no residual: set residual=False")
        if self.cls_logits and not self.cls:
            raise BadUsage("cls_logits needs the image token in the block: set cls=True")
        if self.dual < 0 or (self.dual and (self.mlp or not self.cls or self.extra)):
            raise BadUsage("a second stream (dual) takes no MLP, keeps the image token and has no extra pass")
        guided = [group.guided for group in (*self.groups, *self.extra_groups)]
        if any(guided) and (not all(guided) or self.residual or self.mlp or self.cls_add or self.before or self.after):
            raise BadUsage("a guided row lies on the guide's grid: all its groups are guided, nothing else is kept")
        if self.extra_groups and not len(self.extra):
            raise BadUsage("extra_groups are for an extra pass: name its layers in extra")

    @property
    def row_sum(self) -> float:
        """What every row of the attention adds up to."""
        return sum(group.weight for group in self.groups)

    @property
    def needs(self) -> frozenset[str]:
        """What not every tower has (`walk.FEATURES`), and what not every caller gives: "guide", "feedback"."""
        groups = (*self.groups, *self.extra_groups)
        sources = {term.source for group in groups for term in group.terms}
        needs = (sources & {"guide", "feedback"}) | {"attention"}
        if self.residual:
            needs.add("residual")
        if self.mlp:
            needs.add("mlp")
        if self.cls_add or self.cls_logits or (self.repair and self.repair.detector == "som"):
            needs.add("own")
        if self.dual > 1 or "block" in sources or self.before or self.after or len(self.extra) or self.repair:
            needs.add("layers")
        if any(len(group.layers) for group in groups):
            needs.add("layers")
        return frozenset(needs)


def _published(layers: Layers) -> None:
    """Published towers have 12 blocks, and a method that wants the last says so in another way."""
    if isinstance(layers, str) or any(not 1 <= number <= 12 for number in layers):
        raise BadUsage(f"layers are numbers from 1 to 12, as in a tower of 12 blocks: got {layers!r}")


QK, QQ, KK, VV = (Term(source) for source in LIKENESS)
IDENTITY = Group(normaliser="identity")
NEAR = Term("gauss", std=5.0)  # patches: NACLIP's own default


__all__ = [
    "ALIGNS",
    "DETECTORS",
    "EARLIER",
    "Group",
    "IDENTITY",
    "KK",
    "LIKENESS",
    "LastBlock",
    "Layers",
    "NEAR",
    "NORMALISERS",
    "Pool",
    "QK",
    "QQ",
    "Repair",
    "SCALES",
    "SHARED",
    "SOURCES",
    "Term",
    "VV",
]
