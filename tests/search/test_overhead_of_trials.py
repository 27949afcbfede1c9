"""What a trial costs beside training, in things that can be counted: rows made, waits for the disk, what is held in memory."""

from __future__ import annotations

import errno
import gc
import io
import os
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from stubs import Search, StubEvaluator, TwoSlots, kinds

from nas.engine import Job
from nas.engine._worker import Worker
from nas.evaluate import PhaseResult
from nas.search import loop, record
from nas.search.record import LiveTable, TrialRecord, table
from nas.search.study import DATABASE, _Unhurried, close_study, open_study, settle, without_log


def journal(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def some(number: int, **changes: Any) -> TrialRecord:
    values = {
        "reward": 0.1 + number / 3,
        "num_params": 5000.0,
        "step_time_n": 40,
        "params": {"s1.block": "a, b", "s1.k": 3},
    }
    return TrialRecord(number, "trained", f"{number:016x}", "16px conv", **(values | changes))


def test_the_live_table_holds_what_the_table_holds(tmp_path: Path) -> None:
    found = [
        some(2),
        some(0, reward=None, step_time_n=None),
        some(1, duplicate_of=0, reason='a "reason"\nwith, all of it'),
    ]
    live = LiveTable(tmp_path / "trials.csv", found[:1])
    for item in found[1:]:
        live.add(item)
    seen = pd.read_csv(tmp_path / "trials.csv", dtype={"arch_hash": str})
    whole = table(sorted(found, key=lambda item: item.number)).to_csv(index=False)
    pd.testing.assert_frame_equal(seen, pd.read_csv(io.StringIO(whole), dtype={"arch_hash": str}))
    assert list(seen["number"]) == [0, 1, 2]


def test_a_trial_costs_the_live_table_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveTable(tmp_path / "trials.csv", [some(number) for number in range(200)])
    real, made = record._row, []
    monkeypatch.setattr(record, "_row", lambda values: made.append(1) or real(values))
    live.add(some(200))
    assert len(made) == 2, "the head and its own, of 201"


def test_the_owner_does_not_wait_for_the_disk_at_each_write_and_leaves_one_plain_file(search: Search) -> None:
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    database = search.folder / DATABASE
    with study._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    assert journal(database) == "wal"
    study.ask({"x": optuna.distributions.IntDistribution(0, 3)})
    close_study(study, search.folder, pytest.fail)
    assert journal(database) == "delete" and not list(search.folder.glob(f"{DATABASE}-*"))
    database.chmod(0o444)
    again = optuna.load_study(study_name="stub", storage=f"sqlite:///file:{database}?mode=ro&uri=true")
    assert len(again.trials) == 1


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "in a transaction"])
def test_a_study_that_a_dashboard_reads_can_be_closed(search: Search, tmp_path: Path, idle: bool) -> None:
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    database, said = search.folder / DATABASE, list[str]()
    with closing(sqlite3.connect(database)) as reader:
        if not idle:
            reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM trials").fetchone()
        study.ask()
        close_study(study, search.folder, said.append)
        (note,) = said
        assert "study.db-wal and -shm, which belong to it: another program" in note and ".backup" in note
        assert without_log(database) == idle, "moved into the file where nobody is in the middle of reading"
        if idle:
            shutil.copy(database, tmp_path / "alone.db")
            assert len(optuna.load_study(study_name="stub", storage=f"sqlite:///{tmp_path / 'alone.db'}").trials) == 1
    assert journal(database) == "wal", "the header of the file says so still"
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    assert len(study.trials) == 1
    close_study(study, search.folder, pytest.fail)
    assert journal(database) == "delete"


def test_a_study_that_cannot_be_closed_is_told_and_not_made_anew(search: Search) -> None:
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    said: list[str] = []
    database = search.folder / DATABASE
    close_study(study, search.folder, said.append)
    database.write_bytes(b"no database" * 100)
    close_study(study, search.folder, said.append)
    assert len(said) == 1 and "file is not a database" in said[0]
    database.unlink()
    close_study(study, search.folder, said.append)
    assert len(said) == 2 and not database.exists()


def test_settling_waits_for_the_log_on_the_disk(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    database = search.folder / DATABASE
    log = database.with_name(f"{DATABASE}-wal")
    with closing(sqlite3.connect(database)) as reader:  # whom no checkpoint would wait for
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM trials").fetchone()
        study.ask()
        waited: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "fsync", lambda handle: waited.append((os.fstat(handle).st_ino, log.stat().st_size)))
        settle(database)
        assert waited == [(log.stat().st_ino, log.stat().st_size)] and waited[0][1] > 0

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(optuna.exceptions.StorageInternalError, match="No space left"):
        settle(database)
    close_study(study, search.folder, pytest.fail)
    settle(database)  # there is no log to wait for


def test_a_study_without_a_log_waits_for_the_disk_at_each_write() -> None:
    with closing(sqlite3.connect(":memory:", factory=_Unhurried)) as connection:  # which cannot have one
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_study_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(optuna.exceptions.StorageInternalError, match="No such file"):
        settle(tmp_path / DATABASE)
    assert not (tmp_path / DATABASE).exists()


def test_the_record_is_on_the_disk_before_the_checkpoint_goes(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(loop, "settle", lambda database: seen.append(database.name))
    drop = TwoSlots.drop
    monkeypatch.setattr(TwoSlots, "drop", lambda self, key: seen.append("drop") or drop(self, key))
    found = search.go(StubEvaluator(), 6, engine=TwoSlots)
    assert [after for before, after in pairwise(seen) if before != "drop"].count("drop") == 6
    trained = len(kinds(found, "trained"))
    assert Counter(seen) == {"drop": trained, DATABASE: 2 * trained}, "none of the others waits"


class _Held(dict[str, Any]):
    """A state, which can be counted."""


class _Holding(StubEvaluator):
    def run_phase(self, spec: Any, phase: int, state: Any, **kwargs: Any) -> PhaseResult:
        result = super().run_phase(spec, phase, state, **kwargs)
        held = None if result.state is None else _Held(result.state)  # type: ignore[call-overload]
        return PhaseResult(**{**vars(result), "state": held})


def test_three_hundred_trials_leave_nothing_behind(search: Search) -> None:
    workers: list[Worker] = []
    files: list[int] = []

    def engine(evaluator: StubEvaluator, folder: Path | None) -> TwoSlots:
        made = TwoSlots(evaluator, search.checkpoints)
        workers.append(made.worker)
        return made

    def told(item: TrialRecord) -> None:
        files.append(len(list(search.checkpoints.iterdir())))

    search.told = _Told(told)
    found = search.go(_Holding(), 300, engine=engine, memory=True, top_k=2)  # type: ignore[arg-type]
    assert len(kinds(found, "trained")) == 300
    assert not workers[0]._trainings, "no worker keeps a training that has ended"
    gc.collect()
    alive = Counter(type(item).__name__ for item in gc.get_objects() if type(item) in (_Held, loop._Flight, Job))
    assert not alive, "no state, flight or job outlives its trial"
    assert max(files) <= 2 + TwoSlots.slots, "the best and those in flight have checkpoints, no others"


class _Told(list[TrialRecord]):
    """A list that says when something is added."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self._say = say

    def append(self, item: TrialRecord) -> None:
        super().append(item)
        self._say(item)
