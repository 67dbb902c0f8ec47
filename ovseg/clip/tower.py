"""Walking a vision tower that somebody else built: what family it is, and the tokens that enter its last block.

Only upstream's own modules are called, in upstream's order: no module is replaced, no hook is left, no parameter is
written. The names that are read are pinned by a test: `conv1 class_embedding positional_embedding ln_pre
transformer.resblocks ln_post proj patch_size`, and in a block `ln_1 attn ls_1 ln_2 mlp ls_2`.

The tokens that enter the last block are worth keeping: another method on the same picture costs one block more.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ovseg.clip.attention import LAST_BLOCKS, LastBlock, last_block, run_block
from ovseg.errors import BadInput, UnknownName, UnsupportedTower

Tower: TypeAlias = Any  # an nn.Module of upstream's, whose parts are read by the names above

POSITIONS = ("bicubic", "scale01", "antialias", "bilinear")


@dataclass(frozen=True)
class Capabilities:
    """What `probe` found: `refuses` maps a method to the sentence that says why this tower cannot do it."""

    family: str
    depth: int
    heads: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    dim: int
    refuses: dict[str, str]


def probe(tower: Tower) -> Capabilities:
    """Family and sizes of a vision tower, read from the module itself, never from a name.

    Every method that the tower cannot do is in `refuses` with a sentence; `ovseg check` prints them.
    """
    why = _why_not_standard(tower)
    if why:
        sentence = (
            f"{why}; ovseg walks the standard ViT towers of open_clip (image token, learned positions, `proj`: OpenAI, "
            "LAION, DataComp, MetaCLIP and DFN weights of ViT-B, L, H, g)"
        )
        family = type(getattr(tower, "trunk", tower)).__name__
        return Capabilities(family, 0, 0, (0, 0), (0, 0), 0, dict.fromkeys(LAST_BLOCKS, sentence))
    blocks, patch = tower.transformer.resblocks, _pair(tower.patch_size)
    grid = _pair(tower.grid_size)
    return Capabilities(
        "VisionTransformer", len(blocks), blocks[-1].attn.num_heads, grid, patch, int(tower.proj.shape[1]), {}
    )


def check(tower: Tower, method: str) -> None:
    """Nothing, or `UnsupportedTower` with the sentence that says what is supported."""
    row = next((name for name, value in LAST_BLOCKS.items() if value is last_block(method)), method)
    refusal = probe(tower).refuses.get(row)
    if refusal:
        raise UnsupportedTower(f"method {row} cannot read this tower: {refusal}.")


def prefix(
    tower: Tower, pixels: Float[Tensor, "b 3 height width"], positions: str = "bicubic"
) -> Float[Tensor, "b n embed"]:
    """The tokens that enter the last block; token 0 is the image's own, the rest are patches in reading order.

    Sizes that are no multiple of the patch lose the rest, as in the convolution itself; `dense` never gives such.
    """
    grid = grid_of(tower, pixels)
    patches = tower.conv1(pixels.to(tower.conv1.weight.dtype)).flatten(2).mT  # (b, rows*cols, width)
    own = tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens: Tensor = torch.cat([own, patches], dim=1) + position_embedding(tower, grid, positions).to(patches.dtype)
    tokens = tower.ln_pre(tokens)
    for block in tower.transformer.resblocks[:-1]:
        tokens = block(tokens)
    return tokens


def finish(
    tower: Tower, tokens: Float[Tensor, "b n embed"], row: LastBlock, grid: tuple[int, int]
) -> Float[Tensor, "b n dim"]:
    """All tokens after the last block as the row reads it, the tower's last norm and its projection; not normalised."""
    return _project(tower, run_block(tower.transformer.resblocks[-1], tokens, row, grid))


