"""The report of a front: who beats whom by fresh values, the knee, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas import runs
from nas.front import hypervolume
from nas.report import load_run, page, write_report
from nas.report.front import front_of, members, reference, volumes
from nas.search.record import TrialRecord, table

COSTS = ("step_time_ms",)
MANIFEST: dict[str, Any] = {
    "space": "v2_tiny", "space_hash": "5ace", "sampler": "arch", "pruner": "none", "seed": 0, "command": "nas search",
    "config": {"space": "v2_tiny", "data": "photos", "budget": 5, "top_k": 8}, "costs": list(COSTS),
    "baseline": {"name": "base", "num_params": 1_000_000, "hash": "ba5e"},
    "recipe": {"name": "quick", "epochs": 1.5, "batch_size": 64, "progressive": {"phases": 2, "size": [0.5, 1.0]}},
    "reward": {"w": -0.07, "v": -0.05},
    "data": {
        "name": "photos", "fingerprint": "f00d", "classes": 4, "used_train_images": 64, "train_images": 100,
        "used_val_images": 32, "val_images": 50, "notes": [],
    },
    "device": {"type": "cpu", "name": "a processor", "threads": 1}, "versions": {"phinas": "0.1.0"},
}  # fmt: skip


def trial(number: int, accuracy: float, ratio: float) -> TrialRecord:
    return TrialRecord(
        number, "trained", f"{number:016d}", f"net {number}", reward=accuracy, val_accuracy=accuracy, val_error=0.01,
        step_time_ms=10 * ratio, step_time_mad_ms=0.1, step_time_n=9, ref_step_time_ms=10.0, num_params=2e6 + number,
        macs=3e7, phase_accuracy="0.5 0.8", phase_seconds="1.0 2.0", seconds=30.0, params={"s1.block": "mbconv"},
    )  # fmt: skip


def finalist(record: TrialRecord, accuracy: float, error: float = 0.01) -> dict[str, Any]:
    assert record.step_time_ms and record.val_accuracy
    times = [record.step_time_ms * factor for factor in (0.98, 1.02)]
    return {
        "record": vars(record), "accuracy": accuracy, "accuracy_error": error, "accuracies": [accuracy] * 2,
        "reward": accuracy, "optimism": record.val_accuracy - accuracy, "step_time_ms": times,
        "step_time_mad_ms": [0.2, 0.3], "ref_step_time_ms": [10.0, 10.0],
    }  # fmt: skip


TRIALS = [trial(0, 0.40, 0.5), trial(1, 0.80, 1.0), trial(2, 0.84, 2.0), trial(3, 0.90, 4.0), trial(4, 0.5, 4.0)]
FINALISTS = [finalist(record, fresh) for record, fresh in zip(TRIALS, (0.40, 0.79, 0.78, 0.88), strict=False)]


def fabricate(folder: Path, finalists: list[dict[str, Any]], costs: tuple[str, ...] = COSTS) -> Path:
    run = runs.create(runs.new_folder(None, "search", "x", folder), "search", MANIFEST | {"costs": list(costs)})
    runs.write_text(run.path("trials.csv"), table(TRIALS).to_csv(index=False))
    runs.write_json(run.path("finalists.json"), {"trainings": {}, "finalists": finalists})
    return folder


def test_members_are_judged_by_their_fresh_values() -> None:
    found = members(FINALISTS, COSTS)
    assert [(item.number, item.verdict, item.beaten_by) for item in found] == [
        (1, "knee", None), (0, "front", None), (3, "front", None), (2, "beaten", 1),
    ]  # fmt: skip
    assert found[0].costs == pytest.approx((1.0,)) and found[0].cost_errors == pytest.approx((0.02,))
    assert [item.place for item in found] == [1, 0, 3, 2] and found[0].search_accuracy == 0.80


def test_what_is_beaten_by_more_than_the_error_says_so() -> None:
    sure = [*FINALISTS[:2], finalist(TRIALS[2], 0.79 - 0.03), FINALISTS[3]]
    assert members(sure, COSTS)[-1].verdict == "beaten beyond error"


def test_a_member_that_failed_is_left_out() -> None:
    broken = FINALISTS[1] | {"outcome": "diverged", "accuracies": [], "step_time_ms": []}
    assert [item.number for item in members([FINALISTS[0], broken], COSTS)] == [0]
    assert members([broken], COSTS) == ()


def test_the_page_of_a_front(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", FINALISTS)
    text = page(load_run(folder))
    assert "Of 4 networks measured again 3 are beaten by none" in text
    assert "| 1 | `0000000000000001` | knee | 0.7900 ± 0.0100 | 0.8000 | 1.000 ± 0.020 |" in text
    assert "| beaten by 1 | 0.7800 ± 0.0100 |" in text
    assert "1 is beaten by less than twice the error of the difference in accuracy: it may belong" in text
    assert "On average the search saw these accuracies +0.0225 higher" in text
    assert (
        "against the reference accuracy 0.2500 (guessing), step time / baseline 4.000 (the dearest trained here)"
        in text
    )
    seen = text.split("## Front as the search saw it")[1].split("##")[0]
    assert [name in seen for name in ("net 0", "net 1", "net 2", "net 3", "net 4")] == [True] * 4 + [False]


def test_the_hypervolumes_of_a_front(tmp_path: Path) -> None:
    view = load_run(fabricate(tmp_path / "run", FINALISTS))
    assert reference(view) == (0.25, 4.0)
    seen, fresh = volumes(view)
    assert seen == pytest.approx(hypervolume([(0.4, 0.5), (0.8, 1.0), (0.84, 2.0)], (0.25, 4.0)))
    assert fresh == pytest.approx(hypervolume([(0.4, 0.5), (0.79, 1.0)], (0.25, 4.0)))


def test_the_table_and_the_picture_of_a_front(tmp_path: Path) -> None:
    for costs in (COSTS, ("step_time_ms", "num_params")):
        folder = fabricate(tmp_path / "-".join(costs), FINALISTS, costs)
        write_report(folder)
        found = pd.read_csv(folder / "front.csv", dtype={"arch_hash": str})
        assert list(found["trial"]) == [item.number for item in front_of(load_run(folder))]
        assert {"relative_step_time", "relative_step_time_error", "num_params", "verdict"} <= set(found.columns)
        assert "num_params_error" not in found and found["arch_hash"].str.len().eq(16).all()
        assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_front_that_is_not_measured_again_yet(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", [])
    text = page(load_run(folder))
    assert "its front has not been measured again yet" in text and "## Front as the search saw it" in text
    write_report(folder)
    assert not (folder / "front.csv").exists()


def test_a_run_before_there_were_fronts_has_none(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", [replace_costs(item) for item in FINALISTS])
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["costs"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_run(folder).costs == () and "## Winner" in page(load_run(folder))


def replace_costs(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"record": vars(replace(TRIALS[1], number=item["record"]["number"]))}
