"""Random towers: the same ones by seed, with nothing left at its first value."""

import pytest
import torch

from ovseg.clip.families import FAMILIES, find
from ovseg.conformance import STAND_INS, architecture, narrow
from ovseg.errors import UnknownName


def test_every_family_has_a_narrow_tower_that_its_walk_takes() -> None:
    kinds = {find(narrow(name)).family for name in STAND_INS}
    assert kinds == {name for names in FAMILIES for name in names.split(", ")}


@pytest.mark.parametrize("name", ["ViT-B-16", "RN50", "ViT-B-16-SigLIP"])
def test_narrow_tower_is_the_same_by_seed_and_leaves_the_callers_random_numbers_alone(name: str) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    one, again, other = narrow(name), narrow(name), narrow(name, seed=1)
    assert torch.equal(torch.rand(3), wanted)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one(pixels), again(pixels)) and not torch.equal(one(pixels), other(pixels))
    assert one(pixels).isfinite().all()


@pytest.mark.parametrize("name", STAND_INS)
def test_no_parameter_is_constant_so_that_none_can_be_forgotten(name: str) -> None:
    still = [key for key, value in narrow(name).named_parameters() if value.numel() > 1 and value.std() < 1e-3]
    assert still == []


def test_architecture_is_open_clips_with_random_numbers() -> None:
    tower = architecture("ViT-S-32")
    walk = find(tower)
    assert (walk.depth, walk.patch, walk.dim) == (12, (32, 32), 384) and not tower.training
    assert not tower.transformer.resblocks[0].attn.in_proj_bias.eq(0).any()


def test_unknown_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'ViT-B-16'"):
        architecture("ViT-B-166")
    with pytest.raises(UnknownName, match="stand-in must be one of"):
        narrow("ViT")
