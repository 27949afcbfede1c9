"""What disturbs a timing: seen by stubs, rejected and repeated within bounds, and told."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import Conditions, Measurement, _conditions, from_document, step_time
from nas.cost._conditions import FOREIGN, Seen, conditions, disturbed, told, watch
from nas.cost.step_time import Protocol, Samples, samples, step_times

CPU = torch.device("cpu")
FIVE = Protocol(warmup_steps=0, settle=0.0, min_blocks=5, max_blocks=40, at_cap=3, block_s=0.0, target=9.0, cap_s=9.0)
CORES = os.cpu_count() or 1
QUIET, BUSY = Seen(foreign_load=0.0), Seen(foreign_load=0.9 * CORES)


def sampled(seen: Iterable[Seen], protocol: Protocol = FIVE) -> Samples:
    """Sample one network whose n-th step takes n ms, under given sights."""
    sights, numbers = iter(seen), itertools.count(1)
    return samples([lambda: None], CPU, protocol, lambda *_: [float(next(numbers))], watch=lambda: next(sights))


def test_turns_in_which_others_ran_are_repeated() -> None:
    found = sampled([QUIET, BUSY, QUIET, BUSY, QUIET, QUIET, QUIET])
    assert found.times == ([1, 3, 5, 6, 7],)
    assert (found.counts, found.conditions.turns, found.conditions.rejected) == ((5,), 7, 2)
    assert found.conditions.note == "" and found.conditions.foreign_load == 0


def test_a_machine_that_is_always_busy_is_not_waited_for_and_the_measurement_says_so() -> None:
    found = sampled(itertools.repeat(BUSY))
    assert found.times == ([1, 2, 3, 4, 5],), "no more turns than on a quiet machine"
    assert (found.conditions.rejected, found.conditions.note) == (0, "measured on a busy machine")
    assert found.conditions.foreign_load == pytest.approx(0.9 * CORES, abs=1e-3)


def test_repeating_is_bounded() -> None:
    found = sampled([QUIET, BUSY] * 20)  # the ninth turn is the fifth quiet one, before the fifth busy one
    assert found.times == ([1, 3, 5, 7, 9],) and found.conditions.rejected == 4
    found = sampled([BUSY, QUIET] * 20)
    assert len(found.times[0]) == 9 and found.conditions.note and found.conditions.rejected == 0


def test_turns_off_the_median_clock_are_repeated() -> None:
    clocks = [1980, 1980, 1700, 1975, 1990, 2060, 1980]
    found = sampled(Seen(clock_mhz=clock, power_w=600.0, temperature_c=60.0, throttle=0) for clock in clocks)
    assert found.times == ([1, 2, 4, 5, 7],)
    assert (found.conditions.clock_mhz, found.conditions.power_w, found.conditions.throttled) == (1980, 600, 0)
    changing = sampled(Seen(clock_mhz=clock) for clock in itertools.cycle([1000.0, 1500.0, 2000.0]))
    assert changing.conditions.note == "measured while the GPU's clock changed"


def test_what_is_a_disturbance() -> None:
    most = FOREIGN * CORES
    assert disturbed([Seen(foreign_load=most * 0.99), Seen(foreign_load=most * 1.01), Seen()]) == [False, True, False]
    assert disturbed([Seen(clock_mhz=clock) for clock in (1000, 1029, 1031, 971, 969, 1000, 1000)]) == [
        False, False, True, False, True, False, False,
    ]  # fmt: skip


def test_throttling_is_told_and_idling_is_none() -> None:
    found = conditions([Seen(throttle=bits) for bits in (0x1, 0x4, 0x2, 0x24)], rejected=0, kept=0)
    assert (found.throttled, found.throttle) == (0.5, 0x24)
    nothing = conditions([Seen(absent="no GPU clocks: x")], rejected=0, kept=0)
    assert (nothing.throttled, nothing.throttle, nothing.remarks) == (None, None, "no GPU clocks: x")


# --- the estimator ----------------------------------------------------------------------------------------


class Machine:
    """A machine whose speed follows a list of factors, one for each turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, factors: list[float]) -> None:
        self.now, self.factors, self.taken = 0.0, factors, 0
        for name in ("perf_counter", "process_time"):
            monkeypatch.setattr(f"time.{name}", lambda: self.now)

    def step(self, milliseconds: float) -> Callable[[], None]:
        def step() -> None:
            self.now += milliseconds * self.factors[self.taken // 2] / 1e3
            self.taken += 1

        return step


@settings(deadline=None)
@given(st.lists(st.floats(0.25, 4.0), min_size=5, max_size=25), st.floats(0.2, 5.0))
def test_the_ratio_holds_whatever_the_machines_speed_does_from_turn_to_turn(factors: list[float], ratio: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch, factors)
        protocol = replace(FIVE, target=0.0, max_blocks=len(factors), cap_s=1e9)
        own, other = step_times([machine.step(10 * ratio), machine.step(10)], CPU, protocol, watch=Seen)
    assert own.value / other.value == pytest.approx(ratio)
    assert own.spread == pytest.approx(0, abs=1e-6)
    assert other.value == pytest.approx(10 * statistics.median(factors))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=9, max_size=9), st.sets(st.integers(0, 8), max_size=4))
