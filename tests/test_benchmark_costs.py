"""The benchmarks of overhead and of scaling laws, in small."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tiny import TINY_NETWORK, TINY_RECIPE, TINY_SPACE

from benchmarks import _stub_search, overhead, scaling_law_cost
from nas import catalog
from nas.scale.config import ScaleConfig
from nas.search.study import records, search_study, storage_url
from nas.spec import ArchSpec


def test_the_plain_grid_counts_what_rounding_repeats_and_misses() -> None:
    specs: dict[str, ArchSpec] = {}
    base = catalog.load_arch("efficientnet_b0")
    config = ScaleConfig()
    plan = scaling_law_cost.plain_plan(base, config, 0.05, specs)
    assert plan.triples == 111, "as tests/scale/test_grid.py counts them"
    assert plan.trainings.total() == 111 * config.seeds
    assert len(plan.trainings) == 111 - plan.repeated < 111
    assert 0 < plan.off_target <= len(plan.trainings)
    ours = scaling_law_cost.nas_plans(base, config, specs)
    most, least = ours["nas, at most"], ours["nas, at least"]
    assert most.trainings.total() == config.seeds * (config.budget + 1)
    assert set(least.trainings) == set(most.trainings) and least.trainings.total() == config.budget + 1 + 4


def test_ratios_are_of_the_same_round() -> None:
    plans = {
        "nas, at most": scaling_law_cost.Plan(Counter(a=2), 0, 1, 0),
        "plain, 0.1": scaling_law_cost.Plan(Counter(a=4, b=2), 0, 3, 1),
    }
    found = scaling_law_cost.compared(plans, [{"a": 3600.0, "b": 3600.0}, {"a": 7200.0, "b": 7200.0}])
    assert found["hours"]["plain, 0.1"]["median"] == 9.0
    assert found["ratios"]["plain, 0.1 / nas, at most"] == {
        "median": 3.0,
        "low": 3.0,
        "high": 3.0,
        "n": 2,
        "interval": "range",
    }


@pytest.mark.slow
def test_the_cost_of_a_scaling_law_in_small(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TINY_NETWORK)
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE)
    arguments = ["--base", tmp_path / "base.yaml", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path]
    arguments += ["--steps", 1, "--rounds", 2, "--budget", 4, "--grid-steps", 0.2, "--device", "cpu"]
    found = json.loads(scaling_law_cost.main([str(item) for item in arguments]).read_text())
    assert len(found["training_seconds"]) == 2
    assert all(set(row) == set(found["macs"]) for row in found["training_seconds"]), "each network in each round"
    assert min(value for row in found["training_seconds"] for value in row.values()) > 0
    sides = ("plain, 0.2", "plain, 0.2, each once"), ("nas, at most", "nas, at least")
    assert set(found["result"]["ratios"]) == {f"{one} / {other}" for one in sides[0] for other in sides[1]}
    assert set(found["plans"]["plain, 0.2, each once"]["trainings"].values()) == {ScaleConfig().seeds}


def test_a_line_is_fitted_to_the_memory_of_the_last_process_alone() -> None:
    rows = [{"process": 1, "trials": 100 * i, "rss_mib": 900.0} for i in range(5)]
    rows += [{"process": 2, "trials": 100 * i, "rss_mib": 400 + (50 if i == 5 else 0.2 * i)} for i in range(5, 12)]
    found = overhead.memory(rows)
    assert found["mib_per_1000_trials"] == pytest.approx(2.0) and found["from_trials"] == 600
    assert overhead.memory(rows[:2])["mib_per_1000_trials"] is None


def window(*milliseconds: float) -> dict[str, list[float]]:
    return {"owner_ms": list(milliseconds), "computed_ms": list(milliseconds)}


def test_windows_are_joined_by_process_for_their_trials_follow_each_other() -> None:
    found = overhead._joined([window(*[10.0] * 50, 100.0), window(*[20.0] * 50, 40.0), window(*[30.0] * 50)])[
        "owner_ms"
    ]
    assert (found["median"], found["low"], found["high"], found["n"]) == (20.0, 10.0, 30.0, 3)
    assert found["trials"] == 152 and found["mean"] == pytest.approx(3140 / 152)
    assert overhead._joined([window(1, 2, 3)])["owner_ms"]["n"] == 1


def test_fixed_costs_are_joined_by_round() -> None:
    rows = [{"round": n, "rest_seconds": value} for n, value in ((0, 0.1), (0, 0.2), (0, 0.9), (1, 0.3), (1, 0.5))]
    found = overhead._fixed(rows)
    assert (found["median"], found["low"], found["high"]) == pytest.approx((0.3, 0.2, 0.4))
    assert (found["n"], found["max"], found["trials"]) == (2, 0.9, 5)


def test_rows_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    """Arms, sizes and rounds may be others, and so may what sections need that are made anew; each section is its own."""
    asked = {"only": "windows,dashboard", "space": "v2_tiny", "base": "200", "window": "50", "rounds": "2"}
    asked |= {"trials": "5000", "chunk": "100", "arms": "['nas-tpe']"}
    file = {"settings": {"windows,soak": asked | {"only": "windows,soak"}}, "windows": [{}]}
    overhead.check_same(tmp_path, file, asked | {"rounds": "9", "arms": "", "chunk": "7"})
    for name in ("space", "base", "window"):
        with pytest.raises(SystemExit, match=f"holds windows of other settings .*'{name}'"):
            overhead.check_same(tmp_path, file, asked | {name: "other"})
    overhead.check_same(tmp_path, file, asked | {"only": "dashboard", "base": "3"})
    overhead.check_same(tmp_path, file, asked | {"only": "soak", "chunk": "7"})  # of which the file holds nothing yet
    with pytest.raises(SystemExit, match="holds soak of other settings"):
        overhead.check_same(tmp_path, file | {"soak": []}, asked | {"only": "soak", "chunk": "7"})


def test_the_run_that_others_are_grown_from_is_made_anew_for_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(
        _stub_search, "turns", lambda arm, run, space, budget, chunk: made.append((space, budget)) or ()
    )
    for space, trials in (("v1", 4), ("v1", 4), ("v1", 5), ("v2", 5)):
        assert _stub_search.small(tmp_path, "nas", space, trials) == tmp_path / "base-nas"
    assert made == [("v1", 4), ("v1", 5), ("v2", 5)]


@pytest.mark.slow
def test_overhead_in_small(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    work = tmp_path / "work"
    arguments = ["--space", tmp_path / "tiny.yaml", "--work", work, "--out", tmp_path, "--base", 4, "--sizes", 8]
    arguments += [
        "--window",
        2,
        "--rounds",
        1,
        "--arms",
        "nas-tpe",
        "--trials",
        4,
        "--chunk",
        2,
        "--only",
        "windows,soak",
    ]
    found = json.loads(overhead.main([str(item) for item in arguments]).read_text())
    (window,) = found["windows"]
    assert window["conditions"] == found["conditions"] and found["soak"][0]["conditions"] == found["conditions"]
    assert found["result"]["nas-tpe@8"]["owner_ms"]["n"] == 1, "one process"
    with pytest.raises(
        SystemExit, match=r"holds windows of other settings \({'window': '2'}\). Move it away, or give --out"
    ):
        overhead.main([str(item) for item in arguments] + ["--only", "windows", "--window", "3"])
    assert window["trials"] == 8 and len(window["owner_ms"]) == len(window["computed_ms"]) == 2
    assert {"ask", "record and tell", "checkpoints", "trials.csv", "disk"} <= set(window["parts_ms"])
    assert sum(window["parts_ms"].values()) <= sum(window["owner_ms"]) / 2 * 1.01, "no part is counted twice"
    assert [row["trials"] for row in found["soak"]] == [2, 4] and found["soak_end_seconds"] > 0
    assert (work / "soak" / "winner.yaml").exists(), "the soak is a whole search"

    base = work / "base-nas"
    assert overhead.grown(base, tmp_path / "grown", 12, "tpe") == 12
    grown = records(search_study(storage_url(tmp_path / "grown")))
    own = records(search_study(storage_url(base)))
    assert len(grown) == 3 * len(own) and [item.number for item in grown] == list(range(len(grown)))
    assert sum(item.costs_budget for item in grown) == 12
    unique = {item.arch_hash for item in own}
    assert len({item.arch_hash for item in grown}) == 3 * len(unique), "each copy counts as another network"
    with closing(sqlite3.connect(tmp_path / "grown" / "study.db")) as base_file:
        assert base_file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
