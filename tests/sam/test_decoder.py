import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ovseg.sam.decoder import Attend, Upscale, share
from ovseg.sam.load import SamShape, build
from tests.sam.narrow import narrow_sam


def prompts(sam: Sam, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A picture's features, positions, and tokens of random points with the map of no mask."""
    torch.manual_seed(1)
    side, channels = sam.image_encoder.img_size, sam.mask_decoder.transformer_dim
    points = torch.rand(count, 1, 2, dtype=torch.float64) * side
    sparse, dense = sam.prompt_encoder((points, torch.ones(count, 1, dtype=torch.int)), None, None)
    features = torch.randn(1, channels, *sam.prompt_encoder.image_embedding_size)
    return features, sam.prompt_encoder.get_dense_pe(), sparse, dense


def ours(sam: Sam, features: Tensor, places: Tensor, sparse: Tensor, dense: Tensor, single: bool) -> tuple[Tensor, ...]:
    decoder = sam.mask_decoder
    quality, tokens, image = Attend(decoder)(sparse, *share(decoder, features, dense, places).parts)
    first, last = (0, 1) if single else (1, 4)
    (logits,) = Upscale(decoder, first, last, sam.prompt_encoder.image_embedding_size)(image, tokens)
    return logits, quality[:, first:last]


@pytest.mark.parametrize("single", [False, True])
def test_masks_and_qualities_are_segment_anythings_own_to_the_last_bit(single: bool) -> None:
    sam = narrow_sam()
    with torch.inference_mode():
        features, places, sparse, dense = prompts(sam, 8)
        wanted = sam.mask_decoder(features, places, sparse, dense, not single)
        found = ours(sam, features, places, sparse, dense[:1], single)
    for theirs, own in zip(wanted, found, strict=True):
        assert theirs.shape == own.shape
        assert (theirs == own).all()


@pytest.mark.slow
def test_at_full_size_too_and_four_at_a_time() -> None:
    torch.manual_seed(0)
    sam = build(SamShape(width=24, depth=1, heads=2, global_blocks=(0,))).eval()  # the decoder is vit_b's
    with torch.inference_mode():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        features, places, sparse, dense = prompts(sam, 8)
        masks, quality = sam.mask_decoder(features, places, sparse, dense, True)
        for some in (slice(0, 4), slice(4, 8)):
            own, own_quality = ours(sam, features, places, sparse[some], dense[:1], False)
            assert (quality[some] == own_quality).all()
            assert int(((masks[some] > 0) != (own > 0)).sum()) == 0


def test_masks_of_some_prompts_are_those_of_all() -> None:
    sam = narrow_sam()
    decoder, grid = sam.mask_decoder, sam.prompt_encoder.image_embedding_size
    with torch.inference_mode():
        features, places, sparse, dense = prompts(sam, 8)
        _, tokens, image = Attend(decoder)(sparse, *share(decoder, features, dense[:1], places).parts)
        (every,) = Upscale(decoder, 1, 4, grid)(image, tokens)
        picked = torch.tensor([6, 1, 3])
        (some,) = Upscale(decoder, 1, 4, grid)(image[picked], tokens[picked])
    assert (every[picked] - some).abs().max() <= 1e-6
    assert ((every[picked] > 0) == (some > 0)).all()


def test_every_prompt_may_bring_a_mask_of_its_own() -> None:
    sam = narrow_sam()
    with torch.inference_mode():
        features, places, sparse, _ = prompts(sam, 4)
        _, dense = sam.prompt_encoder(None, None, torch.randn(4, 1, 64, 64))
        wanted = sam.mask_decoder(features, places, sparse, dense, True)
        found = ours(sam, features, places, sparse, dense, False)
    for theirs, own in zip(wanted, found, strict=True):
        assert (theirs - own).abs().max() <= 1e-6
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3  # and they differ


def test_the_decoder_is_left_as_it_is_and_gradients_pass() -> None:
    sam = narrow_sam()
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    features, places, sparse, dense = prompts(sam, 4)
    logits, _ = ours(sam, features.requires_grad_(), places, sparse, dense[:1], False)
    logits.sum().backward()
    assert features.grad is not None and features.grad.abs().max() > 0
    assert all((before[key] == value).all() for key, value in sam.state_dict().items())
