"""Region vectors from the network's last blocks or its map: it looks at regions while the picture is still inside.

All three go on from taps that the dense pass kept (`clip.taps`), so 100 regions cost no further pass of the picture;
where a view has none (`encode` called alone, a method of whole pictures) one pass of the whole picture makes them.

A region that lies in several windows (or scales) gets a vector of each, made unit and averaged by the mask's area in
the window: lengths of a network's vectors mean nothing, and `whole` is averaged in the same way. `convnext` pools
first, over all windows, since that is linear up to the head.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from ovseg.encoders.described import unit
from ovseg.encoders.rows import View
from ovseg.errors import BadUsage, UnknownName
from ovseg.types import Regions

if TYPE_CHECKING:
    from ovseg.clip.taps import Tapped, Taps
    from ovseg.clip.walk import Walk

AT_ONCE = 256  # regions whose shares of cells are held at a time: bounds memory whatever their number
OWN_NEEDS = ("attention", "own", "token", "residual", "mlp")  # of walk.FEATURES, for more tokens like the image's own
EDGES = ("share", "any")
WHERES = ("box", "mask")
STARTS = range(12)  # of `walk.OF` blocks; said here, so that checking a recipe loads no torch

OfWindow = Callable[["Tapped", Regions, Float32[np.ndarray, "n rows cols"]], Float32[np.ndarray, "n dim"]]


def bias(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """A copy of the image's own token for each region that sees itself and, from block `start` of 12 on, its patches.

    With `edge="share"` the logit of a patch gets log m, m the share of it that the mask covers; with "any" every patch
    that the mask touches counts as all covered, as in SAN with its default, the maximum. A mask of the whole window
    gives the network's own vector of it. SAN learns its biases; these are the mask. `start=0` is CorrCLIP's region
    token; on the bundled model it names true masks best (381 drawn things: 77.8 %, `start=9` 70.0, pool 72.5), and
    "share" does so better than "any". Memory is three times heads * `AT_ONCE` * a window's cells.
    """
    import torch

    from ovseg.clip import queries

    check_bias(options)
    edge = str(options["edge"])
    walk = _walk(view)
    first = queries.first_block(options["start"], walk.depth)

    def of_window(
        window: "Tapped", some: Regions, shares: Float32[np.ndarray, "n rows cols"]
    ) -> Float32[np.ndarray, "n dim"]:
        covered = torch.from_numpy(shares if edge == "share" else (shares > 0).astype(np.float32))
        rows = covered.flatten(1).to(window.tokens[first]).log()[None, None]
        found: Float32[np.ndarray, "n dim"] = queries.ask(walk, window.tokens, window.grid, rows, first).cpu().numpy()
        return found

    return _by_window(view, _taps(view, bias_blocks(walk, options)), regions, of_window)


def foveal(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The image's own token, with more weight on a region's cells from block `start` of 12 on; all else stays seen.

    What is added is a Gaussian about the middle of the region's box of cells, between 0 and `strength`; with
    `where="mask"` times the share of each cell that the mask covers. Cells touch the box by ovseg's rule, not FALIP's
    (`queries.spans`). The four last blocks run again for each region, in batches.
    """
    import torch

    from ovseg.clip import queries

    check_foveal(options)
    where, strength, sigma = str(options["where"]), float(options["strength"]), float(options["sigma"])
    walk = _walk(view)
    first = queries.first_block(options["start"], walk.depth)

    def of_window(
        window: "Tapped", some: Regions, shares: Float32[np.ndarray, "n rows cols"]
    ) -> Float32[np.ndarray, "n dim"]:
        added = _foveae(window, some, strength, sigma) * (shares if where == "mask" else 1)
        rows = torch.from_numpy(np.pad(added.reshape(len(some), -1), ((0, 0), (1, 0)))).to(window.tokens[first])
        found: Float32[np.ndarray, "n dim"] = (
            queries.refocus(walk, window.tokens, window.grid, rows, first).cpu().numpy()
        )
        return found

    return _by_window(view, _taps(view, foveal_blocks(walk, options)), regions, of_window)


def convnext(view: View, regions: Regions, options: Mapping[str, Any]) -> Float32[np.ndarray, "n dim"]:
    """The mean of the map's cells, each by the share of it that the mask covers, through the tower's own head.

    FC-CLIP (bytedance/fc-clip@7791b836, arXiv:2308.02487). A mask of everything gives the network's own image vector.
    """
    import torch

    from ovseg.clip.taps import shares

    walk, taps = _walk(view), _taps(view, (1,))
    pooled = []
    with torch.inference_mode():
        for start in range(0, len(regions), AT_ONCE):
            some = regions[start : start + AT_ONCE]
            total, area = np.zeros((len(some), walk.width), np.float32), np.zeros(len(some), np.float32)
            for window, share in zip(taps.windows, shares(some, taps.windows), strict=True):
                weights = share.reshape(len(some), -1) * np.float32(window.cell_area)
                total += weights @ window.tokens[1].float().cpu().numpy()
                area += weights.sum(axis=1)
            tokens = torch.from_numpy(total / area[:, None]).to(taps.windows[0].tokens[1])
            pooled.append(walk.project(tokens[None])[0].float().cpu().numpy())
    return np.concatenate(pooled)


