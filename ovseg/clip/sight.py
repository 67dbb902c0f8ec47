"""What a method can look at: the walk, its taps, the token grid, and what came from outside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ovseg.clip.program import Layers
from ovseg.clip.walk import Walk, layer
from ovseg.errors import BadInput


@dataclass(frozen=True, eq=False)
class Sight:
    """What a row can look at: the walk, its taps by block number, the token grid, and what came from outside.

    `given` holds "guide" (b, channels, rows', cols') and "feedback" (b, n, n). `compat` reproduces what is wrong in a
    released program; `as_released` takes published block numbers as they are, in towers of any depth.
    """

    walk: Walk
    taps: Mapping[int, Tensor]
    grid: tuple[int, int]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    compat: bool = False
    as_released: bool = False

    def numbers(self, layers: Layers) -> list[int]:
        """Published block numbers in this tower; each at most once."""
        return scaled(layers, self.walk.depth, self.as_released)

    def patches(self, number: int) -> Float[Tensor, "b n embed"]:
        """The output patches of a block."""
        return self.taps[number + 1][:, self.walk.own :]

    @property
    def last(self) -> int:
        """The number of the last block."""
        return self.walk.depth


def scaled(layers: Layers, depth: int, as_released: bool = False) -> list[int]:
    """Published block numbers in a tower of `depth` blocks: each scaled, of a range its ends; none twice.

    >>> scaled((7, 8, 10), 12), scaled((7, 8, 10), 6), scaled(range(6, 10), 24)
    ([7, 8, 10], [4, 5], [12, 13, 14, 15, 16, 17, 18])
    """
    if isinstance(layers, str):
        return list(range(1, depth))
    if not len(layers):
        return []
    if as_released:
        if max(layers) >= depth:
            raise BadInput(
                f"the method names block {max(layers)} as it was released, and this tower has {depth} blocks; the fast "
                'protocol (layers="scaled") takes them in proportion'
            )
        return list(layers)
    if isinstance(layers, range):
        return list(range(layer(layers[0], depth), layer(layers[-1], depth) + 1))
    return list(dict.fromkeys(layer(number, depth) for number in layers))


def guide_of(sight: Sight) -> Float[Tensor, "b channels guiderows guidecols"]:
    """The guide's map, which sets the grid of the answer; `BadInput` where there is none or it is no map."""
    guide = given_of(sight, "guide")
    if guide.ndim != 4:
        raise BadInput(f"a guide is (batch, channels, rows, cols): got {list(guide.shape)}")
    return guide


def given_of(sight: Sight, what: str) -> Tensor:
    """What was given under a name, one for each picture, in the tower's precision and place; else `BadInput`."""
    if what not in sight.given:
        raise BadInput(f"this method needs a {what}, another network's or an earlier pass's map, and none was given")
    given, batch = sight.given[what], len(sight.taps[sight.last])
    if len(given) != batch:
        raise BadInput(f"one {what} for each picture: got {len(given)} for {batch}")
    return given.to(sight.taps[sight.last])


__all__ = ["Sight", "given_of", "guide_of", "scaled"]
