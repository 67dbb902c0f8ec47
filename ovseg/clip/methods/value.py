"""The value path: what each patch says by itself.

    maskclip           y = x + Wo(Wv LN1 x + bv) + bo;  out = y + MLP(LN2 y)
    maskclip-reduced   out = Wo(Wv LN1 x + bv) + bo
    vanilla            the block as it was trained, softmax(q k): open_clip's own tokens

No token looks at any other, so an outline is as sharp as a patch and nothing smooths a wrong one.

When to use. `maskclip-reduced` costs least of all (no attention in the last block) and is the bundled model's method,
because that model was trained on its value path. `maskclip` keeps what the block adds to every token alike, which
drowns the local part in most towers: it is here because papers compare with it. `vanilla` is the baseline that the
others are there to beat: its patches describe the picture, not themselves.

Sources: CLIP (Radford et al. 2021, arXiv:2103.00020); MaskCLIP (Zhou et al. 2022, arXiv:2112.01071),
chongzhou96/MaskCLIP@245d31f, which also ran plain GELU and eps 1e-6 in its own configuration; the reduced form is
"MaskCLIP" in mc-lan/ClearCLIP@ad68a40 and in most later papers.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import IDENTITY, QK, Group, LastBlock

ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "vanilla": LastBlock((Group((QK,)),), source="CLIP (arXiv:2103.00020); equals open_clip's own forward"),
        "maskclip": LastBlock((IDENTITY,), source="chongzhou96/MaskCLIP@245d31f"),
        "maskclip-reduced": LastBlock(
            (IDENTITY,), residual=False, mlp=False, positions="scale01", source="mc-lan/ClearCLIP@ad68a40"
        ),
    }
)


__all__ = ["ROWS"]
