from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from nas.errors import DeviceError
from nas.lane import lane


@pytest.fixture(autouse=True)
def lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_LANES", str(tmp_path))
    return tmp_path


def free(folder: Path, mode: int, device: str = "cpu") -> bool:
    """Whether another holder, with a file of its own, would get the lane at once."""
    handle = os.open(folder / f"phinas-lane-{device}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def test_timing_excludes_training_and_timing(lanes: Path) -> None:
    with lane("cpu", alone=True):
        assert not free(lanes, fcntl.LOCK_SH)
        assert not free(lanes, fcntl.LOCK_EX)
    assert free(lanes, fcntl.LOCK_EX)


def test_training_shares_the_lane_with_training_but_not_with_timing(lanes: Path) -> None:
    with lane("cpu", alone=False):
        assert free(lanes, fcntl.LOCK_SH)
        assert not free(lanes, fcntl.LOCK_EX)


def test_devices_have_lanes_of_their_own(lanes: Path) -> None:
    with lane("cuda:0", alone=True):
        assert not free(lanes, fcntl.LOCK_SH, "cuda-0")
        assert free(lanes, fcntl.LOCK_EX, "cuda-1")
        assert free(lanes, fcntl.LOCK_EX, "cpu")


def test_the_lane_is_free_after_an_error(lanes: Path) -> None:
    with pytest.raises(ZeroDivisionError), lane("cpu", alone=True):
        raise ZeroDivisionError
    assert free(lanes, fcntl.LOCK_EX)


def test_who_waits_says_so_once_and_gets_the_lane_afterwards() -> None:
    said: list[str] = []
    order: list[str] = []
    held = threading.Event()

    def train() -> None:
        with lane("cpu", alone=False):
            held.set()
            while not said:
                time.sleep(0.005)
            order.append("trained")

    thread = threading.Thread(target=train)
    thread.start()
    held.wait(10)
    with lane("cpu", alone=True, waiting=lambda: said.append("waiting")):
        order.append("timed")
    thread.join(10)
    assert said == ["waiting"]
    assert order == ["trained", "timed"]


def test_nobody_waits_for_a_free_lane() -> None:
    with lane("cpu", alone=True, waiting=lambda: pytest.fail("waited")):
        pass


def test_a_folder_that_cannot_hold_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NAS_LANES", str(blocked))
    with (
        pytest.raises(DeviceError, match=r"cannot make the lock of the timing lane .*Set NAS_LANES"),
        lane("cpu", alone=True),
    ):
        pass
