"""A sampler for the front of accuracy against one or two costs: it suggests what is expected to add most to the front.

What a network costs is counted exactly, or learnt from measurements with a Gaussian process of its own; what it is worth only
training tells, and is learnt with another one. Taken as independent, they make the expected gain in hypervolume a sum of
products of expected improvements, in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UsageError
from nas.search.samplers._draw import Draw
from nas.search.samplers._history import MOST, Slack, learnable, slack_of, trials_of
from nas.search.samplers.arch import ArchSampler
from nas.search.samplers.gaussian import Array, Encoded, Encoding, Posterior, Weights, fit, pulled_in, with_running
from nas.search.samplers.improvement import log_improvement, log_probability
from nas.search.samplers.known import Known, Params, plain

MARGIN = 0.1
"""The reference lies this share of the range of ln(cost) beyond the dearest network, so that what is most accurate counts too.
Its accuracy is the worst that was seen: with one near the front the cheap end, where accuracies are low, would stay empty."""


class FrontSampler(ArchSampler):
    """Suggests networks for a front, in any Optuna study of integers and categories: accuracy is maximized first, then one or two
    positive costs are minimized.

    A cost is exact where `known.cost` has the name that the study's metric has; any other is learnt from the trials. Constraint
    values that some trial broke are learnt too. Trials that are running count as if they had turned out as expected. With more
    than 1,000 values it learns from the front and an even sample of the others.
    Source: Emmerich et al. 2011, "Hypervolume-based expected improvement: monotonicity properties and exact computation", IEEE
    CEC, for the exact gain as a sum over the cells of the front's grid.

    Args:
        seed, known, n_startup_trials: As of `ArchSampler`.
    """

    def __init__(self, seed: int | None = None, *, known: Known | None = None, n_startup_trials: int = 10) -> None:
        super().__init__(seed, known=known, n_startup_trials=n_startup_trials)
        self._learnt: dict[str, Weights] = {}
        self.drew_at_random = True

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a network that no trial of the study has had, as far as one is found.

        Raises:
            UsageError: the study has other directions.
        """
        first, *others = study.directions
        if first != StudyDirection.MAXIMIZE or len(others) not in (1, 2) or StudyDirection.MAXIMIZE in others:
            found = ", ".join(direction.name.lower() for direction in study.directions)
            raise UsageError(
                f"FrontSampler: found a study with the directions {found}; allowed: maximize (accuracy), then minimize once or "
                "twice (costs). Use ArchSampler for one objective."
            )
        if not search_space:
            return {}
        known = self._known or plain(search_space)
        history = read(study, known, trial.number)
        draw = Draw(known, history.met, self._rng)
        self.drew_at_random = len(history.params) < 2 or len(history.met) - len(history.running) < self._startup
        if self.drew_at_random:
            return draw.random_new()
        names = study.metric_names or [f"value {number}" for number in range(len(study.directions))]
        return self._front_suggested(known, history, draw, names[1:])

    def _front_suggested(self, known: Known, history: FrontHistory, draw: Draw, names: Sequence[str]) -> dict[str, Any]:
        if self._encoding is None or self._known is None:
            self._encoding = Encoding(known)
        encoding = self._encoding
        seen = encoding.encode(history.params)
        own = history.values[:, 0]
        values = np.concatenate([own, np.full(len(history.failed), own.min())])
        doubt = np.zeros(len(values))
        doubt[len(own) :] = values.var()  # a network that failed is as bad as the worst, but nobody saw it
        process = self._fit("accuracy", seen.and_then(encoding.encode(history.failed)), values, doubt)
        counted = known.cost(history.params[0])
        models = {
            name: None if name in counted else self._fit(name, seen, -history.values[:, 1 + place])  # higher is better
            for place, name in enumerate(names)
        }
        limits = [fit(encoding.encode(slack.params), -slack.values) for slack in history.slacks]

        def costs_of(networks: Sequence[Params], encoded: Encoded) -> tuple[Array, Array]:
            """Return ln(cost)s, and how sure they are; each (n, d)."""
            told = [
                (np.array([-known.cost(params)[name] for params in networks]), np.zeros(len(networks)))
                if model is None
                else model.predict(encoded)
                for name, model in models.items()
            ]
            return -np.column_stack([mean for mean, _ in told]), np.column_stack([sd for _, sd in told])

        met = [*history.params, *history.running]
        encoded = encoding.encode(met)
        expected, _ = process.predict(encoded)
        expected[: len(own)] += own - pulled_in(own)  # the process sees very bad values better than they are
        cells = grid(expected, costs_of(met, encoded)[0])
        process = with_running(process, encoding.encode(history.running))

        def gain(networks: Sequence[Params]) -> Array:
            encoded = encoding.encode(networks)
            total = log_gain(*process.predict(encoded), *costs_of(networks, encoded), cells)
            for limit in limits:
                margin, unsure = limit.predict(encoded)
                total += log_probability(margin / unsure)
            return total

        order = self._rng.permutation(len(cells.members))
        return draw.best_by(gain, [met[cells.members[place]] for place in order])

    def _fit(self, name: str, seen: Encoded, values: Array, doubt: Array | None = None) -> Posterior:
        """Learn from values; the next suggestion begins with this one's weights, and needs few steps."""
        found = fit(seen, values, doubt, self._learnt.get(name))
        self._learnt[name] = found.weights
        return found


