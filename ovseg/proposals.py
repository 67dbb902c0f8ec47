"""Masks without names: where things might be in a picture, as `Regions`. A proposer is a row of `PROPOSERS`.

none          no region: the dense map decides.
felzenszwalb  nested segments without any weights: Felzenszwalb and Huttenlocher's graph segmentation (IJCV 2004) at
              the leaves, then neighbours merged by colour, by the edge between them and by what CLIP sees in them.
              Sharp borders and nested scales; it is no object proposer (Selective Search segments reach AR@100 of 9.5
              on COCO where SAM reaches 44.8: MobileSAMv2, arXiv:2312.09579, tables 2 and 3).
sam           segment-anything's own automatic mask generator (arXiv:2304.02643) over any SAM-type network.

What is kept of a proposal, which vector it gets and which pixels it owns is decided in `encoders` and `labels`.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.types import DenseFeatures, Regions, Rle

FLOOR = 0.05  # added to each of the three differences, so that no single one can make a merge free
CHEAPEST, DEAREST = FLOOR**3, (1 + FLOOR) ** 3
BINS = 8  # of each Lab channel
NOTHING = 1e-6  # a quality that rounding alone can give to a node that dies where it is born


@dataclass(frozen=True)
class Proposer:
    """One way to propose regions: what it computes, the options it knows with their defaults, and what it needs.

    `run` gets every option, merged with the defaults, and must leave the picture as it is.
    """

    run: Callable[[UInt8[np.ndarray, "height width 3"], DenseFeatures, object | None, Mapping[str, Any]], Regions]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_sam: bool = False
    source: str = ""


def propose(
    name: str,
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    *,
    sam: object | None = None,
    **options: Any,
) -> Regions:
    """Regions of a picture by the proposer of that name; the picture is RGB and the one that `features` are of.

    >>> image = np.zeros((48, 80, 3), np.uint8)
    >>> features = DenseFeatures(np.ones((1, 6, 10), np.float32), np.ones(1, np.float32), 48, 80)
    >>> len(propose("none", image, features))
    0
    >>> propose("felzenszwalb", image, features, min_sise=5)
    Traceback (most recent call last):
    ...
    ovseg.errors.UnknownName: option of proposer felzenszwalb must be one of keep, long_side, max_area, min_area, \
min_size, scale, sigma: got 'min_sise'. Did you mean 'min_size'?
    """
    row = proposer(name)
    for option in options:
        if option not in row.options:
            raise UnknownName.of(f"option of proposer {name}", option, row.options)
    if image.shape[:2] != (features.height, features.width):
        raise BadInput(
            f"picture and features must match: the picture is {image.shape[0]}x{image.shape[1]}, the features are of "
            f"{features.height}x{features.width} (rows x cols). Swapped axes?"
        )
    if row.needs_sam and sam is None:
        free = ", ".join(other for other, candidate in PROPOSERS.items() if not candidate.needs_sam)
        raise BadUsage(
            f"proposer {name} needs a SAM-type network: none was given; pass sam=ovseg.sam.load.load(PATH), or choose "
            f"one that needs none ({free})"
        )
    return row.run(image, features, sam, {**row.options, **options})


def proposer(name: str) -> Proposer:
    """The row of a proposer, whatever its case and with `_` read as `-`."""
    key = name.lower().replace("_", "-")
    if key not in PROPOSERS:
        raise UnknownName.of("proposer", name, PROPOSERS)
    return PROPOSERS[key]


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Nested segments of a picture: n leaves, then n - 1 unions of two neighbours each; the last node is everything.

    A node holds the leaves whose number lies in its span (`first` to `last`, exclusive), and `leaves` gives each pixel
    its leaf's number. `birth` and `death` are the costs at which a node was made and was merged into its `parent`
    (-1 for the last node): they never fall on the way up.
    """

    leaves: Int32[np.ndarray, "height width"]
    first: Int[np.ndarray, " nodes"]
    last: Int[np.ndarray, " nodes"]
    parent: Int[np.ndarray, " nodes"]
    birth: Float[np.ndarray, " nodes"]
    death: Float[np.ndarray, " nodes"]
    area: Int[np.ndarray, " nodes"]

    @property
    def quality(self) -> Float32[np.ndarray, " nodes"]:
        """How long a node outlives its birth, in [0, 1]: the log of the costs' ratio, over the log of the widest."""
        span = np.log(self.death / self.birth) / math.log(DEAREST / CHEAPEST)
        return np.asarray(span.clip(0, 1), np.float32)

    def mask(self, node: int) -> Bool[np.ndarray, "height width"]:
        """The pixels of a node."""
        inside: Bool[np.ndarray, "height width"] = (self.leaves >= self.first[node]) & (self.leaves < self.last[node])
        return inside


