"""Who is stopped at a phase's end, who is trained on all the same, and that a kill changes neither."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from stubs import Search, StubEvaluator, TwoSlots, kinds

from nas.engine import InlineEngine, Job
from nas.evaluate import PhaseResult
from nas.search import stopping
from nas.search.record import TrialRecord, table
from nas.search.stopping import AUDIT, AUDITED, FIRST, Halving, goes_on
from nas.search.study import records

CACHED = optuna.storages._cached_storage._CachedStorage
Rewards = dict[int, float]


def first_rewards(search: Search) -> Rewards:
    """Rewards at the end of phase 1 of the networks that were judged, by trial number."""
    return {
        trial.number: trial.intermediate_values[1]
        for trial in search.study.trials
        if 1 in trial.intermediate_values and "duplicate_of" not in trial.user_attrs
    }


def in_the_top(number: int, rewards: Rewards, eta: float) -> bool:
    """The definition, by sorting: among the first floor(n / eta) of those that came up to and with this one."""
    there = sorted((reward for other, reward in rewards.items() if other <= number), reverse=True)
    return rewards[number] in there[: int(len(there) / eta)]


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_those_that_go_on_are_the_top_share_of_all_that_came(eta: float) -> None:
    rng = random.Random(eta)
    rewards = {number: rng.random() for number in range(300)}
    for number, reward in rewards.items():
        others = [rewards[other] for other in range(number)]
        rng.shuffle(others)
        expected = number < 5 or in_the_top(number, rewards, eta)
        assert goes_on(reward, others, eta, first=5) == expected
    went = sum(goes_on(rewards[number], [rewards[other] for other in range(number)], eta) for number in range(10, 300))
    assert went == pytest.approx(290 / eta, rel=0.25)


def test_ties_go_on_together_and_the_least_number_is_kept() -> None:
    assert not goes_on(0.0, [1.0] * FIRST) and goes_on(0.0, [1.0] * (FIRST - 1))
    assert goes_on(1.0, [1.0] * 50)
    assert not goes_on(0.5, [0.6, 0.7], eta=3, first=0) and goes_on(0.8, [0.6, 0.7], eta=3, first=0)


def finished(rewards: list[float], state: TrialState, **attributes: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state, value=rewards[-1] if state == TrialState.COMPLETE else None,
        params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)},
        user_attrs=attributes, intermediate_values=dict(enumerate(rewards, 1)),
    )  # fmt: skip


def test_the_rung_holds_every_network_once_wherever_it_ended() -> None:
    study = optuna.create_study(direction="maximize", pruner=Halving(eta=2, first=3))
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.report(0.5, step=1)
    study.add_trial(finished([0.9], TrialState.PRUNED, kind="pruned"))
    study.add_trial(finished([0.8, 0.7], TrialState.PRUNED, kind="diverged"))
    for _ in range(5):
        study.add_trial(finished([0.9], TrialState.PRUNED, kind="duplicate", duplicate_of=1))
    study.add_trial(finished([], TrialState.PRUNED, kind="infeasible"))
    assert not trial.should_prune(), "two others have come, a duplicate and an infeasible network are none"
    other = study.ask({"x": FloatDistribution(0, 1)})
    other.report(0.4, step=1)
    assert trial.should_prune() and other.should_prune(), "stopped, failed later and in flight: all have come"
    other.report(0.95, step=2)
    assert not other.should_prune(), "each phase has its own"
    assert not study.ask({"x": FloatDistribution(0, 1)}).should_prune()


def test_a_search_stops_by_the_definition_and_every_network_costs_budget(search: Search) -> None:
    evaluator = StubEvaluator()
    found = search.go(evaluator, 60, pruner="halving", memory=True)
    pruned, trained = kinds(found, "pruned"), kinds(found, "trained")
    assert len(pruned) + len(trained) == 60 and len(pruned) > 20
    rewards = first_rewards(search)
    came = list(rewards)
    for record in (*pruned, *trained):
        wanted = came.index(record.number) < FIRST or in_the_top(record.number, rewards, stopping.ETA)
        assert wanted == (record.kind == "trained" and not record.audited)
    for record in pruned:
        assert record.reason == "reward not among the best 1/3 at the end of phase 1"
        assert (record.arch_hash, 2) not in evaluator.starts


def test_the_tenth_the_thirtieth_stop_goes_on_to_the_end(search: Search) -> None:
    found = search.go(StubEvaluator(), 80, pruner="halving", memory=True)
    stops = [record for record in found if record.kind == "pruned" or record.audited]
    audited = [place for place, record in enumerate(stops, 1) if record.audited]
    assert audited == list(range(AUDIT // 2, len(stops) + 1, AUDIT)) and len(audited) == 2
    for place in audited:
        record = stops[place - 1]
        assert record.kind == "trained" and record.audited == "phase 1" and record.costs_budget
        assert search.study.trials[record.number].user_attrs[AUDITED] == "phase 1"
    assert list(table(found)["audited"].value_counts()[["phase 1"]]) == [2]
    assert not [record for record in kinds(found, "duplicate") if record.audited], (
        "a trial is an audit, a network is none"
    )


def test_a_network_that_goes_on_as_an_audit_is_not_judged_again(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.search.stopping.AUDIT", 2)  # every second stop, from the first
    monkeypatch.setattr("stubs.PHASES", 3)
    search.go(StubEvaluator(), 40, pruner="halving", memory=True)
    audited = [record for record in search.told if record.audited]
    assert audited and {record.audited for record in audited} <= {"phase 1", "phase 2"}
    assert all(record.kind == "trained" and len(record.phase_accuracy.split()) == 3 for record in audited)


def test_networks_taken_over_have_come_but_are_no_stops(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=Halving())
    for number in range(30):
        kind = "pruned" if number % 2 else "trained"
        study.add_trial(finished([0.9], TrialState.PRUNED, kind=kind, origin=f"other trial {number}"))
    for stop in range(1, 12):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        trial.report(0.1, step=1)
        assert stopping.reason_to_stop(trial, 1)
        assert stopping.audits(trial, 1) == (stop == 10)
        trial.set_user_attr("kind", "pruned")
        study.tell(trial, state=TrialState.PRUNED)


# --- killed and continued ---------------------------------------------------------------------------------


class Cut(BaseException):
    """The process is killed."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop from the fourth network on, and audit the 2nd, 6th, 10th ... stop."""
    monkeypatch.setattr("nas.search.stopping.AUDIT", 4)
    monkeypatch.setattr(Halving.__init__, "__defaults__", (stopping.ETA, 3))


