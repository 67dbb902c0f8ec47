"""Who computes a network: torch with the kernels that suit this machine, or OpenVINO; in float32 or in bfloat16.

What a network computes is its module, and stays upstream's. `prepare` gives a function that computes the same; nothing
here knows CLIP or SAM.
"""

from ovseg.runtime.kernels import Kernels, onednn_linear, uses_onednn
from ovseg.runtime.seam import PRECISIONS, RUNTIMES, Prepared, Run, check, describe, kernels, prepare

__all__ = [
    "Kernels",
    "PRECISIONS",
    "Prepared",
    "RUNTIMES",
    "Run",
    "check",
    "describe",
    "kernels",
    "onednn_linear",
    "prepare",
    "uses_onednn",
]
