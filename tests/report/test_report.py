from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas import runs
from nas.errors import RunError
from nas.objective import score_of
from nas.report import load_run, page, write_report
from nas.search import SearchResult
from nas.search.record import TrialRecord, table

MANIFEST: dict[str, Any] = {
    "space": "v2_tiny",
    "space_hash": "5ace",
    "config": {"space": "v2_tiny", "data": "photos", "budget": 3, "top_k": 2},
    "baseline": {"name": "base", "num_params": 1_000_000, "hash": "ba5e"},
    "recipe": {"name": "quick", "epochs": 1.5, "batch_size": 64, "progressive": {"phases": 2, "size": [0.5, 1.0]}},
    "reward": {"w": -0.07, "v": -0.05},
    "sampler": "tpe",
    "pruner": "median",
    "seed": 0,
    "data": {
        "name": "photos", "fingerprint": "f00d", "classes": 3, "used_train_images": 64, "train_images": 100,
        "used_val_images": 32, "val_images": 50, "notes": ["A note."],
    },
    "device": {"type": "cpu", "name": "a processor", "threads": 1},
    "versions": {"phinas": "0.1.0"},
    "command": "nas search",
}  # fmt: skip


def trial(number: int, kind: str = "trained", accuracy: float = 0.8, **more: Any) -> TrialRecord:
    return TrialRecord(
        number, kind, f"{number:016d}", f"net {number}", reward=accuracy, val_accuracy=accuracy, val_error=0.01,
        step_time_ms=10.0 + number, step_time_mad_ms=0.1, step_time_n=9, ref_step_time_ms=10.0, num_params=2e6,
        macs=3e7, phase_accuracy="0.5 0.8", seconds=30.0, params={"s1.block": "mbconv"}, **more,
    )  # fmt: skip


def finalist(record: TrialRecord, accuracy: float, error: float = 0.01) -> dict[str, Any]:
    return {
        "record": vars(record), "accuracy": accuracy, "accuracy_error": error, "accuracies": [accuracy] * 2,
        "reward": accuracy, "optimism": (record.reward or 0) - accuracy, "step_time_ms": [12.0, 14.0],
        "step_time_mad_ms": [0.2, 0.3], "ref_step_time_ms": [10.0, 10.0],
    }  # fmt: skip


def fabricate(folder: Path, trials: list[TrialRecord], finalists: list[dict[str, Any]], notes: list[str]) -> Path:
    run = runs.create(runs.new_folder(None, "search", "x", folder), "search", MANIFEST)
    runs.write_text(run.path("trials.csv"), table(trials).to_csv(index=False))
    if finalists:
        runs.write_json(run.path("finalists.json"), {"trainings": {}, "finalists": finalists})
        runs.write_json(run.path("warnings.json"), notes)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trials = [
        trial(0, accuracy=0.70),
        trial(1, accuracy=0.82),
        trial(2, "pruned", 0.4, reason="reward below the median"),
        TrialRecord(3, "infeasible", "dead", "net 3", num_params=9e9, macs=1e9, reason="too large", seconds=1.0),
        trial(4, accuracy=0.81),
    ]
    finalists = [finalist(trials[1], 0.79), finalist(trials[4], 0.785)]
    return fabricate(tmp_path / "run", trials, finalists, ["Speed outweighs accuracy here."])


def test_the_page_tells_the_whole_run(folder: Path) -> None:
    text = page(load_run(folder))
    assert text.startswith("# Search of v2_tiny on photos")
    assert "`0000000000000001` `net 1`" in text
    assert "accuracy 0.7900 ± 0.0100 over 2 fresh seeds" in text
    assert "step time 13.00 ms (MAD 0.30), 1.30 x the baseline's" in text
    assert "with fresh seeds; in the search 0.8200" in text
    assert "the search was optimistic by +0.0" in text and "on average over its finalists" in text
    assert "cannot be told apart by accuracy (difference +0.0050, twice its error 0.0283)" in text
    assert "- Speed outweighs accuracy here." in text
    assert "64 of 100 training and 32 of 50 validation images, 3 classes" in text
    assert "2 phases from 50% to 100% of the network's resolution, batch 64" in text
    assert "| infeasible | 1 | 0.0 |" in text and "| all | 5 | 2.0 |" in text
    assert "| finalists, timed and trained again |" not in text
    assert "device a processor (threads 1)" in text and "- A note." in text


