from __future__ import annotations

from pathlib import Path

import pytest
from stubs import Search, StubEvaluator

from nas import runs
from nas.errors import RunError
from nas.search.dashboard import save_plot
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
