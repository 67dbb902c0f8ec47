"""What a row of `ENCODERS` is, and what it gets to see: nothing here computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from ovseg.encoders.described import Described
from ovseg.errors import BadInput
from ovseg.types import DenseFeatures, Regions

if TYPE_CHECKING:
    from ovseg.clip.load import Clip


@dataclass(frozen=True, eq=False)
class View:
    """A picture as an encoder sees it: its pixels, its dense features, and the network that may look again.

    `taps` is what the dense pass kept of the blocks that the encoder asked for; None where nothing was kept.
    """

    clip: "Clip | None"
    image: UInt8[np.ndarray, "height width 3"]
    features: DenseFeatures
    taps: Any = None

    def __post_init__(self) -> None:
        if (self.features.height, self.features.width) != self.image.shape[:2]:
            raise BadInput(
                f"picture and features must be of one size: {self.image.shape[0]}x{self.image.shape[1]} and "
                f"{self.features.height}x{self.features.width} (rows x cols). Swapped axes?"
            )


Run = Callable[[View, Regions, Mapping[str, Any]], Float32[np.ndarray, "n dim"] | Described]
Combine = Callable[[Sequence[Described], Mapping[str, Any]], Described]  # of what the members said
Blocks = Callable[[Any, Mapping[str, Any]], tuple[int, ...]]  # of a walk and every option: blocks whose input is wanted
Check = Callable[[Mapping[str, Any]], object]  # of every option: raises where a value makes no sense
Refuses = Callable[[Any], str]  # of a walk: empty where the encoder can read this tower, else what the tower lacks


@dataclass(frozen=True)
class Encoder:
    """One way to give regions vectors: what it computes, the options it knows with their defaults, what it needs.

    `run` gets the view, the regions without empty ones and every option, and may return rows of any length. The dense
    pass keeps what enters the `blocks` as the view's taps. `what` says in a line what a vector is, `cost` how many
    passes of the network n regions take beyond the dense one. A row with `combine` in place of `run` asks the encoders
    of its option `members`. `check` looks at the values of options, as `run` does, before there is any picture.
    """

    run: Run | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_clip: bool = False
    blocks: Blocks | None = None
    refuses: Refuses | None = None
    check: Check | None = None
    combine: Combine | None = None
    what: str = ""
    cost: str = "none"
    source: str = ""

    def __post_init__(self) -> None:
        assert (self.run is None) != (self.combine is None), "an encoder runs or combines"


__all__ = ["Blocks", "Check", "Combine", "Encoder", "Refuses", "Run", "View"]