def test_latencies_are_told_where_they_were_measured(folder: Path, tmp_path: Path) -> None:
    assert "latency" not in page(load_run(folder))
    timed = trial(0, latency_ms=4.5, latency_mad_ms=0.25, latency_n=50)
    final = finalist(timed, 0.8) | {"latency_ms": [4.0, 5.5], "latency_mad_ms": [0.1, 0.3]}
    other = fabricate(tmp_path / "timed", [timed, trial(1, accuracy=0.7)], [final], [])
    manifest = other / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"config": facts["config"] | {"latency_batch_size": 8}}))
    text = page(load_run(other))
    assert "- latency 4.75 ms (MAD 0.3), eager inference at batch 8" in text
    assert "| latency, ms |" in text and "| 4.5 ± 0.25 |" in text
    assert "| 1.10 | - |" in text, "a network taken over from a run without a limit has none"


def test_what_was_foreseen_is_told_where_step_time_is_limited(folder: Path, tmp_path: Path) -> None:
    assert "foreseen" not in page(load_run(folder))
    slow = {"step_time_ms": 40.0, "foreseen_ms": 41.0, "num_params": 1e6, "macs": 1e7}
    trials = [
        trial(0),
        trial(1, foreseen_ms=30.0),  # timed all the same, and 11 ms: within the limit
        TrialRecord(2, "infeasible", "a", "net 2", **slow),
        *(TrialRecord(number, "infeasible", f"b{number}", "", **slow | {"step_time_ms": None}) for number in (3, 4, 5)),
        TrialRecord(6, "duplicate", "b3", "net 3", duplicate_of=3, **slow | {"step_time_ms": None}),
        TrialRecord(7, "out_of_memory", "c", "net 7", **slow | {"step_time_ms": None}),
    ]
    other = fabricate(tmp_path / "limited", trials, [], [])
    facts = json.loads((other / "manifest.json").read_text())
    limits = [{"cost": "macs", "max": 1e9, "min": None}, {"cost": "step_time_ms", "max": 20.0, "min": None}]
    (other / "manifest.json").write_text(json.dumps(facts | {"limits": limits}))
    assert "foreseen" not in page(load_run(other)), "too few were timed for a table"
    table, macs = (
        {"networks": 57, "spearman": rank, "median_error": off} for rank, off in ((0.971, 0.034), (0.72, 0.117))
    )
    runs.write_json(other / "foreseen.json", {"table": table, "macs": macs})
    text = page(load_run(other)).split("## Step times foreseen")[1].split("##")[0]
    assert "Each of 57 networks timed" in text and "off by 3.4% (median), rank correlation 0.97." in text
    assert "By multiply-adds alone: 11.7% and 0.72." in text
    assert "3 networks were foreseen to be far beyond the limit of 20 ms and not timed." in text
    assert "2 such were timed all the same: 1 of them were beyond it." in text


def test_every_table_is_a_table(folder: Path) -> None:
    rows: dict[int, list[str]] = {}
    block = 0
    for line in page(load_run(folder)).splitlines():
        if line.startswith("|"):
            rows.setdefault(block, []).append(line)
        else:
            block += 1
    assert len(rows) == 6
    for lines in rows.values():
        assert len({line.count(" | ") for line in lines}) == 1
        assert re.fullmatch(r"\| (--- \| )*--- \|", lines[1])


