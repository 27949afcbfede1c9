"""Trials are asked for, and marked where they were drawn at random, to hold a run against random search (`nas.report.chance`)."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

SUGGESTED_BY = "suggested_by"
"""The attribute of a trial whose choices the sampler did not make by what it had seen."""

STUCK = 10
"""After so many suggestions in a row that are no new network, one is drawn at random: some samplers would go on for ever,
for they learn nothing from a pruned trial (GP, NSGA-II) or are sure of what they know (TPE)."""


def ask(study: optuna.Study, domains: Mapping[str, BaseDistribution], stuck: bool, seed: int) -> Trial:
    """Ask the sampler for a trial, or draw one at random where it is stuck. A trial that was drawn at random says so."""
    if not stuck:
        trial = study.ask(dict(domains))
        if "enqueued" not in trial.user_attrs and drawn_at_random(study, trial):
            trial.set_user_attr(SUGGESTED_BY, "random")
        return trial
    usual, study.sampler = study.sampler, RandomSampler(seed=seed)
    try:
        trial = study.ask(dict(domains))
    finally:
        study.sampler = usual
    trial.set_user_attr(SUGGESTED_BY, f"random, after {STUCK} suggestions without a new network")
    return trial


def drawn_at_random(study: optuna.Study, trial: Trial) -> bool:
    """Return whether the choices of the trial that was asked for last were drawn at random.

    A sampler of our own says so itself, by its `drew_at_random`. Optuna's are judged by the rule that each follows: TPE and GP
    draw until they have seen `n_startup_trials`, NSGA-II in its first generation.
    """
    sampler = study.sampler
    if type(sampler) is RandomSampler:
        return True
    if isinstance(sampler, TPESampler | GPSampler):
        counted = [TrialState.COMPLETE] if isinstance(sampler, GPSampler) else [TrialState.COMPLETE, TrialState.PRUNED]
        return len(study.get_trials(deepcopy=False, states=counted)) < sampler._n_startup_trials
    if isinstance(sampler, NSGAIISampler):
        attributes = trial.storage.get_trial_system_attrs(trial._trial_id)
        return attributes.get(sampler._get_generation_key()) == 0
    return bool(getattr(sampler, "drew_at_random", False))
