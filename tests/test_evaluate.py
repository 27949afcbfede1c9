from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas import evaluate
from nas.cost import Measurement, count
from nas.cost.latency import LIMIT
from nas.cost.step_time import FULL, Protocol
from nas.data import Dataset
from nas.errors import DataError, UsageError
from nas.evaluate import Evaluator, Setup
from nas.lane import lane
from nas.space import Limit, format_count
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive

CPU = torch.device("cpu")
RECIPE = replace(RECIPES["quick"], batch_size=16, epochs=1, progressive=Progressive(2, (0.5, 1)))


def evaluator(spec: ArchSpec, data: Dataset, *limits: Limit, **settings: Any) -> Evaluator:
    return Evaluator(data, RECIPE, CPU, baseline=spec, limits=limits, **settings)


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "step_times", lambda *_: pytest.fail("timed"))


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> list[Protocol]:
    """Steps of 3 ms and 2 ms, without measuring."""
    asked: list[Protocol] = []

    def fake(steps: list[Any], device: torch.device, protocol: Protocol) -> tuple[Measurement, ...]:
        asked.append(protocol)
        return tuple(Measurement(value, "ms", 0.1, 5, str(device)) for value in (3.0, 2.0)[: len(steps)])

    monkeypatch.setattr(evaluate, "step_times", fake)
    return asked


def test_phase_zero_counts_and_times(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    result = evaluator(tiny_spec, tiny_data).run_phase(tiny_spec, 0, None, seed=0)
    assert (result.phase, result.outcome, result.reason, result.training, result.state) == (0, "ok", "", None, None)
    counted = count(tiny_spec)
    assert set(result.measurements) == {"num_params", "macs", "step_time_ms", "ref_step_time_ms"}
    assert result.measurements["num_params"].value == counted.params
    assert result.measurements["macs"].value == counted.macs
    step = result.measurements["step_time_ms"]
    assert step.unit == "ms" and step.n >= 3 and step.device == "cpu" and 0 < step.value < 1000
    # The network is its own baseline here; both are timed in alternation.
    assert 0.3 < step.value / result.measurements["ref_step_time_ms"].value < 3


def test_a_broken_count_limit_ends_before_any_timing(tiny_spec: ArchSpec, tiny_data: Dataset, no_timing: None) -> None:
    params = count(tiny_spec).params
    limited = evaluator(tiny_spec, tiny_data, Limit("num_params", max=params / 2), Limit("macs", min=1))
    result = limited.run_phase(tiny_spec, 0, None, seed=0)
    assert result.outcome == "infeasible"
    assert result.slacks["num_params.max"] == pytest.approx(1)
    assert result.slacks["macs.min"] < 0
    value, limit = format_count(params), format_count(params / 2)
    assert result.reason == f"num_params {value}, the limit of {limit} exceeded by 100.0%"
    assert "step_time_ms" not in result.measurements


def test_a_broken_time_limit_ends_after_the_timing(
    tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol]
) -> None:
    limited = evaluator(tiny_spec, tiny_data, Limit("step_time_ms", max=2), Limit("num_params", max=1e9))
    result = limited.run_phase(tiny_spec, 0, None, seed=0)
    assert result.outcome == "infeasible"
    assert result.slacks["step_time_ms.max"] == pytest.approx(0.5)
    assert result.measurements["step_time_ms"].value == 3
    assert len(quick_timing) == 1


def test_a_limit_that_is_kept_is_no_obstacle(
    tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol]
) -> None:
    limited = evaluator(tiny_spec, tiny_data, Limit("step_time_ms", max=3))
    result = limited.run_phase(tiny_spec, 0, None, seed=0)
    assert (result.outcome, result.slacks) == ("ok", {"step_time_ms.max": 0})


def test_a_weaker_exponent_needs_less_exact_times(
    tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol]
) -> None:
    for w in (-0.07, -0.14, 0.0):
        evaluator(tiny_spec, tiny_data, w=w).run_phase(tiny_spec, 0, None, seed=0)
    normal, strict, free = (protocol.target for protocol in quick_timing)
    assert strict <= normal <= free == 0.1


