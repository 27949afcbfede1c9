"""A Gaussian process over the choices of a search space, in numpy: what trainings that were seen tell of one that was not.

The kernel is a sum of parts whose weights are learnt: a constant, the choices one by one (linear), all pairs of them (quadratic),
and two exponentials of the number of choices in which two networks differ, a near and a far one. The first parts say that effects
add up over stages, which they nearly do; the last that networks alike in nearly all choices are alike whatever the choices are.
Ordered choices enter the linear and quadratic parts by their place in their order, categories by name. A choice that is masked
counts as one more category, in the middle of its order, so that two texts of one network are one point.
Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, equations 2.23, 2.24 and 4.2.4; Oh et al. 2019,
arXiv:1902.00448 (COMBO: kernels on the number of differing choices).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas.search.samplers.known import Known, Params

Array = NDArray[np.float64]

PARTS = ("linear", "pairs", "near", "far")
NEAR, FAR = 0.06, 0.35
"""Shares of all choices: how many must differ for the exponentials to fall to 1/e."""

PRIOR_SHAPE, PRIOR_SCALE = 1.0, 0.05
"""Inverse-gamma prior on each part's weight, of values that have been brought to variance 1. Weak: a few dozen values outweigh it."""

PRIOR_NOISE = 0.1
"""The same prior's scale for the noise."""

OUTLIER = 2.5
"""Values that lie further below the median than so many times the distance of the upper quarter are pulled in to there."""

LEARNT_FROM = 300
"""Weights are learnt from so many values at most: they hardly change after, and the time grows with the cube."""


@dataclass(frozen=True)
class Encoded:
    """Networks as the kernel sees them.

    Args:
        effects: (n, p), of each choice its place in -1..1, or its category's column. marks: (n, q), one-hot, a column for each
            value of each choice and one for masked; float32, for only matches are counted in it.
        choices: Number of choices.
    """

    effects: Array
    marks: NDArray[np.float32]
    choices: int

    def __len__(self) -> int:
        return len(self.effects)

    def rows(self, which: Sequence[int] | NDArray[np.intp]) -> Encoded:
        """Return some of the networks."""
        return Encoded(self.effects[which], self.marks[which], self.choices)

    def and_then(self, others: Encoded) -> Encoded:
        """Return these networks, then others."""
        return Encoded(
            np.concatenate([self.effects, others.effects]), np.concatenate([self.marks, others.marks]), self.choices
        )


class Encoding:
    """Turns parameters into what the kernel sees.

    Raises:
        ValueError: a choice that is neither an integer nor a category.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._places: dict[str, tuple[int, int, dict[object, tuple[int, Array]]]] = {}
        effects = marks = 0
        for name, distribution in known.distributions.items():
            if isinstance(distribution, IntDistribution):
                values: list[object] = list(range(distribution.low, distribution.high + 1, distribution.step))
                rows = np.linspace(-1, 1, len(values))[:, None] if len(values) > 1 else np.zeros((1, 1))
            elif isinstance(distribution, CategoricalDistribution):
                values = list(distribution.choices)
                rows = np.eye(len(values)) - 1 / len(values)
            else:
                raise ValueError(f"{name}: found {distribution}; allowed: integers and categories. Give it another sampler.")
            self._places[name] = (effects, marks, {value: (i, rows[i]) for i, value in enumerate(values)})
            effects += rows.shape[1]
            marks += len(values) + 1
        self._shape = (effects, marks)

    def encode(self, networks: Sequence[Params]) -> Encoded:
        """Return networks, given by their parameters, as the kernel sees them."""
        effects = np.zeros((len(networks), self._shape[0]))
        marks = np.zeros((len(networks), self._shape[1]), dtype=np.float32)
        for row, params in enumerate(networks):
            active = self._known.active(params)
            for name, (effect, mark, values) in self._places.items():
                if name not in active:
                    marks[row, mark + len(values)] = 1
                    continue
                place, features = values[params[name]]
                effects[row, effect : effect + len(features)] = features
                marks[row, mark + place] = 1
        return Encoded(effects, marks, len(self._places))


def parts(first: Encoded, second: Encoded) -> list[Array]:
    """Return the parts of the kernel between networks, in the order of `PARTS`, each (n, m)."""
    product = first.effects @ second.effects.T / first.choices
    differing = 1 - (first.marks @ second.marks.T).astype(np.float64) / first.choices
    return [product, product**2, np.exp(-differing / NEAR), np.exp(-differing / FAR)]


def _own(networks: Encoded) -> list[Array]:
    """Return the parts between each network and itself, each (n,)."""
    product = (networks.effects**2).sum(axis=1) / networks.choices
    ones = np.ones(len(networks))
    return [product, product**2, ones, ones]


@dataclass(frozen=True)
class Weights:
    """Weights of the kernel's parts and of the noise, for values of variance 1."""

    parts: tuple[float, ...]
    noise: float


START = Weights((0.3, 0.2, 0.2, 0.3), 0.2)


