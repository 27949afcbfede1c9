"""SIGTERM and SIGHUP end a command as Ctrl-C does: what was measured is safe, and the message says how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ended(KeyboardInterrupt):
    """A signal that ends the program. `name` says which in words; the exit code is the shell's, 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = {signal.SIGTERM: "Terminated", signal.SIGHUP: "Hung up"}[signal.Signals(number)]
        self.exit_code = 128 + number


@contextmanager
def signals() -> Iterator[None]:
    """Raise `Ended` where one of the signals arrives while the body runs."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    # A process started with nohup ignores SIGHUP, and is to go on doing so.
    caught = [item for item in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(item) is not signal.SIG_IGN]
    before = {item: signal.signal(item, end) for item in caught}
    try:
        yield
    finally:
        for item, handler in before.items():
            signal.signal(item, handler)
