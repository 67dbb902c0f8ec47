"""ovseg: type words, get pixels.

    import ovseg
    pipe = ovseg.Pipeline.open("tiny")
    result = pipe.segment("desk.jpg", ["cup", {"screen": ["monitor", "laptop"]}])

Importing this package loads no network library: a name comes from its room when it is first used.
"""

import importlib
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# Every public name and the room it lives in; a name that is a room itself stands for it.
_HOMES = {
    "AnomalyMap": "types",
    "BadInput": "errors",
    "BadUsage": "errors",
    "BadWeights": "errors",
    "Click": "click",
    "DenseFeatures": "types",
    "ENCODERS": "encoders",
    "LAST_BLOCKS": "clip.methods",
    "MissingWeights": "errors",
    "OvsegError": "errors",
    "PRESETS": "recipe",
    "PROPOSERS": "proposals",
    "Pipeline": "pipeline",
    "Recipe": "recipe",
    "Regions": "types",
    "SCORERS": "anomaly",
    "Segmentation": "types",
    "TEMPLATES": "prompts",
    "UnknownName": "errors",
    "Vocabulary": "types",
    "WRITERS": "export",
    "anomaly": "",
    "clip": "",
    "dense_tokens": "clip.tower",
    "draw": "",
    "export": "",
    "images": "",
    "metrics": "",
    "sam": "",
    "weights": "",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovseg' has no attribute {name!r}")
    home = _HOMES[name]
    module: ModuleType = importlib.import_module(f"ovseg.{home or name}")
    return getattr(module, name) if home else module


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AnomalyMap",
    "BadInput",
    "BadUsage",
    "BadWeights",
    "Click",
    "DenseFeatures",
    "ENCODERS",
    "LAST_BLOCKS",
    "MissingWeights",
    "OvsegError",
    "PRESETS",
    "PROPOSERS",
    "Pipeline",
    "Recipe",
    "Regions",
    "SCORERS",
    "Segmentation",
    "TEMPLATES",
    "UnknownName",
    "Vocabulary",
    "WRITERS",
    "anomaly",
    "clip",
    "dense_tokens",
    "draw",
    "export",
    "images",
    "metrics",
    "sam",
    "weights",
]
