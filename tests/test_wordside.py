"""What the word side keeps; what vocabularies hold is tested in `clip/test_text` and `test_pipeline`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ovseg.errors import BadUsage
from ovseg.recipe import Recipe
from ovseg.types import Vocabulary
from ovseg.wordside import VOCABULARIES_KEPT, WordSide
from tests import tiny


def test_names_are_encoded_once_also_by_several_threads() -> None:
    side = WordSide(Recipe(templates="bare"), tiny.clip())
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: side.vocabulary(["cat", "dog"]), range(4)))
    assert all(one is made[0] for one in made)
    assert side.vocabulary(["cat", "dog"], negatives="none") is not made[0]
    for number in range(VOCABULARIES_KEPT):
        side.vocabulary([f"thing {number}"], negatives="word")
    assert side.vocabulary(["cat", "dog"]) is not made[0]  # the oldest are let go


def test_a_crowd_comes_where_presence_is_asked_and_with_a_ready_vocabulary_too() -> None:
    side = WordSide(Recipe(templates="bare"), tiny.clip())
    plain = side.vocabulary(["cat"])
    assert plain.crowd is None and side.vocabulary(["cat"], absent="presence").crowd is not None
    assert side.vocabulary(plain, absent="presence").crowd is not None and side.vocabulary(plain) is plain


def test_a_vocabulary_of_another_network_and_words_beside_a_ready_one_are_refused() -> None:
    side = WordSide(Recipe(templates="bare"), tiny.clip())
    ready = side.vocabulary(["cat"])
    with pytest.raises(BadUsage, match="negatives are part of a vocabulary that is ready"):
        side.vocabulary(ready, negatives="none")
    other = Vocabulary(("cat",), np.eye(1, 7, dtype=np.float32), np.zeros(1, np.int64))
    with pytest.raises(BadUsage, match="rows have 7 numbers"):
        side.vocabulary(other)


def test_a_list_of_words_is_read_once() -> None:
    side = WordSide(Recipe(templates="bare"), tiny.clip())
    assert side.lexicon(["cat", "dog"]) is side.lexicon(["cat", "dog"]) is not side.lexicon(["cat"])
