from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from stubs import Search, StubEvaluator

from nas import runs
from nas.errors import RunError
from nas.owner import owned
from nas.search import dashboard
from nas.search.dashboard import save_plot
from nas.search.study import DATABASE, close_study, open_study, search_study, storage_url
from nas.space import SearchSpace

pytest.importorskip("optuna_dashboard", reason="the dashboard is an extra")
pytest.importorskip("plotly", reason="the dashboard is an extra")


def test_the_plot_is_saved_into_the_study(tmp_path: Path, tiny_space: SearchSpace) -> None:
    search = Search(tmp_path / "run", tiny_space)
    manifest = search.run.path("manifest.json")
    manifest.write_text(manifest.read_text().replace('"kind"', '"baseline": {"name": "tiny-middle"},\n  "kind"', 1))
    search.go(StubEvaluator(), 3)
    study = save_plot(tmp_path / "run")
    assert study.study_name == "stub"
    saved = str(study._storage.get_study_system_attrs(study._study_id))
    assert "accuracy-step-time" in saved and "tiny-middle" in saved
    assert len(save_plot(tmp_path / "run").trials) == len(study.trials)


def test_a_run_without_a_study_is_refused(tmp_path: Path) -> None:
    runs.create(runs.new_folder(None, "search", "x", tmp_path), "search", {})
    with pytest.raises(RunError, match="has no study yet"):
        save_plot(tmp_path)
    assert not (tmp_path / "study.db").exists()


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        save_plot(tmp_path / "absent")


@pytest.mark.parametrize("still", [False, True], ids=["ended", "goes on"])
def test_a_run_that_ends_while_it_is_watched_has_one_file_after_the_watching(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    search = Search(tmp_path / "run", tiny_space)
    monkeypatch.setattr(dashboard, "open_search", runs.open_run)
    monkeypatch.setattr(dashboard, "save_plot", lambda folder: search_study(url))
    url = storage_url(search.folder)
    owner = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    said: list[str] = []

    def watched(storage: object, **address: object) -> None:
        owner.ask()
        close_study(owner, search.folder, said.append)
        assert "belong to it" in said[-1] and list(search.folder.glob(f"{DATABASE}-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr("optuna_dashboard.run_server", watched)
    held = owned(search.folder) if still else nullcontext()
    with held, pytest.raises(KeyboardInterrupt):
        dashboard.serve(search.folder, host="127.0.0.1", port=1, say=said.append)
    with closing(sqlite3.connect(search.folder / DATABASE)) as connection:
        assert len(said) == 2, "where it is served, and the owner's note"
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal" if still else "delete",)
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ("0.0.0.0", 1), ("::", 1), ("10.0.0.7", 1), ("box", 1), ("", 1)],
)
def test_an_address_that_others_reach_is_said(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch, host: str, warned: int
) -> None:
    search = Search(tmp_path / "run", tiny_space)
    search.go(StubEvaluator(), 1)
    monkeypatch.setattr(dashboard, "open_search", runs.open_run)
    monkeypatch.setattr(dashboard, "save_plot", lambda folder: search_study(storage_url(folder)))
    monkeypatch.setattr("optuna_dashboard.run_server", lambda storage, **address: None)
    said: list[str] = []
    dashboard.serve(search.folder, host=host, port=1, say=said.append)
    assert sum("can read and change the study" in line for line in said) == warned
