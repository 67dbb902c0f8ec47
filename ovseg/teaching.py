"""A person says of regions "this is a bolt" or "this is no nut", and every score follows at once.

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
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ovseg import gda
from ovseg.click import Click
from ovseg.errors import BadInput, BadUsage, BadWeights, UnknownName
from ovseg.raster import slots_of
from ovseg.types import Vocabulary

SPREAD = 0.4  # squared distance of a region's unit vector to the mean of its kind: the bundled model's on drawings
STRENGTH = 2.0  # examples that this guess is worth
HEARD = 1.5  # spreads: squared distance from a mean up to which examples are heard
SAME_KIND = 3.0  # spreads: rejected examples as near as this are of one kind
MARGIN = 1e-3  # logits by which a pinned example's name leads
VERSION = 1


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
        near = 0.5 * (self.heard - distances).clip(0)
        near[~vectors.any(axis=1)] = 0
        sides = np.zeros((2, len(vectors), self.names))
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


@dataclass(frozen=True, eq=False)
class State:
    """All that was said so far, and what follows from it."""

    plain: Vocabulary  # without a head
    lessons: tuple[Lesson, ...]
    pinned: tuple[Lesson, ...]
    vocabulary: Vocabulary


class Teaching:
    """A session over one vocabulary; safe to use from several threads. `Pipeline.teach` makes one.

    What is shown is a vector or several (n, dim), a `Click`, or a pair of a picture and where in it: a mask, a box
    (XYXY, pixels) or `Regions`. Every answer is a new `Vocabulary`; those that were given out stay as they are.

    >>> words = Vocabulary(("bolt", "nut"), np.eye(2, 4, dtype=np.float32), np.arange(2))
    >>> teaching = Teaching(words, scale=40.0)
    >>> odd = np.array([0.0, 0.1, 0.0, 1.0], np.float32)  # looks like neither; the words say nut
    >>> teaching.accept(odd, "bolt").scores(odd[None] / np.linalg.norm(odd), 40.0).argmax()
    np.int64(0)
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        scale: float,
        network: str = "",
        through: str = "",
        pooled: bool = True,
        spread: float = SPREAD,
        look: Callable[[Any, Any], Float32[np.ndarray, "n dim"]] | None = None,
        words: Callable[[Any], Vocabulary] | None = None,
    ) -> None:
        """`network` and `through` say what made the vectors: a saved session is of them alone. `pooled` vectors are of
        the cells' kind. `look(picture, where)` gives vectors of what is shown, `words(names)` rows of new names."""
        if vocabulary.head is not None:
            raise BadUsage(
                "this vocabulary was taught already: go on with its session, or load the file it was saved to"
            )
        if not spread > 0:
            raise BadUsage(f"spread is a squared distance above 0: got {spread}")
        self.scale, self.network, self.through, self.spread = float(scale), network, through, float(spread)
        self._pooled, self._look, self._words = pooled, look, words
        self._states = [State(vocabulary, (), (), vocabulary)]
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return self._states[-1].plain.names

    @property
    def vocabulary(self) -> Vocabulary:
        """The names with all that was said of them, for `segment`, `click` and `name`."""
        return self._states[-1].vocabulary

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        return self._states[-1].lessons

    @property
    def pinned(self) -> tuple[Lesson, ...]:
        return self._states[-1].pinned

    @property
    def weight(self) -> float:
        """What the head counts, of what it would count without pinned examples: in [0, 1]."""
        head = self.vocabulary.head
        return 1.0 if head is None else float(getattr(head, "weight", self.scale)) / self.scale

    def accept(self, shown: Any, name: str) -> Vocabulary:
        """This is a `name`."""
        return self._say(shown, name, True)

    def reject(self, shown: Any, name: str) -> Vocabulary:
        """This is no `name`; what it is instead stays open."""
        return self._say(shown, name, False)

    def pin(self, shown: Any, name: str) -> Vocabulary:
        """This is called `name` now and must be from here on: the head's weight shrinks to the largest that keeps it.

        A pinned example teaches nothing. Where no weight would keep all pinned ones, what was said is refused.
        """
        vectors = self._vectors(shown)
        with self._lock:
            now = self._states[-1]
            self._known(now.plain, name)
            best = _best(now.vocabulary.scores(vectors, self.scale), now.plain)
            for called in best:
                if called != now.plain.names.index(name):
                    told = repr(now.plain.names[called]) if called >= 0 else "none of the names"
                    raise BadUsage(f"only what is called {name!r} now can be pinned so: it is {told}; accept it first")
            added = tuple(Lesson(vector, name, True) for vector in vectors)
            return self._push(replace(now, pinned=(*now.pinned, *added)))

    def add(self, names: Any) -> Vocabulary:
        """More names, as in `segment`; no score of the others moves."""
        if self._words is None:
            raise BadUsage("new names need the network that reads words: open the session by Pipeline.teach")
        more = self._words(names)
        with self._lock:
            now = self._states[-1]
            known = set(map(str.casefold, now.plain.names))
            twice = [name for name in more.names if name.casefold() in known]
            if twice:
                raise BadUsage(f"names must differ: {', '.join(map(repr, twice))} is there already")
            return self._push(replace(now, plain=_joined(now.plain, more)))

    def undo(self) -> Vocabulary:
        """The vocabulary as it was before the last thing said, the very same object."""
        with self._lock:
            if len(self._states) == 1:
                raise BadUsage("there is nothing to undo: nothing was said yet")
            self._states = self._states[:-1]
            return self._states[-1].vocabulary

    def save(self, path: str | Path) -> Path:
        """Words, examples and pinned ones in one safetensors file; `load` goes on from it."""
        from safetensors.numpy import save_file

        state = self._states[-1]
        said = (*state.lessons, *state.pinned)
        dim = state.plain.vectors.shape[1]
        tensors = {
            "rows": np.ascontiguousarray(state.plain.vectors),
            "owner": state.plain.owner.astype(np.int64),
            "examples": np.stack([one.vector for one in said]) if said else np.zeros((0, dim), np.float32),
        }
        about = {
            "version": VERSION,
            "names": state.plain.names,
            "phrases": state.plain.phrases,
            "thresholds": dict(state.plain.thresholds),
            "notes": state.plain.notes,
            "said": [[one.name, "accept" if one.accepted else "reject"] for one in state.lessons]
            + [[one.name, "pin"] for one in state.pinned],
            "scale": self.scale,
            "spread": self.spread,
            "pooled": self._pooled,
            "network": self.network,
            "through": self.through,
        }
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"ovseg.teaching": json.dumps(about)})
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        network: str | None = None,
        through: str | None = None,
        look: Callable[[Any, Any], Float32[np.ndarray, "n dim"]] | None = None,
        words: Callable[[Any], Vocabulary] | None = None,
    ) -> "Teaching":
        """The session that `save` wrote, refused where it is of another network or another way to look."""
        about, tensors = _read(Path(path).expanduser())
        for what, given, held in (("network", network, about["network"]), ("way to look", through, about["through"])):
            if given is not None and given != held:
                raise BadUsage(
                    f"{path} was taught through another {what}: {held or 'unknown'}, here is {given}; teach "
                    "anew, or open what it was taught through"
                )
        plain = Vocabulary(
            tuple(about["names"]),
            tensors["rows"],
            tensors["owner"],
            tuple(about["phrases"]),
            about["thresholds"],
            tuple(about["notes"]),
        )
        made = cls(
            plain,
            scale=about["scale"],
            network=about["network"],
            through=about["through"],
            pooled=about["pooled"],
            spread=about["spread"],
            look=look,
            words=words,
        )
        said = list(zip(tensors["examples"], about["said"], strict=True))
        lessons = tuple(Lesson(vector, name, how == "accept") for vector, (name, how) in said if how != "pin")
        pinned = tuple(Lesson(vector, name, True) for vector, (name, how) in said if how == "pin")
        made._states = [made._follow(State(plain, lessons, pinned, plain))]
        return made

    def _say(self, shown: Any, name: str, accepted: bool) -> Vocabulary:
        vectors = self._vectors(shown)
        with self._lock:
            now = self._states[-1]
            self._known(now.plain, name)
            added = tuple(Lesson(vector, name, accepted) for vector in vectors)
            return self._push(replace(now, lessons=(*now.lessons, *added)))

    def _push(self, state: State) -> Vocabulary:
        """What follows from it becomes the last state, or nothing changes."""
        self._states = [*self._states, self._follow(state)]
        return self._states[-1].vocabulary

    def _follow(self, state: State) -> State:
        plain = state.plain
        if not state.lessons:
            return replace(state, vocabulary=plain)
        head = taught(state.lessons, plain.names, self.scale, self.spread, self._pooled)
        share = 1.0
        if state.pinned:
            share = keeping(plain, head, state.pinned, self.scale)
            head = replace(head, weight=self.scale * share)
        told = f"examples count {share:.3g} of 1, so that pinned ones keep their names"
        notes = plain.notes if share == 1 else (*plain.notes, told)
        return replace(state, vocabulary=replace(plain, head=head, notes=notes))

    def _vectors(self, shown: Any) -> Float32[np.ndarray, "n dim"]:
        """Unit vectors of what is shown; what has none is refused."""
        dim = self._states[-1].plain.vectors.shape[1]
        if isinstance(shown, Click):
            if not self._pooled:
                raise BadUsage(
                    "a click's vectors are pooled cells, this session's are not: show the picture and the click's "
                    "regions"
                )
            vectors = shown.vectors
        elif isinstance(shown, tuple) and len(shown) == 2:
            if self._look is None:
                raise BadUsage("pictures need a network: open the session by Pipeline.teach, or give vectors")
            vectors = self._look(*shown)
        else:
            vectors = _array(shown)
        if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
            raise BadInput(f"a region's vector has {dim} numbers here: got an array of {vectors.shape}")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(vectors).all() or not lengths.all():
            raise BadInput("a region without pixels, or with numbers that are none, teaches nothing: show another one")
        return np.asarray(vectors / lengths, np.float32)

    @staticmethod
    def _known(plain: Vocabulary, name: str) -> None:
        if name not in plain.names:
            error = UnknownName.of("name", name, plain.names)
            raise UnknownName(f"{error} New names come by add().")

    def __len__(self) -> int:
        return len(self.lessons)

    def __repr__(self) -> str:
        accepted = sum(one.accepted for one in self.lessons)
        rest = len(self.lessons) - accepted
        return f"Teaching({len(self.names)} names: {accepted} accepted, {rest} rejected, {len(self.pinned)} pinned)"