def judged(found: list[TrialRecord]) -> list[TrialRecord]:
    return sorted(kinds(found, "trained", "pruned"), key=lambda record: record.number)


def stops(found: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in judged(found) if record.kind == "pruned" or record.audited]


def dying(moment: Callable[[str, Any], bool]) -> Callable[..., None]:
    """Return a `set_trial_user_attr` that dies in place of a write."""
    write = CACHED.set_trial_user_attr

    def either(self: Any, trial_id: int, key: str, value: Any) -> None:
        if moment(key, value):
            raise Cut
        write(self, trial_id, key, value)

    return either


@pytest.mark.parametrize("moment", ["before the mark", "in the next phase"])
@pytest.mark.usefixtures("soon")
def test_a_kill_neither_forgets_an_audit_nor_makes_a_second(
    search: Search, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """With one worker the continued run has to be one that was never killed."""
    evaluator, second = StubEvaluator(), StubEvaluator()

    def trap(job: Job) -> PhaseResult | None:
        if job.phase == 2 and AUDITED in search.study.trials[-1].user_attrs:
            raise Cut
        return None

    with monkeypatch.context() as patch, pytest.raises(Cut):
        if moment == "before the mark":
            patch.setattr(CACHED, "set_trial_user_attr", dying(lambda key, value: key == AUDITED))
        else:
            evaluator.trap = trap
        search.go(evaluator, 12, pruner="halving")
    assert not [record for record in records(search.study) if record.audited]
    found = search.go(second, 12, pruner="halving")
    places = [place for place, record in enumerate(stops(found), 1) if record.audited]
    assert places == list(range(2, len(stops(found)) + 1, 4)) and places
    assert not set(evaluator.log) & set(second.log), "no phase is run twice"
    rewards = first_rewards(search)
    came = list(rewards)
    for record in judged(found):
        wanted = came.index(record.number) < 3 or in_the_top(record.number, rewards, stopping.ETA)
        assert wanted == (record.kind == "trained" and not record.audited)


@pytest.mark.parametrize("engine", [InlineEngine, TwoSlots])
@pytest.mark.usefixtures("soon")
def test_killed_again_and_again_one_stop_in_so_many_is_audited(search: Search, engine: Any) -> None:
    for start in (12, 3, 4, 2, 1):
        evaluator = StubEvaluator()

        def trap(job: Job, evaluator: StubEvaluator = evaluator, start: int = start) -> None:
            if len(evaluator.starts) == start:
                raise Cut

        evaluator.trap = trap
        with pytest.raises(Cut):
            search.go(evaluator, 14, pruner="halving", engine=engine)
    found = search.go(StubEvaluator(), 14, pruner="halving", engine=engine)
    assert len(judged(found)) == 14
    audited = [record for record in stops(found) if record.audited]
    assert len(stops(found)) > 2 and len(audited) == (len(stops(found)) + 2) // 4
    assert {record.kind for record in audited} == {"trained"}


@pytest.mark.usefixtures("soon")
def test_a_stop_that_was_decided_counts_before_others_are_judged(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the end of the second trial is written; when the run goes on, the first is to be stopped too."""

    class InTurns(TwoSlots):
        def next(self) -> tuple[Job, PhaseResult]:
            self.flying.reverse()
            return super().next()

    def only_the_second(trial: optuna.Trial, phase: int) -> str:
        return "stopped" if trial.number == numbers[1] else ""

    search.go(StubEvaluator(), 0, pruner="halving")
    evaluator, numbers = StubEvaluator(), [0, 1]
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(stopping, "reason_to_stop", only_the_second)
        patch.setattr(CACHED, "set_trial_user_attr", dying(lambda key, value: (key, value) == ("kind", "pruned")))
        search.go(evaluator, 2, pruner="halving", engine=InTurns)
    assert [trial.state for trial in search.study.trials] == [TrialState.RUNNING] * 2
    with monkeypatch.context() as patch:
        patch.setattr(
            stopping, "reason_to_stop", lambda trial, phase: "" if trial.user_attrs.get(AUDITED) else "stopped"
        )
        found = search.go(StubEvaluator(), 2, pruner="halving", engine=InTurns)
    assert [(record.number, record.kind, record.audited) for record in stops(found)] == [
        (0, "trained", "phase 1"),
        (1, "pruned", ""),
    ]
