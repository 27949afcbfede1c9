"""Regularised evolution: one of the young that won a tournament is changed in one choice; whoever is oldest dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from nas.errors import UsageError
from nas.search.samplers._draw import Draw
from nas.search.samplers._moves import MovingSampler, Past
from nas.search.samplers.known import Known, Params, values_of

MUTATIONS = 100
"""So many children are drawn at most in search of a new one; then a random network comes in its place."""


class EvolutionSampler(MovingSampler):
    """Suggest networks by regularised (ageing) evolution.

    The population is the last trials that ended with a value, by the time they ended: with that, each trial that ends takes the
    place of the oldest, also with several workers. Until there are enough, networks are random. Then the best of a tournament,
    drawn with replacement, is changed in one choice. Unlike in the paper, a child that the study has already is drawn again.
    Source: Real et al. 2019, arXiv:1802.01548, Algorithm 1.

    Args:
        seed, known: See `MovingSampler`.
        population: How many live at a time. The paper has 100 in searches of 20,000 networks; the default is for hundreds.
        tournament: How many are drawn for a tournament; like the paper's 25, a quarter of the population.

    Raises:
        UsageError: a population or a tournament of none.
    """

    def __init__(
        self, seed: int | None = None, *, population: int = 20, tournament: int = 5, known: Known | None = None
    ) -> None:
        super().__init__(seed, known=known)
        if min(population, tournament) < 1:
            raise UsageError(
                f"EvolutionSampler: found a population of {population} and a tournament of {tournament}; allowed: 1 or more."
            )
        self._population = population
        self._tournament = tournament

    def next(
        self, study: optuna.Study, trial: FrozenTrial, known: Known, past: Sequence[Past], draw: Draw
    ) -> dict[str, Any]:
        """Return the child of a tournament's winner, or a random network."""
        ended = sorted((item.ended, item.number, item.value, item.params) for item in past if item.value is not None)
        alive = [(value, params) for _, _, value, params in ended[-self._population :]]
        if len(alive) == self._population:
            for _ in range(MUTATIONS):
                drawn = [alive[place] for place in self._rng.integers(len(alive), size=self._tournament)]
                child = _mutated(known, max(drawn, key=lambda one: one[0])[1], self._rng)
                if draw.is_new(child):
                    return child
        return draw.random_new()


def _mutated(known: Known, params: Params, rng: np.random.Generator) -> dict[str, Any]:
    """Return parameters with one choice that shapes the network, drawn at random, changed to another value, drawn at random."""
    active = known.active(params)
    names = [name for name, item in known.distributions.items() if name in active and not item.single()]
    if not names:
        return dict(params)
    name = names[rng.integers(len(names))]
    others = [value for value in values_of(name, known.distributions[name]) if value != params[name]]
    return {**params, name: others[rng.integers(len(others))]}
