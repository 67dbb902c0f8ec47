"""Several recipes ask one question of one picture, and share what they can: the dense pass, masks, whole encodings.

Recipes that agree in their image side share the `Encoding`; methods that are rows (`LAST_BLOCKS`) share the blocks
before them (`dense.encode_methods`), and where masks depend on the picture alone they are made once. A method of whole
pictures, and an encoder that reads taps, take a pass of their own. Networks, and how a picture is cut and sized, are
the same for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ovseg import encoders, labels, proposals
from ovseg.clip import dense
from ovseg.clip.methods import PICTURES, canonical
from ovseg.disagreement import Disagreement, disagree
from ovseg.errors import BadUsage
from ovseg.imageside import Encoding, ImageSide, Progress, check_size
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Segmentation, Vocabulary

SAME = (  # of recipes that are compared
    *("model", "sam", "guide", "protocol", "short_side", "long_side", "crop", "stride", "scales"),
    *("runtime", "precision"),
)


def beside(recipe: Recipe, others: Sequence[str | Mapping[str, Any] | Recipe]) -> list[Recipe]:
    """The recipe, and then each of the others: a method's name, choices that are changed, or a whole recipe.

    >>> [(one.method, one.negatives) for one in beside(Recipe(), ["naclip", {"negatives": "word"}])]
    [('maskclip-reduced', 'scene'), ('naclip', 'scene'), ('maskclip-reduced', 'word')]
    """
    out = [recipe]
    for other in others:
        changes = {"method": other} if isinstance(other, str) else other
        made = changes if isinstance(changes, Recipe) else recipe.replace(**changes)
        apart = [name for name in SAME if getattr(made, name) != getattr(recipe, name)]
        if apart:
            raise BadUsage(
                f"recipes that are compared share their networks and how a picture is read: {', '.join(apart)} of "
                f"{made.name} ({made.method}) differ; open a pipeline for it, and give both answers to disagree()"
            )
        out.append(made)
    if len(out) < 2:
        raise BadUsage("a comparison needs another recipe: none came; name a method, for instance naclip")
    return out


def encodings(
    side: ImageSide,
    recipes: Sequence[Recipe],
    picture: UInt8[np.ndarray, "height width 3"],
    source: str,
    told: Progress,
    ready: Encoding | None = None,
) -> list[Encoding]:
    """One encoding a recipe, the same one where the image sides agree; `ready` is that of one of them, if it is there.

    `source` is the picture's path, if it came by one.
    """
    check_size(picture)
    made = {} if ready is None else {ready.image_side: ready}
    sides = {recipe.image_side: replace(side, recipe=recipe) for recipe in recipes}
    lacking = [key for key in sides if key not in made]
    features = _together(side, [sides[key].recipe for key in lacking], picture, told)
    for key in lacking:
        of_method = features.get(canonical(sides[key].recipe.method))
        if of_method is None or _blocks(sides[key]):
            (made[key],) = sides[key].encode([picture], [source], told)
        else:
            seen = next((one.embedding for one in made.values() if one.embedding is not None), None)
            masks = _same_masks(sides[key].recipe, made, sides)
            made[key] = sides[key].finish(picture, source, of_method, told, masks, seen)
    return [made[recipe.image_side] for recipe in recipes]


def ask(side: ImageSide, encoding: Encoding, vocabulary: Vocabulary, recipe: Recipe) -> Segmentation:
    """What an encoding answers to a vocabulary by a recipe, whose image side made it."""
    late = proposals.proposer(recipe.proposer).needs_names
    return labels.compose(
        encoding.features,
        vocabulary,
        regions=encoding.regions,
        described=encoding.described,
        recipe=recipe,
        picture=encoding.image,
        propose=partial(side.propose_and_describe, encoding) if late else None,
    )


def compare(
    side: ImageSide,
    recipes: Sequence[Recipe],
    vocabularies: Sequence[Vocabulary],
    picture: UInt8[np.ndarray, "height width 3"],
    source: str,
    told: Progress,
    ready: Encoding | None = None,
) -> Disagreement:
    """Where the recipes' answers part; each asks its own vocabulary of the same names. The first is under review."""
    made = encodings(side, recipes, picture, source, told, ready)
    found = [
        ask(replace(side, recipe=recipe), encoding, vocabulary, recipe)
        for recipe, encoding, vocabulary in zip(recipes, made, vocabularies, strict=True)
    ]
    return disagree(found)


def _together(
    side: ImageSide, recipes: Sequence[Recipe], picture: UInt8[np.ndarray, "height width 3"], told: Progress
) -> dict[str, DenseFeatures]:
    """Features by method, of all that a common pass can give."""
    methods = {canonical(recipe.method): recipe for recipe in recipes if not _blocks(replace(side, recipe=recipe))}
    readings = {name: recipe.reading for name, recipe in methods.items() if name not in PICTURES}
    if not readings:
        return {}
    cache = side.cache / "graphs" if side.cache else None
    (found,) = dense.encode_methods(
        side.clip,
        [picture],
        list(readings.values()),
        guide=side.guide,
        cache=cache,
        progress=lambda done, of: told("encode", done, of),
    )
    return dict(zip(readings, found, strict=True))


def _blocks(side: ImageSide) -> tuple[int, ...]:
    """The taps that the recipe's encoder wants."""
    return encoders.blocks(side.recipe.encoder, side.clip, side.recipe.encoder_options)


def _same_masks(recipe: Recipe, made: Mapping[str, Encoding], sides: Mapping[str, ImageSide]) -> Any:
    """Regions of another encoding that this recipe's proposer would only make again; None where there are none."""
    row = proposals.proposer(recipe.proposer)
    if not row.needs_sam or row.needs_names:
        return None
    for key, encoding in made.items():
        other = sides[key].recipe if key in sides else None
        if other and (other.proposer, other.proposer_options) == (recipe.proposer, recipe.proposer_options):
            return encoding.regions
    return None


__all__ = ["SAME", "ask", "beside", "compare", "encodings"]
