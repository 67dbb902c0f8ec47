"""Region vectors from a network with a fourth channel: Alpha-CLIP, which is shown where to look.

Tokens are conv1(rgb) + conv1_alpha((mask - 0.5) / 0.26), everything after is the tower's own. SunzeY/AlphaCLIP@e5676c9
(arXiv:2312.03818). Its weights are a whole vision tower beside OpenAI's text tower, in a .pth of its own
(`clip_b16_grit1m_fultune_8xe.pth` and others), which is what `checkpoint` takes. An empty alpha map is not plain CLIP:
mask 0 is alpha -1.92; plain CLIP is an alpha convolution of zeros.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from ovseg import images, weights
from ovseg.encoders.crops import chosen, expand_of, spans
from ovseg.encoders.rows import View
from ovseg.errors import BadUsage, BadWeights
from ovseg.raster import decode_rle
from ovseg.types import Regions

if TYPE_CHECKING:
    from torch import Tensor

    from ovseg.clip.load import Clip
    from ovseg.runtime import Run

ALPHA = "conv1_alpha.weight"
LOOKS = ("whole", "crop")
ALPHA_MEAN, ALPHA_STD = 0.5, 0.26  # the published normalisation of the mask


def alpha(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image vector of the picture with each mask as its fourth channel, picture and mask squeezed to the square.

    `look` "whole" shows the whole picture, "crop" the box grown by `expand`. `checkpoint` is a file of Alpha-CLIP's
    vision tower; without one the network's own file must have brought `conv1_alpha.weight`. One pass a region, batched.
    """
    import torch

    from ovseg.clip.dense import TOKENS_PER_BATCH
    from ovseg.clip.windows import normalised

    assert view.clip is not None, "a row that needs the network gets it"
    clip, (look, expand) = view.clip, read(options)
    run = opened(clip, str(options["checkpoint"]), bool(options["allow_pickle"]))
    height, width = clip.image_size
    everything = (slice(0, regions.height), slice(0, regions.width))
    whole = normalised(clip, images.resize(view.image, height, width)) if look == "whole" else None
    step, found = max(1, TOKENS_PER_BATCH // (height * width // 256)), []
    places = [everything if look == "whole" else spans(box, expand, *view.image.shape[:2]) for box in regions.boxes]
    for start in range(0, len(regions), step):
        colours, maps = [], []
        for place, rle in zip(places[start : start + step], regions.rles[start : start + step], strict=True):
            seen = normalised(clip, images.resize(view.image[place], height, width)) if whole is None else whole
            colours.append(seen)
            maps.append(alpha_map(decode_rle(rle)[place], height, width))
        (vectors,) = run(torch.stack(colours).to(clip.device), torch.stack(maps).to(clip.device))
        found.append(vectors.float().cpu().numpy())
    return np.concatenate(found)


def read(options: Mapping[str, Any]) -> tuple[str, float]:
    """The options `look` and `expand`, checked."""
    return chosen("look", options["look"], LOOKS), expand_of(options)


def alpha_map(mask: Shaped[np.ndarray, "h w"], height: int, width: int) -> "Float32[Tensor, '1 rows cols']":
    """A mask as the fourth channel of a picture of that size: bilinear with antialias, less 0.5, over 0.26."""
    import torch
    import torch.nn.functional as F

    grey = torch.from_numpy((mask > 0).astype(np.float32))[None, None]
    resized = F.interpolate(grey, (height, width), mode="bilinear", align_corners=False, antialias=True)[0]
    return (resized - ALPHA_MEAN) / ALPHA_STD


def opened(clip: "Clip", checkpoint: str, allow_pickle: bool = False) -> "Run":
    """What maps (pixels, alpha maps) to image vectors; of one file it is made once for a network."""
    if checkpoint:
        file = Path(checkpoint).expanduser()
        stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else (0, 0)
        key = ("alpha", str(file), stamp)
        return clip.prepared.get(clip.visual, key, lambda: runner(clip, *_read(clip, file, allow_pickle)))
    if ALPHA not in clip.parts:
        raise BadUsage(
            f"encoder alpha needs {ALPHA}, and {clip.name} came without: give checkpoint=FILE, a vision tower of "
            "Alpha-CLIP's (github.com/SunzeY/AlphaCLIP), in encoder_options"
        )
    return runner(clip, clip.visual, clip.parts[ALPHA])


def runner(clip: "Clip", visual: Any, weight: "Tensor") -> "Run":
    """The tower with an entrance of four channels, its own blocks, on the network's device."""
    import torch

    from ovseg import runtime

    tower = with_alpha(visual, weight.to(clip.device, torch.float32), clip.name)

    def run(*inputs: "Tensor") -> "tuple[Tensor, ...]":
        with torch.inference_mode(), runtime.kernels(clip.device):
            return (tower(torch.cat(inputs, dim=1)),)

    return run


def with_alpha(visual: Any, weight: "Tensor", source: str) -> Any:
    """A vision tower that takes (b, 4, height, width): the same parts, the same tensors, but for the entrance.

    The tower that was given stays as it is, and runs its own forward in the answer too.
    """
    import torch
    import torch.nn.functional as F

    conv = visual.conv1
    wanted = [conv.weight.shape[0], 1, *conv.weight.shape[2:]]
    if list(weight.shape) != wanted:
        raise BadWeights(
            f"{ALPHA} of {source} is {list(weight.shape)} and the network needs {wanted}; is it of another "
            "architecture?"
        )

    class Entrance(torch.nn.Module):
        def forward(self, pixels: "Tensor") -> "Tensor":
            colours: Tensor = conv(pixels[:, :3])
            return colours + F.conv2d(pixels[:, 3:], weight, stride=conv.stride)

    tower = copy.copy(visual)
    tower._modules = {**visual._modules, "conv1": Entrance()}
    return tower.eval()


def refuses(walk: Any) -> str:
    """Why an alpha channel cannot enter a tower; empty where it can."""
    from ovseg.clip.walk import Vit

    return "" if type(walk) is Vit else "an alpha channel enters beside conv1 of open_clip's VisionTransformer alone"


def _read(clip: "Clip", file: Path, allow_pickle: bool) -> "tuple[Any, Tensor]":
    """A file's vision tower and alpha convolution; the network's own tower where the file has the convolution alone."""
    from ovseg.clip.keymaps import openai_attention
    from ovseg.clip.load import fill

    state = weights.read_state(file, allow_pickle=allow_pickle)
    if any(key.startswith("visual.") for key in state):
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if ALPHA not in state:
        raise BadWeights(
            f"encoder alpha needs {ALPHA}: {file} has none among its {len(state)} tensors, so it is no checkpoint of "
            "Alpha-CLIP; encoder circle or crop need none"
        )
    weight = state[ALPHA]
    state = openai_attention({key: value for key, value in state.items() if key != ALPHA})
    if not state:
        return clip.visual, weight
    tower = copy.deepcopy(clip.visual)
    fill(tower, state, str(file))
    return tower.eval().requires_grad_(False), weight


__all__ = ["ALPHA", "LOOKS", "alpha", "alpha_map", "opened", "read", "refuses", "runner", "with_alpha"]
