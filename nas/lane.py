"""The lane of a device: training holds it shared, timing takes it alone.

A file lock per device, so that two runs on one machine respect each other: a step timed while another trial trains
would be wrong by the slowdown of both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import DeviceError


@contextmanager
def lane(device: str, *, alone: bool, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lane of a device while the body runs.

    Args:
        device: Name of the lane: `cpu`, or the identity of a CUDA device.
        alone: True for timing, False for training.
        waiting: Called once if somebody else holds the lane, before waiting for it.

    Raises:
        DeviceError: the lock file cannot be made.
    """
    folder = Path(os.environ.get("NAS_LANES", tempfile.gettempdir()))
    path = folder / f"phinas-lane-{device.replace(':', '-')}.lock"
    try:
        # First without O_CREAT: in a sticky folder the kernel refuses it on a file that somebody else made.
        handle = os.open(path, os.O_RDWR) if path.exists() else os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot make the lock of the timing lane ({error.strerror}). "
            "Set NAS_LANES to a folder that can be written."
        ) from None
    with contextlib.suppress(PermissionError):  # whoever made it lets the others in, whatever their umask
        os.fchmod(handle, 0o666)
    mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(handle, mode)
        yield
    finally:
        os.close(handle)
