import open_clip
import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip import tower
from ovseg.clip.attention import LAST_BLOCKS, Group, LastBlock, Term, attend, last_block, run_block
from ovseg.errors import BadInput, BadUsage, UnknownName, UnsupportedTower

PIXELS = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tiny.model().visual


def test_vanilla_equals_open_clips_own_forward_on_its_own_grid(visual: nn.Module) -> None:
    pixels = PIXELS[:, :, :, :48]
    visual.output_tokens = True
    pooled, tokens = visual(pixels)
    visual.output_tokens = False
    got = tower.dense_tokens(visual, pixels, "vanilla")
    torch.testing.assert_close(got.flatten(1, 2), tokens @ visual.proj, rtol=0, atol=1e-5)
    torch.testing.assert_close(tower.image_vector(visual, tower.prefix(visual, pixels)), pooled, rtol=0, atol=1e-5)


def test_vanilla_equals_a_tower_built_at_the_wide_size() -> None:
    square = tiny.model()
    wide = open_clip.CLIP(
        tiny.DIM,
        {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": (48, 80)},
        {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
        quick_gelu=True,
    ).eval()
    state = square.state_dict()
    state["visual.positional_embedding"] = tower.position_embedding(square.visual, (6, 10))
    wide.load_state_dict(state)
    wide.visual.output_tokens = True
    _, tokens = wide.visual(PIXELS)
    got = tower.dense_tokens(square, PIXELS, "vanilla")
    assert got.shape == (2, 6, 10, tiny.DIM)
    torch.testing.assert_close(got.flatten(1, 2), tokens @ wide.visual.proj, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", LAST_BLOCKS)
def test_batch_of_two_is_two_batches_of_one(visual: nn.Module, method: str) -> None:
    both = tower.dense_tokens(visual, PIXELS, method)
    alone = torch.cat([tower.dense_tokens(visual, one[None], method) for one in PIXELS])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", LAST_BLOCKS)
@pytest.mark.parametrize("grid", [(5, 9), (10, 6)])
def test_transposed_grid_gives_the_transposed_answer(visual: nn.Module, method: str, grid: tuple[int, int]) -> None:
    rows, cols = grid
    tokens = torch.randn(2, 1 + rows * cols, 64, generator=torch.Generator().manual_seed(3))
    turned = torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, grid).transpose(1, 2).flatten(1, 2)], dim=1)
    straight = tower.finish(visual, tokens, last_block(method), grid)[:, 1:].unflatten(1, grid)
    other = tower.finish(visual, turned, last_block(method), (cols, rows))[:, 1:].unflatten(1, (cols, rows))
    torch.testing.assert_close(other.transpose(1, 2), straight, rtol=0, atol=1e-5)


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
        *LAST_BLOCKS.values(),
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
    torch.testing.assert_close(attend(attention, tokens, row.groups, (5, 3)), wanted, rtol=0, atol=2e-5)


def test_row_sum_is_what_a_constant_value_is_multiplied_by(visual: nn.Module) -> None:
    """With values all equal, attention gives row_sum * value, whatever the scores."""
    attention = tiny.model(seed=5).visual.transformer.resblocks[-1].attn
    with torch.no_grad():
        attention.in_proj_weight[128:] = 0
        attention.out_proj.weight.copy_(torch.eye(64))
        attention.out_proj.bias.zero_()
    tokens = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(6))
    for row in LAST_BLOCKS.values():
        wanted = (row.row_sum * attention.in_proj_bias[128:]).expand(2, 16, 64)
        torch.testing.assert_close(attend(attention, tokens, row.groups, (5, 3)), wanted, rtol=0, atol=1e-5)


def test_layer_scale_is_applied_where_a_block_has_it() -> None:
    visual = tiny.model(ls_init_value=0.3).visual
    tokens = torch.randn(2, 61, 64, generator=torch.Generator().manual_seed(6))
    block = visual.transformer.resblocks[-1]
    torch.testing.assert_close(
        run_block(block, tokens, LAST_BLOCKS["vanilla"], (6, 10)), block(tokens), rtol=0, atol=1e-5
    )


def test_tower_is_left_as_it_was_found(visual: nn.Module) -> None:
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    parts = [id(part) for part in visual.modules()]
    for method in LAST_BLOCKS:
        tower.dense_tokens(visual, PIXELS, method)
    assert all(torch.equal(before[key], value) for key, value in visual.state_dict().items())
    assert [id(part) for part in visual.modules()] == parts
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in visual.modules())


def test_names_that_the_walk_reads_are_still_upstreams(visual: nn.Module) -> None:
    for name in ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj"):
        assert getattr(visual, name) is not None
    for name in ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2"):
        assert hasattr(visual.transformer.resblocks[0], name)
    assert tower.probe(visual).grid == (6, 6) and tower.probe(visual).depth == 3


def test_native_positions_are_the_parameter_itself(visual: nn.Module) -> None:
    assert tower.position_embedding(visual, (6, 6)) is visual.positional_embedding
    assert not torch.equal(
        tower.position_embedding(visual, (5, 9)), tower.position_embedding(visual, (5, 9), "scale01")
    )


def test_gradient_flows_to_the_pixels(visual: nn.Module) -> None:
    pixels = PIXELS.clone().requires_grad_()
    tower.dense_tokens(visual, pixels, "naclip").sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ["RN50", "coca_ViT-B-32"])
def test_other_families_are_refused_by_a_sentence(architecture: str) -> None:
    visual = open_clip.create_model(architecture, pretrained=None, load_weights=False).visual
    with pytest.raises(UnsupportedTower, match="ovseg walks the standard ViT towers"):
        tower.dense_tokens(visual, torch.zeros(1, 3, 224, 224), "sclip")
    assert set(tower.probe(visual).refuses) == set(LAST_BLOCKS)


def test_towers_that_pool_their_patches_or_are_no_tower_are_refused() -> None:
    with pytest.raises(UnsupportedTower, match="CLIPA"):
        tower.dense_tokens(tiny.model(pool_type="avg").visual, PIXELS)
    with pytest.raises(UnsupportedTower, match="Linear has no conv1"):
        tower.dense_tokens(nn.Linear(2, 2), PIXELS)


def test_unknown_method_and_pixels_below_a_patch_say_so(visual: nn.Module) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'naclip'"):
        tower.dense_tokens(visual, PIXELS, "naklip")
    with pytest.raises(BadInput, match="at least one patch of 8x8: got 7x80"):
        tower.dense_tokens(visual, PIXELS[:, :, :7], "naclip")


@pytest.mark.parametrize(
    "pixels",
    [PIXELS[0], PIXELS[:, :1], PIXELS[:0], (PIXELS * 9).to(torch.uint8), torch.zeros(2, 48, 80, 3)],
)
def test_pixels_of_another_shape_or_type_get_a_sentence(visual: nn.Module, pixels: Tensor) -> None:
    with pytest.raises(BadInput, match=r"pixels must be \(batch, 3, height, width\) and normalised floats: got \["):
        tower.dense_tokens(visual, pixels, "naclip")


def test_rows_are_checked_when_made() -> None:
    for make in (
        lambda: Term("qv"),
        lambda: Term("qq", weight=0.0),
        lambda: Term("qq", std=1.0),
        lambda: Term("gauss"),
        lambda: Group(),
        lambda: Group((Term("qq"),), weight=0.0),
        lambda: Group((Term("qq"),), normaliser="identity"),
        lambda: LastBlock(()),
    ):
        with pytest.raises(BadUsage):
            make()
