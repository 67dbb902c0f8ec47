"""Several encoders asked about the same regions: weighed anew for each mask, or blended name by name.

An ensemble mixes members' scaled cosines, so each prompt row of a region is a weighted mean of what the members give
it. Weights are per mask, and depend on the words: a member that is of two minds about this mask counts for less.
AutoCLIP (arXiv:2309.16414) weighs prompt templates in this way; here the members stand in their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from ovseg.encoders.described import Described, unit
from ovseg.encoders.votes import LEAST, slot_of
from ovseg.errors import BadUsage, UnknownName
from ovseg.raster import posterior, slots_of
from ovseg.types import Vocabulary

LEAST_ENTROPY = 0.01  # of the largest: a member that is quite sure counts a hundred times one that knows nothing
HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Together:
    """Members whose rows are averaged with a weight per mask, by the name of `WEIGHTS`."""

    members: tuple[Described, ...]
    weights: str = "entropy"
    beta: float = 0.85

    def rows(self, vocabulary: Vocabulary, scale: float, probability: str) -> Float32[np.ndarray, "n rows"]:
        """Weighted means of the members' rows."""
        said = np.stack([member.rows(vocabulary, scale, probability) for member in self.members])
        if not said.size:
            return np.asarray(said[0], np.float32)
        weights = WEIGHTS[self.weights](said, vocabulary, probability, self.beta)
        return np.asarray(np.einsum("mn,mnr->nr", weights, said), np.float32)

    def pick(self, keep: Shaped[np.ndarray, " m"]) -> "Together":
        """The same of the regions that a boolean mask or an index array picks."""
        return replace(self, members=tuple(member[keep] for member in self.members))

    def spread(self, places: Int[np.ndarray, " n"], count: int) -> "Together":
        """The same of `count` regions, of which these stand at `places` and all others are empty."""
        return replace(self, members=tuple(member.spread(places, count) for member in self.members))


@dataclass(frozen=True, eq=False)
class Blended:
    """Two members, p proportional to p1^(1 - a) p2^a; a is `alpha` for the names in `seen`, `beta` for others."""

    members: tuple[Described, ...]
    alpha: float
    beta: float
    seen: frozenset[str]

    def rows(self, vocabulary: Vocabulary, scale: float, probability: str) -> Float32[np.ndarray, "n rows"]:
        """Logarithms of the blend, less their largest; rows of one name alike, unless `probability` is "rows"."""
        shares = np.array([self.alpha if name in self.seen else self.beta for name in vocabulary.names])
        of_row = np.append(shares, self.beta)[vocabulary.owner].astype(np.float32)  # -1, a negative, is the last
        logs = [_logs(member.rows(vocabulary, scale, probability), vocabulary, probability) for member in self.members]
        mixed = (1 - of_row) * logs[0] + of_row * logs[1]
        return np.asarray(
            mixed - mixed.max(axis=1, keepdims=True, initial=-np.inf) if mixed.size else mixed, np.float32
        )

    def pick(self, keep: Shaped[np.ndarray, " m"]) -> "Blended":
        """The same of the regions that a boolean mask or an index array picks."""
        return replace(self, members=tuple(member[keep] for member in self.members))

    def spread(self, places: Int[np.ndarray, " n"], count: int) -> "Blended":
        """The same of `count` regions, of which these stand at `places` and all others are empty."""
        return replace(self, members=tuple(member.spread(places, count) for member in self.members))


def ensemble(members: Sequence[Described], options: Mapping[str, Any]) -> Described:
    """Any number of encoders' words on the same regions, with a weight for each mask and member.

    `weights` "entropy" (default): one over the entropy of the member's posterior, as a share of the largest there is;
    "autoclip": softmax of the gradient of the log-sum of exponents by the weights, so steep that their entropy is
    `beta` of the largest; "mean": all alike. The vectors are the unit means of the members'. Nothing depends on the
    members' order.
    """
    check_ensemble(options)
    weights, beta = str(options["weights"]), float(options["beta"])
    vectors = np.mean([member.vectors for member in members], axis=0)
    return Described(unit(np.asarray(vectors, np.float32)), Together(tuple(members), weights, beta))


def blend(members: Sequence[Described], options: Mapping[str, Any]) -> Described:
    """Two encoders' posteriors blended as FC-CLIP does (bytedance/fc-clip@7791b83): geometrically, name by name.

    The first member is the one that was taught the `seen` names, which take `alpha` (0.4) of the second, all other
    names and the negatives `beta` (0.8). 0 is the first member alone, 1 the second. The vectors are the second's.
    """
    check_blend(options)
    shares = {key: float(options[key]) for key in ("alpha", "beta")}
    first, second = members
    return Described(second.vectors, Blended((first, second), **shares, seen=frozenset(options["seen"])))


def check_ensemble(options: Mapping[str, Any]) -> None:
    """An error where an option of `ensemble` makes no sense."""
    if options["weights"] not in WEIGHTS:
        raise UnknownName.of("weights", str(options["weights"]), WEIGHTS)
    if not 0 < options["beta"] <= 1:
        raise BadUsage(
            f"beta is a share of the largest entropy, above 0 and up to 1 (all alike): got {options['beta']}"
        )