def merge_tree(
    image: UInt8[np.ndarray, "height width 3"], segments: Int[np.ndarray, "height width"], features: DenseFeatures
) -> MergeTree:
    """The tree that merging the cheapest neighbours first makes of a segmentation.

    The cost of two neighbours is the product of three differences, each in [0, 1] and raised by `FLOOR`: chi-square of
    their Lab histograms (8 bins a channel, the three averaged), mean gradient of L along their border (Sobel, 1 at the
    99th percentile), and (1 - cosine) / 2 of their mean dense vectors. Histograms and vectors are averaged by area,
    gradients by border length. Costs are made monotone by a running maximum. The numbers that segments carry do not
    matter. `features` may be of the picture at another size.
    """
    segments = _in_reading_order(segments)
    area = np.bincount(segments.ravel())
    lab, gradient = _lab_and_gradient(image)
    vectors = _vectors(features, segments, area)
    lengths = np.linalg.norm(vectors, axis=1)
    leaves = _Nodes(area.astype(np.float64), _histograms(lab, segments, area), vectors, lengths)
    return _grow(segments, leaves, *_borders(segments, gradient))


def _none(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    sam: object | None,
    options: Mapping[str, Any],
) -> Regions:
    return Regions.empty(features.height, features.width)


def _felzenszwalb(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    sam: object | None,
    options: Mapping[str, Any],
) -> Regions:
    """The nodes of the merge tree that are neither specks nor everything, best `quality * sqrt(area)` first."""
    import cv2
    from skimage.segmentation import felzenszwalb

    height, width = image.shape[:2]
    shrink = min(1.0, options["long_side"] / max(height, width))
    small = image
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if min(small.shape[:2]) < 2:  # skimage's graph needs two rows and two columns
        return Regions.empty(height, width)
    segments = felzenszwalb(small, scale=options["scale"], sigma=options["sigma"], min_size=options["min_size"])
    tree = merge_tree(small, segments, features)
    share = tree.area / tree.leaves.size
    kept = np.flatnonzero((share >= options["min_area"]) & (share <= options["max_area"]) & (tree.quality > NOTHING))
    order = np.argsort(-tree.quality[kept] * np.sqrt(share[kept]), kind="stable")
    kept = kept[order[: options["keep"]]]
    return Regions(height, width, tuple(_rles(tree, kept, height, width)), tree.quality[kept])


def _sam(
    image: UInt8[np.ndarray, "height width 3"],
    features: DenseFeatures,
    sam: object | None,
    options: Mapping[str, Any],
) -> Regions:
    """segment-anything's own records as regions, in its order; `quality` is the column named, clipped to [0, 1]."""
    from ovseg.sam.load import require_float32

    settings = dict(options)
    column = settings.pop("quality")
    if column not in ("predicted_iou", "stability_score"):
        raise UnknownName.of("quality of proposer sam", str(column), ("predicted_iou", "stability_score"))
    model = require_float32(sam)
    from segment_anything import SamAutomaticMaskGenerator

    records = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **settings).generate(image)
    height, width = image.shape[:2]
    quality = np.array([record[column] for record in records], np.float32).clip(0, 1)
    return Regions(height, width, tuple(_rle_of(record["segmentation"]) for record in records), quality)


PROPOSERS: Mapping[str, Proposer] = MappingProxyType(
    {
        "none": Proposer(_none),
        "felzenszwalb": Proposer(
            _felzenszwalb,
            {
                "long_side": 640,  # px
                "scale": 300,
                "sigma": 0.8,  # px
                "min_size": 50,  # px
                "min_area": 0.0005,  # of the picture
                "max_area": 0.95,
                "keep": 100,
            },
            source="skimage.segmentation.felzenszwalb; the tree is ours",
        ),
        "sam": Proposer(
            _sam,
            {
                "points_per_side": 32,
                "points_per_batch": 16,
                "pred_iou_thresh": 0.88,
                "stability_score_thresh": 0.95,
                "stability_score_offset": 1.0,
                "box_nms_thresh": 0.7,
                "crop_n_layers": 0,
                "crop_nms_thresh": 0.7,
                "crop_overlap_ratio": 512 / 1500,
                "crop_n_points_downscale_factor": 1,
                "min_mask_region_area": 0,  # px
                "quality": "predicted_iou",
            },
            needs_sam=True,
            source="facebookresearch/segment-anything@dca509f; all defaults are its own, but for the batch",
        ),
    }
)


