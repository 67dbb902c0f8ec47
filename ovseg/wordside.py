"""The word side of the line: names -> vocabulary, encoded once and kept, with the crowd that presence is judged by."""

import threading
from pathlib import Path
from typing import Any

from ovseg import discovery
from ovseg.clip import text
from ovseg.clip.load import Clip
from ovseg.discovery import Lexicon
from ovseg.errors import BadUsage
from ovseg.presence import Crowd
from ovseg.prompts import read_words
from ovseg.recipe import Recipe
from ovseg.types import Vocabulary

VOCABULARIES_KEPT = 64


class WordSide:
    """The network that reads words, the recipe that it reads them by, and what it has read. Threads may share it."""

    def __init__(self, recipe: Recipe, clip: Clip, cache: Path | None = None) -> None:
        self.recipe, self.clip, self.cache = recipe, clip, cache
        self._vocabularies: dict[Any, Vocabulary] = {}
        self._crowd: Crowd | None = None
        self._lexicon: tuple[tuple[str, ...] | None, Lexicon] | None = None
        self._lock = threading.Lock()

    def vocabulary(
        self, names: Any, *, templates: str | None = None, negatives: str | None = None, absent: str | None = None
    ) -> Vocabulary:
        """Names as prompt rows, with a crowd if the recipe, or `absent`, says "presence"; the last ones are kept."""
        presence = (absent or self.recipe.absent) == "presence"
        if isinstance(names, Vocabulary):
            for what, asked in (("templates", templates), ("negatives", negatives)):
                if asked is not None:
                    raise BadUsage(
                        f"{what} are part of a vocabulary that is ready: got {asked!r} beside one; give the names, or "
                        f"make it with vocabulary(names, {what}={asked!r})"
                    )
            dim = self.clip.dim
            if names.vectors.shape[1] != dim:
                raise BadUsage(
                    f"the vocabulary must be of this network: its rows have {names.vectors.shape[1]} numbers, those of "
                    f"{self.clip.name} have {dim}; make it with this pipeline's vocabulary()"
                )
            if presence and names.crowd is None and names.phrases:
                with self._lock:
                    return text.before(self._nouns(), self.clip, names, templates="", cache=self.cache)
            return names
        words = read_words(names)
        key = (words.names, words.phrases, words.negatives, tuple(sorted(words.thresholds.items())))
        choice = (templates or self.recipe.templates, negatives or self.recipe.negatives, presence)
        with self._lock:
            if (key, choice) not in self._vocabularies:
                made = text.vocabulary(self.clip, words, templates=choice[0], negatives=choice[1], cache=self.cache)
                if presence:
                    made = text.before(self._nouns(), self.clip, made, templates=choice[0], cache=self.cache)
                while len(self._vocabularies) >= VOCABULARIES_KEPT:
                    self._vocabularies.pop(next(iter(self._vocabularies)))
                self._vocabularies[key, choice] = made
            return self._vocabularies[key, choice]

    def lexicon(self, words: Any = None) -> Lexicon:
        """A list of words, or a .txt file with one a line, with their vectors; the last one is kept."""
        key = None if words is None else discovery.read_list(words)
        kept = self._lexicon
        if kept is None or kept[0] != key:
            kept = (key, discovery.read(self.clip, key, self.recipe.templates, self.cache))
            self._lexicon = kept
        return kept[1]

    def _nouns(self) -> Crowd:
        """The crowd of presence, encoded once."""
        if self._crowd is None:
            self._crowd = text.crowd(self.clip, cache=self.cache)
        return self._crowd


__all__ = ["VOCABULARIES_KEPT", "WordSide"]
