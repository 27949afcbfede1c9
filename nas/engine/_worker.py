"""What every engine does where its phases run: keep the state of each training, and write its checkpoint."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nas.cost.step_time import Protocol as TimingProtocol
from nas.engine import checkpoints
from nas.engine._base import Job
from nas.errors import RunError
from nas.evaluate import PhaseResult
from nas.spec import ArchSpec


class PhaseRunner(Protocol):
    """What a worker runs phases with: an `Evaluator`, or a stub of one."""

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: TimingProtocol | None = None
    ) -> PhaseResult:
        """Run one phase, on what the phase before returned or on a snapshot of that."""

    def snapshot(self, state: Any) -> dict[str, Any]:
        """Return what a checkpoint holds of a state."""

    def at_work(self) -> AbstractContextManager[Any]:
        """Keep timings off the device while the body runs."""


@dataclass(frozen=True)
class _Training:
    """What is known of a training; `state` is that of the runner, or a snapshot of it."""

    results: tuple[PhaseResult, ...] = ()
    state: Any = None

    @property
    def done(self) -> int:
        """The last phase that has ended; -1 where none has."""
        return self.results[-1].phase if self.results else -1


class Worker:
    """Runs phases, one after the other, in this process.

    Args:
        folder: Where checkpoints go; None keeps none.

    Raises:
        RunError: the folder cannot be made.
    """

    def __init__(self, runner: PhaseRunner, folder: Path | None) -> None:
        self._runner = runner
        self._folder = folder
        if folder is not None:
            checkpoints.make(folder)
        self._trainings: dict[str, _Training] = {}

    def run(self, job: Job) -> PhaseResult:
        """Run a phase, keep its state here and as a checkpoint, and return the result without the state.

        A phase that a checkpoint holds already (its worker died before it could say so) is not run again.

        Raises:
            Exception: whatever the runner raises. RunError: the checkpoint cannot be read or written, or is not there.
        """
        training = self._trainings.pop(job.key, None) or self._restored(job)
        if training.done == job.phase:
            self._trainings[job.key] = training
            return training.results[-1]
        if training.done != job.phase - 1 and not (training.done < 0 and job.phase == 1):
            raise RunError(
                f"{self._folder}: holds phase {training.done} of {job.key}, and phase {job.phase} is to be run. Leave the "
                "checkpoints of a run in place while it goes on; then continue with --resume."
            )
        result = self._runner.run_phase(job.spec, job.phase, training.state, seed=job.seed, protocol=job.protocol)
        shown = replace(result, state=None)
        if result.outcome in ("ok", "infeasible"):
            training = _Training((*training.results, shown), result.state)
            self._trainings[job.key] = training
            if self._folder is not None:
                with self._runner.at_work():
                    stored = None if result.state is None else self._runner.snapshot(result.state)
                    checkpoints.save(self._folder, job.key, training.results, stored)
        return shown

    def drop(self, key: str) -> None:
        """Forget a training."""
        self._trainings.pop(key, None)

    def _restored(self, job: Job) -> _Training:
        return _Training() if self._folder is None else _Training(*checkpoints.load(self._folder, job.key))
