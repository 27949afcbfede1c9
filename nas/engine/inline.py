"""The engine that runs every phase in this process, one after the other."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from nas.engine._base import Job, PhaseBug
from nas.errors import NasError
from nas.evaluate import Evaluator, PhaseResult
from nas.train.loop import TrainState


class InlineEngine:
    """Runs phases where it is called, when their results are asked for."""

    slots = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._waiting: deque[Job] = deque()
        self._states: dict[int, TrainState] = {}

    def submit(self, job: Job) -> None:
        """Queue a phase."""
        self._waiting.append(job)

    def next(self) -> tuple[Job, PhaseResult]:
        """Run the oldest queued phase."""
        job = self._waiting.popleft()
        try:
            result = self._evaluator.run_phase(job.spec, job.phase, self._states.pop(job.trial, None), seed=job.seed)
        except NasError:  # something the user can mend, such as a lock file that cannot be made
            raise
        except Exception as error:
            raise PhaseBug(job) from error
        if result.state is not None:
            self._states[job.trial] = result.state
        return job, replace(result, state=None)

    def drop(self, trial: int) -> None:
        """Forget the state of a trial."""
        self._states.pop(trial, None)

    def close(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._states.clear()
