"""The legend of an overlay: a row a name, in as many columns as fit, below the picture or beside it."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovseg.draw.sheet import INK, PAPER, SOFT, Pen, fineness
from ovseg.draw.text import Number, Place, clean, measure, shorten
from ovseg.types import Segmentation


@dataclass(frozen=True)
class Row:
    """One line of the legend; no colour for what was not found."""

    name: str
    colour: tuple[int, int, int] | None
    share: str
    score: str


def legend_rows(segmentation: Segmentation) -> tuple[list[Row], str]:
    """Names found, by falling share, then names not found; and a title that sums them up."""
    labels, kinds = segmentation.region_labels, segmentation.regions.area
    shares = segmentation.shares
    found: list[tuple[float, Row]] = []
    absent: list[Row] = []
    for k, name in enumerate(segmentation.names):
        if not shares[name]:
            absent.append(Row(name, None, "not found", ""))
            continue
        own = labels == k
        score = float(np.average(segmentation.region_scores[own, k], weights=kinds[own])) if own.any() else math.nan
        red, green, blue = segmentation.colours[k].tolist()
        found.append((shares[name], Row(name, (red, green, blue), _percent(shares[name]), f"{score:.2f}")))
    found.sort(key=lambda pair: -pair[0])
    count = len(segmentation.names)
    title = f"{len(found)} of {count} name{'s' * (count != 1)} found" if count else "No name was asked"
    if found:
        title += f", {_percent(sum(share for share, _ in found))} of the picture"
    return [row for _, row in found] + absent, title


def with_legend(picture: Image.Image, rows: list[Row], title: str, unit: int) -> Image.Image:
    """The picture on paper, the legend below it, or beside it if it is upright; nothing is cut."""
    beside = picture.height > picture.width
    pad, line, small, gap = round(unit * 1.2), round(unit * 1.7), max(10, round(unit * 0.82)), round(unit * 0.7)
    swatch = round(unit * 1.05)
    score = max(measure("0.00", unit), measure("score", small))
    share = max(measure("100 %", unit), measure("99.9 %", unit), measure("share", small))
    tail = max(share + gap + score, measure("not found", unit))
    longest = max((measure(clean(row.name), unit) for row in rows), default=0)
    fixed = swatch + gap + 2 * gap + tail  # a column less its name
    column = fixed + min(max(longest, 4 * unit), 16 * unit)
    changed = any(clean(row.name).rstrip("…") not in " ".join(row.name.split()) for row in rows)
    notes = ["some signs are not in this machine's fonts"] if changed else []
    titles = max(measure(title, unit), *(measure(note, small) for note in notes), 0)
    between = 3 * gap
    if beside:
        deep = max(1, (picture.height - 2 * pad - line * (2 + len(notes))) // line)
        columns = max(1, -(-len(rows) // deep))
    else:
        room = picture.width - 2 * pad
        column = max(min(column, room), fixed + 4 * unit)  # a narrow picture shortens names before the paper grows
        columns = max(1, min((room + between) // (column + between), len(rows)))
    deep = -(-len(rows) // columns)
    columns = max(1, -(-len(rows) // max(1, deep)))
    if not beside:  # columns spread over the picture's width, as far as the eye still follows a row
        column = max(column, min((room - (columns - 1) * between) // columns, 30 * unit))
    wide = 2 * pad + max(columns * column + (columns - 1) * between, titles)
    header = line if any(row.colour for row in rows) else line // 3
    high = 2 * pad + line * (1 + deep + len(notes)) + (header if rows else 0)

    fine = fineness(unit)
    panel = Image.new("RGB", (wide * fine, high * fine), PAPER)
    pen = Pen(ImageDraw.Draw(panel), fine)
    pen.write((pad, pad + line * 0.5), title, unit, INK, "lm")
    top = pad + line
    for at in range(columns if rows else 0):
        x = pad + at * (column + between)
        shown = rows[at * deep : (at + 1) * deep]
        if any(row.colour for row in shown):
            pen.write((x + column, top + line * 0.5), "score", small, SOFT, "rm")
            pen.write((x + column - score - gap, top + line * 0.5), "share", small, SOFT, "rm")
        pen.line((x, top + header - line * 0.1), x + column, unit)
        for i, row in enumerate(shown):
            _legend_row(
                pen, row, (x, top + header + line * (0.5 + i)), column, (unit, swatch, gap, score), column - fixed
            )
    for i, note in enumerate(notes):
        pen.write((pad, high - pad - line * (len(notes) - i - 0.5)), note, small, SOFT, "lm")
    panel = panel.resize((wide, high), Image.Resampling.BOX)

    size = (picture.width + wide, max(picture.height, high))
    if not beside:
        size = (max(picture.width, wide), picture.height + high)
    paper = Image.new("RGB", size, PAPER)
    paper.paste(picture, (0, 0))
    paper.paste(panel, (picture.width, 0) if beside else (0, picture.height))
    return paper


def _legend_row(
    pen: Pen,
    row: Row,
    at: Place,
    column: int,
    sizes: tuple[int, int, int, int],
    name_room: Number,
) -> None:
    """One line of the legend from `at`, the middle of its left end, to `column` px further right."""
    unit, swatch, gap, score = sizes
    x, middle = at
    name = shorten(clean(row.name), unit, name_room)
    pen.swatch(at, swatch, row.colour)
    pen.write((x + swatch + gap, middle), name, unit, INK if row.colour else SOFT, "lm")
    if row.colour is None:
        pen.write((x + column, middle), row.share, unit, SOFT, "rm")
    else:
        pen.write((x + column, middle), row.score, unit, SOFT, "rm")
        pen.write((x + column - score - gap, middle), row.share, unit, INK, "rm")


def _percent(share: float) -> str:
    """A share of the picture in at most five signs."""
    if share < 0.0005:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.9995 else "100 %"


__all__ = ["Row", "legend_rows", "with_legend"]
