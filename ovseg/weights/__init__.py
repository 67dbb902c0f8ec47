"""Weight files: which there are (manifest), where they lie on this machine (search), whether they are what they claim
(check), how they come here (fetch), what is in them (read). Only `pull` ever touches the network.
"""

from ovseg.weights.check import Check, path, recognise, sha256, verify
from ovseg.weights.fetch import pull
from ovseg.weights.manifest import MANIFEST, WeightFile
from ovseg.weights.read import read_state, state
from ovseg.weights.search import Status, bundled, cache_folder, default_folder, find, search_path, status

__all__ = [
    "Check",
    "MANIFEST",
    "Status",
    "WeightFile",
    "bundled",
    "cache_folder",
    "default_folder",
    "find",
    "path",
    "pull",
    "read_state",
    "recognise",
    "search_path",
    "sha256",
    "state",
    "status",
    "verify",
]