@dataclass(frozen=True)
class Posterior:
    """What is known after some values have been seen.

    Args:
        seen: The networks. weights: Of the kernel. centre, scale: values = centre + scale * (what the process sees).
        matrix: (n, n), the kernel of what was seen, noise on its diagonal. inverse: Its inverse, (n, n). solved: (n,), the inverse
            times the values.
    """

    seen: Encoded
    weights: Weights
    centre: float
    scale: float
    matrix: Array
    inverse: Array
    solved: Array

    def predict(self, networks: Encoded) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the true value of each network, without noise; each (m,)."""
        cross = np.asarray(sum(w * part for w, part in zip(self.weights.parts, parts(networks, self.seen), strict=True)))
        own = np.asarray(sum(w * part for w, part in zip(self.weights.parts, _own(networks), strict=True)))
        cross += MEAN_VARIANCE
        variance = own + MEAN_VARIANCE - np.einsum("ij,ij->i", cross @ self.inverse, cross)
        return self.centre + self.scale * (cross @ self.solved), self.scale * np.sqrt(np.maximum(variance, 1e-12))


MEAN_VARIANCE = 1.0
"""Of the constant part, which is not learnt: the mean of the values that were seen may be one standard deviation off."""


def pulled_in(values: Array) -> Array:
    """Return values with very bad outliers moved to the edge of the others (higher is better).

    A network that learnt nothing says little of how good ones differ, but much of the variance.
    """
    median = np.median(values)
    above = np.quantile(values, 0.75) - median
    return np.maximum(values, median - OUTLIER * 2 * above) if above > 0 else values


def fit(seen: Encoded, values: Array, extra: Array | None = None, start: Weights | None = None) -> Posterior:
    """Learn the kernel's weights from values, by marginal likelihood with a weak prior, and return what is known then.

    The weights are variance components; each step multiplies one by the square root of how much more the data show of its part
    than it explains, which never lowers the posterior density. Source: Zhou et al. 2019, arXiv:1509.07426, algorithm 1.

    Args:
        values: (n,), higher is better, n of 2 or more. extra: (n,), noise variance of each value on top of the common one, in
            squared units of the values. start: Weights to begin with, those of a moment ago; a few steps are enough then.
    """
    values = pulled_in(values)
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    y = (values - centre) / scale
    more = np.zeros(len(y)) if extra is None else extra / scale**2
    some = np.arange(len(y)) if len(y) <= LEARNT_FROM else np.linspace(0, len(y) - 1, LEARNT_FROM).astype(np.intp)
    weights = _learnt(seen.rows(some), y[some], more[some], start or START, steps=30 if start is None else 6)
    matrix = _matrix(parts(seen, seen), weights, more)
    inverse = np.linalg.inv(matrix)
    return Posterior(seen, weights, centre, scale, matrix, inverse, inverse @ y)


def _matrix(kernels: Sequence[Array], weights: Weights, more: Array) -> Array:
    total = np.asarray(sum(w * kernel for w, kernel in zip(weights.parts, kernels, strict=True))) + MEAN_VARIANCE
    total[np.diag_indices_from(total)] += weights.noise + more + 1e-8
    return total


def _learnt(seen: Encoded, y: Array, more: Array, weights: Weights, steps: int) -> Weights:
    kernels = parts(seen, seen)
    for _ in range(steps):
        inverse = np.linalg.inv(_matrix(kernels, weights, more))
        solved = inverse @ y
        new = []
        for weight, kernel in zip(weights.parts, kernels, strict=True):
            shown, explained = solved @ kernel @ solved, float((inverse * kernel).sum())
            new.append(_step(weight, shown, explained, PRIOR_SCALE))
        noise = _step(weights.noise, float(solved @ solved), float(np.trace(inverse)), PRIOR_NOISE)
        weights = Weights(tuple(new), noise)
    return weights


def _step(weight: float, shown: float, explained: float, scale: float) -> float:
    """Return a variance component after one step, under an inverse-gamma prior."""
    above = weight**2 * shown / 2 + scale
    below = explained / 2 + (PRIOR_SHAPE + 1) / weight
    return float(np.sqrt(above / below))


def with_running(posterior: Posterior, running: Encoded) -> Posterior:
    """Return what will be known when networks that are being trained have turned out as expected.

    Their mean stays as it is; what shrinks is the doubt about them and what resembles them, so that workers do not all train
    the same. Source: Ginsbourger et al. 2010, section 4.2 (the "kriging believer").
    """
    if not len(running):
        return posterior
    mean, _ = posterior.predict(running)
    known, seen = len(posterior.seen), posterior.seen.and_then(running)
    matrix = _matrix(parts(seen, seen), posterior.weights, np.zeros(len(seen)))
    matrix[:known, :known] = posterior.matrix
    inverse = np.linalg.inv(matrix)
    y = np.concatenate([posterior.matrix @ posterior.solved, (mean - posterior.centre) / posterior.scale])
    return replace(posterior, seen=seen, matrix=matrix, inverse=inverse, solved=inverse @ y)
