"""A Gaussian process over the choices of a search space, in numpy: what trainings that were seen tell of one that was not.

The kernel is a sum of parts whose weights are learnt: a constant, the choices one by one (linear), all pairs of them (quadratic),
and an exponential of the number of choices in which two networks differ. The first parts say that effects add up over stages,
which they nearly do; the last that networks alike in most choices are alike whatever the choices are.

Ordered choices enter the linear and quadratic parts by their place in their order, categories by name, and beside them costs
that are known without a measurement, by their logarithms. How much each choice and cost matters is learnt with the weights. A
choice that is masked counts as one more category, in the middle of its order, so that two texts of one network are one point.
Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, equations 2.23, 2.24 and section 4.2.1; Oh et al.
2019, arXiv:1902.00448 (COMBO: kernels on the number of differing choices).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import IntDistribution

from nas.search.samplers.known import Known, Params, values_of

Array = NDArray[np.float64]

PARTS = ("linear", "pairs", "alike")
ALIKE = 0.4
"""Share of all choices that must differ for the last part to fall to 1/e."""

PRIOR_SHAPE, PRIOR_SCALE = 1.0, 0.5
"""Inverse-gamma prior on each part's weight, for values of variance 1. Weak: a few dozen values outweigh it."""

COST = 2.0
"""How much a known cost matters at first, in choices: accuracy rises with size in most spaces, whatever the size is made of."""

COMPARED = 64
"""Random networks that say how costs are spread."""

PRIOR_NOISE = 0.03
"""The same prior's scale for the noise."""

PRIOR_RELEVANCE = 1.0
"""Shape of the prior on how much each choice matters: the larger, the longer all are taken to matter alike."""

OUTLIER = 2.5
"""Values that lie further below the median than so many times the distance of the upper quarter are pulled in to there."""

LEARNT_FROM = 300
"""Weights are learnt from so many values at most: they hardly change after, and the time grows with the cube."""


@dataclass(frozen=True)
class Encoded:
    """Networks as the kernel sees them.

    Args:
        effects: (n, p), of each choice its place in -1..1, or its category's column; then costs.
        marks: (n, q), one-hot, a column for each value of each choice and one for masked.
        effect_of, mark_of: (p,) and (q,), the number of the choice that each column belongs to; costs come after the choices.
    """

    effects: Array
    marks: Array
    effect_of: NDArray[np.intp]
    mark_of: NDArray[np.intp]

    @property
    def choices(self) -> int:
        """Number of choices, costs not counted."""
        return int(self.mark_of[-1]) + 1

    @property
    def features(self) -> int:
        """Number of choices and costs."""
        return int(self.effect_of[-1]) + 1

    def __len__(self) -> int:
        return len(self.effects)

    def rows(self, which: Sequence[int] | NDArray[np.intp]) -> Encoded:
        """Return some of the networks."""
        return replace(self, effects=self.effects[which], marks=self.marks[which])

    def and_then(self, others: Encoded) -> Encoded:
        """Return these networks, then others."""
        effects, marks = (
            np.concatenate([getattr(item, name) for item in (self, others)]) for name in ("effects", "marks")
        )
        return replace(self, effects=effects, marks=marks)


class Encoding:
    """Turns parameters into what the kernel sees; a cost in standard deviations of random networks from their mean.

    Raises:
        ValueError: a choice that is neither an integer nor a category.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._places: dict[str, dict[object, int]] = {}
        self._rows: list[
            Array
        ] = []  # of each choice, what each of its values is in `effects`; the last row is for masked
        effect_of: list[int] = []
        mark_of: list[int] = []
        for number, (name, distribution) in enumerate(known.distributions.items()):
            values = values_of(name, distribution)
            if isinstance(distribution, IntDistribution):
                rows = np.linspace(-1, 1, len(values))[:, None] if len(values) > 1 else np.zeros((1, 1))
            else:
                rows = np.eye(len(values)) - 1 / len(values)
            self._places[name] = {value: place for place, value in enumerate(values)}
            self._rows.append(np.vstack([rows, np.zeros(rows.shape[1])]))
            effect_of += [number] * rows.shape[1]
            mark_of += [number] * (len(values) + 1)
        draw = [values_of(name, item) for name, item in known.distributions.items()]
        rng = np.random.default_rng(0)
        random = [
            {n: v[rng.integers(len(v))] for n, v in zip(known.distributions, draw, strict=True)}
            for _ in range(COMPARED)
        ]
        self._number = len(known.cost(random[0]))
        costs = self._costs(random)
        self._middle, self._spread = costs.mean(axis=0), np.maximum(costs.std(axis=0), 1e-9) * math.sqrt(3) / COST
        effect_of += [len(self._places) + i for i in range(self._number)]
        self._columns = (np.array(effect_of, dtype=np.intp), np.array(mark_of, dtype=np.intp))

    def _costs(self, networks: Sequence[Params]) -> Array:
        return np.array([list(self._known.cost(params).values()) for params in networks]).reshape(
            len(networks), self._number
        )

    def encode(self, networks: Sequence[Params]) -> Encoded:
        """Return networks, given by their parameters, as the kernel sees them."""
        places = np.zeros((len(networks), len(self._places)), dtype=np.intp)
        for row, params in enumerate(networks):
            active = self._known.active(params)
            places[row] = [of[params[name]] if name in active else len(of) for name, of in self._places.items()]
        effects = [rows[places[:, number]] for number, rows in enumerate(self._rows)]
        marks = [np.eye(len(rows))[places[:, number]] for number, rows in enumerate(self._rows)]
        costs = (self._costs(networks) - self._middle) / self._spread
        return Encoded(np.concatenate([*effects, costs], axis=1), np.concatenate(marks, axis=1), *self._columns)


def parts(first: Encoded, second: Encoded, relevance: Array) -> list[Array]:
    """Return the parts of the kernel between networks, in the order of `PARTS`, each (n, m).

    Args:
        relevance: (features,), how much each choice and cost matters, 1 on average.
    """
    product = (first.effects * relevance[first.effect_of]) @ second.effects.T / first.choices
    same = (first.marks * relevance[first.mark_of]) @ second.marks.T
    differing = (relevance[: first.choices].sum() - same) / first.choices
    return [product, product**2, np.exp(-differing / ALIKE)]


def _own(networks: Encoded, relevance: Array) -> list[Array]:
    """Return the parts between each network and itself, each (n,)."""
    product = (networks.effects**2) @ relevance[networks.effect_of] / networks.choices
    return [product, product**2, np.ones(len(networks))]


@dataclass(frozen=True)
class Weights:
    """Weights of the kernel's parts and of the noise, for values of variance 1, and how much each choice matters."""

    parts: tuple[float, ...]
    noise: float
    relevance: Array


