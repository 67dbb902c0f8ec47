"""open_clip's own VisionTransformer: which of them `walk.Vit` walks.

OpenAI, LAION, DataComp, MetaCLIP and DFN have an image token; CLIPA pools the mean of its patches. CoCa's attentional
pooler gives tokens of another width and number than the patches, so there is nothing to read patch by patch.
"""

from torch import nn

from ovseg.clip.walk import Tower, Vit

PARTS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
BLOCK_PARTS = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")


def belongs(tower: Tower) -> bool:
    """Whether this is a transformer of open_clip's making, whole or not."""
    return getattr(tower, "transformer", None) is not None and not hasattr(tower, "trunk")


def lacks(tower: Tower) -> str:
    """Empty where `Vit` is right; else what this tower is or lacks."""
    missing = [name for name in PARTS if getattr(tower, name, None) is None]
    if missing:
        return f"it has no {', '.join(missing)}"
    if getattr(tower, "attn_pool", None) is not None:
        return "it pools by a head of another width (CoCa)"
    if getattr(tower, "pool_type", "tok") not in ("tok", "avg"):
        return f"it pools by {tower.pool_type!r} and not by its image token or the mean of its patches"
    if not getattr(tower.transformer, "batch_first", True):
        return "it runs with the batch second"
    for block in tower.transformer.resblocks:
        lacking = [name for name in BLOCK_PARTS if not hasattr(block, name)]
        if lacking:
            return f"its blocks have no {', '.join(lacking)}"
        if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
            return f"its attention is {type(block.attn).__name__} and not one packed nn.MultiheadAttention"
    return ""


def walk(tower: Tower) -> Vit:
    """The walk of such a tower."""
    return Vit(tower)


__all__ = ["BLOCK_PARTS", "PARTS", "belongs", "lacks", "walk"]
