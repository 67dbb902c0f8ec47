"""What another network sees in the same pixels: the map that a guided method takes its attention from.

A guide is a row of `GUIDES`: a network and which of its outputs. Three kinds are walked, module by module, nothing
replaced and no hook left: timm's `VisionTransformer` (DINO, DINOv2), segment-anything's image encoder, and the CLIP
tower itself. Maps are given as the network makes them; a method that takes cosines makes cells unit itself.

    proxyclip  dino-b8 (also dinov2-reg-b14, sam)          corrclip  dino-b8-qk
    trident    dino-b16, then SAM's last global attention  lposs     dino-b16-v
    cass       dino-b8-k
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from ovseg import weights
from ovseg.clip.guides import own, vit
from ovseg.clip.guides import sam as segment_anything
from ovseg.clip.guides.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from ovseg.clip.load import Clip, fill, pick_device
from ovseg.clip.walk import POSITIONS
from ovseg.errors import BadUsage, MissingWeights, UnknownName


@dataclass(frozen=True)
class GuideRow:
    """One network and the output that is read.

    `walk` is a name of `WALKS`, `architecture` timm's name. `output` is a name of `vit.OUTPUTS`: tokens after the last
    norm, or what the last block's attention projects (bias included, heads side by side; "q+k" is their sum).
    `weights` are rows of `weights.MANIFEST`, the first that is here is taken. `positions` is how its authors resample.
    """

    walk: str
    architecture: str = ""
    output: str = "tokens"
    weights: tuple[str, ...] = ()
    positions: str = "antialias"
    source: str = ""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("walk of a guide", self.walk, WALKS),
            ("output of a guide", self.output, vit.OUTPUTS),
            ("positions", self.positions, POSITIONS),
        ):
            if value not in known:
                raise UnknownName.of(what, value, known)
        if bool(self.architecture) != (self.walk == "vit"):
            raise BadUsage(f"a vit, and nothing else, has an architecture: {self.walk} has {self.architecture!r}")
        if self.output != "tokens" and self.walk != "vit":
            raise BadUsage(f"{self.output} is read of a vit alone: {self.walk} gives tokens")


@dataclass(frozen=True, eq=False)
class Guide:
    """An open guide. Nothing is kept between calls, so threads may share one.

    `network` is timm's model, a `Sam`, or a `Clip`; `mean` and `std` are those that its pixels are normalised with.
    """

    name: str
    row: GuideRow
    network: Any
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        place: torch.device = next(getattr(self.network, "model", self.network).parameters()).device
        return place

    def features(
        self,
        pixels: Shaped[Tensor, "b 3 height width"],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Float[Tensor, "b channels rows cols"]:
        """The network's map of these pixels on a grid of its own that covers them whole; not made unit.

        Bytes are RGB. Floats were normalised with `mean` and `std` (a window of a CLIP tower), or with the guide's own
        where these are not given. Sides that are no multiple of the guide's patch are resized to the nearest one;
        padding, as the released programs do, would put the cells beside what they show.
        """
        mine = normalised(pixels, self.mean, self.std, mean, std).to(self.device)
        return WALKS[self.row.walk].look(self.network, mine, self.row.output, self.row.positions)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map of such pixels."""
        return WALKS[self.row.walk].grid(self.network, height, width)

    def last_attention(
        self, pictures: UInt8[Tensor, "b 3 height width"]
    ) -> tuple[Float[Tensor, "b heads n n"], Float[Tensor, "b heads rows cols d"]]:
        """SAM's last attention of whole pictures and its values, on the rows x cols = n cells that hold picture.

        The longer side becomes the network's side and the rest of the square is padding, as `SamPredictor` does it.
        Rows sum to 1 where a picture fills the square, else to 1 minus what goes to the padding. ViT-B at 1024 px:
        12 x 4096 x 4096 numbers, 0.8 GB.
        """
        if self.row.walk != "sam":
            raise BadUsage(f"the last attention is SAM's alone: this guide is {self.name}")
        return segment_anything.last_attention(self.network, pictures, self.mean, self.std)


@dataclass(frozen=True)
class GuideWalk:
    """How one kind of network is read: its map of pixels, and the grid of that map before any pixel is read."""

    look: Callable[[Any, Tensor, str, str], Tensor]  # network, pixels, output, positions
    grid: Callable[[Any, int, int], tuple[int, int]]


