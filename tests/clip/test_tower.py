import open_clip
import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip import tower
from ovseg.clip.attention import run
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.sight import Sight
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
