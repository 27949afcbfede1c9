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
from collections.abc import Callable, Iterator, Sequence
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

WORKER = "nas worker"
"""How the names of worker processes begin."""

Start = Callable[[torch.device, Callable[[], None]], PhaseRunner]
"""Makes what a worker runs phases with, on a device, given what to call when it waits for the lane; pickled to the worker."""


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
        say: Called with a sentence when a worker was replaced. waiting: Called when another run holds the device.

    Nothing is timed while a worker starts: it imports, loads and builds, outside any lane.
    """

    def __init__(
        self,
        start: Start,
        devices: Sequence[torch.device],
        *,
        threads: int,
        checkpoints: Path | None,
        say: Callable[[str], None] = lambda sentence: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots = len(devices)
        self._vacant = list(devices)
        self._waiting = waiting
        self._start, self._threads, self._folder, self._say = start, threads, checkpoints, say
        self._queue: list[Job] = []
        self._answers: list[tuple[Job, PhaseResult]] = []
        self._deaths: dict[tuple[str, int], int] = {}
        self._unborn = 0
        self._members: list[_Member] = []

    def submit(self, job: Job) -> None:
        """Queue a phase, and hand it to its worker if that is free. The first one starts the workers."""
        self._queue.append(job)
        self._hire()
        self._hand_out()

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for the first phase to end, on whichever worker."""
        while not self._answers:
            self._hire()
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

    def _hire(self) -> None:
        """Start a worker for each vacant device, unless something is being timed."""
        if any(member.job is not None and member.job.phase == 0 for member in self._members):
            return
        while self._vacant:
            device = self._vacant.pop(0)
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=_serve,
                args=(there, self._start, str(device), self._threads, self._folder),
                daemon=True,
                name=f"{WORKER} on {device}",
            )
            with _deaf():
                process.start()
            there.close()  # so that the pipe ends when the worker does
            self._members.append(_Member(device, process, here))

    def _hand_out(self) -> None:
        """Give each free worker a queued phase: of a training that it knows, or else of one that no worker knows."""
        starting = self._vacant or not all(member.ready for member in self._members)
        for member in self._members:
            if not member.ready or member.job is not None:
                continue
            elsewhere = {key for other in self._members if other is not member for key in other.keys}
            fits = [job for job in self._queue if job.key not in elsewhere and not (starting and job.phase == 0)]
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
        elif what == "waiting":  # for another worker, which is usual, or for another run
            if not any(other.job for other in self._members if other is not member and other.device == member.device):
                self._waiting()
        elif what == "error":
            raise content
        else:
            job, member.job = member.job, None
            assert job is not None
            if what == "bug":
                raise PhaseBug(job, *content)
            self._answers.append((job, content))

    def _replace(self, member: _Member) -> None:
        """Vacate a dead worker's place; its phase in flight is queued again, first."""
        member.process.join()
        member.pipe.close()
        how = _ended(member.process.exitcode)
        if not member.ready:
            self._unborn += 1
            if self._unborn > self.slots:
                raise DeviceError(
                    f"{member.device}: its worker {how} while it started, again and again. Try --devices {member.device} alone, "
                    'or fewer workers; a script needs `if __name__ == "__main__":`; the system\'s log may say more (dmesg).'
                )
        self._members.remove(member)
        self._vacant.append(member.device)
        lost = member.job
        if lost is None:
            self._say(f"The worker on {member.device} {how}; another one takes its place.")
            return
        place = lost.key, lost.phase
        self._deaths[place] = self._deaths.get(place, 0) + 1
        if self._deaths[place] < DEATHS:
            self._queue.insert(0, lost)
            self._say(
                f"The worker on {member.device} {how} in phase {lost.phase} of {lost.name or lost.key}; that phase runs again."
            )
            return
        reason = f"{DEATHS} workers died in phase {lost.phase}; the last one {how}"
        self._answers.append((lost, PhaseResult(lost.phase, "worker_died", 0.0, reason)))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that is started ignore Ctrl-C from its first moment: the owner decides what ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ended(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed ({name}{', perhaps for want of memory' if -code == signal.SIGKILL else ''})"
    return f"ended with exit code {code}"


# --- in the worker's process ------------------------------------------------------------------------------


def _serve(pipe: Connection, start: Start, device: str, threads: int, folder: Path | None) -> None:
    """Run phases until the pipe ends."""
    threading.Thread(target=_die_with_owner, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        worker = Worker(start(torch.device(device), lambda: pipe.send(("waiting", None))), folder)
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
