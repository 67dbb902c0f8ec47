"""A person says of regions "this is a bolt" or "this is no nut", and every score follows at once.

Examples add to a name's rows (`Vocabulary.head`, made in `lessons`); the rows stay as the words made them, and so does
every name that has no example. A session is a row of states that never change: to undo is to go back to one.
"""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from ovseg.click import Click
from ovseg.errors import BadInput, BadUsage, BadWeights, UnknownName
from ovseg.export import save as write
from ovseg.lessons import SPREAD, Lesson, keeping, taught
from ovseg.raster import slots_of
from ovseg.types import Vocabulary

VERSION = 1
KEPT = 16  # states whose vocabulary is kept to go back to; it is worked out anew for older ones


@dataclass(frozen=True, eq=False)
class State:
    """All that was said so far, and what follows from it: let go where the state is old, since heads are large."""

    plain: Vocabulary  # without a head
    lessons: tuple[Lesson, ...]
    pinned: tuple[Lesson, ...]
    vocabulary: Vocabulary | None = None


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
        exact: bool = True,
        spread: float = SPREAD,
        look: Callable[[Any, Any], Float32[np.ndarray, "n dim"]] | None = None,
        words: Callable[[Any], Vocabulary] | None = None,
    ) -> None:
        """`network` and `through` say what made the vectors: a saved session is of them alone.

        `pooled` vectors are of the cells' kind. Without `exact` more than the cosines of vectors decides what a region
        is called, and nothing can be pinned. `look(picture, where)` gives vectors, `words(names)` rows of new names.
        """
        if vocabulary.head is not None:
            raise BadUsage(
                "this vocabulary was taught already: go on with its session, or load the file it was saved to"
            )
        if not 0 < spread < math.inf:
            raise BadUsage(f"spread is a squared distance above 0: got {spread}")
        self.scale, self.network, self.through, self.spread = float(scale), network, through, float(spread)
        self._pooled, self._exact, self._look, self._words = pooled, exact, look, words
        self._states = [State(vocabulary, (), (), vocabulary)]
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return self._states[-1].plain.names

    @property
    def vocabulary(self) -> Vocabulary:
        """The names with all that was said of them, for `segment`, `click` and `name`."""
        return _made(self._states[-1])

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
        if not self._exact:
            raise BadUsage(
                "nothing can be pinned where several encoders, or votes of cells, decide what a region is called: open "
                "a pipeline with one encoder, for instance encoder='pool'"
            )
        vectors = self._vectors(shown)
        with self._lock:
            now = self._states[-1]
            self._known(now.plain, name)
            best = _best(_made(now).scores(vectors, self.scale), now.plain)
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
        """The vocabulary as it was before the last thing said: the very same object `KEPT` times, then an equal one."""
        with self._lock:
            if len(self._states) == 1:
                raise BadUsage("there is nothing to undo: nothing was said since this session was opened")
            *earlier, last = self._states[:-1]
            self._states = [*earlier, last if last.vocabulary is not None else self._follow(last)]
            return _made(self._states[-1])

    def save(self, path: str | Path) -> Path:
        """Words, examples and pinned ones in one safetensors file, written whole or not at all; `load` goes on from it.

        What can be undone is not kept: a session that was loaded starts with all that the file holds.
        """
        from safetensors.numpy import save

        state = self._states[-1]
        said = (*state.lessons, *state.pinned)
        dim = state.plain.vectors.shape[1]
        tensors = {
            "rows": np.ascontiguousarray(state.plain.vectors),
            "owner": state.plain.owner.astype(np.int64),
            "examples": np.stack([one.vector for one in said]) if said else np.zeros((0, dim), np.float32),
        }
        if state.plain.levels is not None:
            tensors["levels"] = np.ascontiguousarray(state.plain.levels)
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
        return write(Path(path).expanduser(), save(tensors, {"ovseg.teaching": json.dumps(about)}))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        network: str | None = None,
        through: str | None = None,
        scale: float | None = None,
        exact: bool = True,
        look: Callable[[Any, Any], Float32[np.ndarray, "n dim"]] | None = None,
        words: Callable[[Any], Vocabulary] | None = None,
    ) -> "Teaching":
        """The session that `save` wrote, refused where it is of another network or another way to look.

        `scale` is that of the recipe that will ask; what examples and pins amount to is worked out anew for it.
        """
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
            levels=tensors.get("levels"),
        )
        made = cls(
            plain,
            scale=about["scale"] if scale is None else scale,
            network=about["network"],
            through=about["through"],
            pooled=about["pooled"],
            spread=about["spread"],
            exact=exact,
            look=look,
            words=words,
        )
        said = list(zip(tensors["examples"], about["said"], strict=True))
        lessons = tuple(Lesson(vector, name, how == "accept") for vector, (name, how) in said if how != "pin")
        pinned = tuple(Lesson(vector, name, True) for vector, (name, how) in said if how == "pin")
        made._states = [made._follow(State(plain, lessons, pinned))]
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
        if len(self._states) > KEPT:
            self._states[-KEPT - 1] = replace(self._states[-KEPT - 1], vocabulary=None)
        return _made(self._states[-1])

    def _follow(self, state: State) -> State:
        plain = state.plain
        if not state.lessons:
            keeping(plain, None, state.pinned, self.scale)
            return replace(state, vocabulary=plain)
        head = taught(state.lessons, plain.names, self.scale, self.spread, self._pooled)
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
            error = UnknownName.of("name", str(name), plain.names)
            raise UnknownName(f"{error} New names come by add().")

    def __len__(self) -> int:
        return len(self.lessons)

    def __repr__(self) -> str:
        accepted = sum(one.accepted for one in self.lessons)
        rest = len(self.lessons) - accepted
        return f"Teaching({len(self.names)} names: {accepted} accepted, {rest} rejected, {len(self.pinned)} pinned)"


def _made(state: State) -> Vocabulary:
    assert state.vocabulary is not None, "the last state has its vocabulary"
    return state.vocabulary


def _best(rows: Float32[np.ndarray, "n rows"], plain: Vocabulary) -> Int[np.ndarray, " n"]:
    """The name of each vector, -1 where a negative is likelier."""
    best: Int[np.ndarray, " n"] = slots_of(np.ascontiguousarray(rows.T), plain.owner, len(plain)).argmax(axis=0)
    return np.where(best < len(plain), best, -1)


def _joined(one: Vocabulary, more: Vocabulary) -> Vocabulary:
    """The rows of both, of the second those of its names alone; negatives of the first that mean a new name stay."""
    mine = more.owner >= 0
    phrases = tuple(phrase for phrase, keep in zip(more.phrases, mine, strict=False) if keep)
    levels = None
    if one.levels is not None:
        levels = np.concatenate([one.levels, np.tile(np.array([1, 0], np.float32), (int(mine.sum()), 1))])
    return Vocabulary(
        (*one.names, *more.names),
        np.concatenate([one.vectors, more.vectors[mine]]),
        np.concatenate([one.owner, more.owner[mine] + len(one)]),
        (*one.phrases, *phrases) if one.phrases and more.phrases else (),
        {**one.thresholds, **more.thresholds},
        tuple(dict.fromkeys([*one.notes, *more.notes])),
        levels=levels,
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


__all__ = ["KEPT", "State", "Teaching", "VERSION"]
