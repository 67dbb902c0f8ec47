"""GEM's heat maps: cosines of one phrase over a picture, at the picture's size, from 0 to 1.

    bilinear to the picture; then minus the smallest value of that map, over the largest minus the smallest

Every map is stretched by itself, whether the phrase is in the picture or not: it shows where, never whether. A map that
is the same everywhere becomes 0. Any row's patch vectors will do; GEM's are `dense_tokens(tower, pixels, "gem")`, its
prompt "a photo of a {}.".

Bousselham et al. 2023 (arXiv:2312.00878), WalBouss/GEM@5fa677c.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def heat(
    cells: Float[Tensor, "b rows cols dim"], text: Float[Tensor, "names dim"], size: tuple[int, int]
) -> Float[Tensor, "b names height width"]:
    """A map from 0 to 1 for every phrase; `size` is the picture's (height, width)."""
    cosines = (F.normalize(cells, dim=-1) @ F.normalize(text, dim=-1).mT).permute(0, 3, 1, 2)
    maps = F.interpolate(cosines, size=size, mode="bilinear", align_corners=False)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


__all__ = ["heat"]
