import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip.groups import attend
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.program import Group, LastBlock, Term
from ovseg.clip.sight import Sight
from ovseg.clip.walk import Vit


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tiny.model().visual


def likeness_rows() -> list[LastBlock]:
    """Rows whose groups are q, k, v terms, nearness and the value path: what the slow definition below knows."""
    known = {"qk", "qq", "kk", "vv", "gauss"}
    return [
        row
        for row in LAST_BLOCKS.values()
        for terms in [[term for group in row.groups for term in group.terms]]
        if {term.source for term in terms} <= known
        and not any(term.unit or term.align or term.centre for term in terms)
        and not any(len(group.layers) for group in row.groups)
    ]


def attended(visual: nn.Module, tokens: Tensor, row: LastBlock, grid: tuple[int, int]) -> Tensor:
    walk = Vit(visual)
    return walk.out(3, attend(Sight(walk, {}, grid), 3, tokens, row.groups))


def slow_attention(attention: nn.MultiheadAttention, x: Tensor, row: LastBlock, grid: tuple[int, int]) -> Tensor:
    """The definition, term by term, head by head, patch by patch."""
    count, width, heads = x.shape[1], x.shape[2], attention.num_heads
    depth = width // heads
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).split(width, dim=-1)
    out = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * depth, (head + 1) * depth)
        sides = {"q": q[..., part], "k": k[..., part], "v": v[..., part]}
        for group in row.groups:
            weights = torch.eye(count).expand(len(x), -1, -1)
            if group.normaliser == "softmax":
                score = torch.zeros(len(x), count, count)
                for term in group.terms:
                    if term.source == "gauss":
                        for i in range(1, count):
                            for j in range(1, count):
                                (a, b), (c, d) = divmod(i - 1, grid[1]), divmod(j - 1, grid[1])
                                near = -((a - c) ** 2 + (b - d) ** 2) / (2 * term.std**2)
                                score[:, i, j] += term.weight * torch.tensor(near).exp()
                    else:
                        left, right = sides[term.source[0]], sides[term.source[1]]
                        score += term.weight * left @ right.mT / depth**0.5
                weights = score.softmax(dim=-1)
            out[..., part] += group.weight * weights @ sides["v"]
    return out @ attention.out_proj.weight.T + attention.out_proj.bias


@pytest.mark.parametrize(
    "row",
    [
        *likeness_rows(),
        LastBlock(
            (
                Group((Term("qk"), Term("vv", 0.7), Term("gauss", 2.0, std=1.5)), weight=1.4),
                Group(normaliser="identity", weight=0.6),
            )
        ),
        LastBlock((Group((Term("gauss", -1.0, std=2.0),)),)),
    ],
)  # fmt: skip
def test_fused_groups_equal_the_definition(visual: nn.Module, row: LastBlock) -> None:
    tokens = torch.randn(2, 1 + 5 * 3, 64, generator=torch.Generator().manual_seed(4))
    attention = visual.transformer.resblocks[-1].attn
    wanted = slow_attention(attention, tokens, row, (5, 3))
    assert torch.isfinite(wanted).all()
    torch.testing.assert_close(attended(visual, tokens, row, (5, 3)), wanted, rtol=0, atol=2e-5)


def test_row_sum_is_what_a_constant_value_is_multiplied_by(visual: nn.Module) -> None:
    """With values all equal, attention gives row_sum * value, whatever the scores."""
    changed = tiny.model(seed=5).visual
    attention = changed.transformer.resblocks[-1].attn
    with torch.no_grad():
        attention.in_proj_weight[128:] = 0
        attention.out_proj.weight.copy_(torch.eye(64))
        attention.out_proj.bias.zero_()
    tokens = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(6))
    for row in likeness_rows():
        wanted = (row.row_sum * attention.in_proj_bias[128:]).expand(2, 16, 64)
        torch.testing.assert_close(attended(changed, tokens, row, (5, 3)), wanted, rtol=0, atol=1e-5)