@dataclass
class _Nodes:
    """What a merge needs of each living node: area, and area-weighted means; a union takes the place of one of two."""

    area: Float[np.ndarray, " n"]
    histogram: Float32[np.ndarray, "n bins"]
    vector: Float32[np.ndarray, "n dim"]
    length: Float32[np.ndarray, " n"]  # of the vector

    def union(self, one: int, other: int) -> None:
        """`one` becomes the union of both; `other` is dead."""
        share = np.float32(self.area[other] / (self.area[one] + self.area[other]))
        for means in (self.histogram, self.vector):
            means[one] += share * (means[other] - means[one])
        self.area[one] += self.area[other]
        self.length[one] = np.linalg.norm(self.vector[one])

    def costs(self, one: int, others: Int[np.ndarray, " m"], edge: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """What merging `one` with each of the others costs, in [CHEAPEST, DEAREST]."""
        left, right = self.histogram[one], self.histogram[others]
        both = left + right
        colour = (np.square(left - right) / np.where(both > 0, both, 1)).sum(axis=1) / 6
        cosine = self.vector[others] @ self.vector[one] / np.maximum(self.length[others] * self.length[one], 1e-12)
        product = (FLOOR + colour) * (FLOOR + edge) * (FLOOR + (1 - cosine) / 2)
        return np.asarray(product.clip(CHEAPEST, DEAREST), np.float64)


def _grow(
    segments: Int32[np.ndarray, "height width"],
    nodes: _Nodes,
    pairs: Int[np.ndarray, "m 2"],
    strength: Float[np.ndarray, " m"],
    length: Float[np.ndarray, " m"],
) -> MergeTree:
    """Merges until one node is left; of equal costs, the pair of the lowest numbers comes first.

    Living nodes sit in the places of leaves, a union in the place of its child with more neighbours, so that few
    borders need a new key. The heap holds one offer a node: its cheapest living neighbour among those older than
    itself. Pairs with younger ones are the younger's to offer, and an offer to a dead node is renewed when it comes up.
    """
    count = len(nodes.area)
    total = 2 * count - 1
    parent, children = [-1] * total, np.full((total, 2), -1)
    birth, death = np.full(total, CHEAPEST), np.full(total, DEAREST)
    area = np.zeros(total, np.int64)
    area[:count] = nodes.area
    place, living = list(range(total)), list(range(count))
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]  # place -> gradient sum, length
    older: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for (a, b), gradients, steps in zip(pairs.tolist(), strength.tolist(), length.tolist(), strict=True):
        older[b][a] = borders[a][b] = borders[b][a] = (gradients, steps)
    queues = [_cheapest_first(nodes, living, leaf, around) for leaf, around in enumerate(older)]
    heap: list[tuple[float, int, int]] = []

    def offer(node: int) -> None:
        found = next(((cost, other) for cost, other in queues[node] if parent[other] < 0), None)
        if found:
            heapq.heappush(heap, (*found, node))

    for leaf in range(count):
        offer(leaf)
    highest = CHEAPEST
    for node in range(count, total):
        cost, a, b = heapq.heappop(heap)
        while parent[a] >= 0 or parent[b] >= 0:
            if parent[b] < 0:
                offer(b)
            cost, a, b = heapq.heappop(heap)
        highest = max(highest, cost)
        parent[a] = parent[b] = node
        children[node] = a, b
        birth[node] = death[a] = death[b] = highest
        area[node] = area[a] + area[b]
        gone, kept = sorted((place[a], place[b]), key=lambda at: len(borders[at]))
        nodes.union(kept, gone)
        del borders[kept][gone], borders[gone][kept]
        for other, (gradients, steps) in borders[gone].items():
            had = borders[kept].get(other, (0.0, 0.0))
            borders[kept][other] = borders[other][kept] = (had[0] + gradients, had[1] + steps)
            del borders[other][gone]
        place[node], living[kept] = kept, node
        queues.append(_cheapest_first(nodes, living, kept, borders[kept]))
        offer(node)
    first, last = _spans(children, count)
    leaves = first[:count].astype(np.int32)[segments]
    return MergeTree(leaves, first, last, np.asarray(parent), birth, death, area)


