"""How every stored program's answers are computed here: rows, variants, plug-ins and the stages around them.

A program of the stored data is a name of `PROGRAMS` and a function that gives its tensors for one stored picture
("native", "wide" or "tall") by the names of its extras ("" is the tensor itself). Whatever a program was given beside
the picture (another network's keys, regions, a random head) is taken from the stored data too.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg.clip.attention import Read, read, taps_of
from ovseg.clip.mend import detect, outlier_score
from ovseg.clip.methods import LAST_BLOCKS, VARIANTS, last_block
from ovseg.clip.plugins.cass import cass
from ovseg.clip.plugins.clip_dinoiser import Head, dinoise, probability
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.plugins.cliptrase import affinity
from ovseg.clip.plugins.corrclip import corrclip
from ovseg.clip.plugins.decomposition import decompose
from ovseg.clip.plugins.gem import heat
from ovseg.clip.plugins.itaclip import views
from ovseg.clip.plugins.resclip import resclip
from ovseg.clip.plugins.trident import trident
from ovseg.clip.program import Group, LastBlock, Term
from ovseg.clip.sight import Sight
from ovseg.clip.tower import dense_tokens, grid_of, prefix
from ovseg.clip.walk import Tower, Vit, resampled
from ovseg.raster import upsample
from ovseg.stages.cliper import cliper_maps
from ovseg.stages.cliptrase import clusters, denoised, segments
from ovseg.stages.rows import without_redundancy
from ovseg.stages.sfr import feedback, patch_labels


@dataclass(frozen=True, eq=False)
class Golden:
    """The stored data, opened."""

    folder: Path

    @cached_property
    def programs(self) -> dict[str, Any]:
        """Each stored program with its settings, tolerance and tensors."""
        methods: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text("utf-8"))["methods"]
        return methods

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Pictures, position grids, texts and a guide."""
        tensors: dict[str, Tensor] = load_file(self.folder / "inputs.safetensors")
        return tensors

    @cached_property
    def walk(self) -> Vit:
        """The stored tower."""
        return Vit(self.tower())

    def tower(self, quick_gelu: bool = True) -> Tower:
        """The stored tower, or with another activation."""
        import open_clip

        config = json.loads((self.folder / "model.json").read_text("utf-8"))
        model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick_gelu)
        model.visual.load_state_dict(load_file(self.folder / "model.safetensors"))
        return model.visual.eval().requires_grad_(False)

    def stored(self, program: str) -> dict[str, Tensor]:
        """A program's tensors by name."""
        tensors: dict[str, Tensor] = load_file(self.folder / "outputs" / f"{program}.safetensors")
        return tensors

    def read(self, row: LastBlock, shape: str, *, compat: bool = False, **given: Tensor) -> Read:
        """A row's answer for a stored picture."""
        pixels, walk = self.inputs[shape], self.walk
        if "guide" in row.needs and not given:
            given = {"guide": self.inputs["guide"]}
        taps = prefix(walk, pixels, taps_of(row, walk.depth))
        return read(Sight(walk, taps, grid_of(walk, pixels), given, compat), row)

    def whole(self, shape: str) -> Tensor:
        """The tower's own embedding of a stored picture, not normalised."""
        pixels = self.inputs[shape]
        return self.walk.whole(prefix(self.walk, pixels)[self.walk.depth], grid_of(self.walk, pixels))


Tensors = Mapping[str, Tensor]
Program = Callable[[Golden, str, Tensors], dict[str, Tensor]]


