from pathlib import Path

from ovseg import errors
from ovseg.errors import OvsegError, UnknownName


def test_every_error_is_ours_and_has_the_documented_exit_code() -> None:
    tree = {name: code for name, code in map(_row, _drawn())}
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, OvsegError)
        assert kind.exit_code == tree[name], name
    assert set(tree) == set(errors.__all__)


def _drawn() -> list[str]:
    return [
        line for line in Path(errors.__file__).read_text("utf-8").split('"""')[1].splitlines() if "  " in line.strip()
    ]


def _row(line: str) -> tuple[str, int]:
    name, code = line.strip(" +-|").split()[:2]
    return name, int(code)


def test_short_tables_are_listed_and_long_ones_are_not() -> None:
    assert str(UnknownName.of("fruit", "aple", ["pear", "apple"])) == (
        "fruit must be one of apple, pear: got 'aple'. Did you mean 'apple'?"
    )
    many = str(UnknownName.of("number", "x", map(str, range(100))))
    assert "... (100 in all)" in many and len(many) < 100


def test_ours_can_be_caught_as_pythons_own() -> None:
    assert issubclass(errors.BadInput, ValueError)
    assert issubclass(errors.UnknownName, LookupError)
    assert issubclass(errors.MissingWeights, FileNotFoundError)
    assert issubclass(errors.MissingExtra, ImportError)
