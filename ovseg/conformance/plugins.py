"""What must hold for the methods that are no row: asked of every tower, with random guides, words and regions.

Every plug-in is run through one call (`PLUGINS`), on a copy of the tower in double precision. One that the tower cannot
do has to say so; one that answers although the tower lacks what the method changes has done nothing, silently.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.plugins.cass import cass
from ovseg.clip.plugins.clip_dinoiser import Head, dinoise
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.plugins.cliptrase import affinity
from ovseg.clip.plugins.corrclip import corrclip
from ovseg.clip.plugins.decomposition import decompose
from ovseg.clip.plugins.itaclip import views
from ovseg.clip.plugins.resclip import resclip
from ovseg.clip.plugins.trident import trident
from ovseg.clip.walk import Walk
from ovseg.conformance.bench import Bench, apart
from ovseg.conformance.results import Result, number
from ovseg.errors import BadInput, UnsupportedTower

EQUAL = 1e-5  # of the spread, as for rows
BREAKS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Plugin:
    """How it is called for pictures and their guide, and what of `walk.FEATURES` it cannot do without."""

    run: Callable[[Walk, Tensor, Tensor], Tensor]
    needs: tuple[str, ...] = ("attention",)


def plugins(bench: Bench, name: str) -> list[Result]:
    """Each plug-in on one tower: refused in a sentence, or finite, the same twice, and of each picture alone."""
    out = []
    for method, plugin in PLUGINS.items():
        try:
            out += _checked(bench, name, method, plugin)
        except UnsupportedTower as error:
            out.append(Result(name, method, "walk", "refused", sentence=str(error)))
        except (*BREAKS, BadInput) as error:
            said = f"it ends in {type(error).__name__} instead of a sentence: {' '.join(str(error).split())[:200]}"
            out.append(Result(name, method, "walk", "failed", sentence=said))
    return out


def _checked(bench: Bench, name: str, method: str, plugin: Plugin) -> list[Result]:
    walk, pixels, guide = bench.exact, bench.pixels, bench.guide
    both = plugin.run(walk, pixels, guide)
    lacking = [bench.exact.refuses[need] for need in plugin.needs if need in bench.exact.refuses]
    lost = float((~plugin.run(walk, torch.full_like(pixels, 0.3), torch.ones_like(guide)).isfinite()).sum())
    alone = [plugin.run(walk, pixels[i : i + 1], guide[i : i + 1]) for i in range(2)]
    again = float((plugin.run(walk, pixels, guide) - both).abs().max())

    def result(check: str, value: float, limit: float, right: str, wrong: str) -> Result:
        fine = value <= limit
        sentence = right if fine else f"{wrong} ({number(value)}, at most {number(limit)} is right)"
        return Result(name, method, check, "ok" if fine else "failed", value, limit, sentence)

    return [
        result("able", float(len(lacking)), 0.0, "the tower has what it changes", "; ".join(lacking)),
        result("batch", apart(torch.cat(alone), both), EQUAL, "two are two of one", "pictures look at each other"),
        result("flat", lost, 0.0, "a picture without content stays finite", "numbers are not finite"),
        result("again", again, 0.0, "the same call gives the same bits", "the same call gives other bits"),
    ]


def _dinoise(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    random, width = torch.Generator().manual_seed(3), walk.width
    shapes = {"together_weight": (8, width, 3, 3), "together_bias": (8,), "background_weight": (1, width, 1, 1)}
    parts = {key: 0.1 * torch.randn(shape, generator=random).to(pixels) for key, shape in shapes.items()}
    return dinoise(walk, pixels, Head(**parts, background_bias=pixels.new_zeros(1))).tokens


def _resclip(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    def halves(picture: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Cells of the left and of the right half are linked within themselves."""
        rows, cols = cosines.shape[1:]
        left = np.tile(np.arange(cols) < cols // 2, rows)
        return np.asarray(left[:, None] == left[None], np.float32)

    text = torch.randn(3, walk.dim, generator=torch.Generator().manual_seed(4)).to(pixels)
    return resclip(walk, pixels, F.normalize(text, dim=-1), halves)


def _cass(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    """Four channels a head, each a different mix of the guide's."""
    random = torch.Generator().manual_seed(5)
    mix = torch.randn(4 * max(walk.heads, 1), guide.shape[1], generator=random).to(guide)
    return cass(walk, pixels, torch.einsum("kc,bcrs->bkrs", mix, guide))


def _corrclip(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    regions = torch.zeros(len(pixels), *pixels.shape[2:], dtype=torch.long, device=pixels.device)
    regions[:, : pixels.shape[2] // 2, : pixels.shape[3] // 3] = 1
    regions[:, pixels.shape[2] // 2 :, pixels.shape[3] // 3 :] = 2
    return corrclip(walk, pixels, guide, regions)


def _trident(walk: Walk, pixels: Tensor, guide: Tensor) -> Tensor:
    """Each picture as one window of itself, since windows of one call are of one picture."""
    rows, cols = pixels.shape[2] // walk.patch[0], pixels.shape[3] // walk.patch[1]
    random = torch.Generator().manual_seed(6)
    values = torch.randn(2, 4, 7, 5, generator=random).to(pixels)
    attention = torch.rand(2, 28, 28, generator=random).to(pixels)
    place = [(0, 0, rows, cols)]
    return torch.stack(
        [trident(walk, pixels[i : i + 1], guide[i : i + 1], place, attention, values) for i in range(len(pixels))]
    )


PLUGINS: Mapping[str, Plugin] = MappingProxyType(
    {
        "cass": Plugin(_cass),
        "clip-dinoiser": Plugin(_dinoise),
        "cliper-layers": Plugin(lambda walk, pixels, guide: layers(walk, pixels).tokens, ("attention", "layers")),
        "cliptrase-affinity": Plugin(lambda walk, pixels, guide: affinity(walk, pixels), ("attention", "own")),
        "corrclip": Plugin(_corrclip),
        "decomposition": Plugin(lambda walk, pixels, guide: decompose(walk, pixels).patches, ("linear", "own")),
        "itaclip-views": Plugin(lambda walk, pixels, guide: views(walk, pixels), ("attention", "layers", "residual")),
        "resclip-feedback": Plugin(_resclip, ("attention", "layers")),
        "trident": Plugin(_trident),
    }
)


__all__ = ["PLUGINS", "Plugin", "plugins"]
