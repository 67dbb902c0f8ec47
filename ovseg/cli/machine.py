"""Commands about this machine: weights (list, pull, verify, path) and check; its tables are in `capabilities`."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import click

from ovseg.cli.talk import Talk, bytes_told
from ovseg.errors import BadUsage, MissingExtra


@click.group()
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
            shown = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
            shown = shown if size else "?"  # its publisher does not state it
            click.echo(f"{row.name:28} {shown:>12}  {row.licence.partition(' (')[0]:12}  {where}")


@weights.command("pull")
@click.argument("names", nargs=-1, required=True)
@click.option("--to", metavar="DIR", help="Put the files here instead of the usual folder.")
def weights_pull(names: tuple[str, ...], to: str | None) -> None:
    """Fetch files, or all files of a preset, check their digests, and say where they are."""
    from ovseg import weights as files
    from ovseg.recipe import PRESETS

    talk = Talk(False, False)
    for name in names:
        rows = _weights_of_preset(name) if name in PRESETS else [name]
        for row in rows:
            with talk.progress(row, unit="bytes") as told:
                place = files.pull(row, to=to, progress=partial(bytes_told, told))
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


@click.command()
@click.option("--towers", "all_towers", is_flag=True, help="Which methods each kind of network can do, and why not.")
@click.option("--methods", "all_methods", is_flag=True, help="Hold every method to its invariants, and to its program.")
@click.option("--proposers", "all_proposers", is_flag=True, help="Where regions may come from, and what each needs.")
@click.option("--encoders", "all_encoders", is_flag=True, help="How regions may be described, and by which networks.")
@click.option("--model", "models", multiple=True, metavar="SPEC", help="tiny, ARCH/TAG, ARCH@FILE or FILE; repeatable.")
@click.option("--architecture", "architectures", multiple=True, metavar="ARCH", help="open_clip's, random numbers.")
@click.option("--golden", metavar="DIR", help="Stored answers of the released programs (or set OVSEG_GOLDEN).")
@click.option("--markdown", is_flag=True, help="Tables as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="JSON: one object, or one a line with a table.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only on stderr.")
def check(
    all_towers: bool,
    all_methods: bool,
    all_proposers: bool,
    all_encoders: bool,
    models: tuple[str, ...],
    architectures: tuple[str, ...],
    golden: str | None,
    markdown: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """System, versions, devices, presets whose weights are here, folders that can be written.

    With --methods the exit code is 1 if any check failed; a method that a tower refuses is no failure.

    \b
    Examples:
      ovseg check
      ovseg check --json > report.json
      ovseg check --towers                          every kind of network, and the models that are here
      ovseg check --methods                         the bundled model; parity where its data is
      ovseg check --methods --architecture ViT-B-16 --markdown
      ovseg check --methods --towers                every method on every kind of network
      ovseg check --proposers
      ovseg check --encoders --model tiny --architecture convnext_base
    """
    if all_proposers:
        from ovseg.cli import capabilities

        capabilities.proposers("json" if as_json else "markdown" if markdown else "table")
        return
    if all_encoders:
        from ovseg.cli import capabilities

        asked = capabilities.asked_towers(models if models or architectures else ("tiny",), architectures, False)
        capabilities.encoders(asked, "json" if as_json else "markdown" if markdown else "table")
        return
    if all_towers or all_methods:
        form = "json" if as_json else "markdown" if markdown else "table"
        sys.exit(_capabilities(all_towers, all_methods, models, architectures, golden, form, Talk(quiet, False)))
    if models or architectures or golden or markdown:
        raise BadUsage(
            "--model, --architecture, --golden and --markdown go with --methods, --towers or --encoders: add one"
        )
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ovseg import runtime
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
        "packages": {package: versioned(package) for package in (*packages, "gradio", "openvino")},
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        "threads": torch.get_num_threads(),
        "runtimes": [_runtime_here(name) for name in runtime.RUNTIMES],
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


def _capabilities(
    all_towers: bool,
    all_methods: bool,
    models: tuple[str, ...],
    architectures: tuple[str, ...],
    golden: str | None,
    form: str,
    talk: Talk,
) -> int:
    """The exit code of `check` with --towers, --methods or both."""
    from ovseg.cli import capabilities

    if golden and not all_methods:
        raise BadUsage("--golden holds methods against stored answers: add --methods")
    named = bool(models or architectures)
    kinds = all_towers and not named
    if not named:
        models = tuple(capabilities.models_here()) if all_towers and not all_methods else ("tiny",)
    asked = capabilities.asked_towers(models, architectures, kinds)
    if all_methods:
        return 1 if capabilities.methods(asked, golden, form, talk) else 0
    capabilities.towers(asked, form)
    return 0


def _weights_of_preset(name: str) -> list[str]:
    from ovseg.opening import needed_weights
    from ovseg.recipe import PRESETS

    return needed_weights(PRESETS[name])


def _runtime_here(name: str) -> str:
    """Who computes and how precisely, or what that lacks on this machine."""
    import torch

    from ovseg import runtime

    try:
        runtime.check(name, runtime.PRECISIONS[0], torch.device("cpu"))
    except MissingExtra as error:
        return f"not installed: {error}"
    return runtime.describe(name, " or ".join(runtime.PRECISIONS))


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


__all__ = ["check", "weights", "weights_list", "weights_path", "weights_pull", "weights_verify"]
