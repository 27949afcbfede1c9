"""The engine that runs every phase in this process, one after the other."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from nas.engine._base import Job, PhaseBug
from nas.engine._worker import PhaseRunner, Worker
from nas.errors import NasError
from nas.evaluate import PhaseResult


class InlineEngine:
    """Runs phases where it is called, when their results are asked for.

    Args:
        checkpoints: Folder of the checkpoints; None keeps none.
    """

    slots = 1

    def __init__(self, runner: PhaseRunner, checkpoints: Path | None = None) -> None:
        self._worker = Worker(runner, checkpoints)
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a phase."""
        self._waiting.append(job)

    def next(self) -> tuple[Job, PhaseResult]:
        """Run the oldest queued phase."""
        job = self._waiting.popleft()
        try:
            return job, self._worker.run(job)
        except NasError:  # something the user can mend, such as a lock file that cannot be made
            raise
        except Exception as error:
            raise PhaseBug.of(job, error) from error

    def drop(self, key: str) -> None:
        """Forget the state of a training."""
        self._worker.drop(key)

    def close(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._worker = None  # type: ignore[assignment]  # a closed engine has no worker
