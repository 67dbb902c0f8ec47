"""From lessons to a head: what examples add to the scores of their names, in closed form.

Examples add to a name's rows (`Vocabulary.head`); the rows stay as the words made them, and so does every name that has
no example. Each name with examples has Gaussians: one about what was accepted, one about each kind of what was
rejected, all of one covariance (`gda`). With m(x) the squared distance of a vector to a mean, in the metric P brought
to length 1 where the examples say nothing, and `r` the squared distance up to which an example is heard,

    closeness(x) = max(0, (r - m(x)) / 2),   added to the name = weight * (accepted closeness - rejected closeness)

Near both this is GDA's logit, -1/2 Mahalanobis of the one less that of the other. Far from both it is 0: a plain linear
head goes on rising for ever, and moves regions that have nothing to do with the pair. `weight` starts at the recipe's
scale, so an example counts as a prompt row does. On the bundled model, 24 look-alike pairs, 5 accepted and 5 rejected:
pairs right 78 -> 91 %, regions of 44 other names 42 -> 41 %, where the linear head that gains as much leaves 34 %.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ovseg import gda
from ovseg.errors import BadUsage
from ovseg.raster import slots_of
from ovseg.types import Vocabulary

SPREAD = 0.4  # squared distance of a region's unit vector to the mean of its kind: the bundled model's on drawings
STRENGTH = 2.0  # examples that this guess is worth
HEARD = 1.5  # spreads: squared distance from a mean up to which examples are heard
SAME_KIND = 3.0  # spreads: rejected examples as near as this are of one kind
SAME = 5  # digits after the point: vectors that agree in them are one example
MARGIN = 1e-3  # logits by which a pinned example's name leads


@dataclass(frozen=True, eq=False)
class Lesson:
    """One thing said: a region's vector, the name, and whether it is that."""

    vector: Float32[np.ndarray, " dim"]
    name: str
    accepted: bool


@dataclass(frozen=True, eq=False)
class Taught:
    """The head that lessons make; `weight` times the closeness is what it adds. A `types.Head`."""

    gaussians: gda.Gaussians
    owner: Int[np.ndarray, " kinds"]  # the name that each Gaussian speaks of
    accepted: Bool[np.ndarray, " kinds"]
    heard: Float[np.ndarray, " kinds"]  # squared distance
    names: int
    weight: float
    dense: bool = True

    def closeness(self, vectors: Float32[np.ndarray, "n dim"]) -> Float[np.ndarray, "n names"]:
        """Accepted less rejected closeness of each name; 0 for the zero vector."""
        dim = self.gaussians.means.shape[1]
        distances = self.gaussians.distances(vectors) * (self.gaussians.ridge / dim)
        near = 0.5 * (self.heard - distances)
        near[~vectors.any(axis=1)] = 0
        sides = np.zeros((2, len(vectors), self.names))  # what is nearer than nothing counts
        for kind, (owner, accepted) in enumerate(zip(self.owner, self.accepted, strict=True)):
            side = sides[int(accepted), :, owner]
            np.maximum(side, near[:, kind], out=side)
        return np.asarray(sides[1] - sides[0])

    def logits(self, vectors: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n names"]:
        """What is added to each name."""
        return np.asarray(self.weight * self.closeness(vectors), np.float32)

    @property
    def most(self) -> float:
        """No score moves by more than this."""
        return self.weight * float(self.heard.max(initial=0)) / 2

    @cached_property
    def digest(self) -> str:
        parts = (self.gaussians.means, self.gaussians.centred, self.owner, self.accepted, self.heard)
        said = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        return hashlib.sha256(said + f"{self.gaussians.ridge} {self.weight} {self.dense}".encode()).hexdigest()[:12]


def taught(lessons: Sequence[Lesson], names: Sequence[str], scale: float, spread: float, dense: bool) -> Taught:
    """The head of some lessons; neither their order nor saying the same again changes anything.

    Examples may be more alike than regions of one name usually are (a thing shown twice): what is heard does not shrink
    below `spread` for that.
    """
    lessons = list({(one.name, one.accepted, one.vector.round(SAME).tobytes()): one for one in lessons}.values())
    vectors = np.stack([one.vector for one in lessons])
    number = {name: owner for owner, name in enumerate(names)}
    said = np.array([number[one.name] for one in lessons])
    rejected = np.array([not one.accepted for one in lessons])
    several = np.zeros(len(lessons), np.int64)
    several[rejected] = _kinds(vectors[rejected], said[rejected], SAME_KIND * spread)
    kinds, places = np.unique(np.stack([said, rejected, several], axis=1), axis=0, return_inverse=True)
    places = places.reshape(-1)  # numpy 2.0 gives a column
    found = gda.fit(vectors, places, spread=spread, strength=STRENGTH)
    scatter = float((found.centred**2).sum()) + STRENGTH * spread
    own = max(spread, scatter / (len(lessons) - len(kinds) + STRENGTH))
    heard = own * (HEARD + 1 / np.bincount(places))  # a mean of n examples is off by own / n
    return Taught(found, kinds[:, 0], kinds[:, 1] == 0, heard, len(names), scale, dense)


def keeping(plain: Vocabulary, head: Taught | None, pinned: Sequence[Lesson], scale: float) -> float:
    """The largest share of the head's weight, in [0, 1], at which every pinned example has its name still.

    Scores are linear in the weight, so what keeps one is an interval. Raises `BadUsage` where no share keeps all, and
    without a head where the words themselves call one otherwise.
    """
    if not pinned:
        return 1.0
    vectors = np.stack([one.vector for one in pinned])
    slots = slots_of(plain.scores(vectors, scale).T, plain.owner, len(plain))
    moves = np.zeros_like(slots)
    if head is not None:
        moves[: len(plain)] = head.logits(vectors).T
    low, high = 0.0, 1.0
    for i, one in enumerate(pinned):
        own = plain.names.index(one.name)
        lead = np.delete(slots[own, i] - slots[:, i], own).astype(float) - MARGIN
        gain = np.delete(moves[own, i] - moves[:, i], own).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = -lead / gain
        if (lead[gain == 0] < -MARGIN).any():
            low = np.inf
        low = max(low, float(meets[gain > 0].max(initial=0)))
        high = min(high, float(meets[gain < 0].min(initial=1)))
    if low > high:
        raise BadUsage(
            "this would rename a pinned example, whatever examples count: it is not taken; undo the pin first"
        )
    return high


def _kinds(vectors: Float32[np.ndarray, "n dim"], said: Int[np.ndarray, " n"], near: float) -> Int[np.ndarray, " n"]:
    """Which kind each rejected example is of: those of one name that hang together by steps of a squared distance."""
    from scipy.sparse import csgraph, csr_array

    apart = 2 - 2 * vectors.astype(float) @ vectors.T.astype(float)
    linked = csr_array((apart <= near) & (said[:, None] == said))
    return np.asarray(csgraph.connected_components(linked, directed=False)[1], np.int64)


__all__ = ["HEARD", "Lesson", "MARGIN", "SAME", "SAME_KIND", "SPREAD", "STRENGTH", "Taught", "keeping", "taught"]