def check_blend(options: Mapping[str, Any]) -> None:
    """An error where an option of `blend` makes no sense."""
    count, seen = len(members_of(options)), options["seen"]
    if count != 2:
        raise BadUsage(f"blend takes two members, the taught and the open one: got {count}")
    for key in ("alpha", "beta"):
        if not 0 <= options[key] <= 1:
            raise BadUsage(f"{key} goes from 0 (the first member) to 1 (the second): got {options[key]}")
    if isinstance(seen, str) or not isinstance(seen, Sequence) or not all(isinstance(name, str) for name in seen):
        raise BadUsage(f"seen is a list of names: got {seen!r}")


def by_entropy(
    said: Float32[np.ndarray, "m n rows"], vocabulary: Vocabulary, probability: str, beta: float
) -> Float[np.ndarray, "m n"]:
    """Weights by one over the entropy of each member's posterior of each mask; they sum to 1 over members."""
    spread = np.stack([_entropy(rows, vocabulary, probability) for rows in said])
    weights = 1 / np.maximum(spread, LEAST_ENTROPY)
    return np.asarray(weights / weights.sum(axis=0), float)


def by_autoclip(
    said: Float32[np.ndarray, "m n rows"], vocabulary: Vocabulary, probability: str, beta: float
) -> Float[np.ndarray, "m n"]:
    """AutoCLIP's weights: softmax of a gradient, with the entropy beta log m; they sum to 1 over members.

    With w = softmax(r) at r = 0 and s = sum_m w_m e_m over a mask's names and negatives, the gradient of
    log sum exp(s) by r_m is the softmax(s)-mean of e_m - s, over m. e are the scaled cosines.
    """
    count = len(said)
    best = np.stack(
        [slots_of(np.ascontiguousarray(rows.T), vocabulary.owner, len(vocabulary)) for rows in said]
    ).astype(float)  # (m, slots, n)
    mean = best.mean(axis=0)
    chances = np.exp(mean - mean.max(axis=0))
    chances /= chances.sum(axis=0)
    gradient = ((best - mean) * chances).sum(axis=1) / count  # (m, n)
    span = gradient.max(axis=0) - gradient.min(axis=0)
    steps = np.where(span > 0, (gradient - gradient.max(axis=0)) / np.where(span > 0, span, 1), 0)
    low, high = np.zeros(steps.shape[1]), np.full(steps.shape[1], 1e4)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_flat = _spread_of(_softmax(middle * steps)) > beta * np.log(count)
        low, high = np.where(too_flat, middle, low), np.where(too_flat, high, middle)
    return _softmax((low + high) / 2 * steps)


def by_mean(
    said: Float32[np.ndarray, "m n rows"], vocabulary: Vocabulary, probability: str, beta: float
) -> Float[np.ndarray, "m n"]:
    """The same weight for every member."""
    return np.full(said.shape[:2], 1 / len(said))


WEIGHTS = MappingProxyType({"entropy": by_entropy, "autoclip": by_autoclip, "mean": by_mean})


def members_of(options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The members that options name: a list of names and of {name: its options}.

    >>> members_of({"members": ["pool", {"crop": {"expand": 1.5}}]})
    [('pool', {}), ('crop', {'expand': 1.5})]
    """
    found: list[tuple[str, dict[str, Any]]] = []
    given = options["members"]
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise BadUsage(f"members is a list of encoders, each a name or {{name: its options}}: got {given!r}")
    for member in given:
        if isinstance(member, str):
            found.append((member, {}))
        elif isinstance(member, Mapping) and len(member) == 1 and isinstance(next(iter(member.values())), Mapping):
            ((name, own),) = member.items()
            found.append((str(name), dict(own)))
        else:
            raise BadUsage(f"a member is the name of an encoder, or {{name: its options}}: got {member!r}")
    return found


def _logs(
    rows: Float32[np.ndarray, "n rows"], vocabulary: Vocabulary, probability: str
) -> Float32[np.ndarray, "n rows"]:
    """Logarithms of posteriors, for every prompt row: its name's, or its own where the softmax is over rows."""
    owner, names = vocabulary.owner, len(vocabulary)
    if probability == "rows":  # each row is asked for itself
        owner, names = np.arange(rows.shape[1]), rows.shape[1]
    slots = posterior(np.ascontiguousarray(rows.T), owner, names, "names")
    return np.asarray(np.log(np.maximum(slots[slot_of(owner, names)], LEAST)).T, np.float32)


def _entropy(rows: Float32[np.ndarray, "n rows"], vocabulary: Vocabulary, probability: str) -> Float[np.ndarray, " n"]:
    """Entropy of each mask's posterior as a share of the largest there is; 0 where there is but one answer."""
    slots = posterior(np.ascontiguousarray(rows.T), vocabulary.owner, len(vocabulary), probability).astype(float)
    slots /= np.maximum(slots.sum(axis=0), LEAST)
    return np.asarray(_spread_of(slots) / max(np.log(len(slots)), LEAST), float)


def _softmax(scores: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    powers = np.exp(scores - scores.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0), float)


def _spread_of(shares: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " n"]:
    return np.asarray(-(shares * np.log(np.maximum(shares, LEAST))).sum(axis=0), float)


__all__ = [
    "Blended",
    "HALVINGS",
    "LEAST_ENTROPY",
    "Together",
    "WEIGHTS",
    "blend",
    "by_autoclip",
    "by_entropy",
    "by_mean",
    "check_blend",
    "check_ensemble",
    "ensemble",
    "members_of",
]
