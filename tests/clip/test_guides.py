"""A guide's map equals what its own network computes; the network stays as it was; words say what is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from timm.models.vision_transformer import VisionTransformer

import tiny
from ovseg.clip import guides
from ovseg.clip.guides import GUIDES, Guide, GuideRow, build, load_guide, normalised, timm_state
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, BadUsage, BadWeights, MissingWeights, UnknownName, UnsupportedTower
from ovseg.weights import MANIFEST
from tests.sam.narrow import narrow_sam

SIZES = {
    "dino": {"patch_size": 8, "img_size": 56, "qkv_bias": True},
    "dinov2 with registers": {
        "patch_size": 14,
        "img_size": 70,
        "qkv_bias": True,
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 1e-5,
    },
    "normed before, native wide": {"patch_size": 8, "img_size": (40, 56), "pre_norm": True},
}


def shaken(network: Any, seed: int = 0) -> Any:
    """The same network with every parameter moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.requires_grad_(False).eval()


def vit(kind: str = "dino", **options: Any) -> Any:
    """A narrow network of timm's own class."""
    torch.manual_seed(1)
    sizes = {**SIZES[kind], "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, **options}
    return shaken(VisionTransformer(**sizes))


def guide(network: Any, output: str = "tokens", positions: str = "antialias") -> Guide:
    return Guide("own", GuideRow("vit", "own", output, positions=positions), network)


def fingerprint(network: torch.nn.Module) -> tuple[Any, ...]:
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules()]
    return (
        sum(hooks),
        [type(part) for part in network.modules()],
        [value.sum() for value in network.state_dict().values()],
    )


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("cells", [None, (6, 10), (3, 9)], ids=["its own size", "6 x 10 cells", "3 x 9 cells"])
def test_tokens_equal_timms_own_forward(kind: str, cells: tuple[int, int] | None) -> None:
    network, dynamic = vit(kind), vit(kind, dynamic_img_size=True)
    patch = network.patch_embed.patch_size[0]
    cells = cells or network.patch_embed.grid_size
    pixels = torch.randn(2, 3, cells[0] * patch, cells[1] * patch)
    wanted = dynamic.forward_features(pixels)[:, dynamic.num_prefix_tokens :].mT.reshape(2, 48, *cells)
    before = fingerprint(network)
    torch.testing.assert_close(guide(network).features(pixels), wanted, rtol=0, atol=1e-5)
    assert fingerprint(network) == before


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("output", ["q", "k", "v", "q+k"])
def test_projections_of_the_last_block_equal_a_slow_reading(kind: str, output: str) -> None:
    network = vit(kind)
    patch = network.patch_embed.patch_size[0]
    pixels = torch.randn(2, 3, *(side * patch for side in network.patch_embed.grid_size))
    caught = []
    handle = network.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, came: caught.append(came))
    network.forward_features(pixels)
    handle.remove()
    width = {"q": slice(0, 48), "k": slice(48, 96), "v": slice(96, 144)}
    wanted = torch.stack(
        [caught[0][:, network.num_prefix_tokens :, width[letter]] for letter in output.split("+")]
    ).sum(0)
    came = guide(network, output).features(pixels)
    rows, cols = network.patch_embed.grid_size
    for row, col in ((0, 0), (1, 3), (rows - 1, cols - 2)):
        torch.testing.assert_close(came[:, :, row, col], wanted[:, row * cols + col], rtol=0, atol=1e-5)


