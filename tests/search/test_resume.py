"""A run may be killed at any instant; continued, it has trained each network once, and exactly as many as asked for."""

from __future__ import annotations

import errno
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from stubs import PHASES, Search, StubEvaluator, TwoSlots, failed, kinds

from nas.engine import InlineEngine, Job
from nas.errors import RunError
from nas.evaluate import PhaseResult
from nas.search.loop import DECIDED
from nas.search.study import open_study, records, running
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
    in_flight = first.starts[-1]
    before = {record.number: record for record in records(search.study)}
    found = search.go(second, BUDGET)
    trained = first.trained() + second.trained()
    assert len(trained) == len(set(trained)) == BUDGET
    assert sorted(record.arch_hash for record in kinds(found, "trained")) == sorted(trained)
    assert second.starts[0] == in_flight, "it goes on with the phase that was in flight"
    assert len(first.log + second.log) == len(set(first.log + second.log)), "no phase was run to its end twice"
    assert {number: record for record in found if (number := record.number) in before} == before
    states = Counter(trial.state for trial in search.study.trials)
    assert states[TrialState.FAIL] == states[TrialState.RUNNING] == states[TrialState.WAITING] == 0


def test_a_continued_trial_has_the_record_of_one_that_was_never_interrupted(
    tmp_path: Path, tiny_space: SearchSpace
) -> None:
    whole = Search(tmp_path / "whole", tiny_space).go(StubEvaluator(), 3)
    cut = Search(tmp_path / "cut", tiny_space)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cut.go(killed_at(StubEvaluator(), 2), 3)
    assert cut.go(StubEvaluator(), 3)[0] == whole[0]


@pytest.mark.parametrize("slots", [1, 2])
def test_checkpoints_of_ended_trials_are_deleted_but_for_the_best(search: Search, slots: int) -> None:
    first = killed_at(StubEvaluator(), 14)
    engine = TwoSlots if slots == 2 else InlineEngine
    with pytest.raises(KeyboardInterrupt):
        search.go(first, 8, engine=engine)
    found = records(search.study)
    running = [trial for trial in search.study.trials if trial.state == TrialState.RUNNING]
    kept = {path.stem for path in search.checkpoints.iterdir()}
    trained = sorted(kinds(found, "trained"), key=lambda record: -(record.reward or 0))
    assert {f"{record.arch_hash}-s0" for record in trained[:2]} <= kept
    assert len(kept) <= 2 + len(running) and len(running) <= slots
    found = search.go(StubEvaluator(), 8, engine=engine)
    trained = sorted(kinds(found, "trained"), key=lambda record: -(record.reward or 0))
    assert {path.stem for path in search.checkpoints.iterdir()} == {f"{record.arch_hash}-s0" for record in trained[:2]}


def test_a_worker_that_died_after_its_checkpoint_does_not_run_the_phase_again(search: Search) -> None:
    evaluator = StubEvaluator()

    class Dying(InlineEngine):
        """Killed between a phase's checkpoint and the word of it."""

        def next(self) -> tuple[Job, PhaseResult]:
            result = super().next()
            if len(evaluator.starts) == 2:
                raise KeyboardInterrupt
            return result

    with pytest.raises(KeyboardInterrupt):
        search.go(evaluator, 1, engine=Dying)
    second = StubEvaluator()
    search.go(second, 1)
    assert [phase for _, phase in evaluator.log] == [0, 1] and [phase for _, phase in second.log] == [2]


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
    assert not set(first.log) & set(second.log), (
        "no phase is run twice, not even of the trial whose storing was cut off"
    )
    assert not [trial for trial in search.study.trials if not trial.state.is_finished()]


def test_a_continued_sampler_does_not_begin_again(search: Search, tmp_path: Path, tiny_space: SearchSpace) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.go(killed_at(StubEvaluator(), 13), 12)
    before = len(search.study.trials)
    search.go(StubEvaluator(), 12)
    first = [trial.params for trial in search.study.trials[:4]]
    after = [trial.params for trial in search.study.trials if trial.number >= before]
    assert after
    assert all(params not in first for params in after[1:])


def test_a_budget_can_be_raised(search: Search) -> None:
    first, second = StubEvaluator(), StubEvaluator()
    search.go(first, 3)
    found = search.go(second, 7)
    assert len(first.trained()) == 3 and len(second.trained()) == 4
    assert len({record.arch_hash for record in kinds(found, "trained")}) == 7
    assert first.log[: 3 * (PHASES + 1)] == first.log


