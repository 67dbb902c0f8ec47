"""Options that several commands share, and what they mean: names, pictures, a recipe, an open pipeline.

Words, paths, formats and choices are all looked at before any network is loaded.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ovseg.cli.talk import Talk, names_of
from ovseg.errors import BadUsage

if TYPE_CHECKING:
    from ovseg.pipeline import Pipeline
    from ovseg.recipe import Recipe

EXAMPLE = "example:"  # `example:NAME` is a picture that ships with ovseg
DEFAULT_OUT = "ovseg-out"
OWN_OUTPUT = (
    ".overlay.png",
    ".labels.png",
    ".anomaly.png",
    ".mask.png",
    ".disagreement.png",
)  # no pictures, unless named outright

F = TypeVar("F", bound=Callable[..., Any])


def _options(*several: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, in the order they are written."""

    def wrap(function: F) -> F:
        for option in reversed(several):
            function = option(function)
        return function

    return wrap


WORDS = _options(
    click.option("-p", "--prompt", "prompts", multiple=True, metavar="NAME", help="A name, or NAME=phrase|phrase."),
    click.option("--prompts", "prompt_file", metavar="FILE", help="Names from a .txt, .json or .yaml file."),
    click.option("--negative", "extra", multiple=True, metavar="NAME", help="A word that wins pixels but labels none."),
)
ASKING = _options(
    click.option("--threshold", multiple=True, metavar="T", help="Least posterior of a label, 0..1; or NAME=T."),
    click.option("--negatives", metavar="SET", help="Words for 'none of these': scene, word, voc26, none."),
    click.option(
        "--absent", metavar="NAME", help="Names that are not there: presence (give nothing), off (all are asked)."
    ),
    click.option(
        "--alpha", type=float, metavar="RATE", help="Share of absent names that may pass; sets aside a fitted cut."
    ),
    click.option("--templates", metavar="SET", help="Sentences round a name: few, simple, bare, openai80, sub7."),
    click.option("--min-area", type=float, metavar="SHARE", help="Drop regions below this share of the picture."),
    click.option("--area", type=float, metavar="SHARE", help="Drop names with at most this share of labelled pixels."),
    click.option("--refine", metavar="NAME", help="Let labels follow the picture's edges: pamr, none."),
    click.option(
        "--stage", "stages", multiple=True, metavar="NAME", help="Change scores first: tlp, lposs, surgery ..."
    ),
)
NETWORK = _options(
    click.option("--model", metavar="NAME", help="tiny, mobile, base, large; ARCH/TAG of open_clip; ARCH@FILE; FILE."),
    click.option(
        "--method",
        metavar="NAME",
        help="""Dense method: maskclip-reduced, sclip, clearclip, naclip, ...; of whole pictures:

        \b
        itaclip-views  five views of the picture
        cass           needs --guide (paper: dino-b8-k)
        corrclip       needs --guide (dino-b8-qk), --proposer
        trident        needs --guide (dino-b16), --sam""",
    ),
    click.option("--guide", metavar="NAME", help="Other network for a method or lposs: dino-b8, dino-b16, self ..."),
    click.option("--sam", metavar="NAME", help="SAM for proposers, clicks, trident, guide: tiny-sam, sam-vit-b ..."),
    click.option("--protocol", metavar="NAME", help="fast, or paper (the released programs' windows)."),
    click.option("--size", type=int, metavar="PX", help="Short side at which pictures are read."),
    click.option("--runtime", metavar="NAME", help="Who computes the network: torch, openvino."),
    click.option("--precision", metavar="NAME", help="float32, or bfloat16 (faster, nearly the same)."),
    click.option(
        "--proposer",
        metavar="NAME",
        help="""Where regions come from; the last five need --sam:

        \b
        none          no region: the dense map decides
        felzenszwalb  nested segments, no weights needed
        files         masks on disk: files@FOLDER
        sam           segment-anything's masks, 32 x 32 points
        sam-coarse    8 x 8 points, a mask each
        sam-adaptive  32 x 32 points less those explained
        from-map      a mask a part of the names' map
        prompted      a mask a box or point of the options""",
    ),
    click.option("--recipe", "recipe_file", metavar="FILE", help="All choices from a recipe in JSON."),
    click.option("--weights", metavar="DIR", help="Look for weights here first (or set OVSEG_WEIGHTS)."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps."),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads."),
    click.option("--allow-pickle", is_flag=True, help="Open a checkpoint that is a pickle you trust."),
)
INPUTS = _options(
    click.argument("images", nargs=-1, required=True, metavar="IMAGE..."),
    click.option("-r", "--recursive", is_flag=True, help="Look into nested folders."),
)
TALK = _options(
    click.option("-q", "--quiet", is_flag=True, help="Errors only."),
    click.option("-v", "--verbose", is_flag=True, help="Also a line for each picture when stderr is no terminal."),
)


