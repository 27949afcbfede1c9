"""Evolution and local search: seeded, without repetition, and with no memory but the study's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nas.errors import UsageError
from nas.search.samplers import SAMPLERS
from nas.search.samplers._draw import Draw
from nas.search.samplers._moves import MovingSampler, _past
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.known import Known, Params, plain
from nas.search.samplers.local_search import START, LocalSearchSampler

CHOICES: dict[str, BaseDistribution] = {
    "depth": IntDistribution(0, 3),
    "block": CategoricalDistribution(("a", "b", "c")),
    "width": IntDistribution(16, 32, step=8),
    "se": CategoricalDistribution((False, True, None)),
    "late": IntDistribution(0, 3),
}
"""432 combinations; `late` shapes the network only where `depth` is 3, and no block c may be there: 153 networks."""


def network(params: Params) -> tuple[Any, ...] | None:
    if params["block"] == "c" and params["depth"] == 3:
        return None
    names = [name for name in CHOICES if name != "late" or params["depth"] == 3]
    return tuple(params[name] for name in names)


KNOWN = Known(
    CHOICES,
    network=network,
    active=lambda params: frozenset(name for name in CHOICES if name != "late" or params["depth"] == 3),
    cost=lambda params: {},
)
BOTH = pytest.mark.parametrize("kind", [EvolutionSampler, LocalSearchSampler])


def value(params: Params) -> float:
    """Additive; the best are depth 3, block b, width 32, se True and late 3: 14."""
    late = params["late"] if params["depth"] == 3 else 0
    return (
        params["depth"] + "acb".index(params["block"]) * 2 + params["width"] / 8 - 2 + 2 * (params["se"] is True) + late
    )


def run(study: optuna.Study, number: int) -> list[dict[str, Any]]:
    """Search as nas does: what is forbidden ends as pruned."""
    found = []
    for _ in range(number):
        trial = study.ask(CHOICES)
        found.append(trial.params)
        if network(trial.params) is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value(trial.params))
    return found


def new(sampler: optuna.samplers.BaseSampler, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(direction=direction, sampler=sampler)


@BOTH
@pytest.mark.parametrize("known", [None, KNOWN])
def test_one_seed_suggests_the_same(kind: Callable[..., MovingSampler], known: Known | None) -> None:
    first, same, other = (run(new(kind(seed, known=known)), 40) for seed in (3, 3, 4))
    assert first == same != other


@BOTH
def test_no_network_comes_twice_and_none_that_is_forbidden(kind: Callable[..., MovingSampler]) -> None:
    found = [network(params) for params in run(new(kind(0, known=KNOWN)), 150)]
    assert None not in found and len(set(found)) == 150


@BOTH
def test_without_knowledge_no_combination_comes_twice(kind: Callable[..., MovingSampler]) -> None:
    found = [tuple(params.values()) for params in run(new(kind(0)), 150)]
    assert len(set(found)) == 150


@BOTH
def test_a_space_that_is_used_up_is_gone_through_again(kind: Callable[..., MovingSampler]) -> None:
    small = plain({"x": IntDistribution(0, 2)})
    study = new(kind(0, known=small))
    for _ in range(5):
        trial = study.ask({"x": IntDistribution(0, 2)})
        study.tell(trial, trial.params["x"])
    assert {trial.params["x"] for trial in study.trials[:3]} == {0, 1, 2}


@BOTH
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_optimum_is_found_in_a_third_of_the_space(kind: Callable[..., MovingSampler], direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    found = 0
    for seed in range(5):
        study = new(kind(seed, known=KNOWN), direction)
        for _ in range(55):
            trial = study.ask(CHOICES)
            study.tell(trial, sign * value(trial.params))
        found += sign * study.best_value == pytest.approx(14)
    assert found >= 4, "at random, four in five would be luck of one in sixteen"


@BOTH
def test_a_sampler_made_anew_goes_on_from_the_study_alone(kind: Callable[..., MovingSampler]) -> None:
    study = new(kind(0, known=KNOWN))
    run(study, 24)
    start = max(trial.number for trial in study.trials if trial.number == 0 or START in trial.system_attrs)
    study.sampler = kind(1, known=KNOWN)
    before, after = study.trials, run(study, 30)
    assert not {network(trial.params) for trial in before} & {network(params) for params in after}
    if kind is EvolutionSampler:
        parents = [trial.params for trial in before[-20:]]
    else:
        parents = [max(before[start:], key=lambda trial: trial.value).params]
        assert START not in study.trials[24].system_attrs
    assert any(sum(after[0][name] != parent[name] for name in CHOICES) == 1 for parent in parents)


@BOTH
def test_trials_of_all_states_are_seen_and_what_has_no_value_leads_nowhere(kind: Callable[..., MovingSampler]) -> None:
    study = new(kind(0, known=KNOWN))
    taken: set[Any] = set()
    draw = Draw(KNOWN, taken, np.random.default_rng(0))
    ends: list[dict[str, Any]] = [
        {"state": TrialState.COMPLETE, "value": 1.0},
        {"state": TrialState.COMPLETE, "value": float("inf")},
        {"state": TrialState.PRUNED},
        {"state": TrialState.PRUNED, "intermediate_values": {1: 0.5}},
        {"state": TrialState.PRUNED, "intermediate_values": {1: float("nan")}},
        {"state": TrialState.FAIL},
        {"state": TrialState.RUNNING},
    ]
    for end in ends * 8:
        params = draw.random_new()
        taken.add(network(params))
        study.add_trial(create_trial(params=params, distributions=CHOICES, **end))
    broken = create_trial(params=params, distributions=CHOICES, state=TrialState.COMPLETE, value=99.0)
    broken.set_constraint("num_params.max", 0.1)
    study.add_trial(broken)
    study.add_trial(create_trial(params={"x": 1}, distributions={"x": IntDistribution(0, 1)}, value=5.0))
    study.enqueue_trial({"depth": 0})
    past = _past(study, KNOWN, START, -1)
    assert sorted(item.value for item in past if item.value is not None) == [0.5] * 8 + [1.0] * 8
    assert len(past) == len(ends) * 8 + 1
    found = [network(params) for params in run(study, 40)[1:]]
    assert not set(found) & taken and len(set(found)) == 39


@BOTH
def test_a_running_network_is_not_suggested_again(kind: Callable[..., MovingSampler]) -> None:
    study = new(kind(0, known=KNOWN))
    run(study, 25)
    flying = [study.ask(CHOICES) for _ in range(40)]
    assert len({network(trial.params) for trial in (*flying, *study.trials)}) == 65


@BOTH
def test_more_than_one_objective_is_refused(kind: Callable[..., MovingSampler]) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=kind(0))
    with pytest.raises(UsageError, match=r"found a study of 2 objectives; allowed: one"):
        study.ask(CHOICES)


@BOTH
def test_floats_are_drawn_at_random(kind: Callable[..., MovingSampler]) -> None:
    study = new(kind(0))
    choices = CHOICES | {"rate": FloatDistribution(0, 1)}
    for _ in range(30):
        trial = study.ask(choices)
        study.tell(trial, value(trial.params))
    assert len({trial.params["rate"] for trial in study.trials}) == 30
    assert len({tuple(trial.params[name] for name in CHOICES) for trial in study.trials}) == 30


@pytest.mark.parametrize("sizes", [{"population": 0}, {"tournament": 0}])
def test_a_population_of_none_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="allowed: 1 or more"):
        EvolutionSampler(0, **sizes)


def test_children_are_one_active_choice_from_one_of_the_last() -> None:
    study = new(EvolutionSampler(0, known=KNOWN, population=6, tournament=2))
    run(study, 40)
    trials = study.trials
    for place in range(6, 40):
        child = trials[place].params
        parents = [trial.params for trial in trials[place - 6 : place]]
        assert any(sum(child[name] != parent[name] for name in CHOICES) == 1 for parent in parents)


def test_the_oldest_dies_though_it_is_the_best() -> None:
    """Values only fall, so the oldest of the three that live wins every tournament, for the last time before it dies."""
    study = new(EvolutionSampler(0, known=KNOWN, population=3, tournament=50))
    for number in range(14):
        study.tell(study.ask(CHOICES), -float(number))
    made = [trial.params for trial in study.trials]
    for child, parent in zip(made[3:], made, strict=False):
        assert sum(child[name] != parent[name] for name in CHOICES) == 1


def test_local_search_moves_where_it_gains_and_starts_anew_in_an_optimum() -> None:
    choices: dict[str, BaseDistribution] = {
        "x": IntDistribution(0, 1),
        "y": IntDistribution(0, 1),
        "z": IntDistribution(0, 9),
    }
    study = new(LocalSearchSampler(0, known=plain(choices)))
    first = study.ask(choices)
    study.tell(first, 1.0)
    around = 1 + 1 + 9
    for _ in range(around):  # none is better
        trial = study.ask(choices)
        assert sum(trial.params[name] != first.params[name] for name in choices) == 1
        study.tell(trial, 0.0)
    start = study.ask(choices)
    assert study.trials[-1].system_attrs[START]
    study.tell(start, 0.5)
    step = study.ask(choices)
    assert sum(step.params[name] != start.params[name] for name in choices) == 1, (
        "worse than the first, and begun there"
    )
    study.tell(step, 0.6)
    then = study.ask(choices)
    assert sum(then.params[name] != step.params[name] for name in choices) == 1, "it gained"


def test_workers_wait_for_the_last_neighbours_with_random_networks() -> None:
    choices: dict[str, BaseDistribution] = {"x": IntDistribution(0, 9), "y": IntDistribution(0, 9)}
    study = new(LocalSearchSampler(0, known=plain(choices)))
    study.tell(study.ask(choices), 1.0)
    flying = [study.ask(choices) for _ in range(18)]
    extra = study.ask(choices)
    assert not study.trials[-1].system_attrs.get(START), "a neighbour may still be better"
    for trial in (*flying, extra):
        study.tell(trial, 0.0)
    study.ask(choices)
    assert study.trials[-1].system_attrs[START]


@pytest.mark.parametrize("name", ["evolution", "local"])
def test_they_are_known_by_name(name: str) -> None:
    found = run(new(SAMPLERS[name](7, KNOWN)), 5)
    assert found == run(new(SAMPLERS[name](7, KNOWN)), 5)
