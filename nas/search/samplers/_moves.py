"""What samplers share that move through a space step by step: what a study has seen, and nothing of their own to remember."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UsageError
from nas.search.samplers._draw import Draw
from nas.search.samplers.known import Known, Params, plain, values_of


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


class MovingSampler(optuna.samplers.BaseSampler):
    """A sampler that knows of a study what its trials hold, and so goes on with any study as if it had begun it.

    It never suggests a network that the study has, in whatever state, nor one that is not permitted, unless it finds no other.
    Without `known` a network is a combination of the parameters that all finished trials share, and the first is random.
    Floats are drawn at random.

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
        found = self._shared.calculate(study) if self._known is None else self._known.distributions
        return {
            name: item for name, item in found.items() if isinstance(item, IntDistribution | CategoricalDistribution)
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next network."""
        if not search_space:
            return {}
        known = self._known or plain(search_space)
        past = _past(study, known, self.MARK, trial.number)
        draw = Draw(known, {known.network(item.params) for item in past}, self._rng)
        return self.next(study, trial, known, past, draw)

    @abstractmethod
    def next(
        self, study: optuna.Study, trial: FrozenTrial, known: Known, past: Sequence[Past], draw: Draw
    ) -> dict[str, Any]:
        """Return the parameters of the next network, from what the study has seen."""

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter that is none of the space's choices."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _past(study: optuna.Study, known: Known, mark: str, own: int) -> list[Past]:
    """Return the trials of a study that are in the space, by number; running ones too, but not the one that is asked for.

    A complete trial counts by its value, a pruned one by its last report, for nothing better is known of it. One that broke a
    constraint, failed, or reported nothing has no value; its network is met all the same.
    """
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
    options = {name: values_of(name, item) for name, item in known.distributions.items()}
    found = []
    for trial in study.get_trials(deepcopy=False):
        params = trial.params
        if trial.number == own or not all(name in params and params[name] in options[name] for name in options):
            continue
        value = _value(trial)
        found.append(
            Past(
                trial.number,
                {name: params[name] for name in options},
                None if value is None else sign * value,
                trial.datetime_complete.timestamp() if trial.datetime_complete else inf,
                trial.system_attrs.get(mark),
            )
        )
    return found


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
