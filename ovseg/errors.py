"""Every error that ovseg raises on purpose, each with the exit code that the command line ends with.

A message is one sentence for the person at the keyboard: what was needed, what came, what to do.

    OvsegError            1   the root: `except ovseg.OvsegError` catches all of ours
    +- BadInput           1   a picture or an array that cannot be used; other pictures go on
    +- BadUsage           2   the call itself is wrong: an empty list of names, an option that contradicts another
    |  +- UnknownName     2   a model, method, proposer ... that no table has; the known ones are listed
    |  +- UnsupportedTower 2  a network of a family that this method cannot walk
    |  +- MissingExtra    2   an optional package is not installed
    |  +- MissingDevice   2   the device asked for is not here
    +- WeightsError       3   anything about weight files
       +- MissingWeights  3   they are not on this machine
       +- BadWeights      3   they are here, but are not what they should be
"""

import difflib
from collections.abc import Iterable


class OvsegError(Exception):
    """Root of all errors that ovseg raises on purpose."""

    exit_code = 1


class BadInput(OvsegError, ValueError):
    """A picture or an array that cannot be used; the other pictures of a call go on."""


class BadUsage(OvsegError, ValueError):
    """The call itself is wrong, whatever the picture."""

    exit_code = 2


class UnknownName(BadUsage, LookupError):
    """A name that a table does not have.

    >>> raise UnknownName.of("encoder", "mask_pool", ["crop", "mask-pool"])
    Traceback (most recent call last):
    ...
    ovseg.errors.UnknownName: encoder must be one of crop, mask-pool: got 'mask_pool'. Did you mean 'mask-pool'?
    """

    @classmethod
    def of(cls, what: str, came: str, known: Iterable[str]) -> "UnknownName":
        """The error for `came` where one of `known` was needed, with the nearest known name as a hint."""
        folded = {name.casefold(): name for name in sorted(known)}
        near = [folded[name] for name in difflib.get_close_matches(came.casefold(), folded, n=5, cutoff=0.6)]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        shown = list(folded.values()) if len(folded) <= 24 else [*sorted(near), f"... ({len(folded)} in all)"]
        return cls(f"{what} must be one of {', '.join(shown)}: got {came!r}.{hint}")


class UnsupportedTower(BadUsage):
    """A network of a family that the method asked for cannot walk."""


class MissingExtra(BadUsage, ImportError):
    """An optional package is not installed; the message holds the one line that installs it."""


class MissingDevice(BadUsage, RuntimeError):
    """The device asked for is not on this machine; ovseg never falls back to another."""


class WeightsError(OvsegError):
    """Anything about weight files."""

    exit_code = 3


class MissingWeights(WeightsError, FileNotFoundError):
    """The weights are not on this machine; the message says where they were sought and how to get them."""


class BadWeights(WeightsError, ValueError):
    """The weights are here but are not what they should be: digest, keys, shapes, format."""


__all__ = [
    "BadInput",
    "BadUsage",
    "BadWeights",
    "MissingDevice",
    "MissingExtra",
    "MissingWeights",
    "OvsegError",
    "UnknownName",
    "UnsupportedTower",
    "WeightsError",
]