def test_fewer_than_half_of_the_turns_cannot_carry_the_ratio_away(odd: list[float], places: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = [0.0]
        for name in ("perf_counter", "process_time"):
            patch.setattr(f"time.{name}", lambda: now[0])
        turn = itertools.count()

        def own() -> None:
            number = next(turn)
            now[0] += 0.02 * (odd[number] if number in places else 1)

        def other() -> None:
            now[0] += 0.01

        protocol = replace(FIVE, target=0.0, max_blocks=9, cap_s=1e9)
        first, second = step_times([own, other], CPU, protocol, watch=Seen)
    assert first.value / second.value == pytest.approx(2)


def test_on_one_thread_the_time_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, ran = [0.0], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: wall[0])
    monkeypatch.setattr("time.process_time", lambda: ran[0])

    def step() -> None:
        wall[0] += 0.03  # it waited for a core, two thirds of the time
        ran[0] += 0.01

    for threads, expected in ((1, 10), (2, 30)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        (found,) = step_times([step], CPU, FIVE, watch=Seen)
        assert found.value == pytest.approx(expected)


# --- watches ----------------------------------------------------------------------------------------------


class Kernel:
    """The counters of a machine and the clocks of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.file, self.wall, self.own, self.busy = folder / "stat", 0.0, 0.0, 1000.0
        monkeypatch.setattr(_conditions, "STAT", self.file)
        monkeypatch.setattr("time.perf_counter", lambda: self.wall)
        monkeypatch.setattr("time.process_time", lambda: self.own)
        self.pass_by(0, 0, 0)

    def pass_by(self, wall: float, own: float, foreign: float) -> None:
        self.wall += wall
        self.own += own
        self.busy += own + foreign
        ticks = round(self.busy * os.sysconf("SC_CLK_TCK"))
        # user nice system idle iowait irq softirq steal guest guest_nice
        self.file.write_text(f"cpu  {ticks - 60} 10 20 99999 500 5 5 20 40 0\ncpu0 1 2 3\n")


def test_the_foreign_load_is_what_this_process_did_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = Kernel(monkeypatch, tmp_path)
    look = watch(CPU)
    kernel.pass_by(wall=2.0, own=1.9, foreign=0.0)
    assert look() == Seen(foreign_load=0.0)
    kernel.pass_by(wall=2.0, own=1.0, foreign=1.5)
    seen = look()
    assert seen is not None and seen.foreign_load == pytest.approx(0.75, abs=0.02)
    kernel.pass_by(wall=0.01, own=0.0, foreign=0.01)
    assert look() is None, "a turn shorter than the kernel can tell"
    kernel.pass_by(wall=0.99, own=0.0, foreign=0.99)
    seen = look()
    assert seen is not None and seen.foreign_load == pytest.approx(1.0, abs=0.02), "told together with the next"


def test_turns_too_short_to_tell_have_what_is_told_with_a_later_one() -> None:
    busy, quiet = Seen(foreign_load=1.9), Seen(foreign_load=0.0)
    assert told([None, None, busy, None, quiet]) == [busy, busy, busy, quiet, quiet]
    assert disturbed(told([None, None, busy])) == [True, True, True]
    late = told([busy, None, None])
    assert late[0] == busy and [item.foreign_load for item in late[1:]] == [None, None]
    assert late[2].absent == "no foreign load: the turns were too short to tell"


def test_a_machine_that_is_busy_in_short_turns_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Turns of 20 ms, of which the kernel tells every third: all are disturbed, so all count, with the note."""
    kernel = Kernel(monkeypatch, tmp_path)

    def step() -> None:
        kernel.pass_by(wall=0.02, own=0.01, foreign=0.03)

    (found,) = step_times([step], CPU, replace(FIVE, min_blocks=6))
    assert found.conditions is not None and found.conditions.note == "measured on a busy machine"


@pytest.mark.parametrize("content", [None, "", "cpu  0 0 0 0 0 0 0 0 0 0\n", "intr 1 2\n"])
def test_a_system_that_does_not_count_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "stat"
    monkeypatch.setattr(_conditions, "STAT", file)
    if content is not None:
        file.write_text(content)
    (found,) = step_times([lambda: sum(range(1000))], CPU, FIVE)
    assert found.conditions is not None and found.conditions.foreign_load is None
    assert found.conditions.remarks == f"no foreign load: {file} does not count on this system"


def nvml(**calls: Any) -> SimpleNamespace:
    """NVML with one device, `GPU-1234`."""

    class NVMLError(Exception): ...

    def by_uuid(uuid: str) -> str:
        if uuid != "GPU-1234":
            raise NVMLError("Not Found")
        return "handle"

    def refuse(*_: Any) -> float:
        raise NVMLError("Not Supported")

    known: dict[str, Any] = {
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetPowerUsage": lambda handle: 612_500,
        "nvmlDeviceGetTemperature": lambda handle, kind: 61,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 4,
    }
    known |= {name: refuse if value is None else value for name, value in calls.items()}
    return SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=by_uuid, **known,
    )  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    yield torch.device("cuda", 0)


