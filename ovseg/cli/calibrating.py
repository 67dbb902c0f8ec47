"""The command that fits a recipe's numbers to a folder of one's own pictures. The work is in `calibration`."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovseg.cli.options import (
    INPUTS,
    NETWORK,
    TALK,
    WORDS,
    open_pipeline,
    pictures_of,
    recipe_of,
    words_of,
)
from ovseg.cli.talk import Talk
from ovseg.errors import BadInput, BadUsage

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray

MEANINGS = {
    "noun_rate": "everyday nouns that pass as present, of those that nobody asked for; {alpha} is aimed at",
    "ece": "expected calibration error of pixels: 0 is honest",
    "precision": "labelled pixels that are right",
    "recall": "pixels of the names that are labelled right",
}


@click.command()
@INPUTS
@WORDS
@click.option("--labels", metavar="DIR", help="Label maps NAME.labels.png, as ovseg writes them, with classes.json.")
@click.option("--alpha", type=float, metavar="RATE", help="Share of absent names that may pass (the recipe's: 0.05).")
@click.option("-o", "--out", default="recipe.json", show_default=True, metavar="FILE", help="Where the recipe goes.")
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object on stdout.")
@NETWORK
@TALK
def calibrate(
    images: tuple[str, ...],
    labels: str | None,
    alpha: float | None,
    out: str,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Fit to your own pictures when a name counts as present; with label maps also temperature and threshold.

    Half of the pictures are fitted on, the other half says how well. Use the result by --recipe FILE.

    \b
    Examples:
      ovseg calibrate pictures/ -p cat -p dog -o recipe.json
      ovseg calibrate pictures/ -p cat -p dog --labels drafts/ -o recipe.json
      ovseg segment photo.jpg -p cat -p dog --recipe recipe.json
    """
    from ovseg import export

    talk = Talk(quiet, verbose)
    words = words_of(options)
    paths = pictures_of(images, options["recursive"], talk)
    recipe, _ = recipe_of(options)
    file = Path(out).expanduser()
    if file.is_dir():
        raise BadUsage(f"-o is the file that the recipe goes to: {file} is a folder; name one in it, as recipe.json")
    names = export.file_names([str(path) for path in paths])
    maps = None if labels is None else [_map(Path(labels).expanduser(), name, words.names) for name in names]
    pipe = open_pipeline(recipe, options, talk)
    found = pipe.calibrate(paths, words, maps, alpha=alpha)
    export.save(file, (found.recipe.to_json() + "\n").encode())
    talk.notes(found.notes)
    for figure, before in found.before.items():
        meaning = MEANINGS[figure].format(alpha=found.recipe.alpha)
        talk.say(f"{figure:10} {_told(before)} -> {_told(found.after[figure])}  ({meaning})")
    if as_json:
        click.echo(found.to_json())
    talk.say(f"{len(paths)} pictures -> {file}: use it by --recipe {shlex.quote(str(file))}")


def _map(folder: Path, name: str, names: Sequence[str]) -> "Int[ndarray, 'height width']":
    """A picture's label map with the indices of the names asked: classes of the file that are not asked are none."""
    import numpy as np
    from PIL import Image

    file, table = folder / f"{name}.labels.png", folder / "classes.json"
    for needed in (file, table):
        if not needed.is_file():
            raise BadUsage(f"a label map is not there: {needed}; write them by ovseg segment --format labels")
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))
        classes = {int(row["id"]): str(row["name"]) for row in rows if row["name"] is not None}
        with Image.open(file) as image:
            numbers = np.asarray(image)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"label maps cannot be read: {file}, {table} ({error})") from None
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
        raise BadInput(f"a label map has one channel of class numbers: {file} is {numbers.dtype} of {numbers.shape}")
    stray = sorted(set(np.unique(numbers).tolist()) - {0, *classes})
    if stray:
        raise BadInput(f"{file} holds the class {stray[0]}, which {table} does not name")
    if not set(names) & set(classes.values()):
        raise BadUsage(
            f"label maps are of the names asked: {table} names {', '.join(classes.values()) or 'none'}, asked are "
            f"{', '.join(names)}"
        )
    small = np.int8 if len(names) <= 128 else np.int16  # all maps are there at once
    lookup = np.full(int(max(numbers.max(), *classes, 0)) + 1, -1, small)
    for number, name_of in classes.items():
        if name_of in names:
            lookup[number] = list(names).index(name_of)
    return np.asarray(lookup[numbers])


def _told(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


__all__ = ["calibrate"]
