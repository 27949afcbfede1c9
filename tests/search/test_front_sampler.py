"""The sampler for fronts: its gain against simulation, what it never does, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nas.errors import UsageError
from nas.front import front, hypervolume
from nas.search.samplers._history import MOST
from nas.search.samplers.front import FrontSampler, grid, log_gain, read
from nas.search.samplers.known import Known, Params, plain

SPACE = {f"x{i}": IntDistribution(0, 3) for i in range(4)} | {"block": CategoricalDistribution(["a", "b", "c"])}


def accuracy(params: Params) -> float:
    """Saturates with size; block b is better at the same cost."""
    size = sum(params[f"x{i}"] for i in range(4))
    return 0.5 + 0.4 * (1 - math.exp(-size / 4)) + {"a": 0.0, "b": 0.05, "c": -0.2}[params["block"]]


def log_cost(params: Params) -> float:
    return 0.3 * sum(params[f"x{i}"] * (1 + i / 4) for i in range(4))


ALL = [
    {f"x{i}": value // 4**i % 4 for i in range(4)} | {"block": block}
    for value in range(256)
    for block in ("a", "b", "c")
]
POINTS = [(accuracy(params), math.exp(log_cost(params))) for params in ALL]
REFERENCE = (0.25, 1.1 * max(cost for _, cost in POINTS))


def counted() -> Known:
    return replace(plain(SPACE), cost=lambda params: {"macs": log_cost(params)})


def searched(sampler: optuna.samplers.BaseSampler, number: int, name: str = "macs") -> list[dict[str, Any]]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.set_metric_names(["val_accuracy", name])
    asked = []
    for _ in range(number):
        trial = study.ask(dict(SPACE))
        study.tell(trial, [accuracy(trial.params), math.exp(log_cost(trial.params))])
        asked.append(trial.params)
    return asked


def share(asked: list[dict[str, Any]]) -> float:
    """Return the share of the whole front's hypervolume that some networks have."""
    found = hypervolume([(accuracy(params), math.exp(log_cost(params))) for params in asked], REFERENCE)
    return found / hypervolume(POINTS, REFERENCE)


def test_it_finds_the_front_in_a_fraction_and_never_asks_twice() -> None:
    for name in ("macs", "step time / baseline"):  # known, and learnt
        asked = searched(FrontSampler(0, known=counted()), 40, name)
        assert len({tuple(params.items()) for params in asked}) == 40
        assert share(asked) > 0.98 > share(searched(optuna.samplers.RandomSampler(seed=0), 40))


def test_the_same_seed_asks_the_same_and_another_something_else() -> None:
    first, again, other = (searched(FrontSampler(seed, known=counted()), 14) for seed in (4, 4, 5))
    assert first == again != other


def test_a_study_of_anybody_is_enough() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=FrontSampler(1))

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        params = {f"x{i}": trial.suggest_int(f"x{i}", 0, 3) for i in range(4)}
        params["block"] = trial.suggest_categorical("block", ["a", "b", "c"])
        return accuracy(params), math.exp(log_cost(params)), 1.0 + sum(params[f"x{i}"] for i in range(4))

    study.optimize(objective, n_trials=25)
    assert len({tuple(trial.params.items()) for trial in study.trials}) >= 24, "the first has no space to draw from"


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "maximize"], ["maximize"] + 3 * ["minimize"]])
def test_other_directions_are_refused(directions: list[str]) -> None:
    study = optuna.create_study(directions=directions, sampler=FrontSampler(0, known=counted()))
    with pytest.raises(UsageError, match=r"FrontSampler: found a study with the directions .*; allowed: maximize"):
        study.ask(dict(SPACE))


@pytest.mark.parametrize("costs", [1, 2])
def test_the_gain_is_what_simulation_says(costs: int) -> None:
    rng = np.random.default_rng(costs)
    seen = np.column_stack([rng.uniform(0.4, 0.9, 8), rng.uniform(0, 2, (8, costs))])
    cells = grid(seen[:, 0], seen[:, 1:])
    reference = (float(seen[:, 0].min()), *map(math.exp, cells.worst))
    before = [(row[0], *map(math.exp, row[1:])) for row in seen.tolist()]
    assert [before[place] for place in cells.members] == [before[place] for place in front(before)]
    now = hypervolume(before, reference)
    mean, sd = np.array([0.8, 0.7, 0.9]), np.array([0.1, 0.05, 0.2])
    at = rng.uniform(0, 2, (3, costs))
    unsure = np.array([[0.0] * costs, [0.2] * costs, [0.1] * costs])
    told = np.exp(log_gain(mean, sd, at, unsure, cells))
    for place in range(3):
        draws = zip(
            rng.normal(mean[place], sd[place], 1500), rng.normal(at[place], unsure[place], (1500, costs)), strict=True
        )
        gains = [hypervolume([*before, (a, *map(math.exp, c))], reference) - now for a, c in draws]
        assert told[place] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / 1500**0.5 + 1e-9)


def test_what_is_known_to_be_dearer_than_the_reference_gains_nothing() -> None:
    cells = grid(np.array([0.5, 0.8]), np.array([[0.0], [1.0]]))
    dear = log_gain(np.array([0.99]), np.array([0.1]), np.array([[1.2]]), np.array([[0.0]]), cells)
    assert dear[0] == -np.inf


def test_what_trials_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    settings: dict[str, Any] = {"distributions": SPACE}
    for place, params in enumerate(ALL[:6]):
        bad = {"constraints": {"failed": 1.0}, "state": TrialState.PRUNED}
        study.add_trial(
            create_trial(params=params, **settings, **(bad if place == 5 else {"values": [0.5, 2.0 + place]}))
        )
    study.add_trial(create_trial(params=ALL[0], values=[0.9, 1.0], **settings))  # again: the first one counts
    study.enqueue_trial(ALL[7])
    found = read(study, plain(SPACE), own=99)
    assert found.params == ALL[:5] and found.failed == [ALL[5]] and found.running == [ALL[7]]
    assert found.values.tolist() == [[0.5, math.log(2 + place)] for place in range(5)]
    assert len(found.met) == 7
    monkeypatch.setattr("nas.search.samplers.front.MOST", 3)
    assert MOST == 1000 and len(read(study, plain(SPACE), own=99).params) == 3


def beyond(limited: bool) -> float:
    """Search, and return how far the last networks are beyond a limit on average."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(2, known=counted()))
    study.set_metric_names(["val_accuracy", "macs"])
    slacks = []
    for _ in range(40):
        trial = study.ask(dict(SPACE))
        slacks.append(log_cost(trial.params) / 2 - 1)
        if limited:
            trial.set_constraint("step_time_ms.max", slacks[-1])
        if limited and slacks[-1] > 0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [accuracy(trial.params), math.exp(log_cost(trial.params))])
    return float(np.mean(np.maximum(slacks[15:], 0)))


def test_a_limit_that_is_broken_is_learnt() -> None:
    assert beyond(limited=True) < beyond(limited=False) / 3


def test_running_trials_are_not_asked_for_again() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=FrontSampler(3, known=counted()))
    study.set_metric_names(["val_accuracy", "macs"])
    for params in ALL[::40]:
        study.add_trial(
            create_trial(params=params, values=[accuracy(params), math.exp(log_cost(params))], distributions=SPACE)
        )
    asked = [study.ask(dict(SPACE)).params for _ in range(6)]
    assert len({tuple(params.items()) for params in asked}) == 6
