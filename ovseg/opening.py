"""From a recipe to open networks: which weights it needs, which preset this machine can open, and opening them."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg import runtime, weights
from ovseg.clip import load
from ovseg.clip.backbones import BACKBONES
from ovseg.clip.guides import GUIDES, Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.errors import MissingWeights
from ovseg.recipe import PRESETS, Recipe

BEST_FIRST = ("large", "base", "mobile", "tiny")


@dataclass(frozen=True, eq=False)
class Networks:
    """What a recipe names, open: its CLIP, and a `sam.MaskModel` and a guide where it names them."""

    clip: Clip
    masks: Any = None
    guide: Guide | None = None


def networks(
    recipe: Recipe, *, device: str, folder: str | Path | None, allow_pickle: bool, cache: Path | None
) -> Networks:
    """The networks of a recipe, from weights that are on this machine; `cache` is a folder for compiled graphs.

    Raises `MissingWeights` with the commands that bring them.
    """
    runtime.check(recipe.runtime, recipe.precision, load.pick_device(device))
    try:
        files = [weights.path(name, folder) for name in _of_sam(recipe.sam)]  # before anything takes its time
        clip = load.load(recipe.model, device=device, folder=folder, allow_pickle=allow_pickle)
    except MissingWeights as error:
        usual = PRESETS.get(recipe.name)
        if usual is None or needed_weights(usual) != needed_weights(recipe):
            raise  # another model was put in: the preset's files would not help
        raise MissingWeights(
            f"{error}; `ovseg weights pull {recipe.name}` brings all that {recipe.name} needs"
        ) from error
    where = str(clip.device)
    masks = None
    if files:
        from ovseg.sam.load import load_model

        masks = load_model(
            files[0],
            device=where,
            runtime=recipe.runtime,
            precision=recipe.precision,
            cache=cache / "graphs" if cache else None,
            allow_pickle=allow_pickle,
        )
    guide = None
    if recipe.guide:
        sam = masks.sam if masks is not None else None
        guide = load_guide(recipe.guide, device=where, folder=folder, allow_pickle=allow_pickle, clip=clip, sam=sam)
    return Networks(clip, masks, guide)


def mask_model(sam: Any, recipe: Recipe, cache: Path | None) -> Any:
    """The face of a SAM-type network that is open already, or None where there is none."""
    if sam is None:
        return None
    from ovseg.sam.load import load_model
    from ovseg.sam.model import MaskModel

    if isinstance(sam, MaskModel):
        return sam
    graphs, place = cache / "graphs" if cache else None, str(next(sam.parameters()).device)
    return load_model(sam, device=place, runtime=recipe.runtime, precision=recipe.precision, cache=graphs)


def fetch(recipe: Recipe, folder: str | Path | None) -> None:
    """Bring what a recipe needs and what is not on this machine."""
    for name in needed_weights(recipe):
        if weights.find(name, folder) is None:
            weights.pull(name)


def needed_weights(recipe: Recipe) -> list[str]:
    """Rows of the weights' manifest that a recipe needs, one for each network."""
    row, guide = BACKBONES.get(recipe.model), GUIDES.get(recipe.guide)
    needed = [row.weights[0]] if row else []
    return needed + _of_sam(recipe.sam) + ([*guide.weights[:1]] if guide else [])


def _of_sam(name: str) -> list[str]:
    """Rows of a SAM: its file, and for a folder in the hub's form what lies beside it."""
    return [row for row in (name, f"{name}-config") if row == name or row in weights.MANIFEST] if name else []


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


__all__ = ["BEST_FIRST", "Networks", "best_here", "fetch", "mask_model", "needed_weights", "networks"]
