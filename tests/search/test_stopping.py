"""Who is stopped at a phase's end, who is trained on all the same, and that a kill changes neither."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from stubs import PHASES, Search, StubEvaluator, TwoSlots, kinds

from nas.engine import InlineEngine, Job
from nas.evaluate import PhaseResult
from nas.search import stopping
from nas.search.record import TrialRecord, table
from nas.search.stopping import AUDIT, AUDITED, FIRST, Halving, goes_on
from nas.search.study import records
from nas.space import SearchSpace

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


def ended(found: list[TrialRecord]) -> list[TrialRecord]:
    return sorted((replace(record, seconds=0.0, phase_seconds="") for record in found), key=lambda item: item.number)


def judged(found: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in ended(found) if record.kind in ("trained", "pruned")]


@pytest.mark.parametrize("moment", ["before the mark", "after the mark", "in the next phase"])
def test_a_kill_neither_forgets_an_audit_nor_makes_a_second(
    search: Search, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """One worker, so that the continued run has to be the same as one that was never killed."""
    monkeypatch.setattr("nas.search.stopping.AUDIT", 6)  # the 3rd, 9th ... stop
    killed: list[str] = []
    evaluator = StubEvaluator()

    def kill(arch: str) -> None:
        killed.append(arch)
        raise Cut

    def trap(job: Job) -> PhaseResult | None:
        if moment == "in the next phase" and job.phase == 2:
            attributes = search.study.trials[-1].user_attrs
            if AUDITED in attributes:
                kill(job.spec.arch_hash)
        return None

    storage = optuna.storages._cached_storage._CachedStorage
    mark = storage.set_trial_user_attr

    def marks(self: Any, trial_id: int, key: str, value: Any) -> None:
        if key == AUDITED and moment == "before the mark":
            kill("")
        mark(self, trial_id, key, value)
        if key == AUDITED and moment == "after the mark":
            kill("")

    evaluator.trap = trap
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(storage, "set_trial_user_attr", marks)
        search.go(evaluator, 24, pruner="halving")
    assert killed and not [record for record in records(search.study) if record.audited]
    second = StubEvaluator()
    found = judged(search.go(second, 24, pruner="halving"))
    stops = [record for record in found if record.kind == "pruned" or record.audited]
    assert [place for place, record in enumerate(stops, 1) if record.audited] == list(range(3, len(stops) + 1, 6))
    assert not set(evaluator.log) & set(second.log), "no phase is run twice"
    rewards = first_rewards(search)
    came = list(rewards)
    for record in found:
        on = came.index(record.number) < FIRST or in_the_top(record.number, rewards, stopping.ETA)
        assert on == (record.kind == "trained" and not record.audited)


@pytest.mark.parametrize("engine", [InlineEngine, TwoSlots])
def test_killed_again_and_again_one_stop_in_so_many_is_audited(
    search: Search, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    monkeypatch.setattr("nas.search.stopping.AUDIT", 4)
    for start in (35, 3, 4, 5, 1, 2, 7):
        evaluator = StubEvaluator()

        def trap(job: Job, evaluator: StubEvaluator = evaluator, start: int = start) -> None:
            if len(evaluator.starts) == start:
                raise Cut

        evaluator.trap = trap
        with pytest.raises(Cut):
            search.go(evaluator, 30, pruner="halving", engine=engine)
    found = judged(search.go(StubEvaluator(), 30, pruner="halving", engine=engine))
    assert len(found) == 30
    stops = [record for record in found if record.kind == "pruned" or record.audited]
    assert len(stops) > 8 and sum(bool(record.audited) for record in stops) == (len(stops) + 2) // 4
    assert all(record.kind == "trained" for record in stops if record.audited)


def test_a_stop_that_was_decided_counts_before_others_are_judged(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in flight: one killed with its end decided and not written, the other judged first when the run goes on."""
    monkeypatch.setattr("nas.search.stopping.AUDIT", 4)
    search = Search(tmp_path / "run", tiny_space)
    storage = optuna.storages._cached_storage._CachedStorage
    write = storage.set_trial_user_attr

    def dies(self: Any, trial_id: int, key: str, value: Any) -> None:
        if key == "kind" and value == "pruned":
            raise Cut
        write(self, trial_id, key, value)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(storage, "set_trial_user_attr", dies)
        search.go(StubEvaluator(), 30, pruner="halving", engine=TwoSlots)
    found = judged(search.go(StubEvaluator(), 30, pruner="halving", engine=TwoSlots))
    stops = [record for record in found if record.kind == "pruned" or record.audited]
    assert sum(bool(record.audited) for record in stops) == (len(stops) + 2) // 4
    assert PHASES == 2
