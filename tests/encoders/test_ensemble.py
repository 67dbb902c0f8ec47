"""Several encoders on one mask: weights as defined, ends exact, nothing that depends on order."""

from typing import Any

import numpy as np
import pytest
import torch

from ovseg.clip.load import Clip
from ovseg.encoders import Described, View, blocks, describe
from ovseg.encoders.ensemble import WEIGHTS, by_autoclip, by_entropy, ensemble
from ovseg.errors import BadUsage, UnknownName
from ovseg.raster import posterior
from ovseg.types import DenseFeatures, Regions, Vocabulary
from tests import tiny

SCALE = 12.0
TWO = ["pool", "crop"]
MEMBERS = ["pool", "crop", {"crop": {"expand": 2.0}}]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture(scope="module")
def view(clip: Clip) -> View:
    cells = unit(np.random.default_rng(0).normal(size=(60, 32)))
    features = DenseFeatures(np.ascontiguousarray(cells.T).reshape(32, 6, 10), cells[0], 48, 80)
    return View(clip, tiny.picture(), features)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Three names, one with a synonym, and two negatives."""
    owner = np.array([1, 0, -1, 1, 2, -1])
    return Vocabulary(("cat", "dog", "hare"), unit(np.random.default_rng(1).normal(size=(6, 32))), owner)


@pytest.fixture(scope="module")
def regions() -> Regions:
    masks = np.zeros((4, 48, 80), bool)
    masks[0, 3:30, 12:61] = True
    masks[1, 8:16, 24:32] = True
    masks[2, 20:48, :30] = True
    return Regions.from_masks(masks)  # the last is empty


def rows(view: View, regions: Regions, vocabulary: Vocabulary, name: str, **options: Any) -> np.ndarray:
    return describe(name, view, regions, **options).rows(vocabulary, SCALE)


@pytest.mark.parametrize("weights", WEIGHTS)
class TestEveryWeight:
    def test_one_member_is_that_encoder_exactly(
        self, weights: str, view: View, regions: Regions, vocabulary: Vocabulary
    ) -> None:
        alone = rows(view, regions, vocabulary, "crop", expand=1.5)
        one = rows(view, regions, vocabulary, "ensemble", members=[{"crop": {"expand": 1.5}}], weights=weights)
        assert (alone == one).all()

    def test_equal_members_are_that_member(
        self, weights: str, view: View, regions: Regions, vocabulary: Vocabulary
    ) -> None:
        three = rows(view, regions, vocabulary, "ensemble", members=["crop"] * 3, weights=weights)
        np.testing.assert_allclose(rows(view, regions, vocabulary, "crop"), three, atol=1e-5)

    def test_order_of_members_changes_nothing(
        self, weights: str, view: View, regions: Regions, vocabulary: Vocabulary
    ) -> None:
        one = rows(view, regions, vocabulary, "ensemble", members=MEMBERS, weights=weights)
        other = rows(view, regions, vocabulary, "ensemble", members=MEMBERS[::-1], weights=weights)
        np.testing.assert_allclose(one, other, atol=1e-4)

    def test_weights_sum_to_1_and_only_the_mean_is_blind_to_the_words(
        self, weights: str, view: View, regions: Regions, vocabulary: Vocabulary
    ) -> None:
        said = np.stack([rows(view, regions, vocabulary, "pool"), rows(view, regions, vocabulary, "crop")])
        found = WEIGHTS[weights](said, vocabulary, "names", 0.85)
        np.testing.assert_allclose(np.ones(4), found.sum(axis=0), atol=1e-12)
        assert (np.abs(found[:, :3] - 0.5).max() < 1e-9) == (weights == "mean")
        np.testing.assert_allclose([0.5, 0.5], found[:, 3], err_msg="an empty mask weighs its members alike")


def test_entropy_weighs_a_sure_member_more(view: View, regions: Regions, vocabulary: Vocabulary) -> None:
    said = np.zeros((2, 1, 6), np.float32)
    said[0, 0] = [9, 0, 0, 0, 0, 0]  # sure of name 1
    said[1, 0] = [1, 0, 0, 0, 0, 0]
    first, second = by_entropy(said, vocabulary, "names", 0.85)[:, 0]
    chances = posterior(np.ascontiguousarray(said[:, 0].T), vocabulary.owner, 3, "names").astype(float)
    entropies = -(chances * np.log(chances)).sum(axis=0) / np.log(5)
    assert first > second
    np.testing.assert_allclose(
        second / first, max(entropies[0], 0.01) / max(entropies[1], 0.01), atol=1e-6
    )  # inversely


class TestAutoclip:
    def test_is_a_softmax_of_autograds_gradient_with_the_entropy_asked_for(self, vocabulary: Vocabulary) -> None:
        said = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32)
        weights = by_autoclip(said, vocabulary, "names", 0.85)
        for mask in range(5):
            best = np.stack(
                [
                    [member[vocabulary.owner == k].max() for k in range(3)] + list(member[vocabulary.owner < 0])
                    for member in said[:, mask]
                ]
            )
            rho = torch.zeros(4, dtype=torch.float64, requires_grad=True)
            torch.logsumexp(rho.softmax(0) @ torch.from_numpy(best).double(), 0).backward()
            assert rho.grad is not None
            slopes = rho.grad.numpy()
            logs = np.log(weights[:, mask])
            steep = (logs - logs.mean()) @ (slopes - slopes.mean()) / ((slopes - slopes.mean()) ** 2).sum()
            np.testing.assert_allclose(steep * (slopes - slopes.mean()), logs - logs.mean(), atol=1e-6)
            assert steep > 0
        entropy = -(weights * np.log(weights)).sum(axis=0)
        np.testing.assert_allclose(0.85 * np.log(4) * np.ones(5), entropy, atol=1e-7)

    def test_beta_1_weighs_all_alike(self, vocabulary: Vocabulary) -> None:
        said = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32)
        np.testing.assert_allclose(np.full((4, 5), 0.25), by_autoclip(said, vocabulary, "names", 1.0), atol=1e-3)

    def test_every_mask_has_weights_of_its_own(self, vocabulary: Vocabulary) -> None:
        said = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
        together = by_autoclip(said, vocabulary, "names", 0.85)
        for mask in range(5):
            alone = by_autoclip(said[:, [mask]], vocabulary, "names", 0.85)
            np.testing.assert_allclose(together[:, [mask]], alone, atol=1e-9)


class TestBlend:
    def chances(self, said: np.ndarray, vocabulary: Vocabulary, probability: str = "names") -> np.ndarray:
        return posterior(np.ascontiguousarray(said.T), vocabulary.owner, len(vocabulary), probability)

    @pytest.mark.parametrize("probability", ["names", "rows"])
    @pytest.mark.parametrize(("share", "member"), [(0.0, "pool"), (1.0, "crop")])
    def test_ends_are_the_members(
        self, view: View, regions: Regions, vocabulary: Vocabulary, share: float, member: str, probability: str
    ) -> None:
        blended = describe("blend", view, regions, members=TWO, alpha=share, beta=share, seen=["dog"])
        alone = describe(member, view, regions)
        np.testing.assert_allclose(
            self.chances(alone.rows(vocabulary, SCALE, probability), vocabulary, probability),
            self.chances(blended.rows(vocabulary, SCALE, probability), vocabulary, probability),
            atol=1e-6,
        )

    def test_is_fc_clips_formula(self, view: View, regions: Regions, vocabulary: Vocabulary) -> None:
        first = self.chances(rows(view, regions, vocabulary, "pool"), vocabulary).astype(float)
        second = self.chances(rows(view, regions, vocabulary, "crop"), vocabulary).astype(float)
        share = np.array([0.8, 0.4, 0.8, 0.8, 0.8])[:, None]  # the dog is seen; negatives are not
        expected = first ** (1 - share) * second**share
        expected /= expected.sum(axis=0)
        blended = rows(view, regions, vocabulary, "blend", members=TWO, seen=["dog"])
        np.testing.assert_allclose(expected, self.chances(blended, vocabulary), atol=1e-6)
        assert (
            np.abs(expected - self.chances(rows(view, regions, vocabulary, "blend", members=TWO), vocabulary)).max()
            > 1e-4
        )

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"members": ["pool"]}, "two members"),
            ({"alpha": 1.5}, "alpha goes from 0"),
            ({"seen": "dog"}, "seen is a list of names"),
        ],
    )
    def test_refuses(self, view: View, regions: Regions, options: dict[str, Any], why: str) -> None:
        with pytest.raises(BadUsage, match=why):
            describe("blend", view, regions, **options)


def test_members_may_vote_and_be_ensembles_themselves(view: View, regions: Regions, vocabulary: Vocabulary) -> None:
    inner = {"ensemble": {"members": ["pool", "crop"]}}
    nested = rows(view, regions, vocabulary, "ensemble", members=["vote", inner], weights="mean")
    parts = [
        rows(view, regions, vocabulary, "vote"),
        rows(view, regions, vocabulary, "ensemble", members=TWO),
    ]
    np.testing.assert_allclose(np.mean(parts, axis=0), nested, atol=1e-5)


def test_vectors_are_the_unit_means(view: View, regions: Regions) -> None:
    mean = describe("pool", view, regions).vectors + describe("crop", view, regions).vectors
    vectors = describe("ensemble", view, regions, members=TWO).vectors
    np.testing.assert_allclose(unit(mean[:3]), vectors[:3], atol=1e-6)
    assert (vectors[3] == 0).all()


def test_dense_pass_keeps_what_any_member_reads(clip: Clip) -> None:
    wanted = set(blocks("bias", clip, {})) | set(blocks("foveal", clip, {}))
    assert set(blocks("ensemble", clip, {"members": ["pool", "bias", "foveal"]})) == wanted != set()
    assert blocks("ensemble", clip, {}) == ()


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"members": []}, BadUsage, "members is a list of encoders"),
        ({"members": "pool"}, BadUsage, "members is a list of encoders"),
        ({"members": [{"crop": {}, "pool": {}}]}, BadUsage, "a member is the name"),
        ({"members": ["poll"]}, UnknownName, "encoder must be one of"),
        ({"members": [{"crop": {"grow": 2}}]}, UnknownName, "option of encoder crop"),
        ({"weights": "entropie"}, UnknownName, "weights must be one of"),
        ({"beta": 0.0}, BadUsage, "beta is a share"),
    ],
)
def test_refuses(view: View, regions: Regions, options: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        describe("ensemble", view, regions, **options)


def test_nobody_to_describe_is_fine(view: View, vocabulary: Vocabulary) -> None:
    said = describe("ensemble", view, Regions.empty(48, 80))
    assert said.rows(vocabulary, SCALE).shape == (0, 6)
    assert len(ensemble([said, said], {"weights": "mean", "beta": 0.85})) == 0
    assert isinstance(said, Described)
