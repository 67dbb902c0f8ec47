"""Options that ask without words, or with more than words: examples, a saved session, a list to find names in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ovseg.errors import BadUsage

if TYPE_CHECKING:
    from ovseg.pipeline import Encoding, Pipeline
    from ovseg.types import Segmentation

F = TypeVar("F", bound=Callable[..., Any])
Ask = Callable[["Encoding"], "Segmentation"]


def showing(function: F) -> F:
    """The options, for a command that is decorated with it."""
    for option in (
        click.option("--words", "word_list", metavar="FILE", help="Words for --discover, one a line."),
        click.option("--discover", is_flag=True, help="Ask for no name: find out which of many words are there."),
        click.option(
            "--taught", metavar="FILE", help="Names, with what clicks taught of them: Teaching.save wrote it."
        ),
        click.option("--mix", type=float, metavar="T", help="Examples (1, the default) with their names' words (0)."),
        click.option(
            "--exemplar",
            "exemplars",
            multiple=True,
            metavar="NAME=FILE@BOX",
            help="Find what looks like the box (left,top,right,bottom in pixels) of a picture.",
        ),
    ):
        function = option(function)
    return function


def showing_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, checked against one another; nothing where words alone are asked."""
    words = [name for name in ("prompts", "prompt_file") if options[name]]
    names = {"discover": "--discover", "word_list": "--words", "taught": "--taught", "mix": "--mix"}
    given = {name: options.pop(name) for name in (*names, "exemplars")}
    found = {name: value for name, value in given.items() if value is not None and value is not False and value != ()}
    if "word_list" in found and "discover" not in found:
        raise BadUsage("--words is the list of --discover: add --discover, or ask names by -p or --prompts")
    if "mix" in found and "exemplars" not in found:
        raise BadUsage('--mix is for examples: add --exemplar "NAME=FILE@left,top,right,bottom"')
    if not 0 <= found.get("mix", 0) <= 1:
        raise BadUsage(f"--mix goes from 0 (the words) to 1 (the examples): got {found['mix']}")
    for alone in ("discover", "taught"):
        others = [name for name in found if name not in (alone, "word_list")] + words
        if alone in found and (others or options.get("extra")):
            raise BadUsage(
                f"{names[alone]} brings its own names: leave -p, --prompts, --negative, --exemplar and "
                f"{'--taught' if alone == 'discover' else '--mix'} out"
            )
    if "discover" in found and options.get("threshold"):
        raise BadUsage("--threshold is for names that are asked: --discover takes words that beat every negative")
    if "discover" in found and options.get("alpha") is not None:
        found["alpha"] = options["alpha"]  # a long list has a stricter rate of its own where none is given
    if "exemplars" in found:
        found["exemplars"] = [_exemplar(text) for text in found["exemplars"]]
    return found


def asking(pipe: "Pipeline", shown: dict[str, Any], words: Any, thresholds: dict[str, float]) -> tuple[Ask, list[str]]:
    """How one picture is asked, and the notes of what is asked of all."""
    if "discover" in shown:
        lexicon = pipe.lexicon(Path(shown["word_list"]) if "word_list" in shown else None)
        rate = {"alpha": shown["alpha"]} if "alpha" in shown else {}
        return lambda encoding: pipe.discover(encoding, lexicon, **rate), list(lexicon.notes)
    if "taught" in shown:
        vocabulary = pipe.teach(_session(shown["taught"])).vocabulary
    elif "exemplars" in shown:
        given: dict[str, list[tuple[Any, Any]]] = {}
        for name, path, box in shown["exemplars"]:
            given.setdefault(name, []).append((path, box))
        t = shown.get("mix", 1.0)
        vocabulary = pipe.exemplars(given, text=words, t=t)
    else:
        vocabulary = pipe.vocabulary(words)
    if thresholds:
        for name in thresholds:
            if name not in vocabulary.names:
                raise BadUsage(f"a threshold is for a name that is asked: {name!r} is not")
        vocabulary = replace(vocabulary, thresholds={**vocabulary.thresholds, **thresholds})
    return lambda encoding: pipe.segment(encoding, vocabulary), list(vocabulary.notes)


def _session(path: str) -> str:
    if not path.endswith(".safetensors"):
        raise BadUsage(f"--taught is a .safetensors file that Teaching.save wrote: got {path}")
    return path


def _exemplar(text: str) -> tuple[str, Path, list[float]]:
    """Name, picture and box of `bolt=ref.jpg@10,20,110,90`."""
    name, equals, rest = text.partition("=")
    file, at, box = rest.rpartition("@")
    try:
        corners = [float(part) for part in box.split(",")]
    except ValueError:
        corners = []
    if not (name.strip() and equals and file and at) or len(corners) != 4:
        raise BadUsage(f"an example is NAME=FILE@left,top,right,bottom in pixels of that picture: got {text!r}")
    return " ".join(name.split()), Path(file).expanduser(), corners


__all__ = ["Ask", "asking", "showing", "showing_of"]
