"""Guided: another network's map says which cells belong together; the answer lies on that map's grid.

    proxyclip   s(cut 3 (G - 1.2 mean G)), the same for all heads; no image token, neither residual nor MLP

G is the cosine between the guide's cells. The values go bilinear to the guide's grid; since attention is linear in
them, the attention is brought to the value's grid instead, which is the same and has fewer columns. The mean is taken
per picture (the released program takes it over the batch, which is the same at batch one: `compat=True`). A cell that
is linked to nothing, not even to itself, keeps its own value.

`trident`, `corrclip` and `cass` need more than one map (windows and SAM's attention; regions; keys by head): they stand
in `pictures`.

When to use. When the guide's weights are at hand (DINO ViT-B/8 or B/16, DINOv2 with registers): the largest gain that
any single step brings, and outlines at the guide's finer grid. Cost: the guide's own pass, about that of a ViT-B at
twice the tokens, and an (N x N) matrix on its grid.

Source: ProxyCLIP (arXiv:2408.04883), mc-lan/ProxyCLIP@e7b767f, which names rows and columns the wrong way round off the
square; ours does not.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import Group, LastBlock, Term

ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "proxyclip": LastBlock(
            (Group((Term("guide", scale=3.0, shift=1.2, cut=True),)),),
            cls=False,
            residual=False,
            mlp=False,
            positions="scale01",
            source="mc-lan/ProxyCLIP@e7b767f",
        ),
    }
)


__all__ = ["ROWS"]