def check_bias(options: Mapping[str, Any]) -> None:
    """An error where an option of `bias` makes no sense."""
    if options["edge"] not in EDGES:
        raise UnknownName.of("edge", str(options["edge"]), EDGES)
    _check_start(options)


def check_foveal(options: Mapping[str, Any]) -> None:
    """An error where an option of `foveal` makes no sense."""
    if options["where"] not in WHERES:
        raise UnknownName.of("where", str(options["where"]), WHERES)
    if not options["sigma"] > 0:
        raise BadUsage(f"sigma is a Gaussian's width in cells and must be above 0: got {options['sigma']}")
    if not math.isfinite(options["strength"]):
        raise BadUsage(f"strength is the largest number added to a logit, and finite: got {options['strength']}")
    _check_start(options)


def bias_blocks(walk: "Walk", options: Mapping[str, Any]) -> tuple[int, ...]:
    """The block where a region's token starts and all after it: patches are never computed again."""
    from ovseg.clip.queries import first_block

    return tuple(range(first_block(options["start"], walk.depth), walk.depth + 1))


def foveal_blocks(walk: "Walk", options: Mapping[str, Any]) -> tuple[int, ...]:
    """The first block that is done again, and the one after it: its patches are those of the picture."""
    from ovseg.clip.queries import first_block

    first = first_block(options["start"], walk.depth)
    return tuple(range(first, min(first + 1, walk.depth) + 1))


def convnext_blocks(walk: "Walk", options: Mapping[str, Any]) -> tuple[int, ...]:
    """The map itself."""
    return (1,)


def no_own(walk: "Walk") -> str:
    """Empty where the image's vector is its own token's; else what this tower lacks."""
    return next((walk.refuses[need] for need in OWN_NEEDS if need in walk.refuses), "")


def no_map(walk: "Walk") -> str:
    """Empty where the tower ends in a map of convolutions that its head pools; else what this tower is."""
    from ovseg.clip.families.conv import ConvMap

    return "" if isinstance(walk, ConvMap) else "it ends in attention and not in a map of convolutions"


def _check_start(options: Mapping[str, Any]) -> None:
    if options["start"] not in STARTS:
        raise BadUsage(
            f"start counts blocks of {len(STARTS)} before a region's token is its own: 0 to {STARTS[-1]}, got "
            f"{options['start']}"
        )


def _walk(view: View) -> "Walk":
    from ovseg.clip.families import find

    assert view.clip is not None, "a row that needs the network gets it"
    return find(view.clip.visual)


def _taps(view: View, blocks: tuple[int, ...]) -> "Taps":
    """The view's taps, or those of one pass of the whole picture at the size that its dense features have."""
    from ovseg.clip.taps import look

    if view.taps is not None and all(set(blocks) <= window.tokens.keys() for window in view.taps.windows):
        taps: Taps = view.taps
        return taps
    assert view.clip is not None, "a row that needs the network gets it"
    return look(view.clip, view.image, view.features.grid, blocks)


def _by_window(view: View, taps: "Taps", regions: Regions, of_window: OfWindow) -> Float32[np.ndarray, "n dim"]:
    """The mean of the windows' unit vectors of each region, by the area of it that lies in the window."""
    import torch

    from ovseg import runtime
    from ovseg.clip.taps import shares

    assert view.clip is not None, "a row that needs the network gets it"
    total = np.zeros((len(regions), _walk(view).dim), np.float32)
    with torch.inference_mode(), runtime.kernels(view.clip.device):
        for start in range(0, len(regions), AT_ONCE):
            some = regions[start : start + AT_ONCE]
            for window, share in zip(taps.windows, shares(some, taps.windows), strict=True):
                area = share.sum(axis=(1, 2)) * np.float32(window.cell_area)
                inside = np.flatnonzero(area > 0)
                if len(inside):
                    vectors = unit(of_window(window, some[inside], share[inside]))
                    total[start + inside] += area[inside, None] * vectors
    return total


def _foveae(window: "Tapped", regions: Regions, strength: float, sigma: float) -> Float32[np.ndarray, "n rows cols"]:
    """What `queries.fovea` adds to a window's cells for each region's box, which may reach beyond the window."""
    from ovseg.clip.queries import fovea, spans

    (top, left, bottom, right), (rows, cols) = window.place, window.grid
    out = np.zeros((len(regions), rows, cols), np.float32)
    for i, (x0, y0, x1, y1) in enumerate(regions.boxes.tolist()):
        high = [(y / regions.height - top) / (bottom - top) * rows for y in (y0, y1)]
        wide = [(x / regions.width - left) / (right - left) * cols for x in (x0, x1)]
        (first_row, last_row), (first_col, last_col) = spans(*high), spans(*wide)
        whole = fovea(last_row - first_row + 1, last_col - first_col + 1, strength, sigma)
        here = whole[max(0, -first_row) : rows - first_row, max(0, -first_col) : cols - first_col]
        row, col = max(0, first_row), max(0, first_col)
        out[i, row : row + here.shape[0], col : col + here.shape[1]] = here
    return out


__all__ = [
    "AT_ONCE",
    "EDGES",
    "OWN_NEEDS",
    "STARTS",
    "WHERES",
    "bias",
    "bias_blocks",
    "check_bias",
    "check_foveal",
    "convnext",
    "convnext_blocks",
    "foveal",
    "foveal_blocks",
    "no_map",
    "no_own",
]
