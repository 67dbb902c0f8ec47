"""Commands about pictures: segment, anomaly, label, demo. The work is in `pipeline`, `export`, `draw` and `job`."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovseg.cli.options import (
    ASKING,
    DEFAULT_OUT,
    INPUTS,
    NETWORK,
    TALK,
    WORDS,
    folder_of,
    formats_of,
    open_pipeline,
    others_of,
    pictures_of,
    recipe_of,
    vocabulary_of,
    words_of,
)
from ovseg.cli.showing import asking, showing, showing_of
from ovseg.cli.talk import Talk, counts_of, each, names_of
from ovseg.errors import BadInput, BadUsage

if TYPE_CHECKING:
    from ovseg.pipeline import Encoding, Pipeline


@click.command()
@INPUTS
@WORDS
@showing
@ASKING
@click.option("-o", "--out", metavar="DIR", help=f"Folder for results (default {DEFAULT_OUT}, none with --json).")
@click.option(
    "--format",
    "formats",
    default="png,labels,coco",
    show_default=True,
    help="What to write, by commas: png (overlay), labels, coco, json.",
)
@click.option(
    "--compare",
    metavar="RECIPE,...",
    help="Show where others part from it, and what review may take: METHOD, or CHOICE=VALUE.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture on stdout.")
@NETWORK
@TALK
def segment(
    images: tuple[str, ...],
    out: str | None,
    formats: str,
    compare: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Label the regions that words name: overlay with legend, indexed labels with a class table, COCO masks.

    IMAGE is a file, a folder, a glob, @list.txt, - (a list on stdin) or example:NAME.

    \b
    Examples:
      ovseg segment example:meadow -p cow -p sheep -p dog -o out
      ovseg segment *.jpg -p cat -p "dog=dog|puppy" --threshold 0.4 --threshold dog=0.3
      ovseg segment photo.png --prompts names.yaml --json > regions.jsonl
      ovseg segment photo.png -p cat -p dog --compare two-level,proposer=none
      ovseg segment shots/ --exemplar "bolt=shots/first.jpg@40,60,120,150" -p nut
      ovseg segment photo.png --discover --words animals.txt
    """
    from dataclasses import replace

    import numpy as np

    from ovseg import comparing, draw, export
    from ovseg import images as pictures

    talk = Talk(quiet, verbose)
    shown = showing_of(options)
    words, kinds = words_of(options, needed=not shown), formats_of(formats)
    paths = pictures_of(images, options["recursive"], talk)
    recipe, thresholds = recipe_of(options)
    others = others_of(compare)
    if others and shown:
        raise BadUsage("--compare asks words: leave --exemplar, --taught and --discover out")
    if recipe is not None and others:
        comparing.beside(recipe, others)
    folder = None if as_json and out is None else folder_of(out or DEFAULT_OUT)
    pipe = open_pipeline(recipe, options, talk)
    if words is not None and not shown:
        words, thresholds = replace(words, thresholds={**words.thresholds, **thresholds}), {}
    ask, known = asking(pipe, shown, words, thresholds)
    talk.notes(known)
    names = export.file_names([str(path) for path in paths])
    written: list[Path] = []
    kept: list[Any] = []  # for COCO, which is one file for all: regions alone, so that memory hardly grows

    def one(path: Path, name: str) -> str:
        start = time.perf_counter()
        apart = pipe.compare(path, words, others) if others else None
        if apart is None:
            encoding = pipe.encode(path)
            found, picture = ask(encoding), encoding.image
        else:
            found, picture = apart.first, pictures.read(path)
        seconds = time.perf_counter() - start
        talk.notes([f"{path.name}: {note}" for note in found.notes if note not in known])
        if as_json:
            more = {} if apart is None else {"effort": apart.to_dict()}
            line = {"path": str(path), **found.to_dict(), **more, "seconds": round(seconds, 3)}
            click.echo(json.dumps(line, ensure_ascii=False))
        if folder is not None:
            if apart is not None:
                drawn = draw.png(draw.disputed(picture, apart))
                written.append(export.save(folder / f"{name}.disagreement.png", drawn))
            result = export.Result(str(path), found, picture, seconds, name)
            for kind in kinds:
                if kind != "coco":
                    written.extend(export.write([result], kind, folder))
            labels = np.broadcast_to(np.int16(-1), found.labels.shape)
            confidence = np.broadcast_to(np.float32(0), found.labels.shape)
            slim = replace(found, evidence=None, labels=labels, confidence=confidence)
            kept.append(replace(result, image=None, segmentation=slim))
        told = (
            counts_of(found) if apart is None else f"{counts_of(found)}; about {apart.effort()['touches']:.1f} touches"
        )
        return f"{found.regions.width}x{found.regions.height}, {told}, {seconds * 1000:.0f} ms"

    failed = each(paths, names, one, talk)
    if folder is not None:
        if "coco" in kinds and kept:
            written.extend(export.write(kept, "coco", folder))
        told = f" -> {folder}: {', '.join(names_of(written))}" if written else ": nothing was written"
        talk.say(f"{len(paths) - failed} of {len(paths)} pictures{told}")
    sys.exit(1 if failed else 0)


