"""Our own rows, against the sums that their page writes down."""

import torch
from torch import Tensor

import tiny
from ovseg.clip import tower
from ovseg.clip.attention import read, taps_of
from ovseg.clip.methods.own import MIDDLE, ROWS, SHARPER, two_level
from ovseg.clip.sight import Sight
from ovseg.clip.walk import Vit, Walk, layer

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(5))


def sharp_likeness(walk: Walk, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """The last block over some tokens: explicit softmaxes, one head and one of q, k, v at a time."""
    sides = walk.sides(walk.depth, walk.norm(walk.depth, tokens), grid)
    mixed = torch.zeros_like(sides["v"])
    for side in sides.values():
        for head in range(walk.heads):
            score = SHARPER * side[:, head] @ side[:, head].mT / side.shape[-1] ** 0.5
            mixed[:, head] += score.softmax(dim=-1) @ sides["v"][:, head]
    return mixed.transpose(1, 2).flatten(2)


def test_two_level_is_the_sum_of_the_last_block_over_its_own_input_and_over_the_middle_block_s_output() -> None:
    for depth in (6, 12):
        walk = Vit(tiny.model(layers=depth).visual)
        row = ROWS["two-level"]
        taps = tower.prefix(walk, PIXELS, taps_of(row, depth))
        got = read(Sight(walk, taps, (6, 10)), row).cells
        own = walk.out(depth, 0.5 * sharp_likeness(walk, taps[depth], (6, 10)))
        middle = walk.out(depth, 0.1 * sharp_likeness(walk, taps[layer(MIDDLE, depth) + 1], (6, 10)))
        wanted = walk.project(own + middle)[:, 1:].reshape(2, 6, 10, -1)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_each_weight_of_two_level_changes_its_answer() -> None:
    walk = Vit(tiny.model(layers=6).visual)
    taps = tower.prefix(walk, PIXELS, (4, 6))
    sight = Sight(walk, taps, (6, 10))
    ours, more_near, more_far = (
        read(sight, row).cells for row in (ROWS["two-level"], two_level(0.7, 0.1), two_level(0.5, 0.3))
    )
    assert (ours - more_near).abs().max() > 1e-2 and (ours - more_far).abs().max() > 1e-2