def _cheapest_first(
    nodes: _Nodes, living: list[int], at: int, around: Mapping[int, tuple[float, float]]
) -> Iterator[tuple[float, int]]:
    """The cost of merging the node at a place with each of some neighbours, and that neighbour: cheapest first."""
    edge = np.array([gradients / steps for gradients, steps in around.values()], np.float64)
    costs = nodes.costs(at, np.array(list(around), np.int64), edge)
    others = np.array([living[other] for other in around], np.int64)
    order = np.lexsort((others, costs))
    return zip(costs[order].tolist(), others[order].tolist(), strict=True)


def _spans(children: Int[np.ndarray, "nodes 2"], count: int) -> tuple[Int[np.ndarray, " nodes"], ...]:
    """First and last (exclusive) leaf number of every node, when leaves are numbered from left to right."""
    sizes = np.ones(len(children), np.int64)
    for node in range(count, len(children)):
        sizes[node] = sizes[children[node]].sum()
    first = np.zeros(len(children), np.int64)
    for node in range(len(children) - 1, count - 1, -1):
        left, right = children[node]
        first[left], first[right] = first[node], first[node] + sizes[left]
    return first, first + sizes


def _in_reading_order(segments: Int[np.ndarray, "height width"]) -> Int32[np.ndarray, "height width"]:
    """The same segments, numbered by their first pixel."""
    flat = segments.ravel() - segments.min()
    first = np.full(int(flat.max()) + 1, flat.size)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # the last write stays: the first pixel
    number = np.empty(len(first), np.int32)
    number[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return np.asarray(number[flat].reshape(segments.shape), np.int32)


def _lab_and_gradient(
    image: UInt8[np.ndarray, "height width 3"],
) -> tuple[UInt8[np.ndarray, "height width 3"], Float32[np.ndarray, "height width"]]:
    """CIE Lab in bytes (a and b are 128 at grey), and the gradient of L, 1 at its 99th percentile and above."""
    import cv2

    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), np.uint8)
    light = np.ascontiguousarray(lab[..., 0])
    gradient = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)).astype(np.float32)
    rank = math.ceil(0.99 * (gradient.size - 1))
    steep = np.partition(gradient.ravel(), rank)[rank]
    return lab, (gradient / steep).clip(0, 1) if steep > 0 else (gradient > 0).astype(np.float32)


def _histograms(
    lab: UInt8[np.ndarray, "height width 3"], segments: Int32[np.ndarray, "height width"], area: Int[np.ndarray, " n"]
) -> Float32[np.ndarray, "n bins"]:
    """Three histograms side by side, each of sum 1; a value is shared by its two nearest bins: noise moves little."""
    place = ((np.arange(256) + 0.5) * BINS / 256 - 0.5).clip(0, BINS - 1)
    share = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(BINS))).astype(np.float32)  # (256, bins)
    at = segments.ravel().astype(np.int64) * 256
    out = np.empty((len(area), 3 * BINS), np.float32)
    for channel in range(3):
        counts = np.bincount(at + lab[..., channel].ravel(), minlength=256 * len(area)).reshape(-1, 256)
        out[:, channel * BINS : (channel + 1) * BINS] = counts.astype(np.float32) @ share / area[:, None]
    return out


def _vectors(
    features: DenseFeatures, segments: Int32[np.ndarray, "height width"], area: Int[np.ndarray, " n"]
) -> Float32[np.ndarray, "n dim"]:
    """Mean dense vector of each segment: every pixel counts for the cell that its centre lies in."""
    from scipy import sparse  # type: ignore[import-untyped]  # scikit-image brings it

    (height, width), (rows, cols) = segments.shape, features.grid
    row = ((np.arange(height) + 0.5) * rows / height).astype(np.int32)
    col = ((np.arange(width) + 0.5) * cols / width).astype(np.int32)
    cell = (row[:, None] * cols + col).ravel()
    pixels = np.ones(cell.size, np.float32)
    counts = sparse.coo_array((pixels, (segments.ravel(), cell)), (len(area), rows * cols)).tocsr()
    sums = counts @ features.vectors.reshape(len(features.vectors), -1).T
    return np.asarray(sums / area[:, None], np.float32)


