"""Where a study may be, what is said of it, and who may write it; without a database server."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from stubs import Search

from nas import owner
from nas.errors import RunError, UsageError
from nas.owner import LEASE_S, owned
from nas.runs import Run
from nas.search import facts, resume
from nas.search.config import SearchConfig, from_document
from nas.search.database import checked, redacted
from nas.search.study import DATABASE, FORMAT, check_study, open_study, study_of

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://me:{SECRET}@host:5432/db", "postgresql://me@host:5432/db"),
        (f"postgresql+psycopg://me:{SECRET}@host/db", "postgresql://me@host/db"),
        (f"nas search --storage=postgresql://me:a@b:/{SECRET}@host/db --budget 3", None),
        (f"postgresql://me@host/db?password={SECRET}", "postgresql://me@host/db"),
        (f"'postgresql://me@host/db?a=1&sslpassword={SECRET}&b=2'", "'postgresql://me@host/db?a=1&b=2'"),
        ("what? postgresql://host:5432/db & co", "what? postgresql://host:5432/db & co"),
    ],
)
def test_a_password_is_shown_nowhere(text: str, shown: str | None) -> None:
    assert SECRET not in redacted(text)
    assert redacted(text) == (shown or "nas search --storage=postgresql://me@host/db --budget 3")


def test_a_manifest_holds_the_database_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is an extra")
    config = SearchConfig(
        storage=f"postgres://me:{SECRET}@host/db?password={SECRET}".replace("postgres:", "postgresql:")
    )
    assert SECRET in str(config.storage) and SECRET not in repr(config)
    document = json.loads(json.dumps(config.document()))
    assert document["storage"] == "postgresql://me@host/db"
    assert from_document(document).document() == document
    monkeypatch.setattr(sys, "argv", ["/x/nas", "search", "--storage", f"postgresql://me:{SECRET}@host/db"])
    assert facts.software()["command"] == "nas search --storage postgresql://me@host/db"


@pytest.mark.parametrize(
    "text",
    [
        f"mysql://me:{SECRET}@host/db",
        "sqlite:///x.db",
        f"postgresql://me:{SECRET}@host",
        f"postgresql://me:un@{SECRET}@host/db",
        f"postgresql://me:{SECRET}@host:port/db",
        f"{SECRET}@nothing".replace(SECRET, "no"),
    ],
)
def test_what_is_no_database_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(UsageError, match=r"--storage: found .*; allowed: postgresql://USER@HOST") as raised:
        checked(text)
    assert SECRET not in str(raised.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.search.database.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"psycopg, which is not installed. Run: pip install 'phinas\[postgres\]'"):
        checked("postgresql://me@host/db")


def test_a_database_that_does_not_answer_is_said_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is an extra")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = checked(f"postgresql://me:{SECRET}@127.0.0.1:{closed.getsockname()[1]}/db")
        with pytest.raises(
            RunError, match=r"cannot be reached \(.*refused\)\. Start the database, .* same command"
        ) as raised:
            check_study(None, url)
    assert SECRET not in str(raised.value)


def test_a_run_in_a_file_does_not_go_on_in_a_database(run_copy: Path) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is an extra")
    with pytest.raises(
        UsageError, match=r"the study of .*copy is the file study.db in it. Leave the option out"
    ) as raised:
        resume(run_copy, storage=f"postgresql://me:{SECRET}@host/db")
    assert SECRET not in str(raised.value)


# --- versions ---------------------------------------------------------------------------------------------


def test_an_older_study_is_marked_and_goes_on_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    study = open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    assert study.user_attrs["format"] == FORMAT
    with closing(sqlite3.connect(tmp_path / DATABASE)) as base, base:
        base.execute("DELETE FROM study_user_attributes WHERE key = 'format'")
    assert open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0).user_attrs["format"] == FORMAT
    study.set_user_attr("format", FORMAT + 1)
    with pytest.raises(
        RunError, match=rf"newer version \(format {FORMAT + 1}; this program reads {FORMAT}\).*manifest"
    ):
        open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)


@pytest.mark.parametrize(
    ("revision", "todo"),
    [("v3.0.0.d", "optuna storage upgrade --storage sqlite:///"), ("v99.0.0.a", "pip install -U optuna")],
)
def test_tables_of_another_optuna_are_refused_with_the_remedy(tmp_path: Path, revision: str, todo: str) -> None:
    open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as base, base:
        base.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(RunError, match=r"study\.db: The runtime optuna version .* --resume") as raised:
        open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)
    assert todo in str(raised.value)


def test_a_manifest_of_another_version_names_the_version_that_made_it(run_copy: Path) -> None:
    path = run_copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest_version": 2, "versions": {"phinas": "9.1"}}))
    with pytest.raises(
        RunError, match=r"this program reads 1\)\. Use the version that made the run: pip install phinas==9\.1"
    ):
        resume(run_copy)


# --- owners -----------------------------------------------------------------------------------------------


def elsewhere(folder: Path, age: float) -> Path:
    """The lock of an owner on another machine, on a file system that keeps locks from this one."""
    (folder / "manifest.json").write_text("{}")
    path = folder / ".lock"
    path.write_text("process 12 on other-machine, since 2026-01-02 03:04:05,")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_an_owner_on_another_machine_is_named_until_its_lease_has_expired(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, LEASE_S - 20)
    before = path.stat().st_mtime_ns
    said = r"process 12 on other-machine, since 2026-01-02 03:04:05, is working on this run, .* is free in (19|20|21) s"
    with pytest.raises(RunError, match=said), owned(tmp_path):
        pass
    assert path.stat().st_mtime_ns == before, "who is refused does not renew it"
    elsewhere(tmp_path, LEASE_S + 1)
    with owned(tmp_path):
        assert f"process {os.getpid()} on {socket.gethostname()}, since 2" in path.read_text()
    assert path.read_text() == "", "who ends in order leaves no lease"


def test_an_owner_renews_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_BEAT_S", 0.01)
    (tmp_path / "manifest.json").write_text("{}")
    with owned(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        for _ in range(1000):
            if (tmp_path / ".lock").stat().st_mtime > 1:
                break
            time.sleep(0.01)
        else:
            pytest.fail("it was not renewed")


def test_a_killed_process_on_this_machine_leaves_no_lease(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, 0)
    path.write_text(f"process 12 on {socket.gethostname()}, since 2026-01-02 03:04:05,")
    with owned(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with (
        pytest.raises(RunError, match=r"\.lock: cannot be locked \(Function not implemented\)\. Put the run on"),
        owned(tmp_path),
    ):
        pass


def test_a_run_without_a_study_says_how_to_start_it(search: Search) -> None:
    with pytest.raises(RunError, match=r"has no study yet\. Start it: nas search --resume"):
        study_of(Run(search.folder, {"config": {"storage": None}}))
