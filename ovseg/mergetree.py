"""Nested segments of a picture: neighbours merged by colour, by the edge between them and by what CLIP sees in them.

The leaves are any segmentation; `proposals` takes Felzenszwalb's. Every node of the tree is a region that somebody
might mean, and how long it lives before it is merged says how much it stands out.
"""

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from ovseg.types import DenseFeatures

FLOOR = 0.05  # added to each of the three differences, so that no single one can make a merge free
CHEAPEST, DEAREST = FLOOR**3, (1 + FLOOR) ** 3
BINS = 8  # of each Lab channel


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
    from scipy import sparse  # scikit-image brings it

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


__all__ = [
    "CHEAPEST",
    "DEAREST",
    "FLOOR",
    "MergeTree",
    "merge_tree",
]
