"""The command `click`: a person points at something in one picture. The work is in `click` and `pipeline`."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ovseg.cli.options import (
    DEFAULT_OUT,
    NETWORK,
    TALK,
    WORDS,
    folder_of,
    open_pipeline,
    pictures_of,
    recipe_of,
    vocabulary_of,
    words_of,
)
from ovseg.cli.talk import Talk, names_of
from ovseg.errors import BadInput, BadUsage

if TYPE_CHECKING:
    import numpy as np

    from ovseg.click import Click


@click.command("click")
@click.argument("image", metavar="IMAGE")
@click.option("--point", "points", multiple=True, metavar="X,Y", help="A pixel inside of the thing.")
@click.option("--not", "outside", multiple=True, metavar="X,Y", help="A pixel outside of it.")
@click.option("--box", "boxes", multiple=True, metavar="X,Y,X,Y", help="Left, top, right, bottom; several: several.")
@click.option("--every", is_flag=True, help="All three masks of a prompt: the whole, a part, a part of the part.")
@WORDS
@click.option("--threshold", multiple=True, metavar="T", help="Least posterior of a name, 0..1; or NAME=T.")
@click.option("--negatives", metavar="SET", help="Words for 'none of these': scene, word, voc26, none.")
@click.option("--templates", metavar="SET", help="Sentences round a name: few, simple, bare, openai80, sub7.")
@click.option("-o", "--out", metavar="DIR", help=f"Folder for results (default {DEFAULT_OUT}, none with --json).")
@click.option("--json", "as_json", is_flag=True, help="The answer as one JSON object on stdout.")
@NETWORK
@TALK
def point(
    image: str,
    points: tuple[str, ...],
    outside: tuple[str, ...],
    boxes: tuple[str, ...],
    every: bool,
    out: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Cut out what points or a box show, and say which of your names it is: overlay, masks, JSON.

    All points belong to one thing; with --box as well they correct its box. Needs a SAM (--sam, or a model with one).

    \b
    Examples:
      ovseg click example:meadow --point 400,95 -p balloon -p dog -o out
      ovseg click photo.jpg --model base --box 40,60,300,280 --not 60,70 -o out
      ovseg click photo.jpg --model base --point 120,80 --every --json > masks.json
    """
    from pathlib import Path

    import numpy as np

    from ovseg import draw, export

    talk = Talk(quiet, verbose)
    corners = [_numbers("--box", text, 4) for text in boxes]
    dots = [_numbers("--point", text, 2) for text in points] + [_numbers("--not", text, 2) for text in outside]
    if not dots and not corners:
        raise BadUsage("a click needs something to point at: give --point X,Y or --box X,Y,X,Y in pixels")
    if dots and len(corners) > 1:
        raise BadUsage(f"points belong to one thing: got points and {len(corners)} boxes; ask for them one by one")
    words = words_of(options) if any(options[name] for name in ("prompts", "prompt_file", "extra")) else None
    (path, *more) = pictures_of([image], False, talk)
    if more:
        raise BadUsage(f"a click is in one picture: {image} names {1 + len(more)}")
    recipe, thresholds = recipe_of(options)
    if recipe is not None and not recipe.sam:
        raise BadUsage(f"a click needs a SAM: model {recipe.name} has none; add --sam NAME (`ovseg weights list`)")
    folder = None if as_json and out is None else folder_of(out or DEFAULT_OUT)
    pipe = open_pipeline(recipe, options, talk)
    try:
        encoding = pipe.encode(path)
        start = time.perf_counter()
        found = pipe.click(
            encoding,
            points=dots or None,
            labels=[1] * len(points) + [0] * len(outside) if dots else None,
            boxes=corners or None,
            every=every,
        )
        found = found if words is None else pipe.name(found, vocabulary_of(pipe, words, thresholds))
    except BadInput as error:
        talk.fail(f"ovseg: {path}: {' '.join(str(error).split())}")
        sys.exit(1)
    seconds = time.perf_counter() - start
    talk.notes([*found.notes, *found.problems.values()])
    told = json.dumps({"path": str(path), **found.to_dict(), "seconds": round(seconds, 3)}, ensure_ascii=False)
    told = told.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # names of files may be any bytes
    if as_json:
        click.echo(told)
    if folder is not None:
        (name,) = export.file_names([str(path)])
        written: dict[Path, bytes] = {
            folder / f"{name}.overlay.png": draw.png(_drawn(encoding.image, found)),
            folder / f"{name}.click.json": (told + "\n").encode(),
        }
        for i, mask in enumerate(found.masks):
            number = "" if len(found) == 1 else f".{i + 1}"
            written[folder / f"{name}{number}.mask.png"] = draw.png(mask.astype(np.uint8) * np.uint8(255))
        for file, content in written.items():
            file.write_bytes(content)
        talk.say(f"{found!r} -> {folder}: {', '.join(names_of(sorted(written)))}")
    sys.exit(1 if found.problems else 0)


def _drawn(image: "np.ndarray", found: "Click") -> "np.ndarray":
    """The masks over the picture, and what was asked over these."""
    import numpy as np

    from ovseg import draw

    asked = [prompt for i, prompt in enumerate(found.prompts) if i not in found.problems]
    points = np.concatenate([np.zeros((0, 2)), *(prompt.points for prompt in asked)])
    labels = np.concatenate([np.zeros(0, np.int64), *(prompt.labels for prompt in asked)])
    boxes = np.array([prompt.box for prompt in asked if prompt.box is not None], float).reshape(-1, 4)
    return draw.with_prompts(draw.overlay(image, found.segmentation), image, points, labels, boxes)


def _numbers(option: str, text: str, count: int) -> list[float]:
    parts = text.replace(" ", "").split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise BadUsage(f"{option} is {count} numbers with commas between them, in pixels: got {text!r}")
    return numbers


__all__ = ["point"]
