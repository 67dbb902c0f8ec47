"""What a check found: one row that a person reads and a machine counts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ovseg.errors import UnknownName

# "refused" and "not covered" are answers, not failures: each says why
VERDICTS = ("ok", "refused", "failed", "not covered")


@dataclass(frozen=True)
class Result:
    """One check of one method on one tower.

    `measured` stands against `limit`: NaN where nothing was measured. `sentence` says what holds, what is broken and
    where to look, why the tower refuses the method, or why the check was not made.
    """

    tower: str
    method: str
    check: str
    verdict: str
    measured: float = math.nan
    limit: float = math.nan
    sentence: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise UnknownName.of("verdict", self.verdict, VERDICTS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; null for what was not measured (JSON has no NaN)."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def failed(results: Iterable[Result]) -> list[Result]:
    """Those that ought to be mended."""
    return [result for result in results if result.verdict == "failed"]


def verdict_of(results: Sequence[Result]) -> str:
    """One word for several checks: failed if any failed, else ok if any was made, else refused or not covered."""
    seen = {result.verdict for result in results}
    return next((verdict for verdict in ("failed", "ok", "refused", "not covered") if verdict in seen), "not covered")


def by_method(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """(tower, method) to its results, in the order they came."""
    out: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        out.setdefault((result.tower, result.method), []).append(result)
    return out


def number(value: float) -> str:
    """A measured number in few signs; empty for none.

    >>> number(2.34e-06), number(0.0), number(math.nan), number(0.25)
    ('2.3e-06', '0', '', '0.25')
    """
    if math.isnan(value):
        return ""
    return "0" if value == 0 else f"{value:.2g}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(("a", "b"), [("1", "x|y")]))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    lines = [header, ["---"] * len(header), *rows]
    shown = ["|".join(["", *(_cell(cell, row is lines[1]) for cell in row), ""]) for row in lines]
    return "\n".join(shown)


def _cell(text: str, rule: bool) -> str:
    return text if rule else f" {text.replace('|', chr(92) + '|')} "


__all__ = ["Result", "VERDICTS", "by_method", "failed", "markdown", "number", "verdict_of"]
