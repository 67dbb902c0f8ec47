"""MaskCLIP's patches averaged over the patches they belong with, as two small learned convolutions see it.

The convolutions were taught to imitate DINO from CLIP's own middle tokens, so that no second network runs. With M the
patch tokens after the MLP norm of the third block from the end:

    C = Gram of u(conv3x3(M)), edges repeated;  entries of C below `floor` become 0
    f_i = sum_j C_ij m_j / (sum_j C_ij + 1e-6)       m = projected patches of `maskclip`, not normalised
    background = conv1x1(u(M));  a cell holds nothing where sigmoid(background) <= .5 and no probability reaches `sure`

Use it where single patches are noisy and a trained head for this very tower is at hand (the released one is for
LAION's ViT-B/16: 768 channels in, 256 out); without a head `pool` takes any correlation. Costs one convolution and one
(patches x patches) product beside maskclip. The released program marks background cells rightly for one picture alone.

Wysoczanska et al. 2024 (arXiv:2312.12359), wysoczanska/clip_dinoiser@a954aae.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg.clip.attention import read
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.sight import Sight
from ovseg.clip.tower import grid_of, prefix
from ovseg.clip.walk import Vit, Walk
from ovseg.errors import BadWeights, UnsupportedTower

SCALE = 100.0  # of the cosines, before the softmax over names


@dataclass(frozen=True, eq=False)
class Head:
    """The two learned convolutions: who belongs together (3x3), and what is background (1x1)."""

    together_weight: Float[Tensor, "out width 3 3"]
    together_bias: Float[Tensor, " out"]
    background_weight: Float[Tensor, "1 width 1 1"]
    background_bias: Float[Tensor, "1"]

    @classmethod
    def read(cls, state: Mapping[str, Tensor], width: int) -> "Head":
        """The head of a state dict in the authors' names, in float32; a wrong or missing tensor is named.

        Other entries (the released file holds the whole network) are left alone.
        """
        names = ("obj_proj.weight", "obj_proj.bias", "bkg_decoder.weight", "bkg_decoder.bias")
        missing = [name for name in names if name not in state]
        if missing:
            raise BadWeights(f"a head of clip-dinoiser needs {', '.join(names)}: {', '.join(missing)} is not there.")
        out = len(state["obj_proj.weight"])
        for name, shape in zip(names, ((out, width, 3, 3), (out,), (1, width, 1, 1), (1,)), strict=True):
            came = tuple(state[name].shape)
            if came != shape:
                raise BadWeights(
                    f"{name} must be {shape} for a tower of width {width}: got {came}. Another tower's head?"
                )
        return cls(*(state[name].float() for name in names))


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pooled patch vectors, projected and not normalised, with what they were pooled by (before the cut)."""

    tokens: Float[Tensor, "b rows cols dim"]
    correlation: Float[Tensor, "b n n"]
    background: Float[Tensor, "b rows cols"]


def dinoise(
    walk: Walk,
    pixels: Float[Tensor, "b 3 height width"],
    head: Head,
    *,
    floor: float = 0.2,
    positions: str = "bicubic",
) -> Pooled:
    """Everything from pixels to pooled patches."""
    if not isinstance(walk, Vit) or walk.own != 1 or walk.depth < 3:
        raise UnsupportedTower(
            f"clip-dinoiser reads the third block from the end of a standard ViT with an image token: {walk.family} of "
            f"{walk.depth} blocks has none; its released head is for LAION's ViT-B/16."
        )
    rows, cols = grid = grid_of(walk, pixels)
    number = walk.depth - 2
    taps = prefix(walk, pixels, (number,), positions)
    sides = walk.sides(number, walk.norm(number, taps[number]), grid)
    mixed = F.scaled_dot_product_attention(sides["q"], sides["k"], sides["v"]).transpose(1, 2).flatten(2)
    between = walk.tower.transformer.resblocks[number - 1].ln_2(taps[number] + walk.out(number, mixed))
    middle = between[:, 1:].mT.reshape(len(pixels), -1, rows, cols)

    tokens = read(Sight(walk, taps, grid), LAST_BLOCKS["maskclip"]).cells.flatten(1, 2)
    alike = correlation(head, middle)
    return Pooled(pool(tokens, alike, floor).reshape(len(pixels), rows, cols, -1), alike, background(head, middle))


def correlation(head: Head, middle: Float[Tensor, "b width rows cols"]) -> Float[Tensor, "b n n"]:
    """Cosine of every two patches after the learned 3x3 convolution."""
    padded = F.pad(middle, (1, 1, 1, 1), mode="replicate")
    unit = F.normalize(F.conv2d(padded, head.together_weight, head.together_bias).flatten(2), dim=1)
    return unit.mT @ unit


def pool(
    features: Float[Tensor, "b n dim"], correlation: Float[Tensor, "b n n"], floor: float
) -> Float[Tensor, "b n dim"]:
    """Means of features weighted by the correlations of at least `floor`; a patch always keeps itself."""
    weights = correlation.where(correlation >= floor, correlation.new_zeros(()))
    return weights @ features / (weights.sum(dim=-1, keepdim=True) + 1e-6)


def background(head: Head, middle: Float[Tensor, "b width rows cols"]) -> Float[Tensor, "b rows cols"]:
    """How much of a thing each cell is, before the sigmoid: above 0 is a thing."""
    return F.conv2d(F.normalize(middle, dim=1), head.background_weight, head.background_bias)[:, 0]


def probability(
    tokens: Float[Tensor, "b rows cols dim"], text: Float[Tensor, "names dim"]
) -> Float[Tensor, "b rows cols names"]:
    """softmax(100 cos) over the names."""
    return (SCALE * F.normalize(tokens, dim=-1) @ text.mT).softmax(dim=-1)


def nothing(
    probability: Float[Tensor, "b rows cols names"], background: Float[Tensor, "b rows cols"], sure: float = 0.99
) -> Bool[Tensor, "b rows cols"]:
    """Cells that hold no name: seen as background, and no name is sure of them."""
    return (background.sigmoid() <= 0.5) & (probability.amax(dim=-1) < sure)


__all__ = ["Head", "Pooled", "SCALE", "background", "correlation", "dinoise", "nothing", "pool", "probability"]