def _borders(
    segments: Int32[np.ndarray, "height width"], gradient: Float32[np.ndarray, "height width"]
) -> tuple[Int[np.ndarray, "m 2"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Neighbours (pairs, the lower number first), the sum of gradients along their border, and its length in steps.

    A step is a pair of pixels side by side or one above the other; its gradient is the mean of both.
    """
    keys, values = [], []
    count = int(segments.max()) + 1
    for here, there in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        left, right = segments[here], segments[there]
        step = left != right
        low, high = np.minimum(left[step], right[step]), np.maximum(left[step], right[step])
        keys.append(low.astype(np.int64) * count + high)
        values.append((gradient[here][step] + gradient[there][step]) / 2)
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    strength = np.bincount(inverse.ravel(), np.concatenate(values), len(pairs)).astype(np.float64)
    length = np.bincount(inverse.ravel(), minlength=len(pairs)).astype(np.float64)
    return np.stack(np.divmod(pairs, count), axis=1), strength, length


def _rles(tree: MergeTree, nodes: Int[np.ndarray, " m"], height: int, width: int) -> Iterator[Rle]:
    """Run lengths of nodes in a frame of another size, where a pixel takes the leaf that its centre falls in."""
    row_edges, col_edges = _edges(tree.leaves.shape[0], height), _edges(tree.leaves.shape[1], width)
    tops, bottoms = _extent(tree.leaves)
    lefts, rights = _extent(tree.leaves.T)
    for node in nodes:
        span = slice(tree.first[node], tree.last[node])
        top, bottom, left, right = tops[span].min(), bottoms[span].max(), lefts[span].min(), rights[span].max()
        inside = tree.leaves[top:bottom, left:right]
        mask = (inside >= span.start) & (inside < span.stop)
        yield _stretched_rle(mask, row_edges[top : bottom + 1], col_edges[left : right + 1], height, width)


def _edges(cells: int, pixels: int) -> Int[np.ndarray, " n"]:
    """Where each of `cells` begins, in pixels, when a pixel goes to the cell that its centre is in; the end comes last.

    >>> _edges(2, 5).tolist()
    [0, 2, 5]
    """
    return np.searchsorted(((np.arange(pixels) + 0.5) * cells / pixels).astype(np.int64), np.arange(cells + 1))


def _extent(leaves: Int32[np.ndarray, "along across"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First and last (exclusive) index along the first axis that each leaf occupies."""
    count, along = int(leaves.max()) + 1, len(leaves)
    seen = np.zeros((count, along), bool)
    seen[leaves, np.arange(along)[:, None]] = True
    return seen.argmax(axis=1), along - seen[:, ::-1].argmax(axis=1)


def _stretched_rle(
    mask: Bool[np.ndarray, "h w"],
    row_edges: Int[np.ndarray, " h+1"],
    col_edges: Int[np.ndarray, " w+1"],
    height: int,
    width: int,
) -> Rle:
    """Run lengths of a mask whose cells each fill the pixels between their edges in the frame; no pixel is touched."""
    from pycocotools import mask as coco

    step = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (column, begin), (_, end) = np.nonzero(step == 1), np.nonzero(step == -1)  # as many, in the same order
    repeats = np.diff(col_edges)[column]
    run = np.repeat(np.arange(len(column)), repeats)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    offset = (col_edges[column[run]] + nth) * height
    starts, ends = offset + row_edges[begin[run]], offset + row_edges[end[run]]
    starts, ends = np.setdiff1d(starts, ends), np.setdiff1d(ends, starts)  # in order; columns of full height are joined
    runs = np.diff(np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])).tolist()
    counts = runs if runs[-1] else runs[:-1]
    return _rle_of(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _rle_of(rle: Mapping[str, Any]) -> Rle:
    """Run lengths as pycocotools gives them, the counts as text."""
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(n) for n in rle["size"]], "counts": text}


__all__ = [
    "MergeTree",
    "PROPOSERS",
    "Proposer",
    "merge_tree",
    "propose",
    "proposer",
]
