"""`ovseg check --towers`, `--methods`, `--proposers`, `--encoders`: what each can do.

With `--methods` also whether every method does what it should. Tables for people (80 columns), Markdown, or JSON
lines; what they say is computed in `conformance`.
"""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ovseg.cli.talk import Talk
from ovseg.errors import UnsupportedTower

if TYPE_CHECKING:
    from ovseg.clip.tower import Capabilities
    from ovseg.conformance import Result

PICTURES = ("native", "wide", "tall")
NO_PARITY = (
    "no stored answers of the released programs are here, so no method was held against its own: "
    "give their folder as --golden DIR or in OVSEG_GOLDEN"
)
MARKS = {"ok": "ok", "refused": "-", "failed": "FAILED", "not covered": "?"}

Show = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


def asked_towers(models: Sequence[str], architectures: Sequence[str], all_kinds: bool) -> Iterator[tuple[str, Any]]:
    """Each tower by name, made when its turn comes: a narrow one of every kind, checkpoints, random ones."""
    from ovseg.clip.load import load
    from ovseg.conformance import STAND_INS, architecture, narrow

    for name in STAND_INS if all_kinds else ():
        yield f"narrow/{name}", narrow(name)
    for model in models:
        yield model, load(model).visual
    for name in architectures:
        yield f"random/{name}", architecture(name)


def models_here() -> list[str]:
    """Known models whose weights are on this machine."""
    from ovseg import weights
    from ovseg.clip.backbones import BACKBONES

    return [name for name, row in BACKBONES.items() if any(weights.find(file) for file in row.weights)]


def towers(asked: Iterable[tuple[str, Any]], form: str) -> None:
    """Family, blocks and patch of each tower, and which methods it refuses, with the sentence that says why."""
    from ovseg.clip.tower import probe

    found = []
    for name, tower in asked:
        can = probe(tower)
        found.append((name, can))
        if form == "json":
            click.echo(json.dumps({"tower": name, **_capabilities(can)}, ensure_ascii=False))
    if form == "json":
        return
    show = SHOWS[form]
    header = ("tower", "network", "blocks", "token", "patch", "methods")
    show("Towers", header, [_row_of(name, can) for name, can in found])
    _sentences("Refused", [(name, method, why) for name, can in found for method, why in can.refuses.items()], form)


def proposers(form: str) -> None:
    """Where regions may come from: what comes out, what it needs, which options it takes with which defaults."""
    from ovseg.proposals import PROPOSERS

    rows = []
    for name, row in PROPOSERS.items():
        needs = [what for what, asked in (("SAM", row.needs_sam), ("names", row.needs_names)) if asked]
        if form == "json":
            told = {"proposer": name, "what": row.what, "needs": needs, "options": dict(row.options)}
            click.echo(json.dumps({**told, "source": row.source}, ensure_ascii=False))
        rows.append((name, row.what, ", ".join(needs), row.source))
    if form != "json":
        SHOWS[form]("Proposers", ("proposer", "gives", "needs", "source"), rows)


def encoders(asked: Iterable[tuple[str, Any]], form: str) -> None:
    """How regions may get vectors: what a vector is, what it costs, and which of these networks it can read."""
    from ovseg.encoders import ENCODERS

    told = {name: _unread(tower) for name, tower in asked}
    rows = []
    for name, row in ENCODERS.items():
        reads = {tower: not why[name] for tower, why in told.items()}
        if form == "json":
            needs = ["network"] if row.needs_clip else []
            said = {"encoder": name, "what": row.what, "cost": row.cost, "needs": needs, "options": dict(row.options)}
            refuses = {tower: why[name] for tower, why in told.items() if why[name]}
            line = {**said, "source": row.source, "reads": reads, "refuses": refuses}
            click.echo(json.dumps(line, ensure_ascii=False))
        rows.append((name, row.what, row.cost, *("yes" if can else "-" for can in reads.values())))
    if form != "json":
        SHOWS[form]("Encoders", ("encoder", "a region's vector is", "costs beside the dense pass", *told), rows)
        _sentences("Refused", [(tower, name, why[name]) for tower, why in told.items() for name in why if why[name]],
                   form)  # fmt: skip


