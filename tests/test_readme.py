"""README's `python` blocks run in order, in one namespace, on the bundled model; its shell lines name real commands."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    space: dict[str, object] = {}
    assert blocks("python")
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), space)


def test_shell_lines_are_commands_that_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovseg.cli import app

    seen = 0
    for code in blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if not words or not words[0].endswith("ovseg"):
                    continue
                context = app.make_context("ovseg", words[1:2])
                name, command, rest = app.resolve_command(context, words[1:])
                assert command is not None, line
                command.make_context(name, list(rest))
                seen += 1
    assert seen >= 5


def test_every_method_stands_in_the_chooser() -> None:
    from ovseg.clip.methods import LAST_BLOCKS, PICTURES

    section = (ROOT / "README.md").read_text("utf-8").split("## Methods")[1].split("## Models")[0]
    named = {name for span in re.findall(r"`([a-z0-9 -]+)`", section) for name in span.split()}
    assert {*LAST_BLOCKS, *PICTURES} - named == set()
