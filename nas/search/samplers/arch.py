"""A sampler made for architectures: it learns from few trainings, and never suggests a network twice.

A training takes minutes, a suggestion may take a second. After some random networks, a Gaussian process over the choices
(`nas.search.samplers.gaussian`) says of each network how good it may be; the one with the largest expected improvement is looked
for among random networks and small changes of the best, then by changing one choice at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from nas.errors import UsageError
from nas.search.samplers._draw import Draw
from nas.search.samplers._history import History, read
from nas.search.samplers.gaussian import Array, Encoded, Encoding, Weights, fit, with_running
from nas.search.samplers.improvement import log_improvement, log_probability
from nas.search.samplers.known import Known, plain

class ArchSampler(optuna.samplers.BaseSampler):
    """Suggests networks by a Gaussian process over integers and categories; a sampler for any Optuna study of those.

    Floats are not its business: they are drawn at random. A study has one objective; trials that were pruned count by their last
    report, translated into a final value by the trials that show both. Constraint values (`trial.set_constraint`) that some
    trial broke are learnt, and the improvement is multiplied by the probability of keeping them. Trials that are running are
    taken into account. With more than 1,000 values it learns from the better 500 and 500 of the others.
    Source: Jones et al. 1998, J. Global Optimization 13(4), equation 15 (expected improvement); Ament et al. 2023,
    arXiv:2310.20708 (its logarithm); White et al. 2021, arXiv:1910.11858 (BANANAS: mutations of the best as candidates).

    Args:
        seed: Of random draws. Given the same trials, the same seed suggests the same.
        known: What is known of the choices; without it, a study's own trials tell which there are, and nothing is forbidden.
        n_startup_trials: Networks drawn at random before anything is learnt.
    """

    def __init__(self, seed: int | None = None, *, known: Known | None = None, n_startup_trials: int = 8) -> None:
        self._rng = np.random.default_rng(seed)
        self._known = known
        self._startup = n_startup_trials
        self._inner = optuna.samplers.RandomSampler(seed=seed)
        self._shared = optuna.search_space.IntersectionSearchSpace()
        self._weights: Weights | None = None
        self._encoding: Encoding | None = None

    def reseed_rng(self) -> None:
        """Draw from now on what no seed gives, as workers that share one sampler need it."""
        self._rng = np.random.default_rng()
        self._inner.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the choices that are made together: all of a known space, else those that all finished trials have."""
        found = self._shared.calculate(study) if self._known is None else self._known.distributions
        return {
            name: item
            for name, item in found.items()
            if isinstance(item, IntDistribution | CategoricalDistribution) and not item.single()
        }

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a choice at random."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a network that no trial of the study has had, as far as one is found.

        Raises:
            UsageError: the study has several objectives.
        """
        if len(study.directions) > 1:
            raise UsageError("ArchSampler: found a study with several objectives; allowed: one. Use FrontSampler for those.")
        if not search_space:
            return {}
        known = self._known or plain(search_space)
        history = read(study, known, trial.number)
        draw = Draw(known, history.met, self._rng)
        if len(history.values) < max(2, self._startup):
            return draw.random_new()
        return self._suggested(known, history, draw)

    def _suggested(self, known: Known, history: History, draw: Draw) -> dict[str, Any]:
        if self._encoding is None or self._known is None:
            self._encoding = Encoding(known)
        encoding = self._encoding
        seen = encoding.encode(history.params)
        process = fit(seen, history.values, history.noise, self._weights)
        self._weights = process.weights  # the next suggestion's begin with them, and need few steps
        limits = [fit(encoding.encode(slack.params), -slack.values) for slack in history.slacks]
        expected, _ = process.predict(seen)
        best = float(expected[history.feasible].max() if history.feasible.any() else expected.min())
        process = with_running(process, encoding.encode(history.running))

        def gain(networks: Encoded) -> Array:
            mean, sd = process.predict(networks)
            total = log_improvement(mean, sd, best)
            for limit in limits:
                margin, doubt = limit.predict(networks)
                total += log_probability(margin / doubt)
            return total

        order = np.argsort(np.where(history.feasible, -expected, np.inf))
        return draw.best_by(lambda networks: gain(encoding.encode(networks)), [history.params[i] for i in order[:10]])
