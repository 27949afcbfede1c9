from __future__ import annotations

import os
import signal
import time

import pytest

from nas.cli._signals import Ended, signals


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "Terminated", 143), (signal.SIGHUP, "Hung up", 129)]
)
def test_a_signal_ends_the_body_as_ctrl_c_does(number: signal.Signals, name: str, code: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt) as raised, signals():
            os.kill(os.getpid(), number)
            time.sleep(10)
        assert isinstance(raised.value, Ended)
        assert (raised.value.name, raised.value.exit_code) == (name, code)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
