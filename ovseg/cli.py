"""The front door at the keyboard: stdout is data, stderr is talk, and every error is one sentence.

Nothing heavy is imported at the top, so `--help` answers at once; each command imports what it needs. Exit codes: 0
done, 1 some pictures failed, 2 usage, 3 weights, 130 interrupted.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ovseg.errors import BadUsage, OvsegError

if TYPE_CHECKING:
    from ovseg.pipeline import Pipeline
    from ovseg.recipe import Recipe
    from ovseg.types import Segmentation

EXAMPLE = "example:"  # `example:NAME` is a picture that ships with ovseg
DEFAULT_OUT = "ovseg-out"
PROGRESS_EVERY = 0.1  # seconds

F = TypeVar("F", bound=Callable[..., Any])


class _Commands(click.Group):
    """Commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as added."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ovseg")
def app() -> None:
    """Type words, get pixels: label the regions, or the faults, that a text names in a picture.

    \b
    Examples:
      ovseg segment example:breakfast -p apple -p banana -o out     the bundled model on a bundled picture
      ovseg segment photo.jpg -p cat -p "dog=dog|puppy" --json      regions as JSON, nothing written
      ovseg label pictures/ -p bolt -p nut -o drafts                a folder into COCO annotations, resumable
    """


def _options(*several: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, in the order they are written."""

    def wrap(function: F) -> F:
        for option in reversed(several):
            function = option(function)
        return function

    return wrap


_words = _options(
    click.option("-p", "--prompt", "prompts", multiple=True, metavar="NAME", help="A name, or NAME=phrase|phrase."),
    click.option("--prompts", "prompt_file", metavar="FILE", help="Names from a .txt, .json or .yaml file."),
    click.option("--negative", "extra", multiple=True, metavar="NAME", help="A word that wins pixels but labels none."),
)
_asking = _options(
    click.option("--threshold", multiple=True, metavar="T", help="Least posterior of a label, 0..1; or NAME=T."),
    click.option("--negatives", metavar="SET", help="Words for 'none of these': scene, word, voc26, none."),
    click.option("--templates", metavar="SET", help="Sentences round a name: few, simple, bare, openai80, sub7."),
    click.option("--min-area", type=float, metavar="SHARE", help="Drop regions below this share of the picture."),
)
_network = _options(
    click.option("--model", metavar="NAME", help="tiny, mobile, base, large; ARCH/TAG of open_clip; ARCH@FILE; FILE."),
    click.option("--method", metavar="NAME", help="Dense method: maskclip-reduced, sclip, clearclip, naclip, ..."),
    click.option("--protocol", metavar="NAME", help="fast, or paper (the released programs' windows)."),
    click.option("--size", type=int, metavar="PX", help="Short side at which pictures are read."),
    click.option("--proposer", metavar="NAME", help="Where regions come from: none, felzenszwalb, sam."),
    click.option("--recipe", "recipe_file", metavar="FILE", help="All choices from a recipe in JSON."),
    click.option("--weights", metavar="DIR", help="Look for weights here first (or set OVSEG_WEIGHTS)."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps."),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads."),
    click.option("--allow-pickle", is_flag=True, help="Open a checkpoint that is a pickle you trust."),
)
_inputs = _options(
    click.argument("images", nargs=-1, required=True, metavar="IMAGE..."),
    click.option("-r", "--recursive", is_flag=True, help="Look into nested folders."),
)
_talk = _options(
    click.option("-q", "--quiet", is_flag=True, help="Errors only."),
    click.option("-v", "--verbose", is_flag=True, help="Also a line for each picture when stderr is no terminal."),
)


@app.command()
@_inputs
@_words
@_asking
@click.option("-o", "--out", metavar="DIR", help=f"Folder for results (default {DEFAULT_OUT}, none with --json).")
@click.option("--format", "formats", default="png,labels,coco", show_default=True, help="What to write, by commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture on stdout.")
@_network
@_talk
def segment(
    images: tuple[str, ...], out: str | None, formats: str, as_json: bool, quiet: bool, verbose: bool, **options: Any
) -> None:
    """Label the regions that words name: overlay with legend, indexed labels with a class table, COCO masks.

    IMAGE is a file, a folder, a glob, @list.txt, - (a list on stdin) or example:NAME.

    \b
    Examples:
      ovseg segment example:breakfast -p apple -p banana -p cup -o out
      ovseg segment *.jpg -p cat -p "dog=dog|puppy" --threshold 0.4 --threshold dog=0.3
      ovseg segment photo.png --prompts names.yaml --json > regions.jsonl
    """
    from dataclasses import replace

    import numpy as np

    from ovseg import export
    from ovseg.images import read

    talk = _Talk(quiet, verbose)
    words, kinds = _words_of(options), _formats_of(formats)
    paths = _pictures(images, options["recursive"], talk)
    recipe, thresholds = _recipe_of(options)
    folder = None if as_json and out is None else _folder(out or DEFAULT_OUT)
    pipe = _open(recipe, options, talk)
    vocabulary = _with_thresholds(pipe, words, thresholds)
    talk.notes(vocabulary.notes)
    names = export.file_names([str(path) for path in paths])
    written: list[Path] = []
    kept: list[Any] = []  # for COCO, which is one file for all: regions alone, so that memory hardly grows

    def one(path: Path, name: str) -> str:
        start = time.perf_counter()
        picture = read(path)
        found = pipe.segment(picture, vocabulary)
        seconds = time.perf_counter() - start
        if as_json:
            line = {"path": str(path), **found.to_dict(), "seconds": round(seconds, 3)}
            click.echo(json.dumps(line, ensure_ascii=False))
        if folder is not None:
            result = export.Result(str(path), found, picture, seconds, name)
            for kind in kinds:
                if kind != "coco":
                    written.extend(export.write([result], kind, folder))
            labels = np.broadcast_to(np.int16(-1), found.labels.shape)
            confidence = np.broadcast_to(np.float32(0), found.labels.shape)
            slim = replace(found, evidence=None, labels=labels, confidence=confidence)
            kept.append(replace(result, image=None, segmentation=slim))
        return f"{found.regions.height}x{found.regions.width}, {_counts(found)}, {seconds * 1000:.0f} ms"

    failed = _each(paths, names, one, talk)
    if folder is not None:
        if "coco" in kinds:
            written.extend(export.write(kept, "coco", folder))
        talk.say(f"{len(paths) - failed} of {len(paths)} pictures -> {folder}: {', '.join(_names(written))}")
    sys.exit(1 if failed else 0)


@app.command()
@_inputs
@click.option("--object", "what", required=True, metavar="NAME", help='What is looked at, as "ceramic tile".')
@click.option("--normal", multiple=True, metavar="DIR", help="Pictures, or folders of them, without a fault.")
@click.option("--threshold", type=float, metavar="T", help="Values from here on are a fault (marked, and as regions).")
@click.option("-o", "--out", metavar="DIR", help=f"Folder for heat maps (default {DEFAULT_OUT}, none with --json).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture on stdout.")
@_network
@_talk
def anomaly(
    images: tuple[str, ...],
    what: str,
    normal: tuple[str, ...],
    threshold: float | None,
    out: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Show where a picture departs from what its object should look like: heat map and score, higher is stranger.

    \b
    Examples:
      ovseg anomaly tile.jpg --object "ceramic tile" -o out
      ovseg anomaly parts/*.png --object gear --normal good/ --json
    """
    from ovseg import draw, export
    from ovseg import images as pictures

    talk = _Talk(quiet, verbose)
    paths = _pictures(images, options["recursive"], talk)
    good = _pictures(normal, True, talk) if normal else []
    recipe, _ = _recipe_of(options)
    folder = None if as_json and out is None else _folder(out or DEFAULT_OUT)
    pipe = _open(recipe, options, talk)
    references = [pipe.encode(path) for path in good]
    names = export.file_names([str(path) for path in paths])

    def one(path: Path, name: str) -> str:
        start = time.perf_counter()
        picture = pictures.read(path)
        found = pipe.anomaly(picture, what, normal=references, threshold=threshold)
        seconds = time.perf_counter() - start
        if as_json:
            line = {"path": str(path), **found.to_dict(), "seconds": round(seconds, 3)}
            click.echo(json.dumps(line, ensure_ascii=False))
        if folder is not None:
            export.save(folder / f"{name}.anomaly.png", draw.png(draw.heatmap(picture, found)))
        return f"{picture.shape[0]}x{picture.shape[1]}, score {found.score:.3f} ({found.unit}), {seconds * 1000:.0f} ms"

    failed = _each(paths, names, one, talk)
    if folder is not None:
        talk.say(f"{len(paths) - failed} of {len(paths)} pictures -> {folder}")
    sys.exit(1 if failed else 0)


@app.command()
@click.argument("folder")
@_words
@_asking
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for annotations; run again to go on.")
@click.option("--format", "formats", default="coco", show_default=True, help="What to write, by commas.")
@click.option("-r", "--recursive", is_flag=True, help="Look into nested folders.")
@_network
@_talk
def label(folder: str, out: str, formats: str, quiet: bool, verbose: bool, **options: Any) -> None:
    """Draft annotations for a folder of pictures: COCO instances with exact masks and scores.

    Finished pictures are skipped when the same command runs again; a picture that fails is a row in failures.jsonl.

    \b
    Examples:
      ovseg label pictures/ -p bolt -p nut -o drafts
      ovseg label pictures/ --prompts names.yaml --threshold 0.4 -o drafts
    """
    from ovseg import job

    talk = _Talk(quiet, verbose)
    words, kinds = _words_of(options), _formats_of(formats)
    paths = _pictures((folder,), options["recursive"], talk)
    recipe, thresholds = _recipe_of(options)
    target = _folder(out)
    pipe = _open(recipe, options, talk)
    vocabulary = _with_thresholds(pipe, words, thresholds)
    talk.notes(vocabulary.notes)
    lines = {"done": "done", "skipped": "done before", "failed": "failed"}
    seen = dict.fromkeys(lines, 0)
    with talk.progress("picture") as told:

        def on_picture(outcome: job.Outcome) -> None:
            seen[outcome.state] += 1
            told("", sum(seen.values()), len(paths))
            text = f"image {sum(seen.values())}/{len(paths)} {outcome.path}: "
            if outcome.state == "failed":
                click.echo(f"ovseg: {text}{' '.join(outcome.message.split())}", err=True)
            elif outcome.segmentation is not None:
                talk.picture(f"{text}{_counts(outcome.segmentation)}, {outcome.seconds * 1000:.0f} ms")

        summary = job.run(
            paths,
            lambda path: pipe.segment(path, vocabulary),
            target,
            asked=job.question(pipe.recipe, vocabulary, pipe.clip.fingerprint),
            root=Path(folder).expanduser() if Path(folder).expanduser().is_dir() else None,
            formats=kinds,
            on_picture=on_picture,
        )
    counts = ", ".join(f"{seen[state]} {word}" for state, word in lines.items())
    found = ", ".join(f"{n} {name}" for name, n in summary.regions.items())
    talk.say(f"{len(paths)} pictures: {counts}; {found or 'nothing'}; {summary.empty} empty; {summary.seconds:.1f} s")
    talk.say(f"-> {', '.join(str(path) for path in summary.written[:3])}")
    if summary.failures:
        talk.say(f"what failed and why: {summary.failures}; run the same command to try those again")
    sys.exit(1 if summary.failed else 0)


@app.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback unless you say so."
)
@click.option("--port", type=int, default=7860, show_default=True, help="First port to try.")
@_network
@_talk
def demo(host: str, port: int, quiet: bool, verbose: bool, **options: Any) -> None:
    """Open the browser page: a picture, words, a threshold; overlay and JSON.

    \b
    Examples:
      ovseg demo
      ovseg demo --model base --port 8000
    """
    from ovseg import weights

    talk = _Talk(quiet, verbose)
    recipe, _ = _recipe_of(options)
    pipe = _open(recipe, options, talk)
    sys.path.insert(0, str(weights.bundled("demo").parent))
    import importlib

    try:
        page = importlib.import_module("demo.app")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        from ovseg.errors import MissingExtra

        raise MissingExtra("the browser page needs gradio: pip install 'ovseg[demo]'") from None
    page.launch(pipe, host=host, port=port)


