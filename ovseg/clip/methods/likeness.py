"""Self-likeness: each patch gathers the patches that are like it, by queries, keys or values.

s is the softmax over keys of a b / sqrt(head width); `(+)` is a sum after the softmax; w5 a Gaussian of the distance
between patches, standard deviation 5 patches, peak 1, zero to and from the image token.

    sclip       s(qq) (+) s(kk)              residual and MLP kept
    clearclip   s(qq)                        neither
    naclip      s(kk + w5)                   neither
    segearth    s(qq) (+) s(kk) (+) s(vv)    neither; minus 0.3 times the cosine of the changed block's image token
    cliptrase   s(qq) (+) s(kk) (+) s(vv)    both kept; its clusters are a stage (`stages`)
    pearl       s(q (k R)T + 0.08 kc kcT)    neither; R turns keys onto queries, five Newton-Schulz steps
    pearl-svd   the same with an exact R: another method, for comparison

Defaults are the authors'. SCLIP's S is 336 px with windows 224/112, NACLIP's the same, ClearCLIP's 448/224, SegEarth's
448 with windows 224/112 and scale 50.

When to use. `naclip` is the safe first choice with any CLIP ViT and no second network: nearness keeps a name from
jumping across the picture. `clearclip` where things repeat far apart. `sclip` and `cliptrase` keep the residual: better
than vanilla, behind the reduced ones. `segearth` for pictures from above, where the image token's scene colours all
patches. `pearl` where queries and keys of a tower disagree; it costs a d x d product a head more.

Sources: SCLIP (arXiv:2312.01597), wangf3014/SCLIP@b56bd30; ClearCLIP (arXiv:2407.12442), mc-lan/ClearCLIP@ad68a40;
NACLIP (arXiv:2404.08181), sinahmr/NACLIP@0cac3a6; SegEarth-OV (arXiv:2410.01768), likyoo/SegEarth-OV@3e22a96; CLIPtrase
(arXiv:2407.08268), leaves162/CLIPtrase@2b7de61; PEARL, PGSmall/PEARL@c26062b.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ovseg.clip.program import KK, NEAR, QQ, VV, Group, LastBlock, Term

THREE = (Group((QQ,)), Group((KK,)), Group((VV,)))


def _pearl(align: str) -> LastBlock:
    terms = (Term("qk", align=align), Term("kk", weight=0.08, centre=True))
    return LastBlock((Group(terms),), residual=False, mlp=False, positions="scale01", source="PGSmall/PEARL@c26062b")


ROWS: Mapping[str, LastBlock] = MappingProxyType(
    {
        "sclip": LastBlock((Group((QQ,)), Group((KK,))), positions="scale01", source="wangf3014/SCLIP@b56bd30"),
        "clearclip": LastBlock(
            (Group((QQ,)),), residual=False, mlp=False, positions="scale01", source="mc-lan/ClearCLIP@ad68a40"
        ),
        "naclip": LastBlock(
            (Group((KK, NEAR)),), residual=False, mlp=False, positions="scale01", source="sinahmr/NACLIP@0cac3a6"
        ),
        "segearth": LastBlock(
            THREE,
            residual=False,
            mlp=False,
            cls_logits=-0.3,
            positions="scale01",
            source="likyoo/SegEarth-OV@3e22a96",
        ),
        "cliptrase": LastBlock(THREE, positions="scale01", source="leaves162/CLIPtrase@2b7de61"),
        "pearl": _pearl("polar5"),
        "pearl-svd": _pearl("svd"),
    }
)


__all__ = ["ROWS"]
