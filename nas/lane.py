"""The lane of a device: training holds it shared, timing takes it alone.

File locks, so that workers and runs of one machine respect each other: a step timed while another trial trains would be
wrong by the slowdown of both. Two locks per device: the lane itself, and a gate in front of it that everybody passes one
by one and that a timing keeps closed while it waits. Without the gate, trainings that overlap would never let a timing in.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nas.errors import DeviceError


class Lane:
    """A lane that is held. `give_way` lets a timing that waits go first."""

    def __init__(self, lane: int, gate: int, mode: int) -> None:
        self._lane, self._gate, self._mode = lane, gate, mode

    def wanted(self) -> bool:
        """Return whether somebody waits for the lane. Costs microseconds."""
        if not _try(self._gate, fcntl.LOCK_EX):
            return True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return False

    def give_way(self) -> None:
        """Let those go first who wait, and come back when they are done."""
        fcntl.flock(self._lane, fcntl.LOCK_UN)
        self.take()

    def take(self, waiting: Callable[[], None] | None = None) -> None:
        """Pass the gate and take the lane."""
        for lock, mode in ((self._gate, fcntl.LOCK_EX), (self._lane, self._mode)):
            if not _try(lock, mode):
                if waiting is not None:
                    waiting()
                    waiting = None
                fcntl.flock(lock, mode)
        fcntl.flock(self._gate, fcntl.LOCK_UN)


@contextmanager
def lane(device: str, *, alone: bool, waiting: Callable[[], None] | None = None) -> Iterator[Lane]:
    """Hold the lane of a device while the body runs.

    Args:
        device: Name of the lane: `cpu`, or the identity of a CUDA device.
        alone: True for timing, False for training.
        waiting: Called once if somebody else holds the lane, before waiting for it.

    Raises:
        DeviceError: the lock files cannot be made.
    """
    with ExitStack() as stack:
        own, gate = (_open(device.replace(":", "-") + what, stack) for what in ("", "-gate"))
        held = Lane(own, gate, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        held.take(waiting)
        yield held


def _open(name: str, stack: ExitStack) -> int:
    folder = Path(os.environ.get("NAS_LANES", tempfile.gettempdir()))
    path = folder / f"phinas-lane-{name}.lock"
    flags = os.O_RDWR | os.O_NOFOLLOW  # in a folder that all may write, a link may lead anywhere
    try:
        try:
            # First without O_CREAT: in a sticky folder the kernel refuses it on a file that somebody else made.
            handle = os.open(path, flags)
        except FileNotFoundError:
            handle = os.open(path, flags | os.O_CREAT, 0o666)
            os.fchmod(handle, 0o666)  # whoever made it lets the others in, whatever their umask
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot make the lock of the timing lane ({error.strerror}). "
            "Set NAS_LANES to a folder that can be written."
        ) from None
    stack.callback(os.close, handle)
    return handle


def _try(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
