"""Text-aware label propagation: scores flow between cells that look alike and mean the same, not across edges.

PEARL (Pei et al. 2026, arXiv:2603.21528; PGSmall/PEARL@c26062b). On a grid of about 80 cells one linear system is
solved: (C + L) F = C l, with l the scores, L the Laplacian of the 4-neighbour graph and

    p      softmax over prompt rows of the *unscaled* cosines of a cell
    agree  sum over rows c of S_cc p_c p'_c between two cells, or a cell and itself; S = rows of
           (softmax(T T^t / .5) + 10 I) made to sum to 1, T the prompt rows
    C      max(p, .05)^2 (1 + agree), p the largest of the cell: how far its own score is trusted
    edge   min(1, exp(-5 |dI| / mean |dI|) (1 + agree))

by 25 steps of conjugate gradients from l. The design page leaves open, and we chose: 80 cells are the *longer* side,
|dI| is the mean over RGB of absolute differences of neighbouring cells, and its mean is over all edges.
"""

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ovseg.errors import BadUsage
from ovseg.stages.canvas import regrid
from ovseg.stages.scene import Scene
from ovseg.stages.solve import conjugate_gradient

SHARPNESS = 5.0  # of an edge of the picture, in mean differences
LEAST_TRUST = 0.05
OWN_MEANING = 10.0  # what a row's likeness to itself is raised by
TEXT_TEMPERATURE = 0.5


def tlp(
    scene: Scene, rows: Float32[np.ndarray, "rows r c"], *, cells: int = 80, steps: int = 25
) -> Float32[np.ndarray, "rows r2 c2"]:
    """Scores after propagation, (rows, r', c'): on the longer side `cells` long, or with 0 on the grid they came on.

    0 steps change nothing. Cost: a few multiplications per row, cell and step; memory is 8 maps on the small grid.
    """
    if cells < 0 or steps < 0:
        raise BadUsage(f"tlp needs cells and steps of 0 and more: got {cells} and {steps}")
    if steps == 0 or not len(rows):
        return rows
    grid = _grid(scene, cells) if cells else (rows.shape[1], rows.shape[2])
    given = regrid(rows, *grid)
    values = np.ascontiguousarray(given.reshape(len(rows), -1).T)  # (cells, rows)
    trust, right, down = weights(scene.picture, given / np.float32(scene.scale), scene.vocabulary.vectors)
    pull = trust.reshape(-1, 1)

    def apply(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        maps = x.reshape(*grid, -1)
        flow = np.zeros_like(maps)
        across = right[..., None] * (maps[:, :-1] - maps[:, 1:])
        flow[:, :-1] += across
        flow[:, 1:] -= across
        along = down[..., None] * (maps[:-1] - maps[1:])
        flow[:-1] += along
        flow[1:] -= along
        return np.asarray(flow.reshape(x.shape) + pull * x)

    solved = conjugate_gradient(apply, pull * values, values, steps=steps, together=True)
    return np.ascontiguousarray(solved.T).reshape(len(rows), *grid)


def weights(
    picture: UInt8[np.ndarray, "height width 3"],
    cosines: Float32[np.ndarray, "rows r c"],
    text: Float32[np.ndarray, "rows dim"],
) -> tuple[Float32[np.ndarray, "r c"], Float32[np.ndarray, "r c_less"], Float32[np.ndarray, "r_less c"]]:
    """Trust of every cell, and the edges to the cell at the right and to the one below."""
    share = np.exp(cosines - cosines.max(axis=0))
    share /= share.sum(axis=0)
    near = text @ text.T / TEXT_TEMPERATURE
    near = np.exp(near - near.max(axis=1, keepdims=True))
    own = (near.diagonal() / near.sum(axis=1) + OWN_MEANING) / (1 + OWN_MEANING)
    weighted = own.astype(np.float32)[:, None, None] * share
    trust = share.max(axis=0).clip(LEAST_TRUST) ** 2 * (1 + (weighted * share).sum(axis=0))
    channels = [picture[None, :, :, channel].astype(np.float32) for channel in range(3)]
    shown = np.concatenate([regrid(channel, cosines.shape[1], cosines.shape[2]) for channel in channels])
    across, along = np.abs(np.diff(shown, axis=2)).mean(axis=0), np.abs(np.diff(shown, axis=1)).mean(axis=0)
    steps = np.concatenate([across.ravel(), along.ravel()])
    mean = max(float(steps.mean()) if len(steps) else 0.0, 1e-6)  # a flat picture has no edge at all
    agree_across = (weighted[:, :, :-1] * share[:, :, 1:]).sum(axis=0)
    agree_along = (weighted[:, :-1] * share[:, 1:]).sum(axis=0)
    right = np.minimum(1, np.exp(-SHARPNESS * across / mean) * (1 + agree_across))
    down = np.minimum(1, np.exp(-SHARPNESS * along / mean) * (1 + agree_along))
    return np.asarray(trust, np.float32), np.asarray(right, np.float32), np.asarray(down, np.float32)


def _grid(scene: Scene, cells: int) -> tuple[int, int]:
    height, width = scene.picture.shape[:2]
    longer = max(height, width)
    return max(1, round(cells * height / longer)), max(1, round(cells * width / longer))


__all__ = ["LEAST_TRUST", "OWN_MEANING", "SHARPNESS", "TEXT_TEMPERATURE", "tlp", "weights"]
