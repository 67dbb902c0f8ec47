from collections.abc import Iterator

import pytest

from ovseg.draw import text


@pytest.fixture
def pillows_own_font_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a system font."""
    monkeypatch.setattr(text, "_families", lambda: ("",))
    text.clean.cache_clear()
    text._family_for.cache_clear()
    yield
    text.clean.cache_clear()
    text._family_for.cache_clear()
