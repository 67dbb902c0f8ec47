"""Region vectors from pixels with everything outside the mask blanked: OVSeg's masked crop, with its mask prompts.

A network that was taught on masked crops (OVSeg, arXiv:2210.04150) has learned tokens for patches without any pixel of
the mask: they stand in place of the patch at the entrance and again after each of the first blocks. Facts from
facebookresearch/ov-seg@27900fa (tight box, bicubic to a square whatever its shape, mask by nearest neighbour, outside =
CLIP's mean colour) and its mask-adapted CLIP (a patch is blank when its mean mask is 0; depth 3). Here the picture is
resized with Pillow's bicubic, which averages when it shrinks; theirs does not.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ovseg import weights
from ovseg.encoders.crops import AT_ONCE, encoded, expand_of, fitted, mean_colour, shape_of, spans, square
from ovseg.encoders.rows import View
from ovseg.errors import BadUsage, BadWeights, UnsupportedTower
from ovseg.raster import decode_rle
from ovseg.types import Regions

if TYPE_CHECKING:
    from torch import Tensor

    from ovseg.clip.load import Clip
    from ovseg.runtime import Run

PROMPTS = "mask_embedding"  # (depth, patches or 1, width) in a checkpoint of OVSeg's


def masked_crop(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image vector of each box, grown by `expand`, with the mean colour of CLIP's pixels outside the mask.

    `checkpoint` is a file with learned tokens for blank patches (`mask_embedding`); without one those that came with
    the network's own file are taken, and where there are none blank patches are mean-coloured and no more. `depth`
    takes that many of them (0: none, None: all).
    """
    assert view.clip is not None, "a row that needs the network gets it"
    clip, shape, expand = view.clip, shape_of(options), expand_of(options)
    prompts = blank_tokens(clip, options["checkpoint"], options["depth"], bool(options["allow_pickle"]))
    parts = blanked(view.image, regions, expand, mean_colour(clip))
    if prompts is None:
        return encoded(clip, (fitted(clip, part, shape) for part, _ in parts))
    rows = []
    while some := list(islice(parts, AT_ONCE)):
        views = [fitted(clip, part, shape) for part, _ in some]
        seen = [nearest(inside, shape, *clip.image_size) for _, inside in some]
        rows.append(_prompted(clip, views, seen, prompts))
    return np.concatenate(rows)


def blanked(
    image: UInt8[np.ndarray, "height width 3"], regions: Regions, expand: float | int, colour: UInt8[np.ndarray, "3"]
) -> Iterator[tuple[UInt8[np.ndarray, "_ _ 3"], Bool[np.ndarray, "_ _"]]]:
    """Of each region its box with one colour outside the mask, and the mask in that box; one is decoded at a time."""
    for rle, box in zip(regions.rles, regions.boxes, strict=True):
        place = spans(box, expand, regions.height, regions.width)
        inside = decode_rle(rle)[place].astype(bool)
        yield np.where(inside[..., None], image[place], colour), inside


