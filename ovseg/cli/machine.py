"""Commands about this machine: weights (list, pull, verify, path) and check."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import click

from ovseg.cli.talk import Talk, bytes_told


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
            click.echo(f"{row.name:28} {size / 1e6:9.1f} MB  {row.licence:24.24}  {where}")


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


def _weights_of_preset(name: str) -> list[str]:
    from ovseg.pipeline import needed_weights
    from ovseg.recipe import PRESETS

    return needed_weights(PRESETS[name])


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


__all__ = ["check", "weights", "weights_list", "weights_path", "weights_pull", "weights_verify"]