def test_positions_are_resampled_as_the_authors_do() -> None:
    """DINO resamples by (n + 0.1) / side without antialias: another map off the native grid, the same on it."""
    network = vit()
    native, wide = torch.randn(1, 3, 56, 56), torch.randn(1, 3, 48, 80)
    ours, timms = guide(network, positions="scale01"), guide(network)
    assert torch.equal(ours.features(native), timms.features(native))
    field = network.pos_embed[:, 1:].mT.reshape(1, 48, 7, 7)
    place = F.interpolate(field, scale_factor=(6.1 / 7, 10.1 / 7), mode="bicubic").flatten(2).mT
    tokens = network.patch_embed.proj(wide).flatten(2).mT + place
    tokens = torch.cat([network.cls_token + network.pos_embed[:, :1], tokens], dim=1)
    wanted = network.norm(network.blocks(tokens))[:, 1:].mT.reshape(1, 48, 6, 10)
    torch.testing.assert_close(ours.features(wide), wanted, rtol=0, atol=1e-5)
    assert (ours.features(wide) - timms.features(wide)).abs().max() > 1e-3


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    network, pixels = vit(), torch.randn(2, 3, 48, 80)
    for output in guides.OUTPUTS:
        both = guide(network, output).features(pixels)
        for one in range(2):
            alone = guide(network, output).features(pixels[one : one + 1])
            torch.testing.assert_close(both[one : one + 1], alone, rtol=0, atol=1e-5)


def test_a_side_off_the_patch_is_resized_so_that_cells_stay_over_what_they_show() -> None:
    """60 x 77 px are 7.5 x 9.6 patches: 8 x 10 cells cover them whole."""
    network, pixels = vit(), torch.randn(1, 3, 60, 77)
    wanted = guide(network).features(F.interpolate(pixels, (64, 80), mode="bilinear", align_corners=False))
    assert torch.equal(guide(network).features(pixels), wanted) and wanted.shape == (1, 48, 8, 10)
    assert guide(network).features(torch.zeros(1, 3, 3, 20)).shape == (1, 48, 1, 2)


def test_pixels_of_a_clip_tower_are_normalised_anew() -> None:
    clip, network = tiny.clip(), vit()
    picture = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    mean, std = (torch.tensor(value)[:, None, None] for value in (clip.mean, clip.std))
    window = (picture.float() / 255 - mean) / std
    by_bytes = guide(network).features(picture)
    torch.testing.assert_close(
        guide(network).features(window, mean=clip.mean, std=clip.std), by_bytes, rtol=0, atol=1e-4
    )
    means, stds = (torch.tensor(value)[:, None, None] for value in (guides.IMAGENET_MEAN, guides.IMAGENET_STD))
    torch.testing.assert_close(guide(network).features((picture / 255 - means) / stds), by_bytes, rtol=0, atol=1e-4)
    assert (guide(network).features(window) - by_bytes).abs().max() > 1e-2  # as they are: another picture
    assert normalised(window, clip.mean, clip.std, clip.mean, clip.std) is window


def test_bad_pixels_get_a_sentence() -> None:
    with pytest.raises(BadInput, match=r"bytes or normalised floats: got \[1, 3, 8, 8\] of int64"):
        guide(vit()).features(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(BadInput, match=r"\[0, 3, 8, 8\]"):
        guide(vit()).features(torch.zeros(0, 3, 8, 8))
    with pytest.raises(BadUsage, match="bytes were not normalised yet"):
        guide(vit()).features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(BadUsage, match="go together"):
        guide(vit()).features(torch.zeros(1, 3, 8, 8), mean=(0.5,) * 3)


# SAM


def sam_guide(sam: Any) -> Guide:
    return load_guide("sam", sam=sam)


def test_sam_map_is_its_encoders_own_answer() -> None:
    sam = narrow_sam()
    pixels, before = torch.randn(2, 3, 48, 80), fingerprint(sam)
    square = F.interpolate(pixels, (256, 256), mode="bilinear", align_corners=False)
    assert torch.equal(sam_guide(sam).features(pixels), sam.image_encoder(square))
    assert sam_guide(sam).features(pixels).shape == (2, 32, 16, 16)
    assert fingerprint(sam) == before


def test_sam_attention_times_its_values_is_the_last_blocks_own_answer() -> None:
    sam = narrow_sam()
    encoder = sam.image_encoder
    picture = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    own = normalised(picture, guides.IMAGENET_MEAN, guides.IMAGENET_STD)
    before = encoder(own)
    attention, values = sam_guide(sam).last_attention(picture)
    assert attention.shape == (2, 2, 256, 256) and values.shape == (2, 2, 16, 16, 12)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 2, 256), rtol=0, atol=1e-5)
    tokens = encoder.patch_embed(own) + encoder.pos_embed
    for block in encoder.blocks[:-1]:
        tokens = block(tokens)
    last = encoder.blocks[-1]
    wanted = last.attn(last.norm1(tokens))
    mixed = (attention @ values.flatten(2, 3)).transpose(1, 2).reshape(2, 16, 16, 24)
    torch.testing.assert_close(last.attn.proj(mixed), wanted, rtol=0, atol=1e-5)
    assert torch.equal(encoder(own), before)


