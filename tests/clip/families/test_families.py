"""What holds for every family: equal to upstream at its own size, defined at others, upstream left as it was found."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

import tiny
from ovseg import Pipeline, Recipe
from ovseg.clip import families
from ovseg.clip.load import wrap
from ovseg.clip.methods import LAST_BLOCKS
from ovseg.clip.tower import dense_tokens
from ovseg.clip.walk import FEATURES, Walk, layer
from ovseg.errors import UnsupportedTower
from tests.clip.families import towers

TRANSFORMERS: dict[str, tuple[Callable[..., Any], str]] = {
    "vit": (lambda **options: tiny.model(ls_init_value=0.3, **options).visual, "VisionTransformer"),
    "clipa": (lambda: tiny.model(pool_type="avg", no_ln_pre=True).visual, "VisionTransformer"),
    "eva01": (towers.eva01, "TimmModel/Eva"),
    "eva02": (towers.eva02, "TimmModel/Eva"),
    "eva02-e": (towers.eva02_post, "TimmModel/Eva"),
    "pe": (towers.perception, "TimmModel/Eva"),
    "siglip": (towers.siglip, "TimmModel/VisionTransformer"),
    "vitamin": (towers.vitamin, "TimmModel/VisionTransformer"),
    "vitamin-xl": (lambda: towers.vitamin(pos_embed="none"), "TimmModel/VisionTransformer"),
    "mobileclip-b": (towers.mobile_b, "TimmModel/VisionTransformer"),
}
ALL: dict[str, tuple[Callable[..., Any], str]] = TRANSFORMERS | {
    "convnext": (towers.convnext, "TimmModel/ConvNeXt"),
    "convnext-d": (lambda: towers.convnext(proj="mlp"), "TimmModel/ConvNeXt"),
    "fastvit": (towers.fastvit, "TimmModel/FastVit"),
    "fastvit-5": (lambda: towers.fastvit(128, stages=5), "TimmModel/FastVit"),
    "resnet": (towers.resnet, "ModifiedResNet"),
}


def sizes(walk: Walk) -> tuple[int, int, tuple[int, int]]:
    """A picture of other sides than the tower's own, and its grid."""
    grid = (walk.native[0], walk.native[1] + 2)
    return grid[0] * walk.patch[0], grid[1] * walk.patch[1], grid