@dataclass(frozen=True)
class Cells:
    """The space between a front and its reference, cut along the costs of the front's members.

    Args:
        edges: Of each cost the values of ln(cost) that cells begin at, rising; the first is minus infinity.
        worst: Of each cost the reference, at which the last cells end.
        level: (cells of the first cost, of the second), the best accuracy that is to be had within a cell's beginning.
        members: Places of the front's networks.
    """

    edges: tuple[Array, ...]
    worst: Array
    level: Array
    members: tuple[int, ...]


def grid(accuracy: Array, costs: Array) -> Cells:
    """Cut the space between a front and its reference into cells.

    Args:
        accuracy: (n,). costs: (n, d), ln(cost).
    """
    order = sorted(range(len(accuracy)), key=lambda place: (*costs[place], -accuracy[place]))
    members: list[int] = []
    for place in order:
        if not any(accuracy[other] >= accuracy[place] and (costs[other] <= costs[place]).all() for other in members):
            members.append(place)
    best, where = accuracy[members], costs[members]
    edges = tuple(np.concatenate([[-np.inf], np.unique(column)]) for column in where.T)
    level = np.full([len(item) for item in edges], accuracy.min())
    for cell in product(*(range(len(item)) for item in edges)):
        within = (where <= [item[place] for item, place in zip(edges, cell, strict=True)]).all(axis=1)
        if within.any():
            level[cell] = best[within].max()
    worst = costs.max(axis=0) + MARGIN * np.ptp(costs, axis=0)
    return Cells(edges, worst, level, tuple(members))


def log_gain(mean: Array, sd: Array, costs: Array, unsure: Array, cells: Cells) -> Array:
    """Return the logarithm of the expected gain in hypervolume (accuracy times ln(cost)) of networks.

    A network of ln(cost) c adds to each cell the part of it that is not cheaper than c, times the improvement of its accuracy
    over the cell's level. Accuracy and costs are taken as independent and normal, so expectations multiply:

        gain = sum over cells of (product over costs of E[width(cell, c)]) * E[improvement(level)]
        E[width(cell, c)] = E[max(0, end - c)] - E[max(0, beginning - c)]

    Args:
        mean, sd: (n,), of accuracy. costs, unsure: (n, d), of ln(cost); an unsure of 0 is a cost that is known.

    Returns:
        (n,), minus infinity where a network is known to be dearer than the reference.
    """
    widths = []
    for number, (edges, worst) in enumerate(zip(cells.edges, cells.worst, strict=True)):
        ends = [_below(costs[:, number], unsure[:, number], float(edge)) for edge in (*edges[1:], worst)]
        widths.append(np.diff(np.column_stack([np.zeros(len(mean)), *ends]), axis=1))
    levels, place = np.unique(cells.level, return_inverse=True)
    width = widths[0] if len(widths) == 1 else (widths[0][:, :, None] * widths[1][:, None, :]).reshape(len(mean), -1)
    of_level = np.column_stack([width[:, place.ravel() == level].sum(axis=1) for level in range(len(levels))])
    with np.errstate(divide="ignore"):
        parts = np.log(np.maximum(of_level, 0.0)) + np.column_stack(
            [log_improvement(mean, sd, float(level)) for level in levels]
        )
    most = parts.max(axis=1)
    possible = np.isfinite(most)
    found = np.full(len(mean), -np.inf)
    found[possible] = most[possible] + np.log(np.exp(parts[possible] - most[possible, None]).sum(axis=1))
    return found