def test_the_best_trials_are_ranked_and_the_others_left_out(folder: Path) -> None:
    view = load_run(folder)
    assert list(view.trained()["number"]) == [1, 4, 0]
    assert [item.arch_hash for item in view.candidates()] == [f"{n:016d}" for n in (1, 4, 0)]
    best = page(view).split("## Best trials")[1].split("##")[0]
    assert best.index("net 1") < best.index("net 4") < best.index("net 0")
    assert "net 2" not in best and "net 3" not in best
    first = view.candidates()[0]
    assert score_of(first, view.reward) == pytest.approx(0.82 * 1.1**-0.07 * 2**-0.05)


def test_timing_and_finalists_are_accounted_for(tmp_path: Path) -> None:
    trials = [
        trial(0, phase_seconds="6.000 24.000"),
        trial(1, "duplicate", phase_seconds="6.000 24.000"),
        trial(2, origin="other trial 3", phase_seconds="6.000 24.000"),
    ]
    folder = fabricate(tmp_path / "run", trials, [finalist(trials[0], 0.8)], [])
    stored = json.loads((folder / "finalists.json").read_text())
    spent = {"outcome": "ok", "seconds": 90.0, "timing_seconds": 12.0}
    runs.write_json(folder / "finalists.json", stored | {"trainings": {"a-1": spent, "a-2": spent}})
    text = page(load_run(folder))
    assert "| trained | 1 | 0.5 | 0.1 |" in text and "| all | 2 | 1.0 | 0.1 |" in text
    assert "| finalists, timed and trained again | 2 | 3.0 | 0.4 |" in text
    assert "1 were taken over from another run" in text


def test_what_stopping_cost_is_told(tmp_path: Path) -> None:
    stopped = replace(trial(2, "pruned", 0.4), phase_accuracy="0.4")
    trials = [trial(0, accuracy=0.70), trial(1, accuracy=0.82), stopped, trial(4, accuracy=0.81, audited="phase 1")]
    text = page(load_run(fabricate(tmp_path / "run", trials, [], [])))
    part = text.split("## Stopping early")[1].split("\n## ")[0]
    assert (
        "The pruner would have stopped 2 networks; 1 went on to the end" in part and "it came among the best 2" in part
    )
    assert "| 1 | 4 | 2 | 1 |" in part and "| 2 of 3 | yes |" in part
    without = page(load_run(fabricate(tmp_path / "other", trials[:2], [], [])))
    assert "| 1 | 2 | 0 | 0 |" in without and "The pruner" not in without


def test_finalists_that_differ_are_not_called_alike(tmp_path: Path) -> None:
    trials = [trial(0), trial(1)]
    folder = fabricate(tmp_path / "run", trials, [finalist(trials[0], 0.9), finalist(trials[1], 0.7)], [])
    text = page(load_run(folder))
    assert "cannot be told apart" not in text and "Read this first" not in text