def dense_tokens(
    tower: Tower,
    pixels: Tensor,
    method: str = "maskclip-reduced",
    *,
    positions: str = "bicubic",
) -> Float[Tensor, "b rows cols dim"]:
    """One vector a patch, projected into the space of the texts, not normalised.

    `tower` is an open_clip vision tower (or a model that has one as `.visual`); `pixels` are normalised with the
    tower's own mean and standard deviation. Works under any grad mode, so a gradient can flow where a caller wants
    one. Raises `UnknownName` for a method that no row has, `UnsupportedTower` for a tower that cannot be walked.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point() or not len(pixels):
        raise BadInput(
            "pixels must be (batch, 3, height, width) and normalised floats: got "
            f"{list(pixels.shape)} of {str(pixels.dtype).removeprefix('torch.')}"
        )
    visual = tower.visual if isinstance(getattr(tower, "visual", None), nn.Module) else tower
    check(visual, method)
    grid = grid_of(visual, pixels)
    tokens = finish(visual, prefix(visual, pixels, positions), last_block(method), grid)
    return tokens[:, 1:].reshape(len(tokens), *grid, -1)


def image_vector(tower: Tower, tokens: Float[Tensor, "b n embed"]) -> Float[Tensor, "b dim"]:
    """The tower's own image embedding from the tokens that enter the last block: only the image token is finished."""
    block = tower.transformer.resblocks[-1]
    normed = block.ln_1(tokens)
    own = tokens[:, :1] + block.ls_1(block.attn(normed[:, :1], normed, normed, need_weights=False)[0])
    own = own + block.ls_2(block.mlp(block.ln_2(own)))
    return _project(tower, own)[:, 0]


def grid_of(tower: Tower, pixels: Float[Tensor, "b 3 height width"]) -> tuple[int, int]:
    """Token rows and columns that these pixels give."""
    (height, width), patch = pixels.shape[-2:], _pair(tower.patch_size)
    rows, cols = height // patch[0], width // patch[1]
    if not rows or not cols:
        raise BadInput(f"pixels must hold at least one patch of {patch[0]}x{patch[1]}: got {height}x{width}")
    return rows, cols


def position_embedding(tower: Tower, grid: tuple[int, int], mode: str = "bicubic") -> Float[Tensor, "n embed"]:
    """The tower's position embedding on another grid; the parameter itself on its own grid, bit by bit.

    Modes: "bicubic" to the exact size (default), "scale01" by the factor (n + 0.1) / side as in SCLIP's family,
    "antialias" bicubic with antialias (open_clip, GEM), "bilinear" (CLIPer, CLIP Surgery).
    """
    if mode not in POSITIONS:
        raise UnknownName.of("positions", mode, POSITIONS)
    stored: Tensor = tower.positional_embedding
    native = _pair(tower.grid_size)
    if grid == native:
        return stored
    field = stored[1:].float().mT.reshape(1, -1, *native)  # (1, width, rows, cols)
    if mode == "scale01":
        factor = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        moved = F.interpolate(field, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        kind = "bilinear" if mode == "bilinear" else "bicubic"
        moved = F.interpolate(field, size=grid, mode=kind, align_corners=False, antialias=mode == "antialias")
    return torch.cat([stored[:1], moved[0].flatten(1).mT.to(stored.dtype)])


def _project(tower: Tower, tokens: Tensor) -> Tensor:
    projected: Tensor = tower.ln_post(tokens) @ tower.proj
    return projected


def _why_not_standard(tower: Tower) -> str:
    """Empty where the standard walk is right; else what this tower is or lacks."""
    for name, family in (
        ("trunk", "this tower wraps timm's {} (SigLIP, EVA, ViTamin, MobileCLIP, ConvNeXt ...)"),
        ("layer4", "this tower is a ResNet with an attention pool ({})"),
    ):
        part = getattr(tower, name, None)
        if part is not None:
            return family.format(type(part if name == "trunk" else tower).__name__)
    needed = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    missing = [name for name in needed if getattr(tower, name, None) is None]
    if missing:
        return f"{type(tower).__name__} has no {', '.join(missing)}"
    if getattr(tower, "attn_pool", None) is not None:
        return "this tower pools by a head of another width (CoCa)"
    if getattr(tower, "pool_type", "tok") != "tok" or getattr(tower, "final_ln_after_pool", False):
        return "this tower pools the mean of its patches and not its image token (CLIPA)"
    if not getattr(tower.transformer, "batch_first", True):
        return "this tower runs with the batch second"
    block = tower.transformer.resblocks[-1]
    lacking = [name for name in ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2") if not hasattr(block, name)]
    if lacking:
        return f"its blocks have no {', '.join(lacking)}"
    if not isinstance(block.attn, nn.MultiheadAttention) or block.attn.in_proj_weight is None:
        return f"its attention is {type(block.attn).__name__} and not one packed nn.MultiheadAttention"
    return ""


def _pair(value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


__all__ = [
    "Capabilities",
    "POSITIONS",
    "Tower",
    "check",
    "dense_tokens",
    "finish",
    "grid_of",
    "image_vector",
    "position_embedding",
    "prefix",
    "probe",
]
