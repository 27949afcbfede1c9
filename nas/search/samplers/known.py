"""What is known of a search's choices before anything is measured; samplers that use it waste no suggestion."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

Params = Mapping[str, Any]
"""A trial's parameters by name, as Optuna holds them: an ordered choice is the index of its value."""


@dataclass(frozen=True)
class Known:
    """The choices of a space, and what follows from them without a measurement.

    Args:
        distributions: Each choice by name: integers where values are ordered, categories where not.
        network: Which network parameters make; None where they are not permitted (a rule of the space, a limit on what can be
            counted, a network that is to be left out). Equal answers are one network, however different the parameters.
        active: The names of the choices that shape that network; the others are masked, as those of a layer that it lacks.
        cost: Natural logarithm of each cost that is known exactly, by name, such as `num_params`; empty where none is.
        beyond: How far parameters are beyond the limits on what can be counted, 0 within; much cheaper than `network`. None where
            there is no such limit.
    """

    distributions: Mapping[str, BaseDistribution]
    network: Callable[[Params], Hashable | None]
    active: Callable[[Params], frozenset[str]]
    cost: Callable[[Params], Mapping[str, float]]
    beyond: Callable[[Params], float] | None = None


def plain(distributions: Mapping[str, BaseDistribution]) -> Known:
    """Return what is known of parameters of which nothing else is: each combination is a network of its own."""
    names = frozenset(distributions)
    return Known(
        distributions,
        network=lambda params: tuple(params[name] for name in distributions),
        active=lambda params: names,
        cost=lambda params: {},
    )


def values_of(name: str, distribution: BaseDistribution) -> list[Any]:
    """Return the values of a choice in their order.

    Raises:
        ValueError: it is neither an integer nor a category.
    """
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    raise ValueError(f"{name}: found {distribution}; allowed: integers and categories. Give it another sampler.")
