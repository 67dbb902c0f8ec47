"""Segment-anything models: opening checkpoints, one face for their networks, and masks from a grid of points.

`AutomaticMaskGenerator` takes the place of segment-anything's: its options, its records, the same masks, much sooner.
"""

from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.model import Embedding, MaskModel

__all__ = ["AutomaticMaskGenerator", "Embedding", "MaskModel"]