@click.command()
@INPUTS
@click.option("--object", "what", required=True, metavar="NAME", help='What is looked at, as "ceramic tile".')
@click.option("--normal", multiple=True, metavar="DIR", help="Pictures, or folders of them, without a fault.")
@click.option("--threshold", type=float, metavar="T", help="Values from here on are a fault (marked, and as regions).")
@click.option("-o", "--out", metavar="DIR", help=f"Folder for heat maps (default {DEFAULT_OUT}, none with --json).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture on stdout.")
@NETWORK
@TALK
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

    talk = Talk(quiet, verbose)
    paths = pictures_of(images, options["recursive"], talk)
    good = pictures_of(normal, options["recursive"], talk) if normal else []
    recipe, _ = recipe_of(options)
    folder = None if as_json and out is None else folder_of(out or DEFAULT_OUT)
    pipe = open_pipeline(recipe, options, talk)
    references = [_normal(pipe, path) for path in good]
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
        return f"{picture.shape[1]}x{picture.shape[0]}, score {found.score:.3f} ({found.unit}), {seconds * 1000:.0f} ms"

    failed = each(paths, names, one, talk)
    if folder is not None:
        talk.say(f"{len(paths) - failed} of {len(paths)} pictures -> {folder}")
    sys.exit(1 if failed else 0)


@click.command()
@click.argument("folder")
@WORDS
@ASKING
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for annotations; run again to go on.")
@click.option("--format", "formats", default="coco", show_default=True, help="What to write, by commas.")
@click.option("-r", "--recursive", is_flag=True, help="Look into nested folders.")
@NETWORK
@TALK
def label(folder: str, out: str, formats: str, quiet: bool, verbose: bool, **options: Any) -> None:
    """Draft annotations for a folder of pictures: COCO instances with exact masks and scores.

    Finished pictures are skipped when the same command runs again; a picture that fails is a row in failures.jsonl.

    \b
    Examples:
      ovseg label pictures/ -p bolt -p nut -o drafts
      ovseg label pictures/ --prompts names.yaml --threshold 0.4 -o drafts
    """
    from ovseg import job

    talk = Talk(quiet, verbose)
    words, kinds = words_of(options), formats_of(formats)
    paths = pictures_of((folder,), options["recursive"], talk)
    recipe, thresholds = recipe_of(options)
    target = folder_of(out)
    pipe = open_pipeline(recipe, options, talk)
    vocabulary = vocabulary_of(pipe, words, thresholds)
    talk.notes(vocabulary.notes)
    lines = {"done": "done", "skipped": "done before", "failed": "failed"}
    seen = dict.fromkeys(lines, 0)
    with talk.progress("picture") as told:

        def on_picture(outcome: job.Outcome) -> None:
            seen[outcome.state] += 1
            told("", sum(seen.values()), len(paths))
            text = f"image {sum(seen.values())}/{len(paths)} {outcome.path}: "
            if outcome.state == "failed":
                talk.fail(f"ovseg: {text}{' '.join(outcome.message.split())}")
            elif outcome.segmentation is not None:
                talk.picture(f"{text}{counts_of(outcome.segmentation)}, {outcome.seconds * 1000:.0f} ms")

        summary = job.run(
            paths,
            lambda path: pipe.segment(path, vocabulary),
            target,
            asked={
                **job.question(pipe.recipe, vocabulary, pipe.clip.fingerprint),
                "folder": str(Path(folder).resolve()),
            },
            root=Path(folder).expanduser() if Path(folder).expanduser().is_dir() else None,
            formats=kinds,
            on_picture=on_picture,
        )
    counts = ", ".join(f"{seen[state]} {word}" for state, word in lines.items())
    found = ", ".join(f"{n} {name}" for name, n in summary.regions.items())
    talk.say(f"{len(paths)} pictures: {counts}; {found or 'nothing'}; {summary.empty} empty; {summary.seconds:.1f} s")
    if summary.gone:
        talk.say(f"{summary.gone} pictures are no longer there and are left out; their parts are kept")
    talk.say(f"-> {', '.join(str(path) for path in summary.written[:3])}")
    if summary.failures:
        talk.say(f"what failed and why: {summary.failures}; run the same command to try those again")
    sys.exit(1 if summary.failed else 0)


def _normal(pipe: "Pipeline", path: Path) -> "Encoding":
    """A picture without a fault, encoded; one that cannot be read makes the whole question wrong, so the run ends."""
    try:
        return pipe.encode(path)
    except BadInput as error:
        raise BadUsage(f"a normal picture cannot be used, leave it out: {error}") from error


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback unless you say so."
)
@click.option("--port", type=int, default=7860, show_default=True, help="First port to try.")
@NETWORK
@TALK
def demo(host: str, port: int, quiet: bool, verbose: bool, **options: Any) -> None:
    """Open the browser page: a picture, words, a threshold; overlay and JSON.

    \b
    Examples:
      ovseg demo
      ovseg demo --model base --port 8000
    """
    from ovseg import weights

    talk = Talk(quiet, verbose)
    recipe, _ = recipe_of(options)
    pipe = open_pipeline(recipe, options, talk)
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


__all__ = ["anomaly", "demo", "label", "segment"]