def test_a_run_that_goes_on_has_a_page_without_a_winner(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", [trial(0)], [], [])
    view = load_run(folder)
    assert "there is no winner yet" in page(view)
    assert view.finalists == view.warnings == ()
    with pytest.raises(RunError, match=r"has no winner yet\. Finish it: nas search --resume"):
        _ = view.winner
    write_report(folder)


def test_a_run_in_which_nothing_was_trained_has_a_page(tmp_path: Path) -> None:
    record = TrialRecord(0, "infeasible", "dead", "net", num_params=9e9, reason="too large")
    folder = fabricate(tmp_path / "run", [record], [], [])
    text = write_report(folder).read_text()
    assert "| infeasible | 1 |" in text
    assert (folder / "pareto.png").stat().st_size > 1000


def test_the_report_is_written_as_files(folder: Path) -> None:
    path = write_report(folder)
    assert path == folder / "report.md" and path.read_text() == page(load_run(folder))
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_a_run_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    before = sorted(item.name for item in folder.iterdir())
    with pytest.raises(RunError, match=r"pareto\.png: cannot be written \(No space left on device\)"):
        write_report(folder)
    assert sorted(item.name for item in folder.iterdir()) == before


def test_no_run_and_no_trials(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(RunError, match="not a run folder"):
        load_run(tmp_path)
    runs.create(runs.new_folder(None, "search", "x", tmp_path / "new"), "search", MANIFEST)
    with pytest.raises(RunError, match=r"no trial has ended in it yet\. Continue it: nas search --resume"):
        load_run(tmp_path / "new")


def test_hashes_stay_text(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", [trial(7)], [], [])
    assert load_run(folder).trials["arch_hash"].tolist() == ["0000000000000007"]


def test_a_real_run_is_reported_from_its_folder_alone(finished: SearchResult, run_copy: Path) -> None:
    (run_copy / "report.md").unlink()
    (run_copy / "study.db").unlink()
    text = write_report(run_copy).read_text()
    assert finished.winner.arch_hash in text
    stored = json.loads((run_copy / "finalists.json").read_text())["finalists"][0]
    assert f"{stored['accuracy']:.4f}" in text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("finalists.json", "{", r"finalists\.json: cannot be read \(.*Delete it, .*: nas search --resume "),
        ("finalists.json", "[]", r"finalists\.json: cannot be read \(found list, not dict\)"),
        ("finalists.json", "{}", r"finalists\.json: is not what a search writes"),
        ("finalists.json", '{"trainings": {}, "finalists": [{}]}', r"finalists\.json: is not what a search writes"),
        ("finalists.json", "\udcff", r"finalists\.json: cannot be read \(.*utf-8"),
        ("warnings.json", "", r"warnings\.json: cannot be read \(.*written again: nas search --resume "),
        (
            "trials.csv",
            "",
            r"trials\.csv: cannot be read as a table \(No columns .*written again: nas search --resume ",
        ),
        ("trials.csv", "number,kind\n0,trained\n", r"trials\.csv: has no column arch_hash\."),
        ("trials.csv", "\udcff", r"trials\.csv: cannot be read as a table"),
        (
            "manifest.json",
            '{"manifest_version": 1, "kind": "search"}',
            r"manifest\.json: config: found nothing; .* from a copy",
        ),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=words):
        load_run(folder)


def test_a_table_that_ends_in_a_row_is_damaged(folder: Path) -> None:
    lines = (folder / "trials.csv").read_text().splitlines()
    (folder / "trials.csv").write_text("\n".join([*lines[:2], lines[2][:40]]))
    with pytest.raises(RunError, match=r"trials\.csv: \w+: found nothing in the row of trial 1, which was trained"):
        load_run(folder)


def test_the_share_of_timing_and_doubtful_step_times_are_told(tmp_path: Path) -> None:
    trials = [
        trial(0, phase_seconds="3.000 27.000", step_time_note="measured on a busy machine", step_time_foreign_load=1.2),
        trial(1, phase_seconds="6.000 24.000"),
        trial(2, "duplicate", phase_seconds="6.000 24.000", step_time_note="measured on a busy machine"),
    ]
    trials[2] = replace(trials[2], seconds=0.0)
    text = page(load_run(fabricate(tmp_path / "run", trials, [finalist(trials[1], 0.8)], [])))
    assert "Timing took 15.0% of the search's time.\nOf 2 step times 1: measured on a busy machine.\n" in text
    stored = {"outcome": "ok", "seconds": 9.0, "timing_seconds": 3.0, "step_time_note": "measured on a busy machine"}
    final = json.loads((tmp_path / "run" / "finalists.json").read_text()) | {"trainings": {"a-1": stored}}
    runs.write_json(tmp_path / "run" / "finalists.json", final)
    assert "Of 3 step times 2: measured on a busy machine." in page(load_run(tmp_path / "run"))
    old = fabricate(tmp_path / "old", [trial(0)], [finalist(trial(0), 0.8)], [])
    frame = table([trial(0)]).drop(columns=["phase_seconds", "step_time_note", "step_time_foreign_load"])
    runs.write_text(old / "trials.csv", frame.to_csv(index=False))
    text = page(load_run(old))
    assert "Timing took" not in text and "Of 1 step time" not in text, "a run from before these were kept"
