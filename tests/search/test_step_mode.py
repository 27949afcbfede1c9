"""How a run decides for one way of training steps, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import TINY_RECIPE, TINY_SPACE, write_images

from nas import runs
from nas.errors import RunError, UsageError
from nas.runs import Run
from nas.search import search
from nas.search.watcher import Watcher


def test_a_run_without_graphs_says_so_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE)
    asked: list[Any] = []
    notes: list[str] = []

    class Seen(Watcher):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    def mode(*arguments: Any) -> tuple[str, str]:
        asked.append(arguments[:2])
        return "eager", "Training steps are done kernel by kernel."

    monkeypatch.setattr("nas.engine._choice.step_mode", mode)
    result = search(
        space=str(tmp_path / "tiny.yaml"),
        data=str(write_images(tmp_path / "images")),
        recipe=str(tmp_path / "recipe.yaml"),
        out=tmp_path / "run",
        devices="cpu",
        budget=1,
        top_k=1,
        top_k_seeds=1,
        watcher=Seen(),
    )
    said = "Training steps are done kernel by kernel."
    assert asked == [("auto", None)] and said in notes
    assert said in result.warnings and said in (tmp_path / "run" / "report.md").read_text()
    assert runs.open_search(tmp_path / "run").manifest["remarks"] == [said]


def test_a_word_that_means_nothing_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--steps: found fast; allowed: auto, eager, graph"):
        search(space="v2_tiny", steps="fast", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_graphs_are_refused_where_there_is_no_cuda_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found graph on cpu"):
        search(space="v2_tiny", steps="graph", devices="cpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_in_another_way(tmp_path: Path) -> None:
    device = {"type": "cuda", "name": "a GPU", "precision": "bfloat16 autocast"}
    run = Run(tmp_path, {"device": device | {"steps": "graph"}})
    runs.check_same(run, {"device": device | {"steps": "graph"}}, ("device",))
    with pytest.raises(RunError, match=r'device\.steps: the run has "graph"'):
        runs.check_same(run, {"device": device}, ("device",))
