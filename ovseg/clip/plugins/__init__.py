"""Published methods that no row of a table can hold: one small file each, plain functions on a `Walk` and tensors.

| file | gives | needs beside the picture | take it |
|---|---|---|---|
| `decomposition` | what patches, heads and layers add to the image embedding | nothing | to see what it rests on |
| `cliper` | a vector a patch from every block, and one attention | nothing | for even maps without a choice of layers |
| `itaclip` | vectors averaged over grey, blurred, flipped views | nothing; five passes | for the last points |
| `gem` | heat maps from 0 to 1 | words | for one phrase at a time |
| `resclip` | vectors of a second pass | words, and what links cells (`stages.sfr`) | for whole objects, few names |
| `cliptrase` | the affinity that its stage clusters | nothing | with that stage |
| `clip_dinoiser` | vectors pooled by a learned correlation | a head for this very tower | where it is at hand |
| `trident` | vectors on SAM's grid | a guide, SAM's last attention | for large pictures, when SAM runs anyway |
| `corrclip` | vectors on the guide's grid | a guide, regions | where regions are good: the strongest with code |
| `cass` | vectors by borrowed head graphs | a guide's keys | to compare; the guided row is simpler |

Each equals its authors' released program on stored inputs. Where that program is wrong off the square or plainly not
what it means, the right form is the default and `compat=True` gives the released one. Towers that lack what a method
reads are refused in a sentence; no module of a tower is replaced, hooked or written.
"""

__all__: list[str] = []  # a room: its files are imported by name
