"""The engine with a persistent worker process per device: imports, data and caches are paid once.

A training stays on its worker, with its state in memory. A worker that dies is replaced, and its training continues
from its checkpoint: it loses the phase that was in flight. Workers die with the process that owns the run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from nas.engine._base import Job, PhaseBug
from nas.engine._worker import PhaseRunner, Worker
from nas.errors import DeviceError, NasError
from nas.evaluate import PhaseResult

DEATHS = 2
"""A phase in which this many workers have died is given up: the network is to blame, or the machine has no memory for it."""

Start = Callable[[torch.device], PhaseRunner]
"""Makes what a worker runs phases with; it is pickled to the worker's process."""


@dataclass
class _Member:
    """A worker process, as the owner sees it."""

    device: torch.device
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: Job | None = None
    keys: set[str] = field(default_factory=set)


class LocalEngine:
    """Runs phases in worker processes of this machine.

    Args:
        start: Makes an evaluator on a worker's device. devices: One for each worker; a device may be there twice.
        threads: CPU threads of each worker.
        checkpoints: Folder of the checkpoints; without one, a worker that dies takes the trainings on it along.
        say: Called with a sentence when a worker was replaced.
    """

    def __init__(
        self,
        start: Start,
        devices: Sequence[torch.device],
        *,
        threads: int,
        checkpoints: Path | None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.slots = len(devices)
        self._devices = tuple(devices)
        self._start, self._threads, self._folder, self._say = start, threads, checkpoints, say
        self._queue: list[Job] = []
        self._answers: list[tuple[Job, PhaseResult]] = []
        self._deaths: dict[tuple[str, int], int] = {}
        self._unborn = 0
        self._members: list[_Member] = []

    def submit(self, job: Job) -> None:
        """Queue a phase, and hand it to its worker if that is free. The first one starts the workers."""
        self._queue.append(job)
        while len(self._members) < self.slots:
            self._members.append(self._hire(self._devices[len(self._members)]))
        self._hand_out()

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for the first phase to end, on whichever worker."""
        while not self._answers:
            self._hand_out()
            pipes = {member.pipe: member for member in self._members}
            for pipe in wait(list(pipes)):  # a dead worker's pipe is at its end, which is something to read
                self._hear(pipes[pipe])  # type: ignore[index]  # only connections are in the list
        return self._answers.pop(0)

    def drop(self, key: str) -> None:
        """Forget the state of a training, on its worker."""
        for member in self._members:
            if key in member.keys:
                member.keys.discard(key)
                self._tell(member, ("drop", key))

    def close(self) -> None:
        """End all workers, also in the middle of a phase."""
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.join()
            member.pipe.close()
        self._members.clear()

    def _hire(self, device: torch.device) -> _Member:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve,
            args=(there, self._start, str(device), self._threads, self._folder),
            daemon=True,
            name=f"nas worker on {device}",
        )
        process.start()
        there.close()  # so that the pipe ends when the worker does
        return _Member(device, process, here)

    def _hand_out(self) -> None:
        """Give each free worker a queued phase: of a training that it knows, or else of one that no worker knows."""
        for member in self._members:
            if not member.ready or member.job is not None:
                continue
            elsewhere = {key for other in self._members if other is not member for key in other.keys}
            fits = [job for job in self._queue if job.key not in elsewhere]
            job = next((job for job in fits if job.key in member.keys), fits[0] if fits else None)
            if job is None:
                continue
            self._queue.remove(job)
            member.job = job
            member.keys.add(job.key)
            self._tell(member, ("run", job))

    def _tell(self, member: _Member, message: tuple[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has died, which `_hear` finds out
            member.pipe.send(message)

    def _hear(self, member: _Member) -> None:
        try:
            what, content = member.pipe.recv()
        except (EOFError, OSError):
            self._replace(member)
            return
        if what == "ready":
            member.ready, self._unborn = True, 0
        elif what == "error":
            raise content
        else:
            job, member.job = member.job, None
            assert job is not None
            if what == "bug":
                raise PhaseBug(job, *content)
            self._answers.append((job, content))

    def _replace(self, member: _Member) -> None:
        """Put a new worker in a dead one's place; its phase in flight is queued again, first."""
        member.process.join()
        member.pipe.close()
        how = _ended(member.process.exitcode)
        if not member.ready:
            self._unborn += 1
            if self._unborn > len(self._members):
                raise DeviceError(
                    f"{member.device}: its worker {how} while it started, again and again. Try --devices {member.device} alone, "
                    "or fewer workers; the system's log may say more (dmesg)."
                )
        self._members[self._members.index(member)] = self._hire(member.device)
        lost = member.job
        if lost is None:
            self._say(f"The worker on {member.device} {how} and was replaced.")
            return
        place = lost.key, lost.phase
        self._deaths[place] = self._deaths.get(place, 0) + 1
        if self._deaths[place] < DEATHS:
            self._queue.insert(0, lost)
            self._say(
                f"The worker on {member.device} {how} in phase {lost.phase} of {lost.key}; that phase runs again."
            )
            return
        reason = f"{DEATHS} workers died in phase {lost.phase}; the last one {how}"
        self._answers.append((lost, PhaseResult(lost.phase, "worker_died", 0.0, reason)))


def _ended(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed ({name}{', perhaps for want of memory' if -code == signal.SIGKILL else ''})"
    return f"ended with exit code {code}"


# --- in the worker's process ------------------------------------------------------------------------------


def _serve(pipe: Connection, start: Start, device: str, threads: int, folder: Path | None) -> None:
    """Run phases until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_owner, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        worker = Worker(start(torch.device(device)), folder)
        pipe.send(("ready", None))
        while True:
            what, content = pipe.recv()
            if what == "drop":
                worker.drop(content)
                continue
            try:
                pipe.send(("done", worker.run(content)))
            except NasError:
                raise
            except Exception as error:
                pipe.send(("bug", (repr(error), traceback.format_exc())))
    except (EOFError, BrokenPipeError):
        return
    except NasError as error:  # something the user can mend
        pipe.send(("error", error))
    except Exception as error:
        pipe.send(
            ("error", DeviceError(f"{device}: its worker failed to start ({error!r}).\n{traceback.format_exc()}"))
        )


def _die_with_owner() -> None:
    """End this process as soon as the one that owns the run is gone, in the middle of whatever it does."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)
