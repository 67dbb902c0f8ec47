"""What a result remembers of the choices that made it."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class RecipeLike(Protocol):
    """What a result remembers of the choices that made it (`ovseg.Recipe`)."""

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any choice changes."""

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers only, ready for JSON."""


__all__ = ["RecipeLike"]