def _row(name: str, golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    """A row through the door; its own image token where it is stored."""
    row = last_block(name)
    guide = golden.inputs["guide"] if "guide" in row.needs else None
    cells = dense_tokens(golden.walk.tower, golden.inputs[shape], name, guide=guide)
    own = golden.read(row, shape).own if f"{shape}.cls" in stored else None
    return {"": cells} | ({} if own is None else {"cls": own})


def _vanilla(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    return {"": _row("vanilla", golden, shape, {})[""], "cls": golden.whole(shape)}


def _maskclip_published(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    """Its configuration had another activation and another epsilon than CLIP's own."""
    tower = golden.tower(quick_gelu=False)
    for part in tower.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    cells = dense_tokens(tower, golden.inputs[shape], "maskclip")
    return {"": cells, "cosine": _cosines(cells, golden)}


def _maskclip(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    cells = _row("maskclip", golden, shape, stored)[""]
    return {"": cells, "cosine": _cosines(cells, golden)}


def _gem(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    cells = _row("gem", golden, shape, stored)[""]
    height, width = golden.inputs[shape].shape[2:]
    return {"": cells, "heat": heat(cells, golden.inputs["text"], (height, width))[..., ::4, ::4]}


def _surgery(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    cells, whole, text = _row("clip-surgery", golden, shape, {})[""], golden.whole(shape), golden.inputs["text"]
    cosines = _cosines(cells, golden).permute(0, 3, 1, 2)
    out = [
        without_redundancy(_array(one), _array(F.normalize(own, dim=-1)), _array(text))
        for one, own in zip(cosines, whole, strict=True)
    ]
    return {"": cells, "cls": whole, "surgery": torch.from_numpy(np.stack(out)).flatten(2).mT}


def _cliptrase(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    """Tokens, then its stage from the tower's own affinity on: denoised, clustered, voted."""
    out = {"": _row("cliptrase", golden, shape, stored)[""], "affinity": affinity(golden.walk, golden.inputs[shape])}
    seen = [denoised(_array(one)) for one in out["affinity"]]
    out |= {"affinity_denoised": _stack(seen), "cluster_labels": _stack(clusters(one) for one in seen)}
    rows, cols = out[""].shape[1:3]
    height, width = golden.inputs[shape].shape[2:]
    labels = []
    for cosines, one in zip(_cosines(out[""], golden).permute(0, 3, 1, 2), seen, strict=True):
        voted = upsample(_array(cosines), height, width).argmax(axis=0)
        found = segments(one, clusters(one), (rows, cols), height, width)
        for segment in set(found[found >= 0].tolist()):
            voted[found == segment] = np.bincount(voted[found == segment]).argmax()
        labels.append(voted)
    return out | {"voted_prediction": _stack(labels)}


def _cliper(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    found, text = layers(golden.walk, golden.inputs[shape]), _array(golden.inputs["text"])
    maps = [
        cliper_maps(_array(each.permute(0, 3, 1, 2)), _array(seen), text[:4], text[4:])
        for each, seen in zip(found.tokens, found.attention, strict=True)
    ]
    cells = _row("cliper", golden, shape, stored)[""]
    return {"": cells, "layers": found.tokens, "attention": found.attention, "scores": _stack(maps)}


def _resclip(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    labels: list[np.ndarray] = []
    links: list[np.ndarray] = []

    def feed(picture: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        labels.append(patch_labels(picture, cosines, least=0.5))
        links.append(feedback(labels[-1], compat=True))
        return links[-1]

    cells = resclip(golden.walk, golden.inputs[shape], golden.inputs["text"], feed)
    out = {"": cells, "patch_labels": _stack(labels), "sfr": F.pad(_stack(links), (1, 0, 1, 0))}
    return out | {"half_step": cells}  # the program's rounding to half precision is what its tolerance is for


def _sc_clip(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    row, walk = LAST_BLOCKS["sc-clip"], golden.walk
    assert row.repair is not None, "sc-clip repairs"
    pixels = golden.inputs[shape]
    taps = prefix(walk, pixels, taps_of(row, walk.depth))
    sight = Sight(walk, taps, grid_of(walk, pixels))
    cells = read(sight, row).cells
    flags = detect(sight, row.repair)
    widest = stored[f"{shape}.outliers"].shape[1]
    found = [F.pad(one.nonzero()[:, 0], (0, widest), value=-1)[:widest] for one in flags]
    lof = outlier_score(taps[walk.depth][:, walk.own :])
    return {"": cells, "index_corrected": cells, "lof": lof, "outliers": torch.stack(found)}


def _sfp(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    return {"": _row("sfp", golden, shape, stored)[""], "L2": golden.read(VARIANTS["sfp-norm"], shape).cells}


def _proxyclip(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    row, (rows, cols) = LAST_BLOCKS["proxyclip"], grid_of(golden.walk, golden.inputs[shape])
    other = replace(row, groups=(Group((Term("guide", scale=5.0, shift=0.9, cut=True),)),))
    return {
        "": _row("proxyclip", golden, shape, stored)[""],
        "batch_of_two": golden.read(row, shape, compat=True).cells,
        "same_grid": golden.read(row, shape, guide=golden.inputs["guide"][:, :, :rows, :cols]).cells,
        "beta0.9_gamma5": golden.read(other, shape).cells,
    }


def _dinoiser(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    head = {name.removeprefix("head."): value for name, value in stored.items() if name.startswith("head.")}
    found = dinoise(golden.walk, golden.inputs[shape], Head.read(head, golden.walk.width))
    sure = probability(found.tokens, golden.inputs["text"])
    return {
        "": found.tokens,
        "background": found.background,
        "correlation": found.correlation,
        "probability": sure,
    }


def _decomposition(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    found = decompose(golden.walk, golden.inputs[shape])
    return {
        "": found.patches,
        "cls_token": found.own,
        "layer_head": found.heads,
        "mlp": found.mlps,
        "embedding": found.whole,
    }


def _cass(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    pixels, keys = golden.inputs[shape], stored[f"{shape}.keys"].float()
    kinds = {"": True, "no_rescale": False}
    return {extra: cass(golden.walk, pixels, keys, stretch=kind, compat=True) for extra, kind in kinds.items()}


def _corrclip(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    features, (rows, cols) = stored[f"{shape}.features"].float(), stored[shape].shape[1:3]
    guide = features.mT.reshape(len(features), -1, rows, cols)
    regions = stored[f"{shape}.regions"].long()
    return {"": corrclip(golden.walk, golden.inputs[shape], guide, regions, compat=True)}


def _trident(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    """The two stored pictures are two windows of one, side by side, four tokens apart."""
    sam = stored["sam_attention"][0].float(), stored["sam_value"][0].float()
    pixels, guide, places = golden.inputs[shape], golden.inputs["guide"], [(0, 0, 7, 7), (0, 4, 7, 11)]
    kinds: dict[str, tuple[float, float | None]] = {"": (1.2, None), "cos3_noneg": (3.0, 0.6)}
    return {
        extra: trident(golden.walk, pixels, guide, places, *sam, factor=factor, negative=negative)[None]
        for extra, (factor, negative) in kinds.items()
    }


def _views(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    pixels = golden.inputs[shape]
    logits = (views(golden.walk, pixels) @ golden.inputs["text"].mT).permute(0, 3, 1, 2)
    full = F.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=False)
    return {"logits": full[..., ::4, ::4]}


def _positions(golden: Golden, shape: str, stored: Tensors) -> dict[str, Tensor]:
    own, grid = golden.walk.tower.positional_embedding, grid_of(golden.walk, golden.inputs[shape])
    modes = {"scale_factor": "scale01", "antialias": "antialias"}
    return {extra: resampled(own, 1, golden.walk.native, grid, mode) for extra, mode in modes.items()}


def _cosines(cells: Tensor, golden: Golden) -> Tensor:
    return F.normalize(cells, dim=-1) @ golden.inputs["text"].mT


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


def _stack(arrays: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


# stored names of rows that ours differ from; the others are ours with `_` for `-`
_OTHERWISE = {"maskclip_drop": "maskclip-reduced", "resclip_rcs": "resclip"}
_OWN_NAMES = (*LAST_BLOCKS, *VARIANTS)

PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        **{name.replace("-", "_"): partial(_row, name) for name in _OWN_NAMES},
        **{stored: partial(_row, name) for stored, name in _OTHERWISE.items()},
        "cass": _cass,
        "clip_dinoiser": _dinoiser,
        "clip_surgery": _surgery,
        "cliper": _cliper,
        "cliptrase": _cliptrase,
        "corrclip": _corrclip,
        "decomposition": _decomposition,
        "gem": _gem,
        "itaclip_views": _views,
        "maskclip_keep": _maskclip,
        "maskclip_published": _maskclip_published,
        "positions": _positions,
        "proxyclip": _proxyclip,
        "resclip": _resclip,
        "sc_clip": _sc_clip,
        "sfp": _sfp,
        "trident": _trident,
        "vanilla": _vanilla,
    }
)


__all__ = ["Golden", "PROGRAMS", "Program", "Tensors"]
