"""The folded decoder is the plain one up to rounding: other products, the same sums."""

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ovseg.sam.decoder import Attend, Upscale, share
from ovseg.sam.folded import FoldedAttend, FoldedUpscale
from ovseg.sam.load import SamShape, build
from tests.sam.narrow import narrow_sam

CLOSE = 1e-5  # of the largest value


def off(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def given(sam: Sam, count: int, points: int, masks: bool = False) -> tuple[Tensor, ...]:
    """Tokens of prompts of so many points, and the shared part of a picture."""
    torch.manual_seed(count + points)
    places = torch.rand(count, points, 2, dtype=torch.float64) * sam.image_encoder.img_size
    labels = torch.arange(count * points).view(count, points).remainder(2).int()
    side = 4 * sam.prompt_encoder.image_embedding_size[0]
    maps = torch.randn(count, 1, side, side) if masks else None
    sparse, dense = sam.prompt_encoder((places, labels), None, maps)
    features = torch.randn(1, sam.mask_decoder.transformer_dim, *sam.prompt_encoder.image_embedding_size)
    own = dense if masks else dense[:1]
    return sparse, *share(sam.mask_decoder, features, own, sam.prompt_encoder.get_dense_pe()).parts


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("count", "points"), [(1, 1), (4, 2), (7, 3), (16, 4)])
@pytest.mark.parametrize("masks", [False, True])
def test_folded_attention_is_the_plain_one(count: int, points: int, masks: bool, together: bool) -> None:
    sam = narrow_sam()
    with torch.inference_mode():
        tensors = given(sam, count, points, masks)
        wanted = Attend(sam.mask_decoder)(*tensors)
        found = FoldedAttend(sam.mask_decoder, together=together)(*tensors)
    for plain, folded in zip(wanted, found, strict=True):
        assert off(folded, plain) <= CLOSE


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 4)])
def test_folded_masks_are_the_plain_ones_on_a_grid_that_is_not_square(first: int, last: int) -> None:
    decoder = narrow_sam().mask_decoder
    torch.manual_seed(0)
    image, tokens = torch.randn(3, 6 * 10, 32), torch.randn(3, 4, 32)
    with torch.inference_mode():
        (wanted,) = Upscale(decoder, first, last, (6, 10))(image, tokens)
        (found,) = FoldedUpscale(decoder, first, last, (6, 10))(image, tokens)
    assert found.shape == (3, last - first, 24, 40)
    assert off(found, wanted) <= CLOSE


@pytest.mark.slow
def test_at_full_size_too() -> None:
    torch.manual_seed(0)
    sam = build(SamShape(width=24, depth=1, heads=2, global_blocks=(0,))).eval()  # the decoder is vit_b's
    with torch.inference_mode():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        tensors = given(sam, 3, 2)
        wanted = Attend(sam.mask_decoder)(*tensors)
        (masks,) = Upscale(sam.mask_decoder, 1, 4, (64, 64))(wanted[2], wanted[1])
        for together in (False, True):
            found = FoldedAttend(sam.mask_decoder, together=together)(*tensors)
            (own,) = FoldedUpscale(sam.mask_decoder, 1, 4, (64, 64))(found[2], found[1])
            for plain, folded in zip((*wanted, masks), (*found, own), strict=True):
                assert off(folded, plain) <= CLOSE
            assert int(((own > 0) != (masks > 0)).sum()) <= 1e-5 * masks.numel()


def test_gradients_pass_and_nothing_given_is_written() -> None:
    sam = narrow_sam()
    with torch.no_grad():
        tensors = given(sam, 4, 1)
    before = [tensor.clone() for tensor in tensors]
    grown = [tensor.clone().requires_grad_() for tensor in tensors]
    for module in (Attend(sam.mask_decoder), FoldedAttend(sam.mask_decoder, together=False)):
        module(*grown)[2].square().mean().backward()
    with torch.inference_mode():
        FoldedAttend(sam.mask_decoder, together=False)(*tensors)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    plain = grown[0].grad
    assert plain is not None and plain.abs().max() > 0
    once = grown[0].detach().clone().requires_grad_()
    Attend(sam.mask_decoder)(once, *grown[1:])[2].square().mean().backward()
    assert once.grad is not None
    assert off(plain / 2, once.grad) <= 1e-4  # the two backward passes above are the same
