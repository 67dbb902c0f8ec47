"""Second stream: the last blocks also feed a stream of their own, which takes no MLP.

U starts as what enters block L - 5. In each of the last 6 blocks U <- U + Wo A v, with q, k, v of LN1 of the *ordinary*
stream, which runs on unchanged. A is

    clip-surgery   s(vv)
    gem            1/3 each of s(t u(qq)), s(t u(kk)), s(t u(vv)): u makes rows length 1, once more after one round
                   x <- u(s(t x xT) x); t = mean |LN1 x| / sqrt(head width), taken per picture

"Depth 7" in GEM's program means 6 blocks. Both count from the end: the 6 do not scale with the depth of a tower.

When to use. Heat maps of a phrase, one at a time, which they are made for (feature surgery is a stage); they keep a
residual and so a common part that all names share. Cost: six attentions more, still one pass of the tower.

Sources: CLIP Surgery (arXiv:2304.05653), xmed-lab/CLIP_Surgery@d4696d4, which writes the position embedding and gets
worse with every new picture size (ours does not); GEM (arXiv:2312.00878), WalBouss/GEM@5fa677c, 448 px square, prompt
"a photo of a {}.".
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import VV, Group, LastBlock, Term


def gem(rounds: int, scale: float | str, blocks: int) -> LastBlock:
    """GEM's row with `rounds` of self-likeness, an inverse temperature ("norm" is its own), in the last `blocks`."""
    groups = tuple(
        Group((Term(source, scale=scale, unit=True, rounds=rounds),), weight=1 / 3) for source in ("qq", "kk", "vv")
    )
    return LastBlock(groups, mlp=False, dual=blocks, positions="antialias", source="WalBouss/GEM@5fa677c")


ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "clip-surgery": LastBlock(
            (Group((VV,)),), mlp=False, dual=6, positions="bilinear", source="xmed-lab/CLIP_Surgery@d4696d4"
        ),
        "gem": gem(1, "norm", 6),
    }
)


__all__ = ["ROWS", "gem"]
