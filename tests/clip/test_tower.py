import open_clip
import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip import attention, tower
from ovseg.clip.attention import Sight, attend, run
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.program import Group, LastBlock, Term
from ovseg.clip.walk import Vit, resampled
from ovseg.errors import BadInput, UnknownName, UnsupportedTower

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
    walk = Vit(visual)
    whole = walk.whole(tower.prefix(walk, pixels)[3], (6, 6))
    torch.testing.assert_close(whole, pooled, rtol=0, atol=1e-5)


def test_vanilla_equals_a_tower_built_at_the_wide_size() -> None:
    square = tiny.model()
    wide = open_clip.CLIP(
        tiny.DIM,
        {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": (48, 80)},
        {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
        quick_gelu=True,
    ).eval()
    state = square.state_dict()
    state["visual.positional_embedding"] = resampled(square.visual.positional_embedding, 1, (6, 6), (6, 10))
    wide.load_state_dict(state)
    wide.visual.output_tokens = True
    _, tokens = wide.visual(PIXELS)
    got = tower.dense_tokens(square, PIXELS, "vanilla")
    assert got.shape == (2, 6, 10, tiny.DIM)
    torch.testing.assert_close(got.flatten(1, 2), tokens @ wide.visual.proj, rtol=0, atol=1e-5)


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


def test_layer_scale_is_applied_where_a_block_has_it() -> None:
    visual = tiny.model(ls_init_value=0.3).visual
    tokens = torch.randn(2, 61, 64, generator=torch.Generator().manual_seed(6))
    block = visual.transformer.resblocks[-1]
    got, _ = run(Sight(Vit(visual), {3: tokens}, (6, 10)), LAST_BLOCKS["vanilla"])
    torch.testing.assert_close(got, block(tokens), rtol=0, atol=1e-5)


def test_tower_is_left_as_it_was_found(visual: nn.Module) -> None:
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    parts = [id(part) for part in visual.modules()]
    for method in LAST_BLOCKS:
        tower.dense_tokens(visual, PIXELS, method, guide=torch.ones(2, 5, 4, 7))
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
    stored = visual.positional_embedding
    assert resampled(stored, 1, (6, 6), (6, 6)) is stored
    assert not torch.equal(resampled(stored, 1, (6, 6), (5, 9)), resampled(stored, 1, (6, 6), (5, 9), "scale01"))


def test_gradient_flows_to_the_pixels(visual: nn.Module) -> None:
    pixels = PIXELS.clone().requires_grad_()
    tower.dense_tokens(visual, pixels, "naclip").sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_a_tower_that_cannot_do_a_method_refuses_it_and_names_those_that_it_can() -> None:
    coca = open_clip.create_model("coca_ViT-B-32", pretrained=None, load_weights=False).visual
    with pytest.raises(UnsupportedTower, match="CoCa"):
        tower.dense_tokens(coca, torch.zeros(1, 3, 224, 224), "sclip")
    assert set(tower.probe(coca).refuses) == set(LAST_BLOCKS)
    with pytest.raises(UnsupportedTower, match="Linear"):
        tower.dense_tokens(nn.Linear(2, 2), PIXELS)
    shallow = tiny.model(layers=2).visual
    with pytest.raises(UnsupportedTower, match="blocks before the last.*Methods that can: vanilla, maskclip, "):
        tower.dense_tokens(shallow, PIXELS, "resclip")
    assert {"resclip", "sc-clip", "cliper"} <= set(tower.probe(shallow).refuses)
    assert tower.probe(tiny.model().visual).refuses == {}


def test_tower_without_attention_gives_its_own_features_and_refuses_every_method() -> None:
    conv = open_clip.create_model("MobileCLIP-S1", pretrained=None, load_weights=False).eval()
    assert set(tower.probe(conv).refuses) == set(LAST_BLOCKS) - {"vanilla"}
    with pytest.raises(UnsupportedTower, match="Methods that can: vanilla."):
        tower.dense_tokens(conv, torch.zeros(1, 3, 64, 96))
    assert tower.dense_tokens(conv, torch.zeros(1, 3, 64, 96), "vanilla").shape == (1, 2, 3, 512)


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


def test_nearness_that_was_kept_by_an_inference_run_still_serves_a_gradient(visual: nn.Module) -> None:
    pixels = torch.randn(1, 3, 40, 88, requires_grad=True)
    with torch.inference_mode():
        tower.dense_tokens(visual, pixels, "naclip")
    tower.dense_tokens(visual, pixels, "naclip").sum().backward()
    assert pixels.grad is not None


def test_nearness_of_a_small_grid_is_kept_and_of_a_large_one_made_anew_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = attention.nearness((3, 5), 2.0)
    assert attention.nearness((3, 5), 2.0) is kept
    monkeypatch.setattr(attention, "KEPT_PATCHES", 14)
    anew = attention.nearness((3, 5), 2.0)
    assert anew is not kept and anew is not attention.nearness((3, 5), 2.0) and torch.equal(anew, kept)
    apart = (torch.tensor([0.0, 0.0]) - torch.tensor([2.0, 1.0])).square().sum()
    assert torch.allclose(anew[1, 1 + 2 * 5 + 1], torch.exp(-apart / 8)) and not anew[0].any()
