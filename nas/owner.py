"""Who owns a run folder: one process at a time, named for the others, until it has ended or its machine is gone."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from nas.errors import RunError

LEASE_S = 60.0
"""Seconds after which an owner on another machine that has not been heard of is taken for gone."""

_BEAT_S = 15.0

TEMPORARY = ".tmp"
"""Ending of files that are being written. A killed process leaves them behind; the next owner of the run deletes them."""

BEFORE = (".lock", "space.yaml", "arch.yaml", "base.yaml")
"""Files of a run that are there before its manifest, with which it begins."""


def this_process(most: int = 200) -> str:
    """Return what a process that owns something is known by: its number, its machine and since when, in so many characters."""
    number, since = f"process {os.getpid()} on ", f", since {datetime.now():%Y-%m-%d %H:%M:%S},"
    return number + socket.gethostname()[: most - len(number) - len(since)] + since


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a run folder while the body runs: two processes on one run would train the same trials and lose records.

    The lock goes with the process, however it ends. Some network file systems keep locks from other machines; there the file
    that says who owns the run must be `LEASE_S` old before another machine may take it over, and its owner renews it.

    Raises:
        RunError: another process owns the run; it is named.
    """
    path = folder / ".lock"
    handle, ended = _locked(path), threading.Event()
    renewal = threading.Thread(target=_renew, args=(handle, ended), daemon=True, name="lease")
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same, and who holds it is for people to read
            os.ftruncate(handle, 0)
            os.pwrite(handle, this_process().encode(), 0)
        renewal.start()
        for left in folder.rglob(f".*{TEMPORARY}"):
            inside = [place for place in left.parents if place.is_relative_to(folder) and place != folder]
            if not any((place / ".lock").exists() for place in inside):  # a scaling in this run has an owner of its own
                left.unlink(missing_ok=True)
        yield
    finally:
        ended.set()
        if renewal.ident is not None:
            renewal.join()
        with suppress(OSError):
            os.ftruncate(handle, 0)  # who ends in order leaves no lease
        if not (folder / "manifest.json").exists():  # it failed before it began: leave nothing behind
            for name in BEFORE:
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        os.close(handle)


def _renew(handle: int, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_S):
        with suppress(OSError):
            os.utime(handle)


def _locked(path: Path) -> int:
    """Return the lock of a run folder, held."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be made ({error.strerror}). Make the folder writable; then continue."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _written(handle) or "another process"
            os.close(handle)
            raise RunError(
                f"{path.parent}: {owner} is working on this run. Wait until it has ended, or stop it; then continue."
            ) from None
        except OSError as error:
            os.close(handle)
            raise RunError(
                f"{path}: cannot be locked ({error.strerror}). Put the run on a file system that has locks."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                owner = _written(handle)
                left = _lease(path.parent, handle, owner)
                if left <= 0:
                    return handle
                os.close(handle)
                raise RunError(
                    f"{path.parent}: {owner} is working on this run, or was until a moment ago. Stop it; then continue. If its "
                    f"machine is gone, the run is free in {left:.0f} s."
                )
        os.close(handle)  # its last owner has deleted it in the meantime


def _written(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip()


def _lease(folder: Path, handle: int, owner: str) -> float:
    """Return for how many seconds a lock is still somebody's on another machine, by the clock of the file system."""
    host = re.match(r"process \d+ on (.*), since ", owner)
    if host is None or host[1] == socket.gethostname():  # of processes on this machine the lock knows
        return 0.0
    with tempfile.TemporaryFile(dir=folder) as now:
        return LEASE_S - (os.fstat(now.fileno()).st_mtime - os.fstat(handle).st_mtime)
