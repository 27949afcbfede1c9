"""What samplers share that move through a space: random networks, single changes, and what a study has seen so far."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UsageError
from nas.search.samplers.known import Known, Params, plain

TRIES = 1000
"""So many random networks are drawn at most in search of one that is permitted and new."""
REMEMBERED = 100_000
"""So many networks are remembered, so that none has to be made from its parameters again at each suggestion."""


@dataclass(frozen=True)
class Past:
    """A trial of a study that has all of a space's choices.

    Args:
        value: Higher is better, also where the study minimizes; None where there is none to go by.
        ended: When, in seconds since 1970; infinite while it runs. mark: What a sampler wrote to it.
    """

    number: int
    params: Params
    value: float | None
    ended: float
    mark: Any


class Moves:
    """The networks of a space and the steps between them; a step changes one choice that shapes the network.

    Raises:
        UsageError: a choice that is a float: its values cannot be listed.
    """

    def __init__(self, known: Known) -> None:
        names = tuple(known.distributions)
        self.distributions = known.distributions
        self._options = {name: _values(name, item) for name, item in known.distributions.items()}
        self._active = known.active
        self._network = lru_cache(REMEMBERED)(
            lambda values: known.network(dict(zip(names, values, strict=True))),
        )

    def network(self, params: Params) -> Hashable | None:
        """Return which network parameters make, or None where they are not permitted."""
        return self._network(tuple(params[name] for name in self._options))

    def random(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return parameters at random, permitted or not."""
        return {name: options[int(rng.integers(len(options)))] for name, options in self._options.items()}

    def random_new(self, rng: np.random.Generator, seen: Container[Hashable]) -> dict[str, Any]:
        """Return a random network that is permitted and not among those seen; if none is found, one that is permitted."""
        spare = None
        for _ in range(TRIES):
            params = self.random(rng)
            network = self.network(params)
            if network is not None and network not in seen:
                return params
            if network is not None:
                spare = params
        return spare or params

    def neighbours(self, params: Params) -> list[dict[str, Any]]:
        """Return the parameters that are one step away."""
        active = self._active(params)
        return [
            {**params, name: value}
            for name, options in self._options.items()
            if name in active
            for value in options
            if value != params[name]
        ]

    def mutated(self, params: Params, rng: np.random.Generator) -> dict[str, Any]:
        """Return the parameters after one step: of a choice drawn at random, to another value drawn at random."""
        active = self._active(params)
        names = [name for name, options in self._options.items() if name in active and len(options) > 1]
        if not names:
            return dict(params)
        name = names[int(rng.integers(len(names)))]
        others = [value for value in self._options[name] if value != params[name]]
        return {**params, name: others[int(rng.integers(len(others)))]}

    def past(self, study: optuna.Study, mark: str = "") -> Iterator[Past]:
        """Yield the trials of a study that have all choices of this space, by number; running ones too.

        A complete trial counts by its value, a pruned one by its last report, for nothing better is known of it. One that broke
        a constraint, failed, or reported nothing has no value; its network is seen all the same.

        Args:
            mark: The system attribute that a sampler writes to trials.
        """
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        for trial in study.get_trials(deepcopy=False):
            params = trial.params
            if all(name in params and params[name] in options for name, options in self._options.items()):
                value = _value(trial)
                yield Past(
                    trial.number,
                    {name: params[name] for name in self._options},
                    None if value is None else sign * value,
                    trial.datetime_complete.timestamp() if trial.datetime_complete else inf,
                    trial.system_attrs.get(mark),
                )


class MovingSampler(optuna.samplers.BaseSampler):
    """A sampler that knows of a study what its trials hold, and so goes on with any study as if it had begun it.

    It never suggests a network that the study has, in whatever state, nor one that is not permitted, unless it finds no other.
    Without `known` a network is a combination of the parameters that all finished trials share, and the first is random.

    Args:
        seed: Of all that is drawn; None for another one each time.
        known: What is known of the space before a measurement.
    """

    MARK = ""

    def __init__(self, seed: int | None = None, *, known: Known | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self._independent = optuna.samplers.RandomSampler(seed=seed)
        self._known = known
        self._shared = optuna.search_space.IntersectionSearchSpace(include_pruned=True)
        self._moves: Moves | None = None

    def reseed_rng(self) -> None:
        """Draw a new seed, as Optuna asks of the samplers of parallel workers."""
        self._rng = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the choices of the space.

        Raises:
            UsageError: the study has more than one objective.
        """
        if len(study.directions) > 1:
            raise UsageError(
                f"{type(self).__name__}: found a study of {len(study.directions)} objectives; allowed: one. "
                "Take a sampler of fronts, such as nsga2."
            )
        return self._shared.calculate(study) if self._known is None else dict(self._known.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next network."""
        if not search_space:
            return {}
        if self._moves is None or self._moves.distributions != search_space:
            self._moves = Moves(self._known or plain(search_space))
        past = [item for item in self._moves.past(study, self.MARK) if item.number != trial.number]
        seen = {self._moves.network(item.params) for item in past}
        return self.next(study, trial, self._moves, past, seen)

    @abstractmethod
    def next(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        moves: Moves,
        past: Sequence[Past],
        seen: Container[Hashable],
    ) -> dict[str, Any]:
        """Return the parameters of the next network, from what the study has seen."""

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter that is none of the space's choices."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _value(trial: FrozenTrial) -> float | None:
    """Return the value that a trial counts by, if it has one."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    if any(slack > 0 for slack in trial.constraints.values()):
        return None
    value = trial.value
    if value is None and trial.last_step is not None:
        value = trial.intermediate_values[trial.last_step]
    return value if value is not None and isfinite(value) else None


def _values(name: str, distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    raise UsageError(
        f"{name}: found {distribution}; allowed: categories and integers. Make it one of them, or take tpe or random."
    )