def _below(mean: Array, sd: Array, edge: float) -> Array:
    """Return how far a normal value is expected to lie below an edge: E[max(0, edge - value)]."""
    known = sd <= 0
    unsure = np.exp(log_improvement(-mean, np.where(known, 1.0, sd), -edge))
    return np.where(known, np.maximum(0.0, edge - mean), unsure)


@dataclass(frozen=True)
class FrontHistory:
    """What is known from the trials of a study for a front.

    Args:
        params: Networks that have values and keep their constraints. values: (n, 1 + d), accuracy and ln(cost)s.
        failed: Networks that failed. slacks: Of each limit that some network broke, all that is known.
        running: Without a result yet. met: All networks of the study, as `Known.network` tells them apart.
    """

    params: list[Params]
    values: Array
    failed: list[Params]
    slacks: list[Slack]
    running: list[Params]
    met: set[Hashable]


def read(study: optuna.Study, known: Known, own: int) -> FrontHistory:
    """Return what a study for a front tells about networks.

    Args:
        own: Number of the trial that is to be sampled.
    """
    rows: list[tuple[Params, list[float]]] = []
    failed: list[tuple[Params, set[str]]] = []
    running: list[Params] = []
    met: set[Hashable] = set()
    slacks: dict[str, list[tuple[Params, float]]] = {}
    for trial, params, network in trials_of(study, known, own):
        twin = network in met
        met.add(network)
        if not trial.state.is_finished():
            running.append(params)
            continue
        if twin:
            continue  # it repeats what its first trial says
        for name, value in trial.constraints.items():
            slacks.setdefault(name, []).append((params, value))
        broken = {name for name, value in trial.constraints.items() if value > 0}
        if trial.state == TrialState.COMPLETE and not broken and _usable(trial.values):
            rows.append((params, [trial.values[0], *map(math.log, trial.values[1:])]))
        elif broken:
            failed.append((params, broken))
    learnt = learnable(slacks)
    rows = _most(rows)
    return FrontHistory(
        params=[params for params, _ in rows],
        values=np.array([values for _, values in rows]).reshape(len(rows), len(study.directions)),
        failed=[params for params, broken in failed if not broken & learnt][-MOST // 2 :],
        slacks=[slack_of(slacks[name][-MOST:]) for name in sorted(learnt)],
        running=running,
        met=met,
    )


def _usable(values: Sequence[float] | None) -> bool:
    return values is not None and all(map(math.isfinite, values)) and min(values[1:]) > 0


def _most(rows: list[tuple[Params, list[float]]]) -> list[tuple[Params, list[float]]]:
    """Return at most so many rows: the front, and an even sample of the others."""
    if len(rows) <= MOST:
        return rows
    values = np.array([values for _, values in rows])
    kept = set(grid(values[:, 0], values[:, 1:]).members[: MOST // 2])
    rest = [place for place in range(len(rows)) if place not in kept]
    kept |= {rest[int(place)] for place in np.linspace(0, len(rest) - 1, MOST - len(kept))}
    return [rows[place] for place in sorted(kept)]
