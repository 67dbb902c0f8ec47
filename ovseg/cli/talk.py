"""What a command says on stderr: lines for people, a bar with rate and time left on a terminal, notes, failures."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ovseg.types import Segmentation


class Talk:
    """What a command says on stderr."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.quiet, self.each = quiet, not quiet and (verbose or sys.stderr.isatty())
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("ovseg: %(message)s"))
        logger = logging.getLogger("ovseg")
        logger.handlers[:] = [handler]
        logger.setLevel(logging.ERROR if quiet else logging.INFO)
        self._line: Callable[[str], None] = partial(click.echo, err=True)

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            self._line(text)

    def fail(self, text: str) -> None:
        """What went wrong, also when quiet."""
        self._line(text)

    def notes(self, notes: Sequence[str]) -> None:
        """What a person should know about the words."""
        for note in notes:
            self.say(f"note: {note}")

    def picture(self, text: str) -> None:
        """The line of a picture: on a terminal, or when asked for."""
        if self.each:
            self._line(text)

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
            before, self._line = self._line, partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)

            def told(stage: str, done: int, of: int) -> None:
                bar.update(task, completed=done, total=of or None, description=f"{what} {stage}".strip())

            try:
                yield told
            finally:
                self._line = before


def each(paths: Sequence[Path], names: Sequence[str], one: Callable[[Path, str], str], talk: Talk) -> int:
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
                talk.fail(f"ovseg: image {number}/{len(paths)} {path}: {' '.join(str(error).split())}")
            else:
                talk.picture(f"image {number}/{len(paths)} {path}: {line}")
    return failed


def counts_of(found: "Segmentation") -> str:
    counts = [int((found.region_labels == k).sum()) for k in range(len(found.names))]
    return ", ".join(f"{n} {name}" for n, name in zip(counts, found.names, strict=True) if n) or "nothing found"


def names_of(paths: Sequence[Path], most: int = 4) -> list[str]:
    return [path.name for path in paths[:most]] + ([f"... ({len(paths)} in all)"] if len(paths) > most else [])


def bytes_told(told: Callable[[str, int, int], None], here: int, total: int | None) -> None:
    told("", here, total or 0)


__all__ = ["Talk", "bytes_told", "counts_of", "each", "names_of"]
