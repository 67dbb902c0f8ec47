import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ovseg.clip import dense, walk
from ovseg.clip.dense import encode_images
from ovseg.clip.families import find
from ovseg.clip.load import Clip
from ovseg.encoders import ENCODERS, View, check, crops, describe, encode, encoder, inside
from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.recipe import Recipe
from ovseg.types import DenseFeatures, Regions, Vocabulary
from tests import tiny
from tests.clip.families import towers


@pytest.fixture(scope="module")
def clip() -> Clip:
    """The small network, with what a checkpoint of Alpha-CLIP's would have brought."""
    fourth = 0.05 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return replace(tiny.clip(), parts={"conv1_alpha.weight": fourth})


@pytest.fixture(scope="module")
def conv() -> Clip:
    """A network of the other kind, for rows that refuse the first."""
    tower = towers.convnext()
    return replace(tiny.clip(), model=SimpleNamespace(visual=tower, encode_image=tower), name="conv")


@pytest.fixture
def able(name: str, clip: Clip, conv: Clip) -> Clip:
    """The network that the encoder of that name can read."""
    refuses = ENCODERS[name].refuses
    return conv if refuses is not None and refuses(find(clip.visual)) else clip


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(11)


def features_of(vectors: np.ndarray, height: int = 48, width: int = 80) -> DenseFeatures:
    unit = (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)
    return DenseFeatures(unit, unit.mean(axis=(1, 2)), height, width)


def random_features(rng: Generator) -> DenseFeatures:
    return features_of(rng.normal(size=(32, 6, 10)))


def words() -> Vocabulary:
    """Two names, one of them with a synonym, and a negative."""
    rows = np.random.default_rng(5).normal(size=(4, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Vocabulary(("cat", "dog"), rows, np.array([0, 1, 1, -1]))


def some_masks(rng: Generator) -> np.ndarray:
    """A blob, one pixel, nothing, the frame, and a scatter: 5 x 48 x 80."""
    masks = np.zeros((5, 48, 80), bool)
    masks[0, 5:30, 12:61] = True
    masks[1, 47, 79] = True
    masks[3] = True
    masks[4] = rng.random((48, 80)) < 0.1
    return masks


@pytest.mark.parametrize("name", ENCODERS)
class TestEveryEncoder:
    """The contract: what holds for a blob, one pixel, nothing, the frame and a scatter; the picture is no square."""

    def test_gives_unit_rows_and_zeros_for_nothing(self, name: str, able: Clip, rng: Generator) -> None:
        image = tiny.picture()
        image.setflags(write=False)
        kept = image.copy()
        regions = Regions.from_masks(some_masks(rng))
        vectors = encode(name, able, image, random_features(rng), regions)
        assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 1], atol=1e-6)
        assert (image == kept).all()

    def test_order_and_copies_of_regions_change_nothing(self, name: str, able: Clip, rng: Generator) -> None:
        image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(some_masks(rng))
        straight = encode(name, able, image, features, regions)
        order = np.array([3, 0, 0, 4, 2, 1, 3])
        np.testing.assert_allclose(encode(name, able, image, features, regions[order]), straight[order], atol=1e-5)

    def test_company_changes_nothing(self, name: str, able: Clip, rng: Generator) -> None:
        image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(some_masks(rng))
        together = describe(name, View(able, image, features), regions)
        rows = together.rows(words(), 30.0)
        assert rows.shape == (5, 4) and rows.dtype == np.float32
        for i in range(5):
            alone = describe(name, View(able, image, features), regions[[i]])
            np.testing.assert_allclose(together.vectors[[i]], alone.vectors, atol=1e-5)
            np.testing.assert_allclose(rows[[i]], alone.rows(words(), 30.0), atol=2e-3)

    def test_says_the_same_twice(self, name: str, able: Clip, rng: Generator) -> None:
        view, regions = View(able, tiny.picture(), random_features(rng)), Regions.from_masks(some_masks(rng))
        first, second = describe(name, view, regions), describe(name, view, regions)
        assert (first.vectors == second.vectors).all()
        assert (first.rows(words(), 30.0) == second.rows(words(), 30.0)).all()

    def test_nothing_likes_every_name_the_same(self, name: str, able: Clip, rng: Generator) -> None:
        view, empty = View(able, tiny.picture(), random_features(rng)), Regions.from_masks(np.zeros((2, 48, 80), bool))
        rows = describe(name, view, empty).rows(words(), 30.0)
        assert (rows == 0).all() and rows.shape == (2, 4)

    def test_picked_regions_keep_what_was_said_of_them(self, name: str, able: Clip, rng: Generator) -> None:
        view, regions = View(able, tiny.picture(), random_features(rng)), Regions.from_masks(some_masks(rng))
        said, keep = describe(name, view, regions), np.array([4, 0, 2, 0])
        np.testing.assert_allclose(said.rows(words(), 30.0)[keep], said[keep].rows(words(), 30.0), atol=1e-4)
        nobody = said[np.zeros(5, bool)]
        assert nobody.rows(words(), 30.0).shape == (0, 4) and len(nobody) == 0

    def test_no_regions_give_no_rows(self, name: str, able: Clip, rng: Generator) -> None:
        said = describe(name, View(able, tiny.picture(), random_features(rng)), Regions.empty(48, 80))
        assert said.vectors.shape == (0, 32) and said.rows(words(), 30.0).shape == (0, 4)

    def test_options_go_through_a_recipe_and_its_json(self, name: str) -> None:
        recipe = Recipe(encoder=name, encoder_options=dict(ENCODERS[name].options))
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert Recipe.from_json(recipe.to_json()).image_side == recipe.image_side

    def test_says_what_it_gives_and_whence(self, name: str) -> None:
        assert ENCODERS[name].what and ENCODERS[name].cost and ENCODERS[name].source

    def test_refuses_what_it_does_not_know(self, name: str, able: Clip, rng: Generator) -> None:
        with pytest.raises(UnknownName, match=f"option of encoder {name}"):
            encode(name, able, tiny.picture(), random_features(rng), Regions.empty(48, 80), nonsense=1)
        with pytest.raises(BadInput, match="80x48 and 48x80"):
            encode(name, able, tiny.picture(), random_features(rng), Regions.empty(80, 48))


