"""SAM's map and its last attention equal what its own encoder computes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor

from ovseg.clip.guides import load_guide
from ovseg.clip.guides import sam as sam_walk
from ovseg.clip.guides.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from ovseg.errors import BadUsage
from tests.clip.guides.networks import fingerprint, guide, vit
from tests.sam.narrow import narrow_sam


def test_sam_map_is_its_encoders_own_answer() -> None:
    sam = narrow_sam()
    pixels, before = torch.randn(2, 3, 48, 80), fingerprint(sam)
    square = F.interpolate(pixels, (256, 256), mode="bilinear", align_corners=False)
    assert torch.equal(load_guide("sam", sam=sam).features(pixels), sam.image_encoder(square))
    assert load_guide("sam", sam=sam).features(pixels).shape == (2, 32, 16, 16)
    assert fingerprint(sam) == before


def test_sam_attention_times_its_values_is_the_last_blocks_own_answer() -> None:
    sam = narrow_sam()
    encoder = sam.image_encoder
    picture = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    own = normalised(picture, IMAGENET_MEAN, IMAGENET_STD)
    before = encoder(own)
    attention, values = load_guide("sam", sam=sam).last_attention(picture)
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
    attention, values = load_guide("sam", sam=sam).last_attention(torch.from_numpy(picture).permute(2, 0, 1)[None])
    rows, cols = high // 16, wide // 16
    assert (rows, cols) == grid and values.shape == (1, 2, rows, cols, 12)
    resized = predictor.transform.apply_image(picture)
    square = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1).float()[None])
    whole, every = sam_walk.attention(sam.image_encoder, square, (16, 16))
    cut = whole.view(1, 2, 16, 16, 16, 16)[:, :, :rows, :cols, :rows, :cols].reshape(attention.shape)
    torch.testing.assert_close(attention, cut, rtol=0, atol=1e-6)
    torch.testing.assert_close(values, every[:, :, :rows, :cols], rtol=0, atol=1e-5)
    assert bool(((attention.sum(dim=-1) > 0.2) & (attention.sum(dim=-1) < 0.999)).all())


def test_last_attention_is_sams_alone() -> None:
    with pytest.raises(BadUsage, match="this guide is own"):
        guide(vit()).last_attention(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
