"""The CLIP tower as its own guide: no other weights are needed. Ours and no paper's.

What leaves block 9 of 12 says how alike cells are (SC-CLIP takes likeness there too); any family whose blocks can be
walked will do. It shows the road of a guided method where no DINO is, and does not replace one: on the bundled model,
`python weights/tiny/report.py --seed 7 --count 40` gives proxyclip with it 44.7 mIoU over the names present, clearclip
45.3 and maskclip-reduced 47.6.
"""

from jaxtyping import Float
from torch import Tensor

from ovseg.clip.families import find
from ovseg.clip.guides.pixels import fitted
from ovseg.clip.load import Clip
from ovseg.clip.walk import Prefix, Walk, layer
from ovseg.errors import UnsupportedTower

BLOCK = 9  # of 12


def look(
    network: Clip, pixels: Float[Tensor, "b 3 height width"], output: str = "tokens", positions: str = "bicubic"
) -> Float[Tensor, "b channels rows cols"]:
    """The patches that leave a middle block, on the tower's own grid.

    The blocks before it run for this; whoever has run them already has the answer in a tap (`of_tap`).
    """
    walk, (rows, cols) = _walk(network), grid(network, pixels.shape[2], pixels.shape[3])
    entering = walk.enter(fitted(pixels, (rows * walk.patch[0], cols * walk.patch[1])), positions)
    (tokens,) = Prefix(walk, [tap(walk)], (rows, cols))(entering)
    return of_tap(walk, tokens, (rows, cols))


def tap(walk: Walk) -> int:
    """The block that the middle block's tokens enter."""
    if walk.depth < 2:
        raise UnsupportedTower(f"guide self reads a middle block: {walk.family} has {walk.depth}; take another guide")
    return layer(BLOCK, walk.depth) + 1


def of_tap(
    walk: Walk, tokens: Float[Tensor, "b n channels"], cells: tuple[int, int]
) -> Float[Tensor, "b channels rows cols"]:
    """The map, from what enters the block `tap` on a grid of so many (rows, cols)."""
    patches: Tensor = tokens[:, walk.own :].mT.reshape(len(tokens), -1, *cells)
    return patches


def grid(network: Clip, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map of such pixels: the tower's own."""
    walk = _walk(network)
    return max(1, round(height / walk.patch[0])), max(1, round(width / walk.patch[1]))


def _walk(network: Clip) -> Walk:
    walk = find(network.visual)
    _ = tap(walk)  # or there is none
    return walk


__all__ = ["BLOCK", "grid", "look", "of_tap", "tap"]