def test_names_are_found_whatever_their_case() -> None:
    assert encoder("POOL") is ENCODERS["pool"]
    with pytest.raises(UnknownName, match="pool.*: got 'poll'. Did you mean 'pool'"):
        encoder("poll")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("bias", {"start": 12}, "start counts blocks of 12"),
    ("bias", {"start": 8.5}, "start of encoder bias is a whole number, usually 9: got 8.5"),
    ("bias", {"edge": "some"}, "edge must be one of any, share"),
    ("foveal", {"where": "ellipse"}, "where must be one of box, mask"),
    ("foveal", {"sigma": 0.0}, "sigma is a Gaussian's width"),
    ("foveal", {"strength": float("inf")}, "strength is the largest number"),
    ("foveal", {"strength": "0.2"}, "strength of encoder foveal is a number, usually 0.2: got '0.2'"),
    ("crop", {"expand": float("inf")}, "expand must be above 0"),
    ("crop", {"shape": "round"}, "shape must be one of pad, squeeze"),
    ("guided", {"margins": 0.5}, "margins is a list"),
    ("guided", {"margins": ["0.5"]}, "a margin goes from 0"),
    ("masked-crop", {"depth": 1.5}, "depth of encoder masked-crop is a whole number or None"),
    ("masked-crop", {"checkpoint": None}, "checkpoint of encoder masked-crop is a text"),
    ("alpha", {"look": "box"}, "look must be one of crop, whole"),
    ("circle", {"blur": float("nan")}, "blur is a standard deviation"),
    ("circle", {"ring": 1}, "ring of encoder circle is true or false"),
    ("circle", {"sharp": "circle"}, "sharp must be one of box, ellipse, mask"),
    ("vote", {"hard": "yes"}, "hard of encoder vote is true or false"),
    ("ensemble", {"members": ["pool", "masked-crob"]}, "encoder must be one of .* Did you mean 'masked-crop'"),
    ("ensemble", {"members": ["pool", {"blend": {"members": ["poll", "pool"]}}]}, "encoder must be one of"),
    ("ensemble", {"members": [{"crop": {"grow": 2}}]}, "option of encoder crop must be one of"),
    ("ensemble", {"members": [{"crop": {"expand": 0}}]}, "expand must be above 0"),
    ("ensemble", {"members": [{"crop": None}]}, "a member is the name of an encoder"),
    ("ensemble", {"beta": True}, "beta of encoder ensemble is a number"),
    ("blend", {"members": ["pool"]}, "blend takes two members"),
    ("blend", {"alpha": 1.5}, "alpha goes from 0"),
    ("blend", {"seen": "cat"}, "seen is a list of names"),
    ("blend", {"seen": 5}, "seen is a list of names"),
]


