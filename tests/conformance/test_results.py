"""Rows of a report: verdicts, and how they are put together."""

import json
import math

import pytest

from ovseg.conformance import Result, by_method, failed, verdict_of
from ovseg.errors import UnknownName


def row(verdict: str, method: str = "naclip") -> Result:
    return Result("tiny", method, "batch", verdict, 0.5, 1e-5)


def test_unknown_verdict_is_refused() -> None:
    with pytest.raises(UnknownName, match="verdict must be one of"):
        row("fine")


@pytest.mark.parametrize(
    ("several", "one"),
    [
        (["ok", "failed", "refused"], "failed"),
        (["ok", "not covered"], "ok"),
        (["refused"], "refused"),
        (["not covered"], "not covered"),
        ([], "not covered"),
    ],
)
def test_one_word_for_several_checks(several: list[str], one: str) -> None:
    assert verdict_of([row(verdict) for verdict in several]) == one


def test_only_failures_are_failed_and_methods_keep_their_order() -> None:
    results = [row("ok", "b"), row("failed", "a"), row("refused", "b")]
    assert failed(results) == [results[1]]
    assert by_method(results) == {("tiny", "b"): [results[0], results[2]], ("tiny", "a"): [results[1]]}


def test_what_has_no_number_is_null_in_json() -> None:
    line = json.dumps(Result("tiny", "sclip", "walk", "refused", sentence="why").to_dict(), allow_nan=False)
    assert json.loads(line)["measured"] is None and json.loads(line)["sentence"] == "why"
    assert Result("tiny", "sclip", "shape", "failed", math.inf).to_dict()["measured"] is None