def _start(features: int) -> Weights:
    return Weights((0.3, 0.2, 0.3), 0.2, np.ones(features))


@dataclass(frozen=True)
class Posterior:
    """What is known after some values have been seen.

    Args:
        seen: The networks. weights: Of the kernel. centre, scale: values = centre + scale * (what the process sees).
        matrix: (n, n), the kernel of what was seen, noise on its diagonal. inverse: (n, n), its inverse.
        solved: (n,), the inverse times the values.
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
        cross = np.asarray(
            sum(
                w * part
                for w, part in zip(self.weights.parts, parts(networks, self.seen, self.weights.relevance), strict=True)
            )
        )
        own = np.asarray(
            sum(w * part for w, part in zip(self.weights.parts, _own(networks, self.weights.relevance), strict=True))
        )
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
    weights = _learnt(
        seen.rows(some), y[some], more[some], start or _start(seen.features), steps=30 if start is None else 6
    )
    matrix = _matrix(parts(seen, seen, weights.relevance), weights, more)
    inverse = _inverse(matrix)
    return Posterior(seen, weights, centre, scale, matrix, inverse, inverse @ y)


def _matrix(kernels: Sequence[Array], weights: Weights, more: Array) -> Array:
    total = np.asarray(sum(w * kernel for w, kernel in zip(weights.parts, kernels, strict=True))) + MEAN_VARIANCE
    total[np.diag_indices_from(total)] += weights.noise + more + 1e-8
    return total


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _learnt(seen: Encoded, y: Array, more: Array, weights: Weights, steps: int) -> Weights:
    for _ in range(steps):
        kernels = parts(seen, seen, weights.relevance)
        inverse = _inverse(_matrix(kernels, weights, more))
        solved = inverse @ y
        new = [
            _step(weight, float(solved @ kernel @ solved), float((inverse * kernel).sum()), PRIOR_SHAPE, PRIOR_SCALE)
            for weight, kernel in zip(weights.parts, kernels, strict=True)
        ]
        noise = _step(weights.noise, float(solved @ solved), float(np.trace(inverse)), PRIOR_SHAPE, PRIOR_NOISE)
        relevance = _relevance(seen, inverse, solved, weights)
        weights = Weights(tuple(new), noise, relevance)
    return weights


def _relevance(seen: Encoded, inverse: Array, solved: Array, weights: Weights) -> Array:
    """Return how much each choice matters, after one step: the linear part is a sum of choices, each with its own weight."""
    common = weights.parts[0] / seen.choices
    shown = np.bincount(seen.effect_of, (seen.effects.T @ solved) ** 2)
    explained = np.bincount(seen.effect_of, (seen.effects * (inverse @ seen.effects)).sum(axis=0))
    own = weights.relevance * common
    new = np.sqrt((own**2 * shown / 2 + (PRIOR_RELEVANCE + 1) * common) / (explained / 2 + (PRIOR_RELEVANCE + 1) / own))
    return np.asarray(new / new.mean())


def _step(weight: float, shown: float, explained: float, shape: float, scale: float) -> float:
    """Return a variance component after one step, under an inverse-gamma prior."""
    return float(np.sqrt((weight**2 * shown / 2 + scale) / (explained / 2 + (shape + 1) / weight)))


def with_running(posterior: Posterior, running: Encoded) -> Posterior:
    """Return what will be known when networks that are being trained have turned out as expected.

    Their mean stays as it is; what shrinks is the doubt about them and what resembles them, so that workers do not all train
    the same. Source: Ginsbourger et al. 2010, section 4.2 (the "kriging believer").
    """
    if not len(running):
        return posterior
    mean, _ = posterior.predict(running)
    known, seen = len(posterior.seen), posterior.seen.and_then(running)
    matrix = _matrix(parts(seen, seen, posterior.weights.relevance), posterior.weights, np.zeros(len(seen)))
    matrix[:known, :known] = posterior.matrix
    inverse = _inverse(matrix)
    y = np.concatenate([posterior.matrix @ posterior.solved, (mean - posterior.centre) / posterior.scale])
    return replace(posterior, seen=seen, matrix=matrix, inverse=inverse, solved=inverse @ y)
