"""Latencies with a clock of our own where numbers are asked for, and with real backends where outputs are."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas.cost import Conditions, latency
from nas.cost._conditions import Seen
from nas.cost.latency import BACKENDS, CPU, LIMIT, Latency, inference, latencies, latency_ms
from nas.cost.step_time import Protocol, Samples
from nas.errors import MeasurementError
from nas.spec import ArchSpec, scaled

FEW = Protocol(warmup_steps=1, settle=0.0, min_blocks=3, max_blocks=3, at_cap=1, block_s=0.0, target=0.0, cap_s=9.0)


class Clock:
    """A clock that only inferences move, and a log of which was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.taken: list[str] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("nas.cost.step_time.watch_of", lambda device: Seen)

    def backend(self, durations: dict[str, Iterable[float]]) -> Any:
        """Eager's scores, and for each network (by its hash) inferences of our own duration in ms."""
        times: dict[str, Iterator[float]] = {name: iter(values) for name, values in durations.items()}

        def prepare(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> latency.Runner:
            bind = latency._eager(spec, place, dtype)

            def run(images: torch.Tensor) -> latency.Inference:
                scores = bind(images)()

                def step() -> torch.Tensor:
                    self.taken.append(spec.arch_hash)
                    self.now += next(times[spec.arch_hash]) / 1e3
                    return scores

                return step

            return run

        return prepare


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_samples_are_single_inferences(tiny_spec: ArchSpec, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = [*range(1, 20), 500.0]  # of twenty the 95th percentile is the nineteenth, and the slowest is beyond it
    monkeypatch.setitem(BACKENDS, "stub", clock.backend({tiny_spec.arch_hash: [9, 9, *timed]}))
    protocol = replace(FEW, min_blocks=20, max_blocks=20)
    (row,) = latencies({"mine": tiny_spec}, CPU, backends=["stub"], batch_sizes=[4], protocol=protocol)
    assert row.measured is not None
    assert (row.measured.value, row.p95_ms, row.measured.n) == (pytest.approx(10.5), pytest.approx(19), 20)
    assert row.measured.spread == pytest.approx(5) and row.measured.unit == "ms"
    assert (row.name, row.backend, row.device, row.dtype, row.batch_size, row.resolution) == (
        "mine", "stub", "cpu", "float32", 4, 16,
    )  # fmt: skip
    assert row.difference == 0 and row.problem == "" and row.threads == torch.get_num_threads()
    document = row.document()
    assert (document["latency_ms"], document["n"], document["arch_hash"]) == (
        row.measured.value,
        20,
        tiny_spec.arch_hash,
    )
    assert not any(isinstance(value, dict) for value in document.values())


def test_short_inferences_are_taken_in_blocks_and_kept_one_by_one(clock: Clock) -> None:
    durations = itertools.cycle([2.0, 4.0])

    def step() -> None:
        clock.now += next(durations) / 1e3

    found = latency_ms(step, CPU, replace(FEW, warmup_steps=2, block_s=0.02, max_blocks=3))
    assert found.n == 3 * 10 and found.value == pytest.approx(3) and found.spread == pytest.approx(1)


def test_blocks_of_several_networks_alternate(
    tiny_spec: ArchSpec, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scaled(tiny_spec, width=2)
    drift = [1 + 0.1 * n for n in range(20)]
    durations = {tiny_spec.arch_hash: [10 * d for d in drift], other.arch_hash: [20 * d for d in drift]}
    monkeypatch.setitem(BACKENDS, "stub", clock.backend(durations))
    first, second = latencies({"a": tiny_spec, "b": other}, CPU, backends=["stub"], protocol=FEW)
    a, b = tiny_spec.arch_hash, other.arch_hash
    assert clock.taken == [a, b, a, b, a, b, a, b, a, b], "a check and a warm-up of each, then blocks in turns"
    assert first.measured and second.measured
    assert second.measured.value / first.measured.value == pytest.approx(2)


def test_it_is_prepared_beside_others_and_timed_alone(
    tiny_spec: ArchSpec, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[bool | str] = []

    @contextmanager
    def spy(device: str, *, alone: bool, waiting: Any = None) -> Iterator[None]:
        assert device == "cpu"
        log.append(alone)
        clock.taken.clear()
        yield
        log.append(f"{len(clock.taken)} taken")

    monkeypatch.setattr(latency, "lane", spy)
    monkeypatch.setitem(BACKENDS, "stub", clock.backend({tiny_spec.arch_hash: itertools.repeat(1.0)}))
    latencies({"a": tiny_spec}, CPU, backends=["stub"], protocol=FEW)
    assert log == [False, "0 taken", False, "1 taken", True, "4 taken"]


def test_threads_hold_for_the_measurement_only(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    once = Samples(([1.0],), (1,), Conditions())
    monkeypatch.setattr(latency, "samples", lambda steps, *_: seen.append(torch.get_num_threads()) or once)
    before = torch.get_num_threads()
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["eager"], threads=2)
    assert seen == [2] and row.threads == 2 and torch.get_num_threads() == before


def test_eager_and_onnxruntime_compute_the_same(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.cost.step_time.watch_of", lambda device: Seen)
    rows = latencies({"a": tiny_spec}, CPU, backends=["eager", "onnxruntime"], batch_sizes=[1, 3], protocol=FEW)
    assert [(row.backend, row.batch_size) for row in rows] == [
        ("eager", 1), ("eager", 3), ("onnxruntime", 1), ("onnxruntime", 3),
    ]  # fmt: skip
    for row in rows:
        assert row.problem == "" and row.measured is not None and row.measured.n == 3
        assert 0 < row.measured.value < 1000 and row.p95_ms is not None and row.p95_ms >= row.measured.value
    assert [row.difference for row in rows[:2]] == [None, None]
    assert all(row.difference is not None and row.difference < 1e-4 for row in rows[2:])


@pytest.mark.slow
def test_compiled_networks_compute_the_same_however_many_there_are(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch compiles one function eight times, and then runs it eagerly or fails; all networks share theirs."""
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["compile"], protocol=FEW)
    assert row.problem == "" and row.measured is not None
    assert row.difference is not None and row.difference < 1e-4
    quick = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **named: quick(network, backend="eager", **named))
    rows = latencies({"a": tiny_spec}, CPU, backends=["compile"], batch_sizes=range(1, 12), protocol=FEW)
    assert [row.problem for row in rows] == [""] * 11


def altered(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> latency.Runner:
    bind = latency._eager(spec, place, dtype)
    return lambda images: lambda: bind(images)() * 1.01


def test_a_backend_that_computes_something_else_is_not_timed(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "altered", altered)
    wrong, right = latencies({"a": tiny_spec}, CPU, backends=["altered", "eager"], protocol=FEW)
    assert wrong.measured is None and wrong.p95_ms is None and wrong.document()["latency_ms"] is None
    assert "its scores differ from eager's by 0.01 (relative error; allowed: 0.001)" in wrong.problem
    assert right.measured is not None


def test_scores_that_are_no_numbers_are_not_equal(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "nan", lambda *_: lambda images: lambda: torch.full((1, 3), torch.nan))
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["nan"], protocol=FEW)
    assert row.measured is None and "differ from eager's by nan" in row.problem


def test_rounding_to_bfloat16_is_no_difference(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_dtype", lambda device: torch.bfloat16)
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["eager"], protocol=FEW)
    assert row.dtype == "bfloat16" and row.problem == ""
    assert row.difference is not None and 1e-4 < row.difference < 0.5


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_packages_a_backend_says_what_to_install_and_the_others_go_on(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    missing, eager = latencies({"a": tiny_spec}, CPU, backends=["onnxruntime", "eager"], protocol=FEW)
    assert missing.measured is None
    assert missing.problem == f"onnx: {absent} is not installed. Run: pip install 'phinas[onnx]'"
    assert eager.measured is not None


def test_without_a_compiler_a_backend_says_so(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "CXX", "no-such-compiler")
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["compile"], batch_sizes=[2], protocol=FEW)
    assert row.measured is None and row.batch_size == 2
    assert "needs a C++ compiler, and no-such-compiler is not installed. Install g++" in row.problem


def test_a_compilation_that_fails_is_a_reason(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import Unsupported

    def fails(network: Any, **_: Any) -> Any:
        def run(images: torch.Tensor) -> torch.Tensor:
            raise Unsupported("call to unknown\nfrom user code", "gb1234")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["compile"], protocol=FEW)
    assert row.measured is None and row.problem.startswith("torch.compile failed: call to unknown (On CUDA it needs")


def raising(error: Exception) -> Any:
    def step() -> torch.Tensor:
        raise error

    return lambda spec, place, dtype: lambda images: step


def test_a_full_memory_is_a_reason_and_any_other_exception_a_bug(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "full", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")))
    (row,) = latencies({"a": tiny_spec}, CPU, backends=["full"], batch_sizes=[64], protocol=FEW)
    assert row.problem == "out of memory at batch 64 and 16 pixels on cpu. Lower --batch-size or --resolution."
    monkeypatch.setitem(BACKENDS, "bug", raising(RuntimeError("shape '[3]' is invalid")))
    with pytest.raises(RuntimeError, match="shape"):
        latencies({"a": tiny_spec}, CPU, backends=["bug"], protocol=FEW)


def test_a_clock_that_stands_still_is_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    with pytest.raises(MeasurementError, match=r"measured 0\.0 ms on cpu"):
        latency_ms(lambda: None, CPU)


def test_an_inference_runs_the_network_as_it_is_evaluated(tiny_spec: ArchSpec) -> None:
    step = inference(replace(tiny_spec, dropout=0.9, drop_path=0.9), CPU, 5)
    scores = step()
    assert scores.shape == (5, 3) and scores.is_inference()
    assert torch.equal(scores, step()), "no dropout, no drop path"


def test_the_short_protocol_is_shorter() -> None:
    assert LIMIT.cap_s < latency.TABLE.cap_s and LIMIT.min_blocks < latency.TABLE.min_blocks
    assert Latency("a", "b", "eager", "cpu", "float32", 1, 1, 16).document()["latency_ms"] is None
