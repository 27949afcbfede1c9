"""Real trainings in processes of their own, killed with SIGKILL in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from full_training import Place, assert_same_training


def start(place: Place, *arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nas", "train", *map(str, arguments)],
            stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@pytest.mark.slow
def test_a_training_killed_in_an_epoch_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    place = Place(tmp_path, per_class=60)
    log, stopped = tmp_path / "log", tmp_path / "stopped"
    settings = ["--data", place.data, "--recipe", place.recipe, "--device", "cpu", "--epochs", "8"]
    process = start(place, place.arch, *settings, "--out", stopped, log=log)
    history, deadline = stopped / "history.csv", time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) >= 4):  # the heading and three epochs
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    time.sleep(0.03)  # into the next epoch
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (stopped / "result.json").exists(), "it ended before it could be killed; make its epochs longer"
    process = start(place, "--resume", stopped, log=log)
    assert process.wait(timeout=120) == 0, log.read_text()
    assert log.read_text().count("continuing after epoch") == 1
    assert start(place, place.arch, *settings, "--out", tmp_path / "whole", log=log).wait(timeout=120) == 0
    assert_same_training(tmp_path / "whole", stopped)
