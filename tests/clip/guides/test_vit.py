"""timm's ViT: the map equals its own forward, at any size, and the network stays as it was."""

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip.guides import GUIDES
from ovseg.clip.guides.vit import OUTPUTS, build
from ovseg.weights import MANIFEST
from tests.clip.guides.networks import SIZES, fingerprint, guide, vit


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
    for output in OUTPUTS:
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


@pytest.mark.parametrize("name", ["dino-vit-b8", "dino-vit-b16", "dinov2-reg-vit-b14"])
def test_the_files_sizes_leave_room_for_the_parameters_and_little_else(name: str) -> None:
    """A row whose bytes were of another file would show: float32 parameters and under 100 kB of names and padding."""
    row = next(row for row in GUIDES.values() if row.weights == (name,))
    with torch.device("meta"):
        network = build(row.architecture)
    parameters = 4 * sum(value.numel() for value in network.state_dict().values())
    assert 0 < MANIFEST[name].bytes - parameters < 100_000