def taught(lessons: Sequence[Lesson], names: Sequence[str], scale: float, spread: float, dense: bool) -> Taught:
    """The head of some lessons; their order changes nothing."""
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
    own = scatter / (len(lessons) - len(kinds) + STRENGTH)
    heard = own * (HEARD + 1 / np.bincount(places))  # a mean of n examples is off by own / n
    return Taught(found, kinds[:, 0], kinds[:, 1] == 0, heard, len(names), scale, dense)


def keeping(plain: Vocabulary, head: Taught, pinned: Sequence[Lesson], scale: float) -> float:
    """The largest share of the head's weight, in [0, 1], at which every pinned example has its name still.

    Scores are linear in the weight, so what keeps one is an interval. Raises `BadUsage` where no share keeps all.
    """
    vectors = np.stack([one.vector for one in pinned])
    slots = slots_of(plain.scores(vectors, scale).T, plain.owner, len(plain))
    moves = np.zeros_like(slots)
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


def _best(rows: Float32[np.ndarray, "n rows"], plain: Vocabulary) -> Int[np.ndarray, " n"]:
    """The name of each vector, -1 where a negative is likelier."""
    best: Int[np.ndarray, " n"] = slots_of(np.ascontiguousarray(rows.T), plain.owner, len(plain)).argmax(axis=0)
    return np.where(best < len(plain), best, -1)


