"""Who is stopped at a phase's end, and which of the stopped are trained to the end all the same.

Phases are rungs: each decays its learning rate fully (`nas.train.schedule`), so the rewards at the end of one compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, Trial

ETA = 3
"""One network in so many goes on from a phase's end; `python -m benchmarks.stopping` compares 2, 3, 4 and the median."""

FIRST = 10
"""So many networks go on from each phase's end before one is stopped there: a third of few says little."""

AUDIT = 20
"""One in so many of the stopped is trained to the end, the first time when half as many have been stopped."""

AUDITED = "audited"
"""The attribute of a trial that goes on although the pruner would stop it: the phase at whose end that was."""


def goes_on(reward: float, others: Sequence[float], eta: float = ETA, first: int = FIRST) -> bool:
    """Return whether a network is among the top 1/eta of all that have reached its phase's end, itself included.

    Source: Li et al. 2020, arXiv:1810.05934, algorithm 2, `get_job`: the top floor(|rung| / eta) are promoted.

    Args:
        others: Rewards of the others at the end of the same phase, in any order.
        first: With fewer others than this every network goes on.
    """
    if len(others) < first:
        return True
    better = sum(other > reward for other in others)
    return better < (len(others) + 1) // eta


class Halving(optuna.pruners.BasePruner):
    """Asynchronous successive halving whose rungs are the phases (Li et al. 2020, arXiv:1810.05934, algorithm 2).

    All networks that reached the end of a phase are compared, those in flight, stopped there or failed later included; a
    duplicate is no network. Unlike in algorithm 2 a network that has been stopped is not taken up again when more have come
    in below it: its weights are gone.

    Optuna's own pruners do not say this. `SuccessiveHalvingPruner` has rungs at powers of its reduction factor (of four
    phases with 3: the first and third), stops whatever comes before its least number is there, and keeps what it has
    compared in attributes that a continued trial has already. `MedianPruner` and `PercentilePruner` look at complete trials
    only, which are those that were not stopped: their bar rises by their own doing.

    Args:
        eta: One network in so many goes on. first: So many go on from each phase's end before one is stopped there.
    """

    def __init__(self, eta: float = ETA, first: int = FIRST) -> None:
        self.eta = eta
        self.first = first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial is to be stopped, by its last report."""
        phase = trial.last_step
        if phase is None:
            return False
        others = [
            other.intermediate_values[phase]
            for other in study.get_trials(deepcopy=False)
            if phase in other.intermediate_values
            and other.number != trial.number
            and "duplicate_of" not in other.user_attrs
        ]
        return not goes_on(trial.intermediate_values[phase], others, self.eta, self.first)


def reason_to_stop(trial: Trial, phase: int) -> str:
    """Return why the study's pruner stops a trial at a phase's end, or nothing where the trial goes on.

    A network that the user queued is one that the user wants to know about, to the end; one that is trained to the end as
    an audit is not judged a second time.
    """
    if len(trial.study.directions) > 1:  # Optuna prunes by one objective, and none could say it alone
        return ""
    if {"enqueued", AUDITED} & set(trial.user_attrs) or not trial.should_prune():
        return ""
    pruner = trial.study.pruner
    bar = f"not among the best 1/{pruner.eta:g}" if isinstance(pruner, Halving) else "below the median"
    return f"reward {bar} at the end of phase {phase}"


def audits(trial: Trial, phase: int) -> bool:
    """Decide whether a trial that is to be stopped is trained to the end all the same, and store that with the trial.

    The 10th, 30th, 50th ... stop of a run is: one in twenty, whatever the network. It is counted from what the study
    holds, so a run that was killed goes on counting where it stood.
    """
    before = sum(_stopped(other) for other in trial.study.get_trials(deepcopy=False))
    if (before + 1) % AUDIT != AUDIT // 2:
        return False
    trial.set_user_attr(AUDITED, f"phase {phase}")
    return True


def _stopped(trial: FrozenTrial) -> bool:
    """Return whether the pruner of this run wanted to stop a trial; one of another run (a warm start) does not count."""
    attributes = trial.user_attrs
    return "origin" not in attributes and (AUDITED in attributes or attributes.get("kind") == "pruned")
