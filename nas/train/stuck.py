"""A step that never ends: nobody can interrupt a kernel that hangs, but its process can be ended, for the phase in flight."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LEAST_S = 60.0
"""No step is taken for stuck before so many seconds, however short a phase may be."""

EXIT = 70
"""The exit code of a process that was stuck."""

_LOOKS = 20


class Pulse:
    """What the watched says of itself: that it begins a step (or rests, where it waits for others)."""

    def __init__(self) -> None:
        self.looks = 0
        self.resting = False

    def beat(self, *, resting: bool = False) -> None:
        """A step has ended; `resting` until the next beat."""
        self.looks, self.resting = 0, resting


@contextmanager
def watched(timeout_s: float | None, what: str) -> Iterator[Pulse]:
    """End this process where one step of the body takes more than twice the seconds that a whole phase may take.

    Args:
        timeout_s: Of a phase; None watches nothing. what: Is done, for the message.
    """
    pulse = Pulse()
    if timeout_s is None:
        yield pulse
        return
    limit, ended = max(2 * timeout_s, LEAST_S), threading.Event()

    def look() -> None:
        # Looks are counted, not seconds: in a process that was stopped (SIGSTOP, a suspended machine) neither goes on.
        while not ended.wait(limit / _LOOKS):
            pulse.looks += 0 if pulse.resting else 1
            if pulse.looks > _LOOKS:
                _end(limit, what)

    thread = threading.Thread(target=look, daemon=True, name="stuck")
    thread.start()
    try:
        yield pulse
    finally:
        ended.set()
        thread.join()


def _end(limit: float, what: str) -> None:
    print(
        f"nas: {what}: one step has not ended for {limit:g} s, far beyond --trial-timeout, so this process ends itself. Nothing "
        "measured is lost. If it was a worker, another one takes its place, and the network is given up when it hangs again. If "
        "it was the search, continue it with workers, which may hang alone: nas search --resume RUN --devices cpu:1 (on a "
        "GPU: cuda:0,cuda:0).",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT)
