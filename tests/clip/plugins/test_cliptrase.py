"""CLIPtrase's affinity: the released program's, and what must hold of any mean cosine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from ovseg.clip.plugins.cliptrase import affinity, affinity_map, has_affinity
from ovseg.clip.walk import Vit
from ovseg.errors import UnsupportedTower
from ovseg.stages.cliptrase import denoised

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", ["native", "wide", "tall"])
def test_affinity_equals_the_published_program(
    golden_dense: Path, golden_walk: Vit, golden_inputs: dict[str, torch.Tensor], shape: str
) -> None:
    wanted = load_file(golden_dense / "outputs" / "cliptrase.safetensors")
    got = affinity(golden_walk, golden_inputs[shape])
    if shape != "native":
        torch.testing.assert_close(got, wanted[shape + ".affinity"], rtol=0, atol=1e-5)
    patches = torch.stack([torch.from_numpy(denoised(one.numpy())) for one in got])
    torch.testing.assert_close(patches, wanted[shape + ".affinity_denoised"], rtol=0, atol=1e-5)


def test_every_token_is_itself_and_likeness_is_mutual_and_batches_are_apart() -> None:
    visual = tiny.model().visual
    found = affinity(Vit(visual), PIXELS)
    assert found.shape == (2, 61, 61) and found.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(2, 61), rtol=0, atol=1e-5)
    torch.testing.assert_close(affinity(Vit(visual), PIXELS[1:]), found[1:], rtol=0, atol=1e-5)


def test_a_picture_is_seen_at_the_size_of_the_grid() -> None:
    clip = tiny.clip()
    picture = tiny.picture(48, 80)
    found = affinity_map(clip, picture, (6, 10))
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.mean, clip.std))
    pixels = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std
    np.testing.assert_allclose(found, affinity(Vit(clip.visual), pixels[None])[0], atol=1e-5)
    assert affinity_map(clip, picture, (3, 7)).shape == (22, 22)


def test_a_tower_of_one_block_is_refused() -> None:
    with pytest.raises(UnsupportedTower, match="block before the last"):
        affinity(Vit(tiny.model(layers=1).visual), PIXELS)
    assert has_affinity(tiny.clip()) and not has_affinity(tiny.clip(layers=1))
