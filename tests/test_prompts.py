import json
from pathlib import Path

import pytest

from ovseg.errors import BadUsage, UnknownName
from ovseg.prompts import LONGEST_NAME, NEGATIVES, Words, negatives, read_option, read_words, templates

WANTED = Words(("cat", "dog"), (("cat",), ("dog", "puppy")))


@pytest.mark.parametrize(
    "source",
    [
        ["cat", {"dog": ["dog", "puppy"]}],
        {"cat": None, "dog": ["dog", "puppy"]},
        {"cat": "cat", "dog": {"phrases": ["dog", "puppy"]}},
        {"names": ["cat", {"dog": ["dog", "puppy"]}]},
        [" cat ", {"dog": ("dog", " puppy\n")}],
        WANTED,
    ],
)
def test_names_in_every_shape(source: object) -> None:
    assert read_words(source) == WANTED


def test_one_text_is_one_name_and_a_comma_stays() -> None:
    assert read_words("salt, pepper").names == ("salt, pepper",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.txt", "\ufeff# my names\ncat  # a comment\n\ndog = dog | puppy\n"),
        ("n.json", json.dumps(["cat", {"dog": ["dog", "puppy"]}])),
        ("n.yaml", "- cat\n- dog: [dog, puppy]\n"),
        ("my names.YML", "names: {cat: , dog: [dog, puppy]}\n"),
    ],
)
def test_names_from_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert read_words(tmp_path / name) == read_words(str(tmp_path / name)) == WANTED


def test_files_bring_thresholds_and_negatives(tmp_path: Path) -> None:
    file = tmp_path / "n.yaml"
    file.write_text("names:\n  bolt: {phrases: [hex bolt], threshold: 0.4}\nnegatives: [table]\n")
    words = read_words(file)
    assert words.phrases == (("hex bolt",),) and words.thresholds == {"bolt": 0.4} and words.negatives == ("table",)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ([], "at least one name is needed"),
        ({}, "at least one name is needed"),
        (["cat", " "], "is empty"),
        (["cat", "Cat"], "'cat' came"),
        ([{"cat": ["tom"]}, {"tom": ["tom"]}], "'tom' came under 'cat' and 'tom'"),
        ([{"cat": ["tom", "Tom"]}, "dog"], "'tom' came twice under 'cat'"),
        ([{"cat": []}], "'cat' has no phrase"),
        ([3], "must be a text: got 3"),
        ({"yes": True}, "must be a text or a list of texts: got bool"),
        (7, "names must be texts"),
        (["x" * (LONGEST_NAME + 1)], "characters: at most"),
        ({"cat": {"phrase": "x"}}, "may have phrases and threshold: got phrase"),
        ({"cat": {"threshold": 2}}, r"must be in \[0, 1\]: 'cat' has 2"),
        ("nowhere.yaml", "is not there: nowhere.yaml"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(source: object, sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        read_words(source)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    for name, raw in (("a.json", b"{"), ("a.yaml", b"a: [1"), ("a.txt", b"\xff\xfe\x00cat")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(BadUsage, match="a\\."):
            read_words(tmp_path / name)


def test_options_of_the_command_line() -> None:
    assert read_option("cat") == "cat"
    assert read_option("dog=dog|puppy|") == {"dog": ["dog", "puppy"]}
    with pytest.raises(BadUsage, match="has no phrase"):
        read_words([read_option("dog=")])
    with pytest.raises(BadUsage, match="is empty"):
        read_words([read_option("=puppy")])


def test_tables_of_words() -> None:
    assert len(NEGATIVES["voc26"]) == 26 and len(set(NEGATIVES["scene"])) == len(NEGATIVES["scene"])
    assert templates("bare") == ("{}",) and negatives("none") == ()
    with pytest.raises(UnknownName, match="Did you mean 'scene'"):
        negatives("scenes")
    with pytest.raises(UnknownName, match="templates must be one of"):
        templates("openai")
