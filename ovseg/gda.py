"""Gaussians of one covariance in closed form: a linear head over vectors, made of a few examples, with no training.

GDA (Wang et al., ICLR 2024, arXiv:2402.04087; mrflogs/ICLR24@560fe21): every class c is a Gaussian about its own mean,
all have one covariance, shrunk as Kubokawa and Srivastava do. With S the scatter of n examples about their classes'
means, Sigma = S / (n - 1) and D dimensions

    P = D pinv(S + tr(Sigma) I),   W = P mu_c,   b = -1/2 mu_c^T P mu_c + log prior_c,   logits = x W + b

which is the log density of x in each class less what x has alike in all. The authors invert D x D; S has rank n at
most, so here it is (Woodbury), for n below D, an n x n system: 200 examples of 768 numbers take a few milliseconds.

One example a class leaves no scatter, and then P is 0 as theirs is: the head says nothing but its prior. `strength`
(ours; 0 is theirs) puts that many examples of a stated `spread` beside those that are there, alike in all directions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from ovseg.errors import BadInput


@dataclass(frozen=True, eq=False)
class Gaussians:
    """What `fit` finds: the classes' means, and the shared precision P as what `precise` needs to apply it."""

    means: Float[np.ndarray, "classes dim"]
    log_priors: Float[np.ndarray, " classes"]
    centred: Float[np.ndarray, "n dim"]  # examples less the mean of their class
    ridge: float  # what stands beside S in every direction; 0: P is 0

    def precise(self, vectors: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "m dim"]:
        """P v for each row v; zeros where the examples have no scatter."""
        from scipy.linalg import solve_triangular

        dim = self.centred.shape[1]
        if self.ridge <= 0:
            return np.zeros_like(vectors)
        inside = solve_triangular(self._root, self._seen(vectors), lower=True, trans="T", check_finite=False)
        if self._small:
            return np.asarray(dim / self.ridge * (vectors - inside.T @ self.centred))
        return np.asarray(dim * inside.T)

    def lengths(self, vectors: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, " m"]:
        """v^T P v for each row v."""
        if self.ridge <= 0:
            return np.zeros(len(vectors))
        dim, seen = self.centred.shape[1], self._seen(vectors)
        squares: Float[np.ndarray, " m"] = np.einsum("nm,nm->m", seen, seen)
        if not self._small:
            return np.asarray(dim * squares)
        whole: Float[np.ndarray, " m"] = np.einsum("md,md->m", vectors, vectors)
        return np.asarray(dim / self.ridge * (whole - squares))

    @property
    def _small(self) -> bool:
        """Whether the n x n system is the smaller one."""
        return bool(len(self.centred) < self.centred.shape[1])

    @cached_property
    def _root(self) -> Float[np.ndarray, "k k"]:
        """The lower Cholesky factor of the smaller system."""
        gram = self.centred @ self.centred.T if self._small else self.centred.T @ self.centred
        gram.flat[:: len(gram) + 1] += self.ridge
        return np.asarray(np.linalg.cholesky(gram))

    def _seen(self, vectors: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "k m"]:
        """The factor's inverse times what the system sees of the rows."""
        from scipy.linalg import solve_triangular

        given = self.centred @ vectors.T if self._small else vectors.T
        return np.asarray(solve_triangular(self._root, given, lower=True, check_finite=False))

    @cached_property
    def weights(self) -> Float[np.ndarray, "dim classes"]:
        """W, a column a class."""
        return self.precise(self.means).T

    @cached_property
    def bias(self) -> Float[np.ndarray, " classes"]:
        """b of every class."""
        return np.asarray(self.log_priors - 0.5 * np.einsum("cd,dc->c", self.means, self.weights))

    def logits(self, vectors: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "m classes"]:
        """Log density of each row in each class and its prior, less what is alike in all classes."""
        return np.asarray(vectors.astype(float) @ self.weights + self.bias)

    def distances(self, vectors: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "m classes"]:
        """Squared Mahalanobis distance of each row to each mean; -1/2 of it is `logits` but for a number a row."""
        alike = self.lengths(vectors.astype(float))
        return np.asarray((alike[:, None] - 2 * (self.logits(vectors) - self.log_priors)).clip(0))


def fit(
    vectors: Float[np.ndarray, "n dim"],
    classes: Int[np.ndarray, " n"],
    *,
    spread: float = 0.0,
    strength: float = 0.0,
) -> Gaussians:
    """The Gaussians of examples whose classes are 0, 1, ... without a gap; all classes are equally likely.

    `spread` is the mean squared distance of an example to its class's mean that is taken for granted, `strength` how
    many examples that is worth.

    >>> found = fit(np.array([[0.0, 0.0], [0.2, 0.0], [1.0, 1.0], [1.2, 1.0]]), np.array([0, 0, 1, 1]))
    >>> found.logits(np.array([[0.1, 0.3], [1.1, 0.7]])).argmax(axis=1).tolist()
    [0, 1]
    """
    count, dim = vectors.shape
    if not np.isfinite(vectors).all():
        raise BadInput("examples must be finite: a vector holds a number that is none; check the network's precision")
    if spread < 0 or strength < 0:
        raise BadInput(f"spread and strength are 0 or more: got {spread} and {strength}")
    number = int(classes.max(initial=-1)) + 1
    members = np.bincount(classes[classes >= 0], minlength=number)
    if len(classes) and (classes.min() < 0 or not members.all()):
        raise BadInput(f"classes are 0, 1, ... and each has an example: got {members.tolist()} examples")
    rows = vectors.astype(float)
    means = (np.arange(number)[:, None] == classes) @ rows / members[:, None]
    centred = rows - means[classes]
    assumed = strength * spread
    total = float(np.einsum("nd,nd->", centred, centred)) + assumed
    ridge = assumed / dim + total / max(count - 1 + strength, 1)
    if total <= (1e-12 * float(np.abs(vectors).max(initial=0))) ** 2:
        ridge = 0.0  # rounding alone: equal examples have no scatter
    return Gaussians(means, np.full(number, -np.log(max(number, 1))), centred, ridge)


__all__ = ["Gaussians", "fit"]
