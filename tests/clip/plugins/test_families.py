"""Plug-ins on towers of other families: an answer where the tower has what they read, else a sentence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from ovseg.clip import families
from ovseg.clip.plugins.cass import cass
from ovseg.clip.plugins.clip_dinoiser import Head, dinoise
from ovseg.clip.plugins.cliper import layers
from ovseg.clip.plugins.corrclip import corrclip
from ovseg.clip.plugins.decomposition import decompose
from ovseg.clip.plugins.itaclip import views
from ovseg.clip.plugins.resclip import resclip
from ovseg.clip.plugins.trident import read
from ovseg.clip.walk import Vit, Walk
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers

MAKE = torch.Generator().manual_seed(1)


def guide(walk: Walk) -> torch.Tensor:
    return torch.randn(2, 4 * walk.heads, 5, 9, generator=torch.Generator().manual_seed(2))


def text(walk: Walk) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(3, walk.dim, generator=torch.Generator().manual_seed(3)), dim=-1)


def equal_links(picture: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    cells = cosines.shape[1] * cosines.shape[2]
    return np.ones((cells, cells), np.float32)


def head(walk: Walk) -> Head:
    shapes = ((5, walk.width, 3, 3), (5,), (1, walk.width, 1, 1), (1,))
    return Head(*(torch.randn(shape, generator=torch.Generator().manual_seed(4)) for shape in shapes))


ANY: dict[str, Callable[[Walk, torch.Tensor], torch.Tensor]] = {
    "cass": lambda walk, pixels: cass(walk, pixels, guide(walk)),
    "cliper": lambda walk, pixels: layers(walk, pixels).tokens[:, -1],
    "itaclip": lambda walk, pixels: views(walk, pixels, method="clearclip"),
    "resclip": lambda walk, pixels: resclip(walk, pixels, text(walk), equal_links),
    "trident": lambda walk, pixels: read(walk, pixels, guide(walk)).permute(0, 2, 3, 1),
}
STANDARD: dict[str, Callable[[Walk, torch.Tensor], Any]] = {
    "corrclip": lambda walk, pixels: corrclip(
        walk, pixels, guide(walk), torch.ones(2, *pixels.shape[2:], dtype=torch.long)
    ),
    "decomposition": lambda walk, pixels: decompose(walk, pixels),
    "clip-dinoiser": lambda walk, pixels: dinoise(walk, pixels, head(walk)),
}


def pixels(walk: Walk) -> torch.Tensor:
    """Two pictures of 3 x 5 patches."""
    return torch.randn(2, 3, 3 * walk.patch[0], 5 * walk.patch[1], generator=MAKE)


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("build", [towers.eva02, towers.siglip, towers.mobile_b], ids=["eva02", "siglip", "mobile-b"])
def test_other_families_with_attention_answer_cell_by_cell(build: Callable[..., Any], name: str) -> None:
    walk = families.find(build(depth=3))
    out = ANY[name](walk, pixels(walk))
    assert out.isfinite().all() and out.std() > 0
    wanted = (2, 6, 10) if name == "trident" else (2, 3, 5)  # trident: twice the tokens, to hold the guide's 5 x 9
    assert out.shape == (*wanted, walk.width if name == "trident" else walk.dim)


@pytest.mark.parametrize("name", [*ANY, *STANDARD])
def test_tower_without_attention_is_refused_by_a_sentence(name: str) -> None:
    walk = families.find(towers.convnext())
    with pytest.raises(UnsupportedTower, match=walk.family):
        {**ANY, **STANDARD}[name](walk, pixels(walk))


@pytest.mark.parametrize("name", STANDARD)
def test_what_reads_a_standard_vit_refuses_another(name: str) -> None:
    walk = families.find(towers.siglip())
    with pytest.raises(UnsupportedTower, match=walk.family):
        STANDARD[name](walk, pixels(walk))


def test_upstream_is_left_as_it_was_found() -> None:
    visual = tiny.model(layers=4).visual
    walk, square = Vit(visual), torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    before, whole = {name: value.clone() for name, value in visual.state_dict().items()}, visual(square)
    modules = list(visual.modules())
    wide = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(6))
    for run in (*ANY.values(), *STANDARD.values()):
        run(walk, wide)
    assert list(visual.modules()) == modules and not any(module._forward_hooks for module in modules)
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())
    assert torch.equal(visual(square), whole)
