"""Label propagation over patches (LPOSS) and then over pixels (LPOSS+).

Stojnic et al. 2025 (CVPR; vladan-stojnic/LPOSS@e489a74). Over patches, those of all windows at once where windows are
kept apart:

    W_ij = max(0, cos_ij)^3 exp(-.01 d_ij)  for the 400 nearest j by cosine, d in pixels of patches 16 px wide
    W <- W + W^t without its diagonal, then D^-1/2 W D^-1/2;  solve (I - .95 W) F = l, each prompt row by at most 10
    steps of conjugate gradients from zero

Over pixels: W_ij = exp(-|dLab| / .01) in a neighbourhood of 13 x 13 px, Lab divided by (100, 128, 128); same solve.

The papers' affinity is of DINO features: here of `guide` where a scene has one, else of CLIP's own features, which is
another and weaker method. Answers are multiplied with 1 - .95, so that they stay as large as the scores that came (a
threshold keeps its meaning; no arg-max changes).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.sparse import csr_array, diags_array

from ovseg import geometry, images
from ovseg.errors import BadUsage
from ovseg.raster import upsample
from ovseg.stages.canvas import cosines, join, regrid
from ovseg.stages.scene import Scene
from ovseg.stages.solve import Values, conjugate_gradient

PATCH = 16  # px: distances are those of a tower with such patches, whatever the cells are
TOLERANCE = 1e-6
LAB = (100.0, 128.0, 128.0)
BLOCK = 1024  # cells whose neighbours are sought at a time


def lposs(
    scene: Scene,
    rows: Float32[np.ndarray, "rows r c"],
    *,
    neighbours: int = 400,
    alpha: float = 0.95,
    power: float = 3.0,
    decay: float = 0.01,
    steps: int = 10,
) -> Float32[np.ndarray, "rows r2 c2"]:
    """Scores after propagation over patches, on the grid (or canvas) that they came on; on the guide's, if it has one.

    With windows kept apart, scores of all windows are propagated together and then joined on the canvas; a guide is of
    the whole picture and takes no part there. 0 neighbours, or `alpha` 0, change nothing.
    """
    _check(alpha, steps)
    if neighbours < 1 or alpha == 0 or not len(rows):
        return rows
    windows = scene.features.windows
    if windows is not None:
        n, dim, high, wide = windows.vectors.shape
        places = np.concatenate(
            [
                _middles(high, wide, windows.crop[0] / high, windows.crop[1] / wide) + np.array([top, left], np.float32)
                for top, left in zip(windows.tops.tolist(), windows.lefts.tolist(), strict=True)
            ]
        )
        units = windows.vectors.transpose(0, 2, 3, 1).reshape(-1, dim)
        given = np.float32(scene.scale) * cosines(windows, scene.vocabulary)
        values = given.transpose(0, 2, 3, 1).reshape(n * high * wide, -1)
        solved = _solve(units, places, values, neighbours, alpha, power, decay, steps)
        return join(windows, np.ascontiguousarray(solved.reshape(n, high, wide, -1).transpose(0, 3, 1, 2)))
    source = scene.features.extras.get("guide", scene.features.vectors)
    rows = regrid(rows, source.shape[1], source.shape[2])
    units = source.reshape(len(source), -1).T
    places = _middles(source.shape[1], source.shape[2], PATCH, PATCH)
    values = np.ascontiguousarray(rows.reshape(len(rows), -1).T)
    solved = _solve(units, places, values, neighbours, alpha, power, decay, steps)
    return np.ascontiguousarray(solved.T).reshape(rows.shape)


def lposs_plus(
    scene: Scene,
    rows: Float32[np.ndarray, "rows r c"],
    *,
    alpha: float = 0.95,
    tau: float = 0.01,
    reach: int = 6,
    steps: int = 10,
    short_side: int = 448,
) -> Float32[np.ndarray, "rows r2 c2"]:
    """Scores after propagation over the pixels of the picture, at most `short_side` px on its shorter side.

    Neighbours are at most `reach` px away along each axis. `reach` 0 or `alpha` 0 change nothing. Slow: 168
    multiplications per pixel, prompt row and step. Memory: 84 maps of weights, the answer, five maps a thread.
    """
    _check(alpha, steps)
    if reach < 0 or tau <= 0 or short_side < 1:
        raise BadUsage(
            f"lposs-plus needs reach 0 or more, tau and short_side above 0: got {reach}, {tau}, {short_side}"
        )
    if reach == 0 or alpha == 0 or not len(rows):
        return rows
    height, width = scene.picture.shape[:2]
    if min(height, width) > short_side:
        height, width = geometry.rescale(height, width, short_side, 16 * short_side)
    edges = _pixel_edges(images.resize(scene.picture, height, width), tau, reach)
    answer = np.empty((len(rows), height, width), np.float32)

    def solve(row: int) -> None:
        given = upsample(rows[row : row + 1], height, width).reshape(-1, 1)
        solved = conjugate_gradient(lambda x: _less(x, edges, height, alpha), given, steps=steps, tolerance=TOLERANCE)
        answer[row] = np.float32(1 - alpha) * solved.reshape(height, width)

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        list(pool.map(solve, range(len(rows))))
    return answer


def patch_graph(
    units: Float32[np.ndarray, "n dim"],
    places: Float32[np.ndarray, "n 2"],
    *,
    neighbours: int = 400,
    power: float = 3.0,
    decay: float = 0.01,
) -> csr_array:
    """D^-1/2 (W + W^t) D^-1/2 without its diagonal, for unit vectors at (row, col) places in pixels.

    A cell that is alike to none keeps no neighbour. Memory: 12 bytes for each of n x neighbours edges.
    """
    count = min(neighbours, len(units))
    near = np.empty((len(units), count), np.int64)
    alike = np.empty((len(units), count), np.float32)
    for start in range(0, len(units), BLOCK):
        block = slice(start, start + BLOCK)
        likeness = units[block] @ units.T
        near[block] = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        taken = np.take_along_axis(likeness, near[block], axis=1)
        away = np.linalg.norm(places[block][:, None] - places[near[block]], axis=2)
        alike[block] = taken.clip(0) ** power * np.exp(-decay * away)
    indptr = np.arange(len(units) + 1) * count
    graph = csr_array((alike.ravel(), near.ravel(), indptr), shape=(len(units), len(units)))
    graph = graph + graph.T
    graph = graph - diags_array(graph.diagonal())
    return _normalised(csr_array(graph))


def _solve(
    units: Float32[np.ndarray, "n dim"],
    places: Float32[np.ndarray, "n 2"],
    values: Float32[np.ndarray, "n rows"],
    neighbours: int,
    alpha: float,
    power: float,
    decay: float,
    steps: int,
) -> Float32[np.ndarray, "n rows"]:
    units = units / np.linalg.norm(units, axis=1, keepdims=True).clip(1e-12)
    graph = patch_graph(units, places, neighbours=neighbours, power=power, decay=decay)
    keep = np.float32(alpha)

    def apply(x: Values) -> Values:
        moved: Values = x - keep * (graph @ x)
        return moved

    solved = conjugate_gradient(apply, values, steps=steps, tolerance=TOLERANCE)
    return np.asarray((1 - keep) * solved, np.float32)


def _normalised(graph: csr_array) -> csr_array:
    degree = np.asarray(graph.sum(axis=1)).ravel()
    root = diags_array(np.asarray(1 / np.sqrt(np.where(degree > 0, degree, 1)), np.float32))
    return csr_array(root @ graph @ root)


def _middles(rows: int, cols: int, high: float | int, wide: float | int) -> Float32[np.ndarray, "n 2"]:
    """Middles of the cells of a grid in pixels, row by row."""
    down, across = np.meshgrid((np.arange(rows) + 0.5) * high, (np.arange(cols) + 0.5) * wide, indexing="ij")
    return np.stack([down.ravel(), across.ravel()], axis=1).astype(np.float32)


Edge = tuple[tuple[tuple[slice, slice], tuple[slice, slice]], Float32[np.ndarray, "_ _"]]


def _pixel_edges(picture: UInt8[np.ndarray, "height width 3"], tau: float, reach: int) -> list[Edge]:
    """For each of half the offsets: the pixels that have such a neighbour, those neighbours, and normalised weights."""
    from skimage.color import rgb2lab

    lab = (rgb2lab(picture) / LAB).astype(np.float32)
    degree = np.zeros(picture.shape[:2], np.float32)
    edges: list[Edge] = []
    for here, there in _offsets(picture.shape[0], picture.shape[1], reach):
        weight = np.exp(-np.linalg.norm(lab[here] - lab[there], axis=2) / np.float32(tau))
        degree[here] += weight
        degree[there] += weight
        edges.append(((here, there), weight))
    root = 1 / np.sqrt(np.where(degree > 0, degree, 1))
    for (here, there), weight in edges:
        weight *= root[here] * root[there]
    return edges


def _offsets(height: int, width: int, reach: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Half of the neighbourhood: pixels (above, or left in the row) and their neighbours at one offset."""
    for down in range(min(reach, height - 1) + 1):
        for across in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            if down == 0 and across <= 0:
                continue
            upper, lower = slice(0, height - down), slice(down, height)
            left, right = slice(0, width - abs(across)), slice(abs(across), width)
            yield (upper, left if across >= 0 else right), (lower, right if across >= 0 else left)


def _less(
    x: Float[np.ndarray, "pixels 1"], edges: list[Edge], height: int, alpha: float
) -> Float[np.ndarray, "pixels 1"]:
    """(I - alpha W) x for one map."""
    import cv2

    plane = x.reshape(height, -1)
    moved = np.zeros_like(plane)
    for (here, there), weight in edges:
        cv2.accumulateProduct(weight, plane[there], moved[here])
        cv2.accumulateProduct(weight, plane[here], moved[there])
    return np.asarray(x - np.float32(alpha) * moved.reshape(x.shape))


def _check(alpha: float, steps: int) -> None:
    if not 0 <= alpha < 1 or steps < 1:
        raise BadUsage(f"label propagation needs alpha in [0, 1) and a step: got {alpha} and {steps}")


__all__ = ["BLOCK", "LAB", "PATCH", "TOLERANCE", "lposs", "lposs_plus", "patch_graph"]
