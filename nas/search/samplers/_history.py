"""What a study's trials tell a sampler: values, also of networks that were stopped early, broken limits, what runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.search.samplers.gaussian import Array
from nas.search.samplers.known import Known, Params

MOST = 1000
"""The process is given so many values at most: the better half by value, and the others evenly drawn, for its time grows with
the cube of their number. What is left out are networks that were worse than half of all."""

FEW = 3
"""Networks that show both an early phase's value and the last one's, from which on the one is translated into the other."""

LEAST = 5
"""Values of a limit from which on it is learnt."""


@dataclass(frozen=True)
class Slack:
    """How far networks are beyond one limit; 0 or less is within."""

    params: list[Params]
    values: Array


@dataclass(frozen=True)
class History:
    """What is known from a study's trials.

    Args:
        params: Networks that have a value. values: (n,), higher is better. noise: (n,), variance of each value on top of the
            common one: what is not known of a final value where only an early one was seen. feasible: (n,).
        slacks: Of each limit that some network broke, all that is known. running: Networks without a result yet.
        met: All networks of the study, as `Known.network` tells them apart.
    """

    params: list[Params]
    values: Array
    noise: Array
    feasible: NDArray[np.bool_]
    slacks: list[Slack]
    running: list[Params]
    met: set[Hashable]


def trials_of(study: optuna.Study, known: Known, own: int) -> Iterator[tuple[FrozenTrial, Params, Hashable | None]]:
    """Yield the trials that have all of a space's choices, made or given by a user, with these and with the network.

    Args:
        own: Number of the trial that is to be sampled, which is left out.
    """
    for trial in study.get_trials(deepcopy=False):
        given = trial.params or trial.system_attrs.get("fixed_params", {})
        if trial.number != own and all(name in given for name in known.distributions):
            params = {name: given[name] for name in known.distributions}
            yield trial, params, known.network(params)


def learnable(slacks: Mapping[str, Sequence[tuple[Params, float]]]) -> set[str]:
    """Return the limits that can be learnt: some network broke them, some kept them, and enough are known."""
    return {
        name
        for name, pairs in slacks.items()
        if len(pairs) >= LEAST and any(value > 0 for _, value in pairs) and any(value <= 0 for _, value in pairs)
    }


def read(study: optuna.Study, known: Known, own: int) -> History:
    """Return what a study with one objective tells about networks.

    Args:
        own: Number of the trial that is to be sampled.
    """
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    complete: list[tuple[Params, float, FrozenTrial]] = []
    early: list[tuple[Params, float, FrozenTrial]] = []
    failed: list[Params] = []
    running: list[Params] = []
    met: set[Hashable] = set()
    slacks: dict[str, list[tuple[Params, float]]] = {}
    for trial, params, network in trials_of(study, known, own):
        twin = network in met
        met.add(network)
        if not trial.state.is_finished():
            running.append(params)
            continue
        for name, value in trial.constraints.items():
            slacks.setdefault(name, []).append((params, value))
        last = max(trial.intermediate_values, default=None)
        if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value):
            complete.append((params, sign * trial.value, trial))
        elif twin:
            continue  # it repeats what its first trial says
        elif last is not None and math.isfinite(trial.intermediate_values[last]):
            early.append((params, sign * trial.intermediate_values[last], trial))
        elif trial.state == TrialState.COMPLETE or any(value > 0 for value in trial.constraints.values()):
            failed.append(params)
    learnt = learnable(slacks)
    rows = [(params, value, 0.0, _within(trial)) for params, value, trial in complete]
    rows += _translated(early, complete, sign)
    if rows:  # a network that fails, and not for a limit that is learnt, is as bad as the worst
        worst, spread = min(row[1] for row in rows), float(np.var([row[1] for row in rows]))
        beyond = {known.network(params) for name in learnt for params, value in slacks[name] if value > 0}
        rows += [(params, worst, spread, False) for params in failed if known.network(params) not in beyond]
    rows = _most(rows)
    return History(
        params=[row[0] for row in rows],
        values=np.array([row[1] for row in rows]),
        noise=np.array([row[2] for row in rows]),
        feasible=np.array([row[3] for row in rows], dtype=bool),
        slacks=[slack_of(slacks[name][-MOST:]) for name in sorted(learnt)],
        running=running,
        met=met,
    )


Row = tuple[Params, float, float, bool]


def _within(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _translated(
    early: Sequence[tuple[Params, float, FrozenTrial]],
    complete: Sequence[tuple[Params, float, FrozenTrial]],
    sign: float,
) -> list[Row]:
    """Return what the early values of networks that were stopped say of their final ones, and how surely.

    A straight line from early to final values, through the networks that show both. Those went on because they were good, so that
    the line is drawn longer than they reach; its slope is held near 1, and what it misses is added to the noise.
    """
    found: list[Row] = []
    lines: dict[int, tuple[float, float, float, float]] = {}
    for params, value, trial in early:
        step = max(trial.intermediate_values)
        if step not in lines:
            pairs = [
                (sign * other.intermediate_values[step], final)
                for _, final, other in complete
                if math.isfinite(other.intermediate_values.get(step, math.nan))
            ]
            lines[step] = _line(pairs, [item[1] for item in early])
        early_mean, final_mean, slope, variance = lines[step]
        found.append((params, final_mean + slope * (value - early_mean), variance, _within(trial)))
    return found


def _line(pairs: Sequence[tuple[float, float]], early: Sequence[float]) -> tuple[float, float, float, float]:
    """Return (mean of the early values, of the final ones, slope, variance of what is missed)."""
    if len(pairs) < FEW:
        gain = float(np.mean([final - first for first, final in pairs])) if pairs else 0.0
        return 0.0, gain, 1.0, float(np.var(early))
    first, final = np.array(pairs).T
    x, y = first - first.mean(), final - final.mean()
    weight = FEW * max(float(np.var(first)), 1e-12)  # as much as some networks on a slope of 1
    slope = float((x @ y + weight) / (x @ x + weight))
    missed = y - slope * x
    return float(first.mean()), float(final.mean()), slope, float(missed @ missed / max(len(pairs) - 2, 1))


def slack_of(pairs: Sequence[tuple[Params, float]]) -> Slack:
    """Return what is known of a limit from networks, and how far each is beyond it."""
    values = np.array([value for _, value in pairs])
    if (values > -1).all():
        values = np.log1p(values)  # a cost over its limit, less 1: effects on a cost multiply
    return Slack([params for params, _ in pairs], values)


def _most(rows: list[Row]) -> list[Row]:
    if len(rows) <= MOST:
        return rows
    order = sorted(range(len(rows)), key=lambda i: -rows[i][1])
    rest = order[MOST // 2 :]
    kept = {*order[: MOST // 2], *(rest[int(i)] for i in np.linspace(0, len(rest) - 1, MOST - MOST // 2))}
    return [rows[i] for i in sorted(kept)]
