"""What an engine is: it runs phases somewhere and brings back their results; it never sees the study."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Protocol

from nas.cost.step_time import Protocol as TimingProtocol
from nas.evaluate import PhaseResult
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Job:
    """One phase of one training of one network. The engine keeps the training's state between its phases.

    Args:
        protocol: How phase 0 times; None is the search's way.
        name: What people know the training as, for messages.
    """

    spec: ArchSpec
    phase: int
    seed: int
    protocol: TimingProtocol | None = None
    name: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Identity of the training: the network's hash and the seed."""
        return f"{self.spec.arch_hash}-s{self.seed}"


class Engine(Protocol):
    """Where phases run. `slots` trainings should be in flight at once; more are queued."""

    @property
    def slots(self) -> int:
        """Trainings that should be in flight; where workers come and go it changes."""

    def submit(self, job: Job) -> None:
        """Start a phase; a training's phases are submitted one after the other.

        A training that the engine does not know continues from its checkpoint, where there is one of the phase before.
        """

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for a phase to end and return it.

        Raises:
            PhaseBug: a phase failed in a way that is no outcome. NasError: something a user can mend.
        """

    def drop(self, key: str) -> None:
        """Forget the state of a training: it has ended."""

    def close(self) -> None:
        """Stop everything."""


class PhaseBug(Exception):
    """An exception in one phase that is no outcome.

    Args:
        error: The exception in one line. trace: Its traceback.
    """

    def __init__(self, job: Job, error: str, trace: str) -> None:
        super().__init__(f"{job.spec.arch_hash}, phase {job.phase}: {error}")
        self.job, self.error, self.trace = job, error, trace

    @classmethod
    def of(cls, job: Job, error: BaseException) -> PhaseBug:
        """Return the bug that an exception is."""
        return cls(job, repr(error), "".join(traceback.format_exception(error)))
