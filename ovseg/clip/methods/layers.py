"""Other layers: the last block attends with the attention of blocks before it.

    itaclip   1/2 [s(qq) (+) s(kk)] of the last + 1/2 the mean over blocks 7, 8, 10 of the same; residual kept, no MLP
    resclip   1.4 s(kk + w5) (+) 0.6 times the mean over blocks 6 to 9 of s(qk); neither (the RCS half of the method;
              the feedback half, SFR, needs the words and is `plugins.resclip`)
    cliper    the balanced sum over all earlier blocks of s(qk); neither. Balanced: columns and rows divided by their
              sums, once for every block of the tower, as the released program does in place; then symmetrised, minus
              the column mean, negatives 0, rows divided by their sums

Blocks count from 1 in a tower of 12 and scale with the depth: block b of L is floor(b L / 12 + 1/2), never the last; of
a range the ends scale. CLIPer's "all earlier" does not. `dense_tokens` gives CLIPer's last layer; its fusion over all
layers is `plugins.cliper`.

When to use. `resclip` where `naclip` is used and 5 % more time is fine: middle layers see where things are. `itaclip`
with its views and its text mixing (`plugins.itaclip`), for the last points. `cliper` needs no choice of layers and has
the most even maps, at an explicit (heads x tokens x tokens) sum.

Sources: ITACLIP (arXiv:2411.12044), m-arda-aydn/ITACLIP@521a33c; ResCLIP (arXiv:2411.15851),
yvhangyang/ResCLIP@0e085f7; CLIPer (arXiv:2411.13836), linsun449/cliper.code@c05fa41.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import EARLIER, KK, NEAR, QK, QQ, Group, LastBlock

ITACLIP_BLOCKS = (7, 8, 10)
RESCLIP_BLOCKS = range(6, 10)

ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "itaclip": LastBlock(
            (
                Group((QQ,), weight=0.5),
                Group((KK,), weight=0.5),
                Group((QQ,), weight=0.5, layers=ITACLIP_BLOCKS),
                Group((KK,), weight=0.5, layers=ITACLIP_BLOCKS),
            ),
            mlp=False,
            positions="scale01",
            source="m-arda-aydn/ITACLIP@521a33c",
        ),
        "resclip": LastBlock(
            (Group((KK, NEAR), weight=1.4), Group((QK,), weight=0.6, layers=RESCLIP_BLOCKS)),
            residual=False,
            mlp=False,
            positions="scale01",
            source="yvhangyang/ResCLIP@0e085f7",
        ),
        "cliper": LastBlock(
            (Group((QK,), normaliser="balance", layers=EARLIER),),
            residual=False,
            mlp=False,
            positions="bilinear",
            source="linsun449/cliper.code@c05fa41",
        ),
    }
)


__all__ = ["ROWS"]
