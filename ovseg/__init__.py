"""ovseg: type words, get pixels.

>>> import ovseg
>>> pipe = ovseg.Pipeline.open("tiny")                      # doctest: +SKIP
>>> pipe.segment("desk.jpg", ["cup", "keyboard"])           # doctest: +SKIP
Segmentation(480x640, 3 regions: cup 8.1%, keyboard 21.4%)

Importing this package loads no network library; a name is fetched from its room when it is first used.
"""

import importlib
from typing import Any

_HOMES = {
    "ENCODERS": "encoders",
    "LAST_BLOCKS": "clip.attention",
    "PROPOSERS": "proposals",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"ovseg.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ovseg' has no attribute {name!r}")
