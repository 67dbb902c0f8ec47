"""A SAM of segment-anything's own classes, small enough for a test: 256 px, random numbers in every parameter."""

import torch
from segment_anything.modeling import Sam

from ovseg.sam.networks import SamShape, build

NARROW = SamShape(
    width=24, depth=2, heads=2, global_blocks=(1,), side=256, window=8, channels=32, decoder_mlp=64, decoder_heads=4
)


def narrow_sam(seed: int = 0) -> Sam:
    """Random weights; the predicted IoU is raised so that masks have a chance."""
    torch.manual_seed(seed)
    sam = build(NARROW).eval()
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.3)
    return sam
