"""The nouns: what the parts of ovseg hand to one another, and what a user keeps.

H, W are the height and width of the picture; R, C token rows and columns; D the embedding width; N regions; K names;
P prompt rows. Everything here is numpy on the CPU, frozen, and checked when made. Boxes are XYXY pixel edges (max + 1),
x to the right and y down; a run-length code is COCO's, made and read by pycocotools.

A `Segmentation` keeps the `Evidence` that it was made from (the scaled cosine of every prompt row in every cell), so
that a threshold can be asked again, exactly, without any network.
"""

from ovseg.evidence import Evidence
from ovseg.types.anomaly import AnomalyMap
from ovseg.types.choices import RecipeLike
from ovseg.types.features import DenseFeatures, Windows
from ovseg.types.regions import Regions
from ovseg.types.segmentation import JUDGED_ABSENT, MOST_NAMED, NAMELESS, NOTHING_FOUND, Segmentation
from ovseg.types.vocabulary import Head, Vocabulary

__all__ = [
    "AnomalyMap",
    "DenseFeatures",
    "Evidence",
    "Head",
    "JUDGED_ABSENT",
    "MOST_NAMED",
    "NAMELESS",
    "NOTHING_FOUND",
    "RecipeLike",
    "Regions",
    "Segmentation",
    "Vocabulary",
    "Windows",
]