def methods(asked: Iterable[tuple[str, Any]], golden: str | None, form: str, talk: Talk) -> int:
    """Invariants on every tower, then parity where its data is; the number of checks that failed."""
    from ovseg.conformance import failed, folder, invariants, parity

    place, found, stored = folder(golden), [], []
    for name, tower in asked:
        with talk.progress(name) as told:
            results = invariants(tower, name=name, progress=told)
        found += results
        _lines(results, form)
    if place is not None:
        with talk.progress("parity") as told:
            stored = parity(place, progress=told)
        _lines(stored, form)
    elif form == "json":
        click.echo(json.dumps({"check": "parity", "verdict": "not covered", "sentence": NO_PARITY}))
    if form != "json":
        _invariants(found, form)
        if place is not None:
            _parity(stored, form)
        else:
            click.echo(textwrap.fill(f"Parity: {NO_PARITY}.", 80))
    everything = [*found, *stored]
    counts = {verdict: sum(result.verdict == verdict for result in everything) for verdict in MARKS}
    talk.say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return len(failed(everything))


def _invariants(results: list["Result"], form: str) -> None:
    """One tower: how near each method came to its limits. Several: methods by towers."""
    from ovseg.conformance import by_method, verdict_of

    grouped = by_method(results)
    names = list(dict.fromkeys(tower for tower, _ in grouped))
    show = SHOWS[form]
    if len(names) == 1:
        rows = [_checked(method, found) for (_, method), found in grouped.items()]
        show(f"Methods on {names[0]}", ("method", "result", "checks", "largest difference", "from vanilla"), rows)
    else:
        header = ("method", *(str(place) for place in range(1, len(names) + 1)))
        order = list(dict.fromkeys(method for _, method in grouped))
        rows = [(m, *(MARKS[verdict_of(grouped.get((tower, m), []))] for tower in names)) for m in order]
        show("Methods by towers (- refused)", header, rows)
        show("", ("", "tower"), [(str(place), name) for place, name in enumerate(names, 1)])
    for title, verdict in (("Failed", "failed"), ("Refused", "refused"), ("Not checked", "not covered")):
        told = [(r.tower, f"{r.method} {r.check}" if verdict == "failed" else r.method, r.sentence) for r in results
                if r.verdict == verdict]  # fmt: skip
        _sentences(title, told, form)


def _unread(tower: Any) -> Mapping[str, str]:
    """For each encoder why it cannot read this tower; empty where it can."""
    from ovseg.clip.families import find
    from ovseg.encoders import ENCODERS

    try:
        walk = find(tower)
    except UnsupportedTower as error:
        return dict.fromkeys(ENCODERS, str(error))
    return {name: row.refuses(walk) if row.refuses else "" for name, row in ENCODERS.items()}


def _checked(method: str, found: list["Result"]) -> Sequence[str]:
    from ovseg.conformance import number, verdict_of

    made = [result for result in found if result.verdict in ("ok", "failed")]
    apart = [result.measured for result in made if result.check == "distinct"]
    equal = [result for result in made if result.limit > 0 and result.check not in ("distinct", "place")]
    worst = max(equal, key=lambda result: result.measured / result.limit, default=None)
    passed = f"{sum(result.verdict == 'ok' for result in made)}/{len(made)}" if made else ""
    largest = "" if worst is None else f"{number(worst.measured)} {worst.check}"
    return method, MARKS[verdict_of(found)], passed, largest, number(apart[0]) if apart else ""


