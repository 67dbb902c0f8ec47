"""Encoders inside the network: no further pass of the picture, the image's own vector for all of it, any place for a
region."""

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.clip import dense, queries, tower
from ovseg.clip.families import find
from ovseg.clip.load import Clip
from ovseg.clip.taps import Taps, shares
from ovseg.clip.walk import Vit
from ovseg.clip.windows import Reading
from ovseg.conformance import narrow
from ovseg.encoders import ENCODERS, View, blocks, describe, encode, inside
from ovseg.encoders.described import unit
from ovseg.errors import BadUsage, UnknownName, UnsupportedTower
from ovseg.imageside import ImageSide
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions
from tests import tiny

INSIDE = ("bias", "foveal", "convnext")
OWN = ("bias", "foveal")


def around(visual: Any, size: int = 48) -> Clip:
    """The small network's words and colours with another tower."""
    return replace(tiny.clip(), model=SimpleNamespace(visual=visual, encode_image=visual), name="other")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Six blocks, so that there are several to do again."""
    return tiny.clip(layers=6)


@pytest.fixture(scope="module")
def conv() -> Clip:
    return around(narrow("convnext_base"))


@pytest.fixture
def able(name: str, clip: Clip, conv: Clip) -> Clip:
    return conv if name == "convnext" else clip


def some_masks(height: int, width: int) -> np.ndarray:
    """A blob across windows, one pixel, the frame, a scatter."""
    masks = np.zeros((4, height, width), bool)
    masks[0, height // 3 : height // 2, width // 5 : -width // 5] = True
    masks[1, 5, 7] = True
    masks[2] = True
    masks[3] = np.random.default_rng(2).random((height, width)) < 0.05
    return masks


def view_of(clip: Clip, picture: np.ndarray, name: str, reading: Reading) -> View:
    wanted = blocks(name, clip, {})
    ((features, taps),) = dense.encode_tapped(clip, [picture], replace(reading, method="vanilla"), wanted)
    return View(clip, picture, features, taps)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of each pass through the blocks that are shared, as they happen."""
    passes: list[int] = []
    real = tower.prefix

    def prefix(walk: Any, pixels: Any, *rest: Any) -> Any:
        passes.append(len(pixels))
        return real(walk, pixels, *rest)

    monkeypatch.setattr(tower, "prefix", prefix)
    return passes


