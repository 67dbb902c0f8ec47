"""Variants that the authors published beside their methods: ablations and other settings, by names of their own.

They run like any row (`ovseg.dense_tokens(tower, pixels, "sclip-drop")`) and stand apart from `LAST_BLOCKS` so that the
table of methods stays a table of methods. "drop" and "keep" are about the residual and the MLP of the last block.

Sources: as the rows that they vary; the drop and keep forms are options of mc-lan/ClearCLIP@ad68a40 and
sinahmr/NACLIP@0cac3a6.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ovseg.clip.methods import layers, likeness, mended, streams, value
from ovseg.clip.program import KK, QK, QQ, VV, Group, LastBlock, Repair, Term

_NACLIP, _RESCLIP = likeness.ROWS["naclip"], layers.ROWS["resclip"]
_MIDDLE = _RESCLIP.groups[1]

ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "vanilla-drop": replace(value.ROWS["vanilla"], residual=False, mlp=False),
        "sclip-drop": replace(likeness.ROWS["sclip"], residual=False, mlp=False),
        "clearclip-keep": replace(likeness.ROWS["clearclip"], residual=True, mlp=True),
        "clearclip-last2": replace(likeness.ROWS["clearclip"], dual=2),
        "naclip-keep": replace(_NACLIP, residual=True, mlp=True),
        "naclip-std1": replace(_NACLIP, groups=(Group((KK, Term("gauss", std=1.0))),)),
        "kk": replace(_NACLIP, groups=(Group((KK,)),)),
        "nonly": replace(_NACLIP, groups=(Group((Term("gauss", std=5.0, scale="norms"),)),)),
        "cliper-vv": replace(layers.ROWS["cliper"], groups=(Group((VV,)),)),
        "itaclip-qk": replace(
            layers.ROWS["itaclip"],
            groups=(Group((QK,), weight=0.5), Group((QK,), weight=0.5, layers=layers.ITACLIP_BLOCKS)),
        ),
        "gem-iter2-depth5": streams.gem(2, "norm", 4),
        "gem-temp4": streams.gem(1, 4.0, 6),
        "resclip-rcs-clearclip": replace(_RESCLIP, groups=(Group((QQ,), weight=1.4), _MIDDLE)),
        "resclip-rcs-sclip": replace(
            _RESCLIP, groups=(Group((QQ,), weight=1.4), Group((KK,), weight=1.4), _MIDDLE), residual=True, mlp=True
        ),
        "sfp-norm": replace(mended.ROWS["sfp"], repair=Repair("norm", 10, lonely="zero")),
    }
)


__all__ = ["ROWS"]