def test_a_latency_is_measured_where_a_limit_asks_for_it(
    tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Protocol] = []
    sizes: list[int] = []
    original = evaluate.inference

    def inference(spec: ArchSpec, device: torch.device, batch_size: int) -> Any:
        sizes.append(len(original(spec, device, batch_size)()))
        return None

    def latency_ms(step: Any, device: torch.device, protocol: Protocol) -> Measurement:
        asked.append(protocol)
        return Measurement(6.0, "ms", 0.1, 50, str(device))

    monkeypatch.setattr(evaluate, "inference", inference)
    monkeypatch.setattr(evaluate, "latency_ms", latency_ms)
    assert "latency_ms" not in evaluator(tiny_spec, tiny_data).run_phase(tiny_spec, 0, None, seed=0).measurements
    limited = evaluator(tiny_spec, tiny_data, Limit("latency_ms", max=5), latency_batch_size=4)
    result = limited.run_phase(tiny_spec, 0, None, seed=0)
    assert (result.outcome, result.reason) == ("infeasible", "latency_ms 6 ms, the limit of 5 ms exceeded by 20.0%")
    assert result.slacks == {"latency_ms.max": pytest.approx(0.2)}
    assert result.measurements["latency_ms"].n == 50 and sizes == [4]
    kept = evaluator(tiny_spec, tiny_data, Limit("latency_ms", max=7))
    assert kept.run_phase(tiny_spec, 0, None, seed=0, protocol=FULL).outcome == "ok"
    assert asked == [LIMIT, FULL], "finalists are measured by the full protocol"


def test_a_latency_is_a_real_one(tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol]) -> None:
    limited = evaluator(tiny_spec, tiny_data, Limit("latency_ms", max=1e5))
    found = limited.run_phase(tiny_spec, 0, None, seed=0).measurements["latency_ms"]
    assert 0 < found.value < 1000 and found.unit == "ms" and found.n >= 5 and found.spread >= 0
    before = limited.run_phase(tiny_spec, 1, None, seed=3).training
    plain = evaluator(tiny_spec, tiny_data).run_phase(tiny_spec, 1, None, seed=3).training
    assert before and plain and before.train_loss == plain.train_loss, "it leaves the training as it was"


