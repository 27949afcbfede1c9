"""A real PostgreSQL server: one owner of a study, readers beside it, and what is said where it cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from benchmarks import _postgres
from nas import runs
from nas.errors import RunError
from nas.search import dashboard
from nas.search.database import checked
from nas.search.study import Row, check_study, close_study, mirror, open_study, study_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_postgres.why_not()), reason=_postgres.why_not() or "it can be started"),
]
pytest.importorskip("psycopg", reason="PostgreSQL's driver is an extra")


@pytest.fixture(scope="module")
def server() -> Iterator[_postgres.Server]:
    with _postgres.server() as started:
        yield started


def study(folder: Path, name: str, url: str) -> optuna.Study:
    return open_study(folder, name, sampler="random", pruner="none", seed=0, storage=checked(url))


def held_elsewhere(folder: Path, name: str, url: str) -> subprocess.Popen[str]:
    """A process that owns a study."""
    code = (
        "import pathlib, sys\nfrom nas.search.database import checked\nfrom nas.search.study import open_study\n"
        f"url = checked({url!r})\n"
        f"open_study(pathlib.Path({str(folder)!r}), {name!r}, sampler='random', pruner='none', seed=0, storage=url)\n"
        "print('mine', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def test_a_study_has_one_owner_who_is_named_until_its_process_is_dead(tmp_path: Path, server: _postgres.Server) -> None:
    other = held_elsewhere(tmp_path, "one", server.url())
    try:
        said = rf"postgresql://nas@127\.0\.0\.1:\d+/postgres: process {other.pid} on .*, since 20.* working on study one\. Wait"
        with pytest.raises(RunError, match=said):
            study(tmp_path, "one", server.url())
        close_study(study(tmp_path, "two", server.url()), tmp_path, print)  # another study is free
    finally:
        other.kill()
        other.wait()
    assert study(tmp_path, "one", server.url()).user_attrs["format"] == 1


def test_an_owner_that_lost_its_study_to_another_cannot_write_it(tmp_path: Path, server: _postgres.Server) -> None:
    """As after a network that was gone for longer than the lease: the server has let go of the lock."""
    first = study(tmp_path, "fence", server.url())
    with first._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        (own,) = connection.exec_driver_sql("SELECT pg_backend_pid()").one()
    reader = optuna.storages.RDBStorage(checked(server.url()))
    with reader.engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({own})")
    second = study(tmp_path, "fence", server.url())
    with pytest.raises(optuna.exceptions.StorageInternalError):
        first.ask()  # its connection is gone
    with pytest.raises(RunError, match="is working on study fence"):
        first.ask()  # and a new one does not get the lock
    second.tell(second.ask(), 1.0)
    assert len(second.trials) == 1


def test_a_database_that_cannot_be_used_is_said_without_the_password(tmp_path: Path, server: _postgres.Server) -> None:
    run = runs.create(tmp_path, "search", {"config": {"storage": server.url("")}, "study": "x"})
    for password, todo in ((":wrong-word", "PGPASSWORD"), ("", "PGPASSWORD")):
        with pytest.raises(
            RunError, match=rf"cannot be reached \(.*\)\. Give the password in {todo}.* --resume"
        ) as raised:
            check_study(run, checked(server.url(password)))
        assert "wrong-word" not in str(raised.value)
    with pytest.raises(RunError, match="Have the database made"):
        check_study(run, checked(server.url().replace("/postgres", "/absent")))
    (tmp_path / "trials.csv").touch()
    with pytest.raises(RunError, match=r"study x in postgresql://nas@.*: is not there, but trials\.csv is"):
        check_study(run, checked(server.url()))


def test_readers_see_a_study_while_its_owner_writes(
    tmp_path: Path, server: _postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"config": {"storage": server.url("")}, "study": "read", "baseline": {"name": "b"}}
    run = runs.create(tmp_path, "search", facts)
    monkeypatch.setenv("PGPASSWORD", _postgres.PASSWORD)
    with pytest.raises(RunError, match=r"has no study read\. Start it"):
        study_of(run)
    own = study(tmp_path, "read", server.url())
    for number in (1, 2):
        own.tell(own.ask({"a": optuna.distributions.IntDistribution(0, 3)}), 1.0)
        assert len(study_of(run).trials) == number
    mirror(tmp_path, "scale: x", [Row("k", {"alpha": (1.1, 1.0, 2.0)}, 0.5, [0.4, 0.5], {})], {"base": "b"})
    names = optuna.get_all_study_names(checked(server.url()))
    assert "scale: x of read" in names and not (tmp_path / "study.db").exists()
    pytest.importorskip("optuna_dashboard", reason="the dashboard is an extra")
    served: list[object] = []
    monkeypatch.setattr("optuna_dashboard.run_server", lambda storage, **address: served.append(address))
    monkeypatch.setattr(dashboard, "open_search", runs.open_run)
    said: list[str] = []
    dashboard.serve(tmp_path, host="127.0.0.1", port=1, say=said.append)
    dashboard.serve(server.url(""), host="127.0.0.1", port=1, say=said.append)
    assert len(served) == 2 and f"dashboard of postgresql://nas@127.0.0.1:{server.port}/postgres" in said[1]
    own.tell(own.ask({"a": optuna.distributions.IntDistribution(0, 3)}), 1.0)  # the owner still has its study
