"""Methods of whole pictures: no row of `LAST_BLOCKS` can hold them, and a recipe names them all the same.

    itaclip-views  u(f), u(f of grey), u(f of blurred) and two flipped readings, blended; five passes, no other need
    cass           heads borrow the low-rank graphs of the guide's heads; paper: --guide dino-b8-k
    corrclip       regions decide who may look at whom, the guide how much; paper: --guide dino-b8-qk, SAM's masks
    trident        windows guided as in proxyclip, joined, then mixed as SAM attends; paper: --guide dino-b16 and SAM

Their formulas are in `ovseg.clip.plugins` (`itaclip`, `cass`, `corrclip`, `trident`), which is held against the
released programs; `ovseg.clip.pictures` lays pictures out for them. They run in torch, in the network's precision. Any
number of words is asked of what they give. ResCLIP's feedback is not here: its second pass depends on the words, so it
stays a function (`ovseg.clip.plugins.resclip`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ovseg.errors import BadUsage, UnknownName

NEEDS: Mapping[str, str] = MappingProxyType(
    {"guide": "a guide (another network)", "parts": "regions (a proposer)", "sam": "a SAM"}
)


@dataclass(frozen=True)
class PictureMethod:
    """What a method of whole pictures gives, what it needs (names of `NEEDS`) and its options with their defaults.

    An option whose default is None is a number or None.
    """

    what: str
    needs: tuple[str, ...] = ()
    options: Mapping[str, float | bool | None] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("fast", "paper")
    source: str = ""

    def __post_init__(self) -> None:
        for need in self.needs:
            if need not in NEEDS:
                raise UnknownName.of("need of a method", need, NEEDS)

    @property
    def wants(self) -> str:
        """Its needs in words."""
        return " and ".join(NEEDS[need] for need in self.needs) or "nothing besides"


PICTURES: Mapping[str, PictureMethod] = MappingProxyType(
    {
        "itaclip-views": PictureMethod(
            "vectors averaged over grey, blurred and flipped views",
            options={"keep": 0.75},
            source="m-arda-aydn/ITACLIP@521a33c",
        ),
        "cass": PictureMethod(
            "vectors by borrowed head graphs",
            needs=("guide",),
            options={"stretch": True, "energy": 0.95},
            source="MICV-yonsei/CASS@228ecdd",
        ),
        "corrclip": PictureMethod(
            "vectors on the guide's grid, regions apart",
            needs=("guide", "parts"),
            options={"spatial": 1.0, "semantic": 0.5, "merge": 0.2},
            source="zdk258/CorrCLIP@103bc18",
        ),
        "trident": PictureMethod(
            "vectors on SAM's grid",
            needs=("guide", "sam"),
            options={"factor": 1.2, "negative": None},
            protocols=("fast",),
            source="YuHengsss/Trident@a93b346",
        ),
    }
)


def options_of(method: str, given: Mapping[str, Any]) -> dict[str, float | bool | None]:
    """All options of a method by its key, those that are given in place of its defaults; a row has none.

    >>> options_of("trident", {"factor": 3})
    {'factor': 3.0, 'negative': None}
    """
    usual = PICTURES[method].options if method in PICTURES else {}
    out = dict(usual)
    for name, value in given.items():
        if name not in usual:
            if not usual:
                raise BadUsage(f"method {method} has no options: got {name}={value!r}")
            raise UnknownName.of(f"option of method {method}", name, usual)
        yes_or_no = isinstance(usual[name], bool)
        if isinstance(value, bool) != yes_or_no or not isinstance(value, bool | int | float | None):
            kind = "true or false" if yes_or_no else "a number"
            raise BadUsage(f"{name} of method {method} is {kind}: got {value!r}")
        if value is None and usual[name] is not None:
            raise BadUsage(f"{name} of method {method} is a number: got None")
        out[name] = value if value is None or yes_or_no else float(value)
    return out


__all__ = ["NEEDS", "PICTURES", "PictureMethod", "options_of"]