def test_the_phases_train_one_network_at_rising_resolutions(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    mine = evaluator(tiny_spec, tiny_data)
    first = mine.run_phase(tiny_spec, 1, None, seed=3)
    assert first.outcome == "ok" and first.training is not None and first.state is not None
    assert (first.training.steps, first.state.phases_done) == (2, 1)
    second = mine.run_phase(tiny_spec, 2, first.state, seed=3)
    assert second.state is first.state and second.state is not None and second.state.phases_done == 2
    assert second.training is not None and second.seconds > 0
    again = mine.run_phase(tiny_spec, 1, None, seed=3)
    assert again.training is not None and again.training.train_loss == first.training.train_loss


@pytest.mark.parametrize("phase", [0, 1])
def test_a_full_memory_is_an_outcome(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    mine = evaluator(tiny_spec, tiny_data)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "train_step", full)
    result = mine.run_phase(tiny_spec, phase, None, seed=0)
    assert (result.phase, result.outcome) == (phase, "out_of_memory")
    assert result.reason == f"out of memory at batch 16 and {16 if phase == 0 else 8} pixels"


def test_a_full_memory_of_the_host_is_an_outcome_too(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = evaluator(tiny_spec, tiny_data)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(loop, "train_phase", full)
    assert mine.run_phase(tiny_spec, 1, None, seed=0).outcome == "out_of_memory"


@pytest.mark.parametrize("error", [RuntimeError("shape '[3]' is invalid"), ValueError("bad"), AssertionError()])
def test_any_other_exception_is_a_bug_and_is_raised(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    mine = evaluator(tiny_spec, tiny_data)

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train_phase", fails)
    with pytest.raises(type(error)) as raised:
        mine.run_phase(tiny_spec, 1, None, seed=0)
    assert raised.value is error


def test_a_loss_that_is_no_number_is_an_outcome(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    recipe = replace(RECIPE, learning_rate=1e38, epochs=4)
    mine = Evaluator(tiny_data, recipe, CPU, baseline=tiny_spec)
    result = mine.run_phase(tiny_spec, 1, None, seed=0)
    assert (result.outcome, result.training, result.state) == ("diverged", None, None)


def test_a_passed_deadline_is_an_outcome(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    mine = evaluator(tiny_spec, tiny_data, timeout_s=0.0)
    time.sleep(0.01)
    assert mine.run_phase(tiny_spec, 1, None, seed=0).outcome == "timeout"


def test_a_memory_limit_on_a_cpu_is_refused(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    with pytest.raises(
        UsageError, match=r"limit on peak_memory_mib: .*CUDA devices only; this is cpu\. Leave the limit out"
    ):
        evaluator(tiny_spec, tiny_data, Limit("peak_memory_mib", max=100))


def test_a_result_survives_being_written_down(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    mine = evaluator(tiny_spec, tiny_data, Limit("num_params", max=1e9))
    for phase in (0, 1):
        result = replace(mine.run_phase(tiny_spec, phase, None, seed=0), state=None)
        assert evaluate.from_document(json.loads(json.dumps(result.document()))) == result


def test_a_result_from_before_conditions_were_kept_can_be_read(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    result = evaluator(tiny_spec, tiny_data).run_phase(tiny_spec, 0, None, seed=0)
    assert result.measurements["step_time_ms"].conditions is not None
    document = json.loads(json.dumps(result.document()))
    for item in document["measurements"].values():
        del item["conditions"]
    old = evaluate.from_document(document)
    assert old.measurements["step_time_ms"] == replace(result.measurements["step_time_ms"], conditions=None)


def test_a_training_steps_aside_for_a_timing_and_its_limit_does_not_count_that(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Evaluator(tiny_data, replace(RECIPE, epochs=16), CPU, baseline=tiny_spec, timeout_s=60)
    began, waits = threading.Event(), threading.Event()
    timed: list[float] = []

    def time_a_step() -> None:
        began.wait(20)
        with lane("cpu", alone=True, waiting=waits.set):
            timed.append(time.monotonic())
            clock.append(1000.0)  # the timing takes longer than the phase may

    clock = [0.0]
    real = time.monotonic
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: real() + sum(clock))
    original = loop.train_step

    def step(*arguments: Any) -> Any:
        began.set()
        waits.wait(20)
        return original(*arguments)

    monkeypatch.setattr(loop, "train_step", step)
    thread = threading.Thread(target=time_a_step)
    thread.start()
    result = mine.run_phase(tiny_spec, 1, None, seed=0)
    thread.join(20)
    assert timed and result.outcome == "ok"


def test_an_evaluator_refuses_images_that_are_not_the_runs(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    setup = Setup("photos", 16, False, "other", RECIPE, tiny_spec, (), -0.07, None)
    with pytest.raises(
        DataError, match="photos: found images of fingerprint 0000000000000000; the search began with other"
    ):
        setup.evaluator(CPU, tiny_data)


def test_timing_holds_the_lane_alone_and_training_shares_it(
    tiny_spec: ArchSpec, tiny_data: Dataset, quick_timing: list[Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    original = evaluate.lane

    def spy(device: str, *, alone: bool, waiting: Any = None) -> Any:
        held.append(alone)
        return original(device, alone=alone)

    mine = evaluator(tiny_spec, tiny_data)
    monkeypatch.setattr(evaluate, "lane", spy)
    mine.run_phase(tiny_spec, 0, None, seed=0)
    mine.run_phase(tiny_spec, 1, None, seed=0)
    assert held == [True, False]