def words_of(options: dict[str, Any], needed: bool = True) -> Any:
    """Names of -p, or of --prompts: a conflict between them is an error, not a choice. None where none came, if none
    are needed."""
    from ovseg.prompts import Words, read_option, read_words

    given, file, extra = options.pop("prompts"), options.pop("prompt_file"), options.pop("extra")
    if given and file:
        raise BadUsage("names come from -p or from --prompts, not from both")
    if not given and not file and not needed:
        if extra:
            raise BadUsage("--negative stands beside names: give some by -p or --prompts")
        return None
    if not given and not file:
        raise BadUsage('at least one name is needed: give it as -p cat (or -p "dog=dog|puppy"), or a file by --prompts')
    words = read_words(Path(file)) if file else read_words([read_option(text) for text in given])
    if extra:
        more = read_words(list(extra))
        words = Words(words.names, words.phrases, words.negatives + more.names, words.thresholds)
    return words


def formats_of(formats: str) -> list[str]:
    from ovseg.errors import UnknownName
    from ovseg.export import WRITERS

    kinds = list(dict.fromkeys(kind.strip() for kind in formats.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in WRITERS:
            raise UnknownName.of("format", kind, WRITERS)
    return kinds


def pictures_of(images: Sequence[str], recursive: bool, talk: Talk) -> list[Path]:
    """Files that the arguments name; nothing at all is an error."""
    from ovseg.images import expand

    named: list[str] = []
    for entry in images:
        if entry == "-":
            named += [line.strip() for line in sys.stdin if line.strip()]
        elif entry.startswith(EXAMPLE):
            named.append(str(_example(entry.removeprefix(EXAMPLE))))
        else:
            named.append(entry)
    paths, skipped = expand(named, recursive)
    own = [path for path in paths if path.name.lower().endswith(OWN_OUTPUT) and str(path) not in named]
    paths, skipped = [path for path in paths if path not in own], [*skipped, *own]
    if skipped:
        talk.say(f"{len(paths)} pictures; {len(skipped)} other files are left out ({', '.join(names_of(skipped))})")
    if not paths:
        raise BadUsage(f"no picture was found in {', '.join(images)}: give files, folders (-r for nested) or globs")
    return paths


def _example(name: str) -> Path:
    """A picture that ships with ovseg."""
    from ovseg import weights as files
    from ovseg.errors import UnknownName

    folder = files.bundled("demo/examples")
    known = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")}
    if name not in known:
        raise UnknownName.of("example", name, known)
    return known[name]


def recipe_of(options: dict[str, Any]) -> tuple["Recipe | None", dict[str, float]]:
    """The recipe that the options name (None: the best preset that is here), and thresholds of single names."""
    from ovseg.clip.backbones import BACKBONES
    from ovseg.errors import UnknownName
    from ovseg.opening import best_here
    from ovseg.proposals import proposer as proposer_of
    from ovseg.recipe import PRESETS, Recipe

    model, file = options.pop("model"), options.pop("recipe_file")
    proposer, at, place = (options.pop("proposer") or "").partition("@")
    changes = {
        "method": options.pop("method"),
        "guide": options.pop("guide", None),
        "sam": options.pop("sam", None),
        "protocol": options.pop("protocol"),
        "short_side": options.pop("size"),
        "runtime": options.pop("runtime"),
        "precision": options.pop("precision"),
        "proposer": proposer or None,
        "negatives": options.pop("negatives", None),
        "absent": options.pop("absent", None),
        "alpha": options.pop("alpha", None),
        "templates": options.pop("templates", None),
        "min_area": options.pop("min_area", None),
        "area": options.pop("area", None),
        "refine": options.pop("refine", None),
        "stages": options.pop("stages", None) or None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    own: dict[str, float] = {}
    for text in options.pop("threshold", None) or ():
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise BadUsage(f"a threshold is a number in [0, 1], or NAME=number: got {text!r}") from None
        if not 0 <= value <= 1:
            raise BadUsage(f"a threshold is in [0, 1]: got {text!r}")
        if equals:
            own[name] = value
        else:
            changes["threshold"] = value
    if file and model:
        raise BadUsage("--recipe holds the model too: leave --model out")
    if file:
        recipe = Recipe.from_file(file)
    elif model is None:
        recipe = PRESETS[best_here(options["weights"])]
    elif model.lower() in PRESETS:
        recipe = PRESETS[model.lower()]
    else:
        if not any(sign in model for sign in "/@.\\"):
            raise UnknownName.of("model", model, [*PRESETS, *BACKBONES])
        recipe = Recipe(name="own", model=model, method="naclip", threshold=0.2)
    if "alpha" in changes:  # also where it is the recipe's own rate, which a cut stands in for
        changes["presence_cut"] = None
    if at:
        changes["proposer_options"] = {proposer_of(proposer).requires or "folder": place}
    return recipe.replace(**changes), own


def open_pipeline(recipe: "Recipe | None", options: dict[str, Any], talk: Talk) -> "Pipeline":
    """Networks loaded, and said in one line which and where."""
    from ovseg.pipeline import Pipeline

    if options["threads"]:
        import torch

        torch.set_num_threads(options["threads"])
    pipe = Pipeline.open(
        recipe,
        device=options["device"],
        folder=options["weights"],
        allow_pickle=options["allow_pickle"],
        embeddings=0,  # bytes: a command looks at each picture once
    )
    if talk.each:
        talk.say(f"{pipe!r}")
    return pipe


def vocabulary_of(pipe: "Pipeline", words: Any, thresholds: dict[str, float]) -> Any:
    from dataclasses import replace

    words = replace(words, thresholds={**words.thresholds, **thresholds})
    return pipe.vocabulary(words)


def others_of(compare: str | None) -> list[Any]:
    """The recipes that `--compare` names, by commas: methods, and choices as CHOICE=VALUE; checked with the recipe.

    >>> others_of("naclip, negatives=scene, scale=60"), others_of(None)
    (['naclip', {'negatives': 'scene'}, {'scale': 60}], [])
    """
    out: list[Any] = []
    for item in (compare or "").split(","):
        choice, equals, value = (part.strip() for part in item.partition("="))
        if equals:
            try:
                out.append({choice: json.loads(value)})
            except json.JSONDecodeError:
                out.append({choice: value})
        elif choice:
            out.append(choice)
    if compare is not None and not out:
        raise BadUsage("--compare names other recipes by commas, for instance naclip,negatives=scene: none came")
    return out


def folder_of(out: str) -> Path:
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"the output folder cannot be made: {folder} ({error.strerror})") from None
    return folder


__all__ = [
    "ASKING",
    "DEFAULT_OUT",
    "EXAMPLE",
    "INPUTS",
    "NETWORK",
    "OWN_OUTPUT",
    "TALK",
    "WORDS",
    "folder_of",
    "formats_of",
    "open_pipeline",
    "others_of",
    "pictures_of",
    "recipe_of",
    "vocabulary_of",
    "words_of",
]
