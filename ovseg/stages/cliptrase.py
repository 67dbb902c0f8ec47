"""Clusters of patches by how alike they are inside the network, as segments that vote.

CLIPtrase (Shao et al. 2024, ECCV; leaves162/CLIPtrase@2b7de61). The affinity is that of the block before the last: the
mean over heads of (cos qq + cos kk + cos vv) / 3, patch rows minus the image token's row, negatives 0. DBSCAN on its
rows finds clusters; the mean row of a cluster is its map, which goes bilinear to four times the grid, through a median
filter of 7 x 7, bilinear to pixels, and by arg-max to segments. Each segment then takes its most frequent label. Where
no cluster is found nobody votes and the arg-max stays.

A picture that was read by the method of that name brings its affinity (`ovseg.clip.plugins.cliptrase`; towers with an
image token). By any other method that of the cells' own final vectors stands in (cosines minus those with the whole
picture's vector, negatives 0): ours, and another method than the paper's.
"""

import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from ovseg.errors import BadInput, BadUsage
from ovseg.raster import upsample
from ovseg.stages.scene import Scene

RATIO = 4  # the cluster maps are smoothed on a grid so much finer
BAND = 64  # pixel rows up-sampled at a time


def cliptrase(
    scene: Scene, rows: Float32[np.ndarray, "rows r c"], *, eps: float = 0.7, least: int = 3
) -> Int32[np.ndarray, "height width"]:
    """The cluster of each pixel, -1 everywhere where none was found.

    `eps` and `least` are DBSCAN's: .7 and 3 at 14 x 14 cells, 1.1 and 7 at 21 x 21 (distances grow with the cells).
    """
    affinity = scene.features.extras["affinity"] if "affinity" in scene.features.extras else own_affinity(scene)
    labels = clusters(affinity, eps=eps, least=least)
    return segments(affinity, labels, scene.features.grid, *scene.picture.shape[:2])


def denoised(affinity: Float32[np.ndarray, "tokens tokens"]) -> Float32[np.ndarray, "cells cells"]:
    """Patch rows minus the image token's row (the first), negatives 0."""
    return np.asarray(np.maximum(affinity[1:, 1:] - affinity[:1, 1:], 0), np.float32)


def own_affinity(scene: Scene) -> Float32[np.ndarray, "cells cells"]:
    """Cosines of the cells' vectors minus those with the whole picture's, negatives 0."""
    vectors = scene.features.vectors.reshape(len(scene.features.vectors), -1)
    return np.asarray(np.maximum(vectors.T @ vectors - scene.features.whole @ vectors, 0), np.float32)


def clusters(
    affinity: Float32[np.ndarray, "cells cells"], *, eps: float = 0.7, least: int = 3
) -> Int[np.ndarray, " cells"]:
    """DBSCAN's cluster of each cell by its row of the affinity, -1 for noise."""
    from sklearn.cluster import DBSCAN

    if eps <= 0 or least < 1:
        raise BadUsage(f"clusters need eps above 0 and at least one cell: got eps {eps}, least {least}")
    return np.asarray(DBSCAN(eps=eps, min_samples=least).fit_predict(affinity), np.int64)


def segments(
    affinity: Float32[np.ndarray, "cells cells"],
    labels: Int[np.ndarray, " cells"],
    grid: tuple[int, int],
    height: int,
    width: int,
) -> Int32[np.ndarray, "height width"]:
    """The cluster whose map is the largest at each pixel; -1 everywhere if all cells are noise."""
    from scipy.ndimage import median_filter

    if grid[0] * grid[1] != len(labels):
        raise BadInput(f"clusters must be of the grid's cells: {len(labels)} labels for {grid[0]}x{grid[1]} cells")
    count = int(labels.max(initial=-1)) + 1
    out = np.full((height, width), -1, np.int32)
    if not count:
        return out
    maps = np.stack([affinity[labels == cluster].mean(axis=0) for cluster in range(count)]).reshape(count, *grid)
    fine = upsample(maps, RATIO * grid[0], RATIO * grid[1])
    smooth: Float[np.ndarray, "k r c"] = np.stack([median_filter(one, size=2 * RATIO - 1) for one in fine])
    for top in range(0, height, BAND):
        band = slice(top, min(height, top + BAND))
        out[band] = upsample(smooth, height, width, band).argmax(axis=0)
    return out


__all__ = ["BAND", "RATIO", "cliptrase", "clusters", "denoised", "own_affinity", "segments"]
