"""The conformance kit: is a tower walked rightly, what can it do, and does every method equal its authors' program?

Plugging in a new backbone
--------------------------
1. Write a walk. `ovseg.clip.walk.Walk` is the whole of what a method sees of a network: a few numbers (`depth`,
   `heads`, `width`, `dim`, `own`, `patch`, `native`) and eight functions, which call the network's own modules in its
   own order:

       enter(pixels, positions)       the tokens that enter block 1; the image's own token, if there is one, first
       block(number, tokens, grid)    upstream's own block, unchanged
       norm(number, tokens)           the norm before its attention
       sides(number, normed, grid)    q, k, v by head, biases and rotation included
       out(number, mixed)             weighted values through the output matrix, its bias, and LayerScale
       mlp(number, tokens)            what the MLP adds, its norm and LayerScale included
       project(tokens)                the exit of every token: last norm, projection
       whole(last, grid)              the image embedding, from what enters the last block

   No module is replaced, no hook set. `refuses` maps what the network lacks (`walk.FEATURES`) to a sentence that says
   why; a method that needs it is then refused by that sentence. An empty `refuses` is a promise.

2. Ask the kit, before anything is registered:

       from ovseg.conformance import failed, invariants, moved
       results = invariants(moved(my_tower), name="mine", find=MyWalk)
       for result in failed(results):
           print(result.method, result.check, result.measured, result.sentence)

   `moved` changes every parameter, because a bias that is 0 hides that it was forgotten. What the checks say:

       forward      the image embedding is not the tower's own: `enter`, `block` or `whole` is wrong
       tokens       patches are not upstream's tokens: their order, or `project`
       parts        norm, sides, out and mlp are not the block: a bias, a scale, a norm is lost
       place        a patch is not seen where it lies: rows and columns are swapped
       shape, batch, transposed, flat, again    what every method must hold; one that fails alone points to the method
       distinct     a method gives the unchanged answer: say in `refuses` why it cannot be, or mend `sides`
       untouched    the tower was changed: state, hooks, switches, or its own answer
       able         a plug-in answers although the tower lacks what it changes: it must refuse

   Begin with `forward` and `parts`: where they hold, the rest does. Differences are over the answer's spread; equal
   means 1e-5, and is 1e-12 for all but the few steps that are float32 inside.

3. Register it: a file beside `ovseg/clip/families`, with `belongs`, `lacks` (a sentence for each tower of the kind that
   is *not* computed so) and `walk`, and a row in `families.FAMILIES`. From then on `ovseg check --methods --model
   ARCHITECTURE@FILE` does the same from the command line, `--architecture NAME` with random numbers and no checkpoint,
   and `ovseg check --towers` lists it. `ovseg.dense_tokens` takes it at once.

`parity` holds every method against the stored answers of the released programs (`folder` finds them). It is about the
methods, on one stored tower; `invariants` is about a tower.
"""

from ovseg.conformance.invariants import CHECKS, Check, invariants
from ovseg.conformance.parity import folder, parity
from ovseg.conformance.results import Result, by_method, failed, markdown, number, verdict_of
from ovseg.conformance.towers import STAND_INS, architecture, moved, narrow

__all__ = [
    "CHECKS",
    "Check",
    "Result",
    "STAND_INS",
    "architecture",
    "by_method",
    "failed",
    "folder",
    "invariants",
    "markdown",
    "moved",
    "narrow",
    "number",
    "parity",
    "verdict_of",
]
