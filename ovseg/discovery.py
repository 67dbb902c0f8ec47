"""Naming without names: the word of a long list that each region is nearest to, words that mean one thing made one.

Regions get v = normalise((1 - w) local + w whole), w = 0.2: what the region shows, and some of the picture it is in (a
wheel on a street, not a wheel of cheese). Their nearest words, if no negative is nearer, are the answer's names; words
whose text vectors have a cosine of 0.9 and more are one name, and so are those that such words link. Lists may have
20,000 words and more: they are read in chunks, so memory is that of the list's own rows and little else.
What is found is what the network can tell apart in so long a list. The bundled model, asked the 1,031 words that it was
taught, finds 11 of 55 things in 24 compositions of held-out drawings, and 77 names that are not there (13 and 158 where
5 % may pass): there the list is to be short.

Zero-guidance segmentation (Rewatbowornwong et al., ICCV 2023) takes its words from a captioner; captions are out here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from ovseg import labels, prompts, proposals
from ovseg.clip import text
from ovseg.clip.load import Clip
from ovseg.encoders import Described
from ovseg.errors import BadInput, BadUsage
from ovseg.imageside import Encoding, ImageSide
from ovseg.presence import check_rate, presence
from ovseg.types import Segmentation, Vocabulary

CHUNK = 2048  # words held against all regions at once
WHOLE = 0.2  # share of the whole picture in a region's vector
ALIKE = 0.9  # cosine of two words from which they are one name
ALPHA = 0.01  # share of absent names that presence lets pass: a long list has many chances
LONGEST_LIST = 100_000


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Words that a picture may be of, each with its unit text vector."""

    words: tuple[str, ...]
    vectors: Float32[np.ndarray, "words dim"]
    templates: str = "bare"  # a row of `prompts.TEMPLATES`
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.words) != len(self.vectors):
            raise BadInput(f"every word needs its vector: {len(self.words)} words, {len(self.vectors)} vectors")

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Lexicon({', '.join(self.words[:5])}{' ...' if len(self) > 5 else ''}: {len(self)} words)"


