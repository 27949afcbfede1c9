"""A deterministic evaluator for engines, importable by the processes that they start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.cost import Measurement
from nas.cost.step_time import Protocol
from nas.errors import DeviceError
from nas.evaluate import PhaseResult
from nas.lane import lane
from nas.spec import ArchSpec
from nas.train.loop import PhaseTraining

DIE, BUG, MENDABLE, SLEEP = 900, 901, 902, 903
"""Seeds that make the stub misbehave in phase 2."""


@dataclass(frozen=True)
class Stub:
    """Its state is the list of phases a training has been through.

    Args:
        log: A file that gets a line `start|end <hash> <seed> <phase> <process>` for each phase that was begun or ended.
        lives: A folder in which a death leaves a file, so that the next worker lives. None: every worker dies.
    """

    log: Path
    lives: Path | None = None

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        self._write("start", spec, seed, phase)
        if phase == 2:
            self._misbehave(seed)
        if phase == 0:
            with lane("stub", alone=True):
                began = time.monotonic()
                time.sleep(0.01)
                span = began, time.monotonic()
            self._write("end", spec, seed, phase)
            return PhaseResult(
                0, "ok", 0.5, measurements={"macs": Measurement(seed + 1, "", 0, 1, "stub")}, lane=(span,)
            )
        past = [*(state["past"] if isinstance(state, dict) else state or []), phase]
        assert past == list(range(1, phase + 1)), "a phase was run on the wrong state"
        with lane("stub", alone=False):
            began = time.monotonic()
            time.sleep(0.02)
            span = began, time.monotonic()
        training = PhaseTraining(
            1 / phase, (int(spec.arch_hash[:4], 16) % 100) / 200 + 0.1 * phase, 0.01, seed, 1.0, 0.1
        )
        self._write("end", spec, seed, phase)
        return PhaseResult(phase, "ok", 1.0, training=training, lane=(span,), state=past)  # type: ignore[arg-type]

    def snapshot(self, state: Any) -> dict[str, Any]:
        return {"past": list(state)}

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _misbehave(self, seed: int) -> None:
        if seed == DIE and not (self.lives and (self.lives / "died").exists()):
            if self.lives is not None:
                (self.lives / "died").touch()
            os.kill(os.getpid(), 9)
        if seed == BUG:
            raise ZeroDivisionError("boom")
        if seed == MENDABLE:
            raise DeviceError("no lock")
        if seed == SLEEP:
            time.sleep(60)

    def _write(self, what: str, spec: ArchSpec, seed: int, phase: int) -> None:
        with open(self.log, "a") as file:  # one short line: appended whole
            file.write(f"{what} {spec.arch_hash} {seed} {phase} {os.getpid()}\n")


@dataclass(frozen=True)
class StartStub:
    """What a worker makes its stub with."""

    log: Path
    lives: Path | None = None

    def __call__(self, device: torch.device, waiting: Callable[[], None]) -> Stub:
        with open(self.log, "a") as file:
            file.write(f"ready - - - {os.getpid()}\n")
        return Stub(self.log, self.lives)


@dataclass(frozen=True)
class Stillborn:
    """A worker that cannot start."""

    how: str

    def __call__(self, device: torch.device, waiting: Callable[[], None]) -> Stub:
        if self.how == "dies":
            os.kill(os.getpid(), 9)
        if self.how == "mendable":
            raise DeviceError("the device is gone")
        raise ZeroDivisionError("boom")
