"""CLIPer's class maps: the scores of all layers, the last one's gathered by the fused attention.

As a stage the logarithms of the maps stand for scores, so that a posterior is a name's share of the maps at its place;
negatives have maps too, and win pixels by them. The thresholds of the paper are `cliper_labels`.

Sun et al. 2024 (arXiv:2411.13836; linsun449/cliper.code@c05fa41). Its diffusion stage is not here.
"""

import numpy as np
from jaxtyping import Float32, Int16

from ovseg.errors import BadInput, BadUsage
from ovseg.stages.scene import Scene

LEAST = 1e-6  # a map's value where its class is nowhere near, so that its logarithm stays finite


def cliper(
    scene: Scene, rows: Float32[np.ndarray, "rows r c"], *, floor: float = 0.1, selected: int = -1
) -> Float32[np.ndarray, "rows r2 c2"]:
    """Logarithms of the class maps of every prompt row, on the grid of the layers; the cells' own scores take no part.

    `floor` is .1 (VOC) to .35 (Cityscapes), `selected` the layer whose map is gathered, counted from 0. The scale is
    the scene's (the paper's: 100, 50 on Stuff and Object).
    """
    extras, words = scene.features.extras, scene.vocabulary
    named = words.owner >= 0
    if not named.any():
        return rows
    layers, attention = extras["layers"], extras["attention"]
    names, others = words.vectors[named], words.vectors[~named]
    maps = _maps(layers, attention, names, others, floor=floor, scale=scene.scale, selected=selected)
    out = np.empty((len(named), *maps.shape[1:]), np.float32)
    out[named], out[~named] = maps[: len(names)], maps[len(names) :]
    return np.log(np.maximum(out, np.float32(LEAST), out=out), out=out)


def cliper_maps(
    layers: Float32[np.ndarray, "layers dim rows cols"],
    attention: Float32[np.ndarray, "cells cells"],
    names: Float32[np.ndarray, "names dim"],
    background: Float32[np.ndarray, "words dim"],
    *,
    floor: float = 0.1,
    scale: float = 100.0,
    selected: int = -1,
) -> Float32[np.ndarray, "names rows cols"]:
    """One map a name, in [0, 2]: T(p_selected) A + mean over layers of p.

    p_l is the softmax over names, background words and the mean of the names' vectors of the scaled cosines of layer l;
    T sets a name's values below `floor` times its largest to 0 and is applied before the mean, as released (there the
    tensor is changed in place). A is the last layer's fused attention, mean over heads, patches alone. Vectors may have
    any length. The map is p A, not A p: a cell gives to those that it attends to.
    """
    rows, cols = layers.shape[2:]
    if rows * cols != len(attention):
        raise BadInput(f"attention must be of the same cells: {len(attention)} rows for {rows}x{cols} cells")
    if not len(names):
        return np.zeros((0, rows, cols), np.float32)
    return _maps(layers, attention, names, background, floor=floor, scale=scale, selected=selected)[: len(names)]


def _maps(
    layers: Float32[np.ndarray, "layers dim rows cols"],
    attention: Float32[np.ndarray, "cells cells"],
    names: Float32[np.ndarray, "names dim"],
    background: Float32[np.ndarray, "words dim"],
    *,
    floor: float,
    scale: float,
    selected: int,
) -> Float32[np.ndarray, "classes rows cols"]:
    """The maps of names and then of background words, by one rule."""
    count, dim, rows, cols = layers.shape
    if not 0 <= floor <= 1 or scale <= 0 or not -count <= selected < count:
        raise BadUsage(
            f"floor is in [0, 1], scale positive and selected one of {count} layers: got {floor}, {scale}, {selected}"
        )
    text = np.concatenate([names, background, names.mean(axis=0, keepdims=True)])
    text = text / np.linalg.norm(text, axis=1, keepdims=True).clip(1e-12)
    cells = layers.reshape(count, dim, rows * cols)
    units = cells / np.linalg.norm(cells, axis=1, keepdims=True).clip(1e-12)
    scores = scale * (text @ units)  # (layers, classes, cells)
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share = share[:, :-1]
    chosen = share[selected]
    chosen[chosen < floor * chosen.max(axis=1, keepdims=True)] = 0  # a view: the mean below sees it too
    maps = chosen @ attention + share.mean(axis=0)
    return np.asarray(maps, np.float32).reshape(-1, rows, cols)


def cliper_labels(
    maps: Float32[np.ndarray, "names height width"],
    *,
    score: float = 0.0,
    background: float = 0.0,
    stretch: bool = False,
) -> Int16[np.ndarray, "height width"]:
    """The name with the largest map at each place; -1 where none takes part or the largest is below `background`.

    A name takes part if its map rises above `score` somewhere. `stretch` brings each map that takes part to [0, 1]
    first, a flat one to 0.
    """
    _, height, width = maps.shape
    found = np.flatnonzero(maps.max(axis=(1, 2), initial=-np.inf) > score)
    if not len(found):
        return np.full((height, width), -1, np.int16)
    shown = maps[found]
    if stretch:
        low = shown.min(axis=(1, 2), keepdims=True)
        shown = (shown - low) / (shown.max(axis=(1, 2), keepdims=True) - low).clip(1e-12)
    best = found[shown.argmax(axis=0)]
    return np.where(shown.max(axis=0) < background, -1, best).astype(np.int16)


__all__ = ["LEAST", "cliper", "cliper_labels", "cliper_maps"]
