"""The legend of an overlay: a row a name, in as many columns as fit, below the picture or beside it."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovseg.draw.sheet import INK, PAPER, SOFT, Pen, fineness
from ovseg.draw.text import Number, Place, altered, clean, measure, shorten
from ovseg.types import NAMELESS, Segmentation


@dataclass(frozen=True)
class _Row:
    """One line of the legend; no colour for what was not found."""

    name: str
    colour: tuple[int, int, int] | None
    share: str
    score: str


@dataclass(frozen=True)
class _Words:
    """All that a legend says."""

    title: str
    rows: tuple[_Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """Where it says it, in pixels: the height of text and what follows from it, columns, rows a column, the whole."""

    unit: int
    pad: int
    line: int
    small: int
    gap: int
    swatch: int
    score: int
    names: int  # room for a name in a column
    column: int
    between: int
    columns: int
    deep: int
    header: int
    width: int
    height: int


def with_legend(picture: Image.Image, segmentation: Segmentation, unit: int) -> Image.Image:
    """The picture on paper, the legend below it, or beside it if it is upright; nothing is cut."""
    words = _words(segmentation)
    panel = _panel(words, _layout(words, picture, unit))
    beside = picture.height > picture.width
    size = (max(picture.width, panel.width), picture.height + panel.height)
    if beside:
        size = (picture.width + panel.width, max(picture.height, panel.height))
    paper = Image.new("RGB", size, PAPER)
    paper.paste(picture, (0, 0))
    paper.paste(panel, (picture.width, 0) if beside else (0, picture.height))
    return paper


def _words(segmentation: Segmentation) -> _Words:
    """Names found, by falling share, then names not found; a title that sums them up; a note on missing fonts."""
    areas, scores, shares = segmentation.regions.area, segmentation.own_scores, segmentation.shares
    evidence = segmentation.evidence
    struck = np.zeros(len(segmentation.names), bool) if evidence is None else evidence.struck
    found: list[tuple[float, _Row]] = []
    absent: list[_Row] = []
    for k, name in enumerate(segmentation.names):
        if not shares[name]:
            absent.append(_Row(name, None, "judged absent" if struck[k] else "not found", ""))
            continue
        own = segmentation.region_labels == k
        score = float(np.average(scores[own], weights=areas[own])) if own.any() else math.nan
        red, green, blue = segmentation.colours[k].tolist()
        found.append((shares[name], _Row(name, (red, green, blue), _percent(shares[name]), f"{score:.2f}")))
    found.sort(key=lambda pair: -pair[0])
    asked = [name for name in segmentation.names if name != NAMELESS]
    known = sum(1 for _, row in found if row.name in asked)
    title = f"{known} of {len(asked)} name{'s' * (len(asked) != 1)} found" if asked else "Nothing was found"
    if found:
        title += f", {_percent(sum(share for share, _ in found))} of the picture"
    lost = any(altered(name) for name in segmentation.names)
    notes = ("some signs are not in this machine's fonts",) if lost else ()
    return _Words(title, (*(row for _, row in found), *absent), notes)


def _layout(words: _Words, picture: Image.Image, unit: int) -> _Layout:
    """Columns that fill the picture's width, or its height where the legend stands beside it."""
    rows, notes = words.rows, words.notes
    pad, line, small, gap = round(unit * 1.2), round(unit * 1.7), max(10, round(unit * 0.82)), round(unit * 0.7)
    swatch = round(unit * 1.05)
    score = max(measure("0.00", unit), measure("score", small))
    share = max(measure("100 %", unit), measure("99.9 %", unit), measure("share", small))
    tail = max(share + gap + score, measure("not found", unit))
    longest = max((measure(clean(row.name), unit) for row in rows), default=0)
    fixed = swatch + gap + 2 * gap + tail  # a column less its name
    column = fixed + min(max(longest, 4 * unit), 16 * unit)
    titles = max(measure(words.title, unit), *(measure(note, small) for note in notes), 0)
    between = 3 * gap
    beside, room = picture.height > picture.width, picture.width - 2 * pad
    if beside:
        deep = max(1, (picture.height - 2 * pad - line * (2 + len(notes))) // line)
        columns = max(1, -(-len(rows) // deep))
    else:
        column = max(min(column, room), fixed + 4 * unit)  # a narrow picture shortens names before the paper grows
        columns = max(1, min((room + between) // (column + between), len(rows)))
    deep = -(-len(rows) // columns)
    columns = max(1, -(-len(rows) // max(1, deep)))
    if not beside:  # columns spread over the picture's width, as far as the eye still follows a row
        column = max(column, min((room - (columns - 1) * between) // columns, 30 * unit))
    header = line if any(row.colour for row in rows) else line // 3
    return _Layout(
        unit=unit,
        pad=pad,
        line=line,
        small=small,
        gap=gap,
        swatch=swatch,
        score=score,
        names=column - fixed,
        column=column,
        between=between,
        columns=columns,
        deep=deep,
        header=header,
        width=2 * pad + max(columns * column + (columns - 1) * between, titles),
        height=2 * pad + line * (1 + deep + len(notes)) + (header if rows else 0),
    )


def _panel(words: _Words, at: _Layout) -> Image.Image:
    """The legend on paper of its own."""
    fine = fineness(at.unit)
    panel = Image.new("RGB", (at.width * fine, at.height * fine), PAPER)
    pen = Pen(ImageDraw.Draw(panel), fine)
    pen.write((at.pad, at.pad + at.line * 0.5), words.title, at.unit, INK, "lm")
    top = at.pad + at.line
    for number in range(at.columns if words.rows else 0):
        x = at.pad + number * (at.column + at.between)
        shown = words.rows[number * at.deep : (number + 1) * at.deep]
        if any(row.colour for row in shown):
            pen.write((x + at.column, top + at.line * 0.5), "score", at.small, SOFT, "rm")
            pen.write((x + at.column - at.score - at.gap, top + at.line * 0.5), "share", at.small, SOFT, "rm")
        pen.line((x, top + at.header - at.line * 0.1), x + at.column, at.unit)
        for i, row in enumerate(shown):
            _draw_row(pen, row, (x, top + at.header + at.line * (0.5 + i)), at)
    for i, note in enumerate(words.notes):
        below = at.height - at.pad - at.line * (len(words.notes) - i - 0.5)
        pen.write((at.pad, below), note, at.small, SOFT, "lm")
    return panel.resize((at.width, at.height), Image.Resampling.BOX)


def _draw_row(pen: Pen, row: _Row, start: Place, at: _Layout) -> None:
    """One line of the legend; `start` is the middle of its left end."""
    left, middle = start
    right: Number = left + at.column
    name = shorten(clean(row.name), at.unit, at.names)
    pen.swatch(start, at.swatch, row.colour)
    pen.write((left + at.swatch + at.gap, middle), name, at.unit, INK if row.colour else SOFT, "lm")
    if row.colour is None:
        pen.write((right, middle), row.share, at.unit, SOFT, "rm")
    else:
        pen.write((right, middle), row.score, at.unit, SOFT, "rm")
        pen.write((right - at.score - at.gap, middle), row.share, at.unit, INK, "rm")


def _percent(share: float) -> str:
    """A share of the picture in at most five signs."""
    if share < 0.0005:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.9995 else "100 %"


__all__ = ["with_legend"]
