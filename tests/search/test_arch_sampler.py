"""The sampler made for architectures: what it knows, what it never does, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nas.errors import UsageError
from nas.search.samplers._draw import Draw
from nas.search.samplers._history import MOST, read
from nas.search.samplers.arch import ArchSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.gaussian import Encoding, fit, pulled_in, with_running
from nas.search.samplers.improvement import log_improvement, log_probability
from nas.search.samplers.known import Known, Params, plain
from nas.search.samplers.local_search import LocalSearchSampler

SPACE = {f"x{i}": IntDistribution(0, 3) for i in range(5)} | {"block": CategoricalDistribution(["a", "b", "c"])}


def additive(params: Params) -> float:
    """A function whose best is known: all integers at 2, block b."""
    return float(-sum((params[f"x{i}"] - 2) ** 2 for i in range(5)) + {"a": 0, "b": 3, "c": 1}[params["block"]])


def study_with(sampler: optuna.samplers.BaseSampler, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(direction=direction, sampler=sampler)


def searched(
    study: optuna.Study, number: int, value: Callable[[Params], float] = additive, known: Known | None = None
) -> list[dict[str, Any]]:
    asked = []
    for _ in range(number):
        trial = study.ask(dict((known or plain(SPACE)).distributions))
        study.tell(trial, value(trial.params))
        asked.append(trial.params)
    return asked


def test_it_finds_the_best_of_3072_in_a_fraction_and_never_asks_twice() -> None:
    for seed in range(3):
        asked = searched(study_with(ArchSampler(seed, known=plain(SPACE))), 45)
        assert max(additive(params) for params in asked) == 3
        assert len({tuple(params.items()) for params in asked}) == 45


def test_it_minimizes_as_well() -> None:
    asked = searched(study_with(ArchSampler(0, known=plain(SPACE)), "minimize"), 45, lambda params: -additive(params))
    assert max(additive(params) for params in asked) == 3


def test_a_study_of_anybody_is_enough() -> None:
    study = study_with(ArchSampler(1))

    def objective(trial: optuna.Trial) -> float:
        params = {f"x{i}": trial.suggest_int(f"x{i}", 0, 3) for i in range(5)}
        rate = trial.suggest_float("rate", 0, 1)
        return additive(params | {"block": trial.suggest_categorical("block", ["a", "b", "c"])}) + 0 * rate

    study.optimize(objective, n_trials=45)
    assert study.best_value == 3


def test_the_same_seed_asks_the_same_and_another_something_else() -> None:
    first, again, other = (searched(study_with(ArchSampler(seed, known=plain(SPACE))), 16) for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_a_small_space_is_asked_for_whole() -> None:
    small = plain({"a": IntDistribution(0, 3), "b": IntDistribution(0, 3)})
    asked = searched(study_with(ArchSampler(0, known=small)), 16, lambda params: params["a"] - params["b"], small)
    assert len({(params["a"], params["b"]) for params in asked}) == 16


def test_what_is_not_permitted_is_never_asked_for() -> None:
    def network(params: Params) -> Hashable | None:
        return None if params["x0"] >= 2 else tuple(params[name] for name in SPACE)

    known = replace(plain(SPACE), network=network)
    asked = searched(study_with(ArchSampler(0, known=known)), 40, known=known)
    assert all(params["x0"] < 2 for params in asked)
    assert max(additive(params) for params in asked) == 2  # the best that is permitted


def test_two_texts_of_one_network_are_asked_for_once() -> None:
    def network(params: Params) -> Hashable:
        return tuple(params[name] for name in SPACE if name != "x4" or params["block"] != "a")

    def active(params: Params) -> frozenset[str]:
        return frozenset(SPACE) - ({"x4"} if params["block"] == "a" else set())

    known = replace(plain(SPACE), network=network, active=active)
    asked = searched(study_with(ArchSampler(0, known=known)), 40, known=known)
    assert len({network(params) for params in asked}) == 40
    encoded = Encoding(known).encode([{**asked[0], "block": "a", "x4": 0}, {**asked[0], "block": "a", "x4": 3}])
    assert (encoded.marks[0] == encoded.marks[1]).all()
    assert (encoded.effects[0] == encoded.effects[1]).all()


def test_workers_do_not_all_train_the_same() -> None:
    study = study_with(ArchSampler(0, known=plain(SPACE)))
    searched(study, 12)
    flying = [study.ask(SPACE).params for _ in range(8)]
    assert len({tuple(params.items()) for params in flying}) == 8
    distances = [sum(a[name] != b[name] for name in SPACE) for a in flying for b in flying if a is not b]
    assert np.mean(distances) > 1.5  # not eight neighbours of one


def test_a_queued_network_is_not_suggested_besides() -> None:
    small = plain({"a": IntDistribution(0, 1), "b": IntDistribution(0, 1)})
    study = study_with(ArchSampler(0, known=small))
    searched(study, 2, lambda params: 0.0, small)
    asked = {(trial.params["a"], trial.params["b"]) for trial in study.trials}
    queued, free = sorted({(a, b) for a in (0, 1) for b in (0, 1)} - asked)
    study.add_trial(
        create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"a": queued[0], "b": queued[1]}})
    )
    history = read(study, small, own=99)
    drawn = Draw(small, history.met, np.random.default_rng(0)).random_new()
    assert (drawn["a"], drawn["b"]) == free


def rare() -> Known:
    """Twelve choices of which at least ten must be the lowest of six: one network in 1.3 million."""
    many = {f"x{i:02}": IntDistribution(0, 5) for i in range(12)}

    def beyond(params: Params) -> float:
        return float(max(0, 2 * sum(value > 0 for value in params.values()) - 4))

    return replace(
        plain(many), network=lambda params: None if beyond(params) else tuple(params.values()), beyond=beyond
    )


@pytest.mark.parametrize("sampler", [ArchSampler, EvolutionSampler, LocalSearchSampler])
def test_networks_within_limits_that_leave_hardly_any_are_found(
    sampler: Callable[..., optuna.samplers.BaseSampler],
) -> None:
    known = rare()
    asked = searched(study_with(sampler(0, known=known)), 30, lambda params: float(sum(params.values())), known)
    found = [known.network(params) for params in asked]
    assert None not in found
    assert len(set(found)) == 30
    assert len({params["x00"] for params in asked}) > 1


def test_a_limit_that_is_learnt_keeps_it_away() -> None:
    study = study_with(ArchSampler(0, known=plain(SPACE)))
    beyond = 0
    for number in range(40):
        trial = study.ask(SPACE)
        slack = (trial.params["x0"] + trial.params["x1"]) / 3.5 - 1  # the best without the limit is beyond it
        trial.set_constraint("time.max", slack)
        if slack > 0:
            beyond += number >= 15
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, additive(trial.params))
    assert beyond <= 4  # of 25; of random networks it would be 9
    assert study.best_value == 2


def test_values_of_stopped_networks_are_translated_into_final_ones() -> None:
    study = study_with(ArchSampler(0))
    for x in range(4):
        for y in range(4):
            params = {"x0": x, "x1": y}
            done = x < 2
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if done else TrialState.PRUNED,
                    params=params,
                    distributions={name: IntDistribution(0, 3) for name in params},
                    value=0.5 + 0.1 * y + 0.05 * x if done else None,
                    intermediate_values={
                        1: 0.2 + 0.1 * y + 0.05 * x,
                        **({2: 0.5 + 0.1 * y + 0.05 * x} if done else {}),
                    },
                )
            )
    history = read(study, plain({name: IntDistribution(0, 3) for name in ("x0", "x1")}), own=99)
    for params, value in zip(history.params, history.values, strict=True):
        assert value == pytest.approx(0.5 + 0.1 * params["x1"] + 0.05 * params["x0"], abs=1e-6)
    assert len(history.values) == 16


def test_a_network_that_failed_counts_as_the_worst() -> None:
    study = study_with(ArchSampler(0))
    searched(study, 6)
    trial = study.ask(SPACE)
    trial.set_constraint("failed", 1.0)
    study.tell(trial, state=TrialState.PRUNED)
    history = read(study, plain(SPACE), own=99)
    assert history.values[-1] == history.values[:-1].min()
    assert not history.feasible[-1]
    assert history.slacks == []  # nothing can be learnt where only failures are recorded


def test_of_very_many_values_the_better_half_and_some_others_are_kept() -> None:
    study = study_with(optuna.samplers.RandomSampler(seed=0))
    space = {"x": IntDistribution(0, 5000)}
    study.add_trials(
        [
            create_trial(params={"x": x}, distributions=dict(space), value=float(x))  # type: ignore[arg-type]
            for x in range(MOST + 500)
        ]
    )
    history = read(study, plain(space), own=9999)
    assert len(history.values) == MOST
    assert set(range(MOST, MOST + 500)) <= set(history.values)
    assert history.values.min() == 0


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ArchSampler(0, known=plain(SPACE)))
    with pytest.raises(UsageError, match="several objectives"):
        study.ask(SPACE)


def test_a_float_has_no_place_in_the_process() -> None:
    with pytest.raises(ValueError, match="rate: found"):
        Encoding(plain({"rate": FloatDistribution(0, 1)}))


def test_the_process_returns_to_what_it_saw_and_doubts_what_is_far() -> None:
    known = plain(SPACE)
    rng = np.random.default_rng(0)
    networks = [Draw(known, set(), rng).random() for _ in range(80)]
    values = np.array([additive(params) for params in networks])
    encoding = Encoding(known)
    process = fit(encoding.encode(networks[:60]), values[:60])
    mean, sd = process.predict(encoding.encode(networks[60:]))
    assert np.corrcoef(mean, values[60:])[0, 1] > 0.97
    assert np.mean(np.abs(mean - values[60:]) < 2.5 * sd) > 0.8
    running = encoding.encode(networks[60:61])
    after, less = with_running(process, running).predict(encoding.encode(networks[60:]))
    assert after == pytest.approx(mean, abs=1e-6)
    assert less[0] < 0.9 * sd[0]
    assert (less <= sd + 1e-9).all()


def test_very_bad_outliers_are_pulled_in_and_good_ones_are_not() -> None:
    values = np.array([1.0, 2, 3, 4, 5, -1000, 1000])
    assert pulled_in(values)[-2] > -20
    assert (pulled_in(values)[[0, 1, 2, 3, 4, 6]] == values[[0, 1, 2, 3, 4, 6]]).all()


@pytest.mark.parametrize("mean", [-40.0, -8.0, -1.0001, -0.9999, 0.0, 2.0])
def test_expected_improvement_agrees_with_its_integral(mean: float) -> None:
    (found,) = log_improvement(np.array([mean]), np.array([1.0]), 0.0)
    x = np.linspace(0, max(mean, 0) + 12, 400_001)
    heights = -((x - mean) ** 2) / 2 - math.log(2 * math.pi) / 2
    top = heights.max()
    expected = top + math.log(np.trapezoid(x * np.exp(heights - top), x))
    assert found == pytest.approx(expected, abs=2e-3)


def test_log_probability_is_smooth_where_its_formula_changes() -> None:
    low, high = log_probability(np.array([-30.0001, -29.9999]))
    assert high - low == pytest.approx(0.0002 * 30.03, rel=0.01)
    assert log_probability(np.array([0.0]))[0] == pytest.approx(math.log(0.5))
    assert log_probability(np.array([-40.0]))[0] == pytest.approx(-804.6, abs=0.1)
