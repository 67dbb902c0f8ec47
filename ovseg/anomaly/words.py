"""Words for a thing that is as it should be, and for one that is not: rows of two names, *normal* and *anomalous*.

The idea of asking CLIP for states of an object is WinCLIP's (Jeong et al. 2023, arXiv:2303.14814); the normal states
are its compositional list as the public programs have it, the anomalous ones are joined by five kinds of fault.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ovseg import prompts
from ovseg.clip import text
from ovseg.clip.load import Clip
from ovseg.errors import BadUsage
from ovseg.types import Vocabulary

STATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "normal": (
            "{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect",
            "{} without damage",
        ),
        "anomalous": (
            "damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage", "{} with a scratch",
            "{} with a crack", "{} with a hole", "{} with a stain", "{} with a dent",
        ),
    }
)  # fmt: skip


def state_vocabulary(clip: Clip, object: str, *, templates: str = "few", cache: Path | None = None) -> Vocabulary:
    """One unit row for each state of an object, owned by the name *normal* or *anomalous*.

    Words joined as in file names are parted, and a number at the end is dropped: `metal_nut2` is asked as "metal nut".
    """
    word = _word(object)
    phrases = [state.replace("{}", word) for states in STATES.values() for state in states]
    owner = [index for index, states in enumerate(STATES.values()) for _ in states]
    rows, split = text.encode_phrases(clip, phrases, prompts.templates(templates), cache=cache)
    notes = [f"{object!r} is asked as {word!r}"] if word != object.strip() else []
    if split:
        notes.append(f"{word[:40]!r} is longer than the text tower reads: windows of it were averaged")
    if clip.learned is not None and not {phrase.casefold() for phrase in phrases[1:]} <= clip.learned:
        notes.append(f"the model {clip.name} was never taught what faults look like: what its words say is a guess")
    return Vocabulary(tuple(STATES), rows, np.array(owner, np.int64), tuple(phrases), notes=tuple(notes))


def _word(object: str) -> str:
    word = re.sub(r"[\s_-]*\d+$", "", " ".join(re.sub(r"[_-]+", " ", object).split()))
    if not word:
        raise BadUsage(f"the name of the object is needed: got {object!r}; say what the picture shows, such as 'tile'")
    if len(word) > prompts.LONGEST_NAME:
        raise BadUsage(f"the name of the object has {len(word)} characters: at most {prompts.LONGEST_NAME} are read")
    return word


__all__ = ["STATES", "state_vocabulary"]
