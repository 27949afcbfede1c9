"""The sections on graphs, small and on a CPU: what they compute from what they see, and how they go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import arms, graphed, kernels, rounds
from benchmarks.gpu_check.setting import Setting
from nas.spec import ArchSpec


@pytest.fixture
def setting(tmp_path: Path, tiny_spec: ArchSpec) -> Setting:
    return Setting(torch.device("cpu"), small=True, folder=tmp_path, network=tiny_spec, limit_s=1000.0)


def test_gaps_are_those_between_the_kernels_of_one_replay() -> None:
    """Two replays of three kernels, the second of them beside the third; the wait between the replays is not a gap."""
    one = [(0.0, 2.0), (3.0, 6.0), (4.0, 5.0)]
    found = graphed.gaps([*one, *((a + 100, b + 100) for a, b in one)], 2)
    assert found == {"kernels": 3, "kernel_us": 2.0, "busy_ms": 0.006, "gap_us": 0.5, "gaps_ms": 0.001}
    assert graphed.gaps([], 3)["kernels"] == 0


def test_cells_are_stored_and_only_what_is_left_or_failed_is_measured_again(setting: Setting) -> None:
    ran: list[str] = []

    def cell(name: str, fails: bool = False) -> dict[str, Any]:
        ran.append(name)
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return {"value": name}

    wanted = {"a": lambda: cell("a"), "b": lambda: cell("b", True), "c": lambda: cell("c")}
    first = rounds.cells("some", replace(setting, limit_s=-1.0), wanted)
    assert ran == ["a"] and first["unfinished"] and first["left"] == ["b", "c"] and first["passed"]
    second = rounds.cells("some", setting, wanted)
    assert ran == ["a", "b", "c"] and not second["unfinished"] and not second["passed"]
    assert second["cells"]["b"]["error"] == "CUDA out of memory."
    wanted["b"] = lambda: cell("b")
    third = rounds.cells("some", setting, wanted, {"more": 1})
    assert ran == ["a", "b", "c", "b"] and third["passed"] and third["more"] == 1
    assert json.loads((setting.folder / "some.json").read_text())["cells"]["b"]["value"] == "b"


def test_arms_are_compared_round_by_round_with_the_reference() -> None:
    found = rounds.compared({"eager": [2.0, 4.0, 6.0], "graph": [1.0, 1.0, 2.0]}, "eager")
    assert found["graph"]["ms"] == 1.0 and found["graph"]["eager_over_it"]["median"] == 3.0
    assert found["graph"]["eager_over_it"]["low"] == 2.0 and found["eager"]["eager_over_it"]["high"] == 1.0


def test_shadow_weights_follow_their_masters_and_a_wider_stem_computes_the_same(
    setting: Setting, tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny_spec, dropout=0.0, drop_path=0.0)
    held: list[tuple[Any, ...]] = []
    halved = arms.halved
    monkeypatch.setattr(arms, "halved", lambda module: held.append(halved(module)) or held[-1])
    plain, wide = (arms.shadow_work(spec, setting, 8, channels) for channels in (0, 4))
    for group in plain.optimizer.param_groups:
        group["lr"] = 0.01
    for work in (plain, wide):
        work.warm = 0
    first, other = float(plain()), float(wide())
    assert first == pytest.approx(other, rel=0.02)
    masters, shadows, norms = held[0]
    assert {p.dtype for p in shadows} == {torch.bfloat16} and {p.dtype for p in (*masters, *norms)} == {torch.float32}
    assert all(torch.equal(a, b.to(torch.bfloat16)) for a, b in zip(shadows, masters, strict=True))
    assert [float(plain()) for _ in range(4)][-1] < first
    usual = rounds.work_of(spec, setting, 8)[0]
    assert len([*masters, *norms]) == len(list(usual.network.parameters()))


def test_the_sections_run_small(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = graphed.graphs(setting)
    assert graphs["passed"], graphs
    losses, protocols, step = graphs["cells"].values()
    assert protocols["ratio"]["search"]["n"] == 2 and protocols["search_over_long"]["median"] > 0
    assert all(row["n"] > 0 for rows in protocols["rounds"].values() for row in rows)
    assert len(losses["graph"]) == 8 and losses["graph"] == losses["eager"]
    assert step["roofline_fraction"] > 0 and step["eager_host_ms"]["median"] > 0
    assert set(arms.arms(setting)["cells"]) == {"small 16 px batch 8"}
    (cost,) = graphed.capture_cost(setting)["cells"].values()
    assert set(cost["warm"]) == {"build_s", "warmup_s", "capture_s", "first_replay_s", "free_s"}
    monkeypatch.setattr(graphed, "_processes", lambda setting: {"local_over_inline": {}})
    (k, _) = graphed.streams(setting)["cells"].values()
    assert set(k) == {"1", "2", "seconds"}
    assert set(kernels.depthwise(setting)["cells"]) == {f"(4, 16, 8, 8) k{k} s{s}" for k in (3, 5) for s in (1, 2)}
    assert kernels.mps(setting)["daemon_runs"] in (True, False)


def test_the_bytes_of_convolutions_are_counted(setting: Setting, tiny_spec: ArchSpec) -> None:
    one, two = (graphed.conv_bytes(rounds.SMALL, 16, batch, setting) for batch in (1, 2))
    assert two == 2 * one > 2 * 8 * 16 * 16
