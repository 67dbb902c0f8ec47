"""What another network sees in the same pixels: the map that a guided method takes its attention from.

A guide is a row of `GUIDES`: a network and which of its outputs. Three kinds are walked, module by module, nothing
replaced and no hook left: timm's `VisionTransformer` (DINO, DINOv2), segment-anything's image encoder, and the CLIP
tower itself. Maps are given as the network makes them; a method that takes cosines makes cells unit itself.

    proxyclip  dino-b8 (also dinov2-reg-b14, sam)          corrclip  dino-b8-qk
    trident    dino-b16, then SAM's last global attention  lposs     dino-b16-v
    cass       dino-b8-k

The released programs hook the last `qkv` anew at every call and never let go (mc-lan/ProxyCLIP@e7b767f,
YuHengsss/Trident@a93b346, zdk258/CorrCLIP@103bc18); here the last block's projection is called outright.

Papers: DINO (Caron et al. 2021, arXiv:2104.14294), DINOv2 with registers (Darcet et al. 2024, arXiv:2309.16588),
Segment Anything (Kirillov et al. 2023, arXiv:2304.02643).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from ovseg import weights
from ovseg.clip import tower
from ovseg.clip.load import Clip, fill, pick_device
from ovseg.clip.walk import POSITIONS, Prefix, Vit, layer, packed, pair, resampled
from ovseg.errors import BadInput, BadUsage, MissingWeights, UnknownName, UnsupportedTower

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OUTPUTS: Mapping[str, str] = MappingProxyType({"tokens": "", "q": "q", "k": "k", "v": "v", "q+k": "qk"})
SELF_BLOCK = 8  # of 12


@dataclass(frozen=True)
class GuideRow:
    """One network and the output that is read.

    `walk` is a name of `WALKS`, `architecture` timm's name for it. `output` is a name of `OUTPUTS`: tokens after the
    last norm, or what the last block's attention projects (bias included, heads side by side; "q+k" is their sum).
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
            ("output of a guide", self.output, OUTPUTS),
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
        own = normalised(pixels, self.mean, self.std, mean, std).to(self.device)
        return WALKS[self.row.walk](self.network, own, self.row)

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
        from segment_anything.utils.transforms import ResizeLongestSide

        encoder = _encoder(self.network)
        shrink = ResizeLongestSide(encoder.img_size)
        resized = [torch.from_numpy(shrink.apply_image(one.permute(1, 2, 0).cpu().numpy())) for one in pictures]
        own = normalised(torch.stack(resized).permute(0, 3, 1, 2), self.mean, self.std).to(self.device)
        height, width = own.shape[-2:]
        square = F.pad(own, (0, encoder.img_size - width, 0, encoder.img_size - height))
        patch = pair(encoder.patch_embed.proj.kernel_size)
        return sam_attention(encoder, square, (max(1, height // patch[0]), max(1, width // patch[1])))


def normalised(
    pixels: Shaped[Tensor, "b 3 height width"],
    to_mean: Sequence[float],
    to_std: Sequence[float],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Float[Tensor, "b 3 height width"]:
    """Bytes, or floats that were normalised with `mean` and `std`, as another network wants them.

    >>> grey = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalised(grey, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    if not len(pixels) or not (pixels.is_floating_point() or pixels.dtype == torch.uint8):
        raise BadInput(
            f"a guide needs pixels as bytes or normalised floats: got {list(pixels.shape)} of "
            f"{str(pixels.dtype).removeprefix('torch.')}"
        )
    if (mean is None) != (std is None) or (mean is not None and pixels.dtype == torch.uint8):
        raise BadUsage("mean and std go together, and with floats alone: bytes were not normalised yet")
    if pixels.dtype == torch.uint8:
        pixels, mean, std = pixels.float() / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if mean is None or std is None or (tuple(mean), tuple(std)) == (tuple(to_mean), tuple(to_std)):
        return pixels
    had, want, per, unit = (pixels.new_tensor(tuple(value))[:, None, None] for value in (mean, to_mean, std, to_std))
    return (pixels * per + had - want) / unit


def vit_map(
    network: Any, pixels: Float[Tensor, "b 3 height width"], row: GuideRow
) -> Float[Tensor, "b channels rows cols"]:
    """A timm VisionTransformer's map: its own modules in its own order, at any size.

    With `positions` "antialias" the tokens equal timm's `forward_features` at dynamic size; DINO's authors resample by
    the factor (n + 0.1) / side ("scale01", facebookresearch/dino `interpolate_pos_encoding`).
    """
    embed = network.patch_embed
    patches = embed.proj(_fitted(pixels, pair(embed.patch_size)))
    batch, _, rows, cols = patches.shape
    tokens: Tensor = embed.norm(patches.flatten(2).mT)  # (b, rows*cols, width)
    prefix = [part.expand(batch, -1, -1) for part in (network.cls_token, network.reg_token) if part is not None]
    own = 0 if network.no_embed_class else sum(part.shape[1] for part in prefix)
    place = resampled(network.pos_embed[0], own, pair(embed.grid_size), (rows, cols), row.positions)
    if network.no_embed_class:  # registers came later: image token and registers have no place
        tokens = torch.cat([*prefix, tokens + place], dim=1)
    else:
        tokens = torch.cat([*prefix, tokens], dim=1) + place
    tokens = network.norm_pre(tokens)
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    last, letters = network.blocks[-1], OUTPUTS[row.output]
    if letters:
        qkv = last.attn.qkv
        sides = packed(last.norm1(tokens), qkv.weight, qkv.bias, last.attn.num_heads, letters)
        tokens = torch.stack(list(sides.values())).sum(dim=0).transpose(1, 2).flatten(2)
    else:
        tokens = network.norm(last(tokens))
    return tokens[:, -rows * cols :].mT.reshape(batch, -1, rows, cols)


def sam_map(
    network: Any, pixels: Float[Tensor, "b 3 height width"], row: GuideRow
) -> Float[Tensor, "b channels rows cols"]:
    """SAM's image embedding of pixels squeezed to its square, as mc-lan/ProxyCLIP@e7b767f takes it for windows."""
    encoder = _encoder(network)
    square = F.interpolate(pixels, (encoder.img_size, encoder.img_size), mode="bilinear", align_corners=False)
    out: Tensor = encoder(square)
    return out


def self_map(
    network: Clip, pixels: Float[Tensor, "b 3 height width"], row: GuideRow
) -> Float[Tensor, "b channels rows cols"]:
    """The patches that leave a middle block of the CLIP tower: a guide that needs no other weights.

    This is ours and no paper's: a stand-in for a machine that has no DINO, and weaker than one. Its grid is the
    tower's own. The tower's first blocks run a second time for it.
    """
    tower.check(network.visual, "vanilla")
    walk = Vit(network.visual)
    rows, cols = max(1, pixels.shape[2] // walk.patch[0]), max(1, pixels.shape[3] // walk.patch[1])
    entering = walk.enter(pixels, row.positions)
    (tokens,) = Prefix(walk, [layer(SELF_BLOCK, walk.depth) + 1], (rows, cols))(entering)
    patches: Tensor = tokens[:, walk.own :].mT.reshape(len(pixels), -1, rows, cols)
    return patches


def sam_attention(
    encoder: Any, pixels: Float[Tensor, "b 3 side side"], cells: tuple[int, int]
) -> tuple[Float[Tensor, "b heads n n"], Float[Tensor, "b heads rows cols d"]]:
    """Attention of the encoder's last block between its first `cells` (rows, cols), and their values.

    The softmax runs over all keys, then those outside are left out and rows are not stretched: Trident cuts so too.
    """
    from segment_anything.modeling.image_encoder import get_rel_pos

    tokens = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    for block in encoder.blocks[:-1]:
        tokens = block(tokens)
    last = encoder.blocks[-1]
    attention = last.attn
    batch, high, wide, _ = tokens.shape
    rows, cols = cells
    sides = packed(
        last.norm1(tokens).flatten(1, 2), attention.qkv.weight, attention.qkv.bias, attention.num_heads, "qkv"
    )
    heads = attention.num_heads
    query, value = (sides[letter].reshape(batch, heads, high, wide, -1)[:, :, :rows, :cols] for letter in "qv")
    scores = query.flatten(2, 3) * attention.scale @ sides["k"].mT
    scores = scores.view(batch, heads, rows, cols, high, wide)
    if attention.use_rel_pos:  # in place: the full matrix is the largest thing here
        down = get_rel_pos(high, high, attention.rel_pos_h)[:rows]  # (rows, high, d)
        across = get_rel_pos(wide, wide, attention.rel_pos_w)[:cols]
        scores += torch.einsum("bhrcd,rkd->bhrck", query, down)[..., None]
        scores += torch.einsum("bhrcd,ckd->bhrck", query, across)[..., None, :]
    whole = scores.flatten(4).softmax(dim=-1).view(scores.shape)
    return whole[..., :rows, :cols].flatten(4).flatten(2, 3), value


WALKS: Mapping[str, Callable[[Any, Tensor, GuideRow], Tensor]] = MappingProxyType(
    {"vit": vit_map, "sam": sam_map, "self": self_map}
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
    network = build(row.architecture)
    fill(network, timm_state(weights.read_state(found, allow_pickle=allow_pickle)), str(found))
    moments = {key: tuple(network.default_cfg.get(key, usual)) for key, usual in _MOMENTS.items()}
    return Guide(spec, row, network.requires_grad_(False).eval().to(place), **moments)


_MOMENTS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def build(architecture: str) -> Any:
    """timm's network of that name with fresh random weights and no classifier; refused unless it is a plain ViT."""
    import timm

    if not timm.is_model(architecture):
        raise UnknownName.of("architecture of a guide", architecture, timm.list_models("vit*"))
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
    parts = ("patch_embed", "pos_embed", "norm_pre", "blocks", "norm")
    missing = [part for part in parts if getattr(network, part, None) is None]
    if missing or getattr(getattr(network.blocks[-1], "attn", None), "qkv", None) is None:
        raise UnsupportedTower(
            f"a guide must be one of timm's plain ViTs (learned places, one packed qkv): {architecture} is "
            f"{type(network).__name__} without {', '.join(missing) or 'a packed qkv'}"
        )
    return network


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of DINO's or DINOv2's authors by timm's names; one that has timm's names is only rid of its head.

    DINO's names are timm's. DINOv2 adds a mask token (of training alone), and with registers the image token's place
    is put into the token, since timm gives places to patches alone there.
    """
    out = {key: value for key, value in state.items() if key != "mask_token" and not key.startswith("head.")}
    if "register_tokens" in out:
        place = out["pos_embed"]
        out["reg_token"] = out.pop("register_tokens")
        out["cls_token"] = out["cls_token"] + place[:, :1]
        out["pos_embed"] = place[:, 1:]
    return out


def _of_open(name: str, row: GuideRow, clip: Clip | None, sam: Any) -> Guide:
    """The guide that is one of the pipeline's own networks."""
    if row.walk == "self":
        if clip is None:
            raise BadUsage("guide self is the CLIP network itself: give it as clip=")
        return Guide(name, row, clip, clip.mean, clip.std)
    if sam is None:
        raise BadUsage("guide sam is an open SAM: give it as sam=, in a recipe as sam=sam-vit-b")
    _encoder(sam)
    return Guide(name, row, sam)


def _encoder(sam: Any) -> Any:
    """The image encoder of a SAM, if it is the ViT whose last block sees the whole picture."""
    encoder = getattr(sam, "image_encoder", None)
    blocks = getattr(encoder, "blocks", None)
    if not blocks or getattr(blocks[-1], "window_size", 1) != 0:
        raise UnsupportedTower(
            f"guide sam needs segment-anything's ViT encoder (vit_b, vit_l, vit_h): got {type(encoder).__name__} of "
            f"{type(sam).__name__}"
        )
    return encoder


def _fitted(pixels: Tensor, patch: tuple[int, int]) -> Tensor:
    """Pixels with both sides the nearest multiple of the patch, the very same where they are one already."""
    size = tuple(max(1, round(side / one)) * one for side, one in zip(pixels.shape[-2:], patch, strict=True))
    if size == tuple(pixels.shape[-2:]):
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)


__all__ = [
    "GUIDES",
    "Guide",
    "GuideRow",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "OUTPUTS",
    "SELF_BLOCK",
    "WALKS",
    "build",
    "load_guide",
    "normalised",
    "sam_attention",
    "sam_map",
    "self_map",
    "timm_state",
    "vit_map",
]