def read_list(source: Any) -> tuple[str, ...]:
    """Words of a list, or of a file with one a line (# starts a comment); a word that comes twice counts once.

    >>> read_list(["cat", "dog", " Cat "])
    ('cat', 'dog')
    """
    if isinstance(source, Path) or (isinstance(source, str) and Path(source).suffix.lower() == ".txt"):
        path = Path(source).expanduser()
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except FileNotFoundError:
            raise BadUsage(f"the list of words is not there: {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadUsage(f"a list of words is UTF-8 text, one a line: {path} ({error})") from None
        source = [line for line in (line.partition("#")[0].strip() for line in lines) if line]
        for line in source:
            if isinstance(prompts.read_option(line), dict):
                raise BadUsage(f"a list of words has one a line, without phrases: {path} has {line!r}")
    if isinstance(source, str) or not isinstance(source, Iterable):
        raise BadUsage(f"words are a list of texts, or a .txt file with one a line: got {source!r}")
    seen: dict[str, str] = {}
    for word in source:
        if not isinstance(word, str) or not word.strip():
            raise BadUsage(f"words are texts with something in them: got {word!r}")
        clean = " ".join(word.split())
        seen.setdefault(clean.casefold(), clean)
    if not 0 < len(seen) <= LONGEST_LIST:
        raise BadUsage(f"a list has 1 to {LONGEST_LIST} words: got {len(seen)}")
    return tuple(seen.values())


def blend(
    local: Float32[np.ndarray, "n dim"], whole: Float32[np.ndarray, " dim"], share: float | int = WHOLE
) -> Float32[np.ndarray, "n dim"]:
    """Unit rows of (1 - share) local + share whole; a region without pixels (a zero row) stays one."""
    if not 0 <= share <= 1:
        raise BadUsage(f"the whole picture's share is in [0, 1]: got {share}")
    length = float(np.linalg.norm(whole))
    mixed = (1 - share) * local + share * (whole / length if length > 0 else whole)
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    mixed = np.where((lengths > 0) & local.any(axis=1, keepdims=True), mixed / np.maximum(lengths, 1e-12), 0)
    return np.asarray(mixed, np.float32)


def nearest(
    vectors: Float32[np.ndarray, "n dim"], words: Float32[np.ndarray, "words dim"], chunk: int = CHUNK
) -> tuple[Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """The word of the largest cosine for each vector, and that cosine; of equal words the first."""
    best, index = np.full(len(vectors), -np.inf, np.float32), np.zeros(len(vectors), np.int64)
    for first in range(0, len(words), chunk):
        cosines = vectors @ words[first : first + chunk].T
        place = cosines.argmax(axis=1)
        found = cosines[np.arange(len(vectors)), place]
        better = found > best
        best[better], index[better] = found[better], first + place[better]
    return index, best


def fuse(words: Float32[np.ndarray, "words dim"], alike: float = ALIKE) -> Int[np.ndarray, " words"]:
    """Which name each word belongs to: words that a chain of likeness links are one; numbered by their first word.

    >>> fuse(np.array([[1, 0], [0, 1], [1, 0]], np.float32)).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import csgraph, csr_array

    linked = csgraph.connected_components(csr_array(words @ words.T >= alike), directed=False)[1]
    _, first, inverse = np.unique(linked, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)


@dataclass(frozen=True, eq=False)
class Names:
    """What a picture is of: names, each with the words of a lexicon that mean it, and the regions that have a word."""

    names: tuple[str, ...]
    words: Int[np.ndarray, " words"]  # places in the lexicon
    owner: Int[np.ndarray, " words"]  # the name of each
    regions: Int[np.ndarray, " regions"]  # those that have one of the names
    called: Int[np.ndarray, " regions"]  # the name of each

    def phrases(self, lexicon: Lexicon) -> dict[str, list[str]]:
        """The words of each name."""
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for word, owner in zip(self.words.tolist(), self.owner.tolist(), strict=True):
            found[self.names[owner]].append(lexicon.words[word])
        return found

    def only(self, keep: Int[np.ndarray, " kept"]) -> "Names":
        """Some of the names, in that order, with their words and regions."""
        place = np.full(len(self.names), -1)
        place[keep] = np.arange(len(keep))
        words, regions = place[self.owner] >= 0, place[self.called] >= 0
        return Names(
            tuple(self.names[name] for name in keep),
            self.words[words],
            place[self.owner[words]],
            self.regions[regions],
            place[self.called[regions]],
        )


def names_of(
    vectors: Float32[np.ndarray, "n dim"],
    lexicon: Lexicon,
    negatives: Float32[np.ndarray, "negatives dim"],
    *,
    chunk: int = CHUNK,
) -> Names:
    """The names of regions: their nearest words that no negative beats, fused. Empty where nothing is found.

    A word that means a negative is one. A name is called by its word that is surest anywhere, and names stand in that
    order.
    """
    index, cosines = nearest(vectors, lexicon.vectors, chunk)
    against = (vectors @ negatives.T).max(axis=1, initial=-np.inf)
    ground = np.unique(index)
    ground = ground[(lexicon.vectors[ground] @ negatives.T).max(axis=1, initial=-np.inf) >= ALIKE]
    named = np.flatnonzero((cosines > against) & ~np.isin(index, ground) & vectors.any(axis=1))
    words = np.unique(index[named])
    surest = np.full(len(words), -np.inf, np.float32)
    place = np.searchsorted(words, index[named])
    np.maximum.at(surest, place, cosines[named])
    order = np.lexsort((words, -surest))
    words = words[order]
    owner = fuse(lexicon.vectors[words])
    names = tuple(lexicon.words[word] for word in words[np.unique(owner, return_index=True)[1]])
    regions = named[np.isin(index[named], words)]
    sorter = np.argsort(words)
    called = owner[sorter[np.searchsorted(words, index[regions], sorter=sorter)]]
    return Names(names, words, owner, regions, called)


def read(clip: Clip, words: Any, templates: str, cache: Path | None) -> Lexicon:
    """A list of words with their vectors; the words that the model was taught, or the bundled nouns, where none come.

    Up to `CHUNK` words get the sentences of `templates`; more of them stand bare, and a note says so: 80 sentences for
    each of 20,000 words are an hour of a large text tower.
    """
    asked = read_list(sorted(clip.learned or prompts.NOUNS) if words is None else words)
    short = len(asked) <= CHUNK or templates == "bare"
    chosen = templates if short else "bare"
    rows = np.empty((len(asked), clip.dim), np.float32)
    for first in range(0, len(asked), CHUNK):
        some = asked[first : first + CHUNK]
        rows[first : first + CHUNK] = text.encode_phrases(clip, some, prompts.templates(chosen), cache=cache)[0]
    notes = () if short else (f"{len(asked)} words are read bare, without the sentences of {templates!r}",)
    return Lexicon(asked, rows, chosen, notes)


def without_names(side: ImageSide) -> tuple[ImageSide, tuple[str, ...]]:
    """The side itself if its regions need no names, else one that makes such regions, and a note that says so."""
    row = proposals.proposer(side.recipe.proposer)
    if row.run is not proposals.PROPOSERS["none"].run and not row.needs_names:
        return side, ()
    chosen = "sam-coarse" if side.masks is not None else "felzenszwalb"
    why = "makes no regions" if not row.needs_names else "makes regions of names"
    note = f"proposer {side.recipe.proposer} {why}: these are of {chosen}"
    return replace(side, recipe=side.recipe.replace(proposer=chosen)), (note,)


def discover(
    side: ImageSide,
    encoding: Encoding,
    lexicon: Lexicon,
    ask: Callable[..., Vocabulary],
    *,
    most: int | None = None,
    whole: float | int = WHOLE,
    alpha: float | int = ALPHA,
) -> Segmentation:
    """What is in a picture: see `Pipeline.discover`. `ask(phrases, templates=, absent=)` makes vocabularies."""
    if most is not None and most < 1:
        raise BadUsage(f"most is how many names may be found, 1 or more: got {most}")
    check_rate(alpha)
    other, notes = without_names(side)
    regions, described, features = encoding.regions, encoding.described, encoding.features
    if other is not side:
        embedding = encoding.embedding
        if embedding is None and side.masks is not None:
            embedding = side.embedding(encoding.image)
        regions = other.propose(encoding.image, "", features, embedding)
        described = other.describe(encoding.image, features, regions, encoding.taps)
    ground = prompts.negatives(side.recipe.negatives)
    negatives = text.encode_phrases(side.clip, ground, prompts.templates(lexicon.templates), cache=side.cache)[0]
    vectors = blend(described.vectors, features.whole, whole)
    found = names_of(vectors, lexicon, negatives)
    if found.names:
        crowd = ask(found.phrases(lexicon), templates=lexicon.templates, absent="presence").crowd
        assert crowd is not None, "presence was asked for"
        sure = presence(features.vectors, crowd.asked, crowd.owner, len(found.names), crowd).judge(alpha)
        found = found.only(np.flatnonzero(sure)[:most])
    vocabulary = Vocabulary((), np.zeros((0, lexicon.vectors.shape[1]), np.float32), np.zeros(0, np.int64))
    if found.names:
        vocabulary = ask(found.phrases(lexicon), templates=lexicon.templates, absent="off")
    recipe = other.recipe.replace(threshold=0.0, absent="off", stages=(), refine="none")
    if labels.OVERLAPS[recipe.overlap].votes:  # cells would vote, and here regions alone have names
        recipe = recipe.replace(overlap="score")
        notes = (*notes, f"overlap {other.recipe.overlap} lets cells vote: here regions own pixels, by score")
    return labels.compose(
        features,
        replace(vocabulary, notes=(*lexicon.notes, *notes)),
        regions=regions[found.regions],
        described=Described(vectors[found.regions]),
        recipe=recipe.replace(uncovered="none"),
        picture=encoding.image,
    )


__all__ = [
    "ALIKE",
    "ALPHA",
    "CHUNK",
    "LONGEST_LIST",
    "Lexicon",
    "Names",
    "WHOLE",
    "blend",
    "discover",
    "fuse",
    "names_of",
    "nearest",
    "read",
    "read_list",
    "without_names",
]
