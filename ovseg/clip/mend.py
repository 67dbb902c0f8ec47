"""Tokens that are repaired or pooled: which patches are outliers, what becomes of them, and means of those alike.

SC-CLIP (arXiv:2411.15869, SuleBai/SC-CLIP@0417ba9) and SFP (Kimsure/SFP@2804f5b): `methods.mended` has their rows.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ovseg.clip.program import Repair
from ovseg.clip.sight import Sight

NEIGHBOURS = 30  # of the outlier score, SC-CLIP's own
SOM_SCALE = 1.5  # SFP scales the image token's row by 0.3 * 5 before it compares


def likeness(tokens: Float[Tensor, "b n embed"]) -> Float[Tensor, "b n n"]:
    """Cosine between the tokens of each picture."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.mT


def pool(
    tokens: Float[Tensor, "b n embed"], by: Float[Tensor, "b n other"], floor: float
) -> Float[Tensor, "b n embed"]:
    """Means of the tokens whose `by` are alike: cosines of at least `floor`, rows over their sum."""
    alike = likeness(by)
    alike = alike * (alike >= floor)
    pooled: Tensor = alike @ tokens / (alike.sum(dim=-1, keepdim=True) + 1e-6)
    return pooled


def detect(sight: Sight, repair: Repair) -> Bool[Tensor, "b n"]:
    """Which patches entering the last block are outliers."""
    return _DETECTORS[repair.detector](sight, repair.limit)


def outlier_score(tokens: Float[Tensor, "b n embed"], neighbours: int = NEIGHBOURS) -> Float[Tensor, "b n"]:
    """D_i times the mean of 1 / D_j over the neighbours j of i, D the squared distance to the farthest neighbour.

    SC-CLIP's score, not the textbook local outlier factor. Through a Gram matrix in double: no (n, n, embed) tensor.
    """
    x = tokens.double()
    squared = x.square().sum(dim=-1)
    distance = (squared[:, :, None] + squared[:, None, :] - 2 * x @ x.mT).clamp(min=0)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    count = min(neighbours, tokens.shape[1] - 1)
    if count < 1:
        return torch.ones(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
    near, who = distance.topk(count, largest=False)
    far = near[:, :, -1].clamp(min=1e-12)  # equal patches: none is stranger than another
    inverse = (1 / far)[:, None, :].expand(-1, tokens.shape[1], -1).gather(2, who)
    return (far * inverse.mean(dim=-1)).to(tokens.dtype)


def mend(
    tokens: Float[Tensor, "b n embed"], outliers: Bool[Tensor, "b n"], grid: tuple[int, int], lonely: str = "keep"
) -> Float[Tensor, "b n embed"]:
    """Outliers become the mean of their sound 3 x 3 neighbours; one that has none stays ("keep") or becomes 0."""
    sound = (~outliers).to(tokens.dtype).reshape(-1, 1, *grid)
    cells = tokens.mT.reshape(len(tokens), -1, *grid)
    around = F.avg_pool2d(cells * sound, 3, 1, 1, divisor_override=1)
    count = F.avg_pool2d(sound, 3, 1, 1, divisor_override=1)
    mean = around / count.clamp(min=1)
    change = (1 - sound) * (count > 0 if lonely == "keep" else torch.ones_like(count))
    return torch.where(change > 0, mean, cells).flatten(2).mT


class Mended:
    """Patches with the row's outliers repaired; everything as it is where the row repairs nothing."""

    def __init__(self, sight: Sight, repair: Repair | None, outliers: Tensor | None) -> None:
        self.grid, self.repair, self.outliers = sight.grid, repair, outliers

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.repair is None or self.outliers is None:
            return tokens
        return mend(tokens, self.outliers, self.grid, self.repair.lonely)


def _by_density(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    score = outlier_score(sight.taps[sight.last][:, sight.walk.own :])
    return score > torch.quantile(score.float(), limit, dim=1, keepdim=True)


def _by_image_token(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    """Patches that the image token of the block before looks at more than they look at themselves; the strongest."""
    before = sight.last - 1
    normed = sight.walk.norm(before, sight.taps[before])
    sides = sight.walk.sides(before, normed, sight.grid, "qk")
    scale: float = sides["q"].shape[-1] ** -0.5
    weights = (sides["q"] * scale @ sides["k"].mT).softmax(dim=-1).mean(dim=1)
    seen, itself = SOM_SCALE * weights[:, 0, 1:], weights.diagonal(dim1=1, dim2=2)[:, 1:]
    return (seen > itself) & _largest(seen.masked_fill(seen <= itself, -torch.inf), limit)


def _by_length(sight: Sight, limit: float | int) -> Bool[Tensor, "b n"]:
    return _largest(sight.taps[sight.last][:, sight.walk.own :].norm(dim=-1), limit)


def _largest(score: Tensor, limit: float | int) -> Bool[Tensor, "b n"]:
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter(1, score.topk(min(int(limit), score.shape[1]), dim=1).indices, True)


_DETECTORS: Mapping[str, Callable[[Sight, float | int], Tensor]] = MappingProxyType(
    {"lof": _by_density, "som": _by_image_token, "norm": _by_length}
)


__all__ = ["Mended", "NEIGHBOURS", "SOM_SCALE", "detect", "likeness", "mend", "outlier_score", "pool"]
