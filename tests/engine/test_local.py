"""Worker processes: who dies with whom, and that a timing has its device alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
from engine_stub import SLEEP, StartStub, Stillborn

from nas.engine import Job, LocalEngine, checkpoints
from nas.errors import DeviceError
from nas.spec import ArchSpec

CPU = torch.device("cpu")


def processes(log: Path) -> set[int]:
    return {int(line.split()[-1]) for line in log.read_text().splitlines()}


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(found: set[int], seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, found)):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("dies", r"its worker was killed \(SIGKILL, perhaps for want of memory\) while it started"),
        ("mendable", "the device is gone"),
        ("bug", r"its worker failed to start \(ZeroDivisionError\('boom'\)\)"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_search_with_the_reason(
    tmp_path: Path, tiny_spec: ArchSpec, how: str, error: str
) -> None:
    engine = LocalEngine(Stillborn(how), [CPU], threads=1, checkpoints=tmp_path)
    try:
        engine.submit(Job(tiny_spec, 0, 0))
        with pytest.raises(DeviceError, match=error):
            engine.next()
    finally:
        engine.close()


def test_a_closed_engine_leaves_no_process_even_in_the_middle_of_a_phase(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    engine = LocalEngine(StartStub(tmp_path / "log"), [CPU] * 2, threads=1, checkpoints=tmp_path / "c")
    try:
        for phase in (0, 1):
            engine.submit(Job(tiny_spec, phase, SLEEP))
            engine.next()
        engine.submit(Job(tiny_spec, 2, SLEEP))
        engine.submit(Job(tiny_spec, 0, 1))
        engine.next()
    finally:
        engine.close()
    found = processes(tmp_path / "log")
    assert len(found) == 2 and gone(found, seconds=1)


def test_workers_die_with_their_owner(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    """Otherwise a killed search would go on training beside the one that continues it."""
    script = tmp_path / "owner.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "conformance")!r})
from pathlib import Path
import torch
from engine_stub import SLEEP, StartStub
from nas import catalog
from nas.engine import Job, LocalEngine

if __name__ == "__main__":
    spec = catalog.load_arch({str(tmp_path / "tiny_network.yaml")!r})
    folder = Path({str(tmp_path)!r})
    engine = LocalEngine(StartStub(folder / "log"), [torch.device("cpu")], threads=1, checkpoints=folder / "c")
    for phase in (0, 1):
        engine.submit(Job(spec, phase, SLEEP))
        engine.next()
    engine.submit(Job(spec, 2, SLEEP))
    print("sleeping", flush=True)
    engine.next()
"""
    )
    assert tiny_spec.arch_hash
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "sleeping\n"
        while (tmp_path / "log").read_text().splitlines()[-1].split()[3] != "2":
            time.sleep(0.05)
        workers = processes(tmp_path / "log")
        assert workers and all(map(alive, workers))
        owner.kill()
    assert gone(workers)


def test_a_timing_has_its_device_alone(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    """Spans in which the lane was held, from all workers on the clock that they share."""
    engine = LocalEngine(StartStub(tmp_path / "log"), [CPU] * 2, threads=1, checkpoints=tmp_path / checkpoints.FOLDER)
    spans: list[tuple[int, tuple[float, float]]] = []
    try:
        for seed in range(10):
            engine.submit(Job(tiny_spec, 0, seed))
        left = 10
        while left:
            job, result = engine.next()
            spans += [(job.phase, span) for span in result.lane]
            if job.phase < 3:
                engine.submit(Job(tiny_spec, job.phase + 1, job.seed))
            else:
                left -= 1
    finally:
        engine.close()
    assert len(processes(tmp_path / "log")) == 2
    timings = [span for phase, span in spans if phase == 0]
    trainings = [span for phase, span in spans if phase > 0]
    for began, ended in timings:
        others = [span for span in timings + trainings if span != (began, ended)]
        assert all(last <= began or first >= ended for first, last in others)
    overlapping = sum(a < d and c < b for i, (a, b) in enumerate(trainings) for c, d in trainings[i + 1 :])
    assert overlapping, "two workers train at the same time"


def test_nothing_is_timed_while_a_worker_starts(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    """It imports and loads on the same cores, outside any lane."""
    log = tmp_path / "log"
    engine = LocalEngine(StartStub(log), [CPU] * 2, threads=1, checkpoints=tmp_path / checkpoints.FOLDER)
    try:
        for seed in (1, 2):
            engine.submit(Job(tiny_spec, 0, seed))
        engine.next()
        engine.next()
        lines = [line.split()[0] for line in log.read_text().splitlines()]
        assert lines[:2] == ["ready", "ready"], "the first timing waits until all have started"
        idle = next(member for member in engine._members if member.job is None)
        os.kill(idle.process.pid or 0, 9)
        idle.process.join()
        for seed in (3, 4):
            engine.submit(Job(tiny_spec, 0, seed))
        engine.next()
        engine.next()
    finally:
        engine.close()
    lines = [line.split()[0] for line in log.read_text().splitlines()]
    again = lines.index("ready", 2)
    assert lines[2:again].count("start") in (2, 3) and lines[again + 1 :].count("start") >= 1
    assert lines[2:again].count("start") == lines[2:again].count("end"), "no timing was going on when it was ready"
