"""`nas debug`: see the program fail again on a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.errors import RunError, TrialBug
from nas.search import replay, resume
from nas.train import loop


def test_a_bug_is_seen_again_and_a_mended_one_is_not(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.train_phase

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("in the block")

    monkeypatch.setattr(loop, "train_phase", fails)
    with pytest.raises(TrialBug, match=r"trial .*, phase 1: the program failed") as raised:
        resume(run_copy, budget=4)
    (bug,) = run_copy.glob("bug-*.yaml")
    assert f"nas debug {bug}" in str(raised.value)
    said: list[str] = []
    with pytest.raises(ZeroDivisionError):
        replay.replay(bug, said.append)
    monkeypatch.setattr(loop, "train_phase", real)
    assert "did not fail" in replay.replay(bug, said.append) and str(run_copy) in replay.replay(bug, said.append)
    assert [line for line in said if line.startswith("phase 2")]
    result = resume(run_copy)
    assert sum(record.costs_budget for record in result.records) == 4


def test_a_run_goes_on_without_a_network_that_the_program_fails_on(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = loop.timing_step, []

    def fails_once(*arguments: Any) -> Any:
        if not seen and len(arguments) == 4 and arguments[0].network.classifier.out_features == 3:
            seen.append(arguments)
            return real(*arguments)  # the baseline's
        if len(seen) == 1:
            seen.append(arguments)
            raise ZeroDivisionError("in the block")
        return real(*arguments)

    monkeypatch.setattr(loop, "timing_step", fails_once)
    with pytest.raises(TrialBug):
        resume(run_copy, budget=4)
    (bug,) = run_copy.glob("bug-*.yaml")
    result = resume(run_copy, skip_bugs=True)
    (left,) = [record for record in result.records if record.kind == "bug"]
    assert left.arch_hash == bug.stem.removeprefix("bug-") and "--skip-bugs" in left.reason
    assert sum(record.costs_budget for record in result.records) == 4


def test_a_bug_file_outside_a_run_is_refused(tmp_path: Path) -> None:
    bug = tmp_path / "bug-1.yaml"
    bug.write_text("name: x\n")
    with pytest.raises(RunError, match="not a run folder"):
        replay.replay(bug, lambda line: None)
