"""What every engine must do. With a deterministic stub in place of the evaluator, all give the same study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nas.engine import Engine, InlineEngine, Job, PhaseBug
from nas.evaluate import PhaseResult
from nas.spec import ArchSpec
from nas.train.loop import PhaseTraining


class Stub:
    """An evaluator whose state is the list of phases a trial has been through."""

    def __init__(self) -> None:
        self.fail: Exception | KeyboardInterrupt | None = None

    def run_phase(self, spec: ArchSpec, phase: int, state: Any, *, seed: int) -> PhaseResult:
        if self.fail is not None:
            raise self.fail
        if phase == 0:
            return PhaseResult(0, "ok", 0.5)
        past = [*(state or []), phase]
        training = PhaseTraining(1 / phase, 0.1 * phase + 0.01 * len(past), 0.01, seed, 1.0, 0.1)
        return PhaseResult(phase, "ok", 1.0, training=training, state=past)  # type: ignore[arg-type]


ENGINES: dict[str, Callable[[Any], Engine]] = {"inline": InlineEngine}


@pytest.fixture(params=sorted(ENGINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(engine: Engine, *jobs: Job) -> list[tuple[Job, PhaseResult]]:
    found = []
    for job in jobs:
        engine.submit(job)
        found.append(engine.next())
    return found


def test_a_result_comes_back_with_its_job_and_without_the_state(name: str, tiny_spec: ArchSpec) -> None:
    engine = ENGINES[name](Stub())
    job = Job(4, tiny_spec, 1, 7)
    ((back, result),) = run(engine, job)
    assert back == job
    assert result.training is not None and result.training.steps == 7
    assert result.state is None
    engine.close()


def test_a_trial_keeps_its_state_from_phase_to_phase(name: str, tiny_spec: ArchSpec) -> None:
    engine = ENGINES[name](Stub())
    results = run(engine, *(Job(1, tiny_spec, phase, 0) for phase in range(4)))
    shown = [result.training.val_accuracy for _, result in results if result.training is not None]
    assert shown == pytest.approx([0.11, 0.22, 0.33])
    engine.close()


def test_trials_do_not_share_their_state(name: str, tiny_spec: ArchSpec) -> None:
    engine = ENGINES[name](Stub())
    jobs = [Job(trial, tiny_spec, phase, 0) for phase in (1, 2) for trial in (1, 2)]
    results = {(job.trial, job.phase): result.training for job, result in run(engine, *jobs)}
    assert results[1, 2] == results[2, 2]
    assert results[2, 2] is not None and results[2, 2].val_accuracy == pytest.approx(0.22)
    engine.close()


def test_a_dropped_trial_is_forgotten(name: str, tiny_spec: ArchSpec) -> None:
    engine = ENGINES[name](Stub())
    run(engine, Job(1, tiny_spec, 1, 0))
    engine.drop(1)
    engine.drop(99)
    ((_, result),) = run(engine, Job(1, tiny_spec, 2, 0))
    assert result.training is not None and result.training.val_accuracy == pytest.approx(0.21)
    engine.close()


def test_a_bug_is_raised_with_its_job_and_its_cause(name: str, tiny_spec: ArchSpec) -> None:
    stub = Stub()
    engine = ENGINES[name](stub)
    stub.fail = ZeroDivisionError("boom")
    job = Job(3, tiny_spec, 2, 0)
    engine.submit(job)
    with pytest.raises(PhaseBug, match="trial 3, phase 2") as raised:
        engine.next()
    assert raised.value.job == job
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    engine.close()


def test_ctrl_c_is_no_bug(name: str, tiny_spec: ArchSpec) -> None:
    stub = Stub()
    engine = ENGINES[name](stub)
    stub.fail = KeyboardInterrupt()
    engine.submit(Job(3, tiny_spec, 2, 0))
    with pytest.raises(KeyboardInterrupt):
        engine.next()
    engine.close()


def test_a_second_result_waits_its_turn(name: str, tiny_spec: ArchSpec) -> None:
    engine = ENGINES[name](Stub())
    jobs = [Job(trial, tiny_spec, 1, trial) for trial in (1, 2)]
    for job in jobs:
        engine.submit(job)
    assert sorted(engine.next()[0].trial for _ in jobs) == [1, 2]
    engine.close()


def test_slots_are_a_positive_number(name: str) -> None:
    assert ENGINES[name](Stub()).slots >= 1
