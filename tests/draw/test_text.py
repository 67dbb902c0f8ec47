import unicodedata

import pytest

from ovseg.draw import text
from ovseg.draw.text import altered, clean


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_signs_that_no_font_has_lose_their_accents_or_become_boxes() -> None:
    assert "cafe au lait □□ ok" == clean("café  au\nlait 猫\x07 ok")


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_every_european_language_in_latin_letters_stays_legible_without_system_fonts() -> None:
    written = {
        "Straße, Käse": "Strasse, Kase",
        "smørbrød æble": "smorbrod aeble",
        "łódź żółw": "lodz zolw",
        "œuf à la française": "oeuf a la francaise",
        "İstanbul ışık ğ": "Istanbul isik g",
        "þorskur í ðö": "thorskur i do",
        "đak čšž": "dak csz",
        "őrült ťažký ģints ėjo": "orult tazky gints ejo",
        "ħobż niño ½ m² – ×": "hobz nino 1⁄2 m2 - x",
    }
    assert list(written.values()) == [clean(name) for name in written]


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_marks_and_turns_of_direction_that_no_font_has_leave_no_box() -> None:
    assert ["cafe", "ok", "qx"] == [clean(name) for name in ("cafe\u0301", "o\u202ek", "q\u0323x")]


def test_a_letter_and_its_accent_apart_are_drawn_as_one_sign() -> None:
    assert clean("égaré") == clean(unicodedata.normalize("NFD", "égaré"))


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_a_cut_or_white_space_is_no_alteration_and_a_lost_accent_is() -> None:
    names = ["cat", "two\n lines", "x" * 9000, "", "cafe…", "café", "猫"]
    assert [False] * 5 + [True] * 2 == [altered(name) for name in names]


def test_a_name_is_drawn_in_one_font_so_signs_of_another_are_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = {"": "abc", "one": "abcäöü", "two": "äж"}
    monkeypatch.setattr(text, "_families", lambda: tuple(signs))
    monkeypatch.setattr(text, "_has", lambda family, sign: sign in signs[family])
    text.clean.cache_clear()
    text._family_for.cache_clear()
    try:
        assert ["abc", "aäö", "aäöü□", "äж"] == [clean(name) for name in ("abc", "aäö", "aäöüж", "äж")]
        assert ["", "one", "one", "two"] == [text._family_for(name) for name in ("abc", "aäö", "aäöüж", "äж")]
    finally:
        text.clean.cache_clear()
        text._family_for.cache_clear()