@pytest.mark.parametrize("name", ALL)
def test_walk_at_the_towers_own_size_ends_in_its_own_embedding(name: str) -> None:
    build, family = ALL[name]
    tower = build()
    walk = families.find(tower)
    assert isinstance(walk, Walk) and walk.family == family and walk.refuses.keys() <= FEATURES.keys()
    images = towers.pixels(walk.native[0] * walk.patch[0], walk.native[1] * walk.patch[1])
    tap, grid = towers.last(walk, images)
    assert tap.shape == (2, walk.own + grid[0] * grid[1], walk.width)
    wanted = tower(images)
    assert wanted.shape == (2, walk.dim) and wanted.std() > 1e-3
    torch.testing.assert_close(walk.whole(tap, grid), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("native", [True, False])
def test_parts_of_every_block_put_together_are_the_block(name: str, native: bool) -> None:
    walk = families.find(TRANSFORMERS[name][0]())
    height, width, grid = sizes(walk)
    grid = walk.native if native else grid
    tokens = walk.enter(towers.pixels(grid[0] * walk.patch[0], grid[1] * walk.patch[1]), "bicubic")
    for number in range(1, walk.depth + 1):
        wanted = walk.block(number, tokens, grid)
        assert (wanted - tokens).abs().max() > 1e-2
        torch.testing.assert_close(towers.rebuilt(walk, number, tokens, grid), wanted, rtol=0, atol=1e-5)
        tokens = wanted


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_patches_without_the_image_token_have_the_same_sides(name: str) -> None:
    walk = families.find(TRANSFORMERS[name][0]())
    height, width, grid = sizes(walk)
    normed = walk.norm(walk.depth, towers.last(walk, towers.pixels(height, width))[0])
    sides, alone = walk.sides(walk.depth, normed, grid), walk.sides(walk.depth, normed[:, walk.own :], grid, "kv")
    assert alone.keys() == {"k", "v"}
    for letter, side in alone.items():
        assert side.shape == (2, walk.heads, grid[0] * grid[1], walk.width // walk.heads)
        torch.testing.assert_close(side, sides[letter][:, :, walk.own :], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_other_grids_have_a_vector_a_patch_and_pictures_do_not_mix(name: str) -> None:
    walk = families.find(ALL[name][0]())
    height, width, grid = sizes(walk)
    images = towers.pixels(height, width)
    both = towers.exits(walk, images)
    assert both.shape == (2, *grid, walk.dim) and torch.isfinite(both).all()
    alone = torch.cat([towers.exits(walk, images[:1]), towers.exits(walk, images[1:])])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)
    rest = torch.nn.functional.pad(images, (0, walk.patch[1] - 1, 0, walk.patch[0] - 1))
    torch.testing.assert_close(towers.exits(walk, rest), both, rtol=0, atol=1e-6)  # half a patch is no patch
    none = walk.enter(images[:0], "bicubic")  # (some of upstream's blocks refuse an empty batch)
    assert none.shape == (0, walk.own + grid[0] * grid[1], walk.width) and len(walk.project(none)) == 0


@pytest.mark.parametrize("name", ALL)
def test_upstream_is_left_as_it_was_found(name: str) -> None:
    tower = ALL[name][0]()
    walk = families.find(tower)
    height, width, _ = sizes(walk)
    square = towers.pixels(walk.native[0] * walk.patch[0], walk.native[1] * walk.patch[1])
    before = tower(square)
    tensors = {key: value.clone() for key, value in [*tower.named_parameters(), *tower.named_buffers()]}
    parts = [(key, id(part)) for key, part in tower.named_modules()]
    for images in (towers.pixels(height, width), square):
        tap, grid = towers.last(walk, images)
        walk.whole(tap, grid)
        towers.exits(walk, images)
    assert parts == [(key, id(part)) for key, part in tower.named_modules()]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in tower.modules())
    after = dict([*tower.named_parameters(), *tower.named_buffers()])
    assert after.keys() == tensors.keys() and all(torch.equal(after[key], tensors[key]) for key in tensors)
    assert torch.equal(tower(square), before)


@pytest.mark.parametrize("name", ALL)
def test_every_method_changes_the_answer_or_says_why_it_cannot(name: str) -> None:
    """Never an unchanged tower; and the refusal is the walk's own sentence, not a crash."""
    walk = families.find(ALL[name][0]())
    height, width, grid = sizes(walk)
    images, guide = towers.pixels(height, width), torch.rand(2, 12, *grid, generator=torch.Generator().manual_seed(5))
    vanilla = dense_tokens(walk.tower, images, "vanilla")
    torch.testing.assert_close(vanilla, towers.exits(walk, images), rtol=0, atol=1e-5)
    answered = {"vanilla"}
    for method, row in LAST_BLOCKS.items():
        given = guide if row.groups[0].guided else None
        if method == "vanilla":
            continue
        refused = [walk.refuses[need] for need in row.needs & walk.refuses.keys()]
        if refused or (walk.depth < 3 and "layers" in row.needs):
            with pytest.raises(UnsupportedTower, match="cannot read this"):
                dense_tokens(walk.tower, images, method, guide=given)
        else:
            answer = dense_tokens(walk.tower, images, method, guide=given)
            assert answer.shape == vanilla.shape and torch.isfinite(answer).all(), method
            assert (answer - vanilla).abs().max() > 1e-3, method
            answered.add(method)
    if name in ("convnext", "convnext-d", "fastvit", "fastvit-5"):
        assert answered == {"vanilla"}
    elif name == "resnet":
        assert {"maskclip-reduced", "clearclip", "naclip"} <= answered and not {"maskclip", "gem"} & answered
    else:
        assert {"maskclip", "sclip", "clearclip", "naclip"} <= answered
        assert ("segearth" in answered) == bool(walk.own)


@pytest.mark.parametrize("name", ["eva02", "pe", "siglip", "vitamin", "convnext", "fastvit", "resnet"])
def test_whole_pipeline_runs_on_every_family(name: str) -> None:
    tower = ALL[name][0]()
    dim = families.find(tower).dim
    text = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2}
    torch.manual_seed(0)
    model: Any = open_clip.CLIP(dim, {"layers": 1, "width": 64, "patch_size": 8, "image_size": 48}, text)
    model.visual = tower
    clip = wrap(model.eval().requires_grad_(False), open_clip.tokenizer.SimpleTokenizer(context_length=16))
    method = "vanilla" if "attention" in families.find(tower).refuses else "clearclip"
    pipe = Pipeline(Recipe(method=method, short_side=2 * clip.image_size[0], negatives="none"), clip)
    picture = tiny.picture(90, 150)
    result = pipe.segment(picture, ["cat", "dog"])
    assert result.labels.shape == (90, 150) and set(np.unique(result.labels)) <= {0, 1}
    features = pipe.encode(picture).features
    assert features.vectors.shape[0] == dim and np.allclose(np.linalg.norm(features.vectors, axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, family) in TRANSFORMERS.items() if "Timm" in family])
