"""Mended tokens: outlier patches are repaired, tokens pooled with those alike, levels summed.

    sc-clip   1/2 s(cut 3 (S9 - mean S9)) (+) 1/2 s(kk)             outliers by local density, above the 95 % quantile
    sfp       1/3 each of s(cut 3 (S9' - mean S9')), s(qq), s(kk)   outliers by the image token's attention, at most 10

S_b is the cosine between the output patches of block b, S9' floored at 0.4 first; cut: what is negative becomes -inf.
In both: an outlier becomes the mean of its sound 3 x 3 neighbours; tokens entering the block become rows of S9 (floor
0.4) over their sum times tokens; no image token in the block, 0.3 times it is added afterwards; the result is pooled by
S4; a second pass over the sum of the outputs of blocks 4 to 10 is added (SFP: with the S9 group alone). S9 is taken of
mended tokens, S4 and the sum are not. Blocks scale with the depth.

SC-CLIP's score is the squared distance to the 30th neighbour times the mean over the neighbours of its inverse: not the
textbook local outlier factor. The released programs divide a flat index by rows where columns are meant; off the square
that repairs the wrong patches. Ours repairs the right ones.

When to use. Big pictures and big towers, whose register-like outliers shine through every other method. Cost: about one
more block, and an (N x N) matrix a picture.

Sources: SC-CLIP (arXiv:2411.15869), SuleBai/SC-CLIP@0417ba9; SFP (ICCV 2025), Kimsure/SFP@2804f5b.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import KK, QQ, Group, LastBlock, Pool, Repair, Term

ALIKE = Term("block", layer=9, scale=3.0, shift=1.0, cut=True)
ALIKE_FLOORED = Term("block", layer=9, scale=3.0, shift=1.0, cut=True, floor=0.4)
SUMMED = range(4, 11)

ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "sc-clip": LastBlock(
            (Group((ALIKE,), weight=0.5), Group((KK,), weight=0.5)),
            cls=False,
            residual=False,
            mlp=False,
            cls_add=0.3,
            repair=Repair("lof", 0.95),
            before=Pool(9),
            after=Pool(4),
            extra=SUMMED,
            positions="scale01",
            source="SuleBai/SC-CLIP@0417ba9",
        ),
        "sfp": LastBlock(
            tuple(Group((term,), weight=1 / 3) for term in (ALIKE_FLOORED, QQ, KK)),
            cls=False,
            residual=False,
            mlp=False,
            cls_add=0.3,
            repair=Repair("som", 10, lonely="zero"),
            before=Pool(9),
            after=Pool(4),
            extra=SUMMED,
            extra_groups=(Group((ALIKE_FLOORED,)),),
            positions="scale01",
            source="Kimsure/SFP@2804f5b",
        ),
    }
)


__all__ = ["ROWS"]
