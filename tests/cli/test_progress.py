from __future__ import annotations

import pytest

from nas.cli._progress import SearchProgress
from nas.search.finalists import Fresh
from nas.search.record import TrialRecord


def test_text_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SearchProgress()
    progress._say("run", "results/[run]/x[/tmp]")
    progress.trial(TrialRecord(7, "infeasible", "abc", "net", reason="limit [/on] params"))
    out = capsys.readouterr().out
    assert "results/[run]/x[/tmp]" in out
    assert "limit [/on] params" in out


def test_a_better_trial_moves_the_budget_and_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SearchProgress()
    values = {"val_accuracy": 0.7, "val_error": 0.01, "step_time_ms": 12.0, "ref_step_time_ms": 10.0, "num_params": 5e4}
    progress.trial(TrialRecord(0, "trained", "a", "net-a", reward=0.7, **values))
    progress.trial(TrialRecord(1, "duplicate", "a", "net-a", reward=0.7, duplicate_of=0, **values))
    progress.trial(TrialRecord(2, "pruned", "b", "net-b", reward=0.9, **values))
    assert (progress._done, progress._best) == (2, 0.7)  # a duplicate costs nothing; a pruned reward is no best
    out = capsys.readouterr().out
    assert "12.00 ms (1.20)" in out and "net-b" in out


def test_finalists_are_counted_with_a_clock_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SearchProgress()
    record = TrialRecord(0, "trained", "abcdef0123", "net-a")
    for seed, phase, done in ((1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1)):
        progress.finalist(Fresh(record, seed, phase, done, 2))
    task = progress._bar.tasks[-1]
    assert (task.completed, task.total, task.finished_time) == (1, 2, None)
    assert task.description == "finalists: training 1 abcdef01 with seed 2" and "min left" in task.fields["eta"]
    out = capsys.readouterr().out
    assert [line.split(", ")[-1] for line in out.splitlines()] == ["1 of 2", "2 of 2"]