@pytest.mark.parametrize(("height", "width", "grid"), [(48, 80, (9, 16)), (600, 400, (16, 10))])
def test_sam_attention_is_that_of_the_padded_square_cut_to_the_picture(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    sam = narrow_sam()
    picture = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    high, wide = predictor.input_size
    attention, values = sam_guide(sam).last_attention(torch.from_numpy(picture).permute(2, 0, 1)[None])
    rows, cols = high // 16, wide // 16
    assert (rows, cols) == grid and values.shape == (1, 2, rows, cols, 12)
    resized = predictor.transform.apply_image(picture)
    square = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1).float()[None])
    whole, every = guides.sam_attention(sam.image_encoder, square, (16, 16))
    cut = whole.view(1, 2, 16, 16, 16, 16)[:, :, :rows, :cols, :rows, :cols].reshape(attention.shape)
    torch.testing.assert_close(attention, cut, rtol=0, atol=1e-6)
    torch.testing.assert_close(values, every[:, :, :rows, :cols], rtol=0, atol=1e-5)
    assert bool(((attention.sum(dim=-1) > 0.2) & (attention.sum(dim=-1) < 0.999)).all())


def test_last_attention_is_sams_alone() -> None:
    with pytest.raises(BadUsage, match="this guide is own"):
        guide(vit()).last_attention(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


# the tower itself


def test_self_is_what_leaves_a_middle_block_of_the_tower() -> None:
    """8 of 12 blocks is 4 of 6."""
    clip = tiny.clip(layers=6)
    visual, pixels = clip.visual, torch.randn(2, 3, 48, 80)
    wanted = Vit(visual).enter(pixels, "bicubic")
    for block in visual.transformer.resblocks[:4]:
        wanted = block(wanted)
    came = load_guide("self", clip=clip).features(pixels, mean=clip.mean, std=clip.std)
    assert torch.equal(came, wanted[:, 1:].mT.reshape(2, 64, 6, 10))
    with pytest.raises(UnsupportedTower):
        load_guide("self", clip=replace(clip, model=torch.nn.ModuleDict({"visual": torch.nn.Linear(2, 3)}))).features(
            pixels
        )


def test_guides_of_open_networks_need_them() -> None:
    with pytest.raises(BadUsage, match="give it as clip="):
        load_guide("self")
    with pytest.raises(BadUsage, match="sam=sam-vit-b"):
        load_guide("sam")
    with pytest.raises(UnsupportedTower, match="got NoneType of Linear"):
        load_guide("sam", sam=torch.nn.Linear(2, 3))
    with pytest.raises(BadUsage, match="leave @file.pth out"):
        load_guide("sam@file.pth", sam=narrow_sam())


# rows and files


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
    assert opened.row == GUIDES[name] and opened.mean == guides.IMAGENET_MEAN
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


@pytest.mark.parametrize("name", ["dino-vit-b8", "dino-vit-b16", "dinov2-reg-vit-b14"])
def test_the_files_sizes_leave_room_for_the_parameters_and_little_else(name: str) -> None:
    """A row whose bytes were of another file would show: float32 parameters and under 100 kB of names and padding."""
    row = next(row for row in GUIDES.values() if row.weights == (name,))
    with torch.device("meta"):
        network = build(row.architecture)
    parameters = 4 * sum(value.numel() for value in network.state_dict().values())
    assert 0 < MANIFEST[name].bytes - parameters < 100_000


def test_pictures_of_numpy_reach_it_as_bytes() -> None:
    picture = torch.from_numpy(np.ascontiguousarray(tiny.picture().transpose(2, 0, 1)))[None]
    assert guide(vit()).features(picture).shape == (1, 48, 6, 10)
