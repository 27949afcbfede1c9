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


def test_a_training_gives_way_to_a_timing_that_waits() -> None:
    order: list[str] = []
    waits = threading.Event()

    def time_a_step() -> None:
        with lane("cpu", alone=True, waiting=waits.set):
            order.append("timed")

    with lane("cpu", alone=False) as held:
        assert not held.wanted()
        thread = threading.Thread(target=time_a_step)
        thread.start()
        assert waits.wait(10)
        while not held.wanted():
            time.sleep(0.005)
        order.append("step")
        held.give_way()
        assert not held.wanted() or thread.is_alive()
        order.append("step")
    thread.join(10)
    assert order == ["step", "timed", "step"]


def test_a_timing_that_waits_is_not_overtaken_by_trainings(lanes: Path) -> None:
    """Trainings that overlap would otherwise keep it out for ever."""
    order: list[str] = []
    waits, second_waits = threading.Event(), threading.Event()

    def hold(name: str, alone: bool, event: threading.Event) -> None:
        with lane("cpu", alone=alone, waiting=event.set):
            order.append(name)

    with lane("cpu", alone=False):
        threads = [threading.Thread(target=hold, args=("timing", True, waits))]
        threads[0].start()
        assert waits.wait(10)
        while free(lanes, fcntl.LOCK_EX, "cpu-gate"):
            time.sleep(0.005)
        threads.append(threading.Thread(target=hold, args=("training", False, second_waits)))
        threads[1].start()
        assert second_waits.wait(10), "a training would share the lane, but waits at the gate"
    for thread in threads:
        thread.join(10)
    assert order == ["timing", "training"]


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


def test_a_link_in_place_of_the_lock_is_not_followed(lanes: Path) -> None:
    """Lanes lie where everybody may write: a link would lead to any file of this user."""
    private = lanes / "private"
    private.write_text("secret")
    private.chmod(0o600)
    (lanes / "phinas-lane-cpu.lock").symlink_to(private)
    with pytest.raises(DeviceError, match="cannot make the lock of the timing lane"), lane("cpu", alone=True):
        pass
    assert private.stat().st_mode & 0o777 == 0o600
