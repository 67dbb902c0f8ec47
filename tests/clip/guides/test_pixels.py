"""A picture is the same picture for two networks that want other means."""

import numpy as np
import pytest
import torch

import tiny
from ovseg.clip.guides.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from ovseg.errors import BadInput, BadUsage
from tests.clip.guides.networks import guide, vit


def test_pixels_of_a_clip_tower_are_normalised_anew() -> None:
    clip, network = tiny.clip(), vit()
    picture = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    mean, std = (torch.tensor(value)[:, None, None] for value in (clip.mean, clip.std))
    window = (picture.float() / 255 - mean) / std
    by_bytes = guide(network).features(picture)
    torch.testing.assert_close(
        guide(network).features(window, mean=clip.mean, std=clip.std), by_bytes, rtol=0, atol=1e-4
    )
    means, stds = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
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


def test_pictures_of_numpy_reach_it_as_bytes() -> None:
    picture = torch.from_numpy(np.ascontiguousarray(tiny.picture().transpose(2, 0, 1)))[None]
    assert guide(vit()).features(picture).shape == (1, 48, 6, 10)