@pytest.mark.parametrize(("name", "options", "why"), WRONG)
def test_option_without_sense_is_refused_when_the_recipe_is_made(name: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadUsage, match=why):
        Recipe(encoder=name, encoder_options=options)


@pytest.mark.parametrize("options", [None, [], "crop", {5: 1.0}])
def test_options_of_another_kind_are_refused(options: Any) -> None:
    with pytest.raises(BadUsage, match="options of encoder crop are {option: value}|must be one of expand, shape: got"):
        check("crop", options)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_option_survives_json_and_nobody_changes_it_afterwards(name: str) -> None:
    given: dict[str, Any] = deepcopy(dict(ENCODERS[name].options))
    if "margins" in given:
        given["margins"] = (0, 0.5)
    if "members" in given:
        given["members"] = ("pool", {"crop": {"expand": 2}})
    recipe = Recipe(encoder=name, encoder_options=given)
    assert Recipe.from_json(recipe.to_json()) == recipe
    text, told = recipe.to_json(), recipe.to_dict()["encoder_options"]
    for options in (given, told):
        for value in options.values():
            if isinstance(value, list):
                value.append("nonsense")
        options["nonsense"] = 1
    assert recipe.to_json() == text


def test_recipe_is_checked_without_torch() -> None:
    code = (
        "import sys; from ovseg.encoders import ENCODERS, check; [check(name, {}) for name in ENCODERS];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["crop", "guided", "masked-crop", "circle"])
def test_views_of_many_regions_are_made_a_few_at_a_time(
    name: str, clip: Clip, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = some_masks(rng)
    image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(masks[masks.any(axis=(1, 2))])
    assert len(regions) > 2
    together, counts = encode(name, clip, image, features, regions), []
    monkeypatch.setattr(crops, "AT_ONCE", 2)
    monkeypatch.setattr(
        dense, "encode_images", lambda clip, some: counts.append(len(some)) or encode_images(clip, some)
    )
    np.testing.assert_allclose(together, encode(name, clip, image, features, regions), atol=1e-6)
    assert max(counts) <= 2 and sum(counts) == len(regions) * (2 if name == "guided" else 1)


def test_starts_are_those_of_the_walk() -> None:
    assert len(inside.STARTS) == walk.OF


def test_check_tells_options_as_json_does() -> None:
    assert check("blend", {"seen": ("cat",)}) == {"seen": ["cat"]}


class TestPool:
    def pooled(self, features: DenseFeatures, masks: np.ndarray) -> np.ndarray:
        image = np.zeros((features.height, features.width, 3), np.uint8)
        return encode("pool", None, image, features, Regions.from_masks(masks))

    def test_needs_no_network_and_equals_the_mean_of_pixels(self, rng: Generator) -> None:
        # 6x10 cells of 8 px: each pixel has the vector of its cell
        features, masks = random_features(rng), some_masks(rng)
        pixels = features.vectors.repeat(8, axis=1).repeat(8, axis=2)
        for mask, vector in zip(masks, self.pooled(features, masks), strict=True):
            if mask.any():
                mean = pixels[:, mask].mean(axis=1)
                np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)

    def test_full_mask_is_the_mean_of_cells_also_where_cells_are_no_whole_pixels(self, rng: Generator) -> None:
        features = features_of(rng.normal(size=(32, 6, 10)), 47, 83)
        mean = features.vectors.mean(axis=(1, 2))
        vector = self.pooled(features, np.ones((1, 47, 83), bool))[0]
        np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)

    def test_constant_map_gives_its_vector(self, rng: Generator) -> None:
        constant = np.broadcast_to(rng.normal(size=(32, 1, 1)), (32, 6, 10))
        features = features_of(constant)
        for vector in self.pooled(features, some_masks(rng)[[0, 1, 3, 4]]):
            np.testing.assert_allclose(features.vectors[:, 0, 0], vector, atol=1e-5)

    def test_planted_cells_are_recovered_by_masks_smaller_than_a_cell(self, rng: Generator) -> None:
        features = random_features(rng)
        masks = np.zeros((60, 48, 80), bool)
        for cell in range(60):
            masks[cell, cell // 10 * 8 + 3, cell % 10 * 8 + 5] = True
        np.testing.assert_allclose(features.vectors.reshape(32, 60).T, self.pooled(features, masks), atol=1e-5)

    def test_vectors_that_cancel_give_a_zero_row(self) -> None:
        vectors = np.ones((4, 6, 10))
        vectors[:, :, 5:] = -1
        assert self.pooled(features_of(vectors), np.ones((1, 48, 80), bool)).tolist() == [[0, 0, 0, 0]]


class TestCrop:
    def test_frame_of_a_square_picture_is_plain_preprocessing(self, clip: Clip, rng: Generator) -> None:
        image = tiny.picture(64, 64)
        features = features_of(rng.normal(size=(32, 6, 10)), 64, 64)
        vectors = encode("crop", clip, image, features, Regions.from_masks(np.ones((1, 64, 64), bool)))
        np.testing.assert_allclose(encode_images(clip, [image]), vectors, atol=1e-5)

    def test_looks_at_the_box_padded_to_a_square_with_the_mean_colour(self, clip: Clip, rng: Generator) -> None:
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        masks = np.zeros((1, 48, 80), bool)
        masks[0, 10, 20] = masks[0, 19, 45] = True  # the box is 10 x 26
        expected = np.empty((26, 26, 3), np.uint8)
        expected[:] = np.round(255 * np.asarray(clip.mean)).astype(np.uint8)
        expected[8:18] = image[10:20, 20:46]
        vectors = encode("crop", clip, image, features, Regions.from_masks(masks))
        np.testing.assert_allclose(encode_images(clip, [expected]), vectors, atol=1e-5)

    @pytest.mark.parametrize(
        ("box", "expand", "rows", "cols"),
        [
            ((20, 10, 46, 20), 1.0, (10, 20), (20, 46)),
            ((20, 10, 46, 20), 2.0, (5, 25), (7, 59)),
            ((70, 40, 80, 48), 3.0, (32, 48), (60, 80)),  # cut at the frame
            ((79, 47, 80, 48), 0.1, (47, 48), (79, 80)),  # at least a pixel
        ],
    )
    def test_window(self, box: Any, expand: float, rows: tuple[int, int], cols: tuple[int, int]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
        expected = image[slice(*rows), slice(*cols)]
        actual = crops.window(image, np.array(box, float), expand)
        assert expected.shape == actual.shape and (expected == actual).all()

    def test_bad_calls_get_a_sentence(self, clip: Clip, rng: Generator) -> None:
        image, features, regions = tiny.picture(), random_features(rng), Regions.from_masks(some_masks(rng))
        with pytest.raises(BadUsage, match="needs the CLIP network"):
            encode("crop", None, image, features, regions)
        with pytest.raises(BadUsage, match="expand must be above 0"):
            encode("crop", clip, image, features, regions, expand=0.0)