def _parity(results: list["Result"], form: str) -> None:
    """A row a program: largest difference on each picture, the worst of its extras, tolerance, verdict.

    Extras with a tolerance of their own that do not agree to the bit have a row of their own.
    """
    from ovseg.conformance import by_method, number, verdict_of

    rows: list[Sequence[str]] = []
    for (_, program), found in by_method(results).items():
        by_name = {result.check: result for result in found}
        limit = next((by_name[name].limit for name in PICTURES if name in by_name), found[0].limit)
        apart = [result for result in found if result.limit != limit and result.measured > 0]
        others = [result.measured for result in found if result.check not in PICTURES and result not in apart]
        others = [value for value in others if not math.isnan(value)]
        extras = f"{number(max(others))} ({len(others)})" if others else ""
        shown = [number(by_name[name].measured) if name in by_name else "" for name in PICTURES]
        rows.append((program, *shown, extras, number(limit), MARKS[verdict_of(found)]))
        for extra in dict.fromkeys(result.check.partition(".")[2] for result in apart):
            own = {result.check.partition(".")[0]: result for result in apart if result.check.endswith(f".{extra}")}
            shown = [number(own[name].measured) if name in own else "" for name in PICTURES]
            limit = next(iter(own.values())).limit
            rows.append((f"{program}.{extra}", *shown, "", number(limit), MARKS[verdict_of(list(own.values()))]))
    header = ("program", *PICTURES, "extras (of)", "allowed", "result")
    SHOWS[form]("Largest absolute difference from the released programs", header, rows)
    _sentences("Failed", [(r.method, r.check, r.sentence) for r in results if r.verdict == "failed"], form)
    _sentences("Not covered", [(r.method, r.check, r.sentence) for r in results if r.verdict == "not covered"], form)


def _sentences(title: str, told: Sequence[tuple[str, str, str]], form: str) -> None:
    """Sentences, each once, with whom it is about: (owner, what, sentence)."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for owner, what, sentence in told:
        grouped.setdefault((sentence, owner), []).append(what)
    together: dict[tuple[str, str], list[str]] = {}
    for (sentence, owner), whats in grouped.items():
        together.setdefault((sentence, ", ".join(dict.fromkeys(whats))), []).append(owner)
    rows = [(", ".join(owners), whats, sentence) for (sentence, whats), owners in together.items()]
    if rows:
        SHOWS[form](title, ("where", "what", "why"), rows)


def _row_of(name: str, can: "Capabilities") -> Sequence[str]:
    from ovseg.clip.methods import LAST_BLOCKS

    if not can.dim:
        return name, can.family, "", "", "", "0"
    patch = f"{can.patch[0]}x{can.patch[1]}"
    count = f"{len(LAST_BLOCKS) - len(can.refuses)} of {len(LAST_BLOCKS)}"
    return name, can.family.removeprefix("TimmModel/"), str(can.depth), "yes" if can.own else "no", patch, count


def _capabilities(can: "Capabilities") -> dict[str, Any]:
    from dataclasses import asdict

    from ovseg.clip.methods import LAST_BLOCKS

    return {**asdict(can), "methods": [name for name in LAST_BLOCKS if name not in can.refuses]}


def _lines(results: Iterable["Result"], form: str) -> None:
    for result in results if form == "json" else ():
        click.echo(json.dumps(result.to_dict(), ensure_ascii=False))


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=None, title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold", header_style="underline")
    for row in rows:
        table.add_row(*(Text(cell, style="bold red" if cell == MARKS["failed"] else "") for cell in row))
    console = Console(highlight=False)
    console.print(table)
    console.print()


def _markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from ovseg.conformance import markdown

    click.echo((f"**{title}**\n\n" if title else "") + markdown(header, rows) + "\n")


SHOWS: Mapping[str, Show] = {"table": _table, "markdown": _markdown}


__all__ = [
    "MARKS",
    "NO_PARITY",
    "PICTURES",
    "SHOWS",
    "Show",
    "asked_towers",
    "encoders",
    "methods",
    "models_here",
    "proposers",
    "towers",
]