def test_a_gpu_tells_clock_power_heat_and_throttling(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert watch(gpu)() == Seen(clock_mhz=1980, power_w=612.5, temperature_c=61, throttle=4)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetPowerUsage=None))
    assert watch(gpu)() == Seen(clock_mhz=1980, temperature_c=61, throttle=4), "what a device does not tell is absent"


def test_a_gpu_without_clocks_says_why(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert watch(gpu)().absent == "no GPU clocks: nvidia-ml-py is not installed (pip install nvidia-ml-py)"
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetClockInfo=None))
    assert watch(gpu)().absent == "no GPU clocks: NVML does not tell them for this device"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="other"))
    assert watch(gpu)() == Seen(absent="no GPU clocks: NVML says Not Found")


# --- documents --------------------------------------------------------------------------------------------


def test_a_measurement_survives_being_written_down() -> None:
    for seen in (None, Conditions(clock_mhz=1980.0, throttled=0.5, throttle=4, turns=7, rejected=2, note="busy")):
        found = Measurement(3.5, "ms", 0.25, 5, "cpu", seen)
        assert from_document(json.loads(json.dumps(asdict(found)))) == found


def test_a_measurement_from_before_there_were_conditions_can_be_read() -> None:
    old = {"value": 3.5, "unit": "ms", "spread": 0.25, "n": 5, "device": "cpu"}
    assert from_document(old) == Measurement(3.5, "ms", 0.25, 5, "cpu")


def test_the_watch_of_the_device_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def made(device: torch.device) -> Callable[[], Seen]:
        asked.append(device)
        return lambda: Seen(foreign_load=0.125)

    monkeypatch.setattr(step_time, "watch_of", made)
    (found,) = step_times([lambda: sum(range(1000))], CPU, FIVE)
    assert asked == [CPU] and found.conditions is not None and found.conditions.foreign_load == 0.125