class TestOnePass:
    @pytest.mark.parametrize("name", OWN)
    @pytest.mark.parametrize("many", [1, 100])
    def test_any_number_of_regions_costs_the_dense_pass_alone(
        self, clip: Clip, counted: list[int], monkeypatch: pytest.MonkeyPatch, name: str, many: int
    ) -> None:
        picture = tiny.picture(48, 112)
        masks = np.random.default_rng(1).random((many, 48, 112)) < 0.3
        monkeypatch.setattr(ImageSide, "propose", lambda *_: Regions.from_masks(masks))
        side = ImageSide(Recipe(encoder=name, proposer="felzenszwalb", short_side=48, negatives="none"), clip)
        (encoding,) = side.encode([picture], [""], lambda stage, done, of: None)
        assert counted == [4] and len(encoding.described) == many  # four windows, one batch
        assert encoding.taps is not None and len(encoding.taps.windows) == 4
        again = side.describe(picture, encoding.features, Regions.from_masks(masks), encoding.taps)
        assert counted == [4] and np.allclose(encoding.region_vectors, again.vectors, atol=1e-5)

    def test_tokens_of_regions_run_through_no_block_of_the_tower(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        view = view_of(clip, tiny.picture(48, 112), "bias", Reading(short_side=48))
        monkeypatch.setattr(Vit, "block", lambda *_: pytest.fail("a block ran again"))
        assert describe("bias", view, Regions.from_masks(some_masks(48, 112))).vectors.shape == (4, 32)

    @pytest.mark.parametrize("name", INSIDE)
    def test_without_taps_one_pass_of_the_whole_picture_makes_them(
        self, able: Clip, counted: list[int], name: str
    ) -> None:
        picture, regions = tiny.picture(192, 320), Regions.from_masks(some_masks(192, 320))
        view = view_of(able, picture, name, Reading(short_side=192, crop=-1))
        given = describe(name, view, regions).vectors
        del counted[:]
        made = describe(name, replace(view, taps=None), regions).vectors
        assert counted == [1]
        np.testing.assert_allclose(given, made, atol=1e-4)

    def test_a_recipe_without_such_an_encoder_keeps_no_taps(self, clip: Clip) -> None:
        side = ImageSide(Recipe(short_side=48, negatives="none"), clip)
        (encoding,) = side.encode([tiny.picture()], [""], lambda stage, done, of: None)
        assert encoding.taps is None

    def test_methods_of_whole_pictures_have_no_taps_and_are_described_all_the_same(self, clip: Clip) -> None:
        recipe = Recipe(
            method="itaclip-views", encoder="bias", proposer="felzenszwalb", short_side=48, negatives="none"
        )
        (encoding,) = ImageSide(recipe, clip).encode([tiny.picture()], [""], lambda stage, done, of: None)
        assert encoding.taps is None and len(encoding.described) == len(encoding.regions) > 0
        np.testing.assert_allclose(np.linalg.norm(encoding.region_vectors, axis=1), 1, atol=1e-5)


class TestWindows:
    @pytest.mark.parametrize("protocol", ["fast", "paper"])
    def test_the_whole_picture_is_its_image_vector(self, clip: Clip, protocol: str) -> None:
        # all windows have one size, so the mean by area is the mean
        for picture in (tiny.picture(48, 48), tiny.picture(64, 136)):
            view = view_of(clip, picture, "bias", Reading(short_side=48, protocol=protocol))
            (found,) = describe("bias", view, Regions.from_masks(np.ones((1, *picture.shape[:2]), bool))).vectors
            np.testing.assert_allclose(view.features.whole, found, atol=1e-5)

    @pytest.mark.parametrize("name", OWN)
    def test_a_region_across_windows_is_the_mean_of_their_unit_vectors_by_area(self, clip: Clip, name: str) -> None:
        picture, regions = tiny.picture(48, 112), Regions.from_masks(some_masks(48, 112)[[0, 3]])
        view = view_of(clip, picture, name, Reading(short_side=48, scales=(1.0, 0.75)))
        total = np.zeros((2, 32))
        for window, share in zip(view.taps.windows, shares(regions, view.taps.windows), strict=True):
            area = share.sum(axis=(1, 2)) * window.cell_area
            alone = describe(name, replace(view, taps=Taps((window,))), regions).vectors
            total += area[:, None] * alone
        assert len(view.taps.windows) > 4
        np.testing.assert_allclose(unit(total.astype(np.float32)), describe(name, view, regions).vectors, atol=1e-5)

    @pytest.mark.parametrize("name", INSIDE)
    def test_regions_by_the_hundred_are_the_same_in_small_parts(
        self, able: Clip, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture = tiny.picture(64, 96)
        view = view_of(able, picture, name, Reading(short_side=64))
        masks = np.random.default_rng(0).random((11, 64, 96)) < 0.2
        straight = describe(name, view, Regions.from_masks(masks)).vectors
        monkeypatch.setattr(inside, "AT_ONCE", 3)
        np.testing.assert_allclose(straight, describe(name, view, Regions.from_masks(masks)).vectors, atol=1e-5)

    @pytest.mark.parametrize("name", INSIDE)
    def test_a_pixel_is_seen_where_it_is(self, able: Clip, name: str) -> None:
        picture = np.random.default_rng(3).integers(0, 256, (192, 320, 3), np.uint8)
        masks = np.zeros((2, 192, 320), bool)
        masks[0, 100, 37] = masks[1, 12, 300] = True
        view = view_of(able, picture, name, Reading(short_side=192))
        one, other = describe(name, view, Regions.from_masks(masks)).vectors
        assert np.abs(one - other).max() > 1e-4


class TestBias:
    def test_half_covered_cells_count_half_and_with_any_in_full(self, clip: Clip) -> None:
        picture, masks = tiny.picture(48, 80), np.zeros((2, 48, 80), bool)
        masks[0, 8:36, 16:44] = True  # half a cell beyond the third row and column
        masks[1, 8:40, 16:48] = True
        view = view_of(clip, picture, "bias", Reading(short_side=48, crop=-1))
        half, full = describe("bias", view, Regions.from_masks(masks)).vectors
        any_half, any_full = describe("bias", view, Regions.from_masks(masks), edge="any").vectors
        np.testing.assert_allclose(full, any_full, atol=1e-6)
        np.testing.assert_allclose(any_half, any_full, atol=1e-6)
        assert np.abs(half - full).max() > 1e-4
        (window,) = view.taps.windows
        weights = np.zeros((6, 10), np.float32)
        weights[1:5, 2:6] = np.outer([1, 1, 1, 0.5], [1, 1, 1, 0.5])
        rows = torch.from_numpy(weights).log().flatten()[None, None, None]
        wanted = queries.ask(find(clip.visual), window.tokens, window.grid, rows, 6)
        np.testing.assert_allclose(unit(wanted.numpy())[0], half, atol=1e-5)

    def test_pixels_outside_change_a_region_through_earlier_blocks_alone(self, clip: Clip) -> None:
        picture, masks = tiny.picture(), np.zeros((1, 48, 80), bool)
        masks[0, 8:24, 16:40] = True
        view = view_of(clip, picture, "bias", Reading(short_side=48, crop=-1))
        (window,) = view.taps.windows
        moved = {number: tokens.clone() for number, tokens in window.tokens.items()}
        moved[6][1:].view(6, 10, -1)[3:] += 5  # what enters the last block, outside the region
        other = replace(view, taps=Taps((replace(window, tokens=moved),)))
        regions = Regions.from_masks(masks)
        for start, same in ((11, True), (9, True)):
            one = describe("bias", view, regions, start=start).vectors
            assert np.allclose(one, describe("bias", other, regions, start=start).vectors, atol=1e-6) == same

    def test_start_says_which_block_makes_regions_apart(self, clip: Clip) -> None:
        regions, picture = Regions.from_masks(some_masks(48, 80)), tiny.picture()
        options: list[dict[str, Any]] = [{"start": 0}, {"start": 6}, {"start": 9}]
        assert [blocks("bias", clip, one) for one in options] == [(1, 2, 3, 4, 5, 6), (4, 5, 6), (6,)]
        features = view_of(clip, picture, "bias", Reading(short_side=48, crop=-1)).features
        found = [encode("bias", clip, picture, features, regions, **one) for one in options]
        assert min(np.abs(found[0] - found[1]).max(), np.abs(found[1] - found[2]).max()) > 1e-3
        for one in found:  # the frame is the image, wherever its token starts
            np.testing.assert_allclose(features.whole, one[2], atol=1e-5)


class TestFoveal:
    def reading(self) -> Reading:
        return Reading(short_side=48, crop=-1)

    def test_nothing_added_is_the_image(self, clip: Clip) -> None:
        view = view_of(clip, tiny.picture(), "foveal", self.reading())
        for vector in describe("foveal", view, Regions.from_masks(some_masks(48, 80)), strength=0.0).vectors:
            np.testing.assert_allclose(view.features.whole, vector, atol=1e-5)

    def test_box_and_mask_differ_unless_the_mask_is_a_box_of_whole_cells(self, clip: Clip) -> None:
        masks = np.zeros((2, 48, 80), bool)
        masks[0, 8:32, 16:56] = True
        masks[1] = masks[0] & (np.indices((48, 80)).sum(axis=0) % 24 < 12)
        masks[1, 8, 16] = masks[1, 31, 55] = True
        view = view_of(clip, tiny.picture(), "foveal", self.reading())
        by = {
            where: describe("foveal", view, Regions.from_masks(masks), where=where, strength=3.0).vectors
            for where in ("box", "mask")
        }
        np.testing.assert_allclose(by["box"][0], by["mask"][0], atol=1e-6)
        np.testing.assert_allclose(by["box"][0], by["box"][1], atol=1e-6)
        assert np.abs(by["mask"][0] - by["mask"][1]).max() > 1e-3

    @pytest.mark.parametrize("box", [(16, 8, 56, 32), (0, 0, 8, 8), (77, 45, 80, 48), (19, 11, 52, 27)])
    def test_rows_are_a_fovea_on_the_cells_of_the_box(self, clip: Clip, box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        masks = np.zeros((1, 48, 80), bool)
        masks[0, top:bottom, left:right] = True
        view = view_of(clip, tiny.picture(), "foveal", self.reading())
        (window,) = view.taps.windows
        row = np.zeros((6, 10), np.float32)
        rows, cols = slice(top // 8, -(-bottom // 8)), slice(left // 8, -(-right // 8))
        row[rows, cols] = queries.fovea(*row[rows, cols].shape, 2.0, 4.0)
        given = torch.cat([torch.zeros(1), torch.from_numpy(row).flatten()])[None]
        wanted = queries.refocus(find(clip.visual), window.tokens, window.grid, given, 5)
        found = describe("foveal", view, Regions.from_masks(masks), strength=2.0, sigma=4.0).vectors
        np.testing.assert_allclose(unit(wanted.numpy()), found, atol=1e-5)

    def test_a_box_cut_by_a_window_keeps_its_middle(self) -> None:
        # a box of 4 x 6 cells, of which the window to the right holds the last two columns
        regions = Regions.from_masks(np.pad(np.ones((1, 32, 48), bool), ((0, 0), (8, 8), (16, 16))))
        from ovseg.clip.taps import Tapped

        (whole,) = inside._foveae(Tapped({}, (6, 10)), regions, 1.0, 2.0)
        (right,) = inside._foveae(Tapped({}, (6, 4), (0.0, 0.6, 1.0, 1.0)), regions, 1.0, 2.0)
        assert abs(whole[1:5, 2:8].max() - 1) < 1e-6 and (whole[:, :2] == 0).all() and (whole[0] == 0).all()
        np.testing.assert_array_equal(whole[:, 6:], right)
        (corner,) = inside._foveae(Tapped({}, (3, 6), (0.0, 0.0, 0.5, 0.6)), regions, 1.0, 2.0)
        np.testing.assert_array_equal(whole[:3, :6], corner)


class TestConvnext:
    @pytest.mark.parametrize("size", [(224, 224), (320, 448)])
    def test_a_mask_of_everything_is_the_networks_image_vector(self, conv: Clip, size: tuple[int, int]) -> None:
        picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        view = view_of(conv, picture, "convnext", Reading(short_side=min(size), crop=-1))
        pixels = dense.lay_out(conv, find(conv.visual), picture, Reading(short_side=min(size), crop=-1)).pixels
        with torch.inference_mode():
            wanted = conv.visual(pixels[None])[0]
        (found,) = describe("convnext", view, Regions.from_masks(np.ones((1, *size), bool))).vectors
        np.testing.assert_allclose(wanted / wanted.norm(), found, atol=1e-5)

    def test_pools_the_map_before_the_head_over_all_windows(self, conv: Clip) -> None:
        picture = np.random.default_rng(1).integers(0, 256, (96, 224, 3), np.uint8)
        view = view_of(conv, picture, "convnext", Reading(short_side=96, crop=96))
        regions, walk = Regions.from_masks(some_masks(96, 224)), find(conv.visual)
        total, weight = torch.zeros(4, walk.width), torch.zeros(4, 1)
        for window, share in zip(view.taps.windows, shares(regions, view.taps.windows), strict=True):
            m = torch.from_numpy(share).flatten(1)
            total, weight = total + m @ window.tokens[1], weight + m.sum(dim=1, keepdim=True)
        with torch.inference_mode():
            wanted = walk.project((total / weight)[None])[0].numpy()
        assert len(view.taps.windows) > 1
        np.testing.assert_allclose(unit(wanted), describe("convnext", view, regions).vectors, atol=1e-5)

    def test_other_convolutional_towers_can_be_read_too(self) -> None:
        clip = around(narrow("MobileCLIP-S1"))
        picture = np.random.default_rng(1).integers(0, 256, (256, 320, 3), np.uint8)
        view = view_of(clip, picture, "convnext", Reading(short_side=256, crop=-1))
        (found,) = describe("convnext", view, Regions.from_masks(np.ones((1, 256, 320), bool))).vectors
        np.testing.assert_allclose(view.features.whole, found, atol=1e-4)


REFUSED = {  # encoder and tower, and what the sentence says
    ("bias", "ViT-L-14-CLIPA"): "VisionTransformer: its image vector is pooled",
    ("bias", "PE-Core-B-16"): "TimmModel/Eva: its image vector is pooled",
    ("bias", "ViT-B-16-SigLIP"): "TimmModel/VisionTransformer: this tower has no image token",
    ("foveal", "ViTamin-S"): "TimmModel/VisionTransformer: this tower has no image token",
    ("foveal", "convnext_base"): "TimmModel/ConvNeXt: this tower ends in convolutions",
    ("bias", "RN50"): "ModifiedResNet: the attention pool of a ResNet has no residual",
    ("convnext", "ViT-B-16"): "VisionTransformer: it ends in attention and not in a map of convolutions",
    ("convnext", "RN50"): "ModifiedResNet: it ends in attention",
}


@pytest.mark.parametrize(("case", "says"), REFUSED.items())
def test_towers_that_cannot_be_read_are_refused_with_the_rows_that_can(case: tuple[str, str], says: str) -> None:
    name, kind = case
    clip = around(narrow(kind))
    features = DenseFeatures(np.ones((32, 2, 3), np.float32), np.ones(32, np.float32), 64, 96)
    with pytest.raises(UnsupportedTower, match=f"encoder {name} cannot read this {says}.*Encoders that can: .*pool"):
        encode(name, clip, tiny.picture(64, 96), features, Regions.empty(64, 96))
    with pytest.raises(UnsupportedTower, match=says):  # before anything runs
        ImageSide(Recipe(encoder=name, negatives="none"), clip).encode(
            [tiny.picture(64, 96)], [""], lambda stage, done, of: pytest.fail("ran")
        )


@pytest.mark.parametrize("kind", ["EVA02-B-16", "MobileCLIP-B"])
def test_other_families_with_an_image_token_can_be_read(kind: str) -> None:
    clip = around(narrow(kind))
    picture = tiny.picture(96, 160)
    for name in OWN:
        view = view_of(clip, picture, name, Reading(short_side=96, crop=-1))
        found = describe(name, view, Regions.from_masks(some_masks(96, 160))).vectors
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        if name == "bias":
            np.testing.assert_allclose(view.features.whole, found[2], atol=1e-5)


@pytest.mark.parametrize("name", INSIDE)
def test_two_threads_on_one_network_answer_as_one(name: str, able: Clip) -> None:
    pictures = [tiny.picture(64, 96, seed=seed) for seed in (1, 2)]
    regions = Regions.from_masks(some_masks(64, 96))

    def answer(picture: np.ndarray) -> np.ndarray:
        return describe(name, view_of(able, picture, name, Reading(short_side=64)), regions).vectors

    alone, found = [answer(picture) for picture in pictures], [np.zeros(0), np.zeros(0)]

    def run(place: int) -> None:
        for _ in range(3):
            found[place] = answer(pictures[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-4


@pytest.mark.parametrize("name", OWN)
def test_a_bfloat16_prefix_moves_vectors_a_little(clip: Clip, name: str) -> None:
    picture, regions = tiny.picture(48, 112), Regions.from_masks(some_masks(48, 112))
    exact = describe(name, view_of(clip, picture, name, Reading(short_side=48)), regions).vectors
    half = describe(name, view_of(clip, picture, name, Reading(short_side=48, precision="bfloat16")), regions).vectors
    assert half.dtype == np.float32 and 0 < np.abs(exact - half).max() < 0.1
    assert ((exact * half).sum(axis=1) > 0.99).all()


@pytest.mark.parametrize("name", OWN)
def test_a_compiled_prefix_gives_the_same_taps_and_vectors(clip: Clip, name: str) -> None:
    pytest.importorskip("openvino")
    picture, regions = tiny.picture(48, 112), Regions.from_masks(some_masks(48, 112))
    torch_made = view_of(clip, picture, name, Reading(short_side=48))
    compiled = view_of(clip, picture, name, Reading(short_side=48, runtime="openvino"))
    exact, found = (describe(name, view, regions).vectors for view in (torch_made, compiled))
    np.testing.assert_allclose(exact, found, atol=1e-4)


def test_bad_options_get_a_sentence(clip: Clip) -> None:
    view = View(clip, tiny.picture(), DenseFeatures(np.ones((32, 6, 10), np.float32), np.ones(32, np.float32), 48, 80))
    regions = Regions.from_masks(np.ones((1, 48, 80), bool))
    says: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("bias", {"start": 12}, BadUsage, "0 to 11, got 12"),
        ("bias", {"edge": "hard"}, UnknownName, "edge must be one of any, share: got 'hard'"),
        ("foveal", {"where": "circle"}, UnknownName, "where must be one of box, mask"),
        ("foveal", {"sigma": 0}, BadUsage, "above 0: got 0"),
    ]
    for name, options, error, sentence in says:
        with pytest.raises(error, match=sentence):
            describe(name, view, regions, **options)


@pytest.mark.parametrize("name", INSIDE)
def test_options_survive_a_recipe(name: str) -> None:
    recipe = Recipe(encoder=name, encoder_options=dict(ENCODERS[name].options))
    again = Recipe.from_json(recipe.to_json())
    assert again.encoder_options == ENCODERS[name].options and again.fingerprint == recipe.fingerprint
