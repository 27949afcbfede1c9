"""A run may be killed at any instant; continued, it has trained each network once, and exactly as many as asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from stubs import PHASES, Search, StubEvaluator, kinds

from nas.engine import Job
from nas.evaluate import PhaseResult
from nas.search.study import open_study, records, requeue_interrupted
from nas.space import SearchSpace

BUDGET = 5


def slow(*values: int) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def killed_at(evaluator: StubEvaluator, start: int) -> StubEvaluator:
    def trap(job: Job) -> PhaseResult | None:
        if len(evaluator.starts) == start:
            raise KeyboardInterrupt
        return None

    evaluator.trap = trap
    return evaluator


@pytest.mark.parametrize("start", [1, 3, 5, *slow(2, 4, 11)])
def test_killed_in_a_phase_and_continued(search: Search, start: int) -> None:
    first, second = killed_at(StubEvaluator(), start), StubEvaluator()
    with pytest.raises(KeyboardInterrupt):
        search.go(first, BUDGET)
    interrupted = first.starts[-1][0]
    found = search.go(second, BUDGET)
    trained = first.trained() + second.trained()
    assert len(trained) == len(set(trained)) == BUDGET
    assert sorted(record.arch_hash for record in kinds(found, "trained")) == sorted(trained)
    assert second.starts[0] == (interrupted, 0)
    states = Counter(trial.state for trial in search.study.trials)
    assert states[TrialState.FAIL] == 1 and states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    again = next(trial for trial in search.study.trials if "again_after" in trial.user_attrs)
    assert search.study.trials[again.user_attrs["again_after"]].state == TrialState.FAIL
    assert again.params == search.study.trials[again.user_attrs["again_after"]].params


def test_killed_again_and_again(search: Search) -> None:
    trained: list[str] = []
    for _ in range(20):
        evaluator = killed_at(StubEvaluator(), 5)
        try:
            found = search.go(evaluator, BUDGET)
        except KeyboardInterrupt:
            trained += evaluator.trained()
            continue
        trained += evaluator.trained()
        break
    else:
        pytest.fail("never ended")
    assert len(trained) == len(set(trained)) == BUDGET == len(kinds(found, "trained"))


@pytest.mark.parametrize("writes", [1, 9, 19, *slow(2, 3, 5, 15, 17, 25, 33, 40)])
def test_killed_while_a_trial_is_stored_and_continued(
    search: Search, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Attributes and state of a trial are written one after the other; none of it may count before all of it is there."""
    first, second = StubEvaluator(), StubEvaluator()
    storage = optuna.storages._cached_storage._CachedStorage
    left = [writes]
    with monkeypatch.context() as patch:
        for name in ("set_trial_user_attr", "set_trial_state_values"):
            original = getattr(storage, name)

            def dying(self, *arguments, original=original, **named):  # type: ignore[no-untyped-def]
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return original(self, *arguments, **named)

            patch.setattr(storage, name, dying)
        with pytest.raises(KeyboardInterrupt):
            search.go(first, BUDGET)
    found = search.go(second, BUDGET)
    trained = kinds(found, "trained")
    assert len(trained) == len({record.arch_hash for record in trained}) == BUDGET
    assert all(record.reward is not None and record.num_params is not None for record in trained)
    # The network whose storing was cut off is trained again, no other.
    assert len(set(first.trained()) & set(second.trained())) <= 1
    assert not [trial for trial in search.study.trials if not trial.state.is_finished()]


def test_a_continued_sampler_does_not_begin_again(search: Search, tmp_path: Path, tiny_space: SearchSpace) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.go(killed_at(StubEvaluator(), 13), 12)
    before = len(search.study.trials)
    search.go(StubEvaluator(), 12)
    first = [trial.params for trial in search.study.trials[:4]]
    after = [
        trial.params
        for trial in search.study.trials
        if trial.number >= before and not trial.user_attrs.get("again_after")
    ]
    assert after
    assert all(params not in first for params in after[1:])


def test_a_budget_can_be_raised(search: Search) -> None:
    first, second = StubEvaluator(), StubEvaluator()
    search.go(first, 3)
    found = search.go(second, 7)
    assert len(first.trained()) == 3 and len(second.trained()) == 4
    assert len({record.arch_hash for record in kinds(found, "trained")}) == 7
    assert first.log[: 3 * (PHASES + 1)] == first.log


def test_a_trial_without_parameters_is_only_closed(tmp_path: Path) -> None:
    study = open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    study.ask()
    assert requeue_interrupted(study) == 1
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]
    assert requeue_interrupted(study) == 0
    assert records(study) == []