def test_a_trial_that_was_cut_off_while_it_was_asked_for_is_only_closed(tmp_path: Path) -> None:
    study = open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    study.ask({"a": optuna.distributions.IntDistribution(0, 3)})
    assert running(study, ["a", "b"]) == []
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]
    assert running(study, ["a", "b"]) == [] and records(study) == []


def test_a_users_network_that_was_cut_off_while_it_was_asked_for_is_queued_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    study.enqueue_trial({"a": 2, "b": 1}, user_attrs={"enqueued": "mine.yaml"})
    whole = optuna.distributions.IntDistribution(0, 3)
    study.ask({"a": whole})
    assert running(study, ["a", "b"]) == []
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    trial = study.ask({"a": whole, "b": whole})
    assert trial.params == {"a": 2, "b": 1} and trial.user_attrs == {"enqueued": "mine.yaml"}


class Cut(BaseException):
    """The process is killed."""


def cut_while_storing(patch: pytest.MonkeyPatch, writes: int) -> None:
    """Die at the n-th write that belongs to a trial's end."""
    storage = optuna.storages._cached_storage._CachedStorage
    left, begun = [writes], [False]
    for name in ("set_trial_system_attr", "set_trial_user_attr", "set_trial_state_values"):
        original = getattr(storage, name)

        def dying(self, trial_id, *arguments, original=original, **named):  # type: ignore[no-untyped-def]
            begun[0] = begun[0] or arguments[0] == DECIDED
            if begun[0]:
                left[0] -= 1
                if left[0] < 0:
                    raise Cut
            return original(self, trial_id, *arguments, **named)

        patch.setattr(storage, name, dying)


@pytest.mark.parametrize("writes", [1, 4, 9, *slow(2, 3, 6, 12, 16, 20, 21)])
def test_an_end_that_was_decided_stays_whatever_would_happen_in_a_second_try(
    search: Search, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    def fails(job: Job) -> PhaseResult | None:
        return failed(job, "timeout") if job.phase == 2 else None

    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_while_storing(patch, writes)
        search.go(StubEvaluator(fails), 1)
    second = StubEvaluator()
    found = search.go(second, 1)
    (record,) = kinds(found, "timeout")
    assert record.reason == "it was timeout" and record.arch_hash not in {arch for arch, _ in second.starts}
    assert records(search.study) == found
    trial = search.study.trials[record.number]
    assert trial.constraints == {"failed": 1.0} and trial.user_attrs["feasible"] == "no"


@pytest.mark.parametrize("writes", [1, 3, *slow(0, 2, 10, 17, 22)])
def test_other_trials_in_flight_keep_their_checkpoints_when_one_ends_at_once(
    search: Search, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    first, second = StubEvaluator(), StubEvaluator()
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_while_storing(patch, writes)
        search.go(first, 4, engine=TwoSlots)
    search.go(second, 4, engine=TwoSlots)
    assert len(first.log + second.log) == len(set(first.log + second.log)), "no phase was run to its end twice"


def test_with_fewer_workers_trials_in_flight_are_continued_one_after_the_other(search: Search) -> None:
    """Not in turns: each would be held in memory, where there may be room for one."""
    with pytest.raises(KeyboardInterrupt):
        search.go(killed_at(StubEvaluator(), 5), 4, engine=TwoSlots)
    assert [trial.state for trial in search.study.trials].count(TrialState.RUNNING) == 2
    second = StubEvaluator()
    search.go(second, 4)
    order = [arch for arch, _ in second.starts]
    assert [arch for place, arch in enumerate(order) if place == 0 or order[place - 1] != arch] == list(
        dict.fromkeys(order)
    )


def test_a_damaged_checkpoint_is_named(search: Search) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.go(killed_at(StubEvaluator(), 3), 1)
    (path,) = search.checkpoints.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=rf"{path.name}: cannot be read as a checkpoint .*Delete it"):
        search.go(StubEvaluator(), 1)
    path.unlink()
    again = StubEvaluator()
    assert len(kinds(search.go(again, 1), "trained")) == 1
    assert [phase for _, phase in again.log] == [0, 1, 2]


@pytest.mark.parametrize("room", [0, 500, 1400])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written_is_named(
    search: Search, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """At any byte, also within the part that torch writes."""
    real = os.fdopen

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() + len(content) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda descriptor, mode: os.close(descriptor) or Full())
        with pytest.raises(
            RunError, match=r"checkpoints/.*\.pt: cannot be written \(No space left on device\).*--resume"
        ):
            search.go(StubEvaluator(), 1)
    assert os.fdopen is real and not list(search.folder.rglob("*.tmp"))
    assert len(kinds(search.go(StubEvaluator(), 1), "trained")) == 1