def _kinds(vectors: Float32[np.ndarray, "n dim"], said: Int[np.ndarray, " n"], near: float) -> Int[np.ndarray, " n"]:
    """Which kind each rejected example is of: those of one name that hang together by steps of a squared distance."""
    from scipy.sparse import csgraph, csr_array

    apart = 2 - 2 * vectors.astype(float) @ vectors.T.astype(float)
    linked = csr_array((apart <= near) & (said[:, None] == said))
    return np.asarray(csgraph.connected_components(linked, directed=False)[1], np.int64)


def _joined(one: Vocabulary, more: Vocabulary) -> Vocabulary:
    """The rows of both, of the second those of its names alone; negatives of the first that mean a new name stay."""
    mine = more.owner >= 0
    phrases = tuple(phrase for phrase, keep in zip(more.phrases, mine, strict=False) if keep)
    return Vocabulary(
        (*one.names, *more.names),
        np.concatenate([one.vectors, more.vectors[mine]]),
        np.concatenate([one.owner, more.owner[mine] + len(one)]),
        (*one.phrases, *phrases) if one.phrases and more.phrases else (),
        {**one.thresholds, **more.thresholds},
        tuple(dict.fromkeys([*one.notes, *more.notes])),
    )


def _array(shown: Any) -> Float32[np.ndarray, "..."]:
    try:
        return np.atleast_2d(np.asarray(shown, np.float32))
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(
            f"what is shown is a vector, a click, or (picture, mask or box or regions): got {type(shown).__name__}"
        ) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors of a saved session."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadUsage(f"the saved session is not there: {path}")
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {}).get("ovseg.teaching", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise BadWeights(f"a saved session is a safetensors file: {path} ({error})") from None
    if not isinstance(about, dict) or not {"rows", "owner", "examples"} <= set(tensors):
        raise BadWeights(f"a saved session was written by Teaching.save: {path} is another safetensors file")
    if about.get("version") != VERSION:
        raise BadWeights(
            f"{path} is of version {about.get('version')}: this ovseg reads {VERSION}; bring them together"
        )
    return about, tensors


__all__ = [
    "HEARD",
    "Lesson",
    "MARGIN",
    "SAME_KIND",
    "SPREAD",
    "STRENGTH",
    "State",
    "Taught",
    "Teaching",
    "VERSION",
    "keeping",
    "taught",
]
