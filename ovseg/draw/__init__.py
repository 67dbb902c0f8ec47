"""Pictures out: what was found, laid over the picture, with a legend or a scale that can be read at any size.

Nothing is told by colour alone: regions have double outlines (light in dark) and, where they have room, their names.
Names are drawn as plain text in whatever fonts the machine has (`text` says what remains without any); a line in the
legend says so if a name had to lose signs.
"""

from ovseg.draw.disputed import disputed
from ovseg.draw.files import class_table, index_png, png
from ovseg.draw.heat import COLOUR_MAPS, heatmap
from ovseg.draw.overlays import overlay, with_prompts

__all__ = [
    "COLOUR_MAPS",
    "class_table",
    "disputed",
    "heatmap",
    "index_png",
    "overlay",
    "png",
    "with_prompts",
]
