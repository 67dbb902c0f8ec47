"""From scores to pixels: the evidence for every name, which region owns a pixel, and the `Segmentation` they make.

Scores are scaled cosines of prompt rows. They become posteriors, and posteriors become labels, in `raster`
(`posterior`, `pick`) and `Segmentation.decide`, so that a result can be asked again at another threshold. Ownership is
decided here, once, and does not depend on any threshold. A region speaks with the posterior of its best *name*: where a
negative is likelier the region's pixels stay unlabelled, but a region that has a name goes first.
"""

from ovseg.encoders.described import region_rows
from ovseg.labels.composing import Choices, Propose, compose
from ovseg.labels.joining import joined, merge, suppress
from ovseg.labels.ownership import MOST_SHARED, OVERLAPS, Overlap, Policy, own
from ovseg.labels.scoring import cell_rows, stitch

__all__ = [
    "Choices",
    "MOST_SHARED",
    "OVERLAPS",
    "Overlap",
    "Policy",
    "Propose",
    "cell_rows",
    "compose",
    "joined",
    "merge",
    "own",
    "region_rows",
    "stitch",
    "suppress",
]
