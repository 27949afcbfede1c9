"""Whether a suggestion was drawn at random, so that a run can be held against random search (`nas.report.chance`)."""

from __future__ import annotations

import optuna
from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState


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