WALKS: Mapping[str, GuideWalk] = MappingProxyType(
    {
        "vit": GuideWalk(vit.look, vit.grid),
        "sam": GuideWalk(segment_anything.look, segment_anything.grid),
        "self": GuideWalk(own.look, own.grid),
    }
)

_B8, _B16 = "vit_base_patch8_224.dino", "vit_base_patch16_224.dino"

GUIDES: Mapping[str, GuideRow] = MappingProxyType(
    {
        "dino-b8": GuideRow("vit", _B8, "tokens", ("dino-vit-b8",), "scale01", "mc-lan/ProxyCLIP@e7b767f"),
        "dino-b8-qk": GuideRow("vit", _B8, "q+k", ("dino-vit-b8",), "scale01", "zdk258/CorrCLIP@103bc18"),
        "dino-b8-k": GuideRow("vit", _B8, "k", ("dino-vit-b8",), "scale01", "MICV-yonsei/CASS@228ecdd"),
        "dino-b16": GuideRow("vit", _B16, "tokens", ("dino-vit-b16",), "scale01", "YuHengsss/Trident@a93b346"),
        "dino-b16-v": GuideRow("vit", _B16, "v", ("dino-vit-b16",), "scale01", "vladan-stojnic/LPOSS@e489a74"),
        "dinov2-reg-b14": GuideRow(
            "vit",
            "vit_base_patch14_reg4_dinov2.lvd142m",
            "tokens",
            ("dinov2-reg-vit-b14",),
            "antialias",
            "mc-lan/ProxyCLIP@e7b767f",
        ),
        "sam": GuideRow("sam", source="mc-lan/ProxyCLIP@e7b767f; its attention: YuHengsss/Trident@a93b346"),
        "self": GuideRow("self", positions="bicubic", source="ours"),
    }
)


def load_guide(
    spec: str,
    *,
    device: str = "cpu",
    folder: str | Path | None = None,
    allow_pickle: bool = False,
    clip: Clip | None = None,
    sam: object | None = None,
) -> Guide:
    """The guide that `spec` names, in evaluation mode, float32, on `device`.

    `spec` is a name of `GUIDES`; `NAME@FILE`, the same network and output with weights of your own; or
    `ARCHITECTURE@FILE` with timm's name of a plain ViT, whose tokens are read. "sam" and "self" take the networks that
    are open already: `sam` and `clip`. Raises `UnknownName`, `MissingWeights`, `BadWeights` or `BadUsage`.
    """
    name, at, file = spec.partition("@")
    if not at and name not in GUIDES:
        raise UnknownName.of("guide", spec, GUIDES)
    row = GUIDES.get(name) or GuideRow("vit", name)
    if row.walk != "vit":
        if at:
            raise BadUsage(f"guide {name} is a network that is open already: leave @{file} out")
        return _of_open(name, row, clip, sam)
    place = pick_device(device)
    if at:
        found = Path(file).expanduser()
        if not found.is_file():
            raise MissingWeights(f"the checkpoint is not there: {found}")
    else:
        here = [weight for weight in row.weights if weights.find(weight, folder)]
        found = weights.path(here[0] if here else row.weights[0], folder)  # the second raises, and says how to get it
    network = vit.build(row.architecture)
    fill(network, vit.timm_state(weights.read_state(found, allow_pickle=allow_pickle)), str(found))
    moments = {key: tuple(network.default_cfg.get(key, usual)) for key, usual in _MOMENTS.items()}
    return Guide(spec, row, network.requires_grad_(False).eval().to(place), **moments)


_MOMENTS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _of_open(name: str, row: GuideRow, clip: Clip | None, sam: Any) -> Guide:
    """The guide that is one of the pipeline's own networks."""
    if row.walk == "self":
        if clip is None:
            raise BadUsage("guide self is the CLIP network itself: give it as clip=")
        return Guide(name, row, clip, clip.mean, clip.std)
    if sam is None:
        raise BadUsage("guide sam is an open SAM: give it as sam=, in a recipe as sam=sam-vit-b")
    segment_anything.encoder_of(sam)
    return Guide(name, row, sam)


__all__ = ["GUIDES", "Guide", "GuideRow", "GuideWalk", "WALKS", "load_guide"]
