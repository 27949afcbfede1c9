"""How much better than the best so far a network may be, in closed form."""

from __future__ import annotations

import math

import numpy as np

from nas.search.samplers.gaussian import Array

_erfc = np.frompyfunc(math.erfc, 1, 1)


def log_probability(z: Array) -> Array:
    """Return the logarithm of the probability that a standard normal value is below z; exact also far below 0."""
    low = np.minimum(z, -30.0)
    # Below -30 by its asymptotic series, for the function itself becomes 0. Abramowitz & Stegun 1964, equation 26.2.12.
    tail = -(low**2) / 2 - np.log(-low * math.sqrt(2 * math.pi)) + np.log1p(-1 / low**2 + 3 / low**4)
    exact = np.log(np.asarray(_erfc(-np.maximum(z, -30.0) / math.sqrt(2)), dtype=float) / 2)
    return np.where(z < -30, tail, exact)


def log_improvement(mean: Array, sd: Array, best: float) -> Array:
    """Return the logarithm of the expected improvement over `best` of values known as normal; all higher is better.

    Of its logarithm, for far below the best the improvement itself is 0 in a computer's numbers, and all networks would be equal.
    Source: Jones et al. 1998, J. Global Optimization 13(4), equation 15; Ament et al. 2023, arXiv:2310.20708, section 4.1.

    Args:
        mean, sd: (n,). Returns: (n,).
    """
    z = (mean - best) / sd
    density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    low = np.minimum(z, -1.0)
    # phi(z) + z Phi(z) = phi(z) (1 + z Phi(z) / phi(z)), without loss below -1; far below it is phi(z) / z^2 (1 - 3 / z^2).
    ratio = np.exp(log_probability(low) - (-(low**2) / 2 - math.log(2 * math.pi) / 2))
    below = np.where(low > -30, np.log(np.maximum(1 + low * ratio, 1e-300)), np.log1p(-3 / np.minimum(low, -30) ** 2) - 2 * np.log(-low))
    high = np.maximum(z, -1.0)
    above = np.log(np.exp(-(high**2) / 2) / math.sqrt(2 * math.pi) + high * np.exp(log_probability(high)))
    return np.where(z < -1, density + below, above) + np.log(sd)
