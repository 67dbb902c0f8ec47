"""Which weights a recipe needs, and which preset this machine can open."""

import logging
from pathlib import Path

from ovseg import weights
from ovseg.clip.backbones import BACKBONES
from ovseg.clip.guides import GUIDES
from ovseg.errors import MissingWeights
from ovseg.recipe import PRESETS, Recipe

BEST_FIRST = ("large", "base", "mobile", "tiny")


def needed_weights(recipe: Recipe) -> list[str]:
    """Rows of the weights' manifest that a recipe needs, one for each network."""
    row, guide = BACKBONES.get(recipe.model), GUIDES.get(recipe.guide)
    needed = [row.weights[0]] if row else []
    return needed + ([recipe.sam] if recipe.sam else []) + ([*guide.weights[:1]] if guide else [])


def best_here(folder: str | Path | None = None) -> str:
    """The best preset whose weights are on this machine; said aloud, since nobody named it."""
    for name in BEST_FIRST:
        recipe = PRESETS[name]
        row = BACKBONES[recipe.model]
        clip_here = any(weights.find(weight, folder) for weight in row.weights)
        if clip_here and (not recipe.sam or weights.find(recipe.sam, folder)):
            logging.getLogger("ovseg").info("no model was named: %s is the best preset whose weights are here", name)
            return name
    raise MissingWeights("no model is on this machine, not even the bundled one: install ovseg again")


__all__ = ["BEST_FIRST", "best_here", "needed_weights"]
