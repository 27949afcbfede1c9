"""Damaged files of every kind: a result or an explained error, never a traceback. `benchmarks.fuzz` reads thousands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzz import TARGETS, Target, tried
from nas.errors import RunError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("target", TARGETS, ids=[target.name.replace(" ", "-") for target in TARGETS])
def test_damage_is_explained(target: Target, tmp_path: Path) -> None:
    found = tried(target, 25, tmp_path / "files", number=1)
    assert found.inputs >= 15
    assert (dict(found.crashes), found.hangs) == ({}, 0)


def test_crashes_hangs_and_refusals_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT", 1)
    seen = 0

    def read(path: Path) -> None:
        nonlocal seen
        if path.read_bytes() == b"whole":
            return
        seen += 1
        if seen == 1:
            time.sleep(30)
        if seen == 2:
            raise KeyError("a bug")
        if seen == 3:
            raise RunError("")
        raise RunError("where: what. Remedy.")

    found = tried(Target("any", "file", lambda place: [b"whole"], read), 40, tmp_path / "files")
    assert (found.hangs, sum(found.crashes.values()), seen) == (1, 2, found.hangs + 2 + found.refused)
    assert "an error without a message" in found.crashes
    assert found.refused > 0


def test_an_undamaged_file_must_be_read(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise RunError("never")

    with pytest.raises(RunError):
        tried(Target("any", "file", lambda place: [b"whole"], refuse), 5, tmp_path / "files")


def test_a_table_of_trials_is_refused_by_column_and_line(tmp_path: Path) -> None:
    lines = (fuzz.RUN / "trials.csv").read_text().splitlines()
    cells = lines[2].split(",")
    column = lines[0].split(",").index("step_time_ms")
    cells[column] = "fast"
    path = tmp_path / "trials.csv"
    path.write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:20]]))
    with pytest.raises(RunError, match=r"trials\.csv: step_time_ms: found 'fast' in line 3; a number is expected\."):
        fuzz._read_run(path)