@app.group()
def weights() -> None:
    """The models' files: which there are, where they lie, fetch them, check them.

    \b
    Examples:
      ovseg weights list
      ovseg weights pull sam-vit-b
      ovseg weights pull clip-vit-b16-openai --to usb/     for a machine without a network
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def weights_list(as_json: bool) -> None:
    """Name, size, licence, and where each file is on this machine."""
    from ovseg import weights as files

    for entry in files.status():
        row, place = entry.row, entry.path
        if as_json:
            values = {"name": row.name, "bytes": row.bytes, "licence": row.licence, "sha256": row.sha256}
            click.echo(json.dumps({**values, "path": None if place is None else str(place), "what": row.what}))
        else:
            size = row.bytes or (place.stat().st_size if place else 0)
            where = str(place) if place else "not here"
            click.echo(f"{row.name:28} {size / 1e6:9.1f} MB  {row.licence:12.12}  {where}")


@weights.command("pull")
@click.argument("names", nargs=-1, required=True)
@click.option("--to", metavar="DIR", help="Put the files here instead of the usual folder.")
def weights_pull(names: tuple[str, ...], to: str | None) -> None:
    """Fetch files, or all files of a preset, check their digests, and say where they are."""
    from ovseg import weights as files
    from ovseg.recipe import PRESETS

    talk = _Talk(False, False)
    for name in names:
        rows = _weights_of_preset(name) if name in PRESETS else [name]
        for row in rows:
            with talk.progress(row, unit="bytes") as told:
                place = files.pull(row, to=to, progress=partial(_bytes, told))
            click.echo(str(place))


@weights.command("verify")
@click.argument("names", nargs=-1)
def weights_verify(names: tuple[str, ...]) -> None:
    """Compute the digests of files that are here again, and hold them against the manifest."""
    from ovseg import weights as files

    checks = files.verify(*names)
    for check in checks:
        click.echo(f"{check.row.name:28} {check.verdict:10} {check.detail}")
    sys.exit(3 if any(check.verdict == "bad" for check in checks) else 0)


@weights.command("path")
@click.argument("name")
def weights_path(name: str) -> None:
    """Print where one file is."""
    from ovseg import weights as files

    click.echo(str(files.path(name)))


@app.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a bug report.")
def check(as_json: bool) -> None:
    """System, versions, devices, presets whose weights are here, folders that can be written.

    \b
    Examples:
      ovseg check
      ovseg check --json > report.json
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ovseg import weights as files
    from ovseg.recipe import PRESETS

    def versioned(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = (
        "ovseg",
        "torch",
        "torchvision",
        "open_clip_torch",
        "segment-anything",
        "numpy",
        "opencv-python-headless",
    )
    cache = files.cache_folder()
    report = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {package: versioned(package) for package in (*packages, "gradio")},
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        "threads": torch.get_num_threads(),
        "presets": {name: all(files.find(row) for row in _weights_of_preset(name)) for name in PRESETS},
        "weights": [str(place) for place in files.search_path()],
        "cache": {"folder": str(cache), "writable": os.access(_nearest(cache), os.W_OK)},
    }
    if as_json:
        click.echo(json.dumps(report))
        return
    for key, value in report.items():
        rows = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else value
        rows = [str(rows)] if not isinstance(rows, list) else rows
        click.echo(f"{key:10}" + ("\n" + " " * 10).join(map(str, rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end with its exit code; every error of ours is one sentence on stderr."""
    try:
        code = app.main(
            args=list(arguments) if arguments is not None else None, prog_name="ovseg", standalone_mode=False
        )
    except OvsegError as error:
        click.echo(f"ovseg: {' '.join(str(error).split())}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("ovseg: interrupted", err=True)
        code = 130
    sys.exit(code or 0)


class _Talk:
    """What a command says on stderr."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.quiet, self.each = quiet, not quiet and (verbose or sys.stderr.isatty())
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("ovseg: %(message)s"))
        logger = logging.getLogger("ovseg")
        logger.handlers[:] = [handler]
        logger.setLevel(logging.ERROR if quiet else logging.INFO)

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def notes(self, notes: Sequence[str]) -> None:
        """What a person should know about the words."""
        for note in notes:
            self.say(f"note: {note}")

    def picture(self, text: str) -> None:
        """The line of a picture: on a terminal, or when asked for."""
        if self.each:
            click.echo(text, err=True)

    @contextmanager
    def progress(self, what: str, unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
        """A bar with rate and time left on a terminal; nothing in a pipe."""
        if not self.terminal or self.quiet:
            yield lambda stage, done, of: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)

            def told(stage: str, done: int, of: int) -> None:
                bar.update(task, completed=done, total=of or None, description=f"{what} {stage}".strip())

            yield told


def _words_of(options: dict[str, Any]) -> Any:
    """Names of -p, or of --prompts: a conflict between them is an error, not a choice."""
    from ovseg.prompts import Words, read_option, read_words

    given, file, extra = options.pop("prompts"), options.pop("prompt_file"), options.pop("extra")
    if given and file:
        raise BadUsage("names come from -p or from --prompts, not from both")
    if not given and not file:
        raise BadUsage('at least one name is needed: give it as -p cat (or -p "dog=dog|puppy"), or a file by --prompts')
    words = read_words(Path(file)) if file else read_words([read_option(text) for text in given])
    if extra:
        more = read_words(list(extra))
        words = Words(words.names, words.phrases, words.negatives + more.names, words.thresholds)
    return words


def _formats_of(formats: str) -> list[str]:
    from ovseg.errors import UnknownName
    from ovseg.export import WRITERS

    kinds = list(dict.fromkeys(kind.strip() for kind in formats.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in WRITERS:
            raise UnknownName.of("format", kind, WRITERS)
    return kinds


def _pictures(images: Sequence[str], recursive: bool, talk: _Talk) -> list[Path]:
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
    if skipped:
        talk.say(f"{len(paths)} pictures; {len(skipped)} other files are left out ({', '.join(_names(skipped))})")
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


def _recipe_of(options: dict[str, Any]) -> tuple["Recipe | None", dict[str, float]]:
    """The recipe that the options name (None: the best preset that is here), and thresholds of single names."""
    from ovseg.pipeline import best_here
    from ovseg.recipe import PRESETS, Recipe

    model, file = options.pop("model"), options.pop("recipe_file")
    changes = {
        "method": options.pop("method"),
        "protocol": options.pop("protocol"),
        "short_side": options.pop("size"),
        "proposer": options.pop("proposer"),
        "negatives": options.pop("negatives", None),
        "templates": options.pop("templates", None),
        "min_area": options.pop("min_area", None),
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
        try:
            recipe = Recipe.from_json(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadUsage(f"the recipe cannot be read: {file} ({error})") from None
    elif model is None:
        recipe = PRESETS[best_here(options["weights"])]
    elif model.lower() in PRESETS:
        recipe = PRESETS[model.lower()]
    else:
        recipe = Recipe(name="own", model=model, method="naclip", threshold=0.2)
    if changes.get("proposer", recipe.proposer) != recipe.proposer:
        changes["proposer_options"] = {}
    return recipe.replace(**changes), own


def _open(recipe: "Recipe | None", options: dict[str, Any], talk: _Talk) -> "Pipeline":
    """Networks loaded, and said in one line which and where."""
    from ovseg.pipeline import Pipeline

    if options["threads"]:
        import torch

        torch.set_num_threads(options["threads"])
    pipe = Pipeline.open(
        recipe, device=options["device"], folder=options["weights"], allow_pickle=options["allow_pickle"]
    )
    if talk.each:
        talk.say(f"{pipe!r}")
    return pipe


def _with_thresholds(pipe: "Pipeline", words: Any, thresholds: dict[str, float]) -> Any:
    from dataclasses import replace

    words = replace(words, thresholds={**words.thresholds, **thresholds})
    return pipe.vocabulary(words)


def _each(paths: Sequence[Path], names: Sequence[str], one: Callable[[Path, str], str], talk: _Talk) -> int:
    """Each picture in turn; one that fails is a sentence on stderr, and the others go on. How many failed."""
    from ovseg.errors import BadInput

    failed = 0
    with talk.progress("picture") as told:
        for number, (path, name) in enumerate(zip(paths, names, strict=True), 1):
            told("", number - 1, len(paths))
            try:
                line = one(path, name)
            except BadInput as error:
                failed += 1
                click.echo(f"ovseg: image {number}/{len(paths)} {path}: {' '.join(str(error).split())}", err=True)
            else:
                talk.picture(f"image {number}/{len(paths)} {path}: {line}")
    return failed


def _bytes(told: Callable[[str, int, int], None], here: int, total: int | None) -> None:
    told("", here, total or 0)


def _counts(found: "Segmentation") -> str:
    counts = [int((found.region_labels == k).sum()) for k in range(len(found.names))]
    return ", ".join(f"{n} {name}" for n, name in zip(counts, found.names, strict=True) if n) or "nothing found"


def _folder(out: str) -> Path:
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"the output folder cannot be made: {folder} ({error.strerror})") from None
    return folder


def _names(paths: Sequence[Path], most: int = 4) -> list[str]:
    return [path.name for path in paths[:most]] + ([f"... ({len(paths)} in all)"] if len(paths) > most else [])


def _weights_of_preset(name: str) -> list[str]:
    from ovseg.pipeline import needed_weights
    from ovseg.recipe import PRESETS

    return needed_weights(PRESETS[name])


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


__all__ = ["app", "main"]