def nearest(inside: Bool[np.ndarray, "_ _"], shape: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """A mask at the network's size by the nearest pixel, padded with nothing where the picture was padded."""
    if shape == "pad":
        grey = np.repeat(inside[..., None].astype(np.uint8), 3, axis=2)
        inside = square(grey, np.zeros(3, np.uint8))[..., 0].astype(bool)
    rows = (np.arange(height) * inside.shape[0] // height).astype(np.int64)
    cols = (np.arange(width) * inside.shape[1] // width).astype(np.int64)
    return np.asarray(inside[rows[:, None], cols], bool)


def blank_tokens(clip: "Clip", checkpoint: str, depth: int | None, allow_pickle: bool = False) -> "Tensor | None":
    """The learned tokens of blank patches (depth, patches or 1, width), or None where there are none to take."""
    if checkpoint:
        file = Path(checkpoint).expanduser()
        stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else (0, 0)
        (tokens,) = clip.prepared.get(clip.visual, (PROMPTS, str(file), stamp), lambda: _read(file, allow_pickle))()
    elif PROMPTS in clip.parts:
        tokens = clip.parts[PROMPTS].float()
    else:
        if depth:
            raise BadUsage(f"masked-crop has no learned tokens to take {depth} of: give checkpoint=FILE with {PROMPTS}")
        return None
    if tokens.ndim != 3:
        raise BadWeights(f"{PROMPTS} is (depth, patches or 1, width): {list(tokens.shape)} came; is it another tensor?")
    if depth is not None and not 0 <= int(depth) <= len(tokens):
        raise BadUsage(f"depth goes from 0 to the {len(tokens)} blocks that the tokens are for: got {depth}")
    tokens = tokens if depth is None else tokens[: int(depth)]
    return tokens.to(clip.device) if len(tokens) else None


def _read(file: Path, allow_pickle: bool) -> "Run":
    """What gives a file's learned tokens: such files hold a whole network, and are read once for many pictures."""
    state = weights.read_state(file, allow_pickle=allow_pickle)
    found = [value for key, value in state.items() if key.rpartition(".")[2] == PROMPTS]
    if len(found) != 1:
        raise BadWeights(
            f"masked-crop takes learned tokens for blank patches: {file} has {len(found)} {PROMPTS}, not 1; "
            "leave the option checkpoint out to blank pixels alone"
        )
    tokens = found[0].float().clone()  # of its own: the rest of the file is let go

    def run(*_: "Tensor") -> "tuple[Tensor, ...]":
        return (tokens,)

    return run


def refuses(walk: Any) -> str:
    """Why mask prompts cannot enter a tower; empty where they can."""
    from ovseg.clip.walk import Vit

    plain = type(walk) is Vit and walk.tower.pool_type == "tok"
    return "" if plain else "blank patches enter open_clip's VisionTransformer with an image token alone"


def _prompted(
    clip: "Clip", views: list[UInt8[np.ndarray, "_ _ 3"]], seen: list[Bool[np.ndarray, "_ _"]], prompts: "Tensor"
) -> Float32[np.ndarray, "n dim"]:
    """Unit image vectors of pictures whose blank patches are the learned tokens in the first blocks."""
    import torch
    import torch.nn.functional as F

    from ovseg import runtime
    from ovseg.clip.dense import TOKENS_PER_BATCH
    from ovseg.clip.families import find
    from ovseg.clip.windows import normalised

    walk = find(clip.visual)
    if why := refuses(walk):
        raise UnsupportedTower(f"mask prompts cannot enter this {walk.family}: {why}.")
    tower: Any = walk.tower
    rows, cols = walk.native
    if prompts.shape[1] not in (1, rows * cols) or prompts.shape[2] != walk.width:
        raise BadWeights(
            f"{PROMPTS} must fit the network: {list(prompts.shape)} came, {rows * cols} patches (or 1) of width "
            f"{walk.width} are needed"
        )
    found = []
    step = max(1, TOKENS_PER_BATCH // (rows * cols))
    for start in range(0, len(views), step):
        some = slice(start, start + step)
        with torch.inference_mode(), runtime.kernels(clip.device):
            pixels = torch.stack([normalised(clip, view) for view in views[some]]).to(clip.device)
            masks = torch.from_numpy(np.stack(seen[some])).float()[:, None].to(clip.device)
            kept = F.max_pool2d(masks, walk.patch).flatten(1)[..., None]  # 1 where a patch has a pixel of the mask
            patches = tower.conv1(pixels).flatten(2).mT
            patches = patches * kept + prompts[0] * (1 - kept)
            own = tower.class_embedding.expand(len(patches), 1, -1)
            tokens = tower.ln_pre(torch.cat([own, patches], dim=1) + tower.positional_embedding)
            for number in range(1, walk.depth):
                tokens = walk.block(number, tokens, (rows, cols))
                if number < len(prompts):
                    patches = tokens[:, 1:] * kept + prompts[number] * (1 - kept)
                    tokens = torch.cat([tokens[:, :1], patches], dim=1)
            found.append(F.normalize(walk.whole(tokens, (rows, cols)).float(), dim=-1).cpu().numpy())
    return np.concatenate(found)


__all__ = ["PROMPTS", "blank_tokens", "blanked", "masked_crop", "nearest", "refuses"]
