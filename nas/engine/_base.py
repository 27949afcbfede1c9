"""What an engine is: it runs phases somewhere and brings back their results; it never sees the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas.evaluate import PhaseResult
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Job:
    """One phase of one trial. The engine keeps the trial's state between its phases."""

    trial: int
    spec: ArchSpec
    phase: int
    seed: int


class Engine(Protocol):
    """Where phases run. `slots` trials may be in flight at once."""

    slots: int

    def submit(self, job: Job) -> None:
        """Start a phase; a trial's phases are submitted one after the other."""

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for a phase to end and return it. A bug in a phase is raised here as `PhaseBug`."""

    def drop(self, trial: int) -> None:
        """Forget the state of a trial: it has ended."""

    def close(self) -> None:
        """Stop everything."""


class PhaseBug(Exception):
    """An exception that is no outcome, from one phase; `__cause__` is the exception itself."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"trial {job.trial}, phase {job.phase}")
        self.job = job
