"""Rows say one thing each; names, files and open networks become guides, or a sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import tiny
from ovseg.clip.guides import GUIDES, GuideRow, load_guide
from ovseg.clip.guides.pixels import IMAGENET_MEAN
from ovseg.clip.guides.vit import build, timm_state
from ovseg.errors import BadUsage, BadWeights, MissingWeights, UnknownName, UnsupportedTower
from ovseg.weights import MANIFEST
from tests.clip.guides.networks import guide, shaken, vit
from tests.sam.narrow import narrow_sam


def test_guides_of_open_networks_need_them() -> None:
    with pytest.raises(BadUsage, match="give it as clip="):
        load_guide("self")
    with pytest.raises(BadUsage, match="sam=sam-vit-b"):
        load_guide("sam")
    with pytest.raises(UnsupportedTower, match="got NoneType of Linear"):
        load_guide("sam", sam=torch.nn.Linear(2, 3))
    with pytest.raises(BadUsage, match="leave @file.pth out"):
        load_guide("sam@file.pth", sam=narrow_sam())


@pytest.mark.parametrize(("height", "width"), [(48, 80), (60, 77), (3, 20), (131, 40)])
def test_the_grid_is_told_before_any_pixel_is_read(height: int, width: int) -> None:
    pixels = torch.zeros(1, 3, height, width)
    opened = (load_guide("self", clip=tiny.clip()), load_guide("sam", sam=narrow_sam()))
    for one in (guide(vit()), guide(vit("dinov2 with registers")), *opened):
        assert one.features(pixels).shape[2:] == one.grid(height, width)


def test_rows_name_networks_of_timm_and_files_of_the_manifest() -> None:
    for name, row in GUIDES.items():
        assert name == name.lower() and row.source
        if row.walk == "vit":
            assert timm.is_model(row.architecture) and row.weights
            assert all(MANIFEST[weight].licence == "Apache-2.0" for weight in row.weights)
            alike = [other for other in GUIDES.values() if other.architecture == row.architecture]
            assert {other.positions for other in alike} == {row.positions}  # one network, whatever is read of it


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"walk": "resnet"}, UnknownName),
        ({"walk": "vit", "architecture": "x", "output": "qkv"}, UnknownName),
        ({"walk": "vit", "architecture": "x", "positions": "nearest"}, UnknownName),
        ({"walk": "vit"}, BadUsage),
        ({"walk": "sam", "architecture": "x"}, BadUsage),
        ({"walk": "sam", "output": "k"}, BadUsage),
    ],
)
def test_a_row_that_says_nothing_or_two_things_is_refused(fields: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        GuideRow(**fields)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Under the real names of timm, narrow networks of the same family."""
    real = timm.create_model

    def create(name: str, **options: Any) -> Any:
        return real(name, **options, embed_dim=48, depth=3, num_heads=3)

    monkeypatch.setattr(timm, "create_model", create)
    return lambda name: shaken(create(name, num_classes=0), seed=3)


@pytest.mark.parametrize("name", ["dino-b8", "dino-b16-v"])
def test_a_file_opens_as_the_network_it_was_saved_from(name: str, narrow: Callable[[str], Any], tmp_path: Path) -> None:
    network = narrow(GUIDES[name].architecture)
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    with pytest.raises(BadWeights, match="pickle"):
        load_guide(f"{name}@{tmp_path / 'dino.pth'}")
    opened = load_guide(f"{name}@{tmp_path / 'dino.pth'}", allow_pickle=True)
    pixels = torch.randn(1, 3, 48, 80)
    assert opened.row == GUIDES[name] and opened.mean == IMAGENET_MEAN
    assert torch.equal(opened.features(pixels), replace(opened, network=network).features(pixels))
    assert not any(parameter.requires_grad for parameter in opened.network.parameters())


def test_dinov2s_own_names_become_timms(narrow: Callable[[str], Any], tmp_path: Path) -> None:
    """The published file has a place for the image token; timm adds it to the token once and for all."""
    network = narrow(GUIDES["dinov2-reg-b14"].architecture)
    theirs = dict(network.state_dict())
    place = torch.randn(1, 1, 48)
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.cat([place, theirs["pos_embed"]], dim=1)
    theirs["cls_token"] = theirs["cls_token"] - place
    theirs["mask_token"] = torch.randn(1, 48)
    torch.save(theirs, tmp_path / "dinov2.pth")
    opened = load_guide(f"dinov2-reg-b14@{tmp_path / 'dinov2.pth'}", allow_pickle=True)
    pixels = torch.randn(1, 3, 42, 70)
    wanted = replace(opened, network=network).features(pixels)
    torch.testing.assert_close(opened.features(pixels), wanted, rtol=0, atol=1e-5)
    assert set(timm_state(theirs)) == set(network.state_dict())


def test_every_key_must_fit(narrow: Callable[[str], Any], tmp_path: Path) -> None:
    state = dict(narrow(GUIDES["dino-b8"].architecture).state_dict())
    state["head.weight"] = torch.zeros(10, 48)  # a classifier says nothing of patches
    del state["norm.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(BadWeights, match=r"lacks norm.bias and has no key"):
        load_guide(f"dino-b8@{tmp_path / 'short.pth'}", allow_pickle=True)


def test_an_architecture_of_timm_opens_with_a_file(narrow: Callable[[str], Any], tmp_path: Path) -> None:
    network = narrow("vit_small_patch16_224.dino")
    torch.save(network.state_dict(), tmp_path / "own.pth")
    opened = load_guide(f"vit_small_patch16_224.dino@{tmp_path / 'own.pth'}", allow_pickle=True)
    assert opened.features(torch.zeros(1, 3, 48, 80)).shape == (1, 48, 3, 5)


def test_words_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    with pytest.raises(UnknownName, match="guide must be one of .*dino-b16.*Did you mean 'dino-b8'"):
        load_guide("dino_b8")
    with pytest.raises(MissingWeights, match="ovseg weights pull dino-vit-b16"):
        load_guide("dino-b16")
    with pytest.raises(MissingWeights, match="the checkpoint is not there"):
        load_guide(f"dino-b8@{tmp_path / 'gone.pth'}")
    with pytest.raises(UnknownName, match="architecture of a guide"):
        build("vit_base_patch99")
    with pytest.raises(UnsupportedTower, match="resnet18 is ResNet without patch_embed, pos_embed"):
        build("resnet18")
