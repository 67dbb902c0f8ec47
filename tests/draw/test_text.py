import pytest

from ovseg.draw.text import clean


@pytest.mark.usefixtures("pillows_own_font_alone")
def test_signs_that_no_font_has_lose_their_accents_or_become_boxes() -> None:
    assert "cafe au lait □□ ok" == clean("café  au\nlait 猫\x07 ok")
