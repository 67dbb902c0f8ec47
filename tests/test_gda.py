"""Gaussians of one covariance: equal to the authors' program, to the plain formula, and near the best there is."""

import numpy as np
import pytest
from conftest import GOLDEN
from safetensors.numpy import load_file

from ovseg.errors import BadInput
from ovseg.gda import fit

FEWSHOT = GOLDEN / "anomaly" / "fewshot.safetensors"


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    if not FEWSHOT.is_file():
        pytest.skip("parity data is not beside this checkout (../shared/golden/anomaly)")
    return load_file(FEWSHOT)


def examples(seed: int, each: int, classes: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, dim))
    labels = np.arange(classes).repeat(each)
    return means[labels] + rng.normal(size=(len(labels), dim)) @ rng.normal(size=(dim, dim)) / dim, labels


def direct(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, W and b as the formula is written: a D x D pseudo-inverse."""
    count, dim = vectors.shape
    means = np.stack([vectors[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    sigma = np.cov((vectors - means[labels]).T)
    precision = dim * np.linalg.pinv((count - 1) * sigma + np.trace(sigma) * np.eye(dim))
    bias = -0.5 * np.einsum("cd,de,ce->c", means, precision, means) - np.log(len(means))
    return precision, precision @ means.T, bias


def test_equals_the_authors_program_at_four_shots(stored: dict[str, np.ndarray]) -> None:
    found = fit(stored["support_features"], stored["support_labels"])
    np.testing.assert_allclose(stored["gda.shots4.means"], found.means, atol=1e-6)
    np.testing.assert_allclose(stored["gda.shots4.cov_inv"], found.precise(np.eye(64)), atol=2e-3)
    np.testing.assert_allclose(stored["gda.shots4.W"], found.weights, atol=1e-3)
    np.testing.assert_allclose(stored["gda.shots4.b"], found.bias, atol=1e-3)
    scores = found.logits(stored["test_features"])
    np.testing.assert_allclose(stored["gda.shots4.score"], scores, atol=2e-3)
    whole = 100 * stored["test_features"] @ stored["text_weights"] + 10 * scores
    np.testing.assert_allclose(stored["gda.shots4.test_logits"], whole, atol=2e-2)  # the manifest's tolerance


def test_one_shot_says_nothing_as_in_the_authors_program(stored: dict[str, np.ndarray]) -> None:
    found = fit(stored["support_features"][::4], np.arange(6))
    np.testing.assert_array_equal(stored["gda.shots1.cov_inv"], found.precise(np.eye(64)))
    np.testing.assert_array_equal(stored["gda.shots1.W"], found.weights)
    np.testing.assert_allclose(stored["gda.shots1.b"], found.bias, atol=1e-6)
    zero_shot = 100 * stored["test_features"] @ stored["text_weights"]
    whole = zero_shot + 1e-4 * found.logits(stored["test_features"])
    np.testing.assert_allclose(stored["gda.shots1.test_logits"], whole, atol=2e-4)


@pytest.mark.parametrize(("each", "dim"), [(5, 160), (50, 768), (40, 24), (6, 24)])  # below and above D
def test_small_system_equals_the_direct_inverse(each: int, dim: int) -> None:
    vectors, labels = examples(1, each, 4, dim)
    _, weights, bias = direct(vectors, labels)
    found = fit(vectors, labels)
    assert np.abs(weights - found.weights).max() <= 1e-5 * np.abs(weights).max()
    assert np.abs(bias - found.bias).max() <= 1e-5 * np.abs(bias).max()


@pytest.mark.parametrize("dim", [16, 40])  # below and above the 21 examples
def test_logits_are_half_the_squared_distance_and_a_number_a_row(dim: int) -> None:
    vectors, labels = examples(2, 7, 3, dim)
    found, (precision, _, _) = fit(vectors, labels), direct(vectors, labels)
    apart = vectors[:, None] - found.means
    distances = np.einsum("ncd,de,nce->nc", apart, precision, apart)
    np.testing.assert_allclose(distances, found.distances(vectors), rtol=1e-7)
    rest = found.logits(vectors) + 0.5 * distances
    np.testing.assert_allclose(rest, np.broadcast_to(rest[:, :1], rest.shape), rtol=1e-9)


def test_order_of_examples_changes_nothing() -> None:
    vectors, labels = examples(3, 6, 4, 48)
    order = np.random.default_rng(0).permutation(len(labels))
    one, other = fit(vectors, labels), fit(vectors[order], labels[order])
    np.testing.assert_allclose(one.logits(vectors), other.logits(vectors), rtol=1e-9)


def test_planted_gaussians_are_told_apart_within_two_points_of_bayes() -> None:
    rng = np.random.default_rng(4)
    dim, classes = 12, 3
    root = 0.3 * rng.normal(size=(dim, dim)) / np.sqrt(dim) + 0.7 * np.eye(dim)
    means = 0.6 * rng.normal(size=(classes, dim))

    def draw(each: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(classes).repeat(each)
        return means[labels] + rng.normal(size=(len(labels), dim)) @ root.T, labels

    found = fit(*draw(60))
    vectors, labels = draw(4000)
    apart = np.linalg.solve(root, (vectors[:, None] - means).reshape(-1, dim).T).T.reshape(len(vectors), classes, dim)
    bayes = ((apart**2).sum(axis=2).argmin(axis=1) == labels).mean()
    ours = (found.logits(vectors).argmax(axis=1) == labels).mean()
    assert 0.7 < bayes < 0.999  # no gift
    assert ours >= bayes - 0.02


def test_a_class_more_and_two_shots_are_finite() -> None:
    found = fit(np.eye(5)[:1], np.zeros(1, np.int64))
    assert found.logits(np.eye(5)).tolist() == [[0.0]] * 5  # one shot of one class: log of prior 1
    equal = fit(np.ones((4, 5)) / 3, np.array([0, 0, 1, 1]))  # rounding is no scatter
    assert np.abs(equal.weights).max() == 0


def test_no_examples_give_no_classes() -> None:
    assert fit(np.zeros((0, 5)), np.zeros(0, np.int64)).logits(np.ones((2, 5))).shape == (2, 0)


def test_a_stated_spread_lets_one_example_a_class_speak() -> None:
    pair = np.eye(6)[:2]
    found = fit(pair, np.array([0, 1]), spread=0.5, strength=4.0)
    scores = found.logits(pair)
    assert scores[0, 0] - scores[0, 1] == pytest.approx(scores[1, 1] - scores[1, 0]) and scores[0, 0] > scores[0, 1]
    # alike in all directions: D / (4 * 0.5 / 6 + 4 * 0.5 / 5)
    np.testing.assert_allclose(found.precise(pair), 6 / (2 / 6 + 2 / 5) * pair)


@pytest.mark.parametrize(
    ("vectors", "classes", "needed"),
    [
        (np.full((1, 3), np.nan), np.zeros(1, np.int64), "examples must be finite"),
        (np.ones((2, 3)), np.array([0, 2]), "each has an example"),
        (np.ones((2, 3)), np.array([-1, 0]), "classes are 0, 1"),
    ],
)
def test_examples_that_cannot_be_used_are_told(vectors: np.ndarray, classes: np.ndarray, needed: str) -> None:
    with pytest.raises(BadInput, match=needed):
        fit(vectors, classes)
