"""CLIPer's class maps: the scores of all layers, the last one's gathered by the fused attention.

Sun et al. 2024 (arXiv:2411.13836; linsun449/cliper.code@c05fa41). Its diffusion stage is not here.
"""

import numpy as np
from jaxtyping import Float32, Int16

from ovseg.errors import BadInput, BadUsage


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
    count, dim, rows, cols = layers.shape
    if rows * cols != len(attention):
        raise BadInput(f"attention must be of the same cells: {len(attention)} rows for {rows}x{cols} cells")
    if not 0 <= floor <= 1 or scale <= 0:
        raise BadUsage(f"floor is in [0, 1] and scale positive: got {floor} and {scale}")
    if not len(names):
        return np.zeros((0, rows, cols), np.float32)
    text = np.concatenate([names, background, names.mean(axis=0, keepdims=True)])
    text = text / np.linalg.norm(text, axis=1, keepdims=True).clip(1e-12)
    cells = layers.reshape(count, dim, rows * cols)
    units = cells / np.linalg.norm(cells, axis=1, keepdims=True).clip(1e-12)
    scores = scale * (text @ units)  # (layers, classes, cells)
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share = share[:, : len(names)]
    chosen = share[selected]
    chosen[chosen < floor * chosen.max(axis=1, keepdims=True)] = 0  # a view: the mean below sees it too
    maps = chosen @ attention + share.mean(axis=0)
    return np.asarray(maps, np.float32).reshape(len(names), rows, cols)


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


__all__ = ["cliper_labels", "cliper_maps"]