def test_another_size_is_what_timm_makes_of_a_copy_built_for_it(name: str) -> None:
    """Positions and rotation included: timm resizes a tower by writing to it, the walk without."""
    walk = families.find(TRANSFORMERS[name][0]())
    height, width, grid = sizes(walk)
    images, resized = towers.pixels(height, width), deepcopy(walk.tower)
    resized.trunk.set_input_size((height, width))
    tokens = walk.enter(images, "antialias")
    for number in range(1, walk.depth):
        tokens = walk.block(number, tokens, grid)
    torch.testing.assert_close(walk.whole(tokens, grid), resized(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth", [6, 12, 24])
@pytest.mark.parametrize(
    "build", [lambda depth: tiny.model(layers=depth).visual, towers.eva02, towers.siglip], ids=["vit", "eva", "siglip"]
)
def test_every_depth_is_walked_to_its_end(build: Callable[[int], Any], depth: int) -> None:
    tower = build(depth)
    walk = families.find(tower)
    assert walk.depth == depth and layer(9, depth) == {6: 5, 12: 9, 24: 18}[depth]
    images = towers.pixels(48, 48)
    tap, grid = towers.last(walk, images)
    torch.testing.assert_close(walk.whole(tap, grid), tower(images), rtol=0, atol=1e-5)


def test_a_model_is_asked_for_its_tower() -> None:
    model = tiny.model()
    assert families.find(model).tower is model.visual


def test_networks_of_no_family_are_refused_with_what_works() -> None:
    with pytest.raises(
        UnsupportedTower, match="^Conv2d is of no family that ovseg walks; towers of VisionTransformer,"
    ):
        families.find(torch.nn.Conv2d(3, 8, 3))
    swin = towers.timm_tower(
        "swin_tiny_patch4_window7_224",
        pool="",
        proj="linear",
        embed_dim=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
    )
    with pytest.raises(UnsupportedTower, match="TimmModel around SwinTransformer is of no family"):
        families.find(swin)
    relative = towers.timm_tower(
        "vit_relpos_small_patch16_224", pool="", proj="linear", embed_dim=48, num_heads=3, depth=1, img_size=48
    )
    with pytest.raises(UnsupportedTower, match="TimmModel around VisionTransformerRelPos is of no family"):
        families.find(relative)


def test_every_row_names_its_own_towers_alone() -> None:
    """At most one family answers for a tower, so the order of asking decides nothing."""
    for build, family in ALL.values():
        tower = build()
        (name,) = [name for name, row in families.FAMILIES.items() if row.belongs(tower)]
        assert family in name.split(", ")


def test_open_clip_still_calls_its_towers_as_the_table_does() -> None:
    model = open_clip.CLIP(
        32, {"layers": 1, "width": 64, "patch_size": 8, "image_size": 48}, {"layers": 1, "width": 64}
    )
    assert families.find(model.visual).family == "VisionTransformer"
